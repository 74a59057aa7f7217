"""The ways a body can bend.

Its degrees of freedom with limits, and postures written by hand from them.

Everything is in degrees. An angle is anatomical: it rotates about a fixed axis of the body, so
limits and postures read as they would in a textbook, and mirroring swaps left and right. rig.py
turns angles into joint rotations.

The limits are round numbers near what healthy adults reach; they and the postures are our own.
"""

from collections.abc import Sequence

import numpy as np

# name: (lowest, highest, standard deviation of the noise added to a posture, value at rest)
SIDED = {
    "arm_forward": (-50, 175, 10, 0),
    "arm_out": (-5, 170, 8, 8),
    "arm_turn": (-70, 80, 12, 0),
    "arm_across": (-40, 110, 6, 0),
    "elbow": (3, 145, 12, 18),
    "pronate": (-80, 80, 18, 0),
    "wrist_flex": (-65, 75, 14, 0),
    "wrist_tilt": (-20, 30, 7, 0),
    "hip_forward": (-25, 120, 5, 0),
    "hip_out": (-15, 55, 3.5, -1),
    "hip_turn": (-35, 40, 6, 4),
    "knee": (0, 148, 5, 4),
    "ankle": (-40, 25, 6, 0),
    "toes": (-30, 50, 5, 0),
}
CENTRAL = {
    "spine_forward": (-25, 75, 4, 3),
    "spine_side": (-30, 30, 4, 0),
    "spine_turn": (-45, 45, 6, 0),
    "neck_forward": (-45, 45, 9, 3),
    "neck_side": (-25, 25, 6, 0),
    "neck_turn": (-65, 65, 14, 0),
    "tip_forward": (-90, 95, 3, 0),
    "tip_side": (-90, 90, 2, 0),
}
NAMES = [f"{name}_{side}" for name in SIDED for side in ("left", "right")] + list(CENTRAL)
INDEX = {name: i for i, name in enumerate(NAMES)}
_ROWS = [row for row in SIDED.values() for _ in range(2)] + list(CENTRAL.values())
LOW, HIGH, NOISE, REST = np.array(_ROWS, np.float64).T
IS_UPPER = np.array(
    [name.startswith(("arm", "elbow", "pronate", "wrist", "neck")) for name in NAMES]
)

_TURNS_OVER = ("spine_side", "spine_turn", "neck_side", "neck_turn", "tip_side")
_MIRROR_SIGN = np.array([-1.0 if name in _TURNS_OVER else 1.0 for name in NAMES])
_MIRROR_INDEX = np.array(
    [
        INDEX[
            name.replace("_left", "_RIGHT").replace("_right", "_left").replace("_RIGHT", "_right")
        ]
        for name in NAMES
    ]
)


def mirror_angles(angles: np.ndarray) -> np.ndarray:
    """(..., 36) angles of the same posture seen in a mirror."""
    return angles[..., _MIRROR_INDEX] * _MIRROR_SIGN


def _posture(**angles):
    values = REST.copy()
    for name, value in angles.items():
        if name in INDEX:
            values[INDEX[name]] = value
        else:
            values[INDEX[name + "_left"]] = values[INDEX[name + "_right"]] = value
    return values


