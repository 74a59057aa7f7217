"""What people do for exercise or fun where they stand: knee bends, lunges, boxing, dancing."""

import numpy as np

from data.people.actions.script import FEET, SIGNS, Script


def lunge(script: Script) -> None:
    """Steps ahead into a deep stride, and back, a few times."""
    rng, leg = script.rng, script.leg_m
    side, deep = int(rng.integers(2)), rng.uniform(0.2, 0.42)
    arms = rng.random() < 0.5
    for _ in range(int(rng.integers(1, 4))):
        name, other = FEET[side], FEET[1 - side]
        down, up = rng.uniform(0.9, 1.3), rng.uniform(0.8, 1.2)
        back = script.feet.last(side)
        ahead = script.beside(side, (0.62 + 0.4 * deep) * leg, 0.0)
        script.step(side, ahead, 0.6 * down, 0.1 * down, 0.06 * leg)
        script.body("height", -deep * leg, 0.85 * down, 0.15 * down)
        script.body(f"pitch_{other}", -30 - 55 * deep, 0.8 * down, 0.2 * down)
        script.body("weight", -SIGNS[1 - side] * 0.1, down)
        if arms:
            script.pose({f"arm_forward_{other}": 40, f"arm_forward_{name}": -25, "elbow": 75}, down)
        else:
            hips = {"arm_out": 42, "arm_turn": 45, "elbow": 95, "pronate": 40, "wrist_flex": 25}
            script.pose(hips, down)
        script.go_on(down + rng.uniform(0, 0.25))
        script.step(side, back, 0.6 * up, 0.3 * up, 0.05 * leg)
        script.body("height", 0.0, 0.8 * up)
        script.body(f"pitch_{other}", 0.0, 0.6 * up)
        script.body("weight", 0.0, up)
        script.go_on(up + rng.uniform(0, 0.2))
        side = 1 - side
    script.lower(0.7)


def squat(script: Script) -> None:
    """Knee bends, a few times."""
    rng, leg = script.rng, script.leg_m
    _widen(script, rng.uniform(1.0, 1.9), rng.uniform(5, 18))
    deep = rng.uniform(0.2, 0.46)
    arms = rng.uniform(55, 90) if rng.random() < 0.7 else 5.0
    for _ in range(int(rng.integers(1, 5))):
        down, up = rng.uniform(0.8, 1.3), rng.uniform(0.7, 1.1)
        script.body("height", -deep * leg, down)
        script.pose(
            {"spine_forward": 20 * deep / 0.4, "tip_forward": 26 * deep / 0.4, "arm_forward": arms}
            | {"elbow": 15, "neck_forward": -12},
            down,
        )
        script.go_on(down + rng.uniform(0, 0.2))
        script.body("height", 0.0, up)
        script.pose({"spine_forward": 3, "tip_forward": 0, "arm_forward": 5, "neck_forward": 3}, up)
        script.go_on(up + rng.uniform(0, 0.2))
    script.lower(0.6)
    _widen(script, 1.0, 0.0)


def lift_arms(script: Script) -> None:
    """Arms go up ahead or aside, or bend, again and again."""
    rng = script.rng
    kind = ("arm_out", "arm_forward", "elbow")[int(rng.integers(3))]
    low, high = {"arm_out": (8, 150), "arm_forward": (0, 165), "elbow": (12, 132)}[kind]
    top = low + (high - low) * rng.uniform(0.5, 1.0)
    turns = rng.random() < 0.4
    for k in range(int(rng.integers(2, 6))):
        up, down = rng.uniform(0.6, 1.1), rng.uniform(0.6, 1.1)
        names = [f"{kind}_{FEET[k % 2]}"] if turns else [kind]
        script.pose(dict.fromkeys(names, top), up)
        script.go_on(up + rng.uniform(0, 0.15))
        script.pose(dict.fromkeys(names, low), down)
        script.go_on((0.5 if turns else 1.0) * down + rng.uniform(0, 0.1))
    script.lower(0.6)


def punch(script: Script) -> None:
    """Boxing at the air: a guard, and straight punches from it."""
    rng = script.rng
    guard = {"arm_forward": 42, "elbow": 125, "arm_turn": 25, "arm_across": 8, "arm_out": 10}
    script.step(0, script.beside(0, 0.3 * script.leg_m, 0.0), 0.35, 0.1, 0.04)
    script.body("height", -0.06 * script.leg_m, 0.5)
    for side in range(2):
        script.hand(side, "fist", 0.0, 0.4)
    script.pose({**guard, "spine_forward": 12}, 0.5)
    script.go_on(0.5)
    for _ in range(int(rng.integers(2, 6))):
        side = int(rng.integers(2))
        name, sign, out = FEET[side], SIGNS[side], rng.uniform(0.17, 0.24)
        script.body("twist", -sign * 12, 1.3 * out)
        script.angle("spine_turn", -sign * 18, 1.3 * out, 0.02)
        script.angle(f"arm_forward_{name}", 86, out, 0.05)
        script.angle(f"elbow_{name}", 12, out, 0.06)
        script.angle(f"pronate_{name}", 50, out, 0.06)
        script.go_on(out + 0.09)
        script.body("twist", 0.0, 0.3)
        script.angle("spine_turn", 0.0, 0.3)
        script.angle(f"elbow_{name}", 125, 0.28)
        script.angle(f"arm_forward_{name}", 42, 0.3, 0.02)
        script.angle(f"pronate_{name}", 0, 0.28)
        script.go_on(0.32 + rng.exponential(0.2))
    script.stand_again(0, 0.8)


