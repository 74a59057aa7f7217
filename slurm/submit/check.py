"""What can be known to be wrong before a job waits for hours: all of it, in one list."""

import math
import os
from pathlib import Path
from typing import Any

from engine.errors import Failure
from engine.run.run_folder import RunFolder
from slurm import job_record, site
from slurm.config import SlurmConfig
from slurm.site import Partition


def find_batch_faults(config: dict[str, Any], settings: SlurmConfig) -> list[str]:
    """Return what engine.config.train_config.TrainConfig will refuse of the spread over processes.

    That is of the global batch, of the copies of the weights, and of the GPUs.

    Args:
        config: {dotted key: value} of the run.
    """
    world, parts = settings.nodes * settings.ranks, config["grad_accum_steps"]
    holders = config["shard_over"] or settings.ranks
    if config["parallel"] == "hsdp" and world > 1 and (world % holders or holders == 1):
        return [
            f"parallel=hsdp: {world} processes (slurm.nodes={settings.nodes} times "
            f"{settings.ranks}) do not make copies of "
            f"the weights over {holders} each; shard_over=N sets the number, a divisor from 2 on"
        ]
    if config["batch"] % (world * parts):
        return [
            f"batch={config['batch']} does not divide by {world} processes "
            f"(slurm.nodes={settings.nodes} times "
            f"{settings.ranks}) times grad_accum_steps={parts}"
        ]
    if (
        settings.gpus_per_node
        and settings.ranks > settings.gpus_per_node
        and config["device"] != "cpu"
    ):
        return [
            f"slurm.ranks_per_node={settings.ranks} is more than "
            f"slurm.gpus_per_node={settings.gpus_per_node}"
        ]
    return []


def find_folder_faults(folder: str) -> list[str]:
    """Return why a job's folder cannot be used: it is in use, or not writable."""
    home = RunFolder(folder).slurm
    try:
        before = job_record.read_json(home / "submitted.json")
    except (OSError, ValueError) as error:
        return [f"{home}/submitted.json cannot be read: {error}"]
    number = before["job"] if before else None
    state = site.read_state(number) if number and site.is_present() else None
    if state in site.ALIVE:
        return [
            f"{folder} is in use by job {number} ({state.lower()}); cancel it, or choose another "
            f"folder"
        ]
    here = Path(folder)
    while not here.exists():
        here = here.parent
    if not here.is_dir() or not os.access(here, os.W_OK):
        return [f"{folder} cannot be written: {here} is no folder that you may write in"]
    return []


def find_folder_notes(folder: str) -> list[str]:
    """Return a note where a folder lies in memory, or where each machine has its own.

    Whether nodes share it, the job's first act tells.
    """
    path, best, kind = Path(folder).resolve(), "", None
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mounted, found, *_ = line.split()
        mounted = mounted.replace("\\040", " ")
        if os.path.commonpath([mounted, path]) == mounted and len(mounted) >= len(best):
            best, kind = mounted, found
    in_memory = kind in ("tmpfs", "ramfs")
    if not in_memory and not path.is_relative_to("/tmp"):
        return []
    where = "in memory" if in_memory else "under /tmp"
    return [f"{folder} lies {where}, which nodes seldom share"]


def find_site_faults(settings: SlurmConfig) -> list[str]:
    """Return what does not fit the cluster as the scheduler knows it.

    That is of partition, GPUs, cores, memory, time limit, features, account and QOS.
    """
    try:
        all_kinds = site.list_partitions()
    except Failure as error:
        return [f"{error}; slurm.where=local runs on this machine"]
    wanted, kinds = _wanted_partitions(settings), _choose_kinds(settings, all_kinds)
    names = sorted({kind.name for kind in all_kinds})
    known, out = ", ".join(names), []
    for name in wanted:
        if name not in names:
            out.append(f"slurm.partition={name} is none of this cluster's: {known}")
    if not wanted and not kinds:
        out.append(f"slurm.partition is not set, and this cluster has no default; it has {known}")
    if kinds and not out:
        if not any(kind.up for kind in kinds):
            out.append(f"partition {kinds[0].name} is not up")
        out += _find_size_faults(settings, kinds)
    return out + _find_account_faults(settings)


