"""COCO-WholeBody: COCO's numbers of body, feet, face, each hand, and all 133 keypoints."""

from typing import ClassVar

import numpy as np

from finetune.evaluation.protocols import PROTOCOLS, KeypointProtocol, Scores
from finetune.evaluation.protocols.coco import SIGMAS, list_averages
from finetune.evaluation.scoring.coco_files import CocoPeople, Part
from finetune.evaluation.scoring.oks import average

# In thousandths, as the data set's authors measured them on repeated annotations.
FEET = np.array([68, 66, 66, 92, 94, 94]) / 1000
_CONTOUR = (42, 43, 44, 43, 40, 35, 31, 25, 20, 23, 29, 32, 37, 38, 43, 41, 45)
_BROWS_AND_NOSE = (13, 12, 11, 11, 12, 12, 11, 11, 13, 15, 9, 7, 7, 7, 12, 9, 8, 16, 10)
_EYES = (17, 11, 9, 11, 9, 7, 13, 8, 11, 12, 10, 34)
_MOUTH = (8, 8, 9, 8, 8, 7, 10, 8, 9, 9, 9, 7, 7, 8, 11, 8, 8, 8, 10, 8)
FACE = np.array([*_CONTOUR, *_BROWS_AND_NOSE, *_EYES, *_MOUTH]) / 1000
_FINGERS = (22, 35, 37, 47, 26, 25, 24, 35, 18, 24, 22, 26, 17, 21, 21, 32, 20, 19, 22, 31)
HAND = np.array([29, *_FINGERS]) / 1000

# name, field, sigmas
PARTS = (
    ("body", "keypoints", SIGMAS),
    ("foot", "foot_kpts", FEET),
    ("face", "face_kpts", FACE),
    ("lefthand", "lefthand_kpts", HAND),
    ("righthand", "righthand_kpts", HAND),
)


@PROTOCOLS.register("coco_wholebody")
class CocoWholeBody(KeypointProtocol):
    """COCO-WholeBody's six sets of numbers."""

    title = "COCO-WholeBody"
    script = "jin-s13/COCO-WholeBody evaluation/evaluation_wholebody.py"
    joint_set = "coco_wholebody133 and its parts"
    root = "none: pixels of the image"
    alignment = "none"
    unit = "shares"
    counted = "as COCO's; of a part, people and detections that have a keypoint of it"
    averaging = "precision at 101 recalls, then 10 thresholds"
    kind = "body"
    submission = "results: as COCO's, with foot_kpts, face_kpts, lefthand_kpts, righthand_kpts"
    truth = "annotations, such as coco_wholebody_val_v1.0.json"

    points = "coco_wholebody133"
    fields: ClassVar[dict[str, int]] = {field: len(sigmas) for _, field, sigmas in PARTS}

    def score_people(self, people: CocoPeople) -> Scores:
        """Return AP and AR of each part and of all keypoints."""
        values = []
        for name, field, sigmas in PARTS:
            pairs = people.pair(Part((field,), (len(sigmas),), drop_empty=True))
            values += list_averages(average(pairs, sigmas), name)
        fields = tuple(field for _, field, _ in PARTS)
        counts = tuple(len(sigmas) for _, _, sigmas in PARTS)
        every = np.concatenate([sigmas for _, _, sigmas in PARTS])
        whole = people.pair(Part(fields, counts, drop_empty=True))
        values += list_averages(average(whole, every), "wholebody")
        return Scores(len(people.images), values)
