"""Human3.6M, MPI-INF-3DHP and others in the npz files of SPIN's preprocessing.

    root/h36m_valid_protocol1.npz     labels=
    root/images/...                   what ``imgname`` names, inside images=

``S`` are 24 joints in metres in the camera's axes, relative to the pelvis; ``part`` and
``openpose`` are in pixels; ``pose`` and ``shape`` are SMPL's, where ``has_smpl`` says so. There
is no camera in these files: frame "root".

Human3.6M and MPI-INF-3DHP fill 17 of the 24 places, those of Human3.6M; such a file is stored
under ``h36m17``, others under ``spin24``.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data.format.joint_sets import find_joint_set
from data.format.labels import CropLabels, Joints, Keypoints
from data.sources.labelled import LABELLED, LabelledImage, LabelledSource
from data.sources.labelled.bodies import (
    PIXEL_CENTRE,
    as_numbers,
    box_of_scale,
    gender_name,
    reading,
    smpl_body,
    take_text,
)
from data.sources.labelled.npz import read_npz
from data.sources.labelled.places import join_name
from engine.config.parser import key

FIELDS = (
    "imgname",
    "center",
    "scale",
    "part",
    "openpose",
    "S",
    "pose",
    "shape",
    "has_smpl",
    "gender",
)
# Where the joints of h36m17 lie among SPIN's 24.
H36M17 = (14, 2, 1, 0, 3, 4, 5, 16, 12, 17, 18, 9, 10, 11, 8, 7, 6)


@LABELLED.register("spin")
@dataclass
class Spin(LabelledSource):
    """SPIN's npz files."""

    labels: str = key(
        "h36m_valid_protocol1.npz", "the npz file, inside root= or a path of its own", path="one"
    )
    images: str = key("", "folder that imgname starts at, inside root=; default: root=", path="one")
    split: str = key("", "which part of the data set it is, stored with each clip")

    def read(self) -> Iterator[LabelledImage]:
        """Yield every row."""
        path = os.path.join(self.root, self.labels)
        with reading(path, "npz file of SPIN"):
            rows = _Rows(read_npz(path, FIELDS))
            for row in self.follow(range(len(rows.names))):
                name = rows.names[row]
                yield LabelledImage(
                    image=join_name(os.path.join(self.root, self.images), name),
                    clip=f"{row:08d}",
                    subject=_subject_of(name),
                    box=box_of_scale(rows.centre[row] + PIXEL_CENTRE, rows.scale[row]),
                    labels=rows.labels(row),
                    name=name,
                    split=self.split or None,
                )


class _Rows:
    """The rows of one npz file, checked."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.names = [take_text(name) for name in arrays["imgname"]]
        count = len(self.names)
        self.centre = as_numbers(arrays["center"], "center", count, 2)
        self.scale = as_numbers(arrays["scale"], "scale", count)
        self.parts = self.joints = self.openpose = self.pose = None
        if "part" in arrays:
            self.parts = as_numbers(arrays["part"], "part", count, 24, 3)
        if "openpose" in arrays:
            self.openpose = as_numbers(arrays["openpose"], "openpose", count, 25, 3)
        if "S" in arrays:
            self.joints = as_numbers(arrays["S"], "S", count, 24, 4)
        if "pose" in arrays and "shape" in arrays:
            self.pose = as_numbers(arrays["pose"], "pose", count, 72)
            self.shape = as_numbers(arrays["shape"], "shape", count, -1)
            self.has_pose = as_numbers(arrays.get("has_smpl", np.ones(count)), "has_smpl", count)
        genders = arrays.get("gender", np.full(count, "neutral"))
        self.variants = [gender_name(gender) for gender in genders]
        self.joint_set, self.places = self._find_set()

    def _find_set(self) -> tuple[str, list[int]]:
        """(joint set, where its joints lie among the 24)."""
        used = np.zeros(24, bool)
        for points in (self.parts, self.joints):
            if points is not None:
                used |= (points[..., -1] > 0).any(0)
        if used.any() and not np.delete(used, H36M17).any():
            return "h36m17", list(H36M17)
        return "spin24", list(range(len(find_joint_set("spin24"))))

    def labels(self, row: int) -> CropLabels:
        """What is known of a row."""
        out = CropLabels(frame="root")
        if self.parts is not None and (self.parts[row, :, 2] > 0).any():
            out.keypoints = _keypoints(self.joint_set, self.parts[row, self.places])
        elif self.openpose is not None and (self.openpose[row, :, 2] > 0).any():
            out.keypoints = _keypoints("openpose25", self.openpose[row])
        if self.joints is not None and (self.joints[row, :, 3] > 0).any():
            joints = self.joints[row, self.places]
            out.joints = Joints(self.joint_set, joints[:, :3], np.clip(joints[:, 3], 0, 1))
        if self.pose is not None and self.has_pose[row] > 0:
            out.body = smpl_body(self.pose[row], self.shape[row], None, self.variants[row])
        return out


def _keypoints(joint_set: str, rows: np.ndarray) -> Keypoints:
    return Keypoints(joint_set, rows[:, :2] + PIXEL_CENTRE, np.clip(rows[:, 2], 0, 1))


def _subject_of(name: str) -> str:
    """Who it is: Human3.6M's images begin with S9_, MPI-INF-3DHP's lie in S1/ or .../TS1/."""
    for part in name.split("/"):
        first = part.partition("_")[0]
        if first.lstrip("T").startswith("S") and first.lstrip("TS").isdigit():
            return first
    return os.path.splitext(name)[0]
