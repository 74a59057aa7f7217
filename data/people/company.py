"""Where other people stand: beside, behind or partly before the person, touching nobody."""

from collections.abc import Sequence

import numpy as np

from data.people.rng import pick_one
from data.people.scene import find_footprint
from data.people.warp_types import Struct

TRIES = 10
CLEAR_M = 0.1  # between points of two bodies, which are about 5 cm apart on each
NEAREST_M = 0.9  # of another person's middle to a camera
MOST_HIDDEN = 0.5  # of the person's width, seen from a camera
STRIDE = 3


def place_other(
    rng: np.random.Generator,
    points: np.ndarray,
    target: np.ndarray,
    other: np.ndarray,
    eyes: np.ndarray,
    most_hidden: float,
) -> np.ndarray | None:
    """(2,) metres by which another person is moved along the floor; None where there is no room.

    Args:
        points: (T, n, 3) of all who are there already.  target: (T, m, 3) what must be seen.
        other: (T, k, 3) of the other person.  eyes: (c, 3) of the cameras.
        most_hidden: share of the target's width that may be hidden from a camera.
    """
    middle, own = target.mean((0, 1))[:2], other.mean((0, 1))[:2]
    few, others = points[:, ::STRIDE], other[:, ::STRIDE]
    for _ in range(TRIES):
        eye = eyes[int(rng.integers(len(eyes)))]
        view = middle - eye[:2]
        far = float(np.linalg.norm(view))
        view = view / far
        aside = np.array([-view[1], view[0]]) * pick_one(rng, (-1, 1))
        way = pick_one(rng, ("beside", "behind", "before"), (0.45, 0.35, 0.2))
        if way == "beside":
            offset = aside * rng.uniform(0.3, 0.8) + view * rng.normal(0, 0.25)
        elif way == "behind":
            offset = aside * rng.normal(0, 0.5) + view * rng.uniform(0.4, 2.5)
        else:
            offset = aside * rng.uniform(0.15, 0.6) - view * rng.uniform(0.35, 0.4 * far)
        for _ in range(8):
            moved = middle + offset - own
            if is_clear(few, others + [*moved, 0]):
                break
            offset = offset * (1 + 0.12 / np.linalg.norm(offset))
        else:
            continue
        place = other + [*moved, 0]
        if np.linalg.norm(eyes[:, :2] - (middle + offset), axis=1).min() < NEAREST_M:
            continue
        if max(hidden_share(eye, target, place) for eye in eyes) <= most_hidden:
            return moved
    return None


def is_clear(points: np.ndarray, other: np.ndarray) -> bool:
    """Whether two bodies' points (T, n, 3), (T, m, 3) keep their distance at all instants."""
    for one, two in zip(points, other, strict=True):
        square = ((one**2).sum(1)[:, None] + (two**2).sum(1)) - 2 * one @ two.T
        if square.min() < CLEAR_M**2:
            return False
    return True


def hidden_share(eye: np.ndarray, target: np.ndarray, other: np.ndarray) -> float:
    """The largest share over the instants of a target's width that another's hides from an eye."""
    most = 0.0
    for one, two in zip(target, other, strict=True):
        way = one.mean(0)[:2] - eye[:2]
        ahead = way / np.linalg.norm(way)
        across = np.array([-ahead[1], ahead[0]])
        near, far = (two[:, :2] - eye[:2]) @ ahead, (one[:, :2] - eye[:2]) @ ahead
        if np.median(near) > np.median(far) or near.min() < 0.1:
            continue
        mine = (one[:, :2] - eye[:2]) @ across / far
        theirs = (two[:, :2] - eye[:2]) @ across / near
        shared = min(mine.max(), theirs.max()) - max(mine.min(), theirs.min())
        most = max(most, shared / max(float(np.ptp(mine)), 1e-6))
    return most


def is_free(place: np.ndarray, boxes: Sequence[Struct]) -> bool:
    """Whether none of these boxes stands where a person at ``place`` (2,) would."""
    for box in boxes:
        centre, radius, _ = find_footprint(box)
        if np.linalg.norm(centre - place) < radius + 0.4:
            return False
    return True


def is_inside(place: np.ndarray, scene: Struct) -> bool:
    """Whether a place (2,) is in the room, if there is one."""
    off = np.abs(place - [scene.centre_x, scene.centre_y])
    return bool(scene.outdoors) or bool((off < np.array([scene.half_x, scene.half_y]) - 0.35).all())
