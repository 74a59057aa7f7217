"""Fetching remote shards before their slots are due.

So reading need not wait for a server.
"""

import copy
import threading
import time

from data.loading.reader import SlotReader
from engine.logging.console import get_logger

log = get_logger(__name__)

PAUSES_S = 1.0, 60.0  # after an error; doubled from the one to the other
TOLD_S = 600.0  # between two notes on the same error


class Ahead:
    """A thread beside a reader that has the shards of its coming slots on this disk.

    It keeps none of them open.

    An error makes it pause and try again, as often as it comes: reading tells it as an error if it
    is still so when the slot is due.

    Args:
        reader: data.loading.reader.ShardReader; the thread gets a copy, since readers are for one
            thread.
        rows: range of rows of the global batch that this process reads.
        steps: how many steps ahead.
    """

    def __init__(self, reader: SlotReader, rows: range, steps: int) -> None:
        self.reader, self.rows, self.steps = copy.deepcopy(reader), rows, steps
        self.reader.store.patience.seconds = (
            0  # this thread is what tries again, and nothing here is worth asking readers
        )
        self.reached_step: int | None = None
        self.moved = threading.Condition()
        self._told = {}
        threading.Thread(target=self._run, name="ahead", daemon=True).start()

    def reached(self, step: int) -> None:
        """Tell that a step is being read."""
        with self.moved:
            self.reached_step = step
            self.moved.notify()

    def _run(self):
        batch, coming, pause = self.reader.order.batch, 0, PAUSES_S[0]
        while True:
            with self.moved:
                while self.reached_step is None or coming > self.reached_step + self.steps:
                    self.moved.wait()
                coming = max(coming, self.reached_step)
            try:
                self.reader.fetch(
                    range(coming * batch + self.rows.start, coming * batch + self.rows.stop)
                )
            except Exception as error:  # whatever it is, prefetching outlives it
                self._tell(error, pause)
                time.sleep(pause)
                pause = min(2 * pause, PAUSES_S[1])
                continue
            coming, pause = coming + 1, PAUSES_S[0]

    def _tell(self, error, pause):
        """Tell an error, each kind of it once in a while."""
        now, kind = time.monotonic(), type(error)
        if now - self._told.get(kind, -TOLD_S) >= TOLD_S:
            self._told[kind] = now
            log.info(
                "note: fetching shards ahead pauses for %.0f s and tries again: %s: %s",
                pause,
                kind.__name__,
                error,
            )
