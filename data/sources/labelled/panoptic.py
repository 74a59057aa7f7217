"""CMU Panoptic Studio: people in a dome of calibrated cameras.

    root/SEQUENCE/calibration_SEQUENCE.json
    root/SEQUENCE/hdPose3d_stage1_coco19/body3DScene_00000000.json
    root/SEQUENCE/hdImgs/00_00/00_00_00000000.jpg

Centimetres, ``x_cam = R X + t``; the world's y points down. 19 joints, of which those of
confidence -1 are missing. A clip is one person at one instant, by all cameras whose image is there
and shows half of the joints. The studio's own toolbox extracts the images from its videos.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.format.labels import CropLabels, Joints
from data.sources.labelled import LABELLED, LabelledImage, LabelledSource
from data.sources.labelled.bodies import (
    box_around,
    centred,
    project,
    reading,
    take_numbers,
    take_tree,
)
from data.sources.labelled.places import join_name, list_files, list_folders, read_json
from engine.config.parser import key
from engine.errors import UserError

CENTIMETRE = 0.01
RATE_HZ = 29.97
KINDS = ("hd", "vga")  # Kinects have clocks of their own
LENS = 5  # k1, k2, p1, p2, k3
SUFFIXES = (".jpg", ".png")
SEEN_SHARE = 0.5  # of a person's joints that an image has to show


@dataclass(frozen=True)
class View:
    """A camera: metres, pixels with the first one's centre at (0.5, 0.5)."""

    name: str
    kind: str
    K: np.ndarray
    Rt: np.ndarray
    distortion: np.ndarray
    size: tuple[int, int]


@LABELLED.register("panoptic")
@dataclass
class Panoptic(LabelledSource):
    """CMU Panoptic Studio."""

    cameras: str = key("hd", "which cameras: hd or vga, or names such as 00_00,00_05")
    frame_step: int = key(30, "take every n-th frame", low=1)

    def read(self) -> Iterator[LabelledImage]:
        """Yield every person at every instant, by every camera."""
        folders = [f for f in (self.root, *list_folders(self.root)) if _calibration_of(f)]
        if not folders:
            raise UserError(f"{self.root} holds no calibration_SEQUENCE.json, nor any folder of it")
        for folder in self.follow(folders):
            path = _calibration_of(folder)
            with reading(path, "calibration of Panoptic"):
                views = self._choose(take_tree(read_json(path))["cameras"], path)
            yield from self._read_sequence(folder, views)

    def _choose(self, entries: Sequence[Mapping[str, Any]], path: str) -> list[View]:
        wanted = self.cameras.split(",")
        views = []
        for entry in entries:
            if entry["type"] in KINDS and (entry["name"] in wanted or entry["type"] in wanted):
                views.append(_read_view(entry))
        if not views:
            names = ", ".join(sorted(str(entry["name"]) for entry in entries)[:40])
            raise UserError(f"cameras={self.cameras} is none of {path}: {names}")
        if len({view.kind for view in views}) > 1:
            raise UserError(f"cameras={self.cameras}: hd and vga count their frames apart")
        return views

    def _read_sequence(self, folder: str, views: Sequence[View]) -> Iterator[LabelledImage]:
        kind = views[0].kind
        poses = list_files(os.path.join(folder, f"{kind}Pose3d_stage1_coco19"), ".json")
        images = os.path.join(folder, f"{kind}Imgs")
        taken = [path for path in poses if _number_of(path) % self.frame_step == 0]
        for path in self.follow(taken):
            with reading(path, "body3DScene file"):
                scene = take_tree(read_json(path))
                number = _number_of(path)
                time_s = float(scene.get("univTime", 1000 * number / RATE_HZ)) / 1000
                for body in scene["bodies"]:
                    yield from _read_body(body, folder, images, number, time_s, views)


def _calibration_of(folder: str) -> str:
    """The path of a sequence's calibration, "" where the folder is no sequence."""
    name = os.path.basename(os.path.abspath(folder))
    path = os.path.join(folder, f"calibration_{name}.json")
    return path if os.path.isfile(path) else ""


def _number_of(path: str) -> int:
    digits = os.path.splitext(os.path.basename(path))[0].rpartition("_")[2]
    if not digits.isdigit():
        raise UserError(f"{path}: its name ends in no frame number")
    return int(digits)


def _read_view(entry: Mapping[str, Any]) -> View:
    R, t = take_numbers(entry, "R", 3, 3), take_numbers(entry, "t", 3, 1) * CENTIMETRE
    lens = np.zeros(8)
    lens[:LENS] = take_numbers(entry, "distCoef", LENS)
    width, height = entry["resolution"]
    K = centred(take_numbers(entry, "K", 3, 3))
    return View(
        str(entry["name"]),
        str(entry["type"]),
        K,
        np.hstack([R, t]),
        lens,
        (int(width), int(height)),
    )


def _find_image(images: str, camera: str, number: int) -> str:
    """The path of a camera's image, "" where there is none."""
    for suffix in SUFFIXES:
        path = join_name(images, f"{camera}/{camera}_{number:08d}{suffix}")
        if os.path.isfile(path):
            return path
    return ""


def _read_body(
    body: Mapping[str, Any],
    folder: str,
    images: str,
    number: int,
    time_s: float,
    views: Sequence[View],
) -> Iterator[LabelledImage]:
    """Yield a person by every camera that shows it."""
    rows = take_numbers(body, "joints19", 76).reshape(19, 4)
    joints, confidence = rows[:, :3] * CENTIMETRE, np.clip(rows[:, 3], 0, 1)
    labelled = confidence > 0
    sequence = os.path.basename(os.path.abspath(folder))
    person = f"{sequence}/{int(body['id'])}"
    for view in views:
        pixels, ahead = project(joints, view.K, view.Rt)
        inside = ahead & ((pixels >= 0) & (pixels < view.size)).all(1) & labelled
        if inside.sum() < SEEN_SHARE * max(1, labelled.sum()):
            continue
        path = _find_image(images, view.name, number)
        if not path:
            continue
        yield LabelledImage(
            image=path,
            clip=f"{person}/{number:08d}",
            subject=person,
            box=box_around(pixels[labelled & ahead]),
            labels=CropLabels(joints=Joints("panoptic19", joints, confidence)),
            name=f"{view.name}/{os.path.basename(path)}",
            size=view.size,
            camera=view.name,
            time_s=time_s,
            K=view.K,
            Rt=view.Rt,
            distortion=view.distortion,
            track=person,
            scene=sequence,
        )
