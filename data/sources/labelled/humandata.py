"""HumanData: MMHuman3D's npz files, to which it converts some forty data sets.

    root/FILE.npz      labels=; image_path in it starts at images=

Keypoints lie in one convention of 190 points, whole or without those that the file's mask lacks
(``__keypoints_compressed__``). Where a file has no hip, wrist and so on by SMPL, but one by
OpenPose or another regressor, that one takes the name: see the joint set ``humandata190``.

Keypoints in space are metres in the camera's OpenCV axes. They are stored in the world of the
camera where ``misc`` names its focal length and principal point and does not say that they are
relative to a root; else with frame "root". Hands of SMPL-X count as a rotation from a flat hand
only where ``misc.flat_hand_mean`` says so; else they lack a mean that is in the model's file, and
the body's 22 joints alone are stored, as ``body_pose``.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.format.joint_sets import find_joint_set
from data.format.labels import BodyParameters, CropLabels, Joints, Keypoints
from data.sources.labelled import LABELLED, LabelledImage, LabelledSource
from data.sources.labelled.bodies import (
    PIXEL_CENTRE,
    as_numbers,
    box_around,
    gender_name,
    reading,
    smpl_body,
    take_text,
)
from data.sources.labelled.npz import read_npz
from data.sources.labelled.places import join_name
from engine.config.parser import key
from engine.errors import UserError

HUMANDATA190 = "humandata190"
POINTS = 190
# Suffixes of those that may stand for a joint that a file lacks, and the pelvis's own names.
STAND_INS = ("_openpose", "_extra", "_h36m")
PELVIS = ("mid_hip_openpose", "pelvis_extra")
# SMPL-X's pose in order, and how many joints each part has.
SMPLX_PARTS = (
    ("global_orient", 1),
    ("body_pose", 21),
    ("jaw_pose", 1),
    ("leye_pose", 1),
    ("reye_pose", 1),
    ("left_hand_pose", 15),
    ("right_hand_pose", 15),
)


@LABELLED.register("humandata")
@dataclass
class HumanData(LabelledSource):
    """MMHuman3D's HumanData."""

    labels: str = key("", "the npz file, inside root= or a path of its own", path="one")
    images: str = key(
        "", "folder that image_path starts at, inside root=; default: root=", path="one"
    )
    keypoints2d: str = key("", "which array of keypoints; default: keypoints2d, or the only one")
    keypoints3d: str = key("", "which array of joints; default: keypoints3d, or the only one")
    split: str = key("", "which part of the data set it is, stored with each clip")

    def check(self) -> None:
        """Raises UserError for keys that are missing."""
        super().check()
        if not self.labels:
            raise UserError("labels= is not set: labels=FILE.npz")

    def read(self) -> Iterator[LabelledImage]:
        """Yield every row."""
        path = os.path.join(self.root, self.labels)
        with reading(path, "HumanData file"):
            arrays = {name: _plain(value) for name, value in read_npz(path).items()}
            rows = _Rows(arrays, self.keypoints2d, self.keypoints3d)
            for row in self.follow(range(len(rows.names))):
                name = rows.names[row]
                labels = rows.labels(row)
                yield LabelledImage(
                    image=join_name(os.path.join(self.root, self.images), name),
                    clip=f"{row:08d}",
                    subject=rows.subject(row),
                    box=rows.box(row),
                    labels=labels,
                    name=name,
                    K=rows.intrinsics(row),
                    split=self.split or None,
                )


def _plain(value: np.ndarray) -> Any:
    """What was stored as an object is an array of shape ()."""
    return value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value


