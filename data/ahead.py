"""Fetching shards from elsewhere before their slots are due, so that reading need not wait for a server."""

import copy
import sys
import threading

from engine.errors import Failure


class Ahead:
    """A thread beside a reader that has the shards of its coming slots on this disk.

    Args:
        reader: data.reader.ShardReader; the thread gets a copy, since readers are for one thread.
        rows: range of rows of the global batch that this process reads.
        steps: how many steps ahead.
    """

    def __init__(self, reader, rows, steps):
        self.reader, self.rows, self.steps = copy.deepcopy(reader), rows, steps
        self.reached_step, self.moved = None, threading.Condition()
        threading.Thread(target=self._run, name="ahead", daemon=True).start()

    def reached(self, step):
        """Tell that a step is being read."""
        with self.moved:
            self.reached_step = step
            self.moved.notify()

    def _run(self):
        batch, coming = self.reader.order.batch, 0
        while True:
            with self.moved:
                while self.reached_step is None or coming > self.reached_step + self.steps:
                    self.moved.wait()
                coming = max(coming, self.reached_step)
            try:
                self.reader.fetch(range(coming * batch + self.rows.start, coming * batch + self.rows.stop))
            except Failure as error:
                # Reading tells it again, as an error, if it is still so when the slot is due.
                print(f"note: shards are no longer fetched ahead: {error}", file=sys.stderr)
                return
            coming += 1
