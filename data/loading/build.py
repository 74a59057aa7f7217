"""From the ``data.`` keys to batches.

Manifest, order, loader and the fixed validation pairs of a run.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from data.bodies.models import LabelChoice
from data.format.clip import KINDS
from data.format.index import PAIR_KINDS
from data.format.shards import refuse_twice
from data.loading import crop_pairs, crops, partial_crops
from data.loading.crop_pairs import CropPairReader
from data.loading.crops import CropReader
from data.loading.frame_files import FrameFiles, count_subjects
from data.loading.loader import Loader
from data.loading.partial_crops import PartialCropReader
from data.loading.reader import BadSample, ClipReader, NoPair, Reader, Shapes, ShardReader, layout
from data.sampling.frame_order import FrameOrder
from data.sampling.manifest import read_manifest
from data.sampling.order import Order, default_lanes
from data.sampling.pairs import CROPS, offer_bits
from data.sampling.subjects import match_names
from data.storage.catalogue import THREADS
from data.storage.patience import Patience
from data.storage.shard_store import Store
from engine.errors import UserError

if TYPE_CHECKING:
    from data.config import (
        CropDataConfig,
        CropPairDataConfig,
        DataConfig,
        FrameDataConfig,
        ReadingConfig,
    )

OPEN_LABELS = LabelChoice()
AnyReader = TypeVar("AnyReader", bound=ShardReader)


def open_order(config: "DataConfig", batch: int, seed: int) -> Order:
    """The Order of a run.

    Args:
        config: data.config.DataConfig.  batch: pairs in a global batch.
    Raises:
        UserError: shards that are missing or damaged, sources without the wanted pairs, numbers
            that do not divide.
    """
    sources = _manifests(config, config.pairs.crops)
    for source in sources:
        if not source.offers:
            raise UserError(
                f"source '{source.name}': no clip has a pair of crops with "
                f"data.pairs.crops={config.pairs.crops}{_tell_frames(source)}"
            )
    return _order(config, sources, config.kinds.shares(), batch, seed)


def open_crop_order(config: "CropDataConfig", batch: int, seed: int) -> Order:
    """The Order of a run on labelled crops: each slot is a clip, of which one crop is taken.

    Args:
        config: data.config.CropDataConfig.  batch: crops in a global batch.
    """
    sources = _manifests(config, config.rules.crops)
    for source in sources:
        if not set(CROPS[config.rules.crops]).intersection(source.crop_kinds):
            raise UserError(
                f"source '{source.name}': no clip has crops with "
                f"data.rules.crops={config.rules.crops}{_tell_frames(source)}"
            )
        source.offers = [0]  # kinds of pairs mean nothing here: all slots are of one kind
    return _order(config, sources, [1.0, 0.0], batch, seed)


def open_crop_pair_order(config: "CropPairDataConfig", batch: int, seed: int) -> Order:
    """The Order of a run on pairs of labelled crops: each slot is a clip, of which one is taken.

    Args:
        batch: pairs in a global batch.
    """
    sources = _manifests(config, config.rules.crops)
    for source in sources:
        if PAIR_KINDS.index("cross_view") not in source.offers:
            raise UserError(
                f"source '{source.name}': no clip has two crops of one instant by two cameras "
                f"with data.rules.crops={config.rules.crops}{_tell_frames(source)}"
            )
        source.offers = [0]  # of the slots' one kind
    return _order(config, sources, [1.0, 0.0], batch, seed)


def _tell_frames(source):
    """What to add where clips are looked for in shards of whole frames."""
    if not source.frames:
        return ""
    return "; it holds whole frames (data make scene), which are no clips: docs/scenes.md"


def _manifests(config, crop_kinds):
    store = _store(config)
    sources = [
        read_manifest(name, source.shards, config.val_clips, offer_bits(crop_kinds), store)
        for name, source in config.named().items()
    ]
    refuse_twice([path for source in sources for path in source.paths])
    return sources


def count_excluded(order: Order | FrameOrder, config: "ReadingConfig") -> dict[str, int]:
    """{subject: clips} of the people in data.exclude; empty where the key is not set.

    Args:
        config: data.config.ReadingConfig.
    Raises:
        UserError: nobody in the order's shards has one of the names.
    """
    names = config.excluded()
    if not names:
        return {}
    paths = [path for source in order.sources for path in source.paths]
    count = count_subjects if isinstance(order, FrameOrder) else match_names
    return count(names, paths, Store(config.cache.open()), f"data.exclude={config.exclude}")


def _order(config, sources, shares, batch, seed):
    weights = [source.weight for source in config.named().values()]
    return Order(
        sources,
        weights,
        shares,
        seed,
        batch,
        config.lanes or default_lanes(batch, shares),
        config.pool_shards,
    )


def open_loader(
    order: Order,
    config: "DataConfig",
    noise: int,
    rank: int,
    world: int,
    workers: int,
    skip: frozenset[str] = frozenset(),
    targets: int = 1,
    references: bool = True,
    rotations: bool = False,
    surface: bool = False,
) -> Loader:
    """The Loader of one rank.

    Args:
        noise: uniform numbers an image gets for its masking.  targets: of each reference.
        references: whether references are read; the order and all random numbers are the same if
            not.
        rotations: whether batches have those between the cameras of each pair.  surface: whether
            they have what of the body images show, references whether or not they are read.
    """
    reader = make_reader(Reader, order, config, config.pairs, config.retries, skip)
    reader.references = references
    reader.widen = config.widen if config.widen.steps else None
    return make_loader(
        reader,
        lambda rows, side: layout(
            rows, side, noise, targets, config.augment.draws, rotations, surface
        ),
        config,
        rank,
        world,
        workers,
    )


def open_crop_loader(
    order: Order,
    config: "CropDataConfig",
    rank: int,
    world: int,
    workers: int,
    skip: frozenset[str] = frozenset(),
    keypoints: Sequence[str] = (),
    choice: LabelChoice = OPEN_LABELS,
) -> Loader:
    """The Loader of one rank for labelled crops.

    Args:
        keypoints: names of the body model's, for data.rules.labels=any.
        choice: which body model's labels are read.
    """
    draws = config.augment.draws
    if config.rules.labels == "parameters":
        reader = make_crop_reader(order, config, config.retries, skip, choice)
        return make_loader(
            reader,
            lambda rows, side: crops.layout(rows, side, choice.model, draws),
            config,
            rank,
            world,
            workers,
        )
    reader = make_reader(PartialCropReader, order, config, config.rules, config.retries, skip)
    reader.keypoint_names, reader.choice = keypoints, choice
    return make_loader(
        reader,
        lambda rows, side: partial_crops.layout(rows, side, len(keypoints), choice.model, draws),
        config,
        rank,
        world,
        workers,
    )


def open_crop_pair_loader(
    order: Order,
    config: "CropPairDataConfig",
    rank: int,
    world: int,
    workers: int,
    skip: frozenset[str] = frozenset(),
    choice: LabelChoice = OPEN_LABELS,
) -> Loader:
    """The Loader of one rank for pairs of labelled crops."""
    return make_loader(
        make_crop_pair_reader(order, config, config.retries, skip, choice),
        lambda rows, side: crop_pairs.layout(rows, side, choice.model, config.augment.draws),
        config,
        rank,
        world,
        workers,
    )


def make_crop_pair_reader(
    order: Order,
    config: "CropPairDataConfig",
    retries: int,
    skip: frozenset[str],
    choice: LabelChoice,
) -> CropPairReader:
    """The reader of pairs of labelled crops; see ``open_crop_pair_loader``."""
    reader = make_reader(CropPairReader, order, config, config.rules, retries, skip)
    reader.pairs, reader.choice = config.pairs, choice
    return reader


def make_crop_reader(
    order: Order,
    config: "CropDataConfig",
    retries: int,
    skip: frozenset[str],
    choice: LabelChoice,
) -> CropReader:
    """The reader of labelled crops; see ``open_crop_loader``."""
    reader = make_reader(CropReader, order, config, config.rules, retries, skip)
    reader.choice = choice
    return reader


def make_reader(
    kind: type[AnyReader],
    order: Order | FrameOrder,
    config: "DataConfig | CropDataConfig | CropPairDataConfig | FrameDataConfig",
    rules: object,
    retries: int,
    skip: frozenset[str],
) -> AnyReader:
    """A reader of that kind with a run's store, exclusions and shards to skip."""
    digests = _digests(order)
    return kind(
        order, rules, config.augment, retries, _store(config, digests), config.excluded(), skip
    )


