"""What commands that make shards, and runs that read them, say to ``python -m slurm``.

See engine.run.job_description.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from data.config import ClipTrainConfig
from data.storage.cache import CacheConfig
from data.storage.catalogue import list_shards
from data.storage.shard_store import Store
from engine.config.parser import flat
from engine.errors import Failure, UserError
from engine.run.job_description import (
    Command,
    CommandTraits,
    JobDescription,
    Words,
    answer,
    describe_config,
    describe_evaluation,
    parse_line,
)

if TYPE_CHECKING:
    from data.sampling.order import Order

MAKE: Words = ("data", "make")
FIND: Words = ("data", "find")
PAIRS: Words = ("data", "pairs")
LABELS: Words = ("data", "labels")
TRAITS = CommandTraits(folder_key="out", takes_part=True)
NAMED = CommandTraits(folder_key="out", takes_part=True, takes_config=False)
CLIP_TRAINING = CommandTraits(folder_key="run", trains=True)
TrainsOnClips = TypeVar("TrainsOnClips", bound=ClipTrainConfig)


def describe_make(line: list[str]) -> JobDescription:
    """Return what ``data make`` says of a command line."""
    from data.people.config import PeopleConfig

    return describe_config(PeopleConfig, line, MAKE, TRAITS.folder_key)[1]


def describe_find(line: list[str]) -> JobDescription:
    """Return what ``data find`` says of a command line."""
    from data.find.command import FindRunConfig

    config, _ = parse_line(FindRunConfig, line, FIND)
    return JobDescription(line, flat(config), config.out)


def describe_pairs(line: list[str]) -> JobDescription:
    """Return what ``data pairs`` says of a command line."""
    from data.sources.config import PairsConfig

    return describe_config(PairsConfig, line, PAIRS, TRAITS.folder_key)[1]


def describe_labels(line: list[str]) -> JobDescription:
    """Return what ``data labels NAME`` says of a command line."""
    from data.sources.labelled import LABELLED

    if not line or "=" in line[0]:
        raise UserError(f"name the source: {', '.join(LABELLED.list_names())}")
    words = (*LABELS, line[0])
    config, _ = parse_line(LABELLED.find(line[0]), line[1:], words)
    return JobDescription(line, flat(config), config.out)


@dataclass(frozen=True)
class Evaluation:
    """The command that evaluates a run's checkpoints.

    Attributes:
        words: the command's.
        schema: the dataclass of its keys.
    """

    words: Words
    schema: type


def describe_clip_training(
    schema: type[TrainsOnClips],
    line: list[str],
    words: Words,
    open_order: Callable[[Any, int, int], "Order"],
    evaluation: Evaluation,
) -> JobDescription:
    """Return what a training run on clips says of a command line; reads its shards' indexes.

    Args:
        schema: the dataclass of the run's keys.
        line: the command's arguments.
        words: the command's.
        open_order: (config.data, batch, seed) to the order of its samples.
        evaluation: of its checkpoints.
    """
    config, job = describe_config(schema, line, words, CLIP_TRAINING.folder_key)
    if config is None:
        return job
    try:
        order = open_order(config.data, config.batch, config.seed)
        job.notes.append(count_clips(order, config.batch))
    except Failure as error:
        job.faults.append(str(error))

    def check_evaluation(given: list[str]) -> None:
        parse_line(evaluation.schema, given[len(evaluation.words) :], evaluation.words, least=1)
        check_shards(config.evaluate.shards, config.data.cache)

    describe_evaluation(job, config, check_evaluation)
    return job


def count_clips(order: "Order", batch: int) -> str:
    """Return how much a run reads, in words.

    Args:
        order: data.sampling.order.Order.
        batch: clips of a step, over all processes.
    Raises:
        UserError: fewer clips than a batch has.
    """
    clips = sum(int(source.counts.sum()) for source in order.sources)
    shards = sum(len(source.paths) for source in order.sources)
    if clips < batch:
        raise UserError(f"batch={batch} is more than the {clips} clips of the shards")
    return f"{clips} clips in {shards} shards"


def check_shards(shards: str, cache: CacheConfig) -> None:
    """Raise a Failure where shards that are named are not there, or damaged."""
    if shards:
        list_shards(shards, Store(cache.open()))


COMMANDS = {
    MAKE: Command(TRAITS, describe_make),
    FIND: Command(NAMED, describe_find),
    PAIRS: Command(TRAITS, describe_pairs),
    LABELS: Command(NAMED, describe_labels),
}

if __name__ == "__main__":
    answer(COMMANDS)
