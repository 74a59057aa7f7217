"""A request to stop, noticed between two steps."""

import os
import signal

STOPPED = 75  # exit code of a run that saved and left on request: start the same command again and it goes on


class StopRequest:
    """Set by SIGTERM, SIGINT, SIGUSR1 or SIGUSR2; a second signal ends the process at once.

    One that is ignored when the process starts stays so: whoever started it, such as slurm's supervisor, has the say.
    """

    def __init__(self):
        self.name = None
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._note)

    def _note(self, number, frame):
        if self.name:
            os._exit(128 + number)
        self.name = signal.Signals(number).name

    def __bool__(self):
        return self.name is not None
