"""The processes of a run: who am I, on which device, and how do all agree."""

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from engine import machine
from engine.errors import Failure, UserError


@dataclass
class Processes:
    """rank 0 .. world - 1; ``device`` is this process's own.

    ``timeout_s``: after which a collective fails that not all ranks have joined.
    """

    rank: int
    world: int
    device: torch.device
    timeout_s: float = 600

    @property
    def first(self):
        return self.rank == 0

    def sum(self, tensor):
        """The sum of a tensor over all ranks, in place."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def any(self, flag):
        """Whether the flag is set on any rank; a decision of all."""
        if self.world == 1:
            return flag
        return bool(self.sum(torch.tensor([int(flag)], device=self.device)).item())

    def gather(self, items):
        """The lists of all ranks as one, on rank 0; elsewhere an empty one. Costs a word where all are empty."""
        if self.world == 1:
            return items
        if not self.any(bool(items)):
            return []
        boxes = [None] * self.world
        dist.all_gather_object(boxes, items)
        return [item for box in boxes for item in box] if self.first else []

    def from_first(self, make):
        """What ``make()`` returns on rank 0, on all ranks; a UserError there is raised on all."""
        if self.world == 1:
            return make()
        box = [None, None]
        if self.first:
            try:
                box[0] = make()
            except Failure as error:
                box[1] = str(error)
        dist.broadcast_object_list(box, 0)
        if box[1] is not None:
            raise UserError(box[1])
        return box[0]

    def of_a_node(self):
        """How many processes a node has, as rank 0 counts: nodes may have unequally many, and all must cut the world alike."""
        return self.from_first(_of_this_node)

    def groups(self, size):
        """The ranks cut into rows of ``size`` neighbours: process groups of this rank's (column, row)."""
        columns = [list(range(place, self.world, size)) for place in range(size)]
        rows = [list(range(first, first + size)) for first in range(0, self.world, size)]
        # Else they would have torch's own timeout, and the watch might not be the first to speak.
        timeout = timedelta(seconds=self.timeout_s)
        return tuple(dist.new_subgroups_by_enumeration(ranks, timeout)[0] for ranks in (columns, rows))

    def stop(self):
        if self.world > 1:
            dist.destroy_process_group()


def start(device, timeout_s=600):
    """Join the processes that torchrun (or a scheduler) started, or be the only one.

    Args:
        device: "auto", "cpu" or "cuda".  timeout_s: as of Processes.
    Raises:
        UserError: a GPU was asked for and there is none for this process.
    """
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local = int(os.environ.get("LOCAL_RANK", 0))
    device = device_of(device, local)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(seconds=timeout_s))
    return Processes(rank, world, device, timeout_s)


def device_of(device, local=0):
    """The torch.device of "auto", "cpu" or "cuda" for a local rank; from here on float32 is float32 on it.

    Raises:
        UserError: a GPU was asked for and there is none for this rank.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and torch.cuda.device_count() <= local:
        raise UserError(f"device=cuda: local rank {local} finds {torch.cuda.device_count()} GPUs; set device=cpu or start "
                        f"fewer processes a node")
    machine.exact_float32()
    return torch.device(device, local) if device == "cuda" else torch.device(device)


def _of_this_node():
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def share_cores():
    """Cores this process may use: those it is allowed to run on, shared with the other ranks of its node."""
    return max(1, len(os.sched_getaffinity(0)) // _of_this_node())


def threads():
    """Threads for torch: OMP_NUM_THREADS where it is set, else this process's cores. The last bit of sums depends on it."""
    return int(os.environ.get("OMP_NUM_THREADS") or share_cores())


def loader_workers(asked):
    """Processes that decode for this rank: as many as asked, or by default its cores less one, up to 16."""
    return min(16, share_cores() - 1) if asked is None else asked
