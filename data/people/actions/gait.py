"""Walks and runs: speeds and headings first, then the feet, then all that goes with them.

Numbers are of healthy adults: the walk ratio (step length over cadence) of 0.0065 m a step a minute
(Sekiya and Nagasaki 1998); a foot is on the floor for about 60 % of a stride, flat from 10 to 40 %,
its heel rising until the toes leave (Perry 1992); the pelvis goes up and down by 4 to 5 cm and from
side to side by about as much, turns by 4 degrees each way and drops by as much at the swinging side
(Saunders, Inman and Eberhart 1953); a runner's foot is on the floor for 35 % of a stride (Novacheck
1998). Speeds and rates are scaled to the legs by their Froude number (Alexander 1989).
"""

import numpy as np

from data.people.actions.plan import ahead_of
from data.people.actions.script import SIGNS, Script

LEG_M = 0.86  # of the adult whose numbers these are
WALK_RATIO = 0.0065  # metres a step a minute
LEAST_RATE = 0.85  # of the cruising one: steps do not get slower than that
# An ankle lies behind what it carries halfway through, in long steps by more: legs reach less far
# ahead than back.
ANKLE_BACK_M, BACK_SHARE = 0.03, 0.085
WALKS_MPS = (0.55, 1.7)
RUNS_MPS = (2.1, 3.9)
AHEAD_SHARE, RUN_AHEAD_SHARE = 0.35, 0.32  # of a leg that a foot lands ahead of the hips, at most
RUN_TOUCH = 0.35  # of a stride that a runner's foot is on the floor
SIDES = ("left", "right")


def walk(script: Script, lasting_s: float) -> None:
    """A walk from standing to standing, with turns and changes of speed."""
    rng, scale = script.rng, np.sqrt(script.leg_m / LEG_M)
    cruise = rng.triangular(WALKS_MPS[0], 1.25, WALKS_MPS[1]) * scale
    _write_speeds(script, cruise, lasting_s, scale)
    _write_turns(script, lasting_s, sharp=1.0)
    _walk_steps(script, cruise, lasting_s, scale)


def turn(script: Script) -> None:
    """A turn on the spot, step by step; the head goes first."""
    rng, scale = script.rng, np.sqrt(script.leg_m / LEG_M)
    by = rng.uniform(50, 180) * rng.choice([-1, 1])
    lasting = 0.7 + abs(by) / rng.uniform(70, 130)
    script.body("heading", script.heading_deg + by, lasting, 0.35)
    script.pose({"neck_turn": np.clip(by * 0.6, -50, 50)}, 0.5)
    script.pose({"neck_turn": 0}, 0.7 * lasting, 0.45 * lasting)
    _walk_steps(script, 0.9 * scale, lasting + 0.35, scale)


def sidestep(script: Script) -> None:
    """A few steps to one side."""
    rng, scale = script.rng, np.sqrt(script.leg_m / LEG_M)
    lasting = rng.uniform(1.2, 2.6)
    script.body("slide", rng.uniform(0.25, 0.6) * scale * rng.choice([-1, 1]), 0.5, 0.1)
    script.body("slide", 0.0, 0.5, lasting - 0.4)
    _walk_steps(script, 0.6 * scale, lasting, scale)


def run(script: Script, lasting_s: float) -> None:
    """A run from standing to standing; in between the feet leave the floor."""
    rng, scale = script.rng, np.sqrt(script.leg_m / LEG_M)
    cruise = rng.uniform(*RUNS_MPS) * scale
    speed_up, slow_down = 0.45 * cruise / scale, 0.5 * cruise / scale
    lasting_s = max(lasting_s, speed_up + slow_down + 1.0)
    script.body("speed", cruise, speed_up, 0.15)
    script.body("speed", 0.0, slow_down, lasting_s - slow_down)
    _write_turns(script, lasting_s, sharp=0.35)
    _run_steps(script, cruise, lasting_s, scale)


