"""How long what fails is tried again, and to whom that is reported meanwhile.

A file system that fails over, a server that restarts, a network that is cut: minutes, not seconds.
Whoever waits says so all the time, so that it is not taken for a hang.
"""

import time
from collections.abc import Callable
from typing import Any

from engine.logging.console import get_logger

log = get_logger(__name__)

FIRST_S, LONGEST_S = 1.0, 15.0  # pauses between tries double from the one to the other
TOLD_S = 1.0  # between two reports


class Patience:
    """Seconds for which something may keep failing.

    Args:
        seconds: from its first failure; 0: it is tried once.
    Attributes:
        told: called with what is waited for, in words, about once a second, and with "" where work
            only takes long. Another process's copy tells nobody until it is set there.
    """

    def __init__(self, seconds: float = 120.0) -> None:
        self.seconds = seconds
        self.told: Callable[[str], None] | None = None
        self._last = 0.0

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "told": None}

    def trial(self) -> "Trial":
        """Return a Trial of one thing."""
        return Trial(self)

    def alive(self, words: str = "") -> None:
        """Tell that work is under way, at most once a second."""
        now = time.monotonic()
        if self.told and now - self._last >= TOLD_S:
            self._last = now
            self.told(words)

    def sleep(self, seconds: float, words: str) -> None:
        """Sleep, and tell meanwhile what is waited for."""
        while seconds > 0:
            if self.told:
                self.told(words)
            time.sleep(min(seconds, TOLD_S))
            seconds -= TOLD_S


class Trial:
    """Tries of one thing that fails.

    Attributes:
        failures: so many.  seconds: since the first.
    """

    def __init__(self, patience: Patience) -> None:
        self.patience, self.failures, self.seconds = patience, 0, 0.0
        self._first, self._pause, self._slept = 0.0, FIRST_S, 0.0

    def __str__(self) -> str:
        return f"failed {self.failures} time{'s' * (self.failures > 1)} in {self.seconds:.0f} s"

    def failed(self) -> "Trial":
        """Count a failure."""
        now = time.monotonic()
        if not self.failures:
            self._first = now
        self.failures += 1
        self.seconds = max(now - self._first, self._slept)
        return self

    def again(self, words: str, pause_s: float | None = None) -> bool:
        """Wait for the next try after a failure; False where patience has ended.

        Args:
            words: what is waited for.  pause_s: how long; default: longer each time, with a note
                the first time where it is reported to nobody else.
        """
        left = self.patience.seconds - self.seconds
        if left <= 0:
            return False
        if self.failures == 1 and pause_s is None and not self.patience.told:
            log.info("note: %s; tried again for %.0f s", words, left)
        pause = min(pause_s or self._pause, left)
        self.patience.sleep(pause, words)
        self._slept += pause
        self._pause = min(2 * self._pause, LONGEST_S)
        return True
