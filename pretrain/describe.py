"""What the commands of pre-training say of themselves to ``python -m slurm``.

See engine.run.job_description.
"""

from pathlib import Path

from data.describe import CLIP_TRAINING, Evaluation, describe_clip_training
from engine.errors import UserError
from engine.run.job_description import (
    Command,
    CommandTraits,
    JobDescription,
    Words,
    answer,
    describe_keys,
)
from engine.training import eval_jobs
from pretrain.verb_config import ProbeCommand

TRAIN: Words = ("pretrain", "train")
PROBE: Words = ("pretrain", "probe")
PROBING = CommandTraits(folder_key="out", takes_config=False, results="probes/{step}.json")


def describe_training(line: list[str]) -> JobDescription:
    """Return what a run says of a command line; reads the indexes of its shards."""
    from data.loading.build import open_order
    from pretrain.config import PretrainConfig

    evaluation = Evaluation(PROBE, ProbeCommand)
    return describe_clip_training(PretrainConfig, line, TRAIN, open_order, evaluation)


def describe_probe(line: list[str]) -> JobDescription:
    """Return what a probe says of a command line."""
    return describe_keys(ProbeCommand, line, PROBE, find_results, least=1)


def find_results(config: ProbeCommand, sources: list[str]) -> str:
    """Return the path of a probe's results, beside which a cluster's job keeps its record.

    That is ``out``, or beside the checkpoints of the first source.

    Raises:
        UserError: a source is not there, or there is no such path.
    """
    found = eval_jobs.run_of(sources[0])
    for source in sources:
        if not Path(source).exists():
            raise UserError(
                f"there is nothing at {source}; weights are read from disk, nothing is downloaded"
            )
    if not config.out and not Path(sources[0]).is_dir():
        raise UserError(
            f"out= is not set, beside which the record of a job for {sources[0]} would stand"
        )
    return config.out or (
        f"{found[0]}/probe-{Path(sources[0]).resolve().name}" if found else f"{sources[0]}/probe"
    )


COMMANDS = {
    TRAIN: Command(CLIP_TRAINING, describe_training),
    PROBE: Command(PROBING, describe_probe),
}

if __name__ == "__main__":
    answer(COMMANDS)
