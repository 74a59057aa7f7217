"""What the commands of pre-training say of themselves to ``python -m slurm``.

See engine.run.job_description.
"""

from pathlib import Path

from data.describe import check_shards, count_clips
from engine.errors import Failure, UserError
from engine.run.job_description import (
    Command,
    CommandTraits,
    JobDescription,
    Words,
    answer,
    describe_config,
    describe_evaluation,
    describe_keys,
    parse_line,
)
from engine.training import eval_jobs
from pretrain.verb_config import ProbeCommand

TRAIN: Words = ("pretrain", "train")
PROBE: Words = ("pretrain", "probe")
TRAINING = CommandTraits(folder_key="run", trains=True)
PROBING = CommandTraits(folder_key="out", run_prefix="", results="probes/{step}.json")


def describe_training(line: list[str]) -> JobDescription:
    """Return what a run says of a command line; reads the indexes of its shards."""
    from data.loading.build import open_order
    from pretrain.config import PretrainConfig

    config, job = describe_config(PretrainConfig, line, TRAIN, TRAINING.folder_key)
    if config is None:
        return job
    try:
        order = open_order(config.data, config.batch, config.seed)
        job.notes.append(count_clips(order, config.batch))
    except Failure as error:
        job.faults.append(str(error))

    def check_evaluation(words: list[str]) -> None:
        parse_line(ProbeCommand, words[len(PROBE) :], PROBE, least=1)
        check_shards(config.evaluate.shards, config.data.cache)

    describe_evaluation(job, config, check_evaluation)
    return job


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
    TRAIN: Command(TRAINING, describe_training),
    PROBE: Command(PROBING, describe_probe),
}

if __name__ == "__main__":
    answer(COMMANDS)
