"""Jumps and hops: bodies in the air fall as they must."""

import numpy as np

from data.people.actions.script import FEET, Script

# Of adults without training, jumping from standing with a dip first: about 0.2 to 0.4 m.
RISES_M = (0.1, 0.36)


def jump(script: Script) -> None:
    """Jumps from both feet, up or ahead, with the arms."""
    rng, leg = script.rng, script.leg_m
    for _ in range(int(rng.choice([1, 2, 3], p=[0.6, 0.25, 0.15]))):
        rise = rng.uniform(*RISES_M) * leg / 0.86
        ahead = rng.uniform(0.2, 0.7) * leg if rng.random() < 0.45 else 0.0
        _jump_once(script, rise, ahead)
    script.relax(0.7)
    script.go_on(0.4)


def _jump_once(script: Script, rise: float, ahead: float) -> None:
    rng, leg, start = script.rng, script.leg_m, script.now_s
    crouch, leave = (0.14 + 0.5 * rise) * leg / 0.86, 0.085 * leg / 0.86
    off, land, over = script.heights.add_jump(start, crouch, leave, rise)
    push = off - start
    arms = rng.uniform(0.4, 1.0)
    script.body("air", 1.0, 0.8 * push)
    script.pose({"arm_forward": -45 * arms, "elbow": 15, "spine_forward": 22}, 0.62 * push)
    script.pose({"tip_forward": 24, "neck_forward": -14}, 0.62 * push)
    up = 0.42 * push
    script.pose({"arm_forward": 40 + 110 * arms, "elbow": 25}, up + 0.12, push - up)
    script.pose({"spine_forward": -2, "tip_forward": 2, "neck_forward": -8}, up, push - up)
    for side, name in enumerate(FEET):
        script.body(f"pitch_{name}", -58, 0.3, push - 0.2)
        script.body(f"pitch_{name}", -36, 0.75 * (land - off), off + 0.2 * (land - off) - start)
        script.body(f"pitch_{name}", 0.0, 0.14, land - 0.035 - start)
        place = script.beside(side, ahead, 0.0)
        tuck = 0.25 * rise * rng.uniform(0.2, 1.5)
        script.step(side, place, land - off, off - start, tuck, hops=True)
    if ahead:
        _travel(script, ahead, off - start, land - off)
    script.pose({"arm_forward": 25, "elbow": 35}, 0.5, land - 0.15 - start)
    script.pose({"spine_forward": 18, "tip_forward": 18}, 0.35, land - 0.05 - start)
    script.pose(
        {"spine_forward": 3, "tip_forward": 0, "neck_forward": 3}, over - land, land + 0.3 - start
    )
    script.pose({"arm_forward": 0, "elbow": 18}, 0.6, land + 0.35 - start)
    script.body("air", 0.0, 0.7 * (over - land), land + 0.3 * (over - land) - start)
    script.go_on(over - start)


def _travel(script: Script, ahead: float, off_s: float, fly_s: float) -> None:
    """The body goes ahead at an even speed while it is in the air."""
    speed_up = min(0.3, off_s)
    slow_down = 0.3
    speed = ahead / (fly_s + (speed_up + slow_down) / 2)
    script.body("balance", 0.0, 0.5 * off_s, 0.4 * off_s)
    script.body("speed", speed, speed_up, off_s - speed_up)
    script.body("speed", 0.0, slow_down, off_s + fly_s)
    script.body("balance", 1.0, 0.5, off_s + fly_s + 0.15)


def jacks(script: Script) -> None:
    """Jumping jacks: feet apart and together while the arms go up and down."""
    _bounce(script, apart=True)


def hop(script: Script) -> None:
    """Small jumps on the spot, as with a rope."""
    _bounce(script, apart=False)


def _bounce(script: Script, apart: bool) -> None:
    rng, leg, start = script.rng, script.leg_m, script.now_s
    size = leg / 0.86
    period = (rng.uniform(0.46, 0.58) if apart else rng.uniform(0.38, 0.5)) * np.sqrt(size)
    touch = period * rng.uniform(0.5, 0.62)
    count = 2 * int(rng.integers(2, 6))
    first = 0.35 + period
    script.body("height", -0.06 * size, 0.4)
    script.heights.add_run(start + first, touch, period, count)
    script.body("air", 1.0, 0.3, first - 0.35)
    high = rng.uniform(100, 160)
    if not apart:
        script.pose({"elbow": 85, "arm_out": 18, "arm_forward": -10}, 0.5)
    here = [script.feet.last(side) for side in range(2)]
    for k in range(count):
        opens = apart and k % 2 == 0
        off = first + k * period + touch
        for side, name in enumerate(FEET):
            aside = 0.24 * leg if opens else 0.0
            place = here[side].copy()
            way = script.beside(side, 0.0, aside) - script.feet.last(side)
            place += way
            script.step(side, place, period - touch, off, 0.015 * size, hops=True)
            script.body(f"pitch_{name}", -30, 0.5 * touch, off - 0.45 * touch)
            script.body(f"pitch_{name}", -14, period - touch, off + 0.1 * touch)
            script.body(f"pitch_{name}", -3, 0.5 * touch, off + period - touch)
        if apart:
            arms = {"arm_out": high if opens else 10, "elbow": 12 if opens else 18}
            for name, to in arms.items():
                for foot in FEET:
                    late = rng.normal(0, 0.01)
                    script.angle(f"{name}_{foot}", to, 0.98 * period, off - 0.45 * touch + late)
    last = first + count * period
    for name in FEET:
        script.body(f"pitch_{name}", 0.0, 0.2, last + 0.1)
    script.body("air", 0.0, 0.3, last + period)
    script.body("height", 0.0, 0.5, last + 0.6 * period)
    script.go_on(last + period)
    script.relax(0.7)
    script.go_on(0.5)
