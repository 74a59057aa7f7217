"""Asking a head without a mesh about regions of an image."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from data.cropping.batch import mirror_cameras
from data.cropping.geometry import crop_camera_of
from data.cropping.host import cut_square
from data.format.clip import KINDS
from data.loading.augment import normalise
from engine.errors import UserError
from finetune.heads.base import ImagePrediction
from finetune.heads.image_head import Asked, ImageHead
from finetune.inference.images import ImageLike, read_image
from finetune.inference.predictor import BATCH, Predictor, check_boxes, check_intrinsics

Answer = tuple[Asked, ImagePrediction, int]


def require_image_head(predictor: Predictor) -> ImageHead:
    """Returns the head of a network without a mesh.

    Raises:
        UserError: it is another.
    """
    head = predictor.model.head
    if not isinstance(head, ImageHead):
        raise UserError(
            f"{predictor.checkpoint}: its head, {predictor.config.head.name}, answers in no image"
        )
    return head


def require_answers(predictor: Predictor, command: str) -> Predictor:
    """Returns the Predictor.

    Args:
        command: that wants meshes or answers in the image, for the message.
    Raises:
        UserError: its head predicts no mesh, and does not say how its answers are written.
    """
    if isinstance(predictor.model.head, ImageHead):
        return predictor
    return predictor.require_mesh(command)


@torch.no_grad()
def answer_image(
    predictor: Predictor,
    image: ImageLike,
    boxes: npt.ArrayLike | None = None,
    intrinsics: npt.ArrayLike | None = None,
    sides: Sequence[str] | None = None,
) -> list[Answer]:
    """Returns (where, prediction, row of it) of each box, in their order.

    Args:
        predictor: of a network whose head has no mesh.
        image, boxes, intrinsics, sides: as Predictor has them.
    Raises:
        UserError: as Predictor.
    """
    require_image_head(predictor)
    pixels = read_image(image)
    height, width = pixels.shape[:2]
    K = check_intrinsics(intrinsics, width, height)
    size = predictor.config.model.size
    squares, checked = check_boxes(boxes, width, height, predictor.config.margin, size)
    given = ["right"] * len(checked) if sides is None else list(sides)
    if len(given) != len(checked):
        raise UserError(f"sides={given} for {len(checked)} boxes")
    is_hand = predictor.body.kind == "hand"
    asked = [
        Asked(
            f"{side}_hand" if is_hand else KINDS[0],
            box,
            square.find_box(size),
            crop_camera_of(square, K, size),
            size,
            is_hand and side == "left",
        )
        for box, square, side in zip(checked, squares, given, strict=True)
    ]
    crops = [cut_square(pixels, square, size) for square in squares]
    return list(_answer_crops(predictor, crops, asked))


def _answer_crops(
    predictor: Predictor, crops: Sequence[np.ndarray], asked: Sequence[Asked]
) -> Iterator[Answer]:
    device, size = predictor.device, predictor.config.model.size
    for first in range(0, len(asked), BATCH):
        part = asked[first : first + BATCH]
        images = torch.from_numpy(np.stack(crops[first : first + BATCH])).to(device)
        images = normalise(images.permute(0, 3, 1, 2).float().div_(255))
        flip = torch.tensor([one.mirrored for one in part], device=device)
        images = torch.where(flip[:, None, None, None], images.flip(-1), images)
        cameras = torch.from_numpy(np.stack([one.K for one in part])).float().to(device)
        found = predictor.model(images, mirror_cameras(cameras, flip, size), predictor.body)
        for row, one in enumerate(part):
            yield one, found, row
