"""Readers with faults, for loader workers, which find them by name; imports no torch, as it would
cost each worker seconds."""

import os

from data.loading.reader import Reader


class FailingReader(Reader):
    """A disk that fails for the first ``times`` reads."""

    times = 0

    def fill(self, arrays, row, n):
        def read():
            if self.times:
                self.times -= 1
                raise OSError(5, "Input/output error")

        self.store._patiently(read, "/there/shard-000003.tar")
        super().fill(arrays, row, n)


class DyingReader(Reader):
    """Ends its worker: by the signal ``how``, or by a fault of the program."""

    how = 0

    def fill(self, arrays, row, n):
        if self.how:
            os.kill(os.getpid(), self.how)
        raise ZeroDivisionError("a fault of the program")
