"""Whole frames of shards with everybody who is truly in them, posed in the frames' cameras."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from data.bodies.base import BodyModel
from data.config import FrameDataConfig, SourceConfig
from data.format.frame import Frame, FramePerson
from data.format.labels import HIDDEN, Labels
from data.loading.frame_build import open_frame_order
from data.loading.frame_files import FrameFiles
from data.loading.reader import BadSample
from data.sampling.order import PAIR, numbers
from data.sampling.seen import Seen
from data.storage.shard_store import Store
from engine.errors import UserError
from engine.geometry import axis_angle_to_matrix
from finetune.evaluation.selection import leave_out, leave_out_known, take_all

KEYPOINT_SET = "coco17"
CHOICE_SEED = 0
POSED_AT_ONCE = 8  # full bodies with faces, 30 MB of intermediate numbers each
# Share of a box that a person's outline fills, where there is no outline: what mmpose takes for
# data sets without one (AI Challenger, CrowdPose).
FILLED = 0.53


@dataclass(eq=False)
class TruePerson:
    """Somebody in a frame, in its camera: metres, OpenCV axes.

    Attributes:
        box: (4,) pixels around the whole body.  shown: share of it that the frame shows.
        counts: whether it is wrong not to find this person; see ``list_people``.
        vertices: (V, 3), keypoints: (K, 3) of the body model; None where they are not labelled.
        points: (17, 2) pixels of coco17; labelled: (17,) bool, known and in the frame.
        area: square pixels that show the person.
    """

    box: np.ndarray
    shown: float
    counts: bool
    vertices: np.ndarray | None = None
    keypoints: np.ndarray | None = None
    points: np.ndarray = field(default_factory=lambda: np.zeros((17, 2)))
    labelled: np.ndarray = field(default_factory=lambda: np.zeros(17, bool))
    area: float = 0.0


@dataclass(eq=False)
class TrueFrame:
    """A frame and everybody in it.

    Attributes:
        key: shard and name, for messages.  scene: what frames of one scene have in common.
        image: (H, W, 3) uint8.  K: (3, 3) of it.
        ignore: (H, W) bool, where people may be of whom nobody says anything; None: nowhere.
    """

    key: str
    scene: str
    image: np.ndarray
    K: np.ndarray
    people: list[TruePerson]
    ignore: np.ndarray | None = None


@dataclass(eq=False)
class FrameSet:
    """Frames that a network was not trained on.

    Attributes:
        places: (path of a shard, number in it) of each.  notes: sentences on what was left out.
    """

    places: list[tuple[str, int]]
    files: FrameFiles
    notes: list[str]

    def read(self, body: BodyModel, shown_min: float) -> Iterator[TrueFrame]:
        """Yield the frames; those that cannot be read, or that have no camera, are passed over.

        After the last one ``notes`` say how many those were.

        Args:
            body: whose labels are posed, of whom the truth is.  shown_min: see ``list_people``.
        """
        unread: list[str] = []
        without_camera = 0
        for path, index in self.places:
            try:
                frame, members = self.files.frame(path, index)
                if frame.K is None:
                    without_camera += 1
                    continue
                image = self.files.pixels(path, frame, members)
                labels = self.files.labels(path, frame, members)
                ids = self.files.ids(path, frame, members)
                ignore = self.files.ignored(path, frame, members)
            except BadSample as error:
                unread.append(f"{path}, frame {index}: {error}")
                continue
            people = list_people(frame, labels, ids, body, shown_min)
            key = f"{path.rsplit('/', 1)[-1]}:{frame.key}"
            K = np.asarray(frame.K, np.float64)
            yield TrueFrame(key, frame.scene, image, K, people, ignore)
        if unread:
            self.notes.append(f"frames that cannot be read: {len(unread)}, the first: {unread[0]}")
        if without_camera:
            self.notes.append(f"frames without a camera, not judged: {without_camera}")


def open_frames(shards: str, seen: Seen, count: int) -> FrameSet:
    """Return frames that a network, and what it began from, was not trained on.

    Args:
        shards: see data.storage.catalogue.  seen: what the weights saw.
        count: frames, at most; which ones follows from the shards alone.
    Raises:
        UserError: none is left.
    """
    config = FrameDataConfig(sources={"data": SourceConfig(shards)}, val_clips=0)
    order = open_frame_order(config, 1, 0)
    take_all(order)
    leave_out(order, seen)
    store = Store(config.cache.open())
    notes = leave_out_known(order, [seen], store)
    places = [
        (source.paths[shard], index) for source in order.sources for shard, index in source.val
    ]
    if not places:
        raise UserError(f"data.shards={shards}: no frame there that the run was not trained on")
    chosen = np.sort(numbers(CHOICE_SEED, PAIR, 4).permutation(len(places))[:count])
    return FrameSet([places[i] for i in chosen], FrameFiles(store), notes)


def list_people(
    frame: Frame,
    labels: Labels | None,
    ids: np.ndarray | None,
    body: BodyModel,
    shown_min: float,
) -> list[TruePerson]:
    """Return everybody in a frame.

    A person counts whose body is labelled and who is shown at least as much as ``shown_min``; where
    nobody knows how much, the person counts.

    Args:
        labels: None: there are none.  ids: (H, W) uint8 of the frame, or None.
        body: the full body model.
    """
    meshes = pose_labels(labels, body, frame) if labels is not None else {}
    people = []
    for number, person in enumerate(frame.people):
        shown = 1.0 if person.shown is None else person.shown
        vertices, keypoints = meshes.get(number, (None, None))
        points, labelled = _read_points(labels, number)
        box = _find_box(person, points, labelled, frame)
        counts = vertices is not None and shown >= max(shown_min, 1e-6)
        area = _measure_area(ids, number, box, frame)
        people.append(TruePerson(box, shown, counts, vertices, keypoints, points, labelled, area))
    return people


@torch.no_grad()
def pose_labels(
    labels: Labels, body: BodyModel, frame: Frame
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Return {number: ((V, 3) vertices, (K, 3) keypoints)} of people whose body is labelled.

    Metres in the frame's camera, face included.
    """
    found = labels.body
    if found is None or found.model != body.label_model or frame.Rt is None:
        return {}
    if labels.frame == "root":
        return {}
    known = np.ones(len(labels), bool)
    for rows in found.known.values():
        known &= np.asarray(rows, bool)
    whom = np.flatnonzero(known)
    Rt = torch.from_numpy(np.asarray(frame.Rt, np.float64)).float()
    values = {
        name: torch.from_numpy(np.asarray(found.parameters[name], np.float32))
        for name in ("pose", "root", "phenotype", "face")
    }
    out = {}
    for part in np.array_split(whom, max(1, -(-len(whom) // POSED_AT_ONCE))):
        pose, root, shape, face = (value[part] for value in values.values())
        vertices, joints = body(axis_angle_to_matrix(pose), root, shape, face)
        keypoints = body.keypoints(vertices, joints)
        for row, number in enumerate(part.tolist()):
            moved = [
                (points[row] @ Rt[:, :3].T + Rt[:, 3]).numpy() for points in (vertices, keypoints)
            ]
            out[number] = moved[0], moved[1]
    return out


def _read_points(labels: Labels | None, number: int) -> tuple[np.ndarray, np.ndarray]:
    """(17, 2) pixels of coco17 and (17,) bool, which are labelled and in the frame."""
    points, labelled = np.zeros((17, 2)), np.zeros(17, bool)
    known = None if labels is None else labels.keypoints
    if known is None or known.joint_set != KEYPOINT_SET:
        return points, labelled
    labelled = known.confidence[number] > 0
    if known.visible is not None:
        labelled = labelled & (known.visible[number] >= HIDDEN)
    return np.asarray(known.points[number], np.float64), labelled


def _find_box(
    person: FramePerson, points: np.ndarray, labelled: np.ndarray, frame: Frame
) -> np.ndarray:
    """The labelled box, or that around the keypoints, or the frame."""
    if person.box is not None:
        return np.asarray(person.box, np.float64)
    if labelled.any():
        return np.concatenate([points[labelled].min(0), points[labelled].max(0)])
    return np.array([0, 0, frame.width, frame.height], np.float64)


def _measure_area(ids: np.ndarray | None, number: int, box: np.ndarray, frame: Frame) -> float:
    """Square pixels that show a person: by the outline, or by the part of the box in the frame."""
    if ids is not None:
        return float((ids == number + 1).sum())
    inside = cut_box(box, frame.width, frame.height)
    return FILLED * float((inside[2] - inside[0]) * (inside[3] - inside[1]))


def cut_box(box: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return the (4,) part of a box that lies in an image."""
    return np.clip(box, 0, [width, height, width, height])
