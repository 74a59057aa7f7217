"""The outline of one person: a network's mask of a square, less what belongs to others."""

import math
from collections.abc import Sequence

import cv2
import numpy as np

from data.cropping.geometry import Square, image_to_crop, square_around
from data.cropping.host import cut_square
from data.find.detection import Detection, PersonMask
from data.find.networks import MASK_SIDE, MaskNetwork

MARGIN = 1.25  # the square's side over the longer side of the person's box
# The network expects whole people: of one whose legs are hidden or out of the image it is given a
# larger square that is moved down, as though the legs were there.
MARGIN_WITHOUT_LEGS = 2.0
DOWN_WITHOUT_LEGS = 0.3  # of the box's longer side
LEGS_SURE = 0.3  # of a knee's or ankle's confidence
INSIDE = 0.5  # of the network's answer
REACH = 0.15  # of the box's longer side: an outline may reach this far beyond the box
SURE = 0.2  # of a keypoint's confidence: it is taken for a place of the person
TRUNK = [5, 6, 11, 12]  # shoulders and hips of coco17
LEAST_SHARE = 0.02  # of the box: less is no outline
# COCO17's limbs, and the trunk as its outline and diagonals; the nose hangs between the shoulders.
BONES = (
    (0, 5),
    (0, 6),
    (5, 6),
    (5, 7),
    (7, 9),
    (6, 8),
    (8, 10),
    (5, 11),
    (6, 12),
    (5, 12),
    (6, 11),
    (11, 12),
    (11, 13),
    (13, 15),
    (12, 14),
    (14, 16),
)


def find_outline(
    network: MaskNetwork,
    image: np.ndarray,
    person: Detection,
    others: Sequence[Detection] = (),
) -> PersonMask | None:
    """Return where a person is, or None where the network sees nobody in the box.

    Args:
        image: (H, W, 3) uint8 RGB.
        person: with a box and, if known, keypoints of coco17.
        others: people of the same image, whose part of the square is left out.
    """
    square = outline_square(person)
    inside = _ask_upright(network, image, square, body_angle(person)) > INSIDE
    inside &= _near_box(person, square)
    inside &= _within(image, square)
    for other in others:
        if other is not person:
            inside &= ~_nearer_to(other, person, square)
    inside = _keep_own_parts(inside, person, square)
    x0, y0, x1, y1 = _to_square(person.box.reshape(2, 2), square).ravel().tolist()
    if inside.sum() < LEAST_SHARE * (x1 - x0) * (y1 - y0):
        return None
    return PersonMask(square.box, inside)


def outline_square(person: Detection) -> Square:
    """Return the square of the image that the network is given of a person."""
    points = person.keypoints
    if points is None or not _has_coco17(person) or (points[13:, 2] >= LEGS_SURE).any():
        return square_around(person.box, MARGIN)
    square = square_around(person.box, MARGIN_WITHOUT_LEGS)
    down = DOWN_WITHOUT_LEGS * square.side / MARGIN_WITHOUT_LEGS
    return Square(square.x, square.y + down, square.side)


def body_angle(person: Detection) -> float:
    """Return by how many radians a person's trunk is turned from upright, from x towards y.

    0 where shoulders or hips are not known.
    """
    points = person.keypoints
    if points is None or not _has_coco17(person) or points[TRUNK, 2].min() < SURE:
        return 0.0
    shoulders, hips = points[TRUNK, :2].reshape(2, 2, 2).mean(1)
    x, y = (shoulders - hips).tolist()
    return math.atan2(x, -y)