def _write_speeds(script: Script, cruise: float, lasting_s: float, scale: float) -> None:
    rng = script.rng
    start_s = (0.5 + 0.6 * cruise + rng.uniform(0, 0.3)) * scale
    script.body("speed", cruise, start_s, 0.25)
    at = start_s + 0.25
    while at < lasting_s - 2.2:
        at += rng.uniform(0.6, 2.2)
        if rng.random() < 0.5 and at < lasting_s - 2:
            script.body("speed", cruise * rng.uniform(0.55, 1.25), rng.uniform(0.8, 1.4), at)
            at += 1.2
    stop_s = (0.5 + 0.5 * cruise + rng.uniform(0, 0.3)) * scale
    script.body("speed", 0.0, stop_s, max(lasting_s - stop_s, start_s + 0.3))


def _write_turns(script: Script, lasting_s: float, sharp: float) -> None:
    rng = script.rng
    at, heading = rng.uniform(0, 1.2), script.heading_deg
    while at < lasting_s - 0.8:
        by = sharp * rng.choice([rng.normal(0, 18), rng.normal(0, 75)], p=[0.6, 0.4])
        lasting = rng.uniform(0.7, 1.1) + abs(by) / 75
        heading += by
        script.body("heading", heading, lasting, at)
        # The head turns first (Grasso and others 1998).
        look = float(np.clip(0.5 * by, -35, 35))
        script.pose({"neck_turn": look}, 0.45, max(0.0, at - 0.25))
        script.pose({"neck_turn": 0}, 0.8, at + 0.6 * lasting)
        at += lasting + rng.uniform(0.2, 2.0)


def _walk_steps(script: Script, cruise: float, lasting_s: float, scale: float) -> None:
    """Feet, pelvis, trunk and arms of somebody whose speeds are written."""
    rng, start, size = script.rng, script.now_s, script.leg_m / LEG_M
    ticks = start + np.arange(0, lasting_s + 3, 0.02)
    path = script.path_at(ticks)
    speeds = np.hypot(*np.gradient(path, 0.02, axis=0).T)
    headings = script.root.column("heading", ticks)

    def at(values: np.ndarray, when: float) -> np.ndarray:
        return values[min(int((when - start) / 0.02), len(ticks) - 1)]

    cruise_rate = np.sqrt(60 * cruise / scale / WALK_RATIO) / 60 / scale
    rate_noise, wide = np.exp(rng.normal(0, 0.05)), rng.uniform(0.55, 0.85)
    arm = rng.uniform(0.7, 1.25) * script.vigour
    side = int(rng.integers(2))
    script.body("balance", 0.0, 0.55, 0.0)
    # The mass goes over the foot that stays before the other is lifted.
    script.body("side", -SIGNS[side] * 0.045 * size, 0.4, 0.0)
    land, sides_left, fresh = start + 0.68 * scale, 2, {0, 1}
    while sides_left:
        speed, soon = at(speeds, land), max(at(speeds, land), at(speeds, land + 0.6))
        rate = max(np.sqrt(60 * soon / scale / WALK_RATIO) / 60 / scale, LEAST_RATE * cruise_rate)
        step_s = 1 / (rate * rate_noise)
        stand = float(np.clip(0.67 - 0.052 * speed / scale, 0.575, 0.655))  # of a stride
        middle, lift = land + stand * step_s, land - 2 * (1 - stand) * step_s
        length = speed * step_s / size
        if side in fresh:  # this foot's heel has not come up yet
            fresh.remove(side)
            reach = at(speeds, lift) * step_s / size
            script.body(f"pitch_{SIDES[side]}", -(10 + 40 * reach), 0.4, lift - 0.32 - start)
        ends = np.stack([at(path, land), at(path, middle)])
        place = _place(script, side, ends, float(at(headings, middle)), wide, length)
        script.step(side, place, land - lift, lift - script.now_s, clear_m=0.018 * size)
        _roll_foot(script, side, land, lift, step_s, stand, length)
        _swing_body(script, side, land, step_s, stand, length, arm, size)
        if land - start > lasting_s:
            sides_left -= 1
        side, land = 1 - side, land + step_s
    script.now_s = land
    _come_to_rest(script, 0.6)


