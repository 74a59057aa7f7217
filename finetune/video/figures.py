"""People as OpenPose draws them on black: what image generators take as a pose.

18 points of a body and 21 of each hand, in the colours of ControlNet's openpose annotator (Zhang et
al., ICCV 2023), whose line widths are those at 512 pixels of the shorter side. Joints of the mesh
are drawn whether they are seen or hidden; the face's contours, which body models do not have, are
left out.
"""

import colorsys
import functools
import math

import cv2
import numpy as np
import torch

from data.bodies.base import BodyModel
from data.bodies.joint_maps import JointMap
from data.format.joint_sets import find_joint_set
from engine.geometry import project
from finetune.animation.track import Take

BODY = "openpose18"
WHOLE = "openpose137"
SIDE_PX = 512  # of an image for which the widths below are
STICK, DOT, FINGER, KNUCKLE = 4.0, 4.0, 2.0, 4.0  # half-widths and radii, but FINGER a width
STICK_SHARE = 0.6  # of its joint's colour that a limb has
KNUCKLES = (0, 0, 255)  # sRGB
LIMBS = (
    ("neck", "right_shoulder"),
    ("neck", "left_shoulder"),
    ("right_shoulder", "right_elbow"),
    ("right_elbow", "right_wrist"),
    ("left_shoulder", "left_elbow"),
    ("left_elbow", "left_wrist"),
    ("neck", "right_hip"),
    ("right_hip", "right_knee"),
    ("right_knee", "right_ankle"),
    ("neck", "left_hip"),
    ("left_hip", "left_knee"),
    ("left_knee", "left_ankle"),
    ("neck", "nose"),
    ("nose", "right_eye"),
    ("right_eye", "right_ear"),
    ("nose", "left_eye"),
    ("left_eye", "left_ear"),
)
FINGERS = [
    (0 if joint == 0 else first + joint - 1, first + joint)
    for first in range(1, 21, 4)
    for joint in range(4)
]


def draw_figures(take: Take, frame: int, size: tuple[int, int]) -> np.ndarray:
    """Return the people of a frame, (H, W, 3) uint8, a near one over a far one.

    Args:
        size: width and height of what is drawn.
    """
    out = np.zeros((size[1], size[0], 3), np.uint8)
    scale = np.array(size) / [take.width, take.height]
    shown = [(take.tracks[number], row) for number, row in take.list_frame(frame)]
    for track, row in sorted(shown, key=lambda one: -one[0].translation[one[1], 2]):
        points = track.pose_rows(slice(row, row + 1))
        if track.kind != "body":
            _draw_hand(out, _place(points.keypoints[0], track.intrinsics, scale))
            continue
        space = find_points(track.body, points.vertices[0], points.joints[0])
        flat = _place(space, track.intrinsics, scale)
        body, hands = len(find_joint_set(BODY)), flat[len(find_joint_set(BODY)) :]
        _draw_body(out, flat[:body])
        for hand in (hands[:21], hands[21:]):
            _draw_hand(out, hand)
    return out


@torch.no_grad()
def find_points(body: BodyModel, vertices: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """Return (18 + 21 + 21, 3) metres: openpose18, left hand, right hand; NaN where there is none.

    Args:
        vertices: (V, 3).  joints: (J, 3).
    """
    give, rows = _open_map(body)
    device = body.vertex_ids.device
    parts = [torch.from_numpy(one)[None].to(device) for one in (vertices, joints)]
    whole = give(*parts)[0].cpu().numpy()
    whole[~give.given.cpu().numpy()] = np.nan
    points = whole[rows]
    names = find_joint_set(BODY).joints
    # OpenPose learnt its neck as the middle of the shoulders.
    shoulders = [names.index(f"{side}_shoulder") for side in ("left", "right")]
    points[names.index("neck")] = points[shoulders].mean(0)
    return points


@functools.lru_cache(maxsize=4)
def _open_map(body: BodyModel) -> tuple[JointMap, list[int]]:
    """The map to WHOLE, and the rows of it in the order of ``find_points``."""
    whole = find_joint_set(WHOLE).joints
    fingers = find_joint_set("hand21").joints
    names = [*find_joint_set(BODY).joints]
    names += [f"{side}_hand_{name}" for side in ("left", "right") for name in fingers]
    rows = [whole.index(name) for name in names]
    return JointMap(body, WHOLE).to(body.vertex_ids.device), rows


def _place(points: np.ndarray, K: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """(K, 2) pixels of what is drawn; NaN of what is not before the camera."""
    flat, depth = project(points, K, np.eye(3, 4))
    flat[~(depth > 0)] = np.nan
    return flat * scale


def _draw_body(image: np.ndarray, points: np.ndarray) -> None:
    names, unit = find_joint_set(BODY).joints, min(image.shape[:2]) / SIDE_PX
    colours = [_choose_hue(number / len(names)) for number in range(len(names))]
    for limb, (one, other) in enumerate(LIMBS):
        ends = points[[names.index(one), names.index(other)]]
        if not _is_drawn(ends):
            continue
        middle, (x, y) = ends.mean(0), ends[0] - ends[1]
        axes = (round(math.hypot(x, y) / 2), max(1, round(STICK * unit)))
        turn = round(math.degrees(math.atan2(y, x)))
        rim = cv2.ellipse2Poly(_round(middle), axes, turn, 0, 360, 1)
        colour = tuple(int(STICK_SHARE * value) for value in colours[limb])
        cv2.fillConvexPoly(image, np.asarray(rim), colour)
    for point, colour in zip(points, colours, strict=True):
        if _is_drawn(point):
            cv2.circle(image, _round(point), max(1, round(DOT * unit)), colour, -1)


def _draw_hand(image: np.ndarray, points: np.ndarray) -> None:
    unit = min(image.shape[:2]) / SIDE_PX
    for number, (one, other) in enumerate(FINGERS):
        if _is_drawn(points[[one, other]]):
            colour, width = _choose_hue(number / len(FINGERS)), max(1, round(FINGER * unit))
            cv2.line(image, _round(points[one]), _round(points[other]), colour, width)
    for point in points:
        if _is_drawn(point):
            cv2.circle(image, _round(point), max(1, round(KNUCKLE * unit)), KNUCKLES, -1)


def _choose_hue(share: float) -> tuple[int, int, int]:
    """SRGB of a full colour, from red at 0 over green at a third."""
    red, green, blue = colorsys.hsv_to_rgb(share, 1, 1)
    return round(255 * red), round(255 * green), round(255 * blue)


def _is_drawn(points: np.ndarray) -> bool:
    """Whether all are known, and near enough to the image for OpenCV's integers."""
    return bool((np.abs(points) < 20_000).all())  # false of NaN


def _round(point: np.ndarray) -> tuple[int, int]:
    """The pixel that holds a point."""
    return int(np.floor(point[0])), int(np.floor(point[1]))