def _digests(order):
    """{path: digest} of all shards of an order, as it knows them."""
    found = {}
    for source in order.sources:
        found |= zip(source.paths, source.digests, strict=True)
    return found


def list_shards_without(order: Order, config: "ReadingConfig", member: str) -> list[str]:
    """The shards of an order of which no sample has a member.

    Opens the index of each shard.

    Args:
        member: what follows a sample's key, such as "labels.npz".
    """
    store = _store(config, _digests(order))
    paths = [path for source in order.sources for path in source.paths]
    with ThreadPoolExecutor(THREADS) as pool:
        indices = zip(paths, pool.map(store.read_index, paths), strict=True)
        return [path for path, index in indices if member not in index.suffixes]


def _store(config, digests=None):
    return Store(config.cache.open(), digests, Patience(config.patience_s))


def make_loader(
    reader: ShardReader,
    shape: Callable[[int, int], Shapes],
    config: "ReadingConfig",
    rank: int,
    world: int,
    workers: int,
) -> Loader:
    """The Loader of one rank. ``shape``: the arrays of so many rows of images of such a side."""
    order = reader.order
    if order.batch % world:
        raise UserError(f"batch={order.batch} does not divide by {world} processes")
    share, side = order.batch // world, max(source.size for source in order.sources)
    ahead = config.cache.ahead if reader.store.has_remote() else 0
    return Loader(
        reader,
        shape(share, side),
        range(rank * share, (rank + 1) * share),
        workers,
        config.prefetch,
        ahead,
    )


