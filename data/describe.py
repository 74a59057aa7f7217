"""What commands that make shards, and runs that read them, say to ``python -m slurm``.

See engine.run.job_description.
"""

from typing import TYPE_CHECKING

from data.storage.cache import CacheConfig
from data.storage.catalogue import list_shards
from data.storage.shard_store import Store
from engine.errors import UserError
from engine.run.job_description import (
    Command,
    CommandTraits,
    JobDescription,
    Words,
    answer,
    describe_config,
)

if TYPE_CHECKING:
    from data.sampling.order import Order

MAKE: Words = ("data", "make")
PAIRS: Words = ("data", "pairs")
TRAITS = CommandTraits(folder_key="out", takes_part=True)


def describe_make(line: list[str]) -> JobDescription:
    """Return what ``data make`` says of a command line."""
    from data.people.config import PeopleConfig

    return describe_config(PeopleConfig, line, MAKE, TRAITS.folder_key)[1]


def describe_pairs(line: list[str]) -> JobDescription:
    """Return what ``data pairs`` says of a command line."""
    from data.sources.config import PairsConfig

    return describe_config(PairsConfig, line, PAIRS, TRAITS.folder_key)[1]


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


COMMANDS = {MAKE: Command(TRAITS, describe_make), PAIRS: Command(TRAITS, describe_pairs)}

if __name__ == "__main__":
    answer(COMMANDS)