class _Rows:
    """The rows of a file, checked."""

    def __init__(self, arrays: Mapping[str, Any], keypoints: str, joints: str) -> None:
        self.names = [take_text(name) for name in arrays["image_path"]]
        self.count = len(self.names)
        compressed = bool(arrays.get("__keypoints_compressed__", False))
        self.points = _Points.of(arrays, "keypoints2d", keypoints, (self.count, 3), compressed)
        self.joints = _Points.of(arrays, "keypoints3d", joints, (self.count, 4), compressed)
        self.misc = arrays.get("misc") or {}
        self.meta = arrays.get("meta") or {}
        self.boxes = None
        if arrays.get("bbox_xywh") is not None:
            self.boxes = as_numbers(np.asarray(arrays["bbox_xywh"])[:, :4], "bbox_xywh", -1, 4)
        self.smpl = arrays.get("smpl") or {}
        self.smplx = arrays.get("smplx") or {}
        self.focal = self._per_row("focal_length")
        self.middle = self._per_row("principal_point")

    def _per_row(self, name: str) -> np.ndarray | None:
        """(N, 2) of misc, where one number or a pair may stand for all rows and both axes."""
        value = self.misc.get(name)
        if value is None:
            return None
        array = np.asarray(value, np.float64)
        if array.ndim == 1 and array.shape == (self.count,) and self.count != 2:
            array = array[:, None]
        return np.broadcast_to(array, (self.count, 2))

    def intrinsics(self, row: int) -> np.ndarray | None:
        """(3, 3), or None where the file has none or its joints are relative to a root."""
        if self.focal is None or self.middle is None or self.misc.get("kps3d_root_aligned"):
            return None
        (fx, fy), (cx, cy) = self.focal[row], self.middle[row] + PIXEL_CENTRE
        return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])

    def box(self, row: int) -> np.ndarray:
        """(4,) the file's box, or one around the keypoints."""
        if self.boxes is not None:
            x, y, width, height = self.boxes[row]
            return np.array([x, y, x + width, y + height]) + PIXEL_CENTRE
        if self.points is None:
            raise KeyError("bbox_xywh")
        points = self.points.at(row)
        return box_around(points[points[:, 2] > 0, :2] + PIXEL_CENTRE)

    def subject(self, row: int) -> str:
        """Who it is: a name of meta, else the image's folder and the row."""
        for name in ("subject", "subject_id", "person_id", "track_id"):
            values = self.meta.get(name)
            if values is not None and len(values) == self.count:
                return take_text(values[row])
        return f"{os.path.splitext(self.names[row])[0]}/{row}"

    def labels(self, row: int) -> CropLabels:
        """What is known of a row."""
        calibrated = self.intrinsics(row) is not None
        out = CropLabels(frame="world" if calibrated else "root")
        if self.points is not None:
            points = self.points.at(row)
            confidence = np.clip(points[:, 2], 0, 1)
            out.keypoints = Keypoints(HUMANDATA190, points[:, :2] + PIXEL_CENTRE, confidence)
        if self.joints is not None:
            joints = self.joints.at(row)
            out.joints = Joints(HUMANDATA190, joints[:, :3], np.clip(joints[:, 3], 0, 1))
        out.body = self._body(row, calibrated)
        return out

    def _body(self, row: int, calibrated: bool) -> BodyParameters | None:
        variant = ""
        genders = self.meta.get("gender")
        if genders is not None:
            variant = gender_name(genders if isinstance(genders, str) else genders[row])
        if self.smplx:
            return self._smplx(row, variant, calibrated)
        if not self.smpl:
            return None
        root = _part(self.smpl, "global_orient", self.count, 1)[row]
        body = _part(self.smpl, "body_pose", self.count, 23)[row]
        pose = np.concatenate([root, body])
        transl = self._transl(self.smpl, row, calibrated)
        return smpl_body(pose, np.asarray(self.smpl["betas"])[row], transl, variant)

    def _smplx(self, row: int, variant: str, calibrated: bool) -> BodyParameters:
        flat = bool(self.misc.get("flat_hand_mean", False))
        parts = []
        for name, joints in SMPLX_PARTS:
            if name in self.smplx:
                parts.append(_part(self.smplx, name, self.count, joints)[row])
            else:
                parts.append(np.zeros((joints, 3)))
        pose = np.concatenate(parts)
        more = {}
        if self.smplx.get("expression") is not None:
            more["expression"] = np.asarray(self.smplx["expression"][row], np.float32).ravel()
        betas = np.asarray(self.smplx["betas"])[row]
        transl = self._transl(self.smplx, row, calibrated)
        body = smpl_body(pose, betas, transl, variant, "smplx", **more)
        if not flat or "left_hand_pose" not in self.smplx or "right_hand_pose" not in self.smplx:
            body.parameters["body_pose"] = body.parameters.pop("pose")[:22]
        return body

    def _transl(
        self, parameters: Mapping[str, Any], row: int, calibrated: bool
    ) -> np.ndarray | None:
        """The model's translation, where there is a camera that it is in front of."""
        if not calibrated or parameters.get("transl") is None:
            return None
        return as_numbers(parameters["transl"], "transl", self.count, 3)[row]


