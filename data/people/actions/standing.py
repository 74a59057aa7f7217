"""What people do where they stand: gestures, reaches, throws, kicks, exercises.

Durations and rates are of published studies where one is named, else as one's own body does them.
"""

import numpy as np

from data.people import poses
from data.people.actions.reach import HIP_M, reach_point
from data.people.actions.script import FEET, SIGNS, Script
from data.people.poses import INDEX, mirror_angles

HEIGHT_OVER_LEG = 1 / 0.485  # a person's height over the legs' length (Drillis and Contini 1966)
CLAPS_HZ = (2.7, 5.1)  # Repp 1987
WAVES_HZ = (1.2, 2.2)
_UPPER = ("arm", "elbow", "pronate", "wrist", "neck", "spine")


def shift(script: Script, lasting: tuple[float, float] = (0.5, 1.3)) -> None:
    """Somebody who stands about: arms, trunk and head to a written posture, weight to one foot."""
    rng = script.rng
    name = script.postures[int(rng.integers(len(script.postures)))]
    posture = poses.POSTURES[name]
    posture = mirror_angles(posture) if rng.random() < 0.5 else posture
    rest = poses.REST
    share = rng.uniform(0.6, 1.0)
    wanted = {
        full: rest[i] + share * (posture[i] - rest[i])
        for full, i in INDEX.items()
        if full.startswith(_UPPER)
    }
    seconds = rng.uniform(*lasting)
    script.pose(wanted, seconds)
    if not script.sits:
        script.body("weight", float(rng.uniform(-0.75, 0.75)), 1.2 * seconds)
        script.body("twist", float(rng.normal(0, 5)), 1.2 * seconds)
    script.go_on(seconds + rng.exponential(0.5))


def look(script: Script) -> None:
    """A look around: the head turns, the trunk a little."""
    rng = script.rng
    for _ in range(int(rng.integers(1, 4))):
        turn, seconds = rng.uniform(-60, 60), rng.uniform(0.35, 0.8)
        script.pose({"neck_turn": turn, "neck_forward": rng.normal(3, 14)}, seconds)
        script.pose({"spine_turn": 0.25 * turn}, 1.3 * seconds)
        script.go_on(seconds + rng.exponential(0.3))


def wave(script: Script) -> None:
    """A raised hand goes from side to side."""
    rng, side = script.rng, int(script.rng.integers(2))
    name, high = FEET[side], rng.uniform(0, 1)
    up = rng.uniform(0.45, 0.8)
    middle, width = -62 + 25 * high, rng.uniform(9, 24)
    script.hand(side, "open", 0.0, up)
    script.pose(
        {
            f"arm_out_{name}": 60 + 70 * high,
            f"arm_turn_{name}": middle,
            f"elbow_{name}": 105 - 60 * high,
            f"pronate_{name}": rng.uniform(-20, 10),
            "neck_turn": SIGNS[side] * rng.uniform(-5, 25),
        },
        up,
    )
    script.go_on(up)
    half = 0.5 / rng.uniform(*WAVES_HZ)
    for k in range(int(rng.integers(3, 10))):
        way = 1 if k % 2 else -1
        script.angle(f"arm_turn_{name}", middle + way * width, 1.15 * half)
        script.angle(f"elbow_{name}", 105 - 60 * high + way * 0.5 * width, 1.1 * half, 0.1 * half)
        script.angle(f"wrist_tilt_{name}", way * 0.5 * width, 1.1 * half, 0.25 * half)
        script.go_on(half)
    script.lower(rng.uniform(0.5, 0.9))


def clap(script: Script) -> None:
    """Hands clap before the chest."""
    rng = script.rng
    up, high = rng.uniform(0.4, 0.7), rng.uniform(0, 1)
    across = 13.0
    base = {"arm_forward": 32 + 40 * high, "arm_turn": 34, "elbow": 88 - 20 * high, "pronate": 0}
    script.pose({**base, "arm_across": across - 16, "wrist_flex": 0}, up)
    for side in range(2):
        script.hand(side, "flat", 0.0, up)
    script.go_on(up)
    rate = float(np.clip(rng.normal(np.mean(CLAPS_HZ), 0.6), *CLAPS_HZ))
    half, width = 0.5 / rate, rng.uniform(8, 18) * 3.9 / rate
    for k in range(2 * int(rng.integers(3, 10)) + 1):
        apart = 0 if k % 2 == 0 else width
        for name in FEET:
            script.angle(f"arm_across_{name}", across - apart, 1.1 * half)
            script.angle(f"arm_turn_{name}", 34 - 0.7 * apart, 1.1 * half)
        script.go_on(half)
    script.lower(rng.uniform(0.5, 0.9))


