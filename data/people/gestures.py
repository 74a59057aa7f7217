"""Hands that say or hold something: letters, numbers, grips, fingers on their own, raised arms.

What poses.HANDS and postures leave out. Angles are degrees, as in poses.py; the shapes are our own,
read off what hands do, and no alphabet's exact signs.
"""

import dataclasses

import numpy as np

from data.people import poses
from data.people.config import Domain
from data.people.motion import Motion, smooth
from data.people.poses import (
    FINGER_HIGH,
    FINGER_LOW,
    HAND_NOISE,
    HAND_SIZE,
    HIGH,
    INDEX,
    LOW,
    NOISE,
    make_hand,
)

_STRAIGHT, _CURLED, _HOOKED = (2, 4, 3), (78, 95, 55), (16, 85, 50)
_STICK, _GLASS, _BALL, _ROUND = (66, 72, 38), (42, 42, 22), (28, 38, 22), (50, 50, 26)
_TUCKED = (34, -8, 40, 42)  # a thumb across curled fingers
_ASIDE = (6, 0, 4, 4)  # a thumb along the index finger
_AWAY = (-10, 26, -4, -3)
SHAPES = {
    # As letters and numbers of sign languages are shaped.
    "beside": make_hand(_ASIDE, _CURLED, _CURLED, _CURLED, _CURLED, -2),
    "across": make_hand((40, -10, 42, 42), _STRAIGHT, _STRAIGHT, _STRAIGHT, _STRAIGHT, -4),
    "bow": make_hand((20, 16, 14, 16), (26, 48, 30), (26, 48, 30), (26, 48, 30), (26, 48, 30), -3),
    "ring": make_hand((36, 8, 20, 26), _ROUND, (52, 50, 26), (54, 50, 26), (56, 50, 26), -2),
    "ring_up": make_hand((34, 6, 24, 28), _STRAIGHT, (62, 58, 28), (62, 58, 28), (60, 56, 26), 0),
    "drawn_in": make_hand((38, -6, 44, 40), (40, 96, 62), (40, 96, 62), (42, 96, 62), (42, 94, 60)),
    "ell": make_hand(_AWAY, _STRAIGHT, _CURLED, _CURLED, _CURLED),
    "two_up": make_hand(_AWAY, _STRAIGHT, _STRAIGHT, _CURLED, _CURLED, 11),
    "together": make_hand(_TUCKED, _STRAIGHT, _STRAIGHT, _CURLED, _CURLED, -6),
    "crossed": make_hand(_TUCKED, (6, 4, 3), (16, 12, 8), _CURLED, _CURLED, -9),
    "little": make_hand(_TUCKED, _CURLED, _CURLED, _CURLED, _STRAIGHT, 6),
    "horns": make_hand(_TUCKED, _STRAIGHT, _CURLED, _CURLED, _STRAIGHT, 8),
    "horns_away": make_hand(_AWAY, _STRAIGHT, _CURLED, _CURLED, _STRAIGHT, 8),
    "hooked": make_hand(_TUCKED, (8, 80, 42), _CURLED, _CURLED, _CURLED),
    "last_three": make_hand((32, 8, 22, 28), (58, 58, 28), _STRAIGHT, _STRAIGHT, _STRAIGHT, 9),
    "without_ring": make_hand((38, -4, 30, 32), _STRAIGHT, _STRAIGHT, (76, 80, 40), _STRAIGHT, 8),
    "without_middle": make_hand(_ASIDE, _STRAIGHT, (70, 40, 20), _STRAIGHT, _STRAIGHT, 10),
    "roof": make_hand((26, 2, 8, 10), (72, 8, 4), (72, 8, 4), (72, 8, 4), (72, 8, 4), -4),
    # Grips. What is held is not there: the shapes are.
    "stick": make_hand((36, 2, 32, 34), _STICK, _STICK, _STICK, (68, 72, 38), -3),
    "glass": make_hand((32, 18, 16, 20), _GLASS, _GLASS, (44, 44, 24), (46, 44, 24), 2),
    "ball": make_hand((24, 24, 16, 22), _BALL, _BALL, _BALL, _BALL, 13),
    "handle": make_hand((2, 4, 8, 8), _HOOKED, _HOOKED, _HOOKED, _HOOKED, -2),
    "key": make_hand((18, -4, 16, 12), (44, 72, 40), (56, 78, 42), (62, 80, 44), (64, 80, 44), -2),
    "pen": make_hand((30, 8, 22, 24), (44, 40, 16), (52, 50, 26), (60, 62, 32), (64, 62, 32), -2),
    "mouse": make_hand((4, 14, 6, 6), (10, 22, 10), (10, 22, 10), (18, 28, 14), (20, 28, 14), 6),
    "board": make_hand((22, 4, 6, 12), (68, 24, 10), (68, 24, 10), (68, 24, 10), (66, 24, 10), 1),
    "plate": make_hand((-6, 18, 2, 2), (6, 14, 8), (2, 12, 8), (2, 12, 8), (6, 14, 8), 12),
    "pinch_three": make_hand((34, 8, 16, 22), _ROUND, (50, 48, 24), (34, 34, 18), (26, 28, 16), 3),
    "beak": make_hand((32, 6, 8, 8), (54, 10, 6), (56, 10, 6), (56, 10, 6), (54, 10, 6), -5),
    "scissors": make_hand((30, 10, 22, 18), (30, 34, 14), (44, 46, 22), _CURLED, _CURLED, 8),
    "rest": make_hand((12, 6, 10, 10), (30, 36, 18), (38, 42, 22), (42, 44, 24), (40, 42, 22), 1),
    "half_fist": make_hand((22, 0, 24, 24), (56, 66, 34), (62, 70, 38), (64, 72, 40), (64, 70, 38)),
    "push": make_hand((-4, 18, 0, -4), (-13, 6, 4), (-14, 6, 4), (-14, 6, 4), (-12, 6, 4), 5),
}
LONG_FINGERS = np.arange(4, 16).reshape(4, 3)  # their root, middle and end joints
COUPLING = 0.62  # the end joint's bend over the middle joint's: one tendon bends both
LEAST_END_DEG, MOST_END_DEG = -8.0, 75.0
# Kinds of hands where fingers vary: a written shape, fingers that bend alike, each on its own.
WRITTEN, ALIKE, APART = range(3)
KIND_SHARES = (0.45, 0.3, 0.25)
# Arms that show their hands, each angle drawn evenly: before the chest, at the face, out to a side.
RAISED = {
    "arm_forward": (-10.0, 105.0),
    "arm_out": (0.0, 65.0),
    "arm_turn": (-60.0, 70.0),
    "arm_across": (-15.0, 55.0),
    "elbow": (25.0, 140.0),
    "pronate": (-80.0, 80.0),
    "wrist_flex": (-50.0, 55.0),
    "wrist_tilt": (-16.0, 24.0),
}


