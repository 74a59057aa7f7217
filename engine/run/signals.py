"""Requests to stop: noticed at once, obeyed between two steps. Nothing here imports torch."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Generator
from multiprocessing import resource_tracker
from types import FrameType

from engine.errors import ExitCode

# One that is ignored when the process starts stays so: who started it, such as slurm's supervisor,
# has the say.
NUMBERS = tuple(
    number
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
    if signal.getsignal(number) is not signal.SIG_IGN
)
# One request often comes twice: from the scheduler and handed on by torchrun, or from the terminal
# to all its processes.
SAME_S = 2.0
# In the start-up the main thread leaves by an exception; where it sits in a call that no exception
# ends, it is ended.
START_S = 5.0


class StoppedEarly(BaseException):
    """A signal came before the first step: there is nothing to save."""


def leave_on_signal() -> None:
    """Have a signal end the process with ExitCode.STOPPED until there is a StopRequest.

    Nothing is begun yet.
    """
    for number in NUMBERS:
        signal.signal(number, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    os.write(2, f"{signal.Signals(number).name}: stopped before the run began\n".encode())
    os._exit(ExitCode.STOPPED)


@contextlib.contextmanager
def held() -> Generator[None, None, None]:
    """Hold signals back until the end of this block.

    A process started in it never sees those meant for the run.
    """
    # The first process started by spawn starts this one beside it, which would let signals through
    # again.
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, NUMBERS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, NUMBERS)


class StopRequest:
    """Set by SIGTERM, SIGINT, SIGUSR1 or SIGUSR2.

    A second signal, SAME_S or more after the first, ends the process at once. A thread notices
    them, so that it makes no difference where the main thread waits. Before ``ready`` is called a
    signal raises StoppedEarly in the main thread.

    Attributes:
        name: of the signal, None as long as there was none.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._at, self._starting = 0.0, True
        read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._before = {number: signal.signal(number, self._handle) for number in NUMBERS}
        self._fd_before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        threading.Thread(target=self._notice, args=(read,), name="signals", daemon=True).start()

    def __bool__(self) -> bool:
        return self.name is not None

    @property
    def number(self) -> int:
        """The signal's number, 0 as long as there was none."""
        return int(signal.Signals[self.name]) if self.name else 0

    def ready(self) -> None:
        """Have signals wait for the end of a step from here on.

        Raises:
            StoppedEarly: one came already.
        """
        self._starting = False
        if self.name:
            raise StoppedEarly(self.name)

    def heard(self, name: str) -> None:
        """Note that another rank was asked to stop.

        The same request may come to this one a moment later, and is no second one.
        """
        if self.name is None:
            self._at, self.name = time.monotonic(), name

    def leaving(self) -> None:
        """Ignore further signals: all is saved."""
        for number in NUMBERS:
            signal.signal(number, signal.SIG_IGN)

    def close(self) -> None:
        """Put back the handlers that were there before, but none that says that no run began."""
        signal.set_wakeup_fd(self._fd_before)
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_IGN if handler is _leave else handler)
        os.close(self._write)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._starting:
            self._starting = False
            raise StoppedEarly(signal.Signals(number).name)

    def _notice(self, pipe: int) -> None:
        while numbers := os.read(pipe, 64):
            for number in numbers:
                if number in NUMBERS:
                    self._note(number)
        os.close(pipe)

    def _note(self, number: int) -> None:
        now = time.monotonic()
        if self.name is None:
            self._at = now
            if self._starting:
                timer = threading.Timer(START_S, self._end_start)
                timer.daemon = True
                timer.start()
            self.name = signal.Signals(number).name
        elif now - self._at > SAME_S:
            os._exit(128 + number)

    def _end_start(self) -> None:
        # The handler, once it runs, says that the main thread is on its way out.
        if self._starting:
            os.write(2, f"{self.name}: stopped before the first step\n".encode())
            os._exit(ExitCode.STOPPED)
