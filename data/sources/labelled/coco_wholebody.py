"""COCO-WholeBody: COCO's people with feet, faces and hands, 133 points in 2D.

    root/annotations/coco_wholebody_val_v1.0.json       root/val2017/000000000139.jpg

``keypoints`` are COCO's 17; foot_kpts (6), face_kpts (68), lefthand_kpts and righthand_kpts (21
each) follow in this order, and count where FOOT_valid, FACE_valid and so on do. Pixels as in COCO.
Hands with a box are crops of their own too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from data.format.labels import CropLabels
from data.sources.labelled import LABELLED, LabelledImage
from data.sources.labelled.coco import (
    CocoAnnotation,
    CocoImage,
    CocoKeypoints,
    CocoParts,
    box_of,
    parse_keypoints,
)
from engine.config.parser import key
from engine.errors import UserError

WHOLE = "coco_wholebody133"
BODY = 17
# (field, its points, the field that says whether they count)
PARTS = (
    ("foot_kpts", 6, "foot_valid"),
    ("face_kpts", 68, "face_valid"),
    ("lefthand_kpts", 21, "lefthand_valid"),
    ("righthand_kpts", 21, "righthand_valid"),
)


@LABELLED.register("coco_wholebody")
@dataclass
class CocoWholeBody(CocoKeypoints):
    """COCO-WholeBody."""

    annotations: str = key(
        "annotations/coco_wholebody_val_v1.0.json",
        "the JSON file, inside root= or a path of its own",
        path="one",
    )
    hands: bool = key(True, "crops of hands too, each with its 21 points")

    def find_category(self, categories: list, path: str) -> tuple[int, str]:
        """(id, joint set) of the category; its own list of names is COCO's 17."""
        for category in categories:
            if category["name"] == self.category:
                return category["id"], WHOLE
        names = ", ".join(sorted(category["name"] for category in categories))
        raise UserError(f"{path}: category={self.category} is none of {names}")

    def list_crops(
        self,
        annotation: CocoAnnotation,
        image: CocoImage,
        parts: CocoParts,
    ) -> list[LabelledImage]:
        """The person of one annotation, and their hands."""
        fields = cast(Mapping[str, Any], annotation)
        points = parse_keypoints(_join(fields), parts.joint_set, annotation["id"])
        if (points.confidence > 0).sum() < self.keypoints_min:
            return []
        person = self.make_person(annotation, image, points, parts)
        out = [person]
        for side in ("left", "right") if self.hands else ():
            hand = _make_hand(person, fields, side)
            out += [] if hand is None else [hand]
        return out


def _join(fields: Mapping[str, Any]) -> np.ndarray:
    """(399,) x, y, v of all points; zeros where a part does not count."""
    rows = [np.asarray(fields["keypoints"], np.float32)]
    if rows[0].shape != (3 * BODY,):
        raise ValueError(
            f"annotation {fields['id']} has {rows[0].size} numbers of keypoints, not {3 * BODY}"
        )
    for name, count, valid in PARTS:
        values = np.asarray(fields[name], np.float32)
        if values.shape != (3 * count,):
            raise ValueError(
                f"annotation {fields['id']} has {values.size} numbers of {name}, not {3 * count}"
            )
        rows.append(values if fields[valid] else np.zeros_like(values))
    return np.concatenate(rows)


def _make_hand(person: LabelledImage, fields: Mapping[str, Any], side: str) -> LabelledImage | None:
    """A hand as a crop of its own; None where it is not labelled."""
    if not fields[f"{side}hand_valid"] or f"{side}hand_box" not in fields:
        return None
    keypoints = parse_keypoints(fields[f"{side}hand_kpts"], "hand21", fields["id"])
    if not (keypoints.confidence > 0).any():
        return None
    return replace(
        person,
        clip=f"{person.clip}-{side}",
        box=box_of(fields[f"{side}hand_box"]),
        labels=CropLabels(keypoints=keypoints),
        kind=f"{side}_hand",
        mask=None,
    )