def add_gestures(rng: np.random.Generator, moves: Motion, domain: Domain) -> Motion:
    """The Motion with other fingers and arms, by the domain's shares; as it is where they are 0."""
    if rng.random() < domain.gesture_share:
        moves = raise_arms(rng, moves)
    return vary_fingers(rng, moves, domain.finger_share)


def vary_fingers(rng: np.random.Generator, moves: Motion, share: float) -> Motion:
    """The Motion with a share of its hands replaced by others, as they move at its instants.

    Args:
        share: of 0 to 1.
    """
    hands = moves.hands.copy()
    for side in range(2):
        if rng.random() < share:
            first, last = _draw_hand(rng), _draw_hand(rng)
            part = _partly(rng, moves)
            hands[:, side] = first * (1 - part) + last * part
    return dataclasses.replace(moves, hands=hands)


def raise_arms(rng: np.random.Generator, moves: Motion) -> Motion:
    """The Motion with arms that show their hands, turned every way; the rest stays as it is."""
    angles = moves.angles.copy()
    for side in ("left", "right"):
        which = [INDEX[f"{name}_{side}"] for name in RAISED]
        low, high = np.array(list(RAISED.values())).T
        first, last = rng.uniform(low, high, (2, len(which)))
        part = _partly(rng, moves)
        arm = first * (1 - part) + last * part + rng.normal(0, 0.3, len(which)) * NOISE[which]
        angles[:, which] = np.clip(arm, LOW[which], HIGH[which])
    return dataclasses.replace(moves, angles=angles)


