"""The ``slurm.`` keys, and the YAML files of configs/slurm/ that hold a site's."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from engine.config.parser import key, section
from engine.errors import UserError

FEW_CORES = 4  # of an evaluation without GPUs


@dataclass
class EvaluationJobConfig:
    """What each evaluation from a training run asks for (evaluate.every).

    Account, QOS and the rest are the run's.
    """

    gpus: int | None = key(None, "default: 1 where the run has some", low=0)
    cores: int | None = key(
        None, "default: the GPUs' share of the run's, 4 at most without GPUs", low=1
    )
    memory_gb: float | None = key(None, "GiB; default: what the site gives", low=0.1)
    hours: float = key(1.0, "time limit; one that takes longer counts as failed", low=1 / 60)
    partition: str | None = key(None, "default: the run's")


@dataclass
class SlurmConfig:
    """Sets where a job runs and what it asks of the site."""

    where: str = key(
        "auto",
        "auto: on SLURM where sbatch is, else on this machine",
        choices=("auto", "slurm", "local"),
    )
    nodes: int = key(1, "machines of a training run", low=1)
    gpus_per_node: int = key(0, "GPUs of each; a training run has one process a GPU", low=0)
    gpu_type: str | None = key(None, "such as h100, where a node may have one of several")
    ranks_per_node: int | None = key(
        None, "processes of a training run on each node; default: one a GPU, or one", low=1
    )
    cores_per_node: int | None = key(
        None,
        "cores of each node; default: in training the GPUs' share of a node's, all of them "
        "without GPUs; elsewhere one for each of workers",
        low=1,
    )
    memory_gb: float | None = key(
        None, "memory of each node, GiB; default: what the site gives", low=0.1
    )
    hours: float = key(
        24.0, "time limit of one job; a longer run resumes in the next by itself", low=1 / 60
    )
    partition: str | None = key(None, "default: the site's own")
    account: str | None = key(None, "who pays")
    qos: str | None = key(None, "quality of service")
    constraint: str | None = key(None, "features that nodes must have")
    options: dict[str, str] = key(
        {}, "any other option of sbatch, such as slurm.options.reservation=NAME"
    )
    setup: list[str] = key(
        [], "shell lines before the job's program: module load, conda activate, export"
    )
    container: str | None = key(None, "image that the ranks run in")
    container_tool: str = key(
        "apptainer",
        "what starts it: apptainer around each rank, or pyxis (enroot) around the whole job",
        choices=("apptainer", "pyxis"),
    )
    container_options: list[str] = key(
        [], "further words for apptainer exec, or for srun with pyxis, such as --bind=/data"
    )
    interface: str | None = key(
        None,
        "network interface of gloo and NCCL, such as ib0; default: for gloo the one between "
        "the nodes, NCCL looks for itself",
    )
    node_cache: str | None = key(
        None,
        "folder on each node's own disk for compiled kernels; default: the folder for temporary "
        "files",
    )
    name: str | None = key(None, "the job's name; default: the folder's")
    warn_s: int = key(
        180,
        "seconds before the time limit at which a run is asked to save and to resume in a new job",
        low=10,
    )
    retries: int = key(
        3,
        "starts after a fault of the program without a new checkpoint between, then the job stops",
        low=0,
    )
    environment_retries: int = key(
        10,
        "the same after a fault of the environment: a disk, a network, memory, a lost node; "
        "one that a node has twice has the job resume on other nodes",
        low=0,
    )
    lost_s: int = key(
        60, "seconds without a heartbeat after which another node counts as lost", low=5
    )
    triage: bool = key(
        True,
        "before a training run starts, check each node's GPUs, disks and network for some seconds; "
        "one that fails is left out and the job requeued",
    )
    jobs: int = key(
        1,
        "elements of a job array that share the work of data make, find, pairs or labels",
        low=1,
        high=10_000,
    )
    at_once: int = key(64, "most elements of an array that run at a time", low=1)
    evaluate: EvaluationJobConfig = section(EvaluationJobConfig)

    def check(self) -> None:
        """Raise UserError for settings that contradict each other."""
        if self.gpu_type and not self.gpus_per_node:
            raise UserError(f"slurm.gpu_type={self.gpu_type}, but slurm.gpus_per_node=0")
        if self.hours * 3600 < 2 * self.warn_s and self.hours * 3600 < self.warn_s + 30:
            raise UserError(
                f"slurm.hours={self.hours:g} is {self.hours * 3600:.0f} s, within which "
                f"slurm.warn_s={self.warn_s} "
                f"leaves no time to run"
            )
        for name in self.options:
            owner = _OWN.get(name.replace("-", "_"))
            if owner:
                raise UserError(f"slurm.options.{name} is set by {owner}")

    @property
    def ranks(self) -> int:
        """Processes of a training run on each node."""
        return self.ranks_per_node or max(1, self.gpus_per_node)

    def for_evaluation(self, name: str | None = None) -> "SlurmConfig":
        """Return the settings of one evaluation job of a run with these, whose cores are set."""
        wanted = self.evaluate
        gpus = wanted.gpus if wanted.gpus is not None else min(1, self.gpus_per_node)
        cores = self.cores_per_node or 1
        share = (
            max(1, cores * gpus // self.gpus_per_node)
            if gpus and self.gpus_per_node
            else min(FEW_CORES, cores)
        )
        # Nodes of its own are for training.
        options = {key: value for key, value in self.options.items() if key != "exclusive"}
        return dataclasses.replace(
            self,
            nodes=1,
            ranks_per_node=1,
            gpus_per_node=gpus,
            gpu_type=self.gpu_type if gpus else None,
            name=name,
            cores_per_node=wanted.cores or share,
            memory_gb=wanted.memory_gb,
            hours=wanted.hours,
            options=options,
            jobs=1,
            partition=wanted.partition or self.partition,
            warn_s=min(self.warn_s, max(10, int(wanted.hours * 600))),
        )

    @property
    def minutes(self) -> int:
        """The time limit as SLURM counts it."""
        return max(1, round(self.hours * 60))


# Options of sbatch that have a key of their own, or that the supervisor rests on.
_OWN = {
    "nodes": "slurm.nodes",
    "gpus_per_node": "slurm.gpus_per_node",
    "cpus_per_task": "slurm.cores_per_node",
    "mem": "slurm.memory_gb",
    "time": "slurm.hours",
    "partition": "slurm.partition",
    "account": "slurm.account",
    "qos": "slurm.qos",
    "constraint": "slurm.constraint",
    "job_name": "slurm.name",
    "signal": "slurm.warn_s",
    "array": "slurm.jobs and slurm.at_once",
    "ntasks_per_node": "the supervisor, one a node",
    "ntasks": "the supervisor, one a node",
    "requeue": "the supervisor",
    "no_requeue": "the supervisor",
    "open_mode": "the supervisor",
    "output": "the supervisor",
    "error": "the supervisor",
    "comment": "the supervisor",
}


def from_flat(values: dict[str, Any]) -> SlurmConfig:
    """Return the SlurmConfig of {dotted key: value}, as a job's record holds it."""
    inner = {
        name.removeprefix("evaluate."): value
        for name, value in values.items()
        if name.startswith("evaluate.")
    }
    rest = {name: value for name, value in values.items() if not name.startswith("evaluate.")}
    return SlurmConfig(**rest, evaluate=EvaluationJobConfig(**inner))
