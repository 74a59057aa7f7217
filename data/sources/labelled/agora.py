"""AGORA: rendered crowds of scanned people, from its camera data frames (pickles of pandas).

    root/labels/*.pkl       the data frames with joints (Cam/train_0_withjv.pkl and so on)
    root/images/NAME.png    3840 x 2160, or NAME_1280x720.png

``X``, ``Y``, ``Z`` and ``cam...`` are centimetres in Unreal's left-handed axes and are not used:
``gt_joints_3d`` are metres in the camera's OpenCV axes already, ``gt_joints_2d`` pixels of the
large image. The focal length in millimetres of a sensor 36 mm wide follows from the image's name.
The world is the camera.

``gt_path_smplx`` names files of SMPL-X's parameters in the axes of the scan, whose y points up.
Their root is turned into the camera by the scan's and the camera's yaw and pitch; joint 0 lies at
the first of ``gt_joints_3d``. Their hands are about the mean of SMPL-X's file and are left out.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from data.format.labels import BodyParameters, CropLabels, Joints, Keypoints
from data.sources.labelled import LABELLED, LabelledImage, LabelledSource
from data.sources.labelled.bodies import (
    as_numbers,
    box_around,
    gender_name,
    project,
    reading,
    take_text,
    take_tree,
)
from data.sources.labelled.pickles import read_pickle
from data.sources.labelled.places import join_name, list_files, stem_of
from engine.config.parser import key
from engine.errors import UserError

SIZE, SMALL = (3840, 2160), (1280, 720)
SMALL_ENDS = "_1280x720"
SENSOR_MM = 36.0
# [(part of an image's name, focal length in mm)], the first that fits.
FOCAL_MM = (("hdri", 50), ("cam00", 18), ("cam01", 18), ("cam02", 18), ("cam03", 18), ("", 28))
# {joints of a row: (joint set, how many of them are its joints)}; the rest are points of the mesh.
SETS = {
    24: ("smpl24", 24),
    45: ("smpl24", 24),
    22: ("smplx22", 22),
    55: ("smplx55", 55),
    118: ("smplx55", 55),
    127: ("smplx55", 55),
    144: ("smplx55", 55),
}
# [(part of an image's name, yaw and pitch of the camera in degrees)]; None: the row's camYaw.
TURNS_DEG: tuple[tuple[str, float | None, float], ...] = (
    ("hdri", 0, 0),
    ("cam00", 135, 30),
    ("cam01", -135, 30),
    ("cam02", -45, 30),
    ("cam03", 45, 30),
    ("ag2", 0, 15),
    ("", None, 0),
)
SCAN_YAW_DEG = -90.0  # scans face sideways
AGREE_SHARE = 0.01  # of the width: how far joints may fall from their own pixels, in the middle


@LABELLED.register("agora")
@dataclass
class Agora(LabelledSource):
    """AGORA's training and validation sets."""

    labels: str = key("labels", "folder of the data frames, inside root=", path="one")
    images: str = key("images", "folder of the images, inside root=", path="one")
    vertices: bool = key(False, "keep gt_verts, where the data frames have them")
    parameters: bool = key(False, "read the files of gt_path_smplx, inside root=")
    invisible: bool = key(False, "keep people who are hidden by more than nine tenths (isValid)")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._images: dict[str, str] = {}

    def read(self) -> Iterator[LabelledImage]:
        """Yield every person of every image."""
        for path in self.follow(list_files(os.path.join(self.root, self.labels), ".pkl")):
            with reading(path, "AGORA data frame with joints"):
                table = take_tree(read_pickle(path))
                for row in self.follow(range(len(table["imgPath"]))):
                    yield from self._read_image(path, table, row)

    def _read_image(self, path: str, table: Mapping[str, Any], row: int) -> Iterator[LabelledImage]:
        name = os.path.basename(take_text(table["imgPath"][row]))
        image, size = self._find_image(name)
        K = intrinsics_of(name, size)
        for person in range(len(table["gt_joints_2d"][row])):
            hidden = not (self.invisible or bool(table["isValid"][row][person]))
            if hidden and not self.frames:
                continue
            joints = as_numbers(table["gt_joints_3d"][row][person], "gt_joints_3d", -1, 3)
            points = as_numbers(table["gt_joints_2d"][row][person], "gt_joints_2d", -1, 2)
            if len(joints) != len(points) or len(joints) not in SETS:
                raise ValueError(
                    f"{name}: {len(joints)} joints in space and {len(points)} in the image"
                )
            points = points * (size[0] / SIZE[0])
            self._check_camera(path, name, joints, points, K)
            joint_set, count = SETS[len(joints)]
            vertices = body = None
            if self.parameters and not hidden:
                body = self._body(table, row, person, joints[0])
            if self.vertices:
                vertices = as_numbers(table["gt_verts"][row][person], "gt_verts", -1, 3)
            yield LabelledImage(
                image=image,
                clip=f"{stem_of(path)}/{os.path.splitext(name)[0]}-{person}",
                subject=self._subject(table, row, person, name),
                box=box_around(points),
                labels=CropLabels(
                    keypoints=Keypoints(joint_set, points[:count], np.ones(count)),
                    joints=Joints(joint_set, joints[:count], np.ones(count)),
                    body=body,
                    vertices=vertices,
                ),
                name=name,
                size=size,
                K=K,
                unlabelled=hidden,
            )

    def _find_image(self, name: str) -> tuple[str, tuple[int, int]]:
        """(path, size) of an image: the small one where it is there and the large one is not."""
        there, (stem, suffix) = self._list_images(), os.path.splitext(name)
        small = name if stem.endswith(SMALL_ENDS) else f"{stem}{SMALL_ENDS}{suffix}"
        if small in there and (small == name or name not in there):
            return there[small], SMALL
        return there.get(name, os.path.join(self.root, self.images, name)), SIZE

    def _list_images(self) -> dict[str, str]:
        """{name: path} of the images, in whichever folders (train_0 and so on) they lie."""
        if not self._images:
            for folder, _, names in sorted(os.walk(os.path.join(self.root, self.images))):
                self._images.update({name: os.path.join(folder, name) for name in names})
        return self._images

    def _subject(self, table: Mapping[str, Any], row: int, person: int, name: str) -> str:
        """The scan; without its path nobody knows who it is."""
        for column in ("gt_path_smplx", "gt_path_smpl"):
            if column in table:
                return stem_of(take_text(table[column][row][person]))
        return f"{os.path.splitext(name)[0]}-{person}"

    def _body(
        self, table: Mapping[str, Any], row: int, person: int, pelvis: np.ndarray
    ) -> BodyParameters:
        """SMPL-X's body in the camera; ``pelvis`` is where its joint 0 lies."""
        name = os.path.splitext(take_text(table["gt_path_smplx"][row][person]))[0] + ".pkl"
        path = join_name(self.root, name)
        turn = rotation_of(
            take_text(table["imgPath"][row]),
            float(table["Yaw"][row][person]),
            float(table["camYaw"][row]),
        )
        with reading(path, "file of SMPL-X's parameters"):
            tree = take_tree(read_pickle(path))
            root = as_numbers(np.ravel(tree["global_orient"]), "global_orient", 3)
            body = as_numbers(np.ravel(tree["body_pose"]), "body_pose", 63).reshape(21, 3)
            turned = cv2.Rodrigues(turn @ cv2.Rodrigues(root)[0])[0].ravel()
            values = {
                "body_pose": np.concatenate([turned[None], body]),
                "translation": pelvis,
                "betas": as_numbers(np.ravel(tree["betas"]), "betas", -1),
                "expression": as_numbers(np.ravel(tree["expression"]), "expression", -1),
            }
        variant = gender_name(table["gender"][row][person])
        if bool(table["kid"][row][person]):
            variant += "_kid"
        return BodyParameters("smplx", variant, values, of_person=frozenset({"betas"}))

    def _check_camera(
        self, path: str, name: str, joints: np.ndarray, points: np.ndarray, K: np.ndarray
    ) -> None:
        """Refuse labels that are of another image size or axes than they are said to be."""
        found, _ = project(joints, K, np.eye(3, 4))
        far = float(np.median(np.linalg.norm(found - points, axis=1)))
        if far > AGREE_SHARE * 2 * K[0, 2]:
            raise UserError(
                f"{path}: {name}: its joints in space fall {far:.0f} px from those in the image, "
                f"by a focal length of {K[0, 0]:.0f} px"
            )


def intrinsics_of(name: str, size: tuple[int, int]) -> np.ndarray:
    """(3, 3) intrinsics of an AGORA image, the first pixel's corner at 0."""
    width, height = size
    focal = next(focal for part, focal in FOCAL_MM if part in name) / SENSOR_MM * width
    return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])


def rotation_of(name: str, yaw_deg: float, camera_yaw_deg: float) -> np.ndarray:
    """(3, 3) from the axes of a scan, y up, to those of an image's camera, y down.

    Args:
        yaw_deg: of the scan.  camera_yaw_deg: the row's camYaw, for images that name no other.
    """
    yaw, pitch = next((yaw, pitch) for part, yaw, pitch in TURNS_DEG if part in name)
    about_y = yaw_deg + SCAN_YAW_DEG - (camera_yaw_deg if yaw is None else yaw)
    turn_y = cv2.Rodrigues(np.array([0, np.deg2rad(about_y), 0]))[0]
    turn_x = cv2.Rodrigues(np.array([np.deg2rad(pitch), 0, 0]))[0]
    return turn_x @ turn_y @ np.diag([1.0, -1, -1])
