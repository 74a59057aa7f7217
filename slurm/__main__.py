"""``python -m slurm VERB ...``: submits a verb of another package.

It also looks after what was submitted.
"""

from collections.abc import Sequence

from engine.cli import run
from engine.commands import Package, Verb, run_package

KEYS = "[key=value ...] [slurm.key=value ...] [--dry-run]"
USUAL = ("nodes", "gpus_per_node", "hours", "partition", "account", "site", "where", "jobs")
TRAINING = "submit it: a job that resumes, or one for each value of a sweep"
MAKING = "submit it: a job, or slurm.jobs=N that share the work"
EVALUATION = "submit it: a job, or one for each checkpoint"


def submitted(command: str, summary: str, arguments: str, example: str) -> Verb:
    """Returns the verb that submits a command of another package."""
    return Verb(
        command,
        "slurm.submit.submit:main",
        summary,
        f"{arguments} {KEYS}",
        example,
        keys="slurm.config:SlurmConfig",
        usual=USUAL,
        prefix="slurm.",
        takes_config=arguments.startswith("CONFIG"),
        whole=True,
    )


PACKAGE = Package(
    "slurm",
    "Send a command to a SLURM cluster, and look after it. Where there is no sbatch, it runs here.",
    (
        submitted(
            "pretrain train",
            TRAINING,
            "CONFIG run=DIR [sweep.KEY=A,B] [evaluate.every=N]",
            "body_vitb run=runs/body data.shards=DIR slurm.nodes=8 slurm.gpus_per_node=8 "
            "slurm.hours=20",
        ),
        submitted(
            "finetune train",
            TRAINING,
            "CONFIG run=DIR init=RUN [sweep.KEY=A,B] [evaluate.every=N]",
            "body_vitb run=runs/mesh init=runs/body data.shards=DIR sweep.optim.lr=1e-4,2e-4",
        ),
        submitted(
            "pretrain probe",
            EVALUATION,
            "RUN shards=DIR [checkpoints=all]",
            "runs/body shards=DIR checkpoints=all",
        ),
        submitted(
            "finetune evaluate",
            EVALUATION,
            "RUN [checkpoints=all]",
            "runs/mesh checkpoints=all",
        ),
        submitted(
            "data make",
            MAKING,
            "CONFIG out=DIR",
            "people_body out=shards/body slurm.jobs=16",
        ),
        submitted(
            "data find",
            MAKING,
            "videos=DIR out=DIR",
            "videos=DIR out=shards/video slurm.jobs=16",
        ),
        submitted(
            "data pairs",
            MAKING,
            "CONFIG videos=DIR out=DIR",
            "video videos=DIR out=shards/video slurm.jobs=16",
        ),
        submitted(
            "data labels",
            MAKING,
            "NAME root=DIR out=DIR",
            "coco root=DIR out=shards/coco slurm.jobs=16",
        ),
        Verb(
            "status",
            "slurm.status.status:main",
            "show the state of a run or a sweep, or of all jobs in the queue",
            "[RUN]",
            "runs/body",
        ),
        Verb(
            "logs",
            "slurm.status.manage:logs",
            "show what a process of a run said, or its batch script and supervisor",
            "RUN [--rank N | --job] [--follow]",
            "runs/body --rank 3 --follow",
        ),
        Verb(
            "evaluate",
            "slurm.submit.evaluate:main",
            "submit the evaluations of a run that failed or could not be sent",
            "RUN",
            "runs/body",
        ),
        Verb(
            "cancel",
            "slurm.status.manage:cancel",
            "end a run; it stays cancelled",
            "RUN",
            "runs/body",
        ),
        Verb(
            "requeue",
            "slurm.status.manage:requeue",
            "save a run and queue it again; one that has ended resumes",
            "RUN",
            "runs/body",
        ),
    ),
    example="slurm pretrain train body_vitb run=runs/body data.shards=DIR slurm.nodes=8",
    notes=(
        "slurm.site=FILE, or the variable COUNTERPOSE_SITE: the settings of a site (configs/slurm)",
        "--dry-run: print the script and the resolved config, submit nothing",
    ),
    default="pretrain train",
)


def main(argv: Sequence[str]) -> int:
    """Runs a verb of this package; returns its exit code."""
    return run_package(PACKAGE, argv)


if __name__ == "__main__":
    run(main)
