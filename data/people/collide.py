"""Bodies as capsules.

Hands are kept out of them, and cameras are placed where they see past them.
"""

from collections.abc import Callable, Mapping

import numpy as np

from data.people.poses import HIGH, INDEX, LOW
from data.people.rig import SIDES, Y, make_rotation

# (from joint, to joint, radius in metres on a person of middle build)
CAPSULES = (
    ("root", "spine02", 0.125),
    ("spine02", "neck01", 0.12),
    ("neck02", "head", 0.055),
    ("upperleg01.L", "lowerleg01.L", 0.075),
    ("upperleg01.R", "lowerleg01.R", 0.075),
    ("lowerleg01.L", "foot.L", 0.05),
    ("lowerleg01.R", "foot.R", 0.05),
    ("upperarm01.L", "lowerarm01.L", 0.045),
    ("upperarm01.R", "lowerarm01.R", 0.045),
)
OWN_ARM = {"L": 7, "R": 8}
HEAD_RADIUS_M = 0.085
TRUNK_M = 0.56  # pelvis to neck of the person for whom the radii hold
CLEARANCE_M = 0.022  # half a hand's thickness
ROUNDS = 8


class Capsules:
    """The body at T instants as M capsules.

    Attributes:
        start, end: (M, T, 3) metres.  radius: (M,) metres.
    """

    def __init__(self, joints: np.ndarray, index: Mapping[str, int], weight: float) -> None:
        """joints: (T, B, 3) metres.

        index: {bone: number}; weight: the shape parameter in [0, 1].
        """
        trunk = np.sqrt(
            ((joints[:, index["neck01"]] - joints[:, index["root"]]) ** 2).sum(-1).mean()
        )
        head, crown = (
            joints[:, index["head"]],
            2 * (joints[:, index["head"]] - joints[:, index["neck03"]]),
        )
        self.start = np.stack([joints[:, index[a]] for a, _, _ in CAPSULES] + [head])
        self.end = np.stack([joints[:, index[b]] for _, b, _ in CAPSULES] + [head + crown])
        self.radius = (
            np.array([r for _, _, r in CAPSULES] + [HEAD_RADIUS_M])
            * (0.82 + 0.42 * weight)
            * trunk
            / TRUNK_M
        )

    def gap(self, points: np.ndarray, instant: int, but: int) -> np.ndarray:
        """Return (n, M - 1) metres between points (n, 3) and the capsules' surfaces.

        At one instant, one capsule left out.
        """
        use = [k for k in range(len(self.radius)) if k != but]
        a, b = self.start[use, instant], self.end[use, instant]
        way = b - a
        u = np.clip(((points[:, None] - a) * way).sum(-1) / ((way * way).sum(-1) + 1e-9), 0, 1)
        return np.linalg.norm(points[:, None] - a - u[..., None] * way, axis=-1) - self.radius[use]


def hand_points(joints: np.ndarray, index: Mapping[str, int], side: str) -> np.ndarray:
    """(T, 10, 3): wrist, forearm, finger joints and three fingertips of one hand."""
    names = ("wrist", "finger1-2", "finger2-2", "finger3-2", "finger4-2", "finger5-2", "lowerarm02")
    tips = find_fingertips(joints, index, side)[:, [0, 2, 4]]
    return np.concatenate([joints[:, [index[f"{name}.{side}"] for name in names]], tips], 1)


def find_fingertips(joints: np.ndarray, index: Mapping[str, int], side: str) -> np.ndarray:
    """(T, 5, 3) metres, thumb to little finger: the last phalanx as long as the one before it."""
    last = joints[:, [index[f"finger{f}-3.{side}"] for f in "12345"]]
    before = joints[:, [index[f"finger{f}-2.{side}"] for f in "12345"]]
    return 2 * last - before


def measure_penetration(joints: np.ndarray, index: Mapping[str, int], weight: float) -> np.ndarray:
    """(T, 2) metres by which each hand, left and right, is inside the body.

    Negative is clear of it.
    """
    body = Capsules(joints, index, weight)
    return np.stack(
        [
            [
                CLEARANCE_M - body.gap(points, t, OWN_ARM[side]).min()
                for t, points in enumerate(hand_points(joints, index, side))
            ]
            for side, _, _ in SIDES
        ],
        1,
    )


