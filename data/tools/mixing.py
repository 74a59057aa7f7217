"""``python -m data mixing``: how well batches are mixed.

Beside a full shuffle of the same clips.
"""

import contextlib
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from data.format.clip import decode_meta
from data.format.frame import decode_frame
from data.format.index import PAIR_KINDS, aspects_of, read_index
from data.sampling.frame_order import FrameOrder
from data.sampling.manifest import SourceManifest, read_manifest
from data.sampling.order import Order, default_lanes
from data.sampling.pairs import offer_bits
from data.storage.cache import CacheConfig
from data.storage.shard_store import Store
from data.tools.inspect import look, spread_over_processes
from engine.config.parser import key, parse_keys, section
from engine.errors import explain, failure_of
from engine.logging.console import get_logger

log = get_logger(__name__)

GROUPS = ("shard", "source", "subject", "video")
FRAME_GROUPS = ("shard", "source", "scene")  # of whole frames, in which several people are
# A batch in which each row has c others of its video beside it is worth as little as 1 / (1 + c) of
# its rows. Up to this factor below a full shuffle is called fine.
WORTH = 1.25
LARGER_POOLS = (4, 16)  # times data.pool_shards; each open pool costs a lane that many open files


@dataclass
class MixingConfig:
    """Holds the keys of ``python -m data mixing``."""

    batch: int = key(256, "pairs in a global batch, as in training", low=2)
    lanes: int | None = key(None, "data.lanes of the training; default: as there", low=1)
    pool_shards: float = key(4.0, "data.pool_shards of the training", low=0.01)
    batches: int = key(200, "batches that are counted, from the run's first on", low=1)
    seed: int = key(0, "the training's seed", low=0, high=2**63 - 1)
    cache: CacheConfig = section(CacheConfig)
    workers: int | None = key(
        None, "processes that read; default: the cores of this machine", low=1
    )


@dataclass
class Shares:
    """Shares of pairs of rows that have a group in common, each (G,): of GROUPS, or FRAME_GROUPS.

    Attributes:
        near, any: of neighbouring rows of a batch, and of any two, as drawn.  full_near, full_any:
            in a full shuffle.
    """

    near: np.ndarray
    any: np.ndarray
    full_near: np.ndarray
    full_any: np.ndarray


def main(argv: list[str]) -> int:
    """Print shares, ratios, and a sentence of advice."""
    config, named = parse_keys(MixingConfig, argv, "data mixing")
    source, shares = _manifest(named, config.cache)
    order = open_order(
        source, shares, config, config.pool_shards
    )  # a batch that does not divide is reported at once
    read = list(
        spread_over_processes(
            partial(look, groups_of_shard, config.cache), source.paths, config.workers, "mixing"
        )
    )
    groups, unreadable = join([rows for rows, _ in read]), sum(bad for _, bad in read)
    drawn = measure(order, groups, config.batches)
    print(describe(drawn, groups, order, config))
    if unreadable:
        log.warning(
            "%d %s have unreadable JSON and count as alone in their groups; python -m data verify "
            "names them",
            unreadable,
            _name_samples(order),
        )
    larger = [
        config.pool_shards * times
        for times in LARGER_POOLS
        if config.pool_shards < len(source.paths)
    ]
    tried = (
        (pool, measure(open_order(source, shares, config, pool), groups, config.batches))
        for pool in larger
    )
    print(advice(drawn, tried, config))
    return 0


def _manifest(named, cache):
    """Return (SourceManifest of all shards, shares of the kinds of pairs).

    As training on all crops has them.
    """
    source = read_manifest("all", named, 0, offer_bits("any"), Store(cache.open()))
    if not source.offers:
        source.offers = [0]  # labelled crops without pairs: all slots are of one kind
    return source, [float(kind in source.offers) for kind in range(len(PAIR_KINDS))]


def _name_samples(order: Order | FrameOrder) -> str:
    return "frames" if isinstance(order, FrameOrder) else "clips"


def open_order(
    source: SourceManifest, shares: Sequence[float], config: MixingConfig, pool_shards: float
) -> Order | FrameOrder:
    """The order that training would read one source in."""
    store = Store(config.cache.open())
    if aspects_of(int(np.bitwise_or.reduce(store.index(source.paths[0]).offers))):
        indexes = {path: store.index(path) for path in source.paths}
        return FrameOrder(
            [source], [1.0], indexes, config.seed, config.batch, config.lanes, pool_shards
        )
    lanes = config.lanes or default_lanes(config.batch, shares)
    return Order([source], [1.0], shares, config.seed, config.batch, lanes, pool_shards)


