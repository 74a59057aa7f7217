"""Signs of life for work that has none of its own, such as compiling: for a stated time, and no
longer."""

import contextlib
import threading
import time

BEAT_S = 1.0


@contextlib.contextmanager
def kept_alive(watch, seconds, beat_s=BEAT_S):
    """While the block runs, for ``seconds`` at most, ``watch``
    (engine.distributed.heartbeat.Whereabouts) takes it that all goes well.

    The block says itself where it is no more: only its thread may call ``watch.at``, and not in
    here.
    """
    ended, until = threading.Event(), time.monotonic() + seconds

    def beat():
        while time.monotonic() < until and not ended.wait(beat_s):
            watch.alive()

    thread = threading.Thread(target=beat, name="patience", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
