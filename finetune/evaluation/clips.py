"""The clips that runs are judged by side by side: people whom none of them has seen."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from data.config import CropDataConfig, CropPairDataConfig
from data.loading.build import open_crop_order, open_crop_pair_order
from data.loading.crops import TAGS
from data.loading.point_build import val_points
from data.loading.validation import val_crop_pairs, val_crops
from data.sampling.order import Order
from data.sampling.seen import Seen
from data.storage.shard_store import Store
from engine.errors import UserError
from engine.logging import progress
from finetune.evaluation.image_judge import ImageJudge
from finetune.evaluation.judge import Judge
from finetune.evaluation.selection import leave_out, leave_out_known, leave_out_near, take_all
from finetune.inference.predictor import Predictor
from finetune.tasks.keypoints import KeypointTaskConfig

CHUNK = 32  # crops judged at once
PLACE = [TAGS.index(name) for name in ("source", "shard", "index")]


@dataclass(eq=False)
class TestClips:
    """Labelled crops that no run was trained on.

    Attributes:
        arrays: as data.loading.crops.layout has them, n rows; of pairs as crop_pairs has them.
        clips: (n,) number of each crop's clip, from 0.
        masks: whether all clips come with person masks.
        notes: sentences on what was left out.
        order: of the clips.
    """

    arrays: dict[str, np.ndarray]
    clips: np.ndarray
    masks: bool
    notes: list[str]
    order: Order


def open_test(
    data: CropDataConfig, predictor: Predictor, seen: Sequence[Seen], count: int
) -> TestClips:
    """Returns clips of people whom no network, nor what it began from, was trained on.

    Args:
        data: which shards and rules.
        predictor: of the run whose shards are looked through for frames that a test shares with
            training.
        seen: what the weights of each network saw.
        count: clips, at most.
    Raises:
        UserError: none is left.
    """
    pairs = data if isinstance(data, CropPairDataConfig) else None
    order = open_crop_pair_order(pairs, 1, 0) if pairs else open_crop_order(data, 1, 0)
    take_all(order)
    for one in seen:
        leave_out(order, one)
    store = Store(data.cache.open())
    notes = leave_out_near(order, seen, predictor, store)
    notes += leave_out_known(order, seen, store)
    choice = predictor.body.label_choice
    if pairs:
        arrays = val_crop_pairs(order, pairs, count, choice=choice)
    elif isinstance(predictor.config, KeypointTaskConfig):
        arrays = val_points(order, data, predictor.config.names, count)
    else:
        arrays = val_crops(order, data, count, choice=choice)
    if arrays is None:
        shards = ", ".join(source.shards for source in data.sources.values())
        raise UserError(
            f"{shards}: no labelled clip there that the runs were not trained on, and of people "
            "that they were not trained on; data.shards= names others"
        )
    clips = np.unique(arrays["tags"][:, PLACE], axis=0, return_inverse=True)[1].ravel()
    # All ones stand for an image without a mask; a clip of nothing but those has none.
    full = (arrays["mask"] == 255).all(1)
    known = not any(full[clips == clip].all() for clip in range(clips.max() + 1))
    return TestClips(arrays, clips, known, notes, order)


def feed(judge: Judge | ImageJudge, test: TestClips, device: torch.device) -> None:
    """Have a judge judge all rows of a test."""
    rows = len(test.arrays["tags"])
    with progress.bar(rows, "crop", description="evaluating") as bar:
        for first in range(0, rows, CHUNK):
            part = {
                name: torch.from_numpy(values[first : first + CHUNK]).to(device)
                for name, values in test.arrays.items()
            }
            judge.add(part)
            bar.update(len(part["tags"]))


def collect(judge: Judge) -> dict[str, dict[str, np.ndarray]]:
    """Returns {row: {metric: (n,)}} of what a judge judged."""
    return {
        name: {metric: np.concatenate(parts) for metric, parts in values.items()}
        for name, values in judge.values.items()
    }
