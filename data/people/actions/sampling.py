"""Stretches of people who act: what they do is drawn, written and put onto a skeleton."""

from collections.abc import Callable, Sequence

import numpy as np

from data.people import poses
from data.people.actions import exercises, gait, jumping, standing
from data.people.actions.embody import Acted, embody, read_angles
from data.people.actions.fingers import write_hands
from data.people.actions.names import ACTIONS, MOVING, STANDING, WALKS
from data.people.actions.plan import Plan
from data.people.actions.script import Script
from data.people.motion import ROAM_M, Clock, Motion
from data.people.rig import Rig
from data.people.skeleton import Skeleton

LEG_M = gait.LEG_M
LINGER_S = 0.3  # of a plan after the last instant
RUN_SHARE = 0.25  # of those who walk or run
_DEEDS: dict[str, Callable[[Script], None]] = {
    "stand": standing.shift,
    "look": standing.look,
    "wave": standing.wave,
    "clap": standing.clap,
    "reach": standing.reach,
    "lift_arms": exercises.lift_arms,
    "stretch": exercises.stretch,
    "dance": exercises.dance,
    "bow": standing.bow,
    "sit": standing.sit,
    "pick_up": standing.pick_up,
    "squat": exercises.squat,
    "lunge": exercises.lunge,
    "raise_knee": exercises.raise_knee,
    "throw": standing.throw,
    "kick": standing.kick,
    "punch": exercises.punch,
    "jump": jumping.jump,
    "jacks": jumping.jacks,
    "hop": jumping.hop,
    "turn": gait.turn,
    "sidestep": gait.sidestep,
}
_OFTEN = {**STANDING, **MOVING}


def sample_actions(
    rng: np.random.Generator,
    clock: Clock,
    leg_m: float = LEG_M,
    names: Sequence[str] = ACTIONS,
    postures: Sequence[str] = poses.UPRIGHT,
    shapes: Sequence[str] = tuple(poses.HANDS),
    walk_share: float = 0.3,
    roam_m: float = ROAM_M["body"],
) -> Motion:
    """One person's Motion: actions one after the other, seen from some moment on.

    Its legs follow from its plan on a skeleton, see embody.embody; until then their angles are as
    at rest.

    Args:
        rng: numpy Generator.  clock: of the T instants.  leg_m: length of the person's legs.
        names: of names.ACTIONS, what is drawn from.  postures, shapes: names in poses.POSTURES and
            poses.HANDS.  walk_share: probability that an action is a walk or run, where both those
            and others are among the names.
        roam_m: whoever would go farther in gaps that vary is seen at shorter ones.
    """
    plan = sample_plan(rng, float(clock.times_s[-1]), leg_m, names, postures, shapes, walk_share)
    clock = _stay_near(plan, clock, roam_m)
    return read_motion(plan, clock.times_s)


def sample_plan(
    rng: np.random.Generator,
    span_s: float,
    leg_m: float = LEG_M,
    names: Sequence[str] = ACTIONS,
    postures: Sequence[str] = poses.UPRIGHT,
    shapes: Sequence[str] = tuple(poses.HANDS),
    walk_share: float = 0.3,
) -> Plan:
    """A Plan that holds a stretch of some seconds; see sample_actions."""
    postures = [name for name in postures if name in poses.UPRIGHT] or list(poses.UPRIGHT)
    script = Script(rng, leg_m, float(rng.uniform(0, 360)), postures)
    walks = [name for name in WALKS if name in names]
    deeds = [name for name in names if name in _DEEDS]
    chances = np.array([_OFTEN[name] for name in deeds])
    while script.now_s < span_s + LINGER_S:
        if walks and (not deeds or rng.random() < walk_share):
            runs = walks == ["run"] or (len(walks) > 1 and rng.random() < RUN_SHARE)
            move = gait.run if runs else gait.walk
            move(script, float(rng.uniform(2.5, 6.0)))
        else:
            _DEEDS[deeds[int(rng.choice(len(deeds), p=chances / chances.sum()))]](script)
    hands = write_hands(rng, script.cues, script.now_s, shapes)
    return script.finish(hands, begin_s=float(rng.uniform(0, script.now_s - span_s)))


def read_motion(plan: Plan, since_s: np.ndarray) -> Motion:
    """The Motion of a plan at (T,) seconds since its begin, on no skeleton yet."""
    times_s = np.asarray(since_s, np.float64) + plan.begin_s
    angles, _ = read_angles(plan, times_s)
    hands = plan.hands.read(times_s).reshape(len(times_s), 2, -1)
    path = plan.find_path(times_s)
    heading = plan.root.column("heading", times_s)
    root = np.concatenate([heading[:, None], path - path.mean(0)], 1)
    return Motion(angles, hands, root, np.asarray(since_s, np.float64), plan=plan)


def sample_stretch(
    rng: np.random.Generator,
    times_s: np.ndarray,
    rig: Rig,
    skeleton: Skeleton,
    names: Sequence[str] = ACTIONS,
    walk_share: float = 0.3,
) -> Acted:
    """A person who acts, at any T instants: what a motion model is trained on.

    Args:
        rng: numpy Generator.  times_s: (T,) seconds that do not fall; only their differences count.
        rig, skeleton: of one body (Actor.find_skeleton).  names, walk_share: see sample_actions.

    Raises:
        ValueError: no instants, or instants that fall.
    """
    since_s = np.asarray(times_s, np.float64)
    if not len(since_s) or not np.isfinite(since_s).all() or (np.diff(since_s) < 0).any():
        raise ValueError(f"{len(since_s)} instants: at least one is needed, each after the last")
    since_s = since_s - since_s[0]
    plan = sample_plan(rng, float(since_s[-1]), skeleton.leg_m, names, walk_share=walk_share)
    return embody(plan, since_s, rig, skeleton)


def _stay_near(plan: Plan, clock: Clock, roam_m: float) -> Clock:
    """The clock, or a faster one where the gaps vary and the person would go too far."""
    if not clock.varies:
        return clock
    ticks = np.linspace(0, clock.times_s[-1], 64)
    path = plan.find_path(plan.begin_s + ticks)
    far = np.maximum.accumulate(np.linalg.norm(path - path[0], axis=1))
    over = np.flatnonzero(far > roam_m)
    return clock.within(float(ticks[max(over[0] - 1, 1)])) if len(over) else clock