def _ask_upright(
    network: MaskNetwork, image: np.ndarray, square: Square, angle: float
) -> np.ndarray:
    """(S, S) the network's answer of an upright square, for which it got one that is turned.

    It was trained on people who are upright in their squares, and loses the heads of others.
    """
    turned = Square(square.x, square.y, square.side, angle)
    answer = network(cut_square(image, turned, MASK_SIDE))
    matrix = image_to_crop(square, MASK_SIDE) @ np.linalg.inv(image_to_crop(turned, MASK_SIDE))
    # OpenCV's first pixel has its centre at 0.
    matrix[:2, 2] += matrix[:2, :2] @ [0.5, 0.5] - 0.5
    return cv2.warpAffine(answer.astype(np.float32), matrix[:2], (MASK_SIDE, MASK_SIDE))


def _has_coco17(person: Detection) -> bool:
    return person.keypoints is not None and person.joint_set == "coco17"


def _to_square(points: np.ndarray, square: Square) -> np.ndarray:
    """(N, 2) pixels of the mask of (N, 2) pixels of the image."""
    matrix = image_to_crop(square, MASK_SIDE)
    return points @ matrix[:2, :2].T + matrix[:2, 2]


def _fill_box(corners: np.ndarray) -> np.ndarray:
    """(S, S) bool, true within (2, 2) corners in pixels of the mask."""
    (x0, y0), (x1, y1) = np.round(np.clip(corners, 0, MASK_SIDE)).astype(int).tolist()
    out = np.zeros((MASK_SIDE, MASK_SIDE), bool)
    out[y0:y1, x0:x1] = True
    return out


def _near_box(person: Detection, square: Square) -> np.ndarray:
    reach = REACH * max(person.box[2:] - person.box[:2])
    return _fill_box(_to_square(person.box.reshape(2, 2) + [[-reach], [reach]], square))


def _within(image: np.ndarray, square: Square) -> np.ndarray:
    height, width = image.shape[:2]
    return _fill_box(_to_square(np.array([[0.0, 0.0], [width, height]]), square))


def _nearer_to(other: Detection, person: Detection, square: Square) -> np.ndarray:
    """(S, S) bool, true where the other's skeleton is nearer than the person's own.

    Of two people without keypoints the middles of their boxes decide.
    """
    away = _distance(other, square)
    return away < _distance(person, square)


def _distance(person: Detection, square: Square) -> np.ndarray:
    """(S, S) distances in pixels of the mask from a person's skeleton."""
    canvas = np.full((MASK_SIDE, MASK_SIDE), 255, np.uint8)
    for one, two in _list_bones(person):
        ends = np.round(_to_square(np.stack([one, two]), square)).astype(int)
        # Lines far outside would overflow OpenCV's integers.
        ends = np.clip(ends, -8 * MASK_SIDE, 8 * MASK_SIDE).tolist()
        cv2.line(canvas, tuple(ends[0]), tuple(ends[1]), 0, 1)
    if canvas.all():
        return np.full(canvas.shape, np.inf)
    return cv2.distanceTransform(canvas, cv2.DIST_L2, 5)


def _list_bones(person: Detection) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs of points of the image; of a person without keypoints the middle line of the box."""
    x0, y0, x1, y1 = person.box.tolist()
    quarter = (y1 - y0) / 4
    middle = (x0 + x1) / 2
    line = (np.array([middle, y0 + quarter]), np.array([middle, y1 - quarter]))
    points = person.keypoints
    if points is None or not _has_coco17(person):
        return [line]
    sure = points[:, 2] >= SURE
    bones = [(points[a, :2], points[b, :2]) for a, b in BONES if sure[a] and sure[b]]
    return bones or [line]


def _keep_own_parts(inside: np.ndarray, person: Detection, square: Square) -> np.ndarray:
    """The connected parts of a mask that the person's skeleton touches, or else the largest."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(inside.astype(np.uint8))
    if count < 2:
        return inside
    on_bones = _distance(person, square) < 2
    touched = np.bincount(parts[on_bones], minlength=count)
    touched[0] = 0
    if not touched.any():
        return parts == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    # A speck of another that a bone merely brushes is left out.
    return np.isin(parts, np.flatnonzero(touched >= 0.05 * touched.sum()))
