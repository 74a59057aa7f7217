"""Samples of a shard, one after the other, for what reads all of one."""

from collections.abc import Iterator

from data.format.index import build_index
from engine.errors import explain, failure_of


def read_samples(path: str) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yields (key, {suffix: bytes}) of a shard's clips in their order.

    Raises:
        UserError: it is no shard, or cannot be read.
    """
    index = build_index(path)
    try:
        with open(path, "rb") as file:
            for number, key in enumerate(index.keys.tolist()):
                members = {}
                for name, (start, length) in index.members(number).items():
                    file.seek(start)
                    members[name] = file.read(length)
                yield key, members
    except OSError as error:
        raise failure_of(error, f"cannot read shard {path}: {explain(error)}") from None
