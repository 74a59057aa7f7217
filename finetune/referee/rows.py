"""What the referee compares: runs, the mean of a run's training people, and that mean turned."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from data.cropping.batch import mirror_cameras
from data.cropping.geometry import Size, crop_camera_of, square_around
from data.cropping.host import cut_square
from data.loading.augment import normalise
from engine.geometry import axis_angle_to_matrix, crop_intrinsics
from finetune.heads.base import Prediction, pose_body
from finetune.inference.predictor import Predictor
from finetune.people import unmirror
from finetune.referee.kinds import Kind
from finetune.referee.truth import MASK_SIDE, Seen
from finetune.viz.raster import shared_raster

RUN, TURNED, MEAN = "model", "turned", "mean"
BESIDE = "beside/"  # before the name of a run in its row's key
TURNS = 16
BATCH = 32


@dataclass
class Answer:
    """What one row says of one person or hand.

    Attributes:
        joints: (n, 3) of what is judged, in the camera's frame, metres.
        points: (n, 2) pixels of the image.
        outline: (64, 64) bool over the square of what was seen; None where none was.
        vertices: (V, 3) in the camera's frame; of the judged run's own row alone.
    """

    joints: np.ndarray
    points: np.ndarray
    outline: np.ndarray | None
    vertices: np.ndarray | None = None


def name_rows(beside: Sequence[str], kind: Kind) -> dict[str, str]:
    """{row: title} of the table: the judged run, those beside it, the mean turned, the mean."""
    mean = "mean hand" if kind.name == "hand" else "mean pose"
    best = TURNS * TURNS if kind.spins else TURNS
    return {
        RUN: "this run",
        **{f"{BESIDE}{name}": name for name in beside},
        TURNED: f"{mean}, turned (best of {best})",
        MEAN: mean,
    }


class Asked:
    """A run's network, with which of its keypoints are judged and how its crops are cut.

    Args:
        predictor: of the run.
        kind: of what it recovers.
        prompted: whether it is given the found keypoints, if it takes them.
    """

    def __init__(self, predictor: Predictor, kind: Kind, prompted: bool = False) -> None:
        self.prompted = prompted
        self.predictor, self.body = predictor, predictor.body
        self.size: Size = predictor.config.model.size
        self.judged = [predictor.body.keypoint_names.index(name) for name in kind.joints]
        if self.body.faces is None:
            raise ValueError("a coarse body has no outline")
        self.faces = self.body.faces.cpu().numpy()

    def cut(self, image: np.ndarray, K: np.ndarray, people: Sequence[Seen]) -> "Crops":
        """Crops as the run was trained on them, left hands mirrored."""
        predictor, size = self.predictor, self.size
        margin = predictor.config.margin
        squares = [square_around(seen.box, margin, size) for seen in people]
        pixels = np.stack([cut_square(image, square, size) for square in squares])
        images = torch.from_numpy(pixels).to(predictor.device)
        images = normalise(images.permute(0, 3, 1, 2).float().div_(255))
        cameras = np.stack([crop_camera_of(square, K, size) for square in squares])
        Ks = torch.from_numpy(cameras).float().to(predictor.device)
        flip = torch.tensor([seen.side == "left" for seen in people], device=predictor.device)
        images = torch.where(flip[:, None, None, None], images.flip(-1), images)
        prompts = masks = None
        if self.prompted:
            prompts = predictor.place_prompts([seen.keypoints for seen in people], squares, flip)
            outlines = [seen.outline for seen in people]
            masks = predictor.place_masks(outlines, squares, flip, image.shape[:2])
        return Crops(images, mirror_cameras(Ks, flip, size), flip, prompts, masks)

    def recover(self, crops: "Crops") -> Prediction:
        """What the network says, in the image's camera."""
        found = self.predictor.model(
            crops.images, crops.K, self.body, crops.prompts, masks=crops.masks
        )
        return unmirror(found, crops.flip, self.body)

    def place_mean(self, crops: "Crops") -> Prediction:
        """The mean of the run's training people, where a network that knows nothing puts it."""
        mean = pose_body(self.body, self.predictor.model.place_means(crops.K, self.size))
        return unmirror(mean, crops.flip, self.body)

    def joints(self, found: Prediction) -> np.ndarray:
        """(B, n, 3) float64 of what is judged."""
        return found.keypoints[:, self.judged].double().cpu().numpy()


