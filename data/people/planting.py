"""Feet that stand still and bodies that would not fall over.

Written postures know nothing of the floor: moved from one to the next, feet slide, and hips are
wherever the root is. Here the feet that carry a person keep their place from instant to instant,
their soles are flat on the floor, and the hips move over them until the centre of mass is above
the area that they span; the legs follow by inverse kinematics in closed form (law of cosines).

Whoever sits, lies or kneels is not carried by the feet and stays as written.
"""

from dataclasses import dataclass

import numpy as np

from data.people.poses import INDEX
from data.people.skeleton import SIDES, Skeleton

CONTACT_M = 0.05  # a foot whose sole is that near to the lowest point carries the person
STEP_M = 0.22  # a foot that would be farther from its place than this has taken a step
FLAT_DEG = 40.0  # a sole that is tilted by more stands on its ball
ROUNDS = 4
MARGIN_M = 0.02  # the centre of mass stays that far inside what the feet span
REACH = 0.995  # of a leg's length: a straight one has no way to bend
# Of a knee and hip, in degrees: bent like this on both sides, somebody sits.
SIT_KNEE, SIT_HIP = (50.0, 112.0), 58.0


@dataclass
class Stance:
    """What carries a person at T instants.

    Attributes:
        upright: (T,) bool, whether the feet do.  contact: (T, 2) bool, which of them.
    """

    upright: np.ndarray
    contact: np.ndarray


def find_sitting(angles: np.ndarray) -> np.ndarray:
    """(T,) bool of (T, 36) angles in degrees: whether both legs are bent as on a seat."""
    sits = np.abs(angles[:, INDEX["tip_forward"]]) < 40
    for side in ("left", "right"):
        knee = angles[:, INDEX[f"knee_{side}"]]
        hip = angles[:, INDEX[f"hip_forward_{side}"]]
        sits &= (knee > SIT_KNEE[0]) & (knee < SIT_KNEE[1]) & (hip > SIT_HIP)
    return sits


def find_stance(
    skeleton: Skeleton, angles: np.ndarray, joints: np.ndarray, soles: np.ndarray
) -> Stance:
    """The Stance of a motion, from angles (T, 36), joints (T, B, 3) and soles (T, 2, 2, 3)."""
    used = joints[:, skeleton.used, 2]
    lowest = np.minimum(used.min(1), soles[..., 2].min((1, 2)))
    contact = soles[..., 2].min(2) - lowest[:, None] < CONTACT_M
    knees = joints[:, [skeleton.index[f"lowerleg01.{side}"] for side in SIDES], 2]
    # On all fours and in a plank hands carry too; a kneeling person's knee is on the floor.
    hands = joints[:, [skeleton.index[f"wrist.{side}"] for side in SIDES], 2]
    bears = (knees.min(1) - lowest > 0.18) & (hands.min(1) - lowest > 0.18)
    hips = joints[:, [skeleton.index[f"upperleg01.{side}"] for side in SIDES], 2].mean(1)
    upright = bears & (hips - lowest > 0.3 * skeleton.leg_m) & ~find_sitting(angles)
    return Stance(upright & contact.any(1), contact)


def walk_path(skeleton: Skeleton, rotations: np.ndarray) -> np.ndarray:
    """(F, 2) metres that the root travels so that the lower foot stands still.

    Args:
        rotations: (F, B, 3, 3) of a gait at small steps of time, as the body model takes them.
    """
    joints, frames = skeleton.find_joints(rotations, np.zeros((len(rotations), 3)))
    soles = skeleton.find_soles(joints, frames).mean(2)
    low = soles[..., 2].argmin(1)
    path = np.zeros((len(rotations), 2))
    for step in range(1, len(rotations)):
        foot = low[step - 1]  # the one that carried until now; the other takes over at the end
        moved = soles[step, foot, :2] - soles[step - 1, foot, :2]
        path[step] = path[step - 1] - moved
    return path


