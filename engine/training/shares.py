"""How the ranks of a run divide an evaluation among them, and end it together."""

from collections.abc import Iterator

import torch

from engine.distributed.heartbeat import Whereabouts
from engine.distributed.process_group import Processes
from engine.run.signals import StopRequest


class BrokenOff(Exception):
    """An evaluation ended early, on all ranks, because the run was asked to stop."""


class Shares:
    """A rank's share of what is evaluated.

    Attributes:
        stop: true once the run is asked to stop.  watch: gets a sign that the rank is alive.
    """

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.stop: StopRequest | bool = False
        self.watch = Whereabouts()

    def rows(self, total: int, size: int = 64) -> Iterator[list[int]]:
        """Yield this rank's rows of ``total``, ``size`` at a time.

        Ends early once the run is asked to stop (see ``total``).
        """
        rows = range(self.processes.rank, total, self.processes.world)
        for first in range(0, len(rows), size):
            if self.stop:
                return
            self.watch.alive()
            yield list(rows[first : first + size])

    def total(self, sums: torch.Tensor) -> list[float]:
        """The sum over ranks of what each gathered from its rows, (N,), as a list.

        Raises:
            BrokenOff: on all ranks, if any was asked to stop.
        """
        stopped = sums.new_full((1,), bool(self.stop))
        *out, stopped = self.processes.sum(torch.cat([sums, stopped])).tolist()
        if stopped:
            raise BrokenOff
        return out
