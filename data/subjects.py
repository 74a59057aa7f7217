"""Who is in which clips: whether a list of names matches, and whether sets share people.

People are compared by data.names.mark, which an index holds of each clip, so that no clip is read.
"""

import difflib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from data import remote
from data.catalogue import THREADS
from data.index import build_index, index_path, save_index
from data.names import mark, normalise
from data.samples import decode_meta
from data.store import Store
from engine.errors import UserError

LOOKED_AT = 20_000  # clips, at most, whose names are read to find the one that was meant
SHOWN = 5  # names of a list that matched nobody


def match_names(names: frozenset[str], paths: list[str], store: Store, key: str) -> dict[str, int]:
    """{name: clips} of the people whom a list names, in all of some shards.

    Args:
        names: normalised.  key: "data.exclude=FILE", for messages.
    Raises:
        UserError: nobody in the shards has one of the names; it tells the nearest one.
    """
    counts = dict.fromkeys(map(mark, names), 0)
    wanted = np.array(list(counts), np.uint64)
    for _, people in people_of(paths, store):
        for who in people[np.isin(people, wanted)].tolist():
            counts[who] += 1
    found = {name: counts[mark(name)] for name in sorted(names)}
    missing = [name for name, count in found.items() if not count]
    if missing:
        known = _some_names(paths, store)
        words = ", ".join(f"'{name}' ({_nearest(name, known)})" for name in missing[:SHOWN])
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        raise UserError(f"{key} names {words}{more}, but none of the clips in {len(paths)} shards "
                        f"is of that subject; correct the name, or take it out if the clips are "
                        f"already gone")
    return found


def people_of(paths: list[str], store: Store) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each shard's path and its clips' people, in the order of ``paths``.

    People are (n,) uint64 marks, 0 where a clip's JSON is unreadable.
    """
    at_once = 16 * THREADS  # so many indexes are held at most
    with ThreadPoolExecutor(THREADS) as pool:
        for first in range(0, len(paths), at_once):
            part = paths[first:first + at_once]
            indexes = pool.map(lambda path: _index(path, store), part)
            for path, index in zip(part, indexes, strict=True):
                yield path, _people(path, index, store)


def _index(path, store):
    index = store.read_index(path)
    if index.people is None and not remote.is_remote(path):
        index = build_index(path)  # one of before people were kept in it: made anew, once
        save_index(index, index_path(path))
    return index


def _people(path, index, store):
    if index.people is not None:
        return np.asarray(index.people)
    names = (_name(path, index, i, store) for i in range(len(index)))
    return np.array([0 if name is None else mark(name) for name in names], np.uint64)


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


def trained_people(sources: list, store: Store) -> np.ndarray:
    """(n,) uint64, sorted: marks of all people of the clips that a run's sources are trained on.

    Args:
        sources: data.manifest.SourceManifest of each; their held-out clips do not count.
    """
    counts = {}
    for source in sources:
        counts |= dict(zip(source.paths, source.counts.tolist(), strict=True))
    parts = [np.unique(people[:counts[path]]) for path, people in people_of(list(counts), store)]
    found = np.unique(np.concatenate(parts)) if parts else np.zeros(0, np.uint64)
    return found[found > 0]


def leave_out_people(order, people: np.ndarray, store: Store) -> int:
    """Take the held-out clips of some people away from an order; returns how many clips that were.

    Args:
        order: data.order.Order.  people: marks, as of trained_people.
    """
    gone = 0
    for source in order.sources:
        used = sorted({shard for shard, _ in source.held_out})
        marks = people_of([source.paths[shard] for shard in used], store)
        seen = {shard: np.isin(found, people) for shard, (_, found) in zip(used, marks, strict=True)}
        kept = [place for place in source.held_out if not seen[place[0]][place[1]]]
        gone += len(source.held_out) - len(kept)
        source.held_out = kept
    return gone