def plant_feet(
    skeleton: Skeleton,
    angles: np.ndarray,
    rotations: np.ndarray,
    root: np.ndarray,
    follow: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """(rotations, root) of the same motion with planted feet and a balanced body.

    Args:
        angles: (T, 36) degrees, as written.  rotations: (T, B, 3, 3) as the body model takes them.
        root: (T, 3) metres.
        follow: whether the root follows the feet; a gait's root has done so already (walk_path).
    """
    rotations, root = rotations.copy(), np.array(root, np.float64)
    joints, frames = skeleton.find_joints(rotations, root)
    stance = find_stance(skeleton, angles, joints, skeleton.find_soles(joints, frames))
    before: list[np.ndarray | None] = [None, None]  # where each foot stood, (4,): x, y, heading
    for t in range(len(rotations)):
        if not stance.upright[t]:
            before = [None, None]
            continue
        now = slice(t, t + 1)
        if follow:
            root[t:, :2] += _follow_feet(
                skeleton, rotations[now], root[now], stance.contact[t], before
            )
        targets = _aim_feet(skeleton, rotations[now], root[now], stance.contact[t], before)
        rotations[t], root[t] = _balance(skeleton, rotations[now], root[now], targets)
        before = [None if target is None else target.place for target in targets]
    return rotations, root


@dataclass
class Target:
    """Where a foot is to be: its ankle (3,), world rotation (3, 3), and place x, y, heading."""

    ankle: np.ndarray
    frame: np.ndarray
    place: np.ndarray
    sole: np.ndarray  # (2, 3) heel and ball that follow from them


def _follow_feet(
    skeleton: Skeleton,
    rotations: np.ndarray,
    root: np.ndarray,
    contact: np.ndarray,
    before: list[np.ndarray | None],
) -> np.ndarray:
    """(2,) metres by which the root moves so that the feet that stood are where they were."""
    joints, _ = skeleton.find_joints(rotations, root)
    gaps = []
    for i, side in enumerate(SIDES):
        place = before[i]
        if place is not None and contact[i]:
            gaps.append(place[:2] - joints[0, skeleton.index[f"foot.{side}"], :2])
    if not gaps:
        return np.zeros(2)
    if len(gaps) == 2 and np.linalg.norm(gaps[0] - gaps[1]) > 2 * STEP_M:
        # The feet are set anew: one of them stays, the one that is nearer to its place.
        return min(gaps, key=lambda gap: float(np.linalg.norm(gap)))
    return np.mean(gaps, 0)


def _aim_feet(
    skeleton: Skeleton,
    rotations: np.ndarray,
    root: np.ndarray,
    contact: np.ndarray,
    before: list[np.ndarray | None],
) -> list[Target | None]:
    """Where the feet that carry are to be; None for one that is in the air.

    The floor is as high as the lowest sole, so that heights are kept as far as they can be.
    """
    joints, frames = skeleton.find_joints(rotations, root)
    soles = skeleton.find_soles(joints, frames)[0]
    floor = soles[contact][..., 2].min()
    out: list[Target | None] = []
    for i, side in enumerate(SIDES):
        if not contact[i]:
            out.append(None)
            continue
        foot = skeleton.index[f"foot.{side}"]
        frame = frames[0, foot]
        ankle = joints[0, foot]
        heading = _heading(frame)
        place = np.array([ankle[0], ankle[1], heading])
        kept = before[i]
        if kept is not None and np.linalg.norm(kept[:2] - place[:2]) <= STEP_M:
            place = kept
        out.append(_stand(skeleton, i, frame, place, floor))
    return out


def _heading(frame: np.ndarray) -> float:
    """Radians by which a foot is turned about the vertical; at rest it points along -y."""
    forward = frame @ np.array([0.0, -1.0, 0.0])
    return float(np.arctan2(forward[0], -forward[1]))


def _stand(
    skeleton: Skeleton, side: int, frame: np.ndarray, place: np.ndarray, floor: float
) -> Target:
    """A foot at its place (x, y, heading), flat, or on its ball where it was tilted by much."""
    cos, sin = np.cos(place[2]), np.sin(place[2])
    flat = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]])
    # The heading turns -y towards +x: a rotation about z by that angle.
    tilt_deg = np.rad2deg(np.arccos(np.clip(frame[2, 2], -1, 1)))
    turned = flat if tilt_deg <= FLAT_DEG else frame
    foot = skeleton.index[f"foot.{SIDES[side]}"]
    offsets = (skeleton.soles[side] - skeleton.heads[foot]) @ turned.T
    height = floor - offsets[:, 2].min()
    ankle = np.array([place[0], place[1], height])
    return Target(ankle, turned, place, ankle + offsets)


def _balance(
    skeleton: Skeleton, rotations: np.ndarray, root: np.ndarray, targets: list[Target | None]
) -> tuple[np.ndarray, np.ndarray]:
    """(rotations (B, 3, 3), root (3,)) of one instant: hips over the feet, legs on their targets.

    Moving the hips moves most of the mass, but not all of it, so a few rounds are needed.
    """
    rotations, root = rotations.copy(), root.copy()
    standing = [target for target in targets if target is not None]
    support = np.concatenate([target.sole[:, :2] for target in standing])
    for round_number in range(ROUNDS):
        joints, _ = skeleton.find_joints(rotations, root)
        if round_number:
            mass = skeleton.find_mass_centre(joints)[0, :2]
            root[0, :2] += nearest_in_hull(mass, support, MARGIN_M) - mass
        root[0, 2] -= _overreach(skeleton, rotations, root, targets)
        for i, target in enumerate(targets):
            if target is not None:
                _bend_leg(skeleton, rotations, root, i, target)
    return rotations[0], root[0]


