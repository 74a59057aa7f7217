"""Keeps what is tested apart from what is trained on, frame by frame.

A training clip is left out where one of its crops was taken of the same person, in the same
recording, by the same camera, within NEAR_S of a validation clip's crop; or where it looks like a
validation crop of the same source (at most NEAR_BITS of 64 bits apart: the same footage under
another name). Rendered clips share no frames and cost nothing. Both are read off the indexes
(data.format.moments), not off images: looks are computed when crops are cut.

Cost, once at a run's start: the indexes of all shards where there are filmed validation clips, and
for each filmed training crop a comparison with each look that is held out, about 1 ns
(docs/scale.md).
"""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from data.format.index import with_moments
from data.format.looks import count_bits
from data.format.moments import Moments, join_moments
from data.sampling.left_out import LeftOut
from data.sampling.order import Order
from data.storage import fetch
from data.storage.catalogue import THREADS
from data.storage.shard_store import Store
from engine.errors import UserError
from engine.logging.console import get_logger

NEAR_S, NEAR_BITS = 0.5, 6
SLACK_S = 1e-6  # times are stored to a microsecond
AT_ONCE = 1 << 22  # comparisons of looks, 8 bytes each

log = get_logger(__name__)


@dataclass(frozen=True)
class Frames:
    """What a set of crops shows, made ready to be compared with.

    Attributes:
        places: (P,) increasing.  keys: times of all places on one line, increasing: a place's
            number times ``span`` plus the time since ``first_s``.
        looks: {kin: (n,) uint64}.
    """

    places: np.ndarray
    keys: np.ndarray
    first_s: float
    span: float
    looks: dict[int, np.ndarray]

    @classmethod
    def of(cls, rows: Moments) -> "Frames":
        """The frames that some rows show."""
        known = rows.take(rows.place != 0)
        places, number = np.unique(known.place, return_inverse=True)
        first = float(known.time_s.min(initial=np.inf)) if len(known) else 0.0
        span = (float(known.time_s.max()) - first if len(known) else 0.0) + 4 * NEAR_S
        keys = np.sort(number * span + known.time_s - first)
        looks = {}
        for kin in np.unique(rows.kin).tolist():
            mine = rows.look[(rows.kin == kin) & (rows.look != 0)]
            looks[kin] = np.unique(mine)
        return cls(places, keys, first, span, looks)

    def share_moment(self, rows: Moments) -> np.ndarray:
        """(n,) bool of the rows that were taken when and where these were."""
        if not len(self.places):
            return np.zeros(len(rows), bool)
        at = np.minimum(np.searchsorted(self.places, rows.place), len(self.places) - 1)
        # Outside of what is known by more than NEAR_S, but not as far as the next place's times.
        since = np.clip(rows.time_s - self.first_s, -1.5 * NEAR_S, self.span - 2.5 * NEAR_S)
        key = at * self.span + since
        after = np.searchsorted(self.keys, key)
        ends = np.abs(self.keys[np.minimum(after, len(self.keys) - 1)] - key)
        starts = np.abs(self.keys[np.maximum(after - 1, 0)] - key)
        near = np.minimum(ends, starts) <= NEAR_S + SLACK_S
        return near & (self.places[at] == rows.place) & (rows.place != 0)

    def look_alike(self, rows: Moments) -> np.ndarray:
        """(n,) bool of the rows that look like one of these, of the same source."""
        alike = np.zeros(len(rows), bool)
        for kin, looks in self.looks.items():
            mine = np.flatnonzero((rows.kin == kin) & (rows.look != 0))
            step = max(1, AT_ONCE // max(1, len(looks)))
            for first in range(0, len(mine) if len(looks) else 0, step):
                part = mine[first : first + step]
                apart = count_bits(rows.look[part][:, None] ^ looks)
                alike[part] = (apart <= NEAR_BITS).any(1)
        return alike

    def find_shared(self, rows: Moments, clips: int) -> tuple[np.ndarray, np.ndarray]:
        """((clips,) bool of the clips that share a moment, the same of those that look alike)."""
        found = np.zeros((2, clips), bool)
        found[0, rows.clip[self.share_moment(rows)]] = True
        found[1, rows.clip[self.look_alike(rows)]] = True
        return found[0], found[1]


def leave_out_near(order: Order, store: Store) -> list[LeftOut]:
    """What each source of an order has to leave out of its training, for its validation clips.

    Raises:
        UserError: nothing would be left of a source.
    """
    frames = _frames_of(_held_places(order), store)
    if frames is None:
        return [LeftOut() for _ in order.sources]
    return [_leave_out_of(source, frames, store) for source in order.sources]


def _held_places(order):
    """[(path, index), ...] of the validation clips of an order."""
    places = []
    for source in order.sources:
        places += [(source.paths[shard], index) for shard, index in source.val]
    return places


def _leave_out_of(source, frames, store):
    """The LeftOut of one source."""
    parts, unknown, moments, looks = [], 0, 0, 0
    trained = [shard for shard, count in enumerate(source.counts.tolist()) if count]
    found = _moments([source.paths[shard] for shard in trained], store)
    for shard, rows in zip(trained, found, strict=True):
        if rows is None:
            unknown += 1
            continue
        count = int(source.counts[shard])
        moment, look = frames.find_shared(rows.take(rows.clip < count), count)
        parts.append([(shard, index) for index in np.flatnonzero(moment | look).tolist()])
        moments, looks = moments + int(moment.sum()), looks + int((look & ~moment).sum())
    if unknown:
        log.info(
            f"note: source {source.name}: {unknown} remote shards have an index of an older "
            "version: whether their clips share frames with validation clips is not known"
        )
    pairs = np.array(sum(parts, []), np.int64).reshape(-1, 2)
    left, total = LeftOut(pairs[:, 0], pairs[:, 1], moments, looks), int(source.counts.sum())
    if total and len(left) == total:
        raise UserError(
            f"source '{source.name}': all {total} training clips share frames with its "
            f"{len(source.val)} validation clips (one short recording); data.val_clips=0 trains on "
            "all of them, without validation"
        )
    return left


def describe_left_out(name: str, left: LeftOut, total: int) -> str | None:
    """A line on what a source leaves out; None where that is nothing.

    Args:
        total: training clips of the source before.
    """
    if not len(left):
        return None
    words = (
        f"source {name}: {len(left)} of {total} training clips are left out: {left.moments} show a "
        f"person within {NEAR_S:g} s of a validation clip of the same camera, {left.looks} more "
        f"look like one"
    )
    if len(left) > total / 2:
        words += (
            "; that is most of them: validation clips are the last of a source, so keep clips in "
            "order of time (no data shuffle), or set data.val_clips lower"
        )
    return words


def drop_near(
    order: Order,
    trained: dict[str, int],
    left_out: dict[str, np.ndarray],
    store: Store,
    others: Mapping[str, str] | None = None,
) -> int:
    """Take the validation clips of an order that share frames with what was trained on from it.

    Args:
        trained: {digest of a shard: how many of its first clips were trained on}.
        left_out: {digest: numbers of clips among them that were not, after all}.
        others: {digest: path} of shards that were trained on, beside those of the order.
    Returns:
        how many were taken away.
    """
    if _frames_of(_held_places(order), store) is None:
        return 0
    paths = dict(others or {})
    for source in order.sources:
        paths |= zip(source.digests, source.paths, strict=True)
    here = {digest: path for digest, path in paths.items() if trained.get(digest)}
    frames = _trained_frames(here, trained, left_out, store)
    if frames is None:
        return 0
    dropped = 0
    for source in order.sources:
        used = sorted({shard for shard, _ in source.val})
        rows = _moments([source.paths[shard] for shard in used], store)
        shared = {}
        for shard, found in zip(used, rows, strict=True):
            if found is not None:
                most = int(found.clip.max(initial=-1)) + 1
                shared[shard] = np.logical_or(*frames.find_shared(found, most))
        kept = [place for place in source.val if not _is_in(shared, *place)]
        dropped += len(source.val) - len(kept)
        source.val = kept
    return dropped


def _trained_frames(paths, trained, left_out, store):
    """The Frames of what was trained on of shards {digest: path}; None where nothing was filmed."""
    parts = []
    for digest, rows in zip(paths, _moments(list(paths.values()), store), strict=True):
        if rows is not None:
            gone = np.isin(rows.clip, left_out.get(digest, np.zeros(0, np.int64)))
            parts.append(rows.take((rows.clip < trained[digest]) & ~gone))
    return _join_frames(parts)


def _is_in(shared, shard, index):
    return shard in shared and index < len(shared[shard]) and bool(shared[shard][index])


def _frames_of(places: Sequence[tuple[str, int]], store: Store) -> Frames | None:
    """The Frames of clips at (path, index); None where none of them was filmed."""
    by_path: dict[str, list[int]] = {}
    for path, index in places:
        by_path.setdefault(path, []).append(index)
    parts = []
    for indexes, rows in zip(by_path.values(), _moments(list(by_path), store), strict=True):
        if rows is not None:
            parts.append(rows.take(np.isin(rows.clip, indexes)))
    return _join_frames(parts)


def _join_frames(parts):
    rows = join_moments(parts)
    if not ((rows.place != 0) | (rows.look != 0)).any():
        return None
    return Frames.of(rows)


def _moments(paths: Sequence[str], store: Store) -> Iterable[Moments | None]:
    """Yield the Moments of each shard; None of a remote one whose index has none."""
    at_once = 4 * THREADS  # so many indexes are open at most
    with ThreadPoolExecutor(THREADS) as pool:
        for first in range(0, len(paths), at_once):
            yield from pool.map(lambda path: _read(path, store), paths[first : first + at_once])


def _read(path, store):
    index = store.read_index(path)
    if index.moments is None and not fetch.is_remote(path):
        index = with_moments(index)
    if index.moments is None:
        return None
    # Copies, for a view would keep the index mapped, and its file open.
    return index.moments.take(np.arange(len(index.moments)))
