"""HaMeR's training and evaluation data: npz files, or tars of WebDataset; see npz_rows.

``right`` is 1 or 0; hands are as they are in the image, left ones not mirrored. hand_pose (48,) is
the wrist and the fingers, without a mean left to be added. 21 joints in OpenPose's order, that of
hand21; those in 3D are in metres in the camera's axes, and nobody knows where the hand stands.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data.format.labels import BodyParameters, CropLabels, Joints, Keypoints
from data.sources.labelled import LABELLED, LabelledImage
from data.sources.labelled.bodies import PIXEL_CENTRE, as_numbers, box_of_scale, take_numbers
from data.sources.labelled.hands import kind_of, mano_body
from data.sources.labelled.npz_rows import PersonRow, RowSource, is_labelled

FIELDS = (
    "right",
    "hand_pose",
    "has_hand_pose",
    "betas",
    "has_betas",
    "hand_keypoints_2d",
    "hand_keypoints_3d",
)


@LABELLED.register("hamer")
@dataclass
class Hamer(RowSource):
    """HaMeR's npz files and tars."""

    def read(self) -> Iterator[LabelledImage]:
        """Yield every hand, by file."""
        return self.read_rows(FIELDS, self._hand)

    def _hand(self, file: str, row: PersonRow) -> LabelledImage:
        side = "right" if _flat(row, "right", 1)[0] else "left"
        labels = CropLabels(frame="root", body=_body(row, side))
        points = _points(row, "2d", 3)
        if points is not None:
            pixels = points[:, :2] + PIXEL_CENTRE
            labels.keypoints = Keypoints("hand21", pixels, points[:, 2].clip(0, 1))
        points = _points(row, "3d", 4)
        if points is not None:
            labels.joints = Joints("hand21", points[:, :3], points[:, 3].clip(0, 1))
        centre = take_numbers(row.values, "center", 2) + PIXEL_CENTRE
        scale = np.asarray(row.values["scale"], np.float64)
        return LabelledImage(
            image=row.image,
            clip=f"{file}/{row.name}/{row.number}",
            subject=f"{file}/{row.name}",
            box=box_of_scale(centre, float(scale.max())),
            labels=labels,
            kind=kind_of(side),
            name=row.name,
            split=self.split or None,
        )


def _points(row: PersonRow, kind: str, width: int) -> np.ndarray | None:
    """(21, width) of an npz's or a tar's name for them; None where there are none."""
    for name in (f"hand_keypoints_{kind}", f"keypoints_{kind}"):
        if row.values.get(name) is not None:
            points = as_numbers(row.values[name], name, 21, width)
            return points if (points[:, -1] > 0).any() else None
    return None


def _flat(row: PersonRow, name: str, count: int) -> np.ndarray:
    """(count,) numbers, whatever their shape in the file."""
    return as_numbers(np.asarray(row.values[name], np.float64).ravel(), name, count)


def _body(row: PersonRow, side: str) -> BodyParameters | None:
    values = {}
    if is_labelled(row, "hand_pose", "has_hand_pose"):
        values["pose"] = _flat(row, "hand_pose", 48).reshape(16, 3)
    if is_labelled(row, "betas", "has_betas"):
        values["betas"] = _flat(row, "betas", 10)
    return mano_body(side, values) if values else None
