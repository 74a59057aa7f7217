"""Where a supervisor runs: on a node that SLURM gave to a job, or on this machine.

The only reader of SLURM's variables.
"""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Allocation:
    """What a supervisor knows of where it runs.

    Attributes:
        number: the job's, as SLURM_JOB_ID has it; None without SLURM.
        restart: how often SLURM started it again.
        display: the number that scontrol takes for this job alone, also as an element of an array;
            "" without SLURM.
        node: this node's number among the job's, from 0.
        name: of this node.
        address: of node 0.
        cores: of this node that are the job's; None: all that this process may use.
    """

    number: str | None = None
    restart: int = 0
    display: str = ""
    node: int = 0
    name: str = "this machine"
    address: str = "127.0.0.1"
    cores: int | None = None

    @property
    def identity(self) -> list[str | int | None]:
        """[job number or None, restart]: which start of which job this is."""
        return [self.number, self.restart]


# slurm.where=local, also inside an interactive allocation, whose variables are another job's.
THIS_MACHINE = Allocation()

# Variables of a job that a process runs in: sbatch, and srun in a new job, would take them for what
# is wanted.
OF_JOBS = (
    "SLURM_",
    "SRUN_",
    "SUBMITIT_",
    "PMI",
    "CUDA_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL",
)
OF_SITE = ("SLURM_CONF", "SLURM_CLUSTERS")


def leave_allocation() -> None:
    """Forget the job that this process runs in, such as an interactive one, for what it submits."""
    if "SLURM_JOB_ID" in os.environ:
        for name in list(os.environ):
            if name.startswith(OF_JOBS) and name not in OF_SITE:
                del os.environ[name]


def read_allocation() -> Allocation:
    """Return the Allocation of the job step that this process is a task of."""
    env = os.environ
    number, cores = env["SLURM_JOB_ID"], env.get("SLURM_CPUS_ON_NODE")
    display = number
    if "SLURM_ARRAY_JOB_ID" in env:
        # SLURM_JOB_ID does not do: that of the last element is the whole array's.
        display = f"{env['SLURM_ARRAY_JOB_ID']}_{env['SLURM_ARRAY_TASK_ID']}"
    return Allocation(
        number,
        int(env.get("SLURM_RESTART_COUNT", 0)),
        display,
        int(env.get("SLURM_NODEID", 0)),
        env.get("SLURMD_NODENAME", "this machine"),
        env.get("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1"),
        int(cores) if cores else None,
    )
