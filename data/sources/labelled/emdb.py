"""EMDB: people outdoors and indoors by a moving phone, with SMPL parameters.

    root/P0/SEQUENCE/P0_SEQUENCE_data.pkl
    root/P0/SEQUENCE/images/00000.jpg

Metres, in the sequence's world; the camera's ``extrinsics`` are world to camera. Frames that are
not in ``good_frames_mask``, or whose box is among ``invalid_idxs``, are left out. The 24 joints
are given in 2D alone; those in space come from the parameters and SMPL's file.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.format.labels import CropLabels, Keypoints
from data.sources.labelled import LABELLED, LabelledImage
from data.sources.labelled.bodies import (
    PIXEL_CENTRE,
    SequenceSource,
    centred,
    gender_name,
    reading,
    smpl_body,
    take_numbers,
    take_text,
    take_tree,
)
from data.sources.labelled.pickles import read_pickle
from data.sources.labelled.places import list_files, list_folders
from engine.config.parser import key
from engine.errors import UserError

RATE_HZ = 30.0
SUFFIX = "_data.pkl"


@LABELLED.register("emdb")
@dataclass
class Emdb(SequenceSource):
    """The Electromagnetic Database of Global 3D Human Pose and Shape in the Wild."""

    benchmark: str = key(
        "all", "sequences of EMDB 1 or EMDB 2 alone, or all", choices=("all", "emdb1", "emdb2")
    )

    def read(self) -> Iterator[LabelledImage]:
        """Yield the person of every sequence, by frame."""
        folders = []
        for person in list_folders(self.root):
            folders += list_folders(person)
        if not folders:
            raise UserError(f"{self.root} holds no PERSON/SEQUENCE folder of EMDB")
        for folder in self.follow(folders):
            (path,) = list_files(folder, SUFFIX)[:1]
            with reading(path, "EMDB sequence"):
                tree = take_tree(read_pickle(path))
                if self.benchmark == "all" or bool(tree[self.benchmark]):
                    yield from self._read_sequence(tree, folder)

    def _read_sequence(self, tree: Mapping[str, Any], folder: str) -> Iterator[LabelledImage]:
        count, camera, smpl = int(tree["n_frames"]), tree["camera"], tree["smpl"]
        name = take_text(tree["name"])
        K = centred(take_numbers(camera, "intrinsics", 3, 3))
        cameras = take_numbers(camera, "extrinsics", count, 4, 4)
        size = int(camera["width"]), int(camera["height"])
        points = take_numbers(tree, "kp2d", count, 24, 2) + PIXEL_CENTRE
        boxes = take_numbers(tree["bboxes"], "bboxes", count, 4) + PIXEL_CENTRE
        pose = np.concatenate(
            [
                take_numbers(smpl, "poses_root", count, 3),
                take_numbers(smpl, "poses_body", count, 69),
            ],
            1,
        )
        transl = take_numbers(smpl, "trans", count, 3)
        betas = take_numbers(smpl, "betas", -1)
        variant = gender_name(tree["gender"])
        for clip in self.follow(self.cut_clips(_list_frames(tree, count))):
            for frame in clip:
                image = f"{frame:05d}.jpg"
                yield LabelledImage(
                    image=os.path.join(folder, "images", image),
                    clip=f"{name}/{clip[0]:05d}",
                    subject=os.path.basename(os.path.dirname(folder)),
                    box=boxes[frame],
                    labels=CropLabels(
                        keypoints=Keypoints("smpl24", points[frame], np.ones(24)),
                        body=smpl_body(pose[frame], betas, transl[frame], variant),
                    ),
                    name=f"{name}/{image}",
                    size=size,
                    time_s=frame / RATE_HZ,
                    K=K,
                    Rt=cameras[frame, :3],
                    track=name,
                    scene=name,
                )


def _list_frames(tree: Mapping[str, Any], count: int) -> list[int]:
    good = take_numbers(tree, "good_frames_mask", count) > 0
    invalid = np.asarray(tree["bboxes"].get("invalid_idxs", ()), np.int64).ravel()
    good[invalid] = False
    return np.flatnonzero(good).tolist()
