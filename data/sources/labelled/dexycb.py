"""DexYCB: hands that grasp objects, by eight calibrated cameras.

    root/SUBJECT/SEQUENCE/meta.yml
    root/SUBJECT/SEQUENCE/SERIAL/color_000000.jpg   labels_000000.npz
    root/calibration/intrinsics/SERIAL_640x480.yml
    root/calibration/extrinsics_NAME/extrinsics.yml
    root/calibration/mano_NAME/mano.yml

Metres, in each camera's own axes (OpenCV); pose_m is the wrist's rotation, 45 coefficients of
MANO's components on top of its mean, and MANO's own translation. A frame whose joints are all -1
has no label. The extrinsics take a camera's points to the world; they are held beside the joints
that all cameras have, and where the cameras do not agree on the hand to 1 cm each is its own world.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml

from data.format.labels import CropLabels, Joints, Keypoints
from data.sources.labelled import LABELLED, LabelledImage
from data.sources.labelled.bodies import (
    PIXEL_CENTRE,
    SequenceSource,
    as_numbers,
    centred,
    reading,
    take_numbers,
    take_tree,
)
from data.sources.labelled.hands import (
    box_around_hand,
    kind_of,
    mano_body,
    outline_of,
    turn_rotation,
)
from data.sources.labelled.npz import read_npz
from data.sources.labelled.places import list_folders, read_text
from data.sources.labelled.rows import spread_places
from engine.config.parser import key
from engine.errors import UserError

RATE_HZ = 30.0
SIZE = 640, 480
HAND = 255  # its number in seg
FIELDS = ("seg", "pose_m", "joint_3d", "joint_2d")
AGREE_M = 0.01
LOOKED_AT = 16  # instants, until one has two cameras


@LABELLED.register("dexycb")
@dataclass
class DexYcb(SequenceSource):
    """DexYCB."""

    subjects: str = key("", "folders of subjects with commas between; default: all there are")
    split: str = key("", "which part of the data set it is, stored with each clip")

    def read(self) -> Iterator[LabelledImage]:
        """Yield every labelled frame, by sequence, then by camera."""
        for folder in self.follow(self._list_sequences()):
            sequence = _Sequence.of(folder, self.root)
            worlds = _choose_worlds(sequence)
            frames = self.cut_clips(range(sequence.frames))
            # A clip holds whole instants of all cameras.
            instants = max(1, self.clip_crops // max(1, len(sequence.cameras)))
            taken = [frame for clip in frames for frame in clip]
            starts = range(0, len(taken), instants)
            for start in self.follow(starts):
                for frame in taken[start : start + instants]:
                    yield from self._read_frame(sequence, worlds, frame, taken[start])

    def _list_sequences(self) -> list[str]:
        """Paths of the folders of sequences."""
        wanted = [name.strip() for name in self.subjects.split(",") if name.strip()]
        people = [
            folder
            for folder in list_folders(self.root)
            if (not wanted or os.path.basename(folder) in wanted)
            and os.path.basename(folder) not in ("calibration", "models", "bop")
        ]
        found = [inner for folder in people for inner in list_folders(folder)]
        found = [folder for folder in found if os.path.isfile(os.path.join(folder, "meta.yml"))]
        if not found:
            raise UserError(f"root={self.root} holds no SUBJECT/SEQUENCE/meta.yml of DexYCB")
        return found

    def _read_frame(
        self, sequence: "_Sequence", worlds: dict[str, np.ndarray], frame: int, first: int
    ) -> Iterator[LabelledImage]:
        """One instant by all cameras."""
        for view in sequence.read_views(frame):
            serial = view.camera.serial
            Rt = worlds.get(serial, np.eye(3, 4))
            R, t = Rt[:, :3], Rt[:, 3]
            joints = (view.joints - t) @ R  # to the world: the transpose, from the right
            values = {
                "global_orient": turn_rotation(R.T, view.pose[:3]),
                "hand_pca": view.pose[3:48],
                "translation": joints[0],
            }
            if sequence.betas is not None:
                values["betas"] = sequence.betas
            clip, track = f"{sequence.name}/{first:06d}", sequence.name
            if not worlds:  # each camera is a world of its own
                clip, track = f"{clip}/{serial}/{frame}", f"{track}/{serial}"
            yield LabelledImage(
                image=view.image,
                clip=clip,
                subject=sequence.subject,
                box=box_around_hand(view.keypoints),
                labels=CropLabels(
                    keypoints=Keypoints("hand21", view.keypoints, np.ones(21)),
                    joints=Joints("hand21", joints, np.ones(21)),
                    body=mano_body(sequence.side, values),
                ),
                kind=kind_of(sequence.side),
                name=view.name,
                size=SIZE,
                camera=serial,
                time_s=frame / RATE_HZ,
                K=view.camera.K,
                Rt=Rt,
                mask=view.outline or None,
                split=self.split or None,
                track=track,
            )


@dataclass
class _Camera:
    """A camera of a sequence; ``to_world`` (3, 4) takes its points there, None: not known."""

    serial: str
    name: str
    folder: str
    K: np.ndarray
    to_world: np.ndarray | None


@dataclass
class _Sequence:
    """What meta.yml and the calibration say of a sequence."""

    name: str
    subject: str
    frames: int
    side: str
    betas: np.ndarray | None
    cameras: list[_Camera]

    @classmethod
    def of(cls, folder: str, root: str) -> "_Sequence":
        """The sequence of a folder, as its meta.yml and its cameras' files describe it."""
        subject = os.path.basename(os.path.dirname(folder))
        path = os.path.join(folder, "meta.yml")
        with reading(path, "meta.yml of DexYCB"):
            meta = _read_yaml(path)
            side = str(meta["mano_sides"][0])
            if side not in ("right", "left"):
                raise ValueError(f"mano_sides is {side}")
            calibration = os.path.join(root, "calibration")
            poses = _read_extrinsics(calibration, meta)
            serials = [str(serial) for serial in meta.get("serials") or ()]
        if not serials:
            serials = [os.path.basename(inner) for inner in list_folders(folder)]
        name = f"{subject}/{os.path.basename(folder)}"
        cameras = [
            _Camera(
                serial,
                f"{name}/{serial}",
                os.path.join(folder, serial),
                _read_intrinsics(calibration, serial),
                poses.get(serial),
            )
            for serial in serials
        ]
        betas = _read_betas(calibration, meta)
        return cls(name, subject, int(meta["num_frames"]), side, betas, cameras)

    def read_views(self, frame: int) -> list["_View"]:
        """The labelled frames of an instant, by camera."""
        views = [_View.of(camera, frame) for camera in self.cameras]
        return [view for view in views if view is not None]