def _place(
    script: Script,
    side: int,
    ends: np.ndarray,
    heading_deg: float,
    wide: float,
    length: float,
    most: float = AHEAD_SHARE,
) -> np.ndarray:
    """(3,) where a foot lands.

    Args:
        ends: (2, 2) where the path is when it lands, and when it has borne half of its time.
        length: of the step in adults' metres.  most: of a leg, that it lands ahead of the hips.
    """
    place = script.stance_place(side, ends[1], heading_deg, wide)
    ahead = ahead_of(np.deg2rad(heading_deg))
    back = (ANKLE_BACK_M + BACK_SHARE * length) * script.leg_m / LEG_M
    over = (ends[1] - ends[0]) @ ahead - back - most * script.leg_m
    place[:2] -= (back + max(0.0, float(over))) * ahead
    return place


def _roll_foot(script, side, land, lift, step_s, stand, length) -> None:
    """Heel first, flat, then over the ball; lengths are of the step in adults' metres."""
    name, now = f"pitch_{SIDES[side]}", script.now_s
    big = np.clip(length / 0.65, 0, 1.3)
    swing = land - lift
    script.body(name, 19 * big, 0.66 * swing, lift + 0.3 * swing - now)
    script.body(name, 0.0, 0.24 * step_s, land - 0.04 * step_s - now)
    # Heels rise from 40 % of a stride on, until the toes leave and a little longer.
    rise = land + (0.7 - 0.04 * big) * step_s
    off = land + 2 * stand * step_s
    script.body(name, -(8 + 62 * big), off + 0.34 * step_s - rise, rise - now)


def _swing_body(script, side, land, step_s, stand, length, arm, size) -> None:
    """What pelvis, trunk, arms and head do from one foot's landing to the next's."""
    now, sign = script.now_s, SIGNS[side]
    big = np.clip(length / 0.65, 0, 1.4)
    both = (2 * stand - 1) * step_s  # both feet are on the floor for so long
    low, high = land + both / 2, land + both / 2 + step_s / 2
    script.body(
        "height", -(0.006 + 0.05 * big * big) * size, 0.62 * step_s, low - 0.62 * step_s - now
    )
    script.body("height", -(0.002 + 0.008 * big) * size, 0.62 * step_s, high - 0.62 * step_s - now)
    lean = (0.032 - 0.012 * min(big, 1)) * size
    script.body("side", sign * lean, step_s, high - step_s - now)
    begin = land - 0.5 * step_s - now
    script.body("twist", -sign * 4.5 * big, step_s, begin)
    script.angle("tip_side", sign * 2.5 * min(big, 1), 0.8 * step_s, land + 0.1 * step_s - now)
    # The shoulders turn against the pelvis, the head stays ahead.
    script.angle("spine_turn", sign * 9 * big, 1.05 * step_s, begin)
    script.angle("spine_side", -sign * 2 * min(big, 1), step_s, land + 0.15 * step_s - now)
    ahead, back = ("right", "left") if side == 0 else ("left", "right")
    reach = arm * 17 * big
    late = 0.04 * step_s
    script.angle(f"arm_forward_{ahead}", 3 + reach, 1.06 * step_s, begin + late)
    script.angle(f"arm_forward_{back}", 1 - 1.05 * reach, 1.06 * step_s, begin + late)
    script.angle(f"elbow_{ahead}", 18 + 16 * arm * big, 1.0 * step_s, begin + 3 * late)
    script.angle(f"elbow_{back}", 12 + 4 * arm * big, 1.0 * step_s, begin + 3 * late)
    script.angle("spine_forward", 3 + 2 * big, 2 * step_s, begin)
    script.angle("tip_forward", 1.5 * big, 2 * step_s, begin)


def _come_to_rest(script: Script, lasting_s: float) -> None:
    script.body("balance", 1.0, lasting_s)
    for name in ("side", "height", "twist", "pitch_left", "pitch_right", "weight"):
        script.body(name, 0.0, lasting_s)
    script.relax(lasting_s)
    script.go_on(0.7 * lasting_s)