def _part(parameters: Mapping[str, Any], name: str, count: int, joints: int) -> np.ndarray:
    """(N, joints, 3) rotation vectors."""
    return np.asarray(parameters[name], np.float64).reshape(count, joints, 3)


@dataclass
class _Points:
    """Points of a file, as they lie there: unfolded whole they may be some gigabytes.

    Attributes:
        rows: (N, 190 or fewer, 3 or 4), confidence last.  mask: (190,) which the file has.
        stand_ins: [(a joint that it lacks, the one that stands for it), ...].
    """

    rows: np.ndarray
    mask: np.ndarray
    stand_ins: list[tuple[int, int]]

    @classmethod
    def of(
        cls,
        arrays: Mapping[str, Any],
        kind: str,
        wanted: str,
        shape: tuple[int, int],
        compressed: bool,
    ) -> "_Points | None":
        """The points of a kind; None where the file has none.

        Args:
            wanted: name of their array, "" for the one there is.  shape: rows, numbers of a point.
        """
        name = _find_name(arrays, kind, wanted)
        if name is None:
            return None
        convention = str(arrays.get(f"{name}_convention", "human_data"))
        if convention != "human_data":
            raise UserError(f"{name} are of the convention {convention}, only human_data is read")
        mask = np.ones(POINTS, bool)
        if arrays.get(f"{name}_mask") is not None:
            mask = as_numbers(arrays[f"{name}_mask"], f"{name}_mask", POINTS) > 0
        rows = np.asarray(arrays[name])
        folded = int(mask.sum()) if compressed else POINTS
        if (rows.ndim, *rows.shape[::2]) != (3, *shape) or rows.shape[1] not in (folded, POINTS):
            raise ValueError(
                f"{name} is of shape {rows.shape}, not ({shape[0]}, {folded}, {shape[1]})"
            )
        return cls(rows, mask, _find_stand_ins(mask))

    def at(self, row: int) -> np.ndarray:
        """(190, 3 or 4) of one row; the confidence of what the file lacks is 0."""
        rows = as_numbers(self.rows[row], "a row of points", -1, self.rows.shape[2])
        points = np.zeros((POINTS, rows.shape[1]))
        points[self.mask] = rows[self.mask] if len(rows) == POINTS else rows
        for place, other in self.stand_ins:
            points[place] = points[other]
        return points


def _find_name(arrays: Mapping[str, Any], kind: str, wanted: str) -> str | None:
    """The array of points that is read."""
    names = [n for n in arrays if n.startswith(kind) and not n.endswith(("_mask", "_convention"))]
    if wanted and wanted not in names:
        raise UserError(f"{kind}={wanted} is none of the file's {', '.join(sorted(names))}")
    if not wanted and kind not in names and len(names) > 1:
        raise UserError(f"the file has {', '.join(sorted(names))}: choose one by {kind}=")
    if wanted or kind in names:
        return wanted or kind
    return names[0] if names else None


def _find_stand_ins(mask: np.ndarray) -> list[tuple[int, int]]:
    """[(joint that a file lacks, one that the file has of it by another regressor), ...]."""
    names = find_joint_set(HUMANDATA190).joints
    places = {name: place for place, name in enumerate(names)}
    out = []
    for name, place in places.items():
        others = PELVIS if name == "pelvis" else [f"{name}{suffix}" for suffix in STAND_INS]
        found = [places[other] for other in others if other in places and mask[places[other]]]
        if found and not mask[place]:
            out.append((place, found[0]))
    return out