POSTURES = {
    "stand": _posture(),
    "relaxed": _posture(
        hip_forward_left=6, knee_left=10, hip_out_right=6, spine_side=3, neck_turn=10
    ),
    "apose": _posture(arm_out=40),
    "tpose": _posture(arm_out=88, elbow=6),
    "hands_on_hips": _posture(
        arm_out=42, arm_turn=45, elbow=95, arm_forward=-5, pronate=40, wrist_flex=25
    ),
    "one_hip": _posture(
        arm_out_left=42,
        arm_turn_left=45,
        elbow_left=95,
        pronate_left=40,
        wrist_flex_left=25,
        spine_side=5,
    ),
    "crossed": _posture(
        arm_forward=38, arm_across=32, arm_out=5, arm_turn=35, elbow=112, pronate=10
    ),
    "akimbo": _posture(arm_out=45, arm_turn=50, elbow=100, arm_forward=-8, hip_out=14),
    "wave": _posture(arm_out_right=95, arm_turn_right=-75, elbow_right=95, pronate_right=-10),
    "wave_both": _posture(arm_out=120, arm_turn=-60, elbow=50),
    "arms_up": _posture(arm_forward=165, arm_out=10, elbow=10),
    "cheer": _posture(arm_out=145, arm_turn=-30, elbow=25, hip_out=10, spine_forward=-6),
    "reach": _posture(arm_forward_right=88, elbow_right=12, spine_turn=15, hip_forward_left=10),
    "reach_both": _posture(arm_forward=80, elbow=20, spine_forward=8),
    "point": _posture(arm_forward_left=80, arm_across_left=-10, elbow_left=8, neck_turn=25),
    "phone": _posture(
        arm_forward_right=45, arm_turn_right=35, elbow_right=138, pronate_right=-20, neck_side=-6
    ),
    "look_at_phone": _posture(arm_forward=30, arm_turn=30, elbow=105, pronate=-40, neck_forward=25),
    "think": _posture(
        arm_forward_right=45,
        arm_across_right=25,
        elbow_right=130,
        arm_forward_left=30,
        arm_across_left=35,
        elbow_left=95,
        neck_forward=12,
    ),
    "hold": _posture(arm_forward=25, elbow=85, arm_turn=10, pronate=-40),
    "carry": _posture(arm_forward=15, elbow=90, pronate=-60, arm_turn=0),
    "clap": _posture(arm_forward=50, arm_turn=40, elbow=80, arm_across=12),
    "hands_on_head": _posture(arm_out=110, arm_turn=-55, elbow=135, arm_forward=10),
    "hand_on_neck": _posture(arm_out_right=110, arm_turn_right=-50, elbow_right=138),
    "hand_on_face": _posture(
        arm_forward_right=60,
        arm_across_right=15,
        elbow_right=135,
        arm_turn_right=20,
        neck_forward=8,
    ),
    "pocket": _posture(arm_out=14, arm_turn=20, elbow=40, arm_forward=-8),
    "hands_behind": _posture(arm_forward=-35, arm_turn=60, elbow=70, arm_out=12),
    "sit": _posture(
        hip_forward=88, knee=88, hip_out=8, arm_forward=20, elbow=45, tip_forward=0, spine_forward=6
    ),
    "sit_loose": _posture(
        hip_forward=85,
        knee_left=85,
        knee_right=60,
        hip_out=18,
        arm_forward=28,
        elbow=65,
        spine_forward=14,
    ),
    "sit_cross": _posture(
        hip_forward=92,
        knee=95,
        hip_out_left=-6,
        hip_out=4,
        arm_forward=30,
        elbow=80,
        neck_forward=15,
    ),
    "floor": _posture(
        hip_forward=95,
        hip_out=38,
        hip_turn=-25,
        knee=125,
        spine_forward=15,
        arm_forward=35,
        elbow=50,
    ),
    "squat": _posture(
        hip_forward=112,
        knee=130,
        hip_out=22,
        ankle=18,
        spine_forward=18,
        arm_forward=70,
        elbow=30,
        tip_forward=22,
    ),
    "kneel": _posture(
        hip_forward_left=90,
        knee_left=92,
        hip_forward_right=-3,
        knee_right=98,
        ankle=-20,
        arm_forward=20,
        elbow=40,
    ),
    "kneel_low": _posture(hip_forward=20, knee=140, ankle=-35, arm_forward=15, elbow=35),
    "lunge": _posture(
        hip_forward_left=72,
        knee_left=80,
        hip_forward_right=-18,
        knee_right=22,
        ankle_right=20,
        arm_forward_right=30,
        elbow_right=70,
        arm_forward_left=-25,
        elbow_left=60,
    ),
    "lunge_side": _posture(
        hip_out_left=38,
        hip_out_right=10,
        knee_left=55,
        hip_forward_left=45,
        spine_side=10,
        arm_out=70,
    ),
    "bow": _posture(
        hip_forward=40, spine_forward=40, arm_forward=45, tip_forward=38, neck_forward=5
    ),
    "pick_up": _posture(
        hip_forward=75,
        knee=50,
        spine_forward=45,
        tip_forward=48,
        arm_forward=65,
        elbow=12,
        neck_forward=-15,
    ),
    "touch_floor": _posture(
        hip_forward=60, spine_forward=55, tip_forward=58, arm_forward=90, elbow=8, knee=8
    ),
    "kick": _posture(
        hip_forward_right=75,
        knee_right=20,
        hip_forward_left=-4,
        arm_out=35,
        arm_out_left=60,
        elbow=40,
        tip_forward=-8,
    ),
    "knee_up": _posture(
        hip_forward_left=95,
        knee_left=95,
        arm_forward_right=55,
        elbow_right=85,
        elbow_left=60,
        arm_forward_left=-20,
    ),
    "balance": _posture(
        hip_out_right=38,
        hip_turn_right=-35,
        hip_forward_right=55,
        knee_right=125,
        arm_forward=155,
        elbow=25,
    ),
    "throw": _posture(
        arm_out_right=95,
        arm_turn_right=-70,
        elbow_right=90,
        arm_forward_left=70,
        elbow_left=15,
        spine_turn=-25,
        hip_forward_left=30,
        knee_left=15,
    ),
    "punch": _posture(
        arm_forward_left=85,
        elbow_left=10,
        arm_forward_right=30,
        elbow_right=125,
        arm_turn_right=30,
        spine_turn=-20,
        hip_forward_left=20,
        knee_left=15,
        knee_right=15,
    ),
    "guard": _posture(
        arm_forward=50, elbow=125, arm_turn=25, arm_across=10, knee=15, hip_forward=12
    ),
    "golf": _posture(
        arm_forward=40,
        arm_across=28,
        elbow=15,
        spine_forward=25,
        tip_forward=15,
        hip_forward=15,
        knee=15,
        spine_turn=20,
    ),
    "swing": _posture(
        arm_forward_left=95,
        arm_across_left=45,
        elbow_left=20,
        arm_forward_right=70,
        elbow_right=70,
        spine_turn=40,
        knee=15,
    ),
    "jump": _posture(hip_forward=35, knee=65, ankle=-30, arm_forward=130, elbow=30),
    "star": _posture(arm_out=125, hip_out=28, elbow=8),
    "dance": _posture(
        arm_out_left=115,
        elbow_left=60,
        arm_turn_left=-50,
        arm_out_right=50,
        elbow_right=80,
        arm_turn_right=30,
        hip_out_right=20,
        knee_right=30,
        spine_side=-12,
        spine_turn=15,
    ),
    "dance_kick": _posture(
        arm_out_left=80,
        elbow_left=70,
        arm_turn_left=-60,
        arm_out_right=85,
        elbow_right=50,
        arm_turn_right=40,
        hip_forward_left=40,
        knee_left=70,
        spine_turn=-20,
    ),
    "yoga": _posture(
        arm_out=88,
        elbow=4,
        hip_out_left=42,
        knee_left=70,
        hip_forward_left=55,
        hip_turn_left=-30,
        hip_out_right=28,
        neck_turn=50,
    ),
    "warrior": _posture(
        arm_forward=160, hip_forward_left=70, knee_left=75, hip_forward_right=-20, knee_right=5
    ),
    "plank": _posture(
        tip_forward=82, arm_forward=78, elbow=10, ankle=15, neck_forward=-20, hip_forward=2
    ),
    "crawl": _posture(
        tip_forward=80,
        arm_forward=80,
        hip_forward=85,
        knee=88,
        elbow=8,
        ankle=-30,
        neck_forward=-20,
    ),
    "lie": _posture(tip_forward=-88, arm_out=25, elbow=20, hip_out=8),
    "lie_on_side": _posture(
        tip_side=80,
        hip_forward=35,
        knee=50,
        arm_forward_left=40,
        elbow_left=60,
        arm_forward_right=60,
        elbow_right=80,
    ),
    "stairs": _posture(
        hip_forward_left=55,
        knee_left=60,
        hip_forward_right=-5,
        knee_right=5,
        arm_forward_right=25,
        elbow_right=35,
        arm_forward_left=-15,
    ),
    "look_up": _posture(neck_forward=-35, spine_forward=-8),
    "look_down": _posture(neck_forward=35),
    "look_side": _posture(neck_turn=55, spine_turn=20),
}
_FREQUENCY = {
    "plank": 0.3,
    "crawl": 0.4,
    "lie": 0.4,
    "lie_on_side": 0.3,
    "tpose": 0.5,
    "apose": 0.6,
    "stand": 2,
    "relaxed": 2,
    "hands_on_hips": 1.5,
    "sit": 1.5,
    "sit_loose": 1.5,
}
UPRIGHT = (
    "stand",
    "relaxed",
    "apose",
    "tpose",
    "hands_on_hips",
    "one_hip",
    "crossed",
    "akimbo",
    "wave",
    "wave_both",
    "arms_up",
    "cheer",
    "reach",
    "reach_both",
    "point",
    "phone",
    "look_at_phone",
    "think",
    "hold",
    "carry",
    "clap",
    "pocket",
    "look_up",
    "look_down",
    "look_side",
)