def groups_of_shard(path: str) -> tuple[np.ndarray, int]:
    """Return ((n, 3) uint64 hashes of each clip's groups, clips whose JSON is unreadable).

    The groups are its source, subject and video; (n, 2) of whole frames, source and scene.

    Raises:
        UserError: the shard is cut off or no tar; see data.format.shards.read_index.
    """
    index, bad = read_index(path), 0
    frames = bool(aspects_of(int(np.bitwise_or.reduce(index.offers, initial=0))))
    tell, columns = (_tell_frame, 2) if frames else (_tell_clip, 3)
    out = np.zeros((len(index), columns), np.uint64)
    try:
        with open(path, "rb") as file:
            for i, name in enumerate(index.keys.tolist()):
                members, texts = index.members(i), None
                if "json" in members:
                    file.seek(members["json"][0])
                    with contextlib.suppress(ValueError):
                        texts = tell(file.read(members["json"][1]), path, name)
                bad += texts is None
                out[i] = [_hash(text) for text in texts or (f"{path}:{name}",) * columns]
    except OSError as error:
        raise failure_of(error, f"cannot read shard {path}: {explain(error)}") from None
    return out, bad


def _tell_clip(data: bytes, path: str, name: str) -> tuple[str, ...]:
    clip = decode_meta(data, f"{path}:{name}")
    return clip.source, clip.subject, video_of(clip.source, clip.subject, name)


def _tell_frame(data: bytes, path: str, name: str) -> tuple[str, ...]:
    frame = decode_frame(data, f"{path}:{name}")
    return frame.source, f"{frame.source}\n{frame.scene}"


def video_of(source: str, subject: str, name: str) -> str:
    """Return what names the recording that a clip is from.

    Its source, its subject, and its key without the number at the end.

    ``python -m data pairs`` ends a key with the clip's place in the video. The source keeps apart
    sets that name their videos alike, the subject keeps apart synthetic humans, each of whose clips
    is a recording of its own.
    """
    return "\n".join((source, subject, re.sub(r"[-_]?\d+$", "", name)))


