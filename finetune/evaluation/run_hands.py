"""Both hands of an image, each from a crop of its own, brought together for a protocol."""

from dataclasses import dataclass

import numpy as np

from data.format.clip import Clip, Crop
from data.format.joint_sets import JOINT_SETS, find_joint_set
from data.format.labels import CropLabels
from engine.errors import UserError
from finetune.evaluation.collector import Collector
from finetune.evaluation.protocols import Frames, RunHands, RunProtocol, Scores
from finetune.inference.predictor import Predictor
from finetune.verb_config import EvaluateConfig

SIDES = ("right", "left")
GIVEN = (
    "Which hands an image shows is given, so that there is no handedness accuracy; hands count as "
    "interacting where the shards hold both of an image."
)


@dataclass
class _Hand:
    """(J, 3) metres in the camera's axes, and which of the true joints are labelled."""

    found: np.ndarray
    true: np.ndarray
    valid: np.ndarray


class HandCollector(Collector):
    """Collects pairs of hands.

    Raises:
        UserError: the run's hands lack joints of the protocol.
    """

    def __init__(
        self, protocol: RunProtocol, run: RunHands, predictor: Predictor, config: EvaluateConfig
    ) -> None:
        if config.plausibility:
            raise UserError(
                f"plausibility=true is of one person; protocol={config.protocol} of two"
            )
        self.protocol, self.predictor, self.config = protocol, predictor, config
        self.names = find_joint_set(run.joint_set).joints
        there = predictor.body.keypoint_names
        lacking = [name for name in self.names if name not in there]
        if lacking:
            raise UserError(
                f"protocol={config.protocol} needs {', '.join(lacking)}, which run={config.run} "
                f"lacks"
            )
        self.rows = [there.index(name) for name in self.names]
        self.images: dict[str, dict[str, _Hand]] = {}
        self.numbers: dict[str, int] = {}
        self.unlabelled = 0

    def add(self, clip: Clip, crop: Crop, pixels: np.ndarray, labels: CropLabels) -> None:
        """Look at one hand, if its joints are labelled."""
        side = crop.kind.removesuffix("_hand")
        truth = self._read_truth(crop, labels)
        if truth is None:
            self.unlabelled += 1
            return
        (person,) = self.predictor(pixels, None, crop.K, [side])
        # Cameras of one instant have images of their own.
        image = crop.image or f"{clip.key} {crop.camera} {crop.time_s}"
        found = person.keypoints[self.rows].astype(np.float64)
        self.images.setdefault(image, {})[side] = _Hand(found, *truth)
        if labels.annotation is not None:
            self.numbers[image] = int(labels.annotation.number)

    def finish(self) -> Scores:
        """Return the numbers; see Collector."""
        if not self.images:
            raise UserError(
                f"{self.config.data.shards}: none of {self.unlabelled} crops has labels of "
                f"{', '.join(self.names[:3])} ... in space"
            )
        found, true = self._stack()
        scores = self.protocol.score(found, true)
        scores.notes.append(GIVEN)
        if self.unlabelled:
            scores.notes.append(f"{self.unlabelled} crops without labels were left out.")
        if self.config.submission:
            if found.index is None:
                raise UserError(
                    f"submission={self.config.submission} needs the annotations' numbers, which "
                    f"{self.config.data.shards} lacks: cut the shards again with `python -m data "
                    f"labels`"
                )
            found.hands = true.hands
            self.protocol.write(self.config.submission, found)
            scores.notes.append(f"wrote {self.config.submission}")
        return scores

    def _read_truth(self, crop: Crop, labels: CropLabels) -> tuple[np.ndarray, np.ndarray] | None:
        """((J, 3) in the camera's axes, (J,) bool) of a hand; None of nothing."""
        joints = labels.joints
        if joints is None or joints.joint_set not in JOINT_SETS:
            return None
        places = {name: i for i, name in enumerate(find_joint_set(joints.joint_set).joints)}
        rows = np.array([places.get(name, -1) for name in self.names])
        valid = (rows >= 0) & (joints.confidence[rows] > 0)
        seen = labels.keypoints
        if seen is not None and seen.joint_set == joints.joint_set:
            valid &= seen.confidence[rows] > 0  # as annotated in this image
        points = joints.points[rows].astype(np.float64)
        if labels.frame == "world":
            if crop.Rt is None:
                return None
            Rt = np.asarray(crop.Rt, np.float64)
            points = points @ Rt[:, :3].T + Rt[:, 3]
        return (points, valid) if valid.any() else None

    def _stack(self) -> tuple[Frames, Frames]:
        """Predicted and true frames of two hands; a hand that is not there is not valid."""
        count, joints = len(self.images), len(self.names)
        found, true = np.zeros((2, count, len(SIDES), joints, 3))
        valid, hands = np.zeros((count, len(SIDES), joints), bool), np.zeros((count, len(SIDES)))
        for row, image in enumerate(self.images.values()):
            for side, hand in image.items():
                place = row, SIDES.index(side)
                found[place], true[place], valid[place] = hand.found, hand.true, hand.valid
                hands[place] = 1
        shape = count, len(SIDES) * joints
        index = np.array([self.numbers.get(image, -1) for image in self.images], np.int64)
        return (
            Frames(
                found.reshape(*shape, 3),
                index=None if (index < 0).any() else index,
                name=f"run={self.config.run}",
            ),
            Frames(
                true.reshape(*shape, 3),
                valid=valid.reshape(shape),
                hands=hands,
                name=self.config.data.shards or "the shards",
            ),
        )
