"""HO-3D, version 2 or 3: right hands that hold objects, with MANO's parameters.

    root/train.txt                        lines SEQUENCE/NNNN
    root/train/SEQUENCE/meta/NNNN.pkl     root/train/SEQUENCE/rgb/NNNN.png (v2) or .jpg (v3)

Metres, in OPENGL's camera axes: y and z are negated here, and the wrist's rotation with them. The
order of joints is MANO's. Frames without a label (handPose is None) are left out. In the evaluation
split a frame has the wrist alone, and the box of the hand. 2D keypoints are the 3D ones through the
camera: there are no others.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from data.format.labels import BodyParameters, CropLabels, Joints, Keypoints
from data.format.names import decode_text
from data.sources.labelled import LABELLED, LabelledImage
from data.sources.labelled.archives import Files, open_files
from data.sources.labelled.bodies import (
    SequenceSource,
    as_numbers,
    centred,
    project,
    reading,
    take_numbers,
    take_tree,
)
from data.sources.labelled.hands import (
    OPENGL,
    box_around_hand,
    kind_of,
    mano_body,
    turn_rotation,
)
from data.sources.labelled.pickles import read_pickle
from engine.config.parser import key
from engine.errors import UserError

RATE_HZ = 30.0
LINE = re.compile(r"([^/\s]+)/(\d+)")


@LABELLED.register("ho3d")
@dataclass
class Ho3d(SequenceSource):
    """HO-3D."""

    split: str = key("train", "part of the data set", choices=("train", "evaluation"))

    def read(self) -> Iterator[LabelledImage]:
        """Yield every labelled frame, by sequence."""
        files = open_files(self.root)
        for sequence, names in self.follow(self._list_sequences(files)):
            suffix = _image_suffix(files, f"{self.split}/{sequence}/rgb", names[0])
            numbers = {int(name): name for name in names}
            for clip in self.follow(self.cut_clips(sorted(numbers))):
                for number in self.follow(clip):
                    found = self._read_frame(
                        files, sequence, numbers[number], suffix, numbers[clip[0]]
                    )
                    if found is not None:
                        yield found

    def _list_sequences(self, files: Files) -> list[tuple[str, list[str]]]:
        """[(sequence, names of its frames), ...] of SPLIT.txt."""
        name = f"{self.split}.txt"
        try:
            lines = decode_text(files.read(name)).split()
        except UnicodeDecodeError as error:
            raise UserError(f"{files.where(name)} is no text: {error}") from None
        found = [LINE.fullmatch(line) for line in lines]
        for line, match in zip(lines, found, strict=True):
            if match is None:
                raise UserError(f"{files.where(name)}: '{line}' is not of the form SEQUENCE/NNNN")
        pairs = sorted((match[1], match[2]) for match in found if match)
        if not pairs:
            raise UserError(f"{files.where(name)} names no frame")
        groups = groupby(pairs, key=lambda pair: pair[0])
        return [(sequence, [frame for _, frame in group]) for sequence, group in groups]

    def _read_frame(
        self, files: Files, sequence: str, name: str, suffix: str, first: str
    ) -> LabelledImage | None:
        path = f"{self.split}/{sequence}/meta/{name}.pkl"
        where = files.where(path)
        image = f"{self.split}/{sequence}/rgb/{name}{suffix}"
        with reading(where, "HO-3D frame"):
            tree = take_tree(read_pickle(files.read(path), where))
            if self.split == "train" and tree.get("handPose") is None:
                return None
            K = centred(take_numbers(tree, "camMat", 3, 3))
            labels, box = _labels(tree, K)
        return LabelledImage(
            image=files.image(image),
            clip=f"{self.split}/{sequence}/{first}",
            # ABF10 to ABF14 are one recording by five cameras, ABF1 to 9 others of that person.
            subject=sequence.rstrip("0123456789") or sequence,
            box=box,
            labels=labels,
            kind=kind_of("right"),
            name=image,
            time_s=int(name) / RATE_HZ,
            K=K,
            split=self.split,
            track=f"{self.split}/{sequence}",
        )


def _image_suffix(files: Files, folder: str, name: str) -> str:
    """How the images of a sequence end, .png in version 2 and .jpg in version 3."""
    return next((end for end in (".jpg", ".png") if files.has(f"{folder}/{name}{end}")), ".jpg")


def _labels(tree: Mapping[str, Any], K: np.ndarray) -> tuple[CropLabels, np.ndarray]:
    """(labels, box) of a frame, in OpenCV's axes."""
    joints = np.asarray(tree["handJoints3D"], np.float64)
    if joints.shape == (3,):  # of the evaluation split
        body = mano_body("right", {"translation": OPENGL @ joints})
        return CropLabels(body=body), take_numbers(tree, "handBoundingBox", 4)
    joints = as_numbers(joints, "handJoints3D", 21, 3) @ OPENGL
    pixels, _ = project(joints, K, np.eye(3, 4))
    labels = CropLabels(
        keypoints=Keypoints("mano21", pixels, np.ones(21)),
        joints=Joints("mano21", joints, np.ones(21)),
    )
    if tree.get("handPose") is not None:
        labels.body = _body(tree, joints[0])
    return labels, box_around_hand(pixels)


def _body(tree: Mapping[str, Any], wrist: np.ndarray) -> BodyParameters:
    """MANO's parameters; its own translation depends on the axes, where the wrist is does not."""
    pose = take_numbers(tree, "handPose", 48).reshape(16, 3).copy()
    pose[0] = turn_rotation(OPENGL, pose[0])
    values = {"pose": pose, "translation": wrist}
    if tree.get("handBeta") is not None:
        values["betas"] = take_numbers(tree, "handBeta", 10)
    return mano_body("right", values)