def nearest_in_hull(point: np.ndarray, corners: np.ndarray, margin: float) -> np.ndarray:
    """(2,) the point, or the nearest one of the corners' hull, pulled ``margin`` metres inwards.

    Args:
        point: (2,).  corners: (n, 2), few.
    """
    centre = corners.mean(0)
    best, least = centre, np.inf
    inside = True
    angles = np.arctan2(*(corners - centre).T[::-1])
    ring = corners[np.argsort(angles)]
    for a, b in zip(ring, np.roll(ring, -1, 0), strict=True):
        edge = b - a
        if edge[0] * (point - a)[1] - edge[1] * (point - a)[0] < 0:
            inside = False
        share = np.clip((point - a) @ edge / max(float(edge @ edge), 1e-12), 0, 1)
        at = a + share * edge
        distance = float(np.linalg.norm(point - at))
        if distance < least:
            best, least = at, distance
    if inside and len(corners) > 2:
        return point
    inwards = centre - best
    length = float(np.linalg.norm(inwards))
    return best + inwards * min(1.0, margin / max(length, 1e-9))


def _overreach(
    skeleton: Skeleton, rotations: np.ndarray, root: np.ndarray, targets: list[Target | None]
) -> float:
    """Metres by which the hips must come down for both legs to reach their targets."""
    joints, _ = skeleton.find_joints(rotations, root)
    down = 0.0
    length = REACH * skeleton.leg_m
    for side, target in zip(SIDES, targets, strict=True):
        if target is None:
            continue
        way = target.ankle - joints[0, skeleton.index[f"upperleg01.{side}"]]
        across = float(np.hypot(way[0], way[1]))
        deepest = np.sqrt(max(length * length - across * across, (0.5 * length) ** 2))
        down = max(down, -float(way[2]) - deepest)
    return down


def _bend_leg(
    skeleton: Skeleton, rotations: np.ndarray, root: np.ndarray, side: int, target: Target
) -> None:
    """Turn hip, knee and ankle of one leg until the foot is on its target; in place.

    The knee bends about the rotations' own x axis, as rig.py bends it, until hip and ankle are as
    far apart as they have to be; the smallest turn of the hip then aims the leg.
    """
    hip, knee, foot = (
        skeleton.index[f"{bone}.{SIDES[side]}"] for bone in ("upperleg01", "lowerleg01", "foot")
    )
    joints, frames = skeleton.find_joints(rotations, root)
    thigh = skeleton.heads[knee] - skeleton.heads[hip]
    shin = skeleton.heads[foot] - skeleton.heads[knee]
    way = target.ankle - joints[0, hip]
    angle = _knee_angle(thigh, shin, float(np.linalg.norm(way)))
    bent = _about_x(angle)
    now = frames[0, hip]
    reach = now @ (thigh + bent @ shin)
    aimed = _between(reach, way) @ now
    parent = frames[0, skeleton.parents[hip]]
    rotations[0, hip] = parent.T @ aimed
    rotations[0, knee] = bent
    rotations[0, foot] = (aimed @ bent).T @ target.frame


def _knee_angle(thigh: np.ndarray, shin: np.ndarray, distance: float) -> float:
    """Radians about x by which the shin turns so that hip and ankle are ``distance`` apart."""
    even = thigh[1] * shin[1] + thigh[2] * shin[2]
    odd = thigh[2] * shin[1] - thigh[1] * shin[2]
    fixed = thigh @ thigh + shin @ shin + 2 * thigh[0] * shin[0]
    wanted = (distance * distance - fixed) / 2
    size = float(np.hypot(even, odd))
    return float(np.arctan2(odd, even) + np.arccos(np.clip(wanted / size, -1, 1)))


def _about_x(angle: float) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[1.0, 0, 0], [0, cos, -sin], [0, sin, cos]])


def _between(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The smallest rotation that takes the direction of one vector to that of another."""
    a, b = start / np.linalg.norm(start), end / np.linalg.norm(end)
    cross = np.cross(a, b)
    cos = float(a @ b)
    if cos < -0.9999:
        return np.diag([1.0, -1.0, -1.0])  # a leg that is turned over: any half turn will do
    skew = np.array([[0, -cross[2], cross[1]], [cross[2], 0, -cross[0]], [-cross[1], cross[0], 0]])
    return np.eye(3) + skew + skew @ skew / (1 + cos)
