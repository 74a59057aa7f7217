"""What the referee compares: a run, the mean body of its training people, and that body turned."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from data.bodies.base import BodyParameters
from data.cropping.geometry import square_around
from data.cropping.host import cut_square
from data.loading.augment import normalise
from engine.geometry import axis_angle_to_matrix, crop_intrinsics
from finetune.heads.base import Prediction, pose_body
from finetune.inference.predictor import Predictor
from finetune.referee.truth import JUDGED, Seen
from finetune.viz.raster import shared_raster

ROWS = {
    "model": "this run",
    "turned": "mean pose, turned (best of 16)",
    "mean": "mean pose",
}
TURNS = 16
BATCH = 32


@dataclass
class Answer:
    """What one row says of one person.

    Attributes:
        joints: (12, 3) JUDGED in the camera's frame, metres.
        points: (12, 2) pixels of the image.
        outline: (64, 64) bool over the square of what was seen; None where none was.
        vertices: (V, 3) in the camera's frame; of the run's own row alone.
    """

    joints: np.ndarray
    points: np.ndarray
    outline: np.ndarray | None
    vertices: np.ndarray | None = None


class Rows:
    """The answers of all rows to crops of one run's size.

    Args:
        predictor: of a run on bodies.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        names = predictor.body.keypoint_names
        self.judged = [names.index(name) for name in JUDGED]
        faces = predictor.body.faces
        if faces is None:
            raise ValueError("a coarse body has no outline")
        self.faces = faces.cpu().numpy()

    @torch.no_grad()
    def answer(
        self, image: np.ndarray, K: np.ndarray, people: Sequence[Seen]
    ) -> list[dict[str, Answer]]:
        """{row: Answer} of each person of one image.

        Args:
            image: (H, W, 3) uint8, undistorted.  K: (3, 3) of it.
        """
        out: list[dict[str, Answer]] = []
        for i in range(0, len(people), BATCH):
            out += self._answer_batch(image, K, people[i : i + BATCH])
        return out

    def _answer_batch(
        self, image: np.ndarray, K: np.ndarray, people: Sequence[Seen]
    ) -> list[dict[str, Answer]]:
        predictor, size = self.predictor, self.predictor.config.model.image_size
        squares = [square_around(seen.box, predictor.config.margin) for seen in people]
        crops = np.stack([cut_square(image, square, size) for square in squares])
        images = torch.from_numpy(crops).to(predictor.device)
        images = normalise(images.permute(0, 3, 1, 2).float().div_(255))
        cameras = np.stack([crop_intrinsics(K, square.box, (size, size)) for square in squares])
        Ks = torch.from_numpy(cameras).float().to(predictor.device)
        found = {"model": predictor.model(images, Ks, predictor.body)}
        found["mean"] = pose_body(predictor.body, predictor.model.place_means(Ks, size))
        found["turned"] = self._best_turned(Ks, size, K, people)
        answers: list[dict[str, Answer]] = []
        for i, seen in enumerate(people):
            answers.append({row: self._read(found[row], i, seen, K, row) for row in ROWS})
        return answers

    def _best_turned(
        self, Ks: torch.Tensor, size: int, K: np.ndarray, people: Sequence[Seen]
    ) -> Prediction:
        """The mean body turned about the vertical so that its keypoints fit best."""
        best: list[tuple[float, BodyParameters]] = []
        for turn in range(TURNS):
            turned = self._turn(Ks, size, 2 * np.pi * turn / TURNS)
            joints = self._joints(pose_body(self.predictor.body, turned))
            for i, seen in enumerate(people):
                away = np.linalg.norm(_project(joints[i], K) - seen.joints[:, :2], axis=1)
                error = float((away * seen.joints[:, 2]).sum())
                if turn == 0:
                    best.append((error, turned.select(slice(i, i + 1))))
                elif error < best[i][0]:
                    best[i] = (error, turned.select(slice(i, i + 1)))
        rows = [row for _, row in best]
        chosen = BodyParameters(
            rows[0].body,
            torch.cat([row.pose for row in rows]),
            torch.cat([row.shape for row in rows]),
            torch.cat([row.translation for row in rows]),
        )
        return pose_body(self.predictor.body, chosen)

    def _turn(self, Ks: torch.Tensor, size: int, angle: float) -> BodyParameters:
        mean = self.predictor.model.place_means(Ks, size)
        about_y = axis_angle_to_matrix(mean.pose.new_tensor([0.0, angle, 0.0]))
        mean.pose[:, 0] = about_y @ mean.pose[:, 0]
        return mean

    def _joints(self, found: Prediction) -> np.ndarray:
        return found.keypoints[:, self.judged].double().cpu().numpy()

    def _read(self, found: Prediction, i: int, seen: Seen, K: np.ndarray, row: str) -> Answer:
        joints = found.keypoints[i, self.judged].double().cpu().numpy()
        vertices = found.vertices[i].cpu().numpy()
        outline = None
        if seen.square is not None:
            outline = self._draw(vertices, K, seen.square)
        kept = vertices if row == "model" else None
        return Answer(joints, _project(joints, K), outline, kept)

    def _draw(self, vertices: np.ndarray, K: np.ndarray, square: np.ndarray) -> np.ndarray:
        """(64, 64) bool over a square of the image."""
        camera = crop_intrinsics(K, square, (64, 64))
        return shared_raster("cpu").silhouettes(vertices[None], self.faces, camera, (64, 64))[0]


def _project(joints: np.ndarray, K: np.ndarray) -> np.ndarray:
    """(n, 2) pixels of points (n, 3) in the camera's frame."""
    at = joints @ np.asarray(K, np.float64).T
    return at[:, :2] / np.maximum(at[:, 2:], 1e-6)
