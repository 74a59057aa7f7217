"""The processes of a run: who am I, on which device, and how do all agree."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

from engine.distributed import hardware
from engine.distributed.rank_env import RankEnv, count_threads, read_rank_env
from engine.errors import EnvironmentFault, UserError

MEET_S = 300  # for all ranks to come; on a cold disk the imports alone take a minute


Item = TypeVar("Item")
KINDS = (UserError, EnvironmentFault)  # of failures that are sent to other ranks as such

_cores: int | None = None  # this process's share, counted before it was bound to some


class RelayedFault(Exception):
    """A fault of the program on another rank, which tells it with its traceback."""


@dataclass
class Processes:
    """The processes of a run, as one of them sees them.

    Attributes:
        rank: of this one, 0 .. world - 1.
        world: how many there are.
        device: of this one.
        timeout_s: after which a collective fails that not all ranks have joined.
    """

    rank: int
    world: int
    device: torch.device
    timeout_s: float = 600

    @property
    def first(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the sum of a tensor over all ranks, in place."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set on any rank; a decision of all."""
        if self.world == 1:
            return flag
        return bool(self.sum(torch.tensor([int(flag)], device=self.device)).item())

    def gather(self, items: list[Item]) -> list[Item]:
        """Return the lists of all ranks as one, on rank 0; on other ranks an empty one.

        It costs a word where all are empty.
        """
        if self.world == 1:
            return items
        if not self.any(bool(items)):
            return []
        boxes: list[list[Item]] = [[] for _ in range(self.world)]
        dist.all_gather_object(boxes, items)
        return [item for box in boxes for item in box] if self.first else []

    def from_first(self, make: Callable[[], Item]) -> Item:
        """Return on all ranks what ``make()`` returns on rank 0.

        An exception there is raised on all, of the same kind of failure.
        """
        if self.world == 1:
            return make()
        value: Item | None = None
        caught: Exception | None = None
        if self.first:
            try:
                value = make()
            except Exception as error:
                caught = error
        box: list[Any] = [value, None if caught is None else _pack(caught)]
        dist.broadcast_object_list(box, 0)
        if caught is not None:
            raise caught
        if box[1] is not None:
            raise _unpack(*box[1])
        return box[0]

    def of_a_node(self) -> int:
        """Return how many processes a node has, as rank 0 counts.

        Nodes may have unequally many, and all ranks must cut the world alike.
        """
        return self.from_first(_of_this_node)

    def groups(self, size: int) -> tuple[dist.ProcessGroup, dist.ProcessGroup]:
        """Return process groups of this rank's (column, row), of rows of ``size`` neighbours."""
        columns = [list(range(first, self.world, size)) for first in range(size)]
        rows = [list(range(first, first + size)) for first in range(0, self.world, size)]
        # Else they would have torch's own timeout, and torch would end the process before the watch
        # names who failed.
        timeout = timedelta(seconds=self.timeout_s)
        column, _ = dist.new_subgroups_by_enumeration(columns, timeout)
        row, _ = dist.new_subgroups_by_enumeration(rows, timeout)
        # torch's types allow for ranks that are in no group; here every rank is in one.
        return cast(dist.ProcessGroup, column), cast(dist.ProcessGroup, row)

    def stop(self) -> None:
        """Leave the processes."""
        if self.world > 1:
            dist.destroy_process_group()


def start(device: str, timeout_s: float = 600, store: dist.Store | None = None) -> Processes:
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
    env = read_rank_env()
    own = device_of(device, env.local)
    if own.type == "cuda":
        _check_gpu_of_its_own(env)
        torch.cuda.set_device(own)
        _stay_near(env)
    if env.world > 1:
        store = dist.PrefixStore("group", store or open_store(env))
        store.set_timeout(timedelta(seconds=timeout_s))
        gpu = own.type == "cuda"
        # With its device NCCL connects here, where a fault is reported as one of the start, and not
        # amid the first collective.
        dist.init_process_group(
            "nccl" if gpu else "gloo",
            timeout=timedelta(seconds=timeout_s),
            store=store,
            rank=env.rank,
            world_size=env.world,
            device_id=own if gpu else None,
        )
    return Processes(env.rank, env.world, own, timeout_s)


