"""InterHand2.6M: one or two hands before 80 to 140 calibrated cameras.

    root/annotations/SPLIT/InterHand2.6M_SPLIT_{data,camera,joint_3d,MANO_NeuralAnnot}.json
    root/images/SPLIT/CAPTURE/SEQUENCE/CAMERA/image00000.jpg

MILLIMETRES in a world, metres here. A camera has its centre (campos) and its rotation (camrot):
x_cam = camrot (X - campos). 42 joints, the right hand's first; each finger from its TIP to its
base, the wrist last. MANO's parameters are in metres in the world already and lack MANO's mean;
those of left hands are of a MANO_LEFT whose shapedirs have x negated. 2D keypoints are the 3D ones
through the camera: there are no others.

A clip is one hand at up to ``instants`` instants that follow each other, by up to ``views``
cameras, which are spread over all that saw it. No file says what frame_idx counts: it is taken as
``rate_hz`` frames a second.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from data.format.annotation import Annotation
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
    instants: int = key(2, "most instants of a clip", low=1)
    rate_hz: float = key(90.0, "frames a second, as frame_idx counts them", low=1)

    def read(self) -> Iterator[LabelledImage]:
        """Yield every hand, by capture, sequence and frame, then by camera."""
        files = open_files(self.root)
        start = f"annotations/{self.split}/InterHand2.6M_{self.split}"
        where = files.where(f"{start}_data.json")
        with reading(where, "InterHand2.6M data file"):
            rows = _group_images(read_json(files, f"{start}_data.json"))
        labels = _Labels(files, start)
        for window in self.follow(_list_windows(rows, self.instants)):
            for side in SIDES:
                with reading(where, "InterHand2.6M"):
                    hands = [_Hand.of(labels, rows[instant], instant, side) for instant in window]
                    people = self._read_hands(files, labels, hands)
                yield from people

    def _read_hands(
        self, files: Files, labels: "_Labels", hands: list["_Hand"]
    ) -> list[LabelledImage]:
        """One hand at some instants, by all cameras: one clip or more."""
        cameras = sorted({camera for hand in hands for camera in hand.rows})
        clips = -(-len(cameras) // self.views)
        out = []
        for number in range(clips):
            for hand in hands:
                for camera in cameras[number::clips]:
                    if camera in hand.rows:
                        person = self._read_person(files, labels, hand, camera)
                        if person is not None:
                            capture, sequence, frame = hands[0].instant
                            track = f"{self.split}/{capture}/{sequence}/{hand.side}"
                            person.clip, person.track = f"{track}/{frame}/{number}", track
                            out.append(person)
        return out

    def _read_person(
        self, files: Files, labels: "_Labels", hand: "_Hand", camera: str
    ) -> LabelledImage | None:
        """One hand by one camera; None where too little of it was seen."""
        image, annotation = hand.rows[camera]
        capture, _, frame = hand.instant
        seen = hand.valid & _valid_joints(annotation, hand.side)
        if seen.sum() < JOINTS_MIN:
            return None
        K, Rt = labels.camera_of(capture, camera)
        pixels, ahead = project(hand.joints, K, Rt)
        confidence = (seen & ahead).astype(np.float32)
        name = f"images/{self.split}/{image['file_name']}"
        return LabelledImage(
            image=files.image(name),
            clip=name,
            subject=f"{self.split}/{image.get('subject', capture)}",
            box=box_around_hand(pixels[confidence > 0]),
            labels=CropLabels(
                keypoints=Keypoints("interhand21", pixels, confidence),
                joints=Joints("interhand21", hand.joints, hand.valid.astype(np.float32)),
                body=hand.body,
                annotation=Annotation(np.asarray(int(annotation["id"]))),
            ),
            kind=kind_of(hand.side),
            name=name,
            size=(int(image["width"]), int(image["height"])),
            camera=camera,
            time_s=frame / self.rate_hz,
            K=K,
            Rt=Rt,
            licence=LICENCE,
            split=self.split,
        )


ImageRow = tuple[Mapping[str, Any], Mapping[str, Any]]  # an image and its annotation
Instant = tuple[str, str, int]  # capture, sequence, frame


def _group_images(tree: Any) -> dict[Instant, list[ImageRow]]:
    """{instant: its images with their annotations}."""
    images = {image["id"]: image for image in tree["images"]}
    instants: dict[Instant, list[ImageRow]] = {}
    for annotation in tree["annotations"]:
        image = images.get(annotation["image_id"])
        if image is None:
            raise ValueError(
                f"annotation {annotation.get('id')} is of image {annotation['image_id']}, which "
                f"its images do not list"
            )
        instant = str(image["capture"]), str(image["seq_name"]), int(image["frame_idx"])
        instants.setdefault(instant, []).append((image, annotation))
    return instants


def _list_windows(instants: Iterable[Instant], most: int) -> list[list[Instant]]:
    """Instants of one sequence that follow each other, up to ``most``; all of them in order."""
    ordered = sorted(instants, key=lambda one: (len(one[0]), *one))  # capture 2 before 10
    windows = []
    for _, group in groupby(ordered, key=lambda instant: instant[:2]):
        sequence = list(group)
        windows += [sequence[start : start + most] for start in range(0, len(sequence), most)]
    return windows


@dataclass
class _Hand:
    """One hand at one instant.

    Attributes:
        rows: {camera: its image and annotation}.
        joints: (21, 3) metres in the world.  valid: (21,) bool.
        body: MANO's parameters, or None.
    """

    instant: Instant
    side: str
    rows: dict[str, ImageRow]
    joints: np.ndarray
    valid: np.ndarray
    body: BodyParameters | None

    @classmethod
    def of(cls, labels: "_Labels", rows: list[ImageRow], instant: Instant, side: str) -> "_Hand":
        capture, _, frame = instant
        by_camera = {str(image["camera"]): (image, annotation) for image, annotation in rows}
        joints, valid = labels.joints_of(capture, frame, side)
        return cls(instant, side, by_camera, joints, valid, labels.body_of(capture, frame, side))


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
