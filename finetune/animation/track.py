"""The people of a video as a body model's parameters, a row a frame: what is smoothed and written.

    take.tracks[0].pose          # (T, J, 3, 3) of the frames in which the person is
    take.tracks[0].make_person(3)

Frames in which somebody is not found have no row: a gap stays one. Camera's frame: metres, x right,
y down, z forward; the first pixel's centre is at (0.5, 0.5).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from data.bodies.base import BodyModel, BodyParameters, mirrored, mirrored_rotation
from engine.errors import UserError
from engine.geometry import project
from finetune.heads.base import pose_body
from finetune.heads.confidence import surround_vertices
from finetune.person import Person
from finetune.prompts import PROMPTED

CHUNK = 16  # bodies posed at once
# What of a Track has a row a frame; the last ones may be None.
ROWS = ("frames", "times", "pose", "translation", "confidence", "box", "hands", "held", "filled")
ROWS += ("refined", "uncertainty", "surface", "error_rad", "found", "error_px")


@dataclass(eq=False)
class Points:
    """Posed points of n frames in the camera's frame, float32 metres.

    Attributes:
        vertices: (n, V, 3).  joints: (n, J, 3).  keypoints: (n, K, 3).
    """

    vertices: np.ndarray
    joints: np.ndarray
    keypoints: np.ndarray


@dataclass(eq=False)
class Track:
    """One person or hand of a video.

    Attributes:
        name: such as "body-1", one of its own in a video.
        kind: "body", "left_hand" or "right_hand".
        body: the full body model, on a device of its own; of a hand the right one.
        frames: (T,) int64 numbers of the video's frames, increasing.
        times: (T,) float64 seconds since the video's first frame.
        pose: (T, J, 3, 3) float32 rotations as the body model takes them. A left hand's are its
            own: mirrored (data.bodies.base.mirrored_rotation) they pose the right hand.
        shape: (S,) float32, the same in all frames.
        translation: (T, 3) float32 metres, joint 0.
        intrinsics: (3, 3) float64 of the video's frames.
        confidence: (T,) float32, 0 to 1: how sure the search is that somebody is there.
        box: (T, 4) float32 x0, y0, x1, y1 in pixels, where the person was looked for.
        uncertainty: (T, K) float32 metres, standard deviation of each keypoint, or None.
        surface: (T, P) float32 metres, the same of the vertices that
            finetune.heads.confidence.surround_vertices names, or None.
        hands: (T, 2) bool of a body, whether the fingers of its left and right hand come from a
            crop of the hand alone.
        filled: (T,) bool, frames in which nobody was seen, and a motion module says who was there.
        error_rad: (T,) float32 radians by which a motion module expects joints to be off, on
            average, or None.
        smoothing: words on what smoothed it.
        held: (T, 2) bool likewise, whether they are those of frames nearby, as nobody saw the hand
            (finetune/video/hands.py).
        found: (T, P, 3) float32 keypoints that the search found, x and y in pixels and confidence,
            in the order of finetune.prompts.PROMPTED; None where nothing is known of them.
        refined: (T,) bool, whether the body was moved onto them (finetune/fit/refine.py).
        error_px: (T,) float32 mean distance in pixels of the body's points from those that were
            found, NaN in frames without enough of them; None where no frame has any.

    Raises:
        UserError: arrays that do not belong together.
    """

    name: str
    kind: str
    body: BodyModel
    frames: np.ndarray
    times: np.ndarray
    pose: np.ndarray
    shape: np.ndarray
    translation: np.ndarray
    intrinsics: np.ndarray
    confidence: np.ndarray
    box: np.ndarray
    uncertainty: np.ndarray | None = None
    surface: np.ndarray | None = None
    hands: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), bool))
    filled: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    error_rad: np.ndarray | None = None
    smoothing: str = "none"
    held: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), bool))
    found: np.ndarray | None = None
    refined: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    error_px: np.ndarray | None = None

    def __post_init__(self) -> None:
        count, joints = len(self.frames), len(self.body.joint_names)
        if not len(self.hands):
            self.hands = np.zeros((count, 2), bool)
        if not len(self.filled):
            self.filled = np.zeros(count, bool)
        if not len(self.held):
            self.held = np.zeros((count, 2), bool)
        if not len(self.refined):
            self.refined = np.zeros(count, bool)
        wanted: dict[str, tuple[int, ...]] = {
            "times": (count,),
            "pose": (count, joints, 3, 3),
            "translation": (count, 3),
            "intrinsics": (3, 3),
            "confidence": (count,),
            "box": (count, 4),
            "hands": (count, 2),
            "filled": (count,),
            "held": (count, 2),
            "refined": (count,),
        }
        if self.error_rad is not None:
            wanted["error_rad"] = (count,)
        if self.found is not None:
            wanted["found"] = (count, len(PROMPTED[self.body.kind]), 3)
        if self.error_px is not None:
            wanted["error_px"] = (count,)
        for name, shape in wanted.items():
            if np.shape(getattr(self, name)) != shape:
                raise UserError(
                    f"track {self.name}: {name} has shape {np.shape(getattr(self, name))}, not "
                    f"{shape} of its {count} frames"
                )
        if count and np.any(np.diff(self.frames) <= 0):
            raise UserError(f"track {self.name}: its frames do not increase")

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def is_left_hand(self) -> bool:
        """Whether the body model is seen in a mirror."""
        return self.kind == "left_hand"

    @property
    def faces(self) -> np.ndarray:
        """(F, 3) int32, outward by the right-hand rule."""
        if self.body.faces is None:
            raise ValueError(f"a coarse {self.body.name} has no faces: tracks need the full one")
        faces = self.body.faces.cpu().numpy().astype(np.int32)
        return np.ascontiguousarray(faces[:, ::-1]) if self.is_left_hand else faces

    @torch.no_grad()
    def pose_rows(self, rows: slice) -> Points:
        """Return the posed points of some rows; a caller who wants many takes them in parts."""
        device = self.body.vertex_ids.device
        pose, place = (
            torch.from_numpy(np.ascontiguousarray(array[rows])).float().to(device)
            for array in (self.pose, self.translation)
        )
        if self.is_left_hand:
            pose, place = mirrored_rotation(pose), mirrored(place)
        shape = torch.from_numpy(self.shape).float().to(device).expand(len(pose), -1)
        posed = pose_body(self.body, BodyParameters(self.body.name, pose, shape, place))
        points = (posed.vertices, posed.joints, posed.keypoints)
        if self.is_left_hand:
            points = tuple(mirrored(one) for one in points)
        return Points(*(one.cpu().numpy() for one in points))

    def walk_points(self) -> Iterator[tuple[int, Points]]:
        """Yield (first row, Points) of all rows in parts, so that memory stays flat."""
        for first in range(0, len(self), CHUNK):
            yield first, self.pose_rows(slice(first, first + CHUNK))

    @cached_property
    def skeleton(self) -> tuple[np.ndarray, np.ndarray]:
        """(T, J, 3) joints and (T, K, 3) keypoints of all rows, float32 metres.

        They are posed once: who changes a pose makes another Track (dataclasses.replace).
        """
        joints = np.empty((len(self), len(self.body.joint_names), 3), np.float32)
        keypoints = np.empty((len(self), len(self.body.keypoint_names), 3), np.float32)
        # Into arrays that are there already: a small one kept of each part would hold the memory
        # around it, the vertices', and 10,000 frames 1.6 GB.
        for first, points in self.walk_points():
            rows = slice(first, first + len(points.joints))
            joints[rows], keypoints[rows] = points.joints, points.keypoints
        return joints, keypoints

    def spread_surface(self, row: int) -> np.ndarray | None:
        """Return (V,) metres, the standard deviation of each vertex, or None where nobody knows."""
        if self.surface is None:
            return None
        around = surround_vertices(self.body)
        return (self.surface[row][around.index.numpy()] * around.weight.numpy()).sum(1)

    def list_stretches(self) -> list[slice]:
        """Return the rows of each stretch of frames without a gap."""
        if not len(self):
            return []
        breaks = np.flatnonzero(np.diff(self.frames) > 1) + 1
        starts = [0, *breaks.tolist()]
        ends = [*breaks.tolist(), len(self)]
        return [slice(start, end) for start, end in zip(starts, ends, strict=True)]

    def make_person(self, row: int, number: int | None = None) -> Person:
        """Return the Person of a row, posed.

        Args:
            number: of the person in the video.
        """
        points = self.pose_rows(slice(row, row + 1))
        flat, _ = project(points.keypoints[0], self.intrinsics, np.eye(3, 4))
        sides = ("left", "right")
        return Person(
            kind=self.kind,
            box=self.box[row],
            vertices=points.vertices[0],
            faces=self.faces,
            joints=points.joints[0],
            keypoints=points.keypoints[0],
            keypoints_2d=flat,
            pose=self.pose[row],
            shape=self.shape,
            translation=self.translation[row],
            intrinsics=self.intrinsics,
            track=number,
            time_s=float(self.times[row]),
            uncertainty=None if self.uncertainty is None else self.uncertainty[row],
            vertex_uncertainty=self.spread_surface(row),
            hands=tuple(side for side, has in zip(sides, self.hands[row], strict=True) if has),
        )


@dataclass(eq=False)
class Take:
    """A video and its people.

    Attributes:
        video: path of the file.
        times: (F,) float64 seconds of all its frames since the first.
        width, height: pixels of a frame.
        intrinsics: (3, 3) float64.
        tracks: of its people.
        focal_from: words on where the focal length comes from; "": nobody said.
        confident: whether it is drawn in colours of how sure the network is.
        floor: (4, 3) metres, corners of the floor that its people stand on, as
            finetune.scene.ground.list_corners has them, or None where nobody knows it.
        correct_image: (H, W, 3) of the video to that of ``intrinsics``, without what the lens does.
    """

    video: str
    times: np.ndarray
    width: int
    height: int
    intrinsics: np.ndarray
    tracks: list[Track]
    focal_from: str = ""
    confident: bool = False
    floor: np.ndarray | None = None
    correct_image: Callable[[np.ndarray], np.ndarray] = lambda image: image

    @property
    def fps(self) -> float:
        """Frames a second, on average; 25 of a single frame."""
        return (len(self.times) - 1) / float(self.times[-1]) if len(self.times) > 1 else 25.0

    def list_frame(self, frame: int) -> list[tuple[int, int]]:
        """Return (number of a track, its row) of all who are in a frame of the video."""
        out = []
        for number, track in enumerate(self.tracks):
            row = int(np.searchsorted(track.frames, frame))
            if row < len(track) and track.frames[row] == frame:
                out.append((number, row))
        return out
