"""3DPW: people outdoors by a moving camera, with SMPL parameters from inertial sensors.

    root/sequenceFiles/SPLIT/SEQUENCE.pkl
    root/imageFiles/SEQUENCE/image_00000.jpg

Metres, in the sequence's world; ``cam_poses`` are world to camera. Image i belongs to row i:
``img_frame_ids`` count the 60 Hz recording and name no image. Frames whose camera did not fit
(``campose_valid``) or in which no 2D joint was found are left out, as the benchmark does. Actors
have no names, but come back in other sequences with the shape they were scanned with.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.format.labels import CropLabels, Joints, Keypoints
from data.sources.labelled import LABELLED, LabelledImage
from data.sources.labelled.bodies import (
    PIXEL_CENTRE,
    SequenceSource,
    as_numbers,
    box_around,
    centred,
    gender_name,
    project,
    reading,
    shape_name,
    smpl_body,
    take_numbers,
    take_text,
    take_tree,
)
from data.sources.labelled.pickles import read_pickle
from data.sources.labelled.places import join_name, list_files
from engine.config.parser import key

RATE_HZ = 30.0
BETAS = 10


@LABELLED.register("threedpw")
@dataclass
class ThreeDPW(SequenceSource):
    """3D Poses in the Wild."""

    split: str = key(
        "train", "folder inside sequenceFiles", choices=("train", "validation", "test")
    )

    def read(self) -> Iterator[LabelledImage]:
        """Yield every person of every sequence, by frame."""
        folder = os.path.join(self.root, "sequenceFiles", self.split)
        for path in self.follow(list_files(folder, ".pkl")):
            with reading(path, "3DPW sequence"):
                sequence = take_tree(read_pickle(path))
                for person in self.follow(range(len(sequence["poses"]))):
                    yield from self._read_person(sequence, person)

    def _read_person(self, sequence: Mapping[str, Any], person: int) -> Iterator[LabelledImage]:
        found = _Person.of(sequence, person)
        track = f"{found.sequence}/{person}"
        for clip in self.follow(self.cut_clips(found.list_frames())):
            for frame in clip:
                image = f"{found.sequence}/image_{frame:05d}.jpg"
                Rt = found.cameras[frame, :3]
                joints = found.joints[frame]
                pixels, ahead = project(joints, found.K, Rt)
                yield LabelledImage(
                    image=join_name(os.path.join(self.root, "imageFiles"), image),
                    clip=f"{track}/{clip[0]:05d}",
                    subject=shape_name(found.betas),
                    box=box_around(pixels[ahead]),
                    labels=CropLabels(
                        keypoints=found.keypoints(frame),
                        joints=Joints("smpl24", joints, np.ones(24)),
                        body=smpl_body(
                            found.poses[frame], found.betas, found.transl[frame], found.variant
                        ),
                    ),
                    name=image,
                    time_s=frame / RATE_HZ,
                    K=found.K,
                    Rt=Rt,
                    split=self.split,
                    track=track,
                    scene=found.sequence,
                )


@dataclass
class _Person:
    """One person of a sequence of F frames."""

    sequence: str
    K: np.ndarray
    cameras: np.ndarray
    poses: np.ndarray
    betas: np.ndarray
    transl: np.ndarray
    joints: np.ndarray
    points: np.ndarray
    valid: np.ndarray
    variant: str

    @classmethod
    def of(cls, tree: Mapping[str, Any], person: int) -> "_Person":
        """One person of a sequence's file, its arrays checked against its frames."""
        cameras = take_numbers(tree, "cam_poses", -1, 4, 4)
        count = len(cameras)
        return cls(
            take_text(tree["sequence"]),
            centred(take_numbers(tree, "cam_intrinsics", 3, 3)),
            cameras,
            as_numbers(tree["poses"][person], "poses", count, 72),
            as_numbers(tree["betas"][person], "betas", -1)[:BETAS],
            as_numbers(tree["trans"][person], "trans", count, 3),
            as_numbers(tree["jointPositions"][person], "jointPositions", count, 72).reshape(
                -1, 24, 3
            ),
            as_numbers(tree["poses2d"][person], "poses2d", count, 3, 18),
            as_numbers(tree["campose_valid"][person], "campose_valid", count) > 0,
            gender_name(tree["genders"][person]),
        )

    def list_frames(self) -> list[int]:
        """Frames that the benchmark counts."""
        detected = (self.points[:, 2] > 0).any(1)
        return np.flatnonzero(self.valid & detected).tolist()

    def keypoints(self, frame: int) -> Keypoints:
        """The joints that OpenPose found."""
        x, y, confidence = self.points[frame]
        points = np.stack([x, y], 1) + PIXEL_CENTRE
        return Keypoints("openpose18", points, np.clip(confidence, 0, 1))
