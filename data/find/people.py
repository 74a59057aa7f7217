"""People in an image by MoveNet: in the whole of it, then in overlapping windows.

The network gives at most six people, and none that are smaller than a tenth of its square. A second
pass over windows finds the small ones and those of a crowd. A window that is full, or shows small
people, is split again.
"""

import numpy as np

from data.find.detection import Detection
from data.find.networks import PEOPLE_SIDE, FoundPeople, PeopleNetwork, box_area, box_overlap
from data.find.windows import Window, cut_window, split_window, whole_window, window_to_image

LEAST_SCORE = 0.2
# In windows, where parts of large people and of their surroundings are enlarged.
LEAST_SCORE_IN_PART = 0.3
# Somebody small who is hardly seen: worth a look into parts of the window, and no more.
LEAST_HINT = 0.12
FULL = 6  # people, at most, that the network gives
SMALL = 0.3  # of a window's side: people below it are looked for in parts of the window
DEPTH = 3  # times that a window is split
MOST_WINDOWS = 24  # a stadium's spectators would fill hundreds
SAME = 0.5  # object keypoint similarity from which two detections are of one person
SAME_BOX = 0.7  # of two boxes: they are of one person, whatever their keypoints say
LEAST_COMMON = 0.25  # share of the smaller box, below which they are of two
SURE = 0.3  # of a keypoint's confidence: it is compared
EDGE = 0.025  # of a window's side: a box this near to its edge is cut off there
# COCO's spread of each keypoint over the square root of a person's area (twice its sigmas).
SPREAD = (
    2
    * np.array([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89], np.float64)
    / 1000.0
)


def find_people(network: PeopleNetwork, image: np.ndarray, tiles: bool) -> list[Detection]:
    """Return the people in an image, best first.

    Args:
        image: (H, W, 3) uint8 RGB.
        tiles: look into overlapping windows too.
    """
    height, width = image.shape[:2]
    whole = whole_window(width, height)
    seen = _look(network, image, whole)
    kept = merge_people([], _list_sure(seen, LEAST_SCORE))
    waiting = [(part, 1) for part in split_window(whole, width, height)] if tiles else []
    for _ in range(MOST_WINDOWS):
        if not waiting:
            break
        # The coarse ones come first.
        window, depth = waiting.pop(0)
        seen = _look(network, image, window)
        sure = _list_sure(seen, LEAST_SCORE_IN_PART)
        kept = merge_people(kept, [one for one in sure if not _is_cut(one, window, width, height)])
        if depth < DEPTH and _has_more(seen, window):
            waiting += [(part, depth + 1) for part in split_window(window, width, height)]
    return sorted(kept, key=lambda one: -one.score)


def _list_sure(seen: list[Detection], least: float) -> list[Detection]:
    return [one for one in seen if one.score >= least]


def _look(network: PeopleNetwork, image: np.ndarray, window: Window) -> list[Detection]:
    """Everybody in a window, those who are hardly seen too."""
    height, width = image.shape[:2]
    found = network(cut_window(image, window, PEOPLE_SIDE))
    origin, scale = window_to_image(window, PEOPLE_SIDE, width, height)
    return list_people(found, origin, scale, (width, height), LEAST_HINT)


def list_people(
    found: FoundPeople,
    origin: np.ndarray,
    scale: np.ndarray,
    shape: tuple[int, int],
    least: float,
) -> list[Detection]:
    """Return Detections in pixels of the image, of those of at least a score.

    Args:
        origin, scale: of data.find.windows.window_to_image.
        shape: width and height of the image, to which boxes are cut.
    """
    people = []
    for score, box, keypoints in zip(found.scores, found.boxes, found.keypoints, strict=True):
        if score < least:
            continue
        box = np.tile(origin, 2) + np.tile(scale, 2) * box
        box = np.clip(box, 0, np.tile(np.array(shape, np.float64), 2))
        points = keypoints.copy()
        points[:, :2] = origin + scale * points[:, :2]
        if box_area(box) > 0:
            people.append(Detection(box, float(score), points))
    return people


def merge_people(kept: list[Detection], found: list[Detection]) -> list[Detection]:
    """Return those kept, and of those found the ones that are nobody among them.

    Who was found again, whole and with a higher score, is replaced.
    """
    out = list(kept)
    for person in sorted(found, key=lambda one: -one.score):
        same = [i for i, other in enumerate(out) if is_same_person(person, other)]
        if not same:
            out.append(person)
            continue
        nearest = max(same, key=lambda i: box_overlap(person.box, out[i].box))
        other = out[nearest]
        if person.score > other.score and box_overlap(person.box, other.box) > SAME_BOX:
            out[nearest] = person
    return out


def is_same_person(one: Detection, other: Detection) -> bool:
    """Return whether two detections are of one person, or one is of a part of the other.

    People who overlap are told apart by their keypoints: those that are sure in both are compared
    by COCO's object keypoint similarity.
    """
    overlap = box_overlap(one.box, other.box)
    common = _common_share(one.box, other.box)
    if overlap > SAME_BOX or common < LEAST_COMMON:
        return overlap > SAME_BOX
    if one.keypoints is None or other.keypoints is None:
        return overlap > 0.5
    both = np.flatnonzero(np.minimum(one.keypoints[:, 2], other.keypoints[:, 2]) >= SURE)
    if len(both) < 3:
        return common > 0.6
    return keypoint_similarity(one, other, both) > SAME


def keypoint_similarity(one: Detection, other: Detection, which: np.ndarray) -> float:
    """Return the object keypoint similarity of some keypoints, 0 to 1, at the larger's size."""
    if one.keypoints is None or other.keypoints is None:
        raise ValueError("people without keypoints have no similarity of them")
    area = max(box_area(one.box), box_area(other.box))
    apart = one.keypoints[which, :2] - other.keypoints[which, :2]
    squared = (apart**2).sum(1) / (2 * area * SPREAD[which] ** 2)
    return float(np.exp(-squared).mean())


def _common_share(one: np.ndarray, other: np.ndarray) -> float:
    """Share of the smaller box that lies in the other."""
    overlap = box_overlap(one, other)
    # |A and B| = overlap / (1 + overlap) * (|A| + |B|).
    common = overlap / (1 + overlap) * (box_area(one) + box_area(other))
    return common / max(min(box_area(one), box_area(other)), 1e-9)


def _is_cut(person: Detection, window: Window, width: int, height: int) -> bool:
    """Whether a box ends at an edge of the window that is none of the image."""
    x0, y0, x1, y1 = person.box.tolist()
    near = EDGE * window.side
    right, low = window.x + window.side, window.y + window.side
    return (
        (window.x > 0 and x0 < window.x + near)
        or (window.y > 0 and y0 < window.y + near)
        or (right < width and x1 > right - near)
        or (low < height and y1 > low - near)
    )


def _has_more(seen: list[Detection], window: Window) -> bool:
    """Whether a window is full, or shows people who are small in it."""
    sizes = [max(one.box[2:] - one.box[:2]) for one in seen]
    return len(seen) >= FULL or any(size < SMALL * window.side for size in sizes)
