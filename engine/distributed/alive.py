"""Heartbeats for work that sends none of its own, such as compiling.

They go on for a stated time, and no longer.
"""

import contextlib
import threading
import time
from collections.abc import Iterator

from engine.distributed.heartbeat import Whereabouts

BEAT_S = 1.0


@contextlib.contextmanager
def kept_alive(watch: Whereabouts, seconds: float, beat_s: float = BEAT_S) -> Iterator[None]:
    """Tell a watch while the block runs, for ``seconds`` at most, that all goes well.

    The block says itself where it is no more: only its thread may call ``watch.at``, and not in
    here.
    """
    ended, until = threading.Event(), time.monotonic() + seconds

    def beat() -> None:
        while time.monotonic() < until and not ended.wait(beat_s):
            watch.alive()

    thread = threading.Thread(target=beat, name="patience", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