def _run_steps(script: Script, cruise: float, lasting_s: float, scale: float) -> None:
    rng, start, size = script.rng, script.now_s, script.leg_m / LEG_M
    ticks = start + np.arange(0, lasting_s + 3, 0.02)
    path, headings = script.path_at(ticks), script.root.column("heading", ticks)
    # Steps of 160 to 185 a minute, more at higher speed.
    step_s = 60 * scale / (rng.uniform(150, 164) + 6 * cruise / scale)
    touch_s = 2 * RUN_TOUCH * step_s
    count = max(4, int(lasting_s / step_s))
    speeds = np.hypot(*np.gradient(path, 0.02, axis=0).T)

    def at(values: np.ndarray, when: float) -> np.ndarray:
        return values[min(max(int((when - start) / 0.02), 0), len(ticks) - 1)]

    script.body("balance", 0.0, 0.4)
    script.pose({"elbow": rng.uniform(75, 100), "arm_turn": 15, "pronate": -10}, 0.5)
    script.pose({"spine_forward": 6, "tip_forward": 5 + 1.2 * cruise, "neck_forward": -6}, 0.6)
    script.body("height", -0.035 * size, 0.5)
    side, land = int(rng.integers(2)), start + 0.5 * scale
    fast = [bool(at(speeds, land + k * step_s) > 0.5 * cruise) for k in range(count)]
    first = fast.index(True) if True in fast else count
    last = count - 1 - fast[::-1].index(True) if True in fast else -1
    if last > first:
        script.heights.add_run(land + first * step_s, touch_s, step_s, last - first)
        script.body("air", 1.0, 0.5, land + (first - 1) * step_s - 0.5 - start)
        script.body("air", 0.0, 0.5, land + last * step_s + 0.3 - start)
    lifts = [land - 0.6 * step_s, land + 0.2 * step_s]
    for number in range(count + 2):
        big = float(np.clip(at(speeds, land) / cruise, 0, 1))
        flies = first <= number < last
        on_s = touch_s if flies else 1.08 * step_s
        lift = lifts[number]
        if number < 2:
            script.body(f"pitch_{SIDES[side]}", -30 - 10 * number, 0.3, lift - 0.25 - start)
        lifts.append(land + on_s)
        middle = land + on_s / 2
        wide = 0.3 + 0.4 * (1 - big)
        ends = np.stack([at(path, land), at(path, middle)])
        place = _place(
            script, side, ends, float(at(headings, middle)), wide, 0.5 * big, RUN_AHEAD_SHARE
        )
        # Heels come up behind before the leg swings ahead.
        clear = (0.04 + 0.1 * big) * size
        script.step(side, place, land - lift, lift - start, clear, reaches=False)
        _roll_runner(script, side, land, lift, on_s, big)
        _swing_runner(script, side, land, step_s, big)
        side, land = 1 - side, land + step_s
    script.now_s = land
    _come_to_rest(script, 0.7)


def _roll_runner(script, side, land, lift, touch_s, big) -> None:
    name, now = f"pitch_{SIDES[side]}", script.now_s
    swing = land - lift
    script.body(name, 8 * big, 0.6 * swing, lift + 0.38 * swing - now)
    script.body(name, 0.0, 0.3 * touch_s, land - 0.05 * touch_s - now)
    script.body(name, -(15 + 58 * big), touch_s, land + 0.32 * touch_s - now)


def _swing_runner(script, side, land, step_s, big) -> None:
    now, sign = script.now_s, SIGNS[side]
    begin = land - 0.45 * step_s - now
    ahead, back = ("right", "left") if side == 0 else ("left", "right")
    script.body("twist", -sign * 6 * big, step_s, begin)
    script.angle("spine_turn", sign * 16 * big, step_s, begin)
    script.angle(f"arm_forward_{ahead}", 8 + 24 * script.vigour * big, 1.05 * step_s, begin)
    script.angle(f"arm_forward_{back}", 2 - 38 * script.vigour * big, 1.05 * step_s, begin)
    script.angle(f"elbow_{ahead}", 100, step_s, begin + 0.1 * step_s)
    script.angle(f"elbow_{back}", 80, step_s, begin + 0.1 * step_s)
