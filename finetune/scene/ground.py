"""The floor that people of an image stand on, from their feet and from what cameras do.

The most likely plane, given the lowest point of everybody who stands and shows a foot, the way from
their feet to their necks, which is nearly upright, and that cameras are held nearly level. Feet
alone would tell it where there are three people who do not stand in a row; the other two tell it
where there are fewer. What disagrees with the rest counts little (Cauchy's loss).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from finetune.person import Person

ROLL_DEG, PITCH_DEG = 4.0, 20.0  # standard deviations of how cameras are held
LEAN_DEG = 6.0  # of the way from feet to neck, of somebody who stands
TRUNK_DEG = 30.0  # of that from pelvis to neck, of anybody
FEET_M = 0.04  # of lowest points about the floor
STRAIGHT = 0.93  # hip to ankle over thigh and shank, from which on a leg is straight
BENT_DEG = 40.0  # most between a straight leg and the trunk
FOOT_M = 0.35  # how near to an ankle or toes the lowest point is a foot's
STARTS = 8  # people at most from whose way up the minimiser begins
STEPS = 30  # of the minimiser; it needs five to ten
SIDES = ("left", "right")


@dataclass(frozen=True, eq=False)
class Ground:
    """A floor, in the camera's frame (x right, y down, z forward; metres).

    Attributes:
        up: (3,) of length 1, away from it.
        height_m: of the camera above it: ``points @ up + height_m`` are heights above the floor.
        standing: places in the list of the people on whose feet it rests; where there is nobody, it
            is a guess: it lies under the lowest point of all.
        tried: how many people stand and show a foot, on this floor or not.
    """

    up: np.ndarray
    height_m: float
    standing: list[int] = field(default_factory=list)
    tried: int = 0

    @property
    def is_seen(self) -> bool:
        """Whether anybody stands on it whose feet are in the image."""
        return bool(self.standing)

    @property
    def turn(self) -> np.ndarray:
        """(3, 3) from the camera's axes to those of a level camera: its y is down."""
        down = -self.up
        # Of a camera that looks straight down, the image's top is what lies ahead.
        ahead = np.array([0.0, 0, 1]) if abs(down[2]) < 0.95 else np.array([0.0, -1, 0])
        ahead = ahead - down * (ahead @ down)
        ahead = ahead / np.linalg.norm(ahead)
        return np.stack([np.cross(down, ahead), down, ahead])

    def describe(self) -> str:
        """Return words on what it is known by."""
        if not self.is_seen:
            return "a guess: nobody who stands shows a foot, it lies under the lowest point found"
        count = len(self.standing)
        who = "1 person who stands" if count == 1 else f"{count} people who stand"
        return f"by the feet of {who}"


@dataclass(frozen=True, eq=False)
class _Body:
    """What of a person tells the floor.

    Attributes:
        vertices: (V, 3).  feet: (n, 3) ankles and toes that are in the image.
        axis: (3,) of length 1, nearly upright.  lean: standard deviation of that, radians.
        stands: whether it stands, with a foot in the image.
    """

    vertices: np.ndarray
    feet: np.ndarray
    axis: np.ndarray
    lean: float
    stands: bool


