"""Which rank is slow: the seconds in which each works for itself, compared at each line of the log.

All ranks end a step together, for each waits for the slowest; so a step's time tells nothing. What
tells is the time before the first word to the others: the wait for the loader, and the forward.
Under FSDP a forward waits for the weights that other ranks hold, so there the slow stand out less.
"""

import contextlib
import socket
import statistics
import time
from collections.abc import Iterator

import torch

from engine.distributed.process_group import Processes

Slowest = dict[str, float | str]  # keys of the log

MOST_EVENTS = 256  # pairs that are kept before those that are over are summed up


class OwnTime:
    """Seconds of this rank's own work: by the host's clock on a CPU, on a GPU by events.

    Nothing waits for the device.

    Args:
        device: torch.device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._seconds = device, 0.0
        self._events: list[list[torch.cuda.Event]] = []  # pairs of a beginning and an end

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Count what is done in this block."""
        if self._device.type == "cuda":
            ends = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            ends[0].record()
            yield
            ends[1].record()
            self._events.append(ends)
            if len(self._events) > MOST_EVENTS:
                self._sum_up()
            return
        began = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - began

    def take(self) -> float:
        """Return the seconds since the last call.

        It waits for the device, as a line of the log does.
        """
        if self._events:
            self._events[-1][1].synchronize()
            self._sum_up()
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def _sum_up(self):
        """Turn the events that are over into seconds."""
        while self._events and self._events[0][1].query():
            first, last = self._events.pop(0)
            self._seconds += first.elapsed_time(last) / 1000


class Stragglers:
    """Compares all ranks; they construct and call it together."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.hosts = processes.gather([socket.gethostname()])

    def find(self, seconds: float) -> Slowest:
        """Return what ``compare`` returns on rank 0.

        {} on other ranks, and where there is one process alone.

        Args:
            seconds: of this rank's own work since the last call.
        """
        rank, world = self.processes.rank, self.processes.world
        if world == 1:
            return {}
        own = torch.zeros(world, dtype=torch.float64, device=self.processes.device)
        own[rank] = seconds
        self.processes.sum(own)
        return compare(own.tolist(), self.hosts) if rank == 0 else {}


def compare(seconds: list[float], hosts: list[str]) -> Slowest:
    """Return which rank is the slowest.

    {"speed/slowest_rank", "speed/slowest_share", "speed/slowest_host"} of all ranks' seconds.

    The share is by how much the slowest is over the median (0.1: a tenth). {} where none did
    anything.
    """
    slowest, median = max(range(len(seconds)), key=seconds.__getitem__), statistics.median(seconds)
    if median <= 0:
        return {}
    return {
        "speed/slowest_rank": slowest,
        "speed/slowest_share": seconds[slowest] / median - 1,
        "speed/slowest_host": hosts[slowest],
    }
