"""A trained network that takes whole images and gives everybody in them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from data.cropping.geometry import Square, crop_camera_of
from data.cropping.host import cut_square
from data.format.frame import find_aspect
from data.loading.augment import normalise
from data.loading.frames import list_sizes, whole_cut
from engine.distributed import process_group
from engine.errors import UserError
from finetune.inference.images import ImageLike, read_image
from finetune.inference.predictor import check_intrinsics
from finetune.scene.find import THRESHOLD, find_people
from finetune.scene.found import FoundPerson
from finetune.scene.network_file import open_scene
from finetune.scene.people import make_found

__all__ = ["THRESHOLD", "ScenePredictor"]

COARSE_VERTICES = 32
BATCH = 8  # images that go through the network at once


class ScenePredictor:
    """A trained network with its body model.

        people = ScenePredictor(run)(image, K)

    It is a finetune.scene.found.FindEverybody.

    Args:
        run: a run's folder, one of its checkpoints, or a file; see finetune.released.locate.
        device: "auto", "cpu" or "cuda".
        name: of the key that names the run, for messages.
        threshold: least score of those who are told of.
        side: images are taken to about side x side pixels; None: as at the end of training.

    Attributes:
        checkpoint: the file of its weights.

    Raises:
        UserError: there is no such run, or it is none of task=scene.
    """

    def __init__(
        self,
        run: str | Path,
        device: str = "auto",
        name: str = "run",
        threshold: float = THRESHOLD,
        side: int | None = None,
    ) -> None:
        opened = open_scene(run, name)
        self.device = process_group.device_of(device)
        self.config, self.checkpoint = opened.config, opened.file
        self.model, self.body = opened.model.to(self.device), opened.body.to(self.device)
        self.threshold, self.side = threshold, side or opened.config.scene.side
        # Who is found twice is told by keypoints: of those who are left the mesh is posed, once.
        self._coarse = self.body.coarse(COARSE_VERTICES).to(self.device)

    def __call__(self, image: ImageLike, K: np.ndarray | None = None) -> list[FoundPerson]:
        """Return everybody in an image, the surest first.

        Args:
            image: (H, W, 3) uint8 RGB, a PIL image or a path.
            K: (3, 3) intrinsics in its pixels, the first one's centre at (0.5, 0.5); None: nobody
                knows them, and the focal length is taken to be the image's diagonal, as for single
                people (finetune.inference.predictor.Predictor), so depths are a guess.

        Raises:
            UserError: an image that cannot be read, intrinsics that are none.
        """
        return self.find_in([image], [K])[0]

    def find_in(
        self,
        images: Sequence[ImageLike],
        cameras: Sequence[np.ndarray | None] | None = None,
    ) -> list[list[FoundPerson]]:
        """Return everybody in each of several images; those of one shape go through together.

        Args:
            images, cameras: as ``__call__`` has them.
        """
        cameras = [None] * len(images) if cameras is None else list(cameras)
        if len(cameras) != len(images):
            raise UserError(f"{len(cameras)} cameras for {len(images)} images")
        pixels = [read_image(image) for image in images]
        sizes = list_sizes(self.side, self.model.patch)
        shapes = [sizes[find_aspect(one.shape[1], one.shape[0])] for one in pixels]
        out: list[list[FoundPerson]] = [[] for _ in images]
        for size in sorted(set(shapes)):
            rows = [row for row, shape in enumerate(shapes) if shape == size]
            for first in range(0, len(rows), BATCH):
                part = rows[first : first + BATCH]
                found = self._find(
                    [pixels[row] for row in part], [cameras[row] for row in part], size
                )
                for row, people in zip(part, found, strict=True):
                    out[row] = people
        return out

    @torch.no_grad()
    def _find(
        self,
        images: Sequence[np.ndarray],
        cameras: Sequence[np.ndarray | None],
        size: tuple[int, int],
    ) -> list[list[FoundPerson]]:
        """Everybody in images that the network sees at one size."""
        cuts, seen, own = [], [], []
        for image, camera in zip(images, cameras, strict=True):
            high, wide = image.shape[:2]
            K = check_intrinsics(camera, wide, high)
            square = Square(*whole_cut(wide, high, size))
            cuts.append(cut_square(image, square, size))
            seen.append(crop_camera_of(square, K, size))
            own.append(K)
        known = torch.tensor([camera is not None for camera in cameras], device=self.device)
        stack = torch.from_numpy(np.stack(cuts)).to(self.device)
        inputs = normalise(stack.permute(0, 3, 1, 2).float().div_(255))
        K_seen, K_own = (
            torch.from_numpy(np.stack(each).astype(np.float32)).to(self.device)
            for each in (seen, own)
        )
        answer = self.model(inputs, K_seen, known)
        found = find_people(answer, K_seen, self._coarse, self.model.patch, self.threshold)
        return make_found(found, K_own, self.body)
