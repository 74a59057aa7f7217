"""A plan on a skeleton: feet on the floor, legs by inverse kinematics, the mass over the feet.

All instants are found at once and in closed form, so that a long stretch costs little and no
instant depends on which others are asked for.
"""

from dataclasses import dataclass

import numpy as np

from data.people.actions.curves import Hermite, smooth
from data.people.actions.plan import Plan, Step, ahead_of, left_of
from data.people.poses import HAND_SIZE, HIGH, INDEX, LOW, REST
from data.people.recorded.turns import mix_turns, turn_about, turn_between
from data.people.rig import SIDES, Rig
from data.people.skeleton import SEGMENTS, Skeleton

ROUNDS = 3  # legs move with the hips, and have mass
STRAIGHT_DEG = 2.0  # of a knee that is as straight as can be
STAND_DEG = 10.0  # of a knee of somebody who stands
SOFT = 0.0015  # of a leg: the last of it is given softly
SWING_SOFT = 0.02  # and of one that swings
MOST_DORSAL_DEG = 23.0  # of an ankle before the heel leaves the floor
SOFT_DEG = 1.5
BEARING_S = 0.08  # within which a foot takes weight after it lands, and is free after it lifts
AHEAD_OF_ANKLE = 0.05  # of a leg, where the mass of somebody who stands is above the feet
TICK_S = 0.004
TOES_DEG = (-30.0, 50.0)
_X = np.array([1.0, 0, 0])
_Z = np.array([0.0, 0, 1])


@dataclass
class Acted:
    """A plan at T instants on a skeleton.

    Attributes:
        rotations: (T, B, 3, 3) as the body model takes them.  root: (T, 3) metres, the floor at 0.
        angles: (T, 36) degrees, legs as they came out.  hands: (T, 2, 17) degrees.
        heading_deg: (T,).  contact: (T, 2) bool, whether a foot carries.
        lift_m: (T,) how far the soles are above the floor where neither does.
        seated: (T,) bool.
    """

    rotations: np.ndarray
    root: np.ndarray
    angles: np.ndarray
    hands: np.ndarray
    heading_deg: np.ndarray
    contact: np.ndarray
    lift_m: np.ndarray
    seated: np.ndarray


class Leg:
    """The lengths of one leg of a skeleton, metres.

    Attributes:
        hip: (3,) from the root.  thigh, shin: (3,) at rest.  heel, ball: (3,) from the ankle.
    """

    def __init__(self, skeleton: Skeleton, side: int) -> None:
        letter = SIDES[side][0]
        at = {
            bone: skeleton.heads[skeleton.index[f"{bone}.{letter}"]]
            for bone in ("upperleg01", "lowerleg01", "foot", "toe2-1")
        }
        self.hip = at["upperleg01"] - skeleton.heads[0]
        self.thigh = at["lowerleg01"] - at["upperleg01"]
        self.shin = at["foot"] - at["lowerleg01"]
        soles = skeleton.soles[side] - at["foot"]
        self.low = float(soles[:, 2].min())
        self.heel = np.array([0.0, soles[0, 1], self.low])
        self.ball = np.array([0.0, (at["toe2-1"] - at["foot"])[1], self.low])
        self.longest = float(self._span(np.deg2rad(STRAIGHT_DEG)))
        self.stands = float(self._span(np.deg2rad(STAND_DEG)))

    def _span(self, angle: float) -> np.floating:
        return np.linalg.norm(self.thigh + turn_about(_X, angle) @ self.shin)

    def bend(self, distance: np.ndarray) -> np.ndarray:
        """(T,) radians of the knee for hip and ankle to be so far apart."""
        thigh, shin = self.thigh, self.shin
        even = thigh[1] * shin[1] + thigh[2] * shin[2]
        odd = thigh[2] * shin[1] - thigh[1] * shin[2]
        fixed = thigh @ thigh + shin @ shin + 2 * thigh[0] * shin[0]
        share = (distance * distance - fixed) / 2 / np.hypot(even, odd)
        return np.arctan2(odd, even) + np.arccos(np.clip(share, -1, 1))


@dataclass
class Footing:
    """One foot at T instants.

    Attributes:
        ankle: (T, 3) metres.  frame: (T, 3, 3) in the world.  yaw: (T,) radians.
        places: (T, 3) x, y, heading, where it stands or is going to.  pitch_deg: (T,).
        carries: (T,) bool, on the floor.  bears: (T,) how far it does, changing softly.
        reached: (T,) how far the hips come down for it: for one in the air with the body they do
            not.  swings: (T,) how far it is in the air, rising and falling softly.
    """

    ankle: np.ndarray
    frame: np.ndarray
    yaw: np.ndarray
    places: np.ndarray
    pitch_deg: np.ndarray
    carries: np.ndarray
    bears: np.ndarray
    reached: np.ndarray
    swings: np.ndarray


