"""The keys of ``python -m finetune evaluate``, and where its results go. Nothing here imports
torch."""

from dataclasses import dataclass
from pathlib import Path

from engine.config.parser import key, section
from engine.errors import UserError
from engine.training import eval_jobs

USAGE = "python -m finetune evaluate run=DIR [data.shards=DIR] [without=DIR] [key=value ...]"


@dataclass
class EvaluateDataConfig:
    shards: str = key(
        "",
        "labelled shards; clips that the run was trained on are left out; default: those of the "
        "run",
        path="several",
    )


@dataclass
class EvaluateConfig:
    run: str = key("", "a fine-tuning run, or one of its checkpoints", path="one")
    without: str = key(
        "", "the same training without pre-training, for a row of the table", path="one"
    )
    out: str = key("", "folder for the results; default: RUN/evaluation", path="one")
    log: bool = key(
        False,
        "put the numbers into the run's log too, at the checkpoint's step; out is then "
        "RUN/evaluations/step-X",
    )
    clips: int = key(64, "clips, at most", low=1)
    examples: int = key(
        2, "of the best, of the median and of the worst crops that are drawn", low=1
    )
    device: str = key("auto", "where to run", choices=("auto", "cpu", "cuda"))
    allow_commands: bool = key(False, "run the commands (pipe:) that RUN's config names as shards")
    data: EvaluateDataConfig = section(EvaluateDataConfig)


def place(config: EvaluateConfig, paths: list[str]) -> str:
    """Returns where python -m slurm keeps its record of this command: beside the results.

    Args:
        paths: that were given; none are taken.
    Raises:
        UserError: there is no such run.
    """
    if not config.run:
        raise UserError(f"run= is not set; usage: {USAGE}")
    if not Path(config.run).is_dir():
        raise UserError(f"run={config.run}: there is no such folder")
    return str(find_results(config))


def find_results(config: EvaluateConfig) -> Path:
    """Returns where results go: ``out``, or RUN/evaluation, or for one checkpoint
    RUN/evaluation-step-X or RUN/evaluations/step-X."""
    run = Path(config.run)
    if config.out:
        return Path(config.out)
    if config.log:
        return Path(eval_jobs.place(*eval_jobs.run_of(run)))
    if (run / "model.safetensors").is_file():
        return run.resolve().parents[1] / f"evaluation-{run.name}"
    return run / "evaluation"
