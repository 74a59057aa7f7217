"""Angles with which a hand comes to a point: arm, shoulder and trunk together.

On a figure of sticks whose lengths are shares of its height (Drillis and Contini 1966, in Winter,
"Biomechanics and Motor Control of Human Movement", figure 4.1), by damped least squares that keep
joints near where they are comfortable.
"""

from collections.abc import Mapping

import numpy as np

from data.people.poses import HIGH, INDEX, LOW, REST

# Shares of the height.
HIP_M, SHOULDER_M = 0.530, 0.818
HALF_WIDTH_M, UPPER_M, FORE_M = 0.115, 0.186, 0.146
PALM_M = 0.06
ROUNDS = 10
# What moves, how stiff it is against leaving rest, in units of an elbow: the trunk comes along
# when the arm is too short.
STIFF = {
    **{"arm_forward": 0.7, "arm_out": 1.0, "arm_turn": 1.2, "arm_across": 2.5, "elbow": 0.7},
    **{"spine_forward": 3.0, "spine_turn": 2.5, "spine_side": 4.0, "tip_forward": 4.0},
}
TRUNK = ("spine_forward", "spine_turn", "spine_side", "tip_forward")
_WEIGHT = 0.03  # of comfort, in metres for a radian


def _turn_x(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1.0, 0, 0], [0, c, -s], [0, s, c]])


def _turn_y(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1.0, 0], [-s, 0, c]])


def _turn_z(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


def find_palm(angles: Mapping[str, float], sign: float, height_m: float) -> np.ndarray:
    """(3,) metres of a palm from between the hips, x left, -y ahead, z up.

    Args:
        angles: {name without a side: degrees}; sign: 1 left, -1 right.  height_m: of the figure.
    """
    get = {name: np.deg2rad(value) for name, value in angles.items()}
    trunk = _turn_x(get["tip_forward"]) @ (
        _turn_z(get["spine_turn"]) @ _turn_y(get["spine_side"]) @ _turn_x(get["spine_forward"])
    )
    arm = (
        _turn_z(-sign * get["arm_across"])
        @ _turn_x(-get["arm_forward"])
        @ _turn_y(-sign * get["arm_out"])
        @ _turn_z(-sign * get["arm_turn"])
    )
    fore = _turn_x(-get["elbow"]) @ np.array([0, 0, -(FORE_M + PALM_M)])
    shoulder = np.array([sign * HALF_WIDTH_M, 0, SHOULDER_M - HIP_M])
    return height_m * (trunk @ (shoulder + arm @ (fore - [0, 0, UPPER_M])))


def reach_point(
    point: np.ndarray, sign: float, height_m: float, trunk: Mapping[str, float] | None = None
) -> dict[str, float]:
    """{name without a side: degrees} that bring a palm to a point (3,) as in find_palm, or near it.

    Args:
        trunk: angles of the trunk that are kept; it helps by itself where they are not given.
    """
    names = [name for name in STIFF if trunk is None or name not in TRUNK]
    column = {name: INDEX.get(name, INDEX.get(f"{name}_left", -1)) for name in STIFF}
    rest = np.deg2rad([REST[column[name]] for name in names])
    low, high = (np.deg2rad([part[column[name]] for name in names]) for part in (LOW, HIGH))
    stiff = _WEIGHT * np.array([STIFF[name] for name in names])
    kept = dict(trunk or {})
    kept = {name: kept.get(name, 0.0) for name in TRUNK}
    now = rest + np.deg2rad([25.0 if name in ("arm_forward", "elbow") else 0.0 for name in names])

    def place(values: np.ndarray) -> np.ndarray:
        return find_palm(
            {**kept, **dict(zip(names, np.rad2deg(values), strict=True))}, sign, height_m
        )

    for _ in range(ROUNDS):
        here = place(now)
        slopes = np.stack(
            [(place(now + 1e-4 * unit) - here) / 1e-4 for unit in np.eye(len(now))], 1
        )
        left = np.concatenate([point - here, stiff * (rest - now)])
        matrix = np.concatenate([slopes, np.diag(stiff)])
        change = np.linalg.lstsq(matrix, left, rcond=None)[0]
        now = np.clip(now + np.clip(change, -0.6, 0.6), low, high)
    return dict(zip(names, np.rad2deg(now).tolist(), strict=True))
