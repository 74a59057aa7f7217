"""The fixed rows on which a run is validated: pairs, crops, and pairs of crops, of clips apart.

Their choice depends on the shards and the rules alone, not on a run's seed.
"""

from typing import TYPE_CHECKING

import numpy as np

from data.bodies.models import LabelChoice
from data.format.clip import KINDS
from data.format.index import PAIR_KINDS
from data.loading import crop_pairs
from data.loading.build import (
    OPEN_LABELS,
    make_crop_pair_reader,
    make_crop_reader,
    make_reader,
)
from data.loading.crop_pairs import list_pairs
from data.loading.crops import CropReader
from data.loading.reader import BadSample, NoPair, Reader, layout
from data.sampling.order import MASK, PAIR, Draw, Order, numbers

if TYPE_CHECKING:
    from data.config import CropDataConfig, CropPairDataConfig, DataConfig

VAL_SEED = 0


def val_pairs(
    order: Order,
    config: "DataConfig",
    noise: int,
    count: int,
    skip: frozenset[str] = frozenset(),
    rotations: bool = False,
    surface: bool = False,
) -> dict[str, np.ndarray] | None:
    """Fixed pairs that are never trained on, cut from the middle, without colour jitter.

    Args:
        count: pairs a kind, at most.  rotations, surface: as in ``open_loader``.
    Returns:
        {name: array} as data.loading.reader.layout has them, kinds one after the other, or None
        where there are no validation clips. Their choice depends on the shards and the rules alone,
        not on the run's seed.
    """
    reader = make_reader(Reader, order, config, config.pairs, 0, skip)
    count = min(count, sum(len(source.val) for source in order.sources))
    side = max(source.size for source in order.sources)
    shapes = layout(count * len(PAIR_KINDS), side, noise, rotations=rotations, surface=surface)
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
    return list_val_rows(make_crop_reader(order, config, 0, skip, choice), order, count)


def list_val_rows(reader: CropReader, order: Order, count: int) -> dict[str, np.ndarray] | None:
    """All usable crops of ``count`` validation clips, as the reader lays them out."""
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
    reader = make_crop_pair_reader(order, config, 0, skip, choice)
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
