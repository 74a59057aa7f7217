"""The processes of a run: who am I, on which device, and how do all agree."""

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from engine.distributed import hardware
from engine.distributed.place import Place, count_threads, read_place
from engine.errors import EnvironmentFault, UserError

MEET_S = 300  # for all ranks to come; on a cold disk the imports alone take a minute


KINDS = (UserError, EnvironmentFault)  # of failures that other ranks may be told of as such

_cores = None  # this process's share, counted before it was bound to some


class RelayedFault(Exception):
    """A fault of the program on another rank, which tells it with its traceback."""


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
        """The lists of all ranks as one, on rank 0; elsewhere an empty one. Costs a word where all
        are empty."""
        if self.world == 1:
            return items
        if not self.any(bool(items)):
            return []
        boxes = [None] * self.world
        dist.all_gather_object(boxes, items)
        return [item for box in boxes for item in box] if self.first else []

    def from_first(self, make):
        """What ``make()`` returns on rank 0, on all ranks. An exception there is raised on all, of
        the same kind of failure."""
        if self.world == 1:
            return make()
        value = caught = None
        if self.first:
            try:
                value = make()
            except Exception as error:
                caught = error
        box = [value, caught and _packed(caught)]
        dist.broadcast_object_list(box, 0)
        if caught is not None:
            raise caught
        if box[1] is not None:
            raise _relayed(*box[1])
        return box[0]

    def of_a_node(self):
        """How many processes a node has, as rank 0 counts: nodes may have unequally many, and all
        must cut the world alike."""
        return self.from_first(_of_this_node)

    def groups(self, size):
        """The ranks cut into rows of ``size`` neighbours: process groups of this rank's (column,
        row)."""
        columns = [list(range(place, self.world, size)) for place in range(size)]
        rows = [list(range(first, first + size)) for first in range(0, self.world, size)]
        # Else they would have torch's own timeout, and the watch might not be the first to speak.
        timeout = timedelta(seconds=self.timeout_s)
        return tuple(
            dist.new_subgroups_by_enumeration(ranks, timeout)[0] for ranks in (columns, rows)
        )

    def stop(self):
        if self.world > 1:
            dist.destroy_process_group()


def start(device, timeout_s=600, store=None):
    """Join the processes that torchrun (or a scheduler) started, or be the only one.

    Args:
        device: "auto", "cpu" or "cuda".  timeout_s: as of Processes.
        store: torch's, by which the ranks met (engine.distributed.heartbeat.Watch has it); None:
            they meet now.
    Raises:
        UserError: a GPU was asked for and there is none for this process, or the environment
            contradicts itself.
        EnvironmentFault: the others are not found.
    """
    place = read_place()
    device = device_of(device, place.local)
    if device.type == "cuda":
        _check_gpu_of_its_own(place)
        torch.cuda.set_device(device)
        _stay_near(place)
    if place.world > 1:
        store = dist.PrefixStore("group", store or open_store(place))
        store.set_timeout(timedelta(seconds=timeout_s))
        gpu = device.type == "cuda"
        # With its device NCCL connects here, where a fault is told as one of the start, and not
        # amid the first collective.
        dist.init_process_group(
            "nccl" if gpu else "gloo",
            timeout=timedelta(seconds=timeout_s),
            store=store,
            rank=place.rank,
            world_size=place.world,
            device_id=device if gpu else None,
        )
    return Processes(place.rank, place.world, device, timeout_s)


def open_store(place: Place, seconds: float = MEET_S) -> dist.Store:
    """torch's store at MASTER_ADDR, which rank 0 opens, unless torchrun's agent has; it does not
    wait for the others.

    Raises:
        EnvironmentFault: it cannot be opened or reached within so many seconds.
    """
    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        store = dist.TCPStore(
            place.address,
            place.port,
            place.world,
            is_master=place.rank == 0 and not agent,
            timeout=timedelta(seconds=seconds),
            wait_for_workers=False,
            multi_tenant=True,
        )
    except RuntimeError as error:  # torch's DistError and its kinds
        words = " ".join(str(error).split())[:200]
        raise EnvironmentFault(
            f"rank {place.rank} finds no meeting point at MASTER_ADDR={place.address} MASTER_PORT="
            f"{place.port}: {words}"
        ) from None
    # torchrun may keep its store when it starts all ranks again.
    return dist.PrefixStore(
        f"counterpose/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store
    )


def _check_gpu_of_its_own(place):
    named, gpus = os.environ.get("LOCAL_RANK", "").strip(), torch.cuda.device_count()
    if place.world > 1 and gpus > 1 and not named:
        raise UserError(
            f"WORLD_SIZE={place.world} is set in the environment without LOCAL_RANK, and "
            f"there are {gpus} GPUs: all processes of a node would take the first; "
            f"a launcher such as torchrun sets it"
        )


def _stay_near(place):
    """Bind this process, and the loader workers that it starts later, to the CPUs near its GPU."""
    global _cores
    _cores = share_cores()
    if not place.local < place.local_world <= torch.cuda.device_count():
        # it sees its own GPU alone, or is told of no others: how many share the CPUs near it is not
        # known
        return
    found = [torch.cuda.get_device_properties(number) for number in range(place.local_world)]
    if not all(hasattr(one, "pci_domain_id") for one in found):
        return  # a torch that does not tell where they are
    hardware.stay_near(
        [
            hardware.pci_address(one.pci_domain_id, one.pci_bus_id, one.pci_device_id)
            for one in found
        ],
        place.local,
    )


def _packed(error):
    """(kind, words) of an exception, for the other ranks."""
    kind = next((kind.__name__ for kind in KINDS if isinstance(error, kind)), None)
    return kind, str(error) if kind else f"{type(error).__name__}: {error}"


def _relayed(kind, words):
    """The exception that rank 0 raised, as another rank raises it."""
    if kind is None:
        return RelayedFault(f"rank 0: {words}")
    error = next(one for one in KINDS if one.__name__ == kind)(words)
    error.relayed = True
    return error


def device_of(device, local=0):
    """The torch.device of "auto", "cpu" or "cuda" for a local rank; from here on float32 is float32
    on it.

    Raises:
        UserError: a GPU was asked for and there is none for this rank.
        EnvironmentFault: there is one, and torch cannot use it.
    """
    if device != "cpu" and not torch.cuda.is_available():
        hardware.refuse_broken_gpu(device)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and torch.cuda.device_count() <= local:
        raise UserError(
            f"device=cuda: local rank {local} finds {torch.cuda.device_count()} GPUs; set "
            f"device=cpu or start "
            f"fewer processes a node"
        )
    hardware.exact_float32()
    return torch.device(device, local) if device == "cuda" else torch.device(device)


def _of_this_node():
    return read_place().local_world


def share_cores():
    """Cores this process may use: those it is allowed to run on, shared with the other ranks of its
    node."""
    # Bound to the CPUs near its GPU a process sees only those, which it shares with some of the
    # others.
    return _cores or max(1, len(os.sched_getaffinity(0)) // _of_this_node())


def threads():
    """Threads for torch: OMP_NUM_THREADS where it is set, else this process's cores. The last bit
    of sums depends on it."""
    return count_threads() or share_cores()


def loader_workers(asked):
    """Processes that decode for this rank: as many as asked, or by default its cores less one, up
    to 16."""
    return min(16, share_cores() - 1) if asked is None else asked
