"""A trained network that takes two images of a person and gives the mesh in the first camera."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from data.format.clip import KINDS
from engine.errors import UserError
from finetune.heads.base import Prediction
from finetune.inference.images import ImageLike, read_image
from finetune.inference.predictor import Predictor, check_boxes, check_intrinsics
from finetune.people import make_people
from finetune.person import Person
from finetune.two_views.cameras import CameraPose, relate_cameras, unknown_cameras
from finetune.two_views.config import TwoViewsConfig
from finetune.two_views.network import ImagePair, TwoViewRecovery

MOST_APART_M = 1.0  # of the rays through the middles of two boxes of one person


@dataclass(frozen=True)
class PlacedCamera:
    """A camera without distortion.

    Attributes:
        K: (3, 3) intrinsics of the image.  Rt: (3, 4) world to camera, metres.
    """

    K: np.ndarray
    Rt: np.ndarray


class PairPredictor:
    """A trained network for two views, with its body model.

        people = PairPredictor(run)(first, second, boxes=(mine, theirs), cameras=(one, other))

    Args:
        run, device: as finetune.inference.predictor.Predictor takes them.

    Raises:
        UserError: there is no such run, or it is of one view.
    """

    def __init__(self, run: str | Path, device: str = "auto") -> None:
        self.predictor = Predictor(run, device)
        config = self.predictor.config
        if not isinstance(config, TwoViewsConfig):
            raise UserError(
                f"run={run} is of task={config.task}, which takes one image; a run of "
                "task=two_views is wanted"
            )
        self.run, self.config, self.body = str(run), config, self.predictor.body

    def __call__(
        self,
        first: ImageLike,
        second: ImageLike,
        boxes: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
        cameras: tuple[PlacedCamera, PlacedCamera] | None = None,
        intrinsics: npt.ArrayLike | None = None,
        sides: Sequence[str] | None = None,
    ) -> list[Person]:
        """Return the Person of each pair of boxes, in the first camera.

        Args:
            first, second: (H, W, 3) uint8 RGB, a PIL image or a path each.
            boxes: n boxes in the first image and the same people's n in the second; None: each
                image shows one person, and nobody else.
            cameras: of both images; None: nobody knows how they stand.
            intrinsics: (3, 3) of both images, or (2, 3, 3) of each, where ``cameras`` is None;
                None: a guess.
            sides: n of "left" or "right", for runs on hands; None: right.

        Raises:
            UserError: what Predictor refuses; boxes that do not belong together; a run that was
                only trained with cameras, and none are given.
        """
        images = read_image(first), read_image(second)
        given = (None, None) if boxes is None else boxes
        known: Sequence[npt.ArrayLike | None]
        if cameras is not None:
            known = [camera.K for camera in cameras]
        elif intrinsics is not None and np.asarray(intrinsics).shape == (2, 3, 3):
            known = list(np.asarray(intrinsics))
        else:
            known = [intrinsics, intrinsics]
        Ks = [
            check_intrinsics(K, image.shape[1], image.shape[0])
            for K, image in zip(known, images, strict=True)
        ]
        placed = [
            check_boxes(
                box, image.shape[1], image.shape[0], self.config.margin, self.config.model.size
            )
            for box, image in zip(given, images, strict=True)
        ]
        counts = [len(checked) for _, checked in placed]
        if counts[0] != counts[1]:
            raise UserError(
                f"{counts[0]} boxes in the first image and {counts[1]} in the second: people are "
                "matched by their order, so there must be as many"
            )
        if cameras is not None:
            _check_rays(cameras, [checked for _, checked in placed])
        kinds = self._list_kinds(sides, counts[0])
        flip = torch.tensor([kind == KINDS[1] for kind in kinds], device=self.predictor.device)
        crops = [
            self.predictor.cut_crops(image, K, squares, flip)
            for image, K, (squares, _) in zip(images, Ks, placed, strict=True)
        ]
        pose = self._relate(cameras, flip)
        found = self._recover(
            ImagePair((crops[0][0], crops[1][0]), (crops[0][1], crops[1][1]), pose)
        )
        camera = torch.from_numpy(Ks[0]).float().to(flip.device).expand(len(kinds), 3, 3)
        return make_people(found, flip, self.body, camera, placed[0][1], kinds)

    @torch.no_grad()
    def _recover(self, pair: ImagePair) -> Prediction:
        model = self.predictor.model
        assert isinstance(model, TwoViewRecovery)
        return model.recover(pair, self.body)

    def _list_kinds(self, sides: Sequence[str] | None, count: int) -> list[str]:
        if self.body.kind != "hand":
            return [KINDS[0]] * count
        known = ["right"] * count if sides is None else list(sides)
        if len(known) != count or set(known) - {"left", "right"}:
            raise UserError(f"sides={known} for {count} boxes: each is 'left' or 'right'")
        return [f"{side}_hand" for side in known]

    def _relate(
        self, cameras: tuple[PlacedCamera, PlacedCamera] | None, flip: torch.Tensor
    ) -> CameraPose:
        keys = self.config.two_views
        if cameras is None:
            if keys.fusion == "cross" and keys.cameras == "known" and not keys.camera_drop:
                raise UserError(
                    f"run={self.run} never saw a pair without cameras (two_views.camera_drop=0), "
                    "and no calibration is given: name the file, calibration=FILE"
                )
            return unknown_cameras(len(flip), flip.device)
        Rts = [torch.from_numpy(camera.Rt).float().to(flip.device) for camera in cameras]
        pose = relate_cameras(*(Rt.expand(len(flip), 3, 4) for Rt in Rts))
        # In the mirror the world is mirrored too.
        sign = torch.where(flip[:, None], flip.new_tensor([-1.0, 1, 1], dtype=torch.float32), 1.0)
        mirrored = CameraPose(
            sign[:, :, None] * pose.rotation * sign[:, None], sign * pose.translation, pose.known
        )
        return mirrored if keys.cameras == "known" else mirrored.keep(torch.zeros_like(pose.known))


def _check_rays(cameras: tuple[PlacedCamera, PlacedCamera], boxes: Sequence[np.ndarray]) -> None:
    """UserError where the rays through two boxes' middles do not meet: they show two people."""
    for number, pair in enumerate(zip(*boxes, strict=True), 1):
        rays = [_ray(camera, box) for camera, box in zip(cameras, pair, strict=True)]
        apart = _distance(*rays)
        if apart > MOST_APART_M:
            raise UserError(
                f"box {number} of the first image and of the second show two people, or the "
                f"calibration is of other cameras: the rays through their middles pass each other "
                f"at {apart:.1f} m"
            )


