"""What can be known to be wrong before a job waits for hours: all of it, in one list."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

from engine.errors import Failure, UserError
from slurm import job_record, site
from slurm.submit import snapshot


def room_faults(room, arguments):
    """What the room says of its command: {"config", "faults", "notes"} of slurm.submit.probe."""
    done = subprocess.run(
        [
            sys.executable,
            os.path.join(snapshot.ROOT, "slurm", "launch.py"),
            "slurm.submit.probe",
            *room.words,
            *arguments,
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise UserError(
            f"checking the config failed with exit code {done.returncode}; what it said is above"
        )
    return json.loads(done.stdout)


def batch_faults(config, settings):
    """The global batch and the weights over all processes, as
    engine.config.train_config.TrainConfig will want it."""
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


def folder_faults(folder):
    """A folder in use, or not writable."""
    home = Path(folder) / "slurm"
    try:
        before = job_record.read(home / "submitted.json")
    except (OSError, ValueError) as error:
        return [f"{home}/submitted.json cannot be read: {error}"]
    if (
        before
        and before["job"]
        and site.present()
        and (now := site.state(before["job"])) in site.ALIVE
    ):
        return [
            f"{folder} is in use by job {before['job']} ({now.lower()}); cancel it, or choose "
            f"another folder"
        ]
    here = Path(folder)
    while not here.exists():
        here = here.parent
    if not here.is_dir() or not os.access(here, os.W_OK):
        return [f"{folder} cannot be written: {here} is no folder that you may write in"]
    return []


def folder_notes(folder):
    """A folder that lies in memory, or where each machine has its own. Whether nodes share it, the
    job's first act tells."""
    path, best, kind = Path(folder).resolve(), "", None
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, found, *_ = line.split()
        place = place.replace("\\040", " ")
        if os.path.commonpath([place, path]) == place and len(place) >= len(best):
            best, kind = place, found
    if kind in ("tmpfs", "ramfs") or path.is_relative_to("/tmp"):
        return [
            f"{folder} lies {'in memory' if kind in ('tmpfs', 'ramfs') else 'under /tmp'}, which "
            f"nodes seldom share"
        ]
    return []


def site_faults(settings):
    """What the scheduler knows of that does not fit: partition, GPUs, cores, memory, time,
    features, account, QOS."""
    try:
        all_kinds = site.partitions()
    except Failure as error:
        return [f"{error}; slurm.where=local runs on this machine"]
    wanted, kinds = (
        settings.partition.split(",") if settings.partition else None,
        _chosen(settings, all_kinds),
    )
    names = sorted({kind.name for kind in all_kinds})
    out = [
        f"slurm.partition={name} is none of this cluster's: {', '.join(names)}"
        for name in wanted or []
        if name not in names
    ]
    if not wanted and not kinds:
        out.append(
            f"slurm.partition is not set, and this cluster has no default; it has "
            f"{', '.join(names)}"
        )
    if kinds and not out:
        out += [
            f"partition {kind.name} is not up" for kind in kinds[:1] if not any(k.up for k in kinds)
        ]
        out += _size_faults(settings, kinds)
    return out + _account_faults(settings)


def evaluation_faults(settings):
    """What the scheduler knows of that does not fit the evaluation jobs of a run, beside what is
    wrong with the run's own."""
    own = {
        "partition": "partition",
        "gpus_per_node": "gpus",
        "cores_per_node": "cores",
        "memory_gb": "memory_gb",
        "hours": "hours",
    }
    before, out = site_faults(settings), []
    for fault in site_faults(settings.for_evaluation()):
        if fault not in before:
            for name, wanted in own.items():
                fault = fault.replace(f"slurm.{name}=", f"slurm.evaluate.{wanted}=")
            out.append(fault)
    return out


def _chosen(settings, kinds):
    wanted = settings.partition.split(",") if settings.partition else None
    return [kind for kind in kinds if (kind.name in wanted if wanted else kind.default)]


def training_cores(settings):
    """Cores of each node for a training run that asks for none: SLURM alone would give one."""
    shares = [
        kind.cores * settings.gpus_per_node // max(1, _gpus(kind, settings.gpu_type))
        if settings.gpus_per_node
        else kind.cores
        for kind in _chosen(settings, site.partitions())
        if _gpus(kind, settings.gpu_type) >= settings.gpus_per_node
    ]
    return max(1, min(shares, default=1))


def _size_faults(settings, kinds):
    where, out = f"partition {'/'.join(sorted({kind.name for kind in kinds}))}", []
    per_node = max(_gpus(kind, settings.gpu_type) for kind in kinds)
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
    nodes = sum(
        kind.nodes for kind in kinds if _gpus(kind, settings.gpu_type) >= settings.gpus_per_node
    )
    if not out and settings.nodes > nodes:
        out.append(
            f"slurm.nodes={settings.nodes}, but {where} has {nodes} nodes"
            + (f" with {settings.gpus_per_node} GPUs" if settings.gpus_per_node else "")
        )
    limits = [math.inf if kind.minutes is None else kind.minutes for kind in kinds]
    if settings.minutes > max(limits):
        out.append(
            f"slurm.hours={settings.hours:g} is above the limit of {where}, {max(limits) / 60:g} "
            f"hours; ask for at most "
            f"that: a longer run goes on in the next job by itself"
        )
    known = set().union(*(kind.features for kind in kinds))
    if (
        settings.constraint
        and settings.constraint.isidentifier()
        and settings.constraint not in known
    ):
        out.append(f"slurm.constraint={settings.constraint} is a feature of no node of {where}")
    return out


def _gpus(kind, wanted):
    return kind.gpus.get(wanted, 0) if wanted else max(kind.gpus.values(), default=0)


def _account_faults(settings):
    known, out = site.associations(), []
    if known is None:
        return out
    accounts = sorted({account for account, _, _ in known})
    if settings.account and settings.account not in accounts:
        out.append(f"slurm.account={settings.account} is none of yours: {', '.join(accounts)}")
    levels = set().union(*(qos for account, _, qos in known if settings.account in (None, account)))
    if settings.qos and levels and settings.qos not in levels:
        out.append(f"slurm.qos={settings.qos} is none of yours: {', '.join(sorted(levels))}")
    return out
