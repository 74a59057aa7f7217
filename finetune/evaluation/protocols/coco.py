"""COCO keypoints: average precision and recall by object keypoint similarity."""

from typing import ClassVar

import numpy as np

from finetune.evaluation.protocols import PROTOCOLS, KeypointProtocol, Scores, Value
from finetune.evaluation.scoring.coco_files import CocoPeople, Part
from finetune.evaluation.scoring.oks import average

# Of COCO's 17 keypoints; those of sides come twice.
SIGMAS = np.array([26, *np.repeat([25, 35, 79, 72, 62, 107, 87, 89], 2)]) / 1000
BODY = Part(("keypoints",), (17,), by_field=False)
NAMES = {
    "AP": "AP, OKS 0.50 to 0.95",
    "AP50": "AP, OKS 0.50",
    "AP75": "AP, OKS 0.75",
    "APm": "AP of medium people",
    "APl": "AP of large people",
    "AR": "AR, OKS 0.50 to 0.95",
    "AR50": "AR, OKS 0.50",
    "AR75": "AR, OKS 0.75",
    "ARm": "AR of medium people",
    "ARl": "AR of large people",
}


def list_averages(numbers: dict[str, float], part: str = "") -> list[Value]:
    """Return the ten numbers in the order in which they are printed.

    Args:
        part: put before the keys, such as "foot".
    """
    prefix = f"{part} " if part else ""
    return [
        Value(f"{prefix}{key}", f"{prefix}{name}", numbers[key], "", 3, "higher")
        for key, name in NAMES.items()
    ]


@PROTOCOLS.register("coco")
class CocoKeypoints(KeypointProtocol):
    """COCO's keypoint challenge."""

    title = "COCO keypoints"
    script = "cocodataset/cocoapi pycocotools/cocoeval.py"
    joint_set = "coco17"
    root = "none: pixels of the image"
    alignment = "none"
    unit = "shares"
    counted = "all images; 20 detections an image; crowds and people without keypoints are ignored"
    averaging = "precision at 101 recalls, then 10 thresholds"
    kind = "body"
    submission = "results: a JSON list of image_id, category_id, keypoints, score"
    truth = "annotations, such as person_keypoints_val2017.json"

    points = "coco17"
    fields: ClassVar[dict[str, int]] = {"keypoints": 17}

    def score_people(self, people: CocoPeople) -> Scores:
        """Return AP and AR; -1 where nobody counts."""
        return Scores(len(people.images), list_averages(average(people.pair(BODY), SIGMAS)))
