"""The keypoint head: where in the image each joint of a joint set is, by a map of each.

Tokens are put back into their places at ``head.cells`` samples each, two convolutions later each
joint has a map. Its highest sample and the mean about it are the answer (a soft argmax, kept to the
neighbourhood, so that two likely places do not give one between them). There is no mesh.

Where joints are is known from the body model, by the names that it has (its keypoints, and joints
of its own that a joint set names), or from labels of points in the image, which ``task=keypoints``
reads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from data.bodies.base import BodyModel, pair_sides
from data.cropping.geometry import Size, find_longer
from data.format.joint_sets import find_joint_set
from engine.config.parser import key
from engine.errors import UserError
from finetune.crop_camera import find_middle, lengths_of
from finetune.heads.base import HEADS, ImagePrediction, Truth
from finetune.heads.image_head import Asked, Comparison, ImageHead
from finetune.heads.keypoint_maps import compare_maps
from finetune.heads.keys import HeadConfig
from finetune.losses import IN_THE_IMAGE
from finetune.maps.decoder import ConvUnit, PlaceTokens
from finetune.maps.points import (
    TruePoints,
    average_points,
    find_places,
    measure_distances,
    measure_pck,
    read_maps,
    read_points,
)
from finetune.maps.save import save_points
from finetune.maps.skeleton import draw_skeleton
from finetune.means import Means
from pretrain.config import VisionConfig
from pretrain.model import initialise


@dataclass
class KeypointsConfig(HeadConfig):
    """Sizes of finetune/heads/keypoints.py, and the weights of its terms."""

    joints: str = key(
        "",
        "joint set, a name of data/format/joint_sets.py such as coco17, coco_wholebody133, hand21; "
        "default: the body model's own keypoints",
    )
    width: int = key(48, "channels of the maps that tokens are put into", low=4)
    cells: int = key(4, "samples of the maps along a token's side", low=1, high=32)
    maps: float = key(1.0, "weight of the maps, cross-entropy", low=0)
    points: float = key(2.0, "weight of the joints' places, over the image's side", low=0)

    def check(self) -> None:
        """Raise UserError where there is no such joint set, or nothing is learnt."""
        if self.joints:
            find_joint_set(self.joints)
        if not self.maps and not self.points:
            raise UserError("head.maps=0 and head.points=0: one of them must be above")


@HEADS.register("keypoints")
class KeypointHead(ImageHead):
    """Tokens to a map of each joint; see finetune.heads.base.Head for the arguments.

    Attributes:
        joint_names: of the K joints.
        known: which of them the body model gives.
    """

    schema = KeypointsConfig
    needs = IN_THE_IMAGE

    def __init__(self, config: VisionConfig, head: KeypointsConfig, body: BodyModel) -> None:
        super().__init__()
        self.joint_set = head.joints
        chosen = find_joint_set(head.joints).joints if head.joints else body.keypoint_names
        self.joint_names = tuple(chosen)
        self.places = find_places(self.joint_names, body)
        self.known = [place is not None for place in self.places]
        self.mirror = pair_sides(self.joint_names, "left_", "right_")
        self.grid, self.size = config.grid(), config.size
        self.norm = nn.LayerNorm(config.encoder.width)
        self.put = PlaceTokens(config.encoder.width, head.width, head.cells)
        self.mix = ConvUnit(head.width)
        self.answers = nn.Conv2d(head.width, len(self.joint_names), 1)
        self.apply(initialise)

    def forward(
        self, features: torch.Tensor, K: torch.Tensor, size: Size, means: Means, body: BodyModel
    ) -> ImagePrediction:
        """Predict the joints of images; see finetune.heads.base.Head."""
        maps = self.mix(self.put(self.norm(features), self.grid))
        logits = self.answers(F.gelu(maps)).float()
        places = read_maps(logits)
        return ImagePrediction(maps=logits, keypoints_2d=places * lengths_of(size, places))

    def list_comparisons(self) -> Sequence[tuple[str, str, Comparison]]:
        """Cross-entropy of the maps, and how far off the places are."""
        return (
            ("maps", "head.maps", self._compare_maps),
            ("points", "head.points", self._compare_points),
        )

    def list_judgements(self) -> Sequence[tuple[str, str, str, bool, Comparison]]:
        """PCK at a tenth and a fifth of the joints' box, and the mean distance over that box."""
        return (
            ("pck_01", "PCK@0.1", "", False, partial(self._pck, 0.1)),
            ("pck_02", "PCK@0.2", "", False, partial(self._pck, 0.2)),
            ("off_box", "distance over box", "", True, self._distance),
        )

    def read_truth(self, truth: Truth) -> TruePoints:
        """Where the joints of crops are, as far as labels or the body model know."""
        return read_points(truth, self.places, self.mirror)

    def average_truths(self, told: Sequence[TruePoints]) -> ImagePrediction:
        """The mean place of each joint."""
        return ImagePrediction(keypoints_2d=average_points(told) * find_longer(self.size))

    def _compare_maps(self, found: ImagePrediction, true: TruePoints) -> torch.Tensor:
        if found.maps is None:
            raise ValueError("the prediction has no maps")
        # Maps are compared over width and height.
        return compare_maps(
            found.maps, true.points / (2 * find_middle(self.size, true.points)), true.known
        )

    def _compare_points(self, found: ImagePrediction, true: TruePoints) -> torch.Tensor:
        apart = (self._places(found) - true.points).abs().sum(-1)
        inside = (true.known & true.inside).float()
        return (apart * inside).sum(1) / inside.sum(1).clamp_min(1)

    def _pck(self, share: float, found: ImagePrediction, true: TruePoints) -> torch.Tensor:
        return measure_pck(self._places(found), true, share)

    def _distance(self, found: ImagePrediction, true: TruePoints) -> torch.Tensor:
        return measure_distances(self._places(found), true)

    def _places(self, found: ImagePrediction) -> torch.Tensor:
        """(B, K, 2) found places over the image's side."""
        if found.keypoints_2d is None:
            raise ValueError("the prediction has no points")
        return found.keypoints_2d / find_longer(self.size)

    def draw(self, image: np.ndarray, found: ImagePrediction, row: int) -> np.ndarray:
        """The image with the skeleton on it, twice as large."""
        if found.keypoints_2d is None:
            raise ValueError("the prediction has no points")
        shown = cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
        points = 2 * found.keypoints_2d[row].detach().cpu().numpy()
        return draw_skeleton(shown, points, self.joint_names)

    def save_answers(
        self, stem: Path, image: np.ndarray, answers: Sequence[tuple[Asked, ImagePrediction, int]]
    ) -> list[Path]:
        """Write the image with skeletons, and joints as COCO's results have them."""
        return save_points(stem, image, answers, self.joint_names)
