"""Labelled synthetic people judged as real ones are, by the true keypoints and masks of labels."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from data.find.hands import hand_box
from data.format.joint_sets import COCO17
from data.loading.build import open_crop_order
from data.loading.crops import TAGS
from data.loading.validation import val_crops
from data.sources.cameras import Camera
from data.storage.shard_store import Store
from engine.errors import UserError
from engine.geometry import axis_angle_to_matrix
from engine.logging import progress
from engine.logging.console import get_logger
from finetune.evaluation.selection import choose_data, leave_out, leave_out_known, take_all
from finetune.heads.base import pose_body
from finetune.means import plain_view
from finetune.people import list_kinds, unmirror
from finetune.referee import sheets
from finetune.referee.config import RefereeConfig
from finetune.referee.judge import JudgedPerson, compare_joints, score_person
from finetune.referee.rows import RUN, Asked, Rows, project_joints
from finetune.referee.takes import SampleClip
from finetune.referee.truth import FOUND, MASK_SIDE, Seen
from finetune.verb_config import EvaluateConfig, EvaluateDataConfig
from finetune.views import Targets
from pretrain import header

PLACE = [TAGS.index(name) for name in ("source", "shard", "index")]
SIZE = TAGS.index("size")

log = get_logger(__name__)


@dataclass
class MadeCrop:
    """A labelled crop as an image of its own.

    Attributes:
        clip: its clip, with the crop's camera.
        image: (S, S, 3) uint8.
        seen: its person, by labels.
        joints: (n, 3) true joints that are judged, in the crop's camera, metres.
    """

    clip: SampleClip
    image: np.ndarray
    seen: Seen
    joints: np.ndarray


def judge_synthetic(config: RefereeConfig, rows: Rows, folder: Path) -> list[JudgedPerson]:
    """The people of ``synthetic=``, judged; draws their sheets.

    Raises:
        UserError: no labelled clip there of people that no run saw in training.
    """
    arrays = _read_arrays(config, [rows.run, *rows.others.values()])
    crops = list_crops(rows.run, arrays, config.synthetic_crops)
    judged, tiles = [], []
    for crop in progress.watched(crops, "made crop"):
        K = crop.clip.camera.K if crop.clip.camera else np.eye(3)
        [answers] = rows.answer(crop.image, K, [crop.seen])
        person = score_person(rows.kind, crop.clip, crop.seen, answers, rows.run.faces)
        for row, answer in answers.items():
            person.values[row] |= compare_joints(rows.kind, answer.joints, crop.joints)
        if config.sheets:
            tiles.append(sheets.draw_person(crop.image, K, person, rows.kind))
        answers[RUN].vertices = None
        judged.append(person)
    sheets.save_tiles(folder / "sheets", "synthetic", tiles)
    return judged


def _read_arrays(config: RefereeConfig, asked: Sequence[Asked]) -> dict[str, np.ndarray]:
    """Labelled crops of people that none of the networks was trained on."""
    predictor = asked[0].predictor
    data = choose_data(EvaluateConfig(data=EvaluateDataConfig(shards=config.synthetic)), predictor)
    choice = predictor.body.label_choice
    order = open_crop_order(data, 1, 0)
    take_all(order)
    seen = [header.read_seen(one.predictor.checkpoint) for one in asked]
    for one in seen:
        leave_out(order, one)
    for note in leave_out_known(order, seen, Store(data.cache.open())):
        log.info(note)
    arrays = val_crops(order, data, config.synthetic_crops, choice=choice)
    if arrays is None:
        raise UserError(
            f"synthetic={config.synthetic}: no labelled clip there of people that the runs were "
            f"not trained on"
        )
    return arrays


@torch.no_grad()
def list_crops(asked: Asked, arrays: Mapping[str, np.ndarray], most: int) -> list[MadeCrop]:
    """At most so many crops, of as many clips as there are.

    Args:
        arrays: data.loading.crops.layout, crops of a clip one after the other.
    """
    chosen = _spread(arrays["tags"], most)
    batch = {name: torch.from_numpy(values[chosen]) for name, values in arrays.items()}
    body, device = asked.body, asked.predictor.device
    labels = {name: values.to(device) for name, values in batch.items()}
    labels["pose"] = axis_angle_to_matrix(labels["pose"])
    view = plain_view(labels, asked.size)
    true = unmirror(pose_body(body, Targets(body)(labels, view)), view.flip, body)
    joints = asked.joints(true)
    crops = []
    for i, kind in enumerate(list_kinds(batch["tags"])):
        row = {name: values[i].numpy() for name, values in batch.items()}
        side = "" if kind == "body" else kind.removesuffix("_hand")
        crop = _make_crop(i, row, joints[i], side)
        if crop is not None:
            crops.append(crop)
    return crops


def _spread(tags: np.ndarray, most: int) -> np.ndarray:
    """(n,) rows: the first crop of every clip, then the second of those that have one, ..."""
    seen: Counter[tuple[int, ...]] = Counter()
    rank = []
    for clip in tags[:, PLACE].tolist():
        rank.append(seen[tuple(clip)])
        seen[tuple(clip)] += 1
    return np.sort(np.argsort(rank, kind="stable")[:most])


def _make_crop(
    number: int, row: Mapping[str, np.ndarray], joints: np.ndarray, side: str
) -> MadeCrop | None:
    """The crop as one that the finder read; None where nothing of a hand lies in it.

    Args:
        row: one crop of data.loading.crops.layout.  joints: (n, 3) in its camera.
        side: of a hand, else "".
    """
    source, shard, index = row["tags"][PLACE].tolist()
    size = int(row["tags"][SIZE])
    K = row["K"].astype(np.float64)
    pixels = project_joints(joints, K)
    inside = np.all((pixels >= 0) & (pixels < size), axis=1)
    found = np.concatenate([pixels, inside.reshape(-1, 1)], 1)
    mask = np.unpackbits(row["mask"]).reshape(MASK_SIDE, MASK_SIDE) > 0
    has_mask = not side and mask.any() and not mask.all()  # all ones stand for none
    box = mask_box(mask, size) if has_mask else hand_box(pixels, size, size)
    if box is None:
        return None
    keypoints = found
    if not side:
        keypoints = np.zeros((len(COCO17), 3))
        keypoints[FOUND] = found
    seen = Seen(number, box, 1.0, keypoints, side=side)
    if has_mask:
        seen.square, seen.mask = np.array([0.0, 0, size, size]), mask
    name = f"synthetic/{source}-{shard}-{index}"
    camera = Camera(name, K, np.zeros(8), np.eye(3, 4), size, size)
    return MadeCrop(SampleClip(name, "", camera=camera), row["pixels"][:size, :size], seen, joints)


def mask_box(mask: np.ndarray, size: int) -> np.ndarray:
    """(4,) the box around a mask (64, 64) with something in it, in pixels of its ``size``."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    cells = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float64)
    return cells * size / len(mask)
