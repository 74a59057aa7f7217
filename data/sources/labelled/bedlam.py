"""BEDLAM: synthetic people in SMPL-X, in the npz files of its training code.

    root/processed_labels/SCENE.npz
    root/images/SCENE/png/seq_000000/seq_000000_0000.png

The trap: vertices in the camera are SMPL-X(pose_cam, shape, trans_cam) + cam_ext[:3, 3]. So the
translation stored here is ``trans_cam + cam_ext[:3, 3]``, in the camera's axes, metres. The
camera's own way is not told apart from its yaw, so each crop's world is its camera.

Scenes of close-ups were rendered lying: their intrinsics are for 720 x 1280, which is the image
turned by a quarter, clockwise. Principal points are half the image's size, the first pixel's corner
at 0. Hands are relative to a flat hand (no mean to be added).
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from data.format.joint_sets import find_joint_set
from data.format.labels import CropLabels, Keypoints
from data.sources.labelled import LABELLED, LabelledImage, LabelledSource
from data.sources.labelled.bodies import (
    as_numbers,
    box_of_scale,
    gender_name,
    reading,
    shape_name,
    smpl_body,
    take_text,
)
from data.sources.labelled.npz import read_npz
from data.sources.labelled.places import join_name, list_files, stem_of
from engine.config.parser import key

FIELDS = (
    "imgname",
    "center",
    "scale",
    "pose_cam",
    "shape",
    "trans_cam",
    "cam_int",
    "cam_ext",
    "gtkps",
    "gender",
    "sub",
)
RATE_HZ = 30.0
POSE = 165
# [(least rows of gtkps, where SMPL-X's joints begin in it, set)]: the first that fits. BEDLAM2 has
# OpenPose's 25 and 19 more before them; shortened files have the body alone.
SETS = ((171, 44, "smplx55"), (55, 0, "smplx55"), (22, 0, "smplx22"))


@LABELLED.register("bedlam")
@dataclass
class Bedlam(LabelledSource):
    """BEDLAM and files of the same fields."""

    labels: str = key("processed_labels", "folder of the npz files, inside root=", path="one")
    images: str = key("images", "folder of the scenes' images, inside root=", path="one")
    variant: str = key(
        "neutral",
        "which SMPL-X the shapes are of; file: what each row's gender says",
        choices=("neutral", "file"),
    )

    kind: ClassVar[str] = ""  # what a variant's name ends in, where the model is a special one

    def read(self) -> Iterator[LabelledImage]:
        """Yield every row of every scene."""
        for path in self.follow(list_files(os.path.join(self.root, self.labels), ".npz")):
            with reading(path, "BEDLAM scene"):
                yield from self._read_scene(path)

    def _read_scene(self, path: str) -> Iterator[LabelledImage]:
        rows = _Scene(read_npz(path, FIELDS))
        scene = stem_of(path)
        folder = os.path.join(self.root, self.images, scene)
        for row in self.follow(range(len(rows))):
            name = rows.names[row]
            K = rows.K[row]
            subject = rows.subject(row)
            match = re.search(r"(\d+)\.\w+$", name)
            frame = int(match[1]) if match else row
            width, height = round(2 * K[0, 2]), round(2 * K[1, 2])
            sequence = os.path.dirname(name) or scene
            variant = "neutral" if self.variant == "neutral" else rows.variants[row]
            variant += self.kind
            yield LabelledImage(
                image=join_name(os.path.join(folder, "png"), name),
                clip=f"{scene}/{row:07d}",
                subject=subject,
                box=box_of_scale(rows.centre[row], rows.scale[row]),
                labels=CropLabels(
                    keypoints=rows.keypoints(row, width, height),
                    body=smpl_body(
                        rows.pose[row],
                        rows.shape[row],
                        rows.trans[row] + rows.cam_ext[row, :3, 3],
                        variant,
                        "smplx",
                    ),
                ),
                name=f"{scene}/{name}",
                size=(width, height),
                quarter_turns=1 if height > width else 0,
                time_s=frame / RATE_HZ,
                K=K,
                track=f"{scene}/{sequence}/{subject}",
                scene=f"{scene}/{sequence}",
            )


class _Scene:
    """The rows of one npz file, checked."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.names = [take_text(name) for name in arrays["imgname"]]
        count = len(self.names)
        self.centre = as_numbers(arrays["center"], "center", count, 2)
        self.scale = as_numbers(arrays["scale"], "scale", count)
        self.pose = as_numbers(arrays["pose_cam"], "pose_cam", count, POSE)
        self.shape = as_numbers(arrays["shape"], "shape", count, -1)
        self.trans = as_numbers(arrays["trans_cam"], "trans_cam", count, 3)
        self.K = as_numbers(arrays["cam_int"], "cam_int", count, 3, 3)
        self.cam_ext = as_numbers(arrays["cam_ext"], "cam_ext", count, 4, 4)
        points = arrays["gtkps"]
        if points.ndim != 3 or points.shape[1] < 22 or points.shape[2] not in (2, 3):
            raise ValueError(f"gtkps is of shape {points.shape}, not (n, 22 or more, 2 or 3)")
        first, self.joint_set = next(row[1:] for row in SETS if points.shape[1] >= row[0])
        joints = len(find_joint_set(self.joint_set))
        points = points[:, first : first + joints, :2]
        self.points = as_numbers(points, "gtkps", count, joints, 2)
        genders = arrays.get("gender", np.full(count, "neutral"))
        self.variants = [gender_name(gender) for gender in genders]
        self.subjects = arrays.get("sub")

    def __len__(self) -> int:
        return len(self.names)

    def subject(self, row: int) -> str:
        """Who it is; without the field (BEDLAM2) a body is known by its shape."""
        if self.subjects is not None:
            return take_text(self.subjects[row])
        return shape_name(self.shape[row])

    def keypoints(self, row: int, width: int, height: int) -> Keypoints:
        """SMPL-X's joints; those outside of the image are not labelled, nobody sees them."""
        points = self.points[row]
        inside = ((points >= 0) & (points < (width, height))).all(1)
        return Keypoints(self.joint_set, points, inside.astype(np.float32))