def find_evaluation_faults(settings: SlurmConfig) -> list[str]:
    """Return what does not fit the cluster of the evaluation jobs of a run.

    What is wrong with the run's own is left out.
    """
    own = {
        "partition": "partition",
        "gpus_per_node": "gpus",
        "cores_per_node": "cores",
        "memory_gb": "memory_gb",
        "hours": "hours",
    }
    before, out = find_site_faults(settings), []
    for fault in find_site_faults(settings.for_evaluation()):
        if fault not in before:
            for name, wanted in own.items():
                fault = fault.replace(f"slurm.{name}=", f"slurm.evaluate.{wanted}=")
            out.append(fault)
    return out


def _wanted_partitions(settings: SlurmConfig) -> list[str]:
    return settings.partition.split(",") if settings.partition else []


def _choose_kinds(settings: SlurmConfig, kinds: list[Partition]) -> list[Partition]:
    """Return the partitions that are asked for, or the default one."""
    wanted = _wanted_partitions(settings)
    return [kind for kind in kinds if (kind.name in wanted if wanted else kind.default)]


def count_training_cores(settings: SlurmConfig) -> int:
    """Return the cores of each node for a training run that asks for none.

    SLURM alone would give one.
    """
    shares = []
    for kind in _choose_kinds(settings, site.list_partitions()):
        gpus = _count_gpus(kind, settings.gpu_type)
        if gpus < settings.gpus_per_node:
            continue
        share = kind.cores * settings.gpus_per_node // max(1, gpus)
        shares.append(share if settings.gpus_per_node else kind.cores)
    return max(1, min(shares, default=1))


def _find_size_faults(settings: SlurmConfig, kinds: list[Partition]) -> list[str]:
    where, out = f"partition {'/'.join(sorted({kind.name for kind in kinds}))}", []
    per_node = max(_count_gpus(kind, settings.gpu_type) for kind in kinds)
    types = sorted({name for kind in kinds for name in kind.gpus if name})
    if settings.gpu_type and settings.gpu_type not in types:
        out.append(
            f"slurm.gpu_type={settings.gpu_type} is in no node of {where}, which has "
            f"{', '.join(types) or 'no named types'}"
        )
    elif settings.gpus_per_node > per_node:
        out.append(
            f"slurm.gpus_per_node={settings.gpus_per_node}, but a node of {where} has {per_node} "
            f"GPUs at most"
        )
    cores, memory = max(kind.cores for kind in kinds), max(kind.memory_mb for kind in kinds)
    if settings.cores_per_node and settings.cores_per_node > cores:
        out.append(
            f"slurm.cores_per_node={settings.cores_per_node}, but a node of {where} has {cores} "
            f"cores at most"
        )
    if settings.memory_gb and settings.memory_gb * 1024 > memory:
        out.append(
            f"slurm.memory_gb={settings.memory_gb:g}, but a node of {where} has "
            f"{memory / 1024:.1f} GiB at most"
        )
    gpus = settings.gpus_per_node
    fitting = [kind for kind in kinds if _count_gpus(kind, settings.gpu_type) >= gpus]
    nodes = sum(kind.nodes for kind in fitting)
    if not out and settings.nodes > nodes:
        with_gpus = f" with {gpus} GPUs" if gpus else ""
        out.append(f"slurm.nodes={settings.nodes}, but {where} has {nodes} nodes{with_gpus}")
    limits = [math.inf if kind.minutes is None else kind.minutes for kind in kinds]
    if settings.minutes > max(limits):
        out.append(
            f"slurm.hours={settings.hours:g} is above the limit of {where}, {max(limits) / 60:g} "
            f"hours; ask for at most that: a longer run resumes in the next job by itself"
        )
    known = set().union(*(kind.features for kind in kinds))
    wanted = settings.constraint
    if wanted and wanted.isidentifier() and wanted not in known:
        out.append(f"slurm.constraint={wanted} is a feature of no node of {where}")
    return out


def _count_gpus(kind: Partition, wanted: str | None) -> int:
    return kind.gpus.get(wanted, 0) if wanted else max(kind.gpus.values(), default=0)


def _find_account_faults(settings: SlurmConfig) -> list[str]:
    known, out = site.list_associations(), []
    if known is None:
        return out
    accounts = sorted({account for account, _, _ in known})
    if settings.account and settings.account not in accounts:
        out.append(f"slurm.account={settings.account} is none of yours: {', '.join(accounts)}")
    levels = set().union(*(qos for account, _, qos in known if settings.account in (None, account)))
    if settings.qos and levels and settings.qos not in levels:
        out.append(f"slurm.qos={settings.qos} is none of yours: {', '.join(sorted(levels))}")
    return out
