"""Hands by a palm network and a landmark network: at people's wrists, or anywhere in an image.

The crop for the landmarks is turned so that the middle finger points up, moved from the palm
towards the fingers and enlarged, as MediaPipe's hand graph does it.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np

from data.cropping.geometry import Square, image_to_crop
from data.cropping.host import cut_square
from data.find.detection import SIDES, Detection, HandDetection
from data.find.networks import (
    HAND_SIDE,
    PALM_SIDE,
    FoundPalms,
    HandNetwork,
    PalmNetwork,
    box_overlap,
)
from data.format.joint_sets import COCO17

LEAST_PALM = 0.4
LEAST_HAND = 0.5  # that the landmark network sees a hand
SURE = 0.2  # of a wrist's confidence: a hand is looked for at it
FOREARM = 0.35  # the hand's middle lies this share of the forearm beyond the wrist
WRIST_SIDE = 2.0  # forearms along the side of the square in which a wrist's palm is looked for
NEAR = 0.5  # of that square's side: a hand whose wrist is farther away is another's
WIDER = 1.7  # the side of the second square over the first's
LEAST_SIDE = 0.25  # of the person's box, where the forearm is foreshortened
PALM_SCALE = 2.6  # the crop's side over the palm's box
PALM_SHIFT = 0.5  # of the palm's side, towards the fingers
AROUND = 0.12  # of the keypoints' longer side: flesh around them that belongs to the hand's box
TRUNK = [5, 6, 11, 12]  # shoulders and hips of coco17
SAME_HAND = 0.4  # overlap of two boxes that are one hand


def find_hands_at_wrists(
    palms: PalmNetwork, marks: HandNetwork, image: np.ndarray, person: Detection
) -> dict[str, HandDetection]:
    """Return a person's hands by their sides; one that is not seen is absent.

    Args:
        image: (H, W, 3) uint8 RGB.
        person: with keypoints of coco17; without them no hand is found.
    """
    found: dict[str, HandDetection] = {}
    for side in SIDES:
        square = wrist_square(person, side)
        if square is None:
            continue
        # Near the camera a hand fills the square, and its palm is seen in a wider one alone.
        wider = Square(square.x, square.y, WIDER * square.side)
        near = NEAR * square.side
        hand = _find_hand_in(palms, marks, image, square, person, side, near)
        hand = hand or _find_hand_in(palms, marks, image, wider, person, side, near)
        if hand is not None:
            found[side] = hand
    if len(found) == 2 and box_overlap(found["left"].box, found["right"].box) > SAME_HAND:
        # One hand that both wrists' squares show is the one's whose wrist is nearer.
        farther = max(SIDES, key=lambda side: _wrist_distance(person, found[side]))
        del found[farther]
    return found


def drop_shared_hands(people: Sequence[Detection]) -> None:
    """Leave a hand that was found for two people to the one whose wrist is nearer, in place."""
    for one, other in itertools.combinations(people, 2):
        for side, other_side in itertools.product(list(one.hands), list(other.hands)):
            mine, theirs = one.hands.get(side), other.hands.get(other_side)
            if mine is None or theirs is None or box_overlap(mine.box, theirs.box) < SAME_HAND:
                continue
            if _wrist_distance(one, mine) <= _wrist_distance(other, theirs):
                del other.hands[other_side]
            else:
                del one.hands[side]


def is_part_of_trunk(hand: HandDetection, people: Sequence[Detection]) -> bool:
    """Return whether a hand is as large as the trunk of a person on whom it lies: it is none."""
    middle = (hand.box[:2] + hand.box[2:]) / 2
    for person in people:
        points = person.keypoints
        if points is None or person.joint_set != "coco17" or points[TRUNK, 2].min() < SURE:
            continue
        shoulders, hips = points[TRUNK, :2].reshape(2, 2, 2).mean(1)
        within = (middle >= person.box[:2]).all() and (middle <= person.box[2:]).all()
        if within and max(hand.box[2:] - hand.box[:2]) > math.hypot(*(shoulders - hips)):
            return True
    return False


def wrist_square(person: Detection, side: str) -> Square | None:
    """Return the square of the image in which a palm is looked for, None without a wrist."""
    if person.keypoints is None or person.joint_set != "coco17":
        return None
    wrist = person.keypoints[COCO17.index(f"{side}_wrist")]
    elbow = person.keypoints[COCO17.index(f"{side}_elbow")]
    if wrist[2] < SURE:
        return None
    forearm = wrist[:2] - elbow[:2] if elbow[2] >= SURE else np.zeros(2)
    x, y = (wrist[:2] + FOREARM * forearm).tolist()
    longer = max(person.box[2:] - person.box[:2])
    return Square(x, y, max(WRIST_SIDE * math.hypot(*forearm), LEAST_SIDE * longer))


def _wrist_distance(person: Detection, hand: HandDetection) -> float:
    if person.keypoints is None or hand.keypoints is None:
        return math.inf
    wrist = person.keypoints[COCO17.index(f"{hand.side}_wrist"), :2]
    return math.hypot(*(hand.keypoints[0, :2] - wrist))


def _find_hand_in(
    palms: PalmNetwork,
    marks: HandNetwork,
    image: np.ndarray,
    square: Square,
    person: Detection,
    side: str,
    near: float,
) -> HandDetection | None:
    """The hand of the palm nearest to the square's middle, its wrist ``near`` the person's."""
    found = palms(cut_square(image, square, PALM_SIDE), LEAST_PALM)
    middles = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
    away = np.hypot(*(middles - PALM_SIDE / 2).T)
    for i in np.argsort(away, kind="stable"):
        hand = _read_hand(marks, image, palm_square(found, int(i), square), side)
        if hand is not None and _wrist_distance(person, hand) <= near:
            return hand
    return None


def find_hands_anywhere(
    palms: PalmNetwork, marks: HandNetwork, image: np.ndarray
) -> list[HandDetection]:
    """Return the hands of an image that shows little else, best first.

    A hand's side is what the landmark network says of it.
    """
    height, width = image.shape[:2]
    square = Square(width / 2, height / 2, max(width, height))
    found = palms(cut_square(image, square, PALM_SIDE), LEAST_PALM)
    hands: list[HandDetection] = []
    for i in range(len(found.scores)):
        hand = _read_hand(marks, image, palm_square(found, i, square), None)
        if hand and all(box_overlap(hand.box, one.box) < SAME_HAND for one in hands):
            hands.append(hand)
    return sorted(hands, key=lambda hand: -hand.score)


def palm_square(found: FoundPalms, index: int, square: Square) -> Square:
    """Return the turned square of the image for a palm's landmarks.

    Its upward direction is that from the wrist to the base of the middle finger.

    Args:
        square: of the image, in which the palms were found.
    """
    scale = square.side / PALM_SIDE
    x0, y0, x1, y1 = found.boxes[index].tolist()
    wrist, middle_finger = found.points[index, 0], found.points[index, 2]
    x, y = (middle_finger - wrist).tolist()
    # The angle by which "up" (0, -1) is turned, from x towards y.
    angle = math.atan2(x, -y)
    side = max(x1 - x0, y1 - y0)
    shift = PALM_SHIFT * side
    centre_x = (x0 + x1) / 2 + shift * math.sin(angle)
    centre_y = (y0 + y1) / 2 - shift * math.cos(angle)
    left, top = square.box[:2].tolist()
    return Square(left + scale * centre_x, top + scale * centre_y, scale * side * PALM_SCALE, angle)


def _read_hand(
    marks: HandNetwork, image: np.ndarray, square: Square, side: str | None
) -> HandDetection | None:
    """The hand in a turned square; None where the network sees none."""
    points, presence, right = marks(cut_square(image, square, HAND_SIDE))
    if presence < LEAST_HAND:
        return None
    inverse = np.linalg.inv(image_to_crop(square, HAND_SIDE))
    points = points.astype(np.float64) @ inverse[:2, :2].T + inverse[:2, 2]
    keypoints = np.concatenate([points, np.full((len(points), 1), presence)], 1)
    box = hand_box(points, image.shape[1], image.shape[0])
    if box is None:
        return None
    if side is None:
        side = "right" if right > 0.5 else "left"
    return HandDetection(side, box, presence, keypoints)


def hand_box(points: np.ndarray, width: int, height: int) -> np.ndarray | None:
    """Return (4,) the box around (21, 2) keypoints and the flesh around them, within the image.

    None where it lies outside.
    """
    low, high = points.min(0), points.max(0)
    around = AROUND * max(high - low)
    limits = np.array([width, height], np.float64)
    box = np.concatenate([np.clip(low - around, 0, limits), np.clip(high + around, 0, limits)])
    return box if (box[2:] - box[:2] >= 1).all() else None
