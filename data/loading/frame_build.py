"""Order, loader and validation rows of whole frames (data/loading/frames.py)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from data.format.frame import ASPECTS, find_aspect
from data.format.shards import refuse_twice
from data.loading.build import make_loader, make_reader
from data.loading.frame_files import FrameFiles
from data.loading.frames import FrameReader, layout
from data.loading.loader import Loader
from data.loading.reader import BadSample, NoPair
from data.sampling.frame_order import FrameOrder
from data.sampling.manifest import read_manifest
from data.sampling.order import PAIR, Draw, numbers
from data.storage.patience import Patience
from data.storage.shard_store import Store
from engine.errors import UserError

if TYPE_CHECKING:
    from data.config import FrameDataConfig

VAL_SEED = 0
Sizes = Sequence[tuple[int, int]]


def open_frame_order(
    config: "FrameDataConfig", batch: int, seed: int, pair_share: float = 0.0
) -> FrameOrder:
    """The FrameOrder of a run: each slot is a whole frame, each batch is of one aspect.

    Args:
        batch: frames in a global batch.
        pair_share: of neighbouring slots that two frames of one scene fill; see FrameOrder.
    Raises:
        UserError: shards that are missing or damaged, or hold no frames.
    """
    store = Store(config.cache.open(), None, Patience(config.patience_s))
    sources, weights, indexes = [], [], {}
    for name, source in config.named().items():
        manifest = read_manifest(name, source.shards, config.val_clips, 0, store)
        sources.append(manifest)
        weights.append(source.weight)
        indexes |= {path: store.read_index(path) for path in manifest.paths}
    refuse_twice([path for source in sources for path in source.paths])
    lanes, pool = config.lanes, config.pool_shards
    return FrameOrder(sources, weights, indexes, seed, batch, lanes, pool, pair_share)


def open_frame_loader(
    order: FrameOrder,
    config: "FrameDataConfig",
    sizes: Sizes,
    rank: int,
    world: int,
    workers: int,
    skip: frozenset[str] = frozenset(),
    late: tuple[int, Sizes] | None = None,
) -> Loader:
    """The Loader of one rank for whole frames.

    Args:
        sizes: (rows, columns) of the images of each of ASPECTS, such as
            data.loading.frames.list_sizes gives. They say what is cut; the arrays hold frames as
            they lie in the shards.
        late: a step, and the sizes from it on.
    """
    reader = _open_reader(order, config, sizes, config.retries, skip)
    if late is not None:
        reader.late_from, reader.late_sizes = late[0] * order.batch, late[1]
    return make_loader(
        reader,
        lambda rows, side: layout(rows, side, config.rules.people_max),
        config,
        rank,
        world,
        workers,
    )


def _open_reader(
    order: FrameOrder,
    config: "FrameDataConfig",
    sizes: Sizes,
    retries: int,
    skip: frozenset[str],
) -> FrameReader:
    if len(sizes) != len(ASPECTS):
        raise UserError(f"{len(sizes)} sizes of images for {len(ASPECTS)} aspects of frames")
    reader: FrameReader = make_reader(FrameReader, order, config, config.rules, retries, skip)
    reader.sizes = sizes
    return reader


def val_frames(
    order: FrameOrder,
    config: "FrameDataConfig",
    sizes: Sizes,
    count: int,
    skip: frozenset[str] = frozenset(),
) -> list[dict[str, np.ndarray]]:
    """Fixed frames that are never trained on, whole and without jitter, of each aspect a batch.

    Args:
        count: frames at most, of all aspects together; chosen by the shards and the rules alone.
    Returns:
        a {name: array} as data.loading.frames.layout has them of each aspect that there is.
    """
    reader = _open_reader(order, config, sizes, 0, skip)
    files = FrameFiles(reader.store)
    places = [(s, *place) for s, source in enumerate(order.sources) for place in source.val]
    side = max(source.size for source in order.sources)
    rows: dict[int, list[dict[str, np.ndarray]]] = {}
    left = count
    for number in numbers(VAL_SEED, PAIR, 3).permutation(len(places)).tolist():
        if not left:
            break
        source, shard, index = places[number]
        path = order.sources[source].paths[shard]
        try:
            frame, _ = files.frame(path, index)
            aspect = find_aspect(frame.width, frame.height)
            row = _read_whole(reader, Draw(source, aspect, shard, index, 0), path, side)
        except (BadSample, NoPair):
            continue  # another frame does as well
        rows.setdefault(aspect, []).append(row)
        left -= 1
    return _join_rows(rows)


def sample_frames(
    order: FrameOrder,
    config: "FrameDataConfig",
    sizes: Sizes,
    count: int,
    skip: frozenset[str] = frozenset(),
) -> list[dict[str, np.ndarray]]:
    """As val_frames, of ``count`` frames that are trained on, spread over the first epoch.

    Raises:
        UserError: none of them can be read.
    """
    reader = _open_reader(order, config, sizes, 0, skip)
    side = max(source.size for source in order.sources)
    rows: dict[int, list[dict[str, np.ndarray]]] = {}
    total = sum(order.totals)
    for n in np.unique(np.linspace(0, total - 1, min(count, total)).astype(int)).tolist():
        draw = order.draw(n)
        path = order.sources[draw.source].paths[draw.shard]
        try:
            row = _read_whole(reader, draw, path, side)
        except (BadSample, NoPair):
            continue
        rows.setdefault(draw.kind, []).append(row)
    if not rows:
        raise UserError(f"none of {min(count, total)} frames that were tried can be read")
    return _join_rows(rows)


def _join_rows(rows: dict[int, list[dict[str, np.ndarray]]]) -> list[dict[str, np.ndarray]]:
    return [
        {name: np.concatenate([row[name] for row in found]) for name in found[0]}
        for _, found in sorted(rows.items())
    ]


def _read_whole(reader: FrameReader, draw: Draw, path: str, side: int) -> dict[str, np.ndarray]:
    """{name: array} of one row: a frame that is not cut."""
    shapes = layout(1, side, reader.rules.people_max)
    arrays = {name: np.zeros(*spec) for name, spec in shapes.items()}
    people, width, height = reader.place_whole(arrays, 0, path, draw)
    tags = (draw.kind, draw.source, 0, 0, 0, draw.shard, draw.index, people, width, height)
    arrays["tags"][0] = tags
    return arrays
