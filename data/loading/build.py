"""From the ``data.`` keys to batches.

Manifest, order, loader and the fixed validation pairs of a run.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from data.bodies.models import LabelChoice
from data.format.clip import KINDS
from data.format.index import PAIR_KINDS
from data.format.shards import refuse_twice
from data.loading import crop_pairs, crops, partial_crops
from data.loading.crop_pairs import CropPairReader, list_pairs
from data.loading.crops import CropReader
from data.loading.loader import Loader
from data.loading.partial_crops import PartialCropReader
from data.loading.reader import BadSample, ClipReader, NoPair, Reader, layout
from data.sampling.manifest import read_manifest
from data.sampling.order import MASK, PAIR, Draw, Order, default_lanes, numbers
from data.sampling.pairs import CROPS, offer_bits
from data.sampling.subjects import match_names
from data.storage.patience import Patience
from data.storage.shard_store import Store
from engine.errors import UserError

if TYPE_CHECKING:
    from data.config import CropDataConfig, CropPairDataConfig, DataConfig, ReadingConfig

VAL_SEED = 0
OPEN_LABELS = LabelChoice()


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
                f"data.pairs.crops={config.pairs.crops}"
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
                f"data.rules.crops={config.rules.crops}"
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
                f"with data.rules.crops={config.rules.crops}"
            )
        source.offers = [0]  # of the slots' one kind
    return _order(config, sources, [1.0, 0.0], batch, seed)


def _manifests(config, crop_kinds):
    store = _store(config)
    sources = [
        read_manifest(name, source.shards, config.val_clips, offer_bits(crop_kinds), store)
        for name, source in config.named().items()
    ]
    refuse_twice([path for source in sources for path in source.paths])
    return sources


def count_excluded(order: Order, config: "ReadingConfig") -> dict[str, int]:
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
    return match_names(names, paths, Store(config.cache.open()), f"data.exclude={config.exclude}")


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
) -> Loader:
    """The Loader of one rank.

    Args:
        noise: uniform numbers an image gets for its masking.  targets: of each reference.
        references: whether references are read; the order and all random numbers are the same if
            not.
        rotations: whether batches have those between the cameras of each pair.
    """
    reader = _reader(Reader, order, config, config.pairs, config.retries, skip)
    reader.references = references
    return _loader(
        reader,
        lambda rows, side: layout(rows, side, noise, targets, config.augment.draws, rotations),
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
        reader = _crop_reader(order, config, config.retries, skip, choice)
        return _loader(
            reader,
            lambda rows, side: crops.layout(rows, side, choice.model, draws),
            config,
            rank,
            world,
            workers,
        )
    reader = _reader(PartialCropReader, order, config, config.rules, config.retries, skip)
    reader.keypoint_names, reader.choice = keypoints, choice
    return _loader(
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
    return _loader(
        _crop_pair_reader(order, config, config.retries, skip, choice),
        lambda rows, side: crop_pairs.layout(rows, side, choice.model, config.augment.draws),
        config,
        rank,
        world,
        workers,
    )


def _crop_pair_reader(order, config, retries, skip, choice):
    reader = _reader(CropPairReader, order, config, config.rules, retries, skip)
    reader.pairs, reader.choice = config.pairs, choice
    return reader


def _crop_reader(order, config, retries, skip, choice):
    reader = _reader(CropReader, order, config, config.rules, retries, skip)
    reader.choice = choice
    return reader


def _reader(kind, order, config, rules, retries, skip):
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


def _store(config, digests=None):
    return Store(config.cache.open(), digests, Patience(config.patience_s))


def _loader(reader, shape, config, rank, world, workers):
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


def val_pairs(
    order: Order,
    config: "DataConfig",
    noise: int,
    count: int,
    skip: frozenset[str] = frozenset(),
    rotations: bool = False,
) -> dict[str, np.ndarray] | None:
    """Fixed pairs that are never trained on, cut from the middle, without colour jitter.

    Args:
        count: pairs a kind, at most.  rotations: as in ``open_loader``.
    Returns:
        {name: array} as data.loading.reader.layout has them, kinds one after the other, or None
        where there are no validation clips. Their choice depends on the shards and the rules alone,
        not on the run's seed.
    """
    reader = _reader(Reader, order, config, config.pairs, 0, skip)
    count = min(count, sum(len(source.val) for source in order.sources))
    side = max(source.size for source in order.sources)
    shapes = layout(count * len(PAIR_KINDS), side, noise, rotations=rotations)
    arrays = {name: np.zeros(*spec) for name, spec in shapes.items()}
    row = 0
    for kind, share in enumerate(order.shares):
        row = _val_kind(reader, order, config, kind, arrays, row, count) if share else row
    return {name: values[:row] for name, values in arrays.items()} if row else None


def _val_kind(reader, order, config, kind, arrays, row, count):
    places = [(s, *place) for s, source in enumerate(order.sources) for place in source.val]
    end = row + count
    for number in numbers(VAL_SEED, PAIR, kind).permutation(len(places)):
        if row == end:
            break
        source, shard, index = places[number]
        path = order.sources[source].paths[shard]
        try:
            a, b, size = reader.place(
                arrays,
                row,
                path,
                Draw(source, kind, shard, index, 0),
                numbers(VAL_SEED, PAIR, int(number), 1),
            )
        except (BadSample, NoPair):
            continue  # the loader counts and lists bad samples; here another clip does as well
        cut = round(size * (config.augment.crop_min + config.augment.crop_max) / 2)
        arrays["numbers"][row] = [size // 2, size // 2, cut, 1, 1, 1]
        arrays["noise"][row] = numbers(VAL_SEED, MASK, int(number)).random(
            arrays["noise"].shape[1], np.float32
        )
        arrays["tags"][row] = kind, source, 0, 0, 0, shard, index, a, b, size
        row += 1
    return row


def val_crops(
    order: Order,
    config: "CropDataConfig",
    count: int,
    skip: frozenset[str] = frozenset(),
    choice: LabelChoice = OPEN_LABELS,
) -> dict[str, np.ndarray] | None:
    """Fixed labelled crops that are never trained on, whole and without jitter.

    All usable crops of each clip chosen.

    Args:
        config: data.config.CropDataConfig.  count: clips, at most; chosen by the shards and the
            rules alone.
    Returns:
        {name: array} as data.loading.crops.layout has them, crops of a clip one after the other, or
        None where there are no validation clips.
    """
    return _val_rows(_crop_reader(order, config, 0, skip, choice), order, count)


def _val_rows(reader, order, count):
    side = max(source.size for source in order.sources)
    return _join_clips(order, count, lambda place, _: _crops_of(reader, order, place, side))


def _join_clips(order, count, read):
    """{name: array} of so many validation clips, one after the other; None where there are none.

    Args:
        read: (place, number) -> {name: array} of a clip; BadSample or NoPair where it has nothing.
    """
    places = [(s, *place) for s, source in enumerate(order.sources) for place in source.val]
    rows = []
    for number in numbers(VAL_SEED, PAIR, 2).permutation(len(places)):
        if len(rows) == count:
            break
        try:
            rows.append(read(places[number], int(number)))
        except (BadSample, NoPair):
            continue  # another clip does as well
    return (
        {name: np.concatenate([part[name] for part in rows]) for name in rows[0]} if rows else None
    )


def _crops_of(reader, order, place, side):
    """{name: array} of all usable crops of the clip at a place (source, shard, index)."""
    source, shard, index = place
    path = order.sources[source].paths[shard]
    clip, members, labels, known = reader.usable(path, index)
    arrays = {name: np.zeros(*spec) for name, spec in reader.layout(len(known), side).items()}
    for row, crop in enumerate(known):
        reader.put(arrays, row, path, clip, members, labels, crop)
        arrays["tags"][row] = (
            0,
            source,
            0,
            0,
            0,
            shard,
            index,
            crop,
            KINDS.index(clip.crops[crop].kind),
            clip.size,
        )
        reader.whole(arrays, row)
    return arrays


def val_crop_pairs(
    order: Order,
    config: "CropPairDataConfig",
    count: int,
    skip: frozenset[str] = frozenset(),
    choice: LabelChoice = OPEN_LABELS,
) -> dict[str, np.ndarray] | None:
    """Fixed pairs of labelled crops that are never trained on, whole and without jitter.

    All usable crops of each clip chosen that another camera sees, each with one such other.

    Args:
        count: clips, at most; chosen by the shards and the rules alone.
    Returns:
        {name: array} as data.loading.crop_pairs.layout has them, pairs of a clip one after the
        other, or None where there are none.
    """
    reader = _crop_pair_reader(order, config, 0, skip, choice)
    side = max(source.size for source in order.sources)

    def read(place: tuple[int, int, int], number: int) -> dict[str, np.ndarray]:
        random = numbers(VAL_SEED, PAIR, number, 3)
        return _pairs_of(reader, order, place, side, random)

    return _join_clips(order, count, read)


def _pairs_of(reader, order, place, side, random):
    """{name: array} of a pair for each usable crop of the clip at a place."""
    source, shard, index = place
    path = order.sources[source].paths[shard]
    clip, members, labels, known = reader.usable(path, index)
    pairs = list_pairs(clip, known, reader.pairs, reader.rules.crops)
    firsts = np.unique(pairs[:, 0])
    if not len(firsts):
        raise NoPair
    shapes = crop_pairs.layout(len(firsts), side, reader.choice.model)
    arrays = {name: np.zeros(*spec) for name, spec in shapes.items()}
    for row, first in enumerate(firsts.tolist()):
        pair = random.choice(pairs[pairs[:, 0] == first]).tolist()
        reader.put_whole(arrays, row, path, clip, members, labels, pair, place)
    return arrays


def people_at(
    order: Order, config: "ReadingConfig", places: np.ndarray | list[tuple[int, int, int]]
) -> list[tuple[str, str]]:
    """Return [(source of a clip, such as "made"; its subject), ...] at (n, 3) places.

    A place is source, shard, index in it.
    """
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
    reader = _crop_reader(order, config, 0, skip, choice)
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