def people_at(
    order: Order | FrameOrder,
    config: "ReadingConfig",
    places: np.ndarray | list[tuple[int, int, int]],
) -> list[tuple[str, str]]:
    """Return [(source of a clip, such as "made"; its subject), ...] at (n, 3) places.

    A place is source, shard, index in it. Of whole frames it is their scene, for their subject.
    """
    if isinstance(order, FrameOrder):
        files = FrameFiles(_store(config, _digests(order)))
        frames = [
            files.frame(order.sources[source].paths[shard], index)[0]
            for source, shard, index in np.asarray(places).tolist()
        ]
        return [(frame.source, frame.scene) for frame in frames]
    reader = ClipReader(_store(config, _digests(order)))
    clips = [
        reader.clip(order.sources[source].paths[shard], index)[0]
        for source, shard, index in np.asarray(places).tolist()
    ]
    return [(clip.source, clip.subject) for clip in clips]


def sample_labels(
    order: Order,
    config: "CropDataConfig",
    count: int,
    skip: frozenset[str] = frozenset(),
    every_instant: bool = False,
    choice: LabelChoice = OPEN_LABELS,
) -> dict[str, np.ndarray]:
    """Return labels of one crop of each of ``count`` training slots, without images.

    The slots are spread over the first epoch.  ``every_instant``: of one crop of each instant.

    Returns:
        {name: array} as data.loading.crops.layout has them, without "pixels" and "mask".
    Raises:
        UserError: none of them has labels.
    """
    reader = make_crop_reader(order, config, 0, skip, choice)
    total, reason = sum(order.totals), "no labels.npz, or too little of the person seen"
    found = []
    for n in np.unique(np.linspace(0, total - 1, min(count, total)).astype(int)):
        draw = order.draw(int(n))
        try:
            clip, _, labels, known = reader.usable(
                order.sources[draw.source].paths[draw.shard], draw.index
            )
        except NoPair:
            continue
        except BadSample as error:
            reason = str(error)
            continue
        if every_instant:
            first = {int(labels["instant"][crop]): crop for crop in reversed(known)}
            found += [(clip, labels, crop) for crop in first.values()]
        else:
            found.append((clip, labels, known[int(n) % len(known)]))
    if not found:
        raise UserError(
            f"no clip that was tried has labelled crops with data.rules.crops={config.rules.crops} "
            f"and "
            f"data.rules.visible_min={config.rules.visible_min}: {reason}; KEY.labels.npz as in "
            f"docs/people.md is needed"
        )
    arrays = {
        name: np.zeros(*spec)
        for name, spec in crops.layout(len(found), 1, choice.model).items()
        if name not in ("pixels", "mask")
    }
    for row, (clip, labels, crop) in enumerate(found):
        reader.put_labels(arrays, row, clip, labels, crop)
        arrays["tags"][row, -3:] = crop, KINDS.index(clip.crops[crop].kind), clip.size
        reader.whole(arrays, row)
    return arrays