def find_ground(people: Sequence[Person], names: Sequence[str], size: tuple[int, int]) -> Ground:
    """Return the floor under people of an image.

    Args:
        people: in one camera, at least one; bodies.
        names: of their keypoints, those of data.bodies.base.BODY_KEYPOINTS among them.
        size: width and height of the image in pixels.
    """
    bodies = [_see_body(person, names, size) for person in people]
    standing = [number for number, body in enumerate(bodies) if body.stands]
    told = [bodies[number] for number in standing] or bodies
    few = told[:: -(-len(told) // STARTS)]
    starts = [np.array([0.0, -1.0, 0.0]), *(body.axis for body in few)]
    tried = [_minimise(told, start, bool(standing)) for start in starts]
    _, up, height, on_floor = min(tried, key=lambda one: one[0])
    kept = [number for number, is_on in zip(standing, on_floor, strict=False) if is_on]
    if not kept:
        height = -min(float((body.vertices @ up).min()) for body in bodies)
    return Ground(up, height, kept, len(standing))


def list_corners(ground: Ground, points: np.ndarray, around_m: float) -> np.ndarray:
    """Return (4, 3) corners of the floor under points (n, 3), in the camera's frame, and beyond.

    In the camera's level axes: left and near, left and far, right and near, right and far.
    """
    level = points @ ground.turn.T
    low, high = level.min(0) - around_m, level.max(0) + around_m
    corners = [[x, ground.height_m, z] for x in (low[0], high[0]) for z in (low[2], high[2])]
    return np.array(corners) @ ground.turn


def _see_body(person: Person, names: Sequence[str], size: tuple[int, int]) -> _Body:
    places = {name: number for number, name in enumerate(names)}
    points = person.keypoints.astype(np.float64)
    pelvis, neck = points[places["pelvis"]], points[places["neck"]]
    legs = [
        [points[places[f"{side}_{part}"]] for part in ("hip", "knee", "ankle")] for side in SIDES
    ]
    feet = [f"{side}_{part}" for side in SIDES for part in ("ankle", "toes")]
    seen = [points[places[name]] for name in feet if _is_inside(person, places[name], size)]
    straight = [_is_straight(leg, neck - pelvis) for leg in legs]
    stands = any(straight) and bool(seen)
    ankles = [leg[2] for leg, is_so in zip(legs, straight, strict=True) if is_so]
    axis = neck - (np.mean(ankles, 0) if any(straight) else pelvis)
    return _Body(
        vertices=person.vertices.astype(np.float64),
        feet=np.array(seen).reshape(-1, 3),
        axis=axis / max(float(np.linalg.norm(axis)), 1e-9),
        lean=float(np.deg2rad(LEAN_DEG if any(straight) else TRUNK_DEG)),
        stands=stands,
    )


def _is_straight(leg: Sequence[np.ndarray], trunk: np.ndarray) -> bool:
    """Whether hip, knee and ankle lie on a line that the trunk goes on."""
    hip, knee, ankle = leg
    long = np.linalg.norm(hip - knee) + np.linalg.norm(knee - ankle)
    way = float(np.linalg.norm(hip - ankle))
    cosine = (hip - ankle) @ trunk / max(way * float(np.linalg.norm(trunk)), 1e-9)
    return bool(way >= STRAIGHT * long and cosine >= np.cos(np.deg2rad(BENT_DEG)))


def _is_inside(person: Person, number: int, size: tuple[int, int]) -> bool:
    x, y = person.keypoints_2d[number]
    return bool(person.keypoints[number, 2] > 0 and 0 <= x < size[0] and 0 <= y < size[1])


def _minimise(
    bodies: Sequence[_Body], start: np.ndarray, has_feet: bool
) -> tuple[float, np.ndarray, float, list[bool]]:
    """The loss, up, the camera's height and who stands on that floor, begun at an up.

    Gauss-Newton over pitch, roll and height, with the weights of Cauchy's loss.
    """
    state = np.array([np.arcsin(np.clip(-start[2], -1, 1)), np.arctan2(start[0], -start[1]), 0.0])
    lowest, _ = _find_lowest(bodies, _to_up(state))
    state[2] = -float(np.median(lowest @ _to_up(state)))
    for _ in range(STEPS):
        lowest, on_feet = _find_lowest(bodies, _to_up(state))
        counted = on_feet & has_feet
        residuals = _measure(bodies, lowest, counted, state)
        weights = 1 / (1 + residuals**2)
        weights[:2] = 1  # what cameras do is no outlier
        slopes = np.empty((len(residuals), 3))
        for axis in range(3):
            moved = state.copy()
            moved[axis] += 1e-5
            slopes[:, axis] = (_measure(bodies, lowest, counted, moved) - residuals) / 1e-5
        normal = slopes.T @ (weights[:, None] * slopes) + 1e-9 * np.eye(3)
        step = np.linalg.solve(normal, -slopes.T @ (weights * residuals))
        state[:2] += np.clip(step[:2], -0.3, 0.3)
        state[2] += step[2]
        if np.abs(step).max() < 1e-6:
            break
    up = _to_up(state)
    lowest, on_feet = _find_lowest(bodies, up)
    residuals = _measure(bodies, lowest, on_feet & has_feet, state)
    loss = (residuals[:2] ** 2).sum() + np.log1p(residuals[2:] ** 2).sum()
    # Who does not show a foot as the lowest point tells nothing, which is no merit of a floor.
    loss += (len(bodies) - on_feet.sum()) * np.log1p(9.0)
    near = on_feet & (np.abs(lowest @ up + state[2]) <= 4 * FEET_M)
    return float(loss), up, float(state[2]), near.tolist()


def _find_lowest(bodies: Sequence[_Body], up: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, 3) lowest points, and (n,) bool whether each is that of a foot in the image."""
    lowest = np.stack([body.vertices[(body.vertices @ up).argmin()] for body in bodies])
    on_feet = [
        len(body.feet) > 0 and np.linalg.norm(body.feet - point, axis=1).min() <= FOOT_M
        for body, point in zip(bodies, lowest, strict=True)
    ]
    return lowest, np.array(on_feet)


def _measure(
    bodies: Sequence[_Body], lowest: np.ndarray, counted: np.ndarray, state: np.ndarray
) -> np.ndarray:
    """(2 + 2 n,) residuals, in standard deviations: pitch and roll, lowest points, axes."""
    up = _to_up(state)
    held = state[:2] / np.deg2rad([PITCH_DEG, ROLL_DEG])
    heights = np.where(counted, lowest @ up + state[2], 0) / FEET_M
    axes = np.stack([body.axis for body in bodies])
    leans = np.arccos(np.clip(axes @ up, -1, 1)) / [body.lean for body in bodies]
    return np.concatenate([held, heights, leans])


def _to_up(state: np.ndarray) -> np.ndarray:
    """(3,) of a camera that looks down by a pitch and is rolled."""
    pitch, roll = state[:2]
    return np.array([np.cos(pitch) * np.sin(roll), -np.cos(pitch) * np.cos(roll), -np.sin(pitch)])
