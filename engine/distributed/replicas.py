"""Silent corruption: replicas of the weights that no longer agree.

Processes that hold the same weights (all of them under DDP; under HSDP those with the same share)
add the same gradients and take the same steps, so their weights and moments stay equal to the bit.
Where they are not, a memory or a processor has erred. Each save compares a checksum over all of it;
of FSDP's single copy there is nothing to compare.

The checksum reads each tensor once on its device, and one number a process is exchanged. Any change
of a single element changes it: elements are multiplied by odd numbers and added modulo 2**64.
"""

import socket
from collections import Counter
from dataclasses import dataclass

import torch
import torch.distributed as dist

from engine.distributed import hardware
from engine.distributed.parallel import own
from engine.distributed.process_group import Processes
from engine.errors import EnvironmentFault
from engine.logging.console import get_logger

log = get_logger(__name__)
CHUNK = 1 << 20  # elements at a time: the products take eight bytes each
GOLDEN = -7046029254386353131  # 2**64 over the golden ratio, as an int64: spreads the factors
NEXT = 6364136223846793005  # by which a sum is multiplied before the next is added
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass
class Replica:
    """What one process says of itself where a comparison failed.

    Attributes:
        sums: {tensor's name: checksum}.
    """

    rank: int
    host: str
    processor: str
    sums: dict[str, int]


class Replicas:
    """Compares the replicas of a run's tensors.

    Args:
        holders: processes that hold one copy together, as of
            engine.config.train_config.TrainConfig.holders.
    """

    def __init__(self, processes: Processes, holders: int) -> None:
        self.processes, self.holders = processes, holders
        self._told = False
        self._factors: torch.Tensor | None = None

    def check(self, step: int, tensors: dict[str, torch.Tensor]) -> None:
        """Compare this process's share of each tensor with its replicas'; all ranks call it.

        Raises:
            EnvironmentFault: on all ranks; names the rank that differs and its host.
        """
        if self.processes.world == self.holders:
            return
        sums = torch.stack([self._checksum(own(tensor.detach())) for tensor in tensors.values()])
        mine = (sums * self._odd(len(sums), sums.device)).sum()[None]
        everyone = [torch.empty_like(mine) for _ in range(self.processes.world)]
        dist.all_gather(everyone, mine)
        seen = torch.cat(everyone).tolist()
        if all(len(set(seen[column :: self.holders])) == 1 for column in range(self.holders)):
            return
        self._tell(step, dict(zip(tensors, sums.tolist(), strict=True)))

    def _tell(self, step, sums):
        """Find out who differs. The same on all ranks, for all know the same."""
        processor = hardware.processor(self.processes.device)
        mine = Replica(self.processes.rank, socket.gethostname(), processor, sums)
        boxes = [mine] * self.processes.world
        dist.all_gather_object(boxes, mine)
        fault = explain_difference(boxes, self.holders)
        if fault:
            raise EnvironmentFault(
                f"step {step}: {fault}; this set of weights was not saved. Start the "
                f"same command again: it resumes from the last checkpoint; where this "
                f"repeats, leave that machine out"
            )
        if self.processes.first and not self._told:
            self._told = True
            log.info(
                "note: replicas of the weights are on unlike processors, whose rounding differs; "
                "they are compared among equal ones alone"
            )

    def _checksum(self, tensor):
        """() int64 of a tensor's bits, on this process's device."""
        flat = tensor.contiguous().reshape(-1)
        bits = flat.view(BITS[flat.element_size()])
        total = torch.zeros((), dtype=torch.int64, device=flat.device)
        for first in range(0, len(bits), CHUNK):
            part = bits[first : first + CHUNK]
            total = total * NEXT + (part * self._odd(len(part), part.device)).sum()
        return total.to(self.processes.device)

    def _odd(self, count, device):
        """(count,) odd int64 factors."""
        if self._factors is None or self._factors.device != device:
            self._factors = torch.arange(1, CHUNK + 1, device=device) * GOLDEN | 1
        return self._factors[:count]


def explain_difference(replicas: list[Replica], holders: int) -> str | None:
    """Which ranks differ from their replicas, in words; None where only unlike processors do.

    Args:
        replicas: of all ranks, by rank; rank r holds the same share as ranks r + holders, r + 2 *
            holders, ...
    """
    groups = {}
    for replica in replicas:
        groups.setdefault((replica.rank % holders, replica.processor), []).append(replica)
    said = [fault for group in groups.values() if (fault := _odd_ones(group))]
    return "; ".join(said) or None


def _odd_ones(group):
    counts = Counter(tuple(replica.sums.items()) for replica in group)
    if len(counts) == 1:
        return None
    (common, times), (_, second) = counts.most_common(2)
    if times == second:
        names = ", ".join(f"{replica.rank} on {replica.host}" for replica in group)
        return (
            f"the weights of ranks {names} should be equal and differ (first in "
            f"{_first_unlike(group)}): the memory or processor of one is at fault, and so few "
            f"cannot tell which"
        )
    right = next(replica for replica in group if tuple(replica.sums.items()) == common)
    wrong = [replica for replica in group if tuple(replica.sums.items()) != common]
    return ", ".join(
        f"the weights of rank {replica.rank} on {replica.host} differ from those of "
        f"{times} other ranks (first in {_first_unlike([right, replica])}): its memory or "
        f"processor is at fault"
        for replica in wrong
    )


def _first_unlike(group):
    for name in group[0].sums:
        if len({replica.sums[name] for replica in group}) > 1:
            return name
    raise AssertionError("none differs")