def clear_hands(
    angles: np.ndarray,
    joints_of: Callable[[np.ndarray], np.ndarray],
    index: Mapping[str, int],
    weight: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Open the shoulder, and the elbow a little, until no hand is inside the body.

    The arm moves out by more the deeper the hand is, within the joints' limits. Neighbouring
    instants are moved alike, so that the motion stays continuous.

    Args:
        angles: (T, 36) degrees.  joints_of: function of angles to joints (T, B, 3).  index: {bone:
            number}.
        weight: the shape parameter in [0, 1].
    Returns:
        (T, 36) angles, and (T, 2) the penetration that is left in metres.
    """
    angles = angles.copy()
    deep = measure_penetration(joints_of(angles), index, weight)
    for _ in range(ROUNDS):
        if (deep <= 0).all():
            break
        push = np.where(deep > 0, np.minimum(14.0, 4 + deep * 160), 0)
        for i, (_, name, _) in enumerate(SIDES):
            if push[:, i].any():
                step = np.maximum(push[:, i], 0.5 * push[:, i].max())
                angles[:, INDEX[f"arm_out_{name}"]] += step
                angles[:, INDEX[f"arm_turn_{name}"]] -= 0.5 * step
                angles[:, INDEX[f"elbow_{name}"]] -= 0.35 * step
        angles = np.clip(angles, LOW, HIGH)
        deep = measure_penetration(joints_of(angles), index, weight)
    return angles, deep


def open_arms(
    rotations: np.ndarray,
    joints_of: Callable[[np.ndarray], np.ndarray],
    index: Mapping[str, int],
    weight: float,
) -> np.ndarray:
    """Lift arms sideways, and neighbouring instants alike, until no hand is inside the body.

    For motions that are rotations; see clear_hands for those that are angles.

    Args:
        rotations: (T, B, 3, 3).  joints_of: function of rotations to joints (T, B, 3).
        index: {bone: number}.  weight: the shape parameter in [0, 1].
    Returns:
        (T, B, 3, 3).
    """
    rotations = rotations.copy()
    deep = measure_penetration(joints_of(rotations), index, weight)
    for _ in range(ROUNDS):
        if (deep <= 0).all():
            break
        push = np.where(deep > 0, np.minimum(14.0, 4 + deep * 160), 0)
        for i, (side, _, sign) in enumerate(SIDES):
            if not push[:, i].any():
                continue
            step = np.maximum(push[:, i], 0.5 * push[:, i].max())
            clavicle, scapula, arm = (
                index[f"{bone}.{side}"] for bone in ("clavicle", "shoulder01", "upperarm01")
            )
            girdle = rotations[:, clavicle] @ rotations[:, scapula]
            out = np.swapaxes(girdle, -1, -2) @ make_rotation(Y, -sign * step) @ girdle
            rotations[:, arm] = out @ rotations[:, arm]
        deep = measure_penetration(joints_of(rotations), index, weight)
    return rotations


def seen_share(eyes: np.ndarray, points: np.ndarray, body: Capsules, side: str) -> np.ndarray:
    """(M,) least share, over the instants, of hand points whose line to an eye clears the body.

    Args:
        eyes: (M, 3).  points: (T, P, 3).  body: Capsules.  side: whose own upper arm does not
            count, "L" or "R".
    """
    along = np.array([0.2, 0.35, 0.5, 0.65, 0.8, 0.92])[:, None]
    out = np.ones(len(eyes))
    for t in range(len(points)):
        steps = eyes[:, None, None] + along * (points[t][None, :, None] - eyes[:, None, None])
        gap = (
            body.gap(steps.reshape(-1, 3), t, OWN_ARM[side])
            .min(1)
            .reshape(len(eyes), -1, len(along))
        )
        out = np.minimum(out, 1 - (gap.min(2) < 0).mean(1))
    return out