def reach(script: Script) -> None:
    """One hand or both go to something within or just beyond the arm's length, and come back."""
    rng, tall = script.rng, script.leg_m * HEIGHT_OVER_LEG
    both, side = rng.random() < 0.3, int(rng.integers(2))
    away = tall * rng.uniform(0.22, 0.46)
    aside, up = np.deg2rad([rng.uniform(-35, 70), rng.uniform(-45, 65)])
    if both:
        aside = np.deg2rad(rng.uniform(-5, 15))
    seconds = rng.uniform(0.55, 0.85) + 0.6 * away / tall  # farther takes longer (Fitts 1954)
    shoulders = np.array([0, 0, 0.288 * tall])
    for hand in (0, 1) if both else (side,):
        sign = SIGNS[hand]
        way = np.array([sign * np.sin(aside) * np.cos(up), -np.cos(aside) * np.cos(up), np.sin(up)])
        start = shoulders + [sign * 0.115 * tall, 0, 0]
        found = reach_point(start + away * way, sign, tall)
        _follow(script, found, hand, seconds, sign, trunk=hand == side or not both)
        script.hand(hand, "grasp" if rng.random() < 0.7 else "point", 0.0, seconds)
        script.pose({f"pronate_{FEET[hand]}": rng.uniform(-50, 50)}, seconds)
    look_at = SIGNS[side] * np.rad2deg(aside) * (0.0 if both else 0.6)
    script.pose({"neck_turn": look_at, "neck_forward": -np.rad2deg(up) * 0.35}, 0.6 * seconds)
    script.body("weight", SIGNS[side] * 0.35, seconds)
    script.go_on(seconds + rng.exponential(0.3))
    script.lower(seconds * rng.uniform(0.9, 1.2))


def _follow(script, found, hand, seconds, sign, trunk) -> None:
    wanted = {f"{name}_{FEET[hand]}": to for name, to in found.items() if f"{name}_left" in INDEX}
    if trunk:
        wanted |= {name: to for name, to in found.items() if name in INDEX}
    script.pose(wanted, seconds)


def pick_up(script: Script) -> None:
    """Something is taken from the floor or a low place: by the knees, by the back, or by both."""
    rng, leg = script.rng, script.leg_m
    tall = leg * HEIGHT_OVER_LEG
    knees, both, side = rng.uniform(0, 1), rng.random() < 0.5, int(rng.integers(2))
    drop = leg * (0.08 + 0.36 * knees)
    trunk = {
        "spine_forward": 52 - 14 * knees,
        "tip_forward": 52 - 24 * knees,
        "spine_turn": 0.0 if both else -SIGNS[side] * rng.uniform(0, 15),
    }
    seconds = rng.uniform(0.85, 1.3)
    # From between the hips, which go back as the trunk goes ahead.
    low = rng.uniform(0.04, 0.25) * leg - (tall * HIP_M - drop)
    ahead = -leg * rng.uniform(0.42, 0.6)
    script.body("height", -drop, seconds)
    script.pose({**trunk, "neck_forward": -18 + 20 * knees}, seconds)
    for hand in (0, 1) if both else (side,):
        sign = SIGNS[hand]
        aside = sign * leg * (0.12 if both else rng.uniform(0.0, 0.25))
        found = reach_point(np.array([aside, ahead, low]), sign, tall, trunk)
        _follow(script, found, hand, seconds, sign, trunk=False)
        script.hand(hand, "grasp", 0.0, seconds)
    if not both:
        script.pose({f"arm_forward_{FEET[1 - side]}": 25, f"elbow_{FEET[1 - side]}": 40}, seconds)
    script.go_on(seconds + rng.uniform(0.1, 0.4))
    up = rng.uniform(0.9, 1.4)
    script.body("height", 0.0, up)
    script.pose({"spine_forward": 3, "tip_forward": 0, "spine_turn": 0, "neck_forward": 5}, up)
    hold = {"arm_forward": 20, "arm_out": 8, "arm_turn": 8, "arm_across": 0, "elbow": 80}
    for hand in (0, 1) if both else (side,):
        script.pose({f"{name}_{FEET[hand]}": to for name, to in hold.items()}, 1.1 * up)
    script.go_on(up + rng.uniform(0.1, 0.9))
    script.lower(rng.uniform(0.6, 1.0))