def _partly(rng: np.random.Generator, moves: Motion) -> np.ndarray:
    """(T, 1) how far a move has come at each instant; most are not finished within the clip."""
    times_s = moves.times_s
    move_s = rng.uniform(0.5, 1.6)
    start = rng.uniform(-0.5, 0.5) * move_s
    return smooth(np.clip((times_s - start) / move_s, 0, 1))[:, None]


def _draw_hand(rng: np.random.Generator) -> np.ndarray:
    """(17,) angles of one hand."""
    kind = rng.choice(3, p=KIND_SHARES)
    if kind == WRITTEN:
        return _draw_written(rng)
    return _draw_free(rng, alike=kind == ALIKE)


def _draw_written(rng: np.random.Generator) -> np.ndarray:
    """One shape, a little of another, and noise."""
    table = np.stack([*poses.HANDS.values(), *SHAPES.values()])
    one, other = table[rng.integers(len(table), size=2)]
    share = rng.beta(0.5, 2.5)
    return _within_limits(one * (1 - share) + other * share + _noise(rng))


def _draw_free(rng: np.random.Generator, alike: bool) -> np.ndarray:
    """Fingers that bend by drawn shares of their range, as tendons couple their joints.

    Args:
        alike: neighbouring fingers bend nearly alike; else each is straight, bent or between.
    """
    out = np.zeros(HAND_SIZE)
    if alike:
        bent = rng.uniform(0, 1) + rng.normal(0, 0.12) * np.arange(-1.5, 2) + rng.normal(0, 0.07, 4)
    else:
        bent = rng.beta(0.35, 0.35, 4)
        bent[2] = 0.7 * bent[2] + 0.3 * (bent[1] + bent[3]) / 2  # the ring finger follows
    bent = np.clip(bent, 0, 1)
    # At the roots first (as to a flat thing), at the middle joints first (as a hook), or even.
    lean = rng.normal(0, 0.3)
    root = np.clip(bent + lean * bent * (1 - bent) * 2, 0, 1)
    middle = np.clip(bent - lean * bent * (1 - bent) * 2, 0, 1)
    out[LONG_FINGERS[:, 0]] = -12 + 92 * root + rng.normal(0, 4, 4)
    out[LONG_FINGERS[:, 1]] = 98 * middle + rng.normal(0, 4, 4)
    out[LONG_FINGERS[:, 2]] = COUPLING * out[LONG_FINGERS[:, 1]] + rng.normal(0, 6, 4)
    out[16] = rng.uniform(-4, 15) * (1 - 0.8 * bent.mean())
    out[:4] = _draw_thumb(rng, bent)
    return _within_limits(out)


def _draw_thumb(rng: np.random.Generator, bent: np.ndarray) -> np.ndarray:
    """(4,) a thumb's angles that go with the (4,) fingers' bends: none through a closed fist."""
    if bent[:2].mean() > 0.6:
        written = (_TUCKED, _ASIDE, _AWAY, SHAPES["stick"][:4])
        return np.array(written[rng.integers(len(written))]) + rng.normal(0, 1, 4) * HAND_NOISE[:4]
    end = rng.uniform(-6, 40)
    return np.array([rng.uniform(-12, 36), rng.uniform(-8, 28), 0.7 * end + rng.normal(0, 5), end])


def _noise(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(0, 1, HAND_SIZE) * HAND_NOISE


def _within_limits(hand: np.ndarray) -> np.ndarray:
    hand[LONG_FINGERS] = np.clip(hand[LONG_FINGERS], FINGER_LOW, FINGER_HIGH)
    hand[LONG_FINGERS[:, 1]] = np.maximum(
        hand[LONG_FINGERS[:, 1]], -5
    )  # no middle joint bends back
    ends = LONG_FINGERS[:, 2]
    hand[ends] = np.clip(hand[ends], LEAST_END_DEG, MOST_END_DEG)
    return hand