def embody(
    plan: Plan,
    since_s: np.ndarray,
    rig: Rig,
    skeleton: Skeleton,
    angles: np.ndarray | None = None,
    hands: np.ndarray | None = None,
) -> Acted:
    """The plan on a skeleton.

    Args:
        plan: of somebody with legs as long as the skeleton's.
        since_s: (T,) seconds since the plan's begin_s.
        angles: (T, 36) degrees in place of the plan's: arms, trunk and neck are taken.
        hands: (T, 2, 17) degrees in place of the plan's.
    """
    times_s = np.asarray(since_s, np.float64) + plan.begin_s
    root_at = plan.root.read(times_s)
    get = {name: root_at[:, i] for name, i in plan.root.index.items()}
    own, sway = read_angles(plan, times_s)
    angles = own if angles is None else angles
    if hands is None:
        hands = plan.hands.read(times_s).reshape(len(times_s), 2, -1)
    heading = np.deg2rad(get["heading"])
    path = plan.find_path(times_s)
    path = (
        path + get["ahead"][:, None] * ahead_of(heading) + get["side"][:, None] * left_of(heading)
    )
    turned = np.concatenate([(get["heading"] + get["twist"])[:, None], path], 1)
    rotations, _ = rig.pose(angles, hands, turned)
    legs = [Leg(skeleton, side) for side in range(2)]
    feet = [_place_foot(plan, times_s, legs[side], side, get) for side in range(2)]
    body = _Body(rotations, skeleton, legs, feet, get, sway, _stand_mass(rig, skeleton))
    height = plan.heights.read(times_s) + get["height"]
    root = body.settle(path, height)
    return _finish(plan, times_s, rotations, root, angles, hands, get, body)