def throw(script: Script) -> None:
    """A throw over the shoulder: wind-up, a step, trunk, then arm (proximal to distal)."""
    rng, side = script.rng, int(script.rng.integers(2))
    name, other, sign = FEET[side], FEET[1 - side], SIGNS[side]
    hard, wind = rng.uniform(0.5, 1.0), rng.uniform(0.5, 0.8)
    script.hand(side, "grip", 0.0, 0.4)
    script.body("weight", sign * 0.8, wind)
    script.pose(
        {
            "spine_turn": sign * 34 * hard,
            "neck_turn": -sign * 26 * hard,
            "spine_side": sign * 6,
            f"arm_out_{name}": 85,
            f"arm_turn_{name}": -66,
            f"elbow_{name}": 100,
            f"arm_forward_{name}": -12,
            f"arm_forward_{other}": 70 * hard,
            f"elbow_{other}": 25,
        },
        wind,
    )
    script.body("twist", sign * 18 * hard, wind)
    script.go_on(0.9 * wind)
    stride = rng.uniform(0.2, 0.5) * script.leg_m * hard
    script.step(1 - side, script.beside(1 - side, stride, 0.0), 0.34, 0.0, 0.04 * script.leg_m)
    script.body("weight", -sign * 0.35, 0.5, 0.08)
    script.body("height", -0.05 * script.leg_m, 0.4)
    fast = 0.2 / (0.75 + 0.4 * hard)  # of a joint's own part in the throw
    script.body("twist", -sign * 8, 1.7 * fast, 0.24)
    script.angle("spine_turn", -sign * 30 * hard, 1.7 * fast, 0.3)
    script.angle("neck_turn", 0, 1.7 * fast, 0.3)
    script.angle("spine_forward", 22 * hard, 2 * fast, 0.36)
    script.angle(f"arm_forward_{other}", -15, 0.4, 0.28)
    script.angle(f"arm_forward_{name}", 42, 1.4 * fast, 0.34)
    script.angle(f"arm_turn_{name}", 40, 1.1 * fast, 0.4)
    script.angle(f"elbow_{name}", 18, 1.1 * fast, 0.38)
    script.angle(f"wrist_flex_{name}", 40, 0.8 * fast, 0.36 + fast)
    script.hand(side, "open", 0.37 + fast, 0.12)
    script.go_on(0.42 + fast)
    follow = 0.35
    script.pose(
        {f"arm_across_{name}": 35, f"arm_out_{name}": 25, f"arm_forward_{name}": 30}, follow
    )
    script.pose({"spine_forward": 30 * hard, "spine_turn": -sign * 38 * hard}, follow)
    script.go_on(follow + rng.uniform(0, 0.2))
    script.stand_again(1 - side, rng.uniform(0.6, 0.9))