@dataclass
class Crops:
    """B images for a network: (B, 3, S, S), (B, 3, 3) cameras, (B,) bool which are mirrored.

    ``prompts``: of finetune.prompts, or None.  ``masks``: of finetune.masks, or None.
    """

    images: torch.Tensor
    K: torch.Tensor
    flip: torch.Tensor
    prompts: torch.Tensor | None = None
    masks: torch.Tensor | None = None


class Rows:
    """The answers of all rows to the people of an image, each by crops as its run wants them.

    Args:
        kind: of what is judged.
        run: whose mean is the last rows'.
        others: {row: Predictor} of further runs, or of the run's other checkpoints.
        prompted: whether runs that take keypoints are given the found ones.
    """

    def __init__(
        self, kind: Kind, run: Predictor, others: Mapping[str, Predictor], prompted: bool = False
    ) -> None:
        self.kind = kind
        self.run = Asked(run, kind, prompted)
        self.others = {row: Asked(other, kind, prompted) for row, other in others.items()}
        self.turns = list_turns(kind.spins)

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
        answers: list[dict[str, Answer]] = [{} for _ in people]
        for row, asked, prediction in self._predict(image, K, people):
            joints = asked.joints(prediction)
            vertices = prediction.vertices.cpu().numpy()
            for i, seen in enumerate(people):
                outline = None
                if seen.square is not None:
                    outline = _draw(vertices[i], asked.faces, K, seen.square)
                kept = vertices[i] if row == RUN else None
                answers[i][row] = Answer(joints[i], project_joints(joints[i], K), outline, kept)
        return answers

    def _predict(
        self, image: np.ndarray, K: np.ndarray, people: Sequence[Seen]
    ) -> Iterator[tuple[str, Asked, Prediction]]:
        """One row after the other: the meshes of many checkpoints at once would fill the memory."""
        crops = self.run.cut(image, K, people)
        yield RUN, self.run, self.run.recover(crops)
        for row, other in self.others.items():
            yield row, other, other.recover(other.cut(image, K, people))
        mean = self.run.place_mean(crops)
        joints = self.run.joints(mean)
        yield TURNED, self.run, turn_best(mean, joints, K, people, self.turns)
        yield MEAN, self.run, mean


def list_turns(spins: bool) -> np.ndarray:
    """(T, 3, 3) rotations about the vertical; with ``spins`` each then about the camera's axis."""
    angles = 2 * np.pi * torch.arange(TURNS, dtype=torch.float64) / TURNS
    axes = torch.eye(3, dtype=torch.float64)
    upright = axis_angle_to_matrix(angles[:, None] * axes[1]).numpy()
    if not spins:
        return upright
    spun = axis_angle_to_matrix(angles[:, None] * axes[2]).numpy()
    return np.stack([b @ a for a, b in itertools.product(upright, spun)])


def turn_best(
    mean: Prediction,
    joints: np.ndarray,
    K: np.ndarray,
    people: Sequence[Seen],
    turns: np.ndarray,
) -> Prediction:
    """The mean turned about the middle of its joints so that these fit what was found best.

    Args:
        joints: (B, n, 3) of ``mean``, what is judged.
        turns: (T, 3, 3).
    """
    vertices, points, keypoints = [], [], []
    for i, seen in enumerate(people):
        middle = joints[i].mean(0)
        turned = (joints[i] - middle) @ turns.transpose(0, 2, 1) + middle
        away = np.linalg.norm(project_joints(turned, K) - seen.joints[:, :2], axis=-1)
        best = turns[int((away * seen.joints[:, 2]).sum(1).argmin())]
        rotation = torch.from_numpy(best).to(mean.vertices)
        centre = torch.from_numpy(middle).to(mean.vertices)
        vertices.append((mean.vertices[i] - centre) @ rotation.T + centre)
        points.append((mean.joints[i] - centre) @ rotation.T + centre)
        keypoints.append((mean.keypoints[i] - centre) @ rotation.T + centre)
    return Prediction(torch.stack(vertices), torch.stack(points), torch.stack(keypoints))


def project_joints(joints: np.ndarray, K: np.ndarray) -> np.ndarray:
    """(..., n, 2) pixels of points (..., n, 3) in the camera's frame."""
    at = joints @ np.asarray(K, np.float64).T
    return at[..., :2] / np.maximum(at[..., 2:], 1e-6)


def _draw(vertices: np.ndarray, faces: np.ndarray, K: np.ndarray, square: np.ndarray) -> np.ndarray:
    """(64, 64) bool over a square of the image."""
    side = (MASK_SIDE, MASK_SIDE)
    camera = crop_intrinsics(K, square, side)
    return shared_raster("cpu").silhouettes(vertices[None], faces, camera, side)[0]
