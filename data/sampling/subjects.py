"""Who is in which clips: whether a list of names matches, and whether sets share people.

People are compared by data.format.names.mark, which an index holds of each clip, so that no clip is
read.
"""

import difflib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from data.format.clip import decode_meta
from data.format.index import with_people
from data.format.names import mark, normalise
from data.sampling.frame_order import FrameOrder
from data.sampling.order import Order
from data.sampling.seen import Seen
from data.storage import fetch
from data.storage.catalogue import THREADS, list_shards
from data.storage.shard_store import Store
from engine.errors import UserError
from engine.logging.console import get_logger

log = get_logger(__name__)

LOOKED_AT = 20_000  # clips, at most, whose names are read to find the one that was meant
SHOWN = 5  # names of a list that matched nobody


def match_names(names: frozenset[str], paths: list[str], store: Store, key: str) -> dict[str, int]:
    """{name: clips} of the people whom a list names, in all of some shards.

    Args:
        names: normalised.  key: "data.exclude=FILE", for messages.
    Raises:
        UserError: nobody in the shards has one of the names; it tells the nearest one. Where the
            people of some shards are not known, a note says so in its place.
    """
    counts = dict.fromkeys(map(mark, names), 0)
    wanted, unknown = np.array(list(counts), np.uint64), []
    for path, people in people_of(paths, store):
        if people is None:
            unknown.append(path)
            continue
        for who in people[np.isin(people, wanted)].tolist():
            counts[who] += 1
    found = {name: counts[mark(name)] for name in sorted(names)}
    missing = [name for name, count in found.items() if not count]
    if missing and unknown:
        log.info(
            "note: %s names %d subjects, such as '%s', who were not found; %d shards, such as %s, "
            "have an index of an older version, in which people are not listed (`python -m data "
            "index` makes it anew where the shards are): clips there are left out, but not counted",
            key,
            len(missing),
            missing[0],
            len(unknown),
            unknown[0],
        )
    elif missing:
        known = _some_names(paths, store)
        words = ", ".join(f"'{name}' ({_nearest(name, known)})" for name in missing[:SHOWN])
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        raise UserError(
            f"{key} names {words}{more}, but none of the clips in {len(paths)} shards "
            f"is of that subject; correct the name, or take it out if the clips are "
            f"already gone"
        )
    return found


def describe_excluded(found: dict[str, int], path: str) -> str:
    """One line on what match_names found of the list in a file."""
    matched = sum(count > 0 for count in found.values())
    return (
        f"excluded: {sum(found.values())} clips of {matched} subjects, by {len(found)} names "
        f"in {path}"
    )


def people_of(paths: list[str], store: Store) -> Iterator[tuple[str, np.ndarray | None]]:
    """Yield each shard's path and its clips' people, in the order of ``paths``.

    People are (n,) uint64 marks, 0 where a clip's JSON is unreadable; None of a remote shard
    whose index does not list them, for which all its clips would have to be fetched.
    """
    at_once = 4 * THREADS  # so many indexes are open at most
    with ThreadPoolExecutor(THREADS) as pool:
        for first in range(0, len(paths), at_once):
            part = paths[first : first + at_once]
            indexes = pool.map(lambda path: _index(path, store), part)
            for path, index in zip(part, indexes, strict=True):
                # A copy, for a view would keep the index mapped, and its file open.
                yield path, None if index.people is None else np.array(index.people)


def _index(path, store):
    index = store.read_index(path)
    return with_people(index) if not fetch.is_remote(path) else index


def _name(path, index, i, store):
    """The subject of a clip; None where its JSON is unreadable."""
    members = index.members(i)
    if "json" not in members:
        return None
    try:
        return decode_meta(store.read(path, *members["json"]), f"{path}:{index.keys[i]}").subject
    except ValueError:
        return None


def name_at(path: str, i: int, store: Store) -> str:
    """The subject of clip ``i`` of a shard, as it is written there."""
    return _name(path, store.read_index(path), i, store) or "nobody knows who"


def _some_names(paths, store):
    """Names of the people of up to LOOKED_AT clips, evenly from all shards."""
    found, each = set(), max(1, LOOKED_AT // len(paths))
    for path in paths[:LOOKED_AT]:
        index = store.read_index(path)
        chosen = np.linspace(0, len(index) - 1, min(each, len(index))).astype(int)
        names = (_name(path, index, i, store) for i in chosen.tolist())
        found |= {normalise(name) for name in names if name is not None}
    return found


def _nearest(name, known):
    folded = {other.casefold(): other for other in sorted(known)}
    near = difflib.get_close_matches(name.casefold(), folded, 1, 0.6)
    if near:
        return f"did you mean '{folded[near[0]]}'?"
    return f"subjects there are such as '{min(known)}'" if known else "no name there is readable"


def list_people(sources: list, known: Seen, store: Store) -> Seen:
    """The people of the clips that a run's sources are trained on, to be added to what is known.

    Of remote shards the indexes are not fetched for it: they stay unlisted.

    Args:
        sources: data.sampling.manifest.SourceManifest of each; their validation clips do not count.
        known: whose ``listed`` shards are not read again.
    """
    wanted = {}
    for source in sources:
        for path, count, digest in zip(source.paths, source.counts, source.digests, strict=True):
            if count and digest not in known.listed and not fetch.is_remote(path):
                wanted[path] = int(count), digest
    people: set[int] = set()
    for path, marks in people_of(list(wanted), store):
        if marks is not None:  # a local tar's always are
            people.update(np.unique(marks[: wanted[path][0]]).tolist())
    return Seen(people=frozenset(people - {0}), listed=frozenset(d for _, d in wanted.values()))


def leave_out_people(
    order: Order | FrameOrder, people: frozenset[int], store: Store
) -> tuple[int, int]:
    """Take the validation clips of some people away from an order.

    Args:
        order: data.sampling.order.Order.  people: marks, as in data.sampling.seen.Seen.
    Returns:
        clips that were taken away; the number of shards whose people are not known.
    """
    gone = unknown = 0
    trained = np.array(sorted(people), np.uint64)
    for source in order.sources:
        used = sorted({shard for shard, _ in source.val})
        marks = [found for _, found in people_of([source.paths[shard] for shard in used], store)]
        unknown += sum(found is None for found in marks)
        seen = {
            shard: np.isin(found, trained)
            for shard, found in zip(used, marks, strict=True)
            if found is not None
        }
        kept = [(shard, i) for shard, i in source.val if shard not in seen or not seen[shard][i]]
        gone += len(source.val) - len(kept)
        source.val = kept
    return gone, unknown


def refuse_people(shards: str, people: frozenset[int], store: Store, key: str) -> None:
    """UserError where shards of a test show people that a training saw.

    Args:
        shards: see data.storage.catalogue.list_shards.  people: marks, as in
            data.sampling.seen.Seen.
        key: that names the test's shards, for messages.
    """
    if not people:
        return
    trained = np.array(sorted(people), np.uint64)
    shown: set[int] = set()
    example: tuple[str, int] | None = None
    for path, found in people_of(list_shards(shards, store)[0], store):
        if found is None:
            continue
        both = np.flatnonzero(np.isin(found, trained))
        if len(both) and example is None:
            example = path, int(both[0])
        shown.update(found[both].tolist())
    if example is not None:
        raise UserError(
            f"{key}: {len(shown)} people there are trained on too, such as "
            f"'{name_at(*example, store)}' in {example[0]}; a test wants people of "
            f"its own"
        )
