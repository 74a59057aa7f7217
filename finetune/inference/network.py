"""A network with its body model, and the crops that it is asked about."""

from collections.abc import Sequence

import numpy as np
import torch

from data.bodies.base import BodyModel
from data.cropping.batch import mirror_cameras
from data.cropping.geometry import Square, crop_camera_of
from data.cropping.host import cut_square
from data.loading.augment import normalise
from engine.errors import UserError
from finetune.config import FinetuneConfig
from finetune.masks import FoundMask, mirror_masks, place_masks
from finetune.model import Recovery
from finetune.prompts import PROMPTED, mirror_prompts, place_keypoints


class Network:
    """A network that is asked about squares of images.

    Attributes:
        config: of its training.
        model: in evaluation mode, on ``device``.
        body: the full body model that it recovers, there too.
    """

    def __init__(
        self, config: FinetuneConfig, model: Recovery, body: BodyModel, device: torch.device
    ) -> None:
        self.config, self.model, self.body, self.device = config, model, body, device

    def cut_crops(
        self, pixels: np.ndarray, K: np.ndarray, squares: Sequence[Square], flip: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images for the network of squares of an image, and their cameras.

        (n, 3, S, S), or (n, 3, rows, columns) of the squares' middles; (n, 3, 3).

        Args:
            K: (3, 3) intrinsics of the image.  flip: (n,) which squares are mirrored.
        """
        size = self.config.model.size
        crops = np.stack([cut_square(pixels, square, size) for square in squares])
        images = send_array(crops, self.device)
        images = normalise(images.permute(0, 3, 1, 2).float().div_(255))
        images = torch.where(flip[:, None, None, None], images.flip(-1), images)
        cameras = np.stack([crop_camera_of(square, K, size) for square in squares])
        cameras = send_array(cameras.astype(np.float32), self.device)
        return images, mirror_cameras(cameras, flip, size)

    def place_prompts(
        self,
        keypoints: Sequence[np.ndarray | None] | None,
        squares: Sequence[Square],
        flip: torch.Tensor,
    ) -> torch.Tensor | None:
        """(n, K, 3) of finetune.prompts for crops; None where nothing is known or taken.

        Args:
            keypoints: as ``__call__`` has them.  flip: (n,) which crops are mirrored.
        Raises:
            UserError: there are not as many as crops, or of another number of joints.
        """
        if keypoints is None or not self.config.head.prompts:
            return None
        names = PROMPTED[self.body.kind]
        shapes = {np.shape(found) for found in keypoints if found is not None}
        if len(keypoints) != len(squares) or shapes - {(len(names), 3)}:
            raise UserError(
                f"keypoints of {len(keypoints)} for {len(squares)} boxes, of shapes "
                f"{sorted(shapes)}: each is ({len(names)}, 3) or None"
            )
        if not all(np.isfinite(found).all() for found in keypoints if found is not None):
            raise UserError("keypoints= holds numbers that are not finite: None stands for unknown")
        boxes = np.array([square.box for square in squares])
        placed = place_keypoints(keypoints, boxes, self.body.kind)
        return mirror_prompts(torch.from_numpy(placed).to(self.device), flip)

    def place_masks(
        self,
        masks: Sequence[FoundMask] | None,
        squares: Sequence[Square],
        flip: torch.Tensor,
        shape: tuple[int, int],
    ) -> torch.Tensor | None:
        """(n, R, C) of finetune.masks for crops; None where nothing is known or taken.

        Args:
            masks: as ``__call__`` has them.  flip: (n,) which crops are mirrored.
            shape: (height, width) of the image.
        Raises:
            UserError: there are not as many as crops, or one is of another size than the image.
        """
        if masks is None or not self.config.head.prompt_mask:
            return None
        if len(masks) != len(squares):
            raise UserError(f"masks of {len(masks)} for {len(squares)} boxes")
        for mask in masks:
            if isinstance(mask, np.ndarray) and mask.shape != shape:
                raise UserError(f"a mask of shape {mask.shape} for an image of {shape}")
        model = self.config.model
        return mirror_masks(
            place_masks(masks, squares, model.size, model.grid()).to(self.device), flip
        )


def send_array(values: np.ndarray, device: torch.device) -> torch.Tensor:
    """Return an array on a device.

    To a GPU it goes by page-locked memory, which the copy does not wait for; all threads share the
    device's default stream, so whoever reads the tensor comes after the copy.
    """
    tensor = torch.from_numpy(values)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
