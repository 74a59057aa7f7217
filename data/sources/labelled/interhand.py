"""InterHand2.6M: one or two hands before 80 to 140 calibrated cameras.

    root/annotations/SPLIT/InterHand2.6M_SPLIT_{data,camera,joint_3d,MANO_NeuralAnnot}.json
    root/images/SPLIT/CAPTURE/SEQUENCE/CAMERA/image00000.jpg

MILLIMETRES in a world, metres here. A camera has its centre (campos) and its rotation (camrot):
x_cam = camrot (X - campos). 42 joints, the right hand's first; each finger from its TIP to its
base, the wrist last. MANO's parameters are in metres in the world already and lack MANO's mean;
those of left hands are of a MANO_LEFT whose shapedirs have x negated. 2D keypoints are the 3D ones
through the camera: there are no others.

A clip is one hand at one instant by up to ``views`` cameras, which are spread over all that saw it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.format.labels import BodyParameters, CropLabels, Joints, Keypoints
from data.sources.labelled import LABELLED, LabelledImage, LabelledSource
from data.sources.labelled.archives import Files, open_files
from data.sources.labelled.bodies import centred, project, reading, take_numbers
from data.sources.labelled.hands import SIDES, box_around_hand, kind_of, mano_body, read_json
from engine.config.parser import key

LICENCE = "CC-BY-NC-4.0"
MILLIMETRE = 1e-3
JOINTS = 21  # of a hand
JOINTS_MIN = 6  # fewer that are seen by the annotators make no box of a hand


@LABELLED.register("interhand")
@dataclass
class InterHand(LabelledSource):
    """InterHand2.6M."""

    split: str = key("train", "part of the data set", choices=("train", "val", "test"))
    views: int = key(8, "most cameras of a clip; others make further clips", low=1, high=99)

    def read(self) -> Iterator[LabelledImage]:
        """Yield every hand, by capture, sequence and frame, then by camera."""
        files = open_files(self.root)
        start = f"annotations/{self.split}/InterHand2.6M_{self.split}"
        where = files.where(f"{start}_data.json")
        with reading(where, "InterHand2.6M data file"):
            instants = _group_images(read_json(files, f"{start}_data.json"))
        labels = _Labels(files, start)
        for instant in self.follow(sorted(instants, key=_order_of)):
            for side in SIDES:
                with reading(where, "InterHand2.6M"):
                    people = self._read_hand(files, labels, instant, instants[instant], side)
                yield from people

    def _read_hand(
        self,
        files: Files,
        labels: "_Labels",
        instant: "Instant",
        rows: list["ImageRow"],
        side: str,
    ) -> list[LabelledImage]:
        """One hand at one instant, by all cameras."""
        capture, sequence, frame = instant
        joints, valid = labels.joints_of(capture, frame, side)
        body = labels.body_of(capture, frame, side)
        rows = sorted(rows, key=lambda row: str(row[0]["camera"]))
        clips = -(-len(rows) // self.views)
        out = []
        for number in range(clips):
            for image, annotation in rows[number::clips]:
                seen = valid & _valid_joints(annotation, side)
                if seen.sum() < JOINTS_MIN:
                    continue
                K, Rt = labels.camera_of(capture, str(image["camera"]))
                pixels, ahead = project(joints, K, Rt)
                confidence = (seen & ahead).astype(np.float32)
                name = f"images/{self.split}/{image['file_name']}"
                out.append(
                    LabelledImage(
                        image=files.image(name),
                        clip=f"{self.split}/{capture}/{sequence}/{frame}/{side}/{number}",
                        subject=f"{self.split}/{image.get('subject', capture)}",
                        box=box_around_hand(pixels[confidence > 0]),
                        labels=CropLabels(
                            keypoints=Keypoints("interhand21", pixels, confidence),
                            joints=Joints("interhand21", joints, valid.astype(np.float32)),
                            body=body,
                        ),
                        kind=kind_of(side),
                        name=name,
                        size=(int(image["width"]), int(image["height"])),
                        camera=str(image["camera"]),
                        K=K,
                        Rt=Rt,
                        licence=LICENCE,
                        split=self.split,
                    )
                )
        return out


ImageRow = tuple[Mapping[str, Any], Mapping[str, Any]]  # an image and its annotation
Instant = tuple[str, str, int]  # capture, sequence, frame


def _group_images(tree: Any) -> dict[Instant, list[ImageRow]]:
    """{instant: its images with their annotations}."""
    images = {image["id"]: image for image in tree["images"]}
    instants: dict[Instant, list[ImageRow]] = {}
    for annotation in tree["annotations"]:
        image = images[annotation["image_id"]]
        instant = str(image["capture"]), str(image["seq_name"]), int(image["frame_idx"])
        instants.setdefault(instant, []).append((image, annotation))
    return instants


def _order_of(instant: Instant) -> tuple[int, str, str, int]:
    capture, sequence, frame = instant
    return len(capture), capture, sequence, frame  # capture 2 before 10


def _valid_joints(annotation: Mapping[str, Any], side: str) -> np.ndarray:
    """(21,) bool of one hand."""
    valid = np.asarray(annotation["joint_valid"], np.float64).ravel()
    if valid.shape != (2 * JOINTS,):
        raise ValueError(f"joint_valid has {valid.size} numbers, not {2 * JOINTS}")
    return _of_side(valid, side) > 0


def _of_side(rows: np.ndarray, side: str) -> np.ndarray:
    return rows[:JOINTS] if side == "right" else rows[JOINTS:]


class _Labels:
    """What is known of a capture's cameras and hands."""

    def __init__(self, files: Files, start: str) -> None:
        self.cameras = read_json(files, f"{start}_camera.json")
        self.joints = read_json(files, f"{start}_joint_3d.json")
        name = f"{start}_MANO_NeuralAnnot.json"
        self.hands = read_json(files, name) if files.has(name) else {}

    def camera_of(self, capture: str, name: str) -> tuple[np.ndarray, np.ndarray]:
        """((3, 3) K, (3, 4) Rt in metres)."""
        tree = self.cameras[capture]
        R = take_numbers({name: tree["camrot"][name]}, name, 3, 3)
        centre = take_numbers({name: tree["campos"][name]}, name, 3) * MILLIMETRE
        focal = take_numbers({name: tree["focal"][name]}, name, 2)
        point = take_numbers({name: tree["princpt"][name]}, name, 2)
        K = np.array([[focal[0], 0, point[0]], [0, focal[1], point[1]], [0, 0, 1]])
        return centred(K), np.concatenate([R, -(R @ centre)[:, None]], 1)

    def joints_of(self, capture: str, frame: int, side: str) -> tuple[np.ndarray, np.ndarray]:
        """((21, 3) metres in the world, (21,) bool) of one hand."""
        tree = self.joints[capture][str(frame)]
        points = take_numbers(tree, "world_coord", 2 * JOINTS, 3) * MILLIMETRE
        return _of_side(points, side), _valid_joints(tree, side)

    def body_of(self, capture: str, frame: int, side: str) -> BodyParameters | None:
        """MANO's parameters; None where they were not fitted."""
        tree = self.hands.get(capture, {}).get(str(frame), {}).get(side)
        if tree is None:
            return None
        pose = take_numbers(tree, "pose", 48)
        values = {
            "global_orient": pose[:3],
            "hand_pose_from_mean": pose[3:].reshape(15, 3),
            "betas": take_numbers(tree, "shape", 10),
            "transl": take_numbers(tree, "trans", 3),
        }
        return mano_body(side, values)