def read_angles(plan: Plan, times_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(T, 36) degrees within the limits, legs as they are while free, and (T, 2) metres of sway."""
    drift, sway = plan.drift.read(times_s)
    return np.clip(plan.angles.read(times_s) + drift, LOW, HIGH), sway


def _place_foot(
    plan: Plan, times_s: np.ndarray, leg: Leg, side: int, get: dict[str, np.ndarray]
) -> Footing:
    name = SIDES[side][1]
    places, taken = plan.feet.read(side, times_s)
    pitch = get[f"pitch_{name}"]
    ankle, free = _stand(leg, places, pitch), get[f"free_{name}"]
    for number in np.unique(taken[taken >= 0]):
        rows = taken == number
        step = plan.feet.steps[side][number]
        before = plan.feet.steps[side][number - 1].place if number else plan.feet.first[side]
        if step.hops:
            ankle[rows, 2] += _rise(plan, step, times_s[rows])
        else:
            ankle[rows] = _swing(
                plan, leg, name, step, before, times_s[rows], places[rows], pitch[rows]
            )
    bears = plan.feet.find_bearing(side, times_s, BEARING_S) * (1 - free)
    reached = plan.feet.find_reach(side, times_s, BEARING_S)
    swings = plan.feet.find_swing(side, times_s, BEARING_S)
    yaw = np.deg2rad(places[:, 2])
    frame, carries = _frame(yaw, pitch), (taken < 0) & (free < 1e-3)
    return Footing(ankle, frame, yaw, places, pitch, carries, bears, reached * (1 - free), swings)


def _frame(yaw: np.ndarray, pitch_deg: np.ndarray) -> np.ndarray:
    """(T, 3, 3) a foot's rotation in the world."""
    return turn_about(_Z, yaw) @ turn_about(_X, -np.deg2rad(pitch_deg))


def _stand(leg: Leg, places: np.ndarray, pitch_deg: np.ndarray) -> np.ndarray:
    """(T, 3) the ankle of a foot on its heel (pitch above 0), flat, or on its ball."""
    pivot = np.where(pitch_deg[:, None] > 0, leg.heel, leg.ball)
    turned = turn_about(_X, -np.deg2rad(pitch_deg)) @ pivot[..., None]
    off = turn_about(_Z, np.deg2rad(places[:, 2])) @ (pivot[..., None] - turned)
    ground = np.concatenate([places[:, :2], np.full((len(places), 1), -leg.low)], 1)
    return ground + off[..., 0]


def _swing(
    plan: Plan,
    leg: Leg,
    name: str,
    step: Step,
    before: np.ndarray,
    times_s: np.ndarray,
    places: np.ndarray,
    pitch_deg: np.ndarray,
) -> np.ndarray:
    """(T, 3) the ankle on its way: from how it leaves the floor to how it meets it again."""
    ticks = np.arange(3) * TICK_S
    ends = []
    for place, at, way in (
        (before, step.lift_s - ticks[::-1], 1),
        (step.place, step.land_s + ticks, -1),
    ):
        pitch = plan.root.column(f"pitch_{name}", at)
        ends.append(_differentiate(_stand(leg, np.tile(place, (3, 1)), pitch), way))
    span = step.land_s - step.lift_s
    curve = Hermite(ends[0], ends[1], span)
    u = np.linspace(0.1, 0.9, 9)
    bump = _bump(u)
    along = before + (step.place - before) * u[:, None]
    pitches = plan.root.column(f"pitch_{name}", step.lift_s + u * span)
    lowest = _lowest(leg, curve.read(u * span), along[:, 2], pitches)
    rise = float(np.max(step.clear_m - lowest / bump, initial=0.0))
    out = curve.read(times_s - step.lift_s)
    out[:, 2] += rise * _bump((times_s - step.lift_s) / span)
    return out


def _differentiate(points: np.ndarray, way: int) -> np.ndarray:
    """(3, 3) the point at the end of three at even ticks, its velocity and its acceleration.

    Args:
        way: 1: the end is the last; -1: the first.
    """
    a, b, c = points[::way]
    return np.stack([c, way * (3 * c - 4 * b + a) / (2 * TICK_S), (c - 2 * b + a) / TICK_S**2])


def _bump(u: np.ndarray) -> np.ndarray:
    """0 at both ends with no speed or acceleration there, 1 halfway."""
    return 64 * (u * (1 - u)) ** 3


def _lowest(leg: Leg, ankle: np.ndarray, yaw_deg: np.ndarray, pitch_deg: np.ndarray) -> np.ndarray:
    """(T,) metres above the floor of the lower of heel and ball."""
    turned = turn_about(_X, -np.deg2rad(pitch_deg))
    points = np.stack([turned @ leg.heel, turned @ leg.ball])
    return ankle[:, 2] + points[..., 2].min(0)


def _rise(plan: Plan, step: Step, times_s: np.ndarray) -> np.ndarray:
    """(T,) metres by which a foot goes up with a body in the air.

    It follows within the first third of the flight: until then the leg straightens.
    """
    span = step.land_s - step.lift_s
    begin, end = plan.heights.read(np.array([step.lift_s, step.land_s - 1e-6]))
    u = (times_s - step.lift_s) / span
    body = plan.heights.read(times_s) - begin * (1 - u) - end * u
    ramp = np.clip(u / 0.35, 0, 1) * np.clip((1 - u) / 0.35, 0, 1)
    return np.maximum(body, 0) * ramp * (2 - ramp) + step.clear_m * _bump(u)


def _soften(over: np.ndarray, soft: float | np.ndarray) -> np.ndarray:
    """``over`` where it is above 0 by much, 0 where it is below, and a smooth way between."""
    return np.logaddexp(0, over / soft) * soft


def _stand_mass(rig: Rig, skeleton: Skeleton) -> float:
    """Metres from the root up to the mass of somebody who stands with hanging arms."""
    still = np.zeros((1, 2, HAND_SIZE))
    rotations, _ = rig.pose(REST[None], still, np.zeros((1, 3)))
    joints, _ = skeleton.find_joints(rotations, np.zeros((1, 3)))
    return float(skeleton.find_mass_centre(joints)[0, 2])


class _Body:
    """Finds where the hips go, and bends the legs of rotations (T, B, 3, 3) in place."""

    def __init__(
        self,
        rotations: np.ndarray,
        skeleton: Skeleton,
        legs: list[Leg],
        feet: list[Footing],
        get: dict[str, np.ndarray],
        sway: np.ndarray,
        stand_mass_m: float,
    ) -> None:
        self.rotations, self.skeleton, self.stand_mass_m = rotations, skeleton, stand_mass_m
        self.legs, self.feet, self.get, self.sway = legs, feet, get, sway
        index = skeleton.index
        self.bones = [
            [index[f"{bone}.{letter}"] for bone in ("upperleg01", "lowerleg01", "foot")]
            for letter, _, _ in SIDES
        ]
        self.free = [get[f"free_{name}"] for _, name, _ in SIDES]
        self.written = [rotations[:, bones].copy() for bones in self.bones]
        self.upper, self.mass = self._weigh_upper()
        self.aim = self._aim()
        self.soft = SOFT * skeleton.leg_m
        # Hips of somebody who stands, above the floor, and the root above them.
        self.stand_m = min(leg.stands for leg in legs) - legs[0].low - legs[0].hip[2]

    def _weigh_upper(self) -> tuple[np.ndarray, float]:
        """(T, 3) from the root to the middle of what is no leg, times its mass, and that mass."""
        joints, _ = self.skeleton.find_joints(self.rotations, np.zeros((len(self.rotations), 3)))
        total, mass = np.zeros((len(joints), 3)), 0.0
        for start, end, share, at in SEGMENTS:
            if start.startswith(("upperleg", "lowerleg", "foot")):
                continue
            a, b = (joints[:, self.skeleton.index[name]] for name in (start, end))
            total += share * (a + at * (b - a))
            mass += share
        return total, mass

    def _aim(self) -> np.ndarray:
        """(T, 2) metres that the mass of somebody who stands is to be over."""
        ahead = AHEAD_OF_ANKLE * self.skeleton.leg_m
        spots = [foot.places[:, :2] + ahead * ahead_of(foot.yaw) for foot in self.feet]
        share = ((1 + self.get["weight"]) / 2)[:, None]
        heading = np.deg2rad(self.get["heading"])
        sway = self.sway[:, :1] * ahead_of(heading) + self.sway[:, 1:] * left_of(heading)
        return spots[0] * share + spots[1] * (1 - share) + sway

    def settle(self, path: np.ndarray, height: np.ndarray) -> np.ndarray:
        """(T, 3) the root, metres; legs are bent for it."""
        balance, air = self.get["balance"][:, None], self.get["air"]
        plain = self.stand_m + height
        over = self.aim - self.upper[:, :2]  # about: most of the mass is that of what is no leg
        place = balance * over + (1 - balance) * path
        root = self._bend(np.concatenate([place, plain[:, None]], 1))
        for _ in range(ROUNDS):
            mass = self._find_mass(root)
            over = root[:, :2] + self.aim - mass[:, :2]
            up = root[:, 2] + self.stand_m + self.stand_mass_m + height - mass[:, 2]
            place = balance * over + (1 - balance) * path
            root = np.concatenate([place, (air * up + (1 - air) * plain)[:, None]], 1)
            self._raise_heels(root)
            root = self._bend(root)
        return root

    def _bend(self, root: np.ndarray) -> np.ndarray:
        """(T, 3) the root, lowered to where legs reach, after legs are bent for it."""
        low = root.copy()
        low[:, 2] -= self._overreach(low)
        self._bend_legs(low)
        return low

    def _find_mass(self, root: np.ndarray) -> np.ndarray:
        """(T, 3) centre of mass."""
        total = self.upper + self.mass * root
        mass = self.mass
        shares = {"thigh": (0.1, 0.433), "shin": (0.0465, 0.433), "foot": 0.0145}
        for hip, knee, ankle in self.joints:
            for a, b, (share, at) in ((hip, knee, shares["thigh"]), (knee, ankle, shares["shin"])):
                total = total + share * (a + at * (b - a))
                mass += share
            total = total + shares["foot"] * ankle
            mass += shares["foot"]
        return total / mass

    def _hips(self, root: np.ndarray, side: int) -> np.ndarray:
        return root + self.rotations[:, 0] @ self.legs[side].hip

    def _raise_heels(self, root: np.ndarray) -> None:
        """Feet that bear go onto their balls where legs do not reach or ankles bend too far."""
        for side, (leg, foot) in enumerate(zip(self.legs, self.feet, strict=True)):
            turn = self.rotations[:, self.bones[side][2]]
            dorsal = -np.rad2deg(np.arctan2(turn[:, 2, 1], turn[:, 1, 1]))
            more = _soften(dorsal - MOST_DORSAL_DEG, SOFT_DEG)
            far = np.linalg.norm(foot.ankle - self._hips(root, side), axis=1) - leg.longest
            lever = 0.85 * np.hypot(leg.ball[1], leg.ball[2])
            more = more + np.rad2deg(_soften(far, self.soft) / lever)
            flat = smooth(np.clip(1 - foot.pitch_deg / 6, 0, 1))
            pitch = foot.pitch_deg - foot.bears * flat * np.minimum(more, 30.0)
            on_floor = _stand(leg, foot.places, pitch) - _stand(leg, foot.places, foot.pitch_deg)
            foot.pitch_deg, foot.ankle = pitch, foot.ankle + on_floor
            foot.frame = _frame(foot.yaw, pitch)

    def _overreach(self, root: np.ndarray) -> np.ndarray:
        """(T,) metres by which the hips come down so that legs reach the feet that carry."""
        total = np.zeros(len(root))
        for side, (leg, foot) in enumerate(zip(self.legs, self.feet, strict=True)):
            way = foot.ankle - self._hips(root, side)
            across = (way[:, :2] ** 2).sum(1)
            deep = np.sqrt(np.maximum(leg.longest**2 - across, (0.3 * leg.longest) ** 2))
            total += (foot.reached * _soften(-way[:, 2] - deep, self.soft)) ** 4
        return total**0.25

    def _bend_legs(self, root: np.ndarray) -> None:
        self.joints = []
        pelvis = self.rotations[:, 0]
        for side, (leg, foot) in enumerate(zip(self.legs, self.feet, strict=True)):
            hip_at = self._hips(root, side)
            way = foot.ankle - hip_at
            distance = np.linalg.norm(way, axis=1)
            # A leg that does not reach is straightened softly, most so one that swings.
            soft = self.soft + foot.swings * (SWING_SOFT * self.skeleton.leg_m - self.soft)
            over = distance - leg.longest + 2 * (soft - self.soft)
            distance = distance - _soften(over, soft)
            bent = turn_about(_X, leg.bend(distance))
            start = turn_about(_Z, foot.yaw)
            reach = leg.thigh + bent @ leg.shin
            aimed = turn_between((start @ reach[..., None])[..., 0], way, _X) @ start
            hip = np.swapaxes(pelvis, -1, -2) @ aimed
            ankle = np.swapaxes(aimed @ bent, -1, -2) @ foot.frame
            found = [hip, bent, ankle]
            free = self.free[side]
            if free.any():
                written = self.written[side]
                found = [mix_turns(one, written[:, k], free) for k, one in enumerate(found)]
            for bone, turn in zip(self.bones[side], found, strict=True):
                self.rotations[:, bone] = turn
            thigh = pelvis @ found[0]
            knee_at = hip_at + thigh @ leg.thigh
            self.joints.append((hip_at, knee_at, knee_at + (thigh @ found[1]) @ leg.shin))


def _finish(plan, times_s, rotations, root, angles, hands, get, body: _Body) -> Acted:
    """Toes, the legs' angles, and what is in the air."""
    angles = angles.copy()
    soles = []
    for side, (letter, name, sign) in enumerate(SIDES):
        foot, leg = body.feet[side], body.legs[side]
        hip, knee, _ = (rotations[:, bone] for bone in body.bones[side])
        # The toes stay flat while the heel rises.
        bent = np.clip(-np.minimum(foot.pitch_deg, 0), *TOES_DEG)
        angles[:, INDEX[f"toes_{name}"]] = bent
        turn = turn_about(_X, -np.deg2rad(bent))
        for toe in "12345":
            rotations[:, body.skeleton.index[f"toe{toe}-1.{letter}"]] = turn
        forward = np.arctan2(-hip[:, 1, 2], hip[:, 2, 2])
        out = np.arcsin(np.clip(hip[:, 0, 2], -1, 1))
        spin = np.arctan2(-hip[:, 0, 1], hip[:, 0, 0])
        bend = np.arctan2(knee[:, 2, 1], knee[:, 1, 1])
        foot_turn = rotations[:, body.bones[side][2]]
        found = {
            "hip_forward": -forward,
            "hip_out": -sign * out,
            "hip_turn": sign * spin,
            "knee": bend,
            "ankle": -np.arctan2(foot_turn[:, 2, 1], foot_turn[:, 1, 1]),
        }
        for dof, values in found.items():
            angles[:, INDEX[f"{dof}_{name}"]] = np.rad2deg(values)
        frame = rotations[:, 0] @ hip @ knee @ foot_turn
        points = frame @ np.stack([leg.heel, leg.ball]).T
        soles.append(body.joints[side][2][:, 2] + points[:, 2].min(1))
    contact = np.stack([foot.carries for foot in body.feet], 1)
    lift = np.where(contact.any(1), 0, np.maximum(np.min(soles, 0), 0))
    return Acted(
        rotations,
        root,
        np.clip(angles, LOW, HIGH),
        hands,
        get["heading"],
        contact,
        lift,
        plan.find_seated(times_s),
    )