def _ray(camera: PlacedCamera, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(centre, unit direction) in the world, through a box's middle."""
    middle = np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2, 1.0])
    rotation = camera.Rt[:, :3].T
    direction = rotation @ np.linalg.solve(camera.K, middle)
    return -rotation @ camera.Rt[:, 3], direction / np.linalg.norm(direction)


def _distance(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> float:
    """Least distance of two rays, which begin at their cameras, in metres."""
    (a, u), (b, v) = one, other
    directions = np.stack([u, -v], 1)
    along = np.linalg.lstsq(directions, b - a, rcond=None)[0].clip(0)
    return float(np.linalg.norm(a + along[0] * u - b - along[1] * v))


def move_person(
    person: Person, cameras: tuple[PlacedCamera, PlacedCamera], box: np.ndarray
) -> Person:
    """Return a Person of the first camera as the second one has it.

    Args:
        box: (4,) of the person in the second image.
    """
    first, second = cameras
    rotation = second.Rt[:, :3] @ first.Rt[:, :3].T
    translation = second.Rt[:, 3] - rotation @ first.Rt[:, 3]

    def move(points: np.ndarray) -> np.ndarray:
        return points @ rotation.T + translation

    keypoints = move(person.keypoints)
    flat = keypoints @ second.K.T
    pose = person.pose
    if pose is not None:
        pose = np.concatenate([(rotation @ pose[0])[None], pose[1:]])
    return replace(
        person,
        box=box,
        vertices=move(person.vertices),
        joints=move(person.joints),
        keypoints=keypoints,
        keypoints_2d=flat[:, :2] / np.maximum(flat[:, 2:], 1e-3),
        pose=pose,
        translation=move(person.translation),
        intrinsics=second.K,
    )
