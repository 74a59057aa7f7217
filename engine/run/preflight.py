"""What is checked before the first step: all that is wrong is reported at once, with what to do."""

from __future__ import annotations

import json
import platform
import shutil
import socket
import time
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch.distributed as dist
from torch import nn

from engine import version
from engine.checkpoint.history import list_complete
from engine.distributed.rank_env import read_rank_env
from engine.errors import EnvironmentFault, UserError, explain
from engine.logging.console import get_logger
from engine.run.open_files import SPARE, raise_limit
from engine.run.run_folder import RunFolder

if TYPE_CHECKING:
    from engine.config.train_config import TrainConfig
    from engine.distributed.process_group import Processes

log = get_logger(__name__)
CLOCKS_S = 3.0  # differences between machines' clocks that are reported
COPIES = 3  # a checkpoint holds the weights and two moments of each, beside an average if any


class Loader(Protocol):
    """What is used of a loader: its processes, and the batches in memory that they fill."""

    workers: Sized
    ring: Sequence[Mapping[str, np.ndarray]]


class CheckedTask(Protocol):
    """What is used of a task."""

    def find_faults(self) -> list[str]:
        """Return a sentence for each thing that would keep this rank from training."""
        ...


class Checked(Protocol):
    """What is used of a trainer; ``names`` has the parameters that the optimizer moves."""

    processes: Processes
    loader: Loader
    names: Mapping[nn.Parameter, str]

    @property
    def task(self) -> CheckedTask:
        """What is trained."""
        ...


@dataclass(frozen=True)
class ControlGroup:
    """Where a version of control groups tells of memory, as a container sees its own.

    psutil reads /proc/meminfo alone: in a container that is the machine's memory.

    Attributes:
        limit, used, stat: files.  cached: the line of ``stat`` with the bytes of files that could
            be given back.
    """

    limit: str
    used: str
    stat: str
    cached: str


CGROUPS = (
    ControlGroup(
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory.current",
        "/sys/fs/cgroup/memory.stat",
        "inactive_file",
    ),
    ControlGroup(
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
        "total_inactive_file",
    ),
)


def check(config: TrainConfig, trainer: Checked) -> None:
    """Check this rank's machine and compare it with the others'; all ranks call it.

    Raises:
        UserError: on all ranks, with everything that any of them found.
        EnvironmentFault: all of it is want of memory or disk, which another moment or machine may
            have; or a run that began on a GPU finds none.
    """
    processes = trainer.processes
    processes.from_first(
        lambda: refuse_other_device(Path(config.run), config.device, processes.device.type)
    )
    copies = COPIES + bool(config.optim.ema)
    wants = shared_memory(trainer, copies)
    if processes.first:
        wants += space(Path(config.run), trainer, config.checkpoint.keep, copies)
    mine = {
        "faults": open_files(trainer) + trainer.task.find_faults(),
        "wants": wants,
        **here(processes),
    }
    ranks = [mine]
    if processes.world > 1:
        ranks = [{} for _ in range(processes.world)]
        dist.barrier()
        mine["clock"] = time.time()
        dist.all_gather_object(ranks, mine)
    faults = [fault for found in ranks for fault in found["faults"]] + differences(ranks)
    kind = UserError if faults else EnvironmentFault
    wanted = [want for found in ranks for want in found["wants"]]
    faults = list(dict.fromkeys(wanted + faults))
    if faults:
        numbered = (f"({number}) {fault}" for number, fault in enumerate(faults, 1))
        raise kind("; ".join(numbered) if len(faults) > 1 else faults[0])
    if processes.first:
        for note in clocks(ranks):
            log.warning("%s", note)


def here(processes: Processes) -> dict[str, Any]:
    """Return this rank's host, clock, and what all ranks should have alike."""
    # Of one rank there is nothing to compare.
    code = version.identify_code() if processes.world > 1 else ""
    return {
        "host": socket.gethostname(),
        "clock": time.time(),
        "alike": {
            **version.library_versions(),
            "machine": platform.machine(),
            "counterpose": code,
            "device": processes.device.type,
        },
    }


def refuse_other_device(folder: Path, wanted: str, found: str) -> None:
    """Refuse to resume on the CPU a run that began on a GPU, unless that is said.

    Args:
        wanted: the key device.  found: what came of it, "cuda" or "cpu".
    Raises:
        EnvironmentFault: nobody said device=cpu, and no GPU is found.
    """
    try:
        text = RunFolder(folder).environment.read_text(encoding="utf-8")
        began = json.loads(text).get("device")
    except (OSError, ValueError):
        return  # a run of before this was noted
    if began == "cuda" and found == "cpu" and wanted != "cpu":
        raise EnvironmentFault(
            f"run={folder} began on a GPU (environment.json: device cuda), and device={wanted} "
            f"finds none on {socket.gethostname()}; device=cpu resumes without"
        )