def dance(script: Script) -> None:
    """Weight from foot to foot at a beat, with hips, arms and head."""
    rng, leg = script.rng, script.leg_m
    beat = rng.uniform(0.42, 0.62)
    wide, dip = rng.uniform(0.4, 0.85), rng.uniform(0.02, 0.06) * leg
    arms = rng.uniform(0, 60, 2)
    script.pose({"elbow": 70, "arm_out": 25}, 0.6)
    for k in range(2 * int(rng.integers(2, 6))):
        sign = 1 if k % 2 else -1
        script.body("weight", sign * wide, 1.1 * beat)
        script.body("height", -dip, 0.55 * beat)
        script.body("height", -0.2 * dip, 0.55 * beat, 0.5 * beat)
        script.body("twist", sign * 9, 1.1 * beat)
        script.pose(
            {
                "tip_side": -sign * 3,
                "spine_turn": -sign * 14,
                "spine_side": sign * 7,
                "arm_forward_left": arms[0] + sign * 22,
                "arm_forward_right": arms[1] - sign * 22,
                "neck_side": -sign * 5,
            },
            1.15 * beat,
        )
        step = 1 if sign > 0 else 0  # the foot without weight taps
        script.step(step, script.feet.last(step), 0.5 * beat, 0.3 * beat, 0.03 * leg)
        script.go_on(beat)
    script.body("weight", 0.0, 0.6)
    script.body("height", 0.0, 0.6)
    script.body("twist", 0.0, 0.6)
    script.lower(0.7)


def stretch(script: Script) -> None:
    """Arms high overhead, up onto the toes, a bend to one side."""
    rng = script.rng
    up = rng.uniform(1.0, 1.6)
    script.pose({"arm_forward": 160, "elbow": 15, "spine_forward": -10, "neck_forward": -20}, up)
    if rng.random() < 0.6:
        for name in FEET:
            script.body(f"pitch_{name}", -rng.uniform(22, 34), up)
        script.body("height", 0.06 * script.leg_m, up)
    script.go_on(up + 0.2)
    bend = rng.choice([-1, 1]) * rng.uniform(0, 24)
    script.pose({"spine_side": bend, "neck_side": 0.4 * bend}, 0.9)
    script.go_on(0.9 + rng.uniform(0, 0.5))
    for name in FEET:
        script.body(f"pitch_{name}", 0.0, 0.9)
    script.body("height", 0.0, 0.9)
    script.lower(1.1)


def raise_knee(script: Script) -> None:
    """Stands on one leg, or steps on the spot with high knees."""
    rng, leg = script.rng, script.leg_m
    side, high = int(rng.integers(2)), rng.uniform(40, 95)
    for _ in range(int(rng.integers(1, 5))):
        name, other, sign = FEET[side], FEET[1 - side], SIGNS[side]
        up, hold, down = rng.uniform(0.45, 0.7), rng.exponential(0.3), rng.uniform(0.45, 0.7)
        script.body("weight", -sign, 0.5)
        script.go_on(0.3)
        script.step(side, script.feet.last(side), up + hold + down, 0.0, 0.03 * leg)
        script.body(f"free_{name}", 1.0, 0.6 * up)
        script.angle(f"hip_forward_{name}", high, up)
        script.angle(f"knee_{name}", 1.05 * high, up)
        script.pose({f"arm_forward_{other}": 0.45 * high, f"elbow_{other}": 0.8 * high}, up)
        script.go_on(up + hold)
        script.angle(f"hip_forward_{name}", 10, down)
        script.angle(f"knee_{name}", 16, down)
        script.body(f"free_{name}", 0.0, 0.6 * down, 0.4 * down)
        script.pose({f"arm_forward_{other}": 0, f"elbow_{other}": 18}, down)
        script.go_on(down)
        side = 1 - side
    script.body("weight", 0.0, 0.5)
    script.lower(0.5)


def _widen(script: Script, wide: float, out_deg: float) -> None:
    """Small steps to a stance so many times as wide, toes that much farther out."""
    middle, heading = script.middle(), script.heading_deg
    for side in range(2):
        place = script.stance_place(side, middle, heading, wide)
        place[2] += SIGNS[side] * out_deg
        if np.abs(place - script.feet.last(side)).max() < 1e-3:
            continue
        script.body("weight", -SIGNS[side] * 0.8, 0.28)
        script.step(side, place, 0.3, 0.22, 0.03 * script.leg_m)
        script.go_on(0.46)
    script.body("weight", 0.0, 0.4)
    script.go_on(0.2)
