"""Batches and validation rows of crops with labelled joints (data/loading/points.py)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from data.loading.build import make_loader, make_reader
from data.loading.loader import Loader
from data.loading.points import PointReader
from data.loading.validation import list_val_rows
from data.sampling.order import Order

if TYPE_CHECKING:
    from data.config import CropDataConfig


def open_point_loader(
    order: Order,
    config: "CropDataConfig",
    names: Sequence[str],
    rank: int,
    world: int,
    workers: int,
    skip: frozenset[str] = frozenset(),
) -> Loader:
    """The Loader of one rank for crops with labelled joints of these names."""
    draws = config.augment.draws
    reader = _open_reader(order, config, names, config.retries, skip)
    return make_loader(
        reader, lambda rows, side: reader.layout(rows, side, draws), config, rank, world, workers
    )


def val_points(
    order: Order,
    config: "CropDataConfig",
    names: Sequence[str],
    count: int,
    skip: frozenset[str] = frozenset(),
) -> dict[str, np.ndarray] | None:
    """As data.loading.validation.val_crops, of crops with labelled joints of these names."""
    return list_val_rows(_open_reader(order, config, names, 0, skip), order, count)


def _open_reader(
    order: Order,
    config: "CropDataConfig",
    names: Sequence[str],
    retries: int,
    skip: frozenset[str],
) -> PointReader:
    reader: PointReader = make_reader(PointReader, order, config, config.rules, retries, skip)
    reader.names = names
    return reader
