"""AIST++: dancers by nine calibrated cameras, with SMPL parameters and COCO's joints.

    root/cameras/mapping.txt  root/cameras/SETTING.json
    root/motions/SEQUENCE.pkl  root/keypoints3d/SEQUENCE.pkl  root/keypoints2d/SEQUENCE.pkl
    root/frames/VIDEO/00000000.jpg     frames of the videos, from 0, such as by
                                       ffmpeg -i VIDEO.mp4 -start_number 0 frames/VIDEO/%08d.jpg

Centimetres, 60 frames a second. The body is ``scale * SMPL(pose, betas = 0) + transl`` by the male
model, in the metres of the cameras' world here: both ``smpl_scaling`` and ``smpl_trans`` are over
100. A clip is one instant by all cameras whose frame is there. Sequences of ``ignore_list.txt`` are
left out.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from data.format.labels import CropLabels, Joints, Keypoints
from data.sources.labelled import LABELLED, LabelledImage, LabelledSource
from data.sources.labelled.bodies import (
    PIXEL_CENTRE,
    box_around,
    centred,
    project,
    reading,
    smpl_body,
    take_numbers,
    take_tree,
)
from data.sources.labelled.pickles import read_pickle
from data.sources.labelled.places import join_name, list_files, read_json, read_text, stem_of
from engine.config.parser import key
from engine.errors import UserError

CENTIMETRE = 0.01
RATE_HZ = 60.0
LENS = 5  # k1, k2, p1, p2, k3
BETAS = 10


@dataclass(frozen=True)
class View:
    """A camera: metres, pixels with the first one's centre at (0.5, 0.5)."""

    name: str
    K: np.ndarray
    Rt: np.ndarray
    distortion: np.ndarray
    size: tuple[int, int]


@LABELLED.register("aistpp")
@dataclass
class AistPlusPlus(LabelledSource):
    """AIST++."""

    images: str = key("frames", "folder of the videos' frames, inside root=", path="one")
    frame_step: int = key(60, "take every n-th frame", low=1)

    def read(self) -> Iterator[LabelledImage]:
        """Yield every instant by every camera."""
        settings = self._read_mapping()
        ignored = set()
        path = os.path.join(self.root, "ignore_list.txt")
        if os.path.isfile(path):
            ignored = set(read_text(path).split())
        motions = list_files(os.path.join(self.root, "motions"), ".pkl")
        names = [stem_of(motion) for motion in motions]
        for name in self.follow([name for name in names if name not in ignored]):
            if name not in settings:
                raise UserError(f"{self.root}/cameras/mapping.txt names no setting of {name}")
            views = self._read_views(settings[name])
            with reading(os.path.join(self.root, "motions", f"{name}.pkl"), "motion of AIST++"):
                yield from self._read_sequence(name, views)

    def _read_mapping(self) -> dict[str, str]:
        """{sequence: setting of the cameras}."""
        path = os.path.join(self.root, "cameras", "mapping.txt")
        rows = [line.split() for line in read_text(path).splitlines() if line.strip()]
        if not all(len(row) == 2 for row in rows):
            raise UserError(f"{path} is no list of SEQUENCE SETTING")
        return {row[0]: row[1] for row in rows}

    def _read_views(self, setting: str) -> list[View]:
        path = os.path.join(self.root, "cameras", f"{setting}.json")
        with reading(path, "file of AIST++'s cameras"):
            return [_read_view(entry) for entry in read_json(path)]

    def _read_sequence(self, name: str, views: list[View]) -> Iterator[LabelledImage]:
        motion = take_tree(read_pickle(os.path.join(self.root, "motions", f"{name}.pkl")))
        pose = np.asarray(motion["smpl_poses"], np.float64).reshape(-1, 24, 3)
        count = len(pose)
        transl = take_numbers(motion, "smpl_trans", count, 3) * CENTIMETRE
        scale = take_numbers(motion, "smpl_scaling", 1) * CENTIMETRE
        joints = self._read_joints(name)[:count]
        seen = self._read_detections(name, len(views))
        for frame in self.follow(range(0, min(count, len(joints)), self.frame_step)):
            body = smpl_body(
                pose[frame], np.zeros(BETAS), transl[frame], "male", scale=scale.astype(np.float32)
            )
            known = np.isfinite(joints[frame]).all(1)
            points = np.where(known[:, None], joints[frame], 0)
            labels = CropLabels(joints=Joints("coco17", points, known.astype(float)), body=body)
            for number, view in enumerate(views):
                video = name.replace("cAll", view.name)
                image = f"{video}/{frame:08d}.jpg"
                path = join_name(os.path.join(self.root, self.images), image)
                if not os.path.isfile(path):
                    continue
                pixels, ahead = project(points, view.K, view.Rt)
                yield LabelledImage(
                    image=path,
                    clip=f"{name}/{frame:08d}",
                    subject=_dancer_of(name),
                    box=box_around(pixels[known & ahead]),
                    labels=CropLabels(_detected(seen, number, frame), labels.joints, body),
                    name=image,
                    size=view.size,
                    camera=view.name,
                    time_s=frame / RATE_HZ,
                    K=view.K,
                    Rt=view.Rt,
                    distortion=view.distortion,
                    track=name,
                    scene=name,
                )

    def _read_joints(self, name: str) -> np.ndarray:
        """(F, 17, 3) metres."""
        path = os.path.join(self.root, "keypoints3d", f"{name}.pkl")
        with reading(path, "file of AIST++'s keypoints in space"):
            tree = take_tree(read_pickle(path))
            return take_numbers(tree, "keypoints3d_optim", -1, 17, 3) * CENTIMETRE

    def _read_detections(self, name: str, views: int) -> np.ndarray | None:
        """(views, F, 17, 3) x, y, confidence; None where there is no such file, or a newer one."""
        path = os.path.join(self.root, "keypoints2d", f"{name}.pkl")
        if not os.path.isfile(path):
            return None
        with reading(path, "file of AIST++'s keypoints"):
            tree = take_tree(read_pickle(path))
            if "det_scores" not in tree:
                return None
            return take_numbers(tree, "keypoints2d", views, -1, 17, 3)


def _read_view(entry: Mapping[str, Any]) -> View:
    R = cv2.Rodrigues(take_numbers(entry, "rotation", 3))[0]
    t = take_numbers(entry, "translation", 3) * CENTIMETRE
    lens = np.zeros(8)
    lens[:LENS] = take_numbers(entry, "distortions", LENS)
    width, height = entry["size"]
    K = centred(take_numbers(entry, "matrix", 3, 3))
    Rt = np.column_stack([R, t])
    return View(str(entry["name"]), K, Rt, lens, (int(width), int(height)))


def _detected(seen: np.ndarray | None, view: int, frame: int) -> Keypoints | None:
    """What was detected in one image; NaN is not detected."""
    if seen is None or frame >= seen.shape[1]:
        return None
    rows = seen[view, frame]
    there = np.isfinite(rows).all(1)
    points = np.where(there[:, None], rows[:, :2] + PIXEL_CENTRE, 0)
    return Keypoints("coco17", points, np.where(there, np.clip(rows[:, 2], 0, 1), 0))


def _dancer_of(name: str) -> str:
    """The dancer, such as d27; the sequence where its name has none."""
    for part in name.split("_"):
        if part[:1] == "d" and part[1:].isdigit():
            return part
    return name
