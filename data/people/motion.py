"""Motions: the angles of body and hands at a few instants.

Smooth in time and within the joints' limits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data.people import poses
from data.people.actions.curves import smooth
from data.people.poses import HAND_NOISE, HAND_SIZE, HIGH, INDEX, IS_UPPER, LOW, NOISE, REST

if TYPE_CHECKING:
    from data.people.actions.plan import Plan

GAIT_STEP_S = 0.03  # between the moments of a gait that tell which foot is on the floor
LEG_M = 0.85  # for a guess of how fast somebody goes
# How far people go from their first instant to the last, where gaps vary: cameras stand about them.
ROAM_M = {"body": 2.4, "hand": 0.9, "scene": 1.5}


@dataclass
class Clock:
    """When the T instants of a clip are.

    Attributes:
        times_s: (T,) seconds, the first at 0.  gaps_s: (T,) seconds from the instant before; of
            the first the gap that follows.
        shares: (T,) how much of the time has passed, from 0 to 1.
        varies: whether the gaps were drawn.
    """

    times_s: np.ndarray
    gaps_s: np.ndarray
    shares: np.ndarray
    varies: bool = False

    def within(self, span_s: float) -> "Clock":
        """Return the clock, or a faster one where the gaps vary and take longer than that."""
        if not self.varies or self.times_s[-1] <= span_s:
            return self
        return vary_times(self.gaps_s[1:] * (span_s / self.times_s[-1]))


def even_times(instants: int, gap_s: float) -> Clock:
    """The Clock of instants that are equally far apart."""
    shares = np.linspace(0, 1, instants)
    return Clock(np.arange(instants) * gap_s, np.full(instants, gap_s), shares)


def vary_times(gaps_s: np.ndarray) -> Clock:
    """The Clock of T instants with these gaps (T - 1,) between them, at whole milliseconds."""
    times_s = np.concatenate([[0.0], np.cumsum(np.maximum(np.round(gaps_s, 3), 0.001))])
    gaps_s = np.diff(times_s)
    return Clock(times_s, np.concatenate([gaps_s[:1], gaps_s]), times_s / times_s[-1], varies=True)


def sample_times(rng: np.random.Generator, instants: int, gaps_s: Sequence[float]) -> Clock:
    """The Clock of instants whose gaps are drawn, each on its own, even in their logarithm."""
    low, high = np.log(gaps_s)
    return vary_times(np.exp(rng.uniform(low, high, instants - 1)))


@dataclass
class Gait:
    """A walk or run at small steps of time.

    Attributes:
        angles: (F, 36) degrees.  heading_deg: (F,).  at: (T,) which of them are the instants.
    """

    angles: np.ndarray
    heading_deg: np.ndarray
    at: np.ndarray


@dataclass
class Motion:
    """What a body and its hands do at T instants.

    Attributes:
        angles: (T, 36) degrees in the order of poses.NAMES.
        hands: (T, 2, 17) degrees, left then right.
        root: (T, 3) heading in degrees about the vertical, x and y in metres.
        times_s: (T,) seconds, the first at 0.
        gait: of whoever walks or runs, for a path that follows from the feet.
        plan: of whoever acts; legs, path and balance follow from it, see actions/embody.py.
    """

    angles: np.ndarray
    hands: np.ndarray
    root: np.ndarray
    times_s: np.ndarray
    gait: Gait | None = None
    plan: "Plan | None" = None


def sample_motion(
    rng: np.random.Generator,
    clock: Clock,
    postures: Sequence[str] = tuple(poses.POSTURES),
    shapes: Sequence[str] = tuple(poses.HANDS),
    walk_share: float = 0.3,
    may_run: bool = True,
    roam_m: float = ROAM_M["body"],
) -> Motion:
    """One person's Motion.

    A walk or run in closed form, or minimum-jerk moves between postures (Flash and Hogan 1985: the
    polynomial with zero speed and acceleration at both ends).

    Args:
        rng: numpy Generator.  clock: of the T instants.
        postures, shapes: names in poses.POSTURES and poses.HANDS.  walk_share: probability of a
            walk or run.  may_run: whether some run.
        roam_m: whoever would go farther in gaps that vary is seen at shorter ones.
    """
    gait = None
    if rng.random() < walk_share:
        gait, root, clock = _walk(rng, clock, may_run, roam_m)
        angles = gait.angles[gait.at]
    else:
        angles, root = _moves(rng, clock, postures)
    ends = np.stack([[sample_hand(rng, shapes) for _ in range(2)] for _ in range(2)])
    part = smooth(clock.shares * rng.uniform(0.3, 1))[:, None, None]
    hands = ends[0] * (1 - part) + ends[1] * part
    root[:, 1:] -= root[:, 1:].mean(0)
    return Motion(angles, hands, root, clock.times_s, gait)


def sample_hand(rng: np.random.Generator, names: Sequence[str]) -> np.ndarray:
    """Return (17,) angles of one hand in degrees.

    A sparse mixture of written shapes (names in poses.HANDS), plus noise.
    """
    shapes = np.stack([poses.HANDS[name] for name in names])
    # A concentration of 0.12 puts nearly all weight on one or two shapes: mixtures of many all look
    # the same.
    angles = (
        rng.dirichlet(np.full(len(shapes), 0.12)) @ shapes
        + rng.normal(0, 1, HAND_SIZE) * HAND_NOISE
    )
    angles[4:16] = np.clip(angles[4:16], poses.FINGER_LOW, poses.FINGER_HIGH)
    return angles


def sample_posture(rng: np.random.Generator, names: Sequence[str]) -> np.ndarray:
    """(36,) angles in degrees: two written postures mixed, noise added, clipped to the limits."""
    table, weights = poses.posture_table(names)
    first, second = (table[rng.choice(len(table), p=weights)] for _ in range(2))
    first = poses.mirror_angles(first) if rng.random() < 0.5 else first
    second = poses.mirror_angles(second) if rng.random() < 0.5 else second
    upper = rng.beta(0.45, 0.45)
    lower = upper if rng.random() < 0.5 else rng.beta(0.45, 0.45)
    share = np.where(IS_UPPER, upper, lower)
    angles = (
        first * (1 - share)
        + second * share
        + rng.normal(0, 1, len(LOW)) * NOISE * rng.uniform(0.4, 1.3)
    )
    return np.clip(angles, LOW, HIGH)


def _moves(rng, clock, names):
    times_s, count = clock.times_s, len(clock.times_s)
    move_s = rng.uniform(0.4, 1.1)  # from one posture to the next
    u = times_s / move_s + rng.random()
    postures = np.stack([sample_posture(rng, names) for _ in range(int(u[-1]) + 2)])
    if rng.random() < 0.4:  # many people only shift a little
        postures = postures[:1] * 0.45 + postures * 0.55
    at = u.astype(int)
    part = smooth(u - at)[:, None]
    angles = postures[at] * (1 - part) + postures[at + 1] * part
    heading = rng.uniform(0, 360) + np.cumsum(rng.normal(0, 14 * clock.gaps_s, count))
    translation = np.cumsum(rng.normal(0, 0.12 * clock.gaps_s[:, None], (count, 2)), 0)
    return angles, np.concatenate([heading[:, None], translation], 1)


def _walk(
    rng: np.random.Generator, clock: Clock, may_run: bool, roam_m: float
) -> tuple[Gait, np.ndarray, Clock]:
    """A gait cycle, (T, 3) the root's heading and a path at a speed of its own, and when.

    Sines fitted by eye to what hips, knees and ankles do in a textbook's figure of normal gait.
    """
    rate_hz, phase0 = rng.uniform(0.7, 1.5), rng.uniform(0, 2 * np.pi)
    vigour, run = rng.uniform(0.35, 1.25), rng.random() < 0.3 and may_run
    stride = vigour * (38 if run else 26)
    # A step is as long as the legs are apart at their farthest; there are two in a cycle.
    guess_mps = 4 * rate_hz * LEG_M * np.sin(np.deg2rad(stride))
    clock = clock.within(roam_m / guess_mps)
    times_s = clock.times_s
    fine_s, at = _refine(times_s)
    phase = 2 * np.pi * rate_hz * fine_s + phase0
    noise = rng.normal(0, 1, len(REST)) * NOISE * 0.35
    angles = np.repeat(REST[None], len(phase), 0) + noise

    def put(name: str, values: np.ndarray) -> None:
        angles[:, INDEX[name]] = values

    for side, offset in (("left", 0.0), ("right", np.pi)):
        p = phase + offset
        swing = np.clip(np.sin(p - 0.9 + np.pi / 2), 0, 1) ** 1.6 * (np.cos(p) > -0.75)
        push = np.clip(-np.sin(p), 0, 1)
        put(f"hip_forward_{side}", stride * np.sin(p) + 6)
        put(f"knee_{side}", 6 + vigour * ((75 if run else 48) * swing + 8))
        put(f"ankle_{side}", vigour * (8 * np.sin(p + 0.6) - 8 * push))
        put(f"toes_{side}", vigour * 20 * push)
        put(f"arm_forward_{side}", -stride * 0.85 * np.sin(p) + 2)
        put(f"elbow_{side}", (80 if run else 18) + vigour * 12 * (1 - np.sin(p)))
    angles[:, INDEX["spine_turn"]] += vigour * 6 * np.sin(phase)
    angles[:, INDEX["spine_side"]] += vigour * 2 * np.cos(phase)
    put("tip_forward", np.full(len(phase), vigour * (9 if run else 2)))
    speed = rng.uniform(0.3, 1.5)
    heading_deg = rng.uniform(0, 360) + rng.normal(0, 12) * fine_s
    towards = np.deg2rad(heading_deg[at])
    step_s = np.diff(times_s, prepend=2 * times_s[0] - times_s[min(1, len(times_s) - 1)])
    path = np.cumsum(
        np.stack([np.sin(towards), -np.cos(towards)], 1) * (speed * step_s)[:, None], 0
    )
    root = np.concatenate([heading_deg[at, None], path], 1)
    return Gait(np.clip(angles, LOW, HIGH), heading_deg, at), root, clock


def _refine(times_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(F,) seconds at small steps that hold all of ``times_s``, and (T,) where those are."""
    parts, at = [times_s[:1]], [0]
    for start, end in zip(times_s[:-1], times_s[1:], strict=True):
        steps = max(1, int(np.ceil((end - start) / GAIT_STEP_S)))
        parts.append(np.linspace(start, end, steps + 1)[1:])
        at.append(at[-1] + steps)
    return np.concatenate(parts), np.array(at)