def kick(script: Script) -> None:
    """A kick: a step with the other foot, then hip and knee one after the other."""
    rng, side, leg = script.rng, int(script.rng.integers(2)), script.leg_m
    name, other, sign = FEET[side], FEET[1 - side], SIGNS[side]
    hard = rng.uniform(0.45, 1.0)
    script.step(1 - side, script.beside(1 - side, 0.4 * leg * hard, 0.0), 0.36, 0.05, 0.04 * leg)
    script.body("weight", -sign * 1.0, 0.42, 0.08)
    script.body("height", -0.035 * leg, 0.4)
    # The kicking foot leaves, swings and comes down beside the other, ahead of where it was.
    lasting = 1.3
    script.step(side, script.beside(side, 0.4 * leg * hard, 0.0), lasting, 0.42, 0.05 * leg)
    script.body(f"pitch_{name}", -40 * hard, 0.3, 0.2)
    script.body(f"pitch_{name}", 0.0, 0.8, 0.7)
    script.body(f"free_{name}", 1.0, 0.3, 0.4)
    script.angle(f"hip_forward_{name}", -16 * hard - 4, 0.3, 0.3)
    script.angle(f"knee_{name}", 85 * hard + 10, 0.3, 0.32)
    script.angle(f"ankle_{name}", -16, 0.4, 0.4)
    # The hip of the leg that swings is lifted, so that its foot clears the floor.
    script.angle("tip_side", -sign * 8, 0.4, 0.35)
    script.angle("tip_side", 0.0, 0.5, 1.0)
    swing = 0.24 / (0.7 + 0.4 * hard)
    script.angle(f"hip_forward_{name}", 25 + 45 * hard, 1.5 * swing, 0.6)
    script.angle(f"knee_{name}", 10, swing, 0.68 + 0.5 * swing)
    script.body("twist", -sign * -14 * hard, 1.5 * swing, 0.58)
    script.pose(
        {
            f"arm_out_{other}": 50 * hard + 10,
            f"arm_forward_{other}": 40 * hard,
            f"arm_out_{name}": 30,
            f"arm_forward_{name}": -25 * hard,
            "spine_forward": 14,
            "tip_forward": -6 * hard,
            "spine_turn": sign * 12 * hard,
            "neck_forward": 16,
        },
        0.6,
        0.4,
    )
    script.angle(f"hip_forward_{name}", 22, 0.45, 0.95)
    script.angle(f"knee_{name}", 32, 0.42, 0.98)
    script.angle(f"ankle_{name}", 0, 0.42, 1.0)
    script.body(f"free_{name}", 0.0, 0.42, 1.2)
    script.body("weight", 0.0, 0.5, 1.5)
    script.body("twist", 0.0, 0.5, 1.1)
    script.body("height", 0.0, 0.5, 1.5)
    script.go_on(1.4)
    script.relax(0.7, but=("hip", "knee", "ankle"))
    script.go_on(0.6)


def bow(script: Script) -> None:
    """A bow from the hips, the hips going back."""
    rng = script.rng
    deep, down = rng.uniform(0.4, 1.0), rng.uniform(0.8, 1.3)
    script.pose({"spine_forward": 40 * deep, "tip_forward": 38 * deep, "neck_forward": 8}, down)
    script.pose({"arm_forward": 40 * deep}, 1.1 * down)
    script.go_on(down + rng.uniform(0.1, 0.7))
    script.lower(rng.uniform(0.9, 1.4))


def sit(script: Script) -> None:
    """Sits down on something behind, stays, moves the arms, and stands up."""
    rng, leg = script.rng, script.leg_m
    seat, lean = rng.uniform(0.38, 0.54), rng.uniform(0.7, 1.1)
    down = rng.uniform(1.3, 2.0)
    # The trunk leans ahead while the hips go back: the mass stays over the feet until they rest.
    script.pose(
        {"spine_forward": 20 * lean, "tip_forward": 32 * lean, "neck_forward": -8}, 0.6 * down
    )
    script.pose({"arm_forward": 30, "elbow": 35}, 0.6 * down)
    script.body("height", -seat * leg, 0.85 * down, 0.12 * down)
    script.body("ahead", -0.4 * leg, 0.85 * down, 0.1 * down)
    script.body("balance", 0.0, 0.5 * down, 0.5 * down)
    script.go_on(0.95 * down)
    start = script.now_s
    script.pose({"spine_forward": 6, "tip_forward": -3, "neck_forward": 4}, 0.8)
    script.pose({"arm_forward": rng.uniform(18, 34), "elbow": rng.uniform(45, 75)}, 0.9)
    script.go_on(0.9)
    script.sits = True
    for _ in range(int(rng.integers(0, 4))):
        shift(script)
    script.sits = False
    script.go_on(rng.exponential(0.6))
    script.seats.append((start, script.now_s + 0.1))
    up = rng.uniform(1.2, 1.9)
    script.pose(
        {"spine_forward": 24 * lean, "tip_forward": 32 * lean, "neck_forward": -10}, 0.45 * up
    )
    script.pose({"arm_forward": 35, "elbow": 30}, 0.6 * up)
    script.body("balance", 1.0, 0.5 * up, 0.08 * up)
    script.body("ahead", 0.0, 0.8 * up, 0.15 * up)
    script.body("height", 0.0, 0.68 * up, 0.32 * up)
    script.pose({"spine_forward": 3, "tip_forward": 0, "neck_forward": 3}, 0.6 * up, 0.45 * up)
    script.go_on(up)
    script.lower(0.6)