def _read_yaml(path: str) -> Mapping[str, Any]:
    """The dict in a YAML file, plain data alone."""
    try:
        return take_tree(yaml.safe_load(read_text(path)))
    except (yaml.YAMLError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is no YAML file: {' '.join(str(error).split())[:200]}") from None


def _read_intrinsics(calibration: str, serial: str) -> np.ndarray:
    path = os.path.join(calibration, "intrinsics", f"{serial}_640x480.yml")
    with reading(path, "intrinsics of DexYCB"):
        color = _read_yaml(path)["color"]
        fx, fy, x, y = (float(color[name]) for name in ("fx", "fy", "ppx", "ppy"))
    return centred(np.array([[fx, 0, x], [0, fy, y], [0, 0, 1]]))


def _read_extrinsics(calibration: str, meta: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """{serial: (3, 4) to the world}; none where the calibration is not there."""
    path = os.path.join(calibration, f"extrinsics_{meta.get('extrinsics')}", "extrinsics.yml")
    if not os.path.isfile(path):
        return {}
    with reading(path, "extrinsics of DexYCB"):
        found = take_tree(_read_yaml(path)["extrinsics"])
        return {
            str(serial): as_numbers(values, "extrinsics", 12).reshape(3, 4)
            for serial, values in found.items()
            if len(values) == 12
        }


def _read_betas(calibration: str, meta: Mapping[str, Any]) -> np.ndarray | None:
    """(10,) of the hand; None where the calibration is not there."""
    path = os.path.join(calibration, f"mano_{meta['mano_calib'][0]}", "mano.yml")
    if not os.path.isfile(path):
        return None
    with reading(path, "mano.yml of DexYCB"):
        return take_numbers(_read_yaml(path), "betas", 10)


@dataclass
class _View:
    """One labelled frame of one camera, in that camera's axes."""

    camera: _Camera
    name: str
    image: str
    joints: np.ndarray
    keypoints: np.ndarray
    pose: np.ndarray
    outline: list[np.ndarray]

    @classmethod
    def of(cls, camera: _Camera, frame: int) -> "_View | None":
        """None where the frame has no label."""
        path = os.path.join(camera.folder, f"labels_{frame:06d}.npz")
        with reading(path, "label file of DexYCB"):
            tree = read_npz(path, FIELDS)
            joints = take_numbers(tree, "joint_3d", 1, 21, 3)[0]
            if (joints == -1).all():
                return None
            image = f"color_{frame:06d}.jpg"
            return cls(
                camera,
                f"{camera.name}/{image}",
                os.path.join(camera.folder, image),
                joints,
                take_numbers(tree, "joint_2d", 1, 21, 2)[0] + PIXEL_CENTRE,
                take_numbers(tree, "pose_m", 1, 51)[0],
                outline_of(as_numbers(tree["seg"], "seg", SIZE[1], SIZE[0]) == HAND),
            )


def _choose_worlds(sequence: _Sequence) -> dict[str, np.ndarray]:
    """{serial: (3, 4) world to camera}; none where the cameras do not agree on the hand."""
    poses = {camera.serial: camera.to_world for camera in sequence.cameras}
    known = {serial: pose for serial, pose in poses.items() if pose is not None}
    if len(known) < len(poses):
        return {}
    inverse = {serial: _invert(pose) for serial, pose in known.items()}
    for frame in spread_places(sequence.frames, LOOKED_AT):
        views = sequence.read_views(frame)
        if len(views) < 2:
            continue
        for to_world, to_camera in ((known, inverse), (inverse, known)):
            hands = [_move(view.joints, to_world[view.camera.serial]) for view in views]
            if np.linalg.norm(np.stack(hands) - hands[0], axis=-1).max() < AGREE_M:
                return to_camera
        return {}
    return {}


def _move(points: np.ndarray, pose: np.ndarray) -> np.ndarray:
    return points @ pose[:, :3].T + pose[:, 3]


def _invert(pose: np.ndarray) -> np.ndarray:
    """(3, 4) the other way."""
    R = pose[:, :3].T
    return np.concatenate([R, -(R @ pose[:, 3])[:, None]], 1)
