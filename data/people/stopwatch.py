"""Where the time of a clip goes, stage by stage."""

import time


class Stopwatch:
    """Measures where the time goes: ``seconds`` is {stage: seconds}.

    These are processor seconds of this process on the CPU, wall seconds on a GPU.

    Processor time, because a core that is shared with others makes wall time meaningless; a GPU's
    work is none of the process's, so there wall time must do.
    """

    def __init__(self, device: str) -> None:
        self._now = time.process_time if device == "cpu" else time.perf_counter
        self.seconds = {}
        self._last = self._now()

    def start(self) -> None:
        """Begin a stage; the time since the last one is not counted."""
        self._last = self._now()

    def lap(self, stage: str) -> None:
        """End a stage and begin the next."""
        now = self._now()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now
