"""FreiHAND: right hands before backgrounds that were put in, with MANO's parameters.

    root/training_K.json  training_xyz.json  training_mano.json  [training_verts.json]
    root/training/rgb/00000000.jpg ...       root may be the zip as it is handed out

Metres, in the camera's axes (OpenCV). Each of the 32560 training annotations has four images with
other backgrounds: image i is of annotation i modulo 32560. The fingers' pose lacks MANO's mean.
2D keypoints are the 3D ones through the camera: there are no others.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.format.labels import CropLabels, Joints, Keypoints
from data.sources.labelled import LABELLED, LabelledImage, LabelledSource
from data.sources.labelled.archives import Files, open_files
from data.sources.labelled.bodies import as_numbers, centred, project, reading
from data.sources.labelled.hands import box_around_hand, kind_of, mano_body, read_json
from engine.config.parser import key
from engine.errors import UserError

VERSIONS = 4  # images of a training annotation
VERTICES = 778
SIDE = 224  # of an image in pixels


@LABELLED.register("freihand")
@dataclass
class FreiHand(LabelledSource):
    """FreiHAND."""

    split: str = key("training", "part of the data set", choices=("training", "evaluation"))
    versions: int = key(
        VERSIONS, "images of each training annotation, on other backgrounds", low=1, high=VERSIONS
    )
    vertices: bool = key(False, "store the mesh too, from SPLIT_verts.json")

    def read(self) -> Iterator[LabelledImage]:
        """Yield every image, by version and annotation."""
        files = open_files(self.root)
        cameras = self._list(files, "K")
        joints = self._list(files, "xyz", len(cameras))
        poses = None
        if self.split == "training" or files.has(f"{self.split}_mano.json"):
            poses = self._list(files, "mano", len(cameras))
        meshes = self._list(files, "verts", len(cameras)) if self.vertices else None
        count = len(cameras)
        versions = self.versions if self.split == "training" else 1
        for number in self.follow(range(versions * count)):
            row = number % count
            image = f"{self.split}/rgb/{number:08d}.jpg"
            with reading(files.where(f"{self.split}_*.json"), f"FreiHAND (annotation {row})"):
                K = centred(as_numbers(cameras[row], "K", 3, 3))
                labels = _labels(joints[row], K, None if poses is None else poses[row])
                if meshes is not None:
                    labels.vertices = as_numbers(meshes[row], "verts", VERTICES, 3)
            assert labels.keypoints is not None
            yield LabelledImage(
                image=files.image(image),
                clip=f"{self.split}/{number:08d}",
                subject=f"{self.split}/{row:08d}",
                box=box_around_hand(labels.keypoints.points),
                labels=labels,
                kind=kind_of("right"),
                name=image,
                size=(SIDE, SIDE),
                K=K,
                split=self.split,
            )

    def _list(self, files: Files, what: str, count: int | None = None) -> list[Any]:
        """The list in SPLIT_WHAT.json, of a length if one is known."""
        name = f"{self.split}_{what}.json"
        tree = read_json(files, name)
        if not isinstance(tree, list) or not tree:
            raise UserError(f"{files.where(name)} is no FreiHAND list: a {type(tree).__name__}")
        if count is not None and len(tree) != count:
            raise UserError(
                f"{files.where(name)} has {len(tree)} rows, {self.split}_K.json has {count}"
            )
        return tree


def _labels(xyz: Any, K: np.ndarray, mano: Any) -> CropLabels:
    joints = as_numbers(xyz, "xyz", 21, 3)
    pixels, _ = project(joints, K, np.eye(3, 4))
    labels = CropLabels(
        keypoints=Keypoints("hand21", pixels, np.ones(21)),
        joints=Joints("hand21", joints, np.ones(21)),
    )
    if mano is not None:
        values = as_numbers(mano, "mano", 1, 61)[0]
        labels.body = mano_body(
            "right",
            {
                "global_orient": values[:3],
                "hand_pose_from_mean": values[3:48].reshape(15, 3),
                "betas": values[48:58],
                "translation": joints[0],
            },
        )
    return labels