def open_store(env: RankEnv, seconds: float = MEET_S) -> dist.Store:
    """Return the store of torch at MASTER_ADDR, without waiting for the other ranks.

    Rank 0 opens it, unless torchrun's agent has.

    Raises:
        EnvironmentFault: it cannot be opened or reached within so many seconds.
    """
    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        store = dist.TCPStore(
            env.address or "",
            env.port or 0,
            env.world,
            is_master=env.rank == 0 and not agent,
            timeout=timedelta(seconds=seconds),
            wait_for_workers=False,
            multi_tenant=True,
        )
    except RuntimeError as error:  # torch's DistError and its kinds
        words = " ".join(str(error).split())[:200]
        raise EnvironmentFault(
            f"rank {env.rank} finds no meeting point at MASTER_ADDR={env.address} MASTER_PORT="
            f"{env.port}: {words}"
        ) from None
    # torchrun may keep its store when it starts all ranks again.
    return dist.PrefixStore(
        f"counterpose/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store
    )


def _check_gpu_of_its_own(env: RankEnv) -> None:
    named, gpus = os.environ.get("LOCAL_RANK", "").strip(), torch.cuda.device_count()
    if env.world > 1 and gpus > 1 and not named:
        raise UserError(
            f"WORLD_SIZE={env.world} is set in the environment without LOCAL_RANK, and "
            f"there are {gpus} GPUs: all processes of a node would take the first; "
            f"a launcher such as torchrun sets it"
        )


def _stay_near(env: RankEnv) -> None:
    """Bind this process, and the loader workers that it starts later, to the CPUs near its GPU."""
    global _cores
    _cores = share_cores()
    if not env.local < env.local_world <= torch.cuda.device_count():
        # it sees its own GPU alone, or does not know of others: how many share the CPUs near it is
        # not known
        return
    # Any, for torch's types leave out where a GPU is.
    found: list[Any] = [
        torch.cuda.get_device_properties(number) for number in range(env.local_world)
    ]
    if not all(hasattr(one, "pci_domain_id") for one in found):
        return  # a torch that does not tell where they are
    hardware.stay_near(
        [
            hardware.pci_address(one.pci_domain_id, one.pci_bus_id, one.pci_device_id)
            for one in found
        ],
        env.local,
    )


def _pack(error: Exception) -> tuple[str | None, str]:
    """Return (kind, words) of an exception, for the other ranks."""
    kind = next((kind.__name__ for kind in KINDS if isinstance(error, kind)), None)
    return kind, str(error) if kind else f"{type(error).__name__}: {error}"


def _unpack(kind: str | None, words: str) -> Exception:
    """Return the exception that rank 0 raised, as another rank raises it."""
    if kind is None:
        return RelayedFault(f"rank 0: {words}")
    error = next(one for one in KINDS if one.__name__ == kind)(words)
    error.relayed = True
    return error


def device_of(device: str, local: int = 0) -> torch.device:
    """Return the torch.device of "auto", "cpu" or "cuda" for a local rank.

    From here on float32 is float32 on it.

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
            f"device=cpu or start fewer processes a node"
        )
    hardware.exact_float32()
    return torch.device(device, local) if device == "cuda" else torch.device(device)


def _of_this_node() -> int:
    return read_rank_env().local_world


def share_cores() -> int:
    """Return the cores this process may use.

    Those it is allowed to run on are shared with the other ranks of its node.
    """
    # Bound to the CPUs near its GPU a process sees only those, which it shares with some of the
    # others.
    return _cores or max(1, len(os.sched_getaffinity(0)) // _of_this_node())


def threads() -> int:
    """Return threads for torch: OMP_NUM_THREADS where it is set, else this process's cores.

    The last bit of sums depends on it.
    """
    return count_threads() or share_cores()


def loader_workers(asked: int | None) -> int:
    """Return how many processes decode for this rank.

    As many as asked, or by default its cores less one, up to 16.
    """
    return min(16, share_cores() - 1) if asked is None else asked
