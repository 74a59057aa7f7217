"""4D-Humans' training and evaluation data: npz files, or tars of WebDataset; see npz_rows.

body_pose is SMPL's whole pose, 72 numbers, or 69 beside a global_orient. 44 joints: the 25 of
OpenPose's body, then SPIN's 19, which keep a suffix here where OpenPose has the same name; those in
3D are in metres in the camera's axes, and nobody knows where the person stands.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data.format.labels import BodyParameters, CropLabels, Joints, Keypoints
from data.sources.labelled import LABELLED, LabelledImage
from data.sources.labelled.bodies import (
    PIXEL_CENTRE,
    as_numbers,
    box_of_scale,
    take_numbers,
)
from data.sources.labelled.npz_rows import PersonRow, RowSource, is_labelled

JOINT_SET = "humans44"
PARTS = (("body", 25), ("extra", 19))
FIELDS = (
    "body_pose",
    "global_orient",
    "has_body_pose",
    "betas",
    "has_betas",
    *(f"{part}_keypoints_{kind}" for part, _ in PARTS for kind in ("2d", "3d")),
)
POSE, WITHOUT_ROOT = 72, 69


@LABELLED.register("humans4d")
@dataclass
class Humans4D(RowSource):
    """The npz files and tars of 4D-Humans."""

    def read(self) -> Iterator[LabelledImage]:
        """Yield every person, by file."""
        return self.read_rows(FIELDS, self._person)

    def _person(self, file: str, row: PersonRow) -> LabelledImage:
        labels = CropLabels(frame="root", body=_body(row))
        points = _points(row, "2d", 3)
        if points is not None:
            pixels = points[:, :2] + PIXEL_CENTRE
            labels.keypoints = Keypoints(JOINT_SET, pixels, points[:, 2].clip(0, 1))
        points = _points(row, "3d", 4)
        if points is not None:
            labels.joints = Joints(JOINT_SET, points[:, :3], points[:, 3].clip(0, 1))
        centre = take_numbers(row.values, "center", 2) + PIXEL_CENTRE
        scale = np.asarray(row.values["scale"], np.float64)
        return LabelledImage(
            image=row.image,
            clip=f"{file}/{row.name}/{row.number}",
            subject=f"{file}/{row.name}",
            box=box_of_scale(centre, float(scale.max())),
            labels=labels,
            name=row.name,
            split=self.split or None,
        )


def _points(row: PersonRow, kind: str, width: int) -> np.ndarray | None:
    """(44, width) of OpenPose's joints and SPIN's; None where none is labelled."""
    whole = f"keypoints_{kind}"  # of a tar, which has both in one
    if row.values.get(whole) is not None:
        points = as_numbers(row.values[whole], whole, sum(count for _, count in PARTS), width)
    else:
        parts = []
        for part, count in PARTS:
            name = f"{part}_keypoints_{kind}"
            value = row.values.get(name)
            zeros = np.zeros((count, width))
            parts.append(zeros if value is None else as_numbers(value, name, count, width))
        points = np.concatenate(parts)
    return points if (points[:, -1] > 0).any() else None


def _body(row: PersonRow) -> BodyParameters | None:
    values = {}
    if is_labelled(row, "body_pose", "has_body_pose"):
        pose = np.asarray(row.values["body_pose"], np.float64).ravel()
        if pose.size == WITHOUT_ROOT and row.values.get("global_orient") is not None:
            pose = np.concatenate([np.asarray(row.values["global_orient"]).ravel(), pose])
        if pose.size != POSE:
            raise ValueError(f"body_pose has {pose.size} numbers, not {POSE}")
        values["pose"] = pose.reshape(24, 3)
    if is_labelled(row, "betas", "has_betas"):
        values["betas"] = take_numbers(row.values, "betas", 10)
    if not values:
        return None
    arrays = {name: np.asarray(value, np.float32) for name, value in values.items()}
    return BodyParameters("smpl", "neutral", arrays, of_person=frozenset({"betas"}))