def shared_memory(trainer: Checked, copies: int = COPIES) -> list[str]:
    """Return faults of the host memory that loaders and checkpoints want.

    It is the machine's own, or the container's.

    Args:
        copies: what a checkpoint holds, in sizes of the weights.
    """
    loader = trainer.loader
    ring = loader.ring if loader.workers else []
    batches = sum(array.nbytes for slot in ring for array in slot.values())
    batches *= read_rank_env().local_world
    copy = checkpoint_copy(trainer, copies)
    free = memory_left()
    if free is None or batches + copy <= free:
        return []
    wants = [f"the loaders of this machine want {size(batches)} for batches"] if batches else []
    wants += [f"a checkpoint's copy wants {size(copy)}"] if copy else []
    return [
        f"{socket.gethostname()} has {size(free)} of memory left, {' and '.join(wants)}: lower "
        f"data.prefetch or batch, or give a container more"
    ]


def checkpoint_copy(trainer: Checked, copies: int = COPIES) -> int:
    """Return the bytes of the host copy that checkpoints are written from, in the first process.

    See engine.checkpoint.saver.HostCopy.
    """
    if not trainer.processes.first:
        return 0
    one = copies * sum(p.numel() * p.element_size() for p in trainer.names)
    # torch gives pinned memory in powers of two.
    return 1 << (one - 1).bit_length() if one and trainer.processes.device.type == "cuda" else one


def memory_left(cgroups: Sequence[ControlGroup] = CGROUPS) -> int | None:
    """Return the bytes that this machine, or the control group of this process, has left.

    None where the system does not tell. What a control group caches of files counts as used there,
    and is given back as soon as anybody wants it.
    """
    try:
        with open("/proc/meminfo", encoding="utf-8") as file:
            free = next(
                int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:")
            )
    except (OSError, StopIteration):
        return None
    for group in cgroups:
        try:
            limit = Path(group.limit).read_text().strip()
            if limit != "max":
                free = min(free, int(limit) - int(Path(group.used).read_text()) + _cached(group))
        except OSError:
            continue  # the other version of control groups, or none
    return free


def _cached(group: ControlGroup) -> int:
    """Bytes of files that a control group holds in memory and that nobody has used of late."""
    try:
        lines = Path(group.stat).read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.split()[:1] == [group.cached]), 0)


def open_files(trainer: Checked) -> list[str]:
    """Return faults of the limit on open files, which is raised as far as it may be."""
    need = SPARE + 4 * len(trainer.loader.workers) + trainer.processes.world
    limit = raise_limit(need)
    if limit >= need:
        return []
    return [
        f"{socket.gethostname()}: a process may open {limit} files, this run wants {need}: raise "
        f"the limit (ulimit -Hn) or lower data.workers"
    ]


def space(folder: Path, trainer: Checked, keep: int, copies: int = COPIES) -> list[str]:
    """Return faults of the disk's space for checkpoints: those to be kept and the one under way."""
    one = copies * sum(p.numel() * p.element_size() for p in trainer.names)
    there = min(keep, len(list_complete(folder)))
    need, free = one * (keep + 1 - there), space_left(folder)
    if free is None or need <= free:
        return []
    return [
        f"{folder} has {size(free)} left; {keep + 1 - there} more checkpoints of {size(one)} want "
        f"{size(need)}: free some or lower checkpoint.keep={keep}"
    ]


def space_left(folder: Path) -> int | None:
    """Return the bytes that a file system has left for this user.

    None where it does not tell: a save tells of a full disk.
    """
    try:
        return shutil.disk_usage(folder).free
    except OSError as error:
        log.info("note: how much space %s has left is not known: %s", folder, explain(error))
        return None


def differences(ranks: Sequence[dict[str, Any]]) -> list[str]:
    """Return faults where a rank is not like the first."""
    faults = []
    for rank, found in enumerate(ranks):
        unlike = {
            name: value
            for name, value in found["alike"].items()
            if value != ranks[0]["alike"][name]
        }
        faults += [
            f"rank {rank} on {found['host']} has {name} {value}, rank 0 on {ranks[0]['host']} has "
            f"{ranks[0]['alike'][name]}: all need the same"
            for name, value in unlike.items()
        ]
        if len(faults) > 8:
            break
    return faults


def clocks(ranks: Sequence[dict[str, Any]]) -> list[str]:
    """Return what is to be said of clocks that differ; leases and logs read them."""
    times = [found["clock"] for found in ranks]
    apart = max(times) - min(times)
    if apart < CLOCKS_S:
        return []
    early, late = (ranks[times.index(pick(times))]["host"] for pick in (min, max))
    return [
        f"the clock of {late} is {apart:.0f} s ahead of that of {early}: set them by one time "
        f"server"
    ]


def size(count: int) -> str:
    """Return a number of bytes in words."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**29 else f"{count / 2**20:.1f} MiB"