# A hand: thumb (bend at the root, away from the palm, middle joint, end joint), then root, middle
# and end joint of index, middle, ring and little finger, then how far the fingers are spread.
HAND_SIZE = 17
HAND_NOISE = np.array([5, 5, 5, 6, *([6, 7, 4] * 4), 3], np.float64)
FINGER_LOW, FINGER_HIGH = -15.0, 98.0


def make_hand(
    thumb: Sequence[float],
    index: Sequence[float],
    middle: Sequence[float],
    ring: Sequence[float],
    little: Sequence[float],
    spread: float = 0,
) -> np.ndarray:
    """(17,) angles in degrees of a hand: thumb (4,), each finger (3,), and how far they spread."""
    return np.array([*thumb, *index, *middle, *ring, *little, spread], np.float64)


_OPEN, _CURLED, _LOOSE = (0, 2, 2), (78, 95, 55), (28, 32, 18)
HANDS = {
    "open": make_hand((0, 5, 0, 0), _OPEN, _OPEN, _OPEN, _OPEN, 6),
    "spread": make_hand((-8, 22, -4, 0), (-6, 0, 0), (-6, 0, 0), (-6, 0, 0), (-6, 0, 0), 15),
    "flat": make_hand((4, -6, 4, 2), _OPEN, _OPEN, _OPEN, _OPEN, -4),
    "relaxed": make_hand((8, 2, 8, 8), (18, 22, 12), _LOOSE, (30, 34, 18), (32, 34, 18), 2),
    "tap": make_hand((6, 8, 6, 6), (42, 24, 12), (20, 26, 12), (22, 28, 14), (20, 28, 14), 6),
    "fist": make_hand((32, -8, 38, 42), _CURLED, _CURLED, _CURLED, _CURLED, -2),
    "point": make_hand((28, -6, 35, 40), (4, 6, 4), _CURLED, _CURLED, _CURLED, 0),
    "peace": make_hand((34, -8, 38, 40), (2, 4, 3), (2, 4, 3), _CURLED, _CURLED, 12),
    "pinch": make_hand((30, 10, 16, 22), (50, 48, 22), (38, 40, 18), (32, 32, 16), (26, 26, 14), 3),
    "ok": make_hand((32, 8, 18, 26), (56, 55, 26), (16, 22, 10), (10, 14, 8), (4, 8, 4), 9),
    "thumb_up": make_hand((-12, 26, -4, -6), _CURLED, _CURLED, _CURLED, _CURLED, -2),
    "grip": make_hand((24, 12, 14, 18), (46, 50, 24), (48, 52, 26), (50, 54, 28), (52, 54, 28), 3),
    "claw": make_hand((4, 18, 12, 22), (8, 62, 40), (8, 62, 40), (8, 62, 40), (8, 62, 40), 11),
    "phone": make_hand((10, 14, 10, 8), (34, 48, 24), (36, 48, 26), (36, 46, 26), (36, 44, 26), 2),
    "shaka": make_hand((-12, 26, -4, -4), _CURLED, _CURLED, _CURLED, (-4, 4, 2), 9),
    "three": make_hand((34, -8, 40, 42), (0, 3, 2), (0, 3, 2), (0, 3, 2), _CURLED, 10),
    "four": make_hand((38, -10, 42, 46), _OPEN, _OPEN, _OPEN, _OPEN, 8),
}
EASY_HANDS = ("open", "spread", "flat", "relaxed", "tap")


def posture_table(names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(K, 36) postures and (K,) probabilities that sum to 1."""
    weights = np.array([_FREQUENCY.get(name, 1.0) for name in names])
    return np.stack([POSTURES[name] for name in names]), weights / weights.sum()