def _hash(text):
    # 100 million texts take 800 MB so, and two of them are equal by chance once in 4000 such sets.
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def join(rows: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return [(clips, G) int64 of each shard].

    A clip's number in each of GROUPS, a frame's in each of FRAME_GROUPS, from groups_of_shard.
    """
    counts = [len(r) for r in rows]
    columns = [np.repeat(np.arange(len(rows)), counts), *np.concatenate(rows).T]
    numbered = np.stack([np.unique(column, return_inverse=True)[1] for column in columns], 1)
    return np.split(numbered, np.cumsum(counts)[:-1])


def measure(order: Order | FrameOrder, groups: Sequence[np.ndarray], batches: int) -> Shares:
    """The Shares of the first ``batches`` batches of an Order of one source.

    ``groups`` as join gives them.
    """
    size, width = order.batch, groups[0].shape[1]
    rows = np.zeros((size, width), np.int64)
    found = {name: np.zeros(width) for name in ("near", "any")}
    for t in range(batches):
        for j in range(size):
            draw = order.draw(t * size + j)
            rows[j] = groups[draw.shard][draw.index]
        found["near"] += (rows[1:] == rows[:-1]).sum(0)
        found["any"] += [_pairs(np.unique(column, return_counts=True)[1]) for column in rows.T]
    full = np.zeros((width, 2))
    for part, count in _list_shuffled(order, groups, batches):
        counts = [np.unique(column, return_counts=True)[1] for column in part.T]
        full += np.array([full_shuffle(c, size, count) for c in counts]) * (count / batches)
    return Shares(
        found["near"] / (batches * (size - 1)),
        found["any"] / (batches * _pairs(size)),
        full[:, 0],
        full[:, 1],
    )


def _list_shuffled(
    order: Order | FrameOrder, groups: Sequence[np.ndarray], batches: int
) -> Iterator[tuple[np.ndarray, int]]:
    """Yield ((n, G) of what is shuffled together, in how many of the batches it is).

    Clips all together; frames of each aspect apart, as no batch has several.
    """
    if isinstance(order, Order):
        yield np.concatenate(groups), batches
        return
    for aspect, count in Counter(order.aspect(step) for step in range(batches)).items():
        places = order.list_frames(0, aspect)
        part = [shard[own] for shard, own in zip(groups, places, strict=True)]
        yield np.concatenate(part), count


def full_shuffle(counts: np.ndarray, batch: int, batches: int) -> tuple[float, float]:
    """Return expected shares of (neighbouring, any two) rows with a group in common.

    Of a batch, for clips in full random order.

    Each epoch is a permutation of all clips. Two rows of one epoch are two different clips, two
    rows of different epochs are independent; a batch may lie across several epochs.

    Args:
        counts: clips of each group.
    """
    total = int(counts.sum())
    inside = _pairs(counts) / max(1, _pairs(total))
    across = float((counts / total) @ (counts / total))
    near = near_all = any_ = any_all = 0
    for t in range(batches):
        edges = np.arange(t * batch // total, ((t + 1) * batch - 1) // total + 2) * total
        rows = np.diff(np.clip(edges, t * batch, (t + 1) * batch))  # of this batch in each epoch
        near, near_all = near + int((rows - 1).sum()), near_all + batch - 1
        any_, any_all = any_ + _pairs(rows), any_all + _pairs(batch)

    def mix(part: int, whole: int) -> float:
        return part / whole * inside + (1 - part / whole) * across

    return mix(near, near_all), mix(any_, any_all)


def _pairs(counts):
    """How many pairs there are inside groups of these sizes, all together."""
    counts = np.asarray(counts, np.int64)
    return int((counts * (counts - 1) // 2).sum())


def beside(shares: Shares, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """((len(GROUPS),), the same): rows that share a row's group in its batch, on average.

    As drawn, and in a full shuffle.
    """
    return (batch - 1) * shares.any, (batch - 1) * shares.full_any


def _name_groups(shares: Shares) -> tuple[str, ...]:
    return GROUPS if len(shares.near) == len(GROUPS) else FRAME_GROUPS


def describe(
    shares: Shares, groups: Sequence[np.ndarray], order: Order | FrameOrder, config: MixingConfig
) -> str:
    """The table as text."""
    names = _name_groups(shares)
    what = _name_samples(order)
    counts = [len(np.unique(column)) for column in np.concatenate(groups).T]
    words = ", ".join(f"{n} {name}" + "s" * (n > 1) for n, name in zip(counts, names, strict=True))
    lines = [
        f"{order.totals[0]} {what}: {words}; {config.batches} batches of {order.batch} in "
        f"{order.lanes} lanes, "
        f"pool_shards={config.pool_shards:g}, seed={config.seed}",
        f"{'':10}{'neighbours of a batch':^33}   {'any two rows of a batch':^33}   "
        f"{'rows beside each':^21}",
        f"{'share a':10}"
        + 2 * f"{'drawn':>10}{'full shuffle':>14}{'ratio':>9}   "
        + f"{'drawn':>8}{'full shuffle':>14}",
    ]
    for g, name in enumerate(names):
        line = f"{name:10}"
        for drawn, full in (
            (shares.near[g], shares.full_near[g]),
            (shares.any[g], shares.full_any[g]),
        ):
            line += f"{drawn:10.5f}{full:14.5f}{_ratio(drawn, full):>9}   "
        rows = [part[g] for part in beside(shares, order.batch)]
        lines.append(line + f"{rows[0]:8.2f}{rows[1]:14.2f}")
    return "\n".join(lines)


def _ratio(drawn, full):
    return f"{drawn / full:.2f}" if full else "-" if not drawn else "inf"


def worst(shares: Shares, batch: int) -> tuple[float, str]:
    """Return (factor, name) of the subject's or video's rows beside each; of frames the scene's.

    The factor is (1 + drawn) / (1 + full shuffle).
    """
    drawn, full = beside(shares, batch)
    names = _name_groups(shares)
    return max(
        (float((1 + drawn[g]) / (1 + full[g])), name)
        for g, name in enumerate(names)
        if name not in ("shard", "source")
    )


def advice(shares: Shares, tried: Iterable[tuple[float, Shares]], config: MixingConfig) -> str:
    """A sentence: fine, or what mends it.

    Args:
        tried: yields (pool_shards, Shares) with larger pools; asked only where it is needed.
    """
    factor, name = worst(shares, config.batch)
    if factor <= WORTH:
        return (
            f"fine: counting rows of one {name} as one, a batch is worth {1 / factor:.2f} of a "
            f"fully shuffled one "
            f"({1 / WORTH:g} is asked for)"
        )
    start = (
        f"badly mixed: counting rows of one {name} as one, a batch is worth {1 / factor:.2f} of a "
        f"fully shuffled one; "
    )
    for pool, larger in tried:
        better, _ = worst(larger, config.batch)
        if better <= WORTH:
            return start + f"data.pool_shards={pool:g} mends it ({1 / better:.2f})"
    return (
        start
        + "write the clips anew in random order: python -m data shuffle DIR-or-TAR ... out=DIR"
    )
