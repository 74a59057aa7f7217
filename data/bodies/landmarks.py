"""Vertices that stand for points of the field's joint sets, by number. Imports no torch.

They are of the meshes as they are handed out; a mesh of another size has none.
"""

from collections.abc import Mapping

from data.bodies.anny_layout import KEYPOINTS as ANNY_KEYPOINTS
from data.format.joint_sets import FINGERS


def _name(side: str, numbers: Mapping[str, int]) -> dict[str, int]:
    return {f"{side}_{name}": number for name, number in numbers.items()}


def _tips(*numbers: int) -> dict[str, int]:
    """Tips of thumb, index, middle, ring and little finger."""
    names = [f"{finger}_tip" for finger in FINGERS]
    return dict(zip(names, numbers, strict=True))


# As the package smplx picks them (smplx/vertex_ids.py); the head's top as pose evaluations do.
_SMPL = {
    "nose": 332,
    "head_top": 411,
    **_name("left", {"eye": 2800, "ear": 583, "big_toe": 3216, "small_toe": 3226, "heel": 3387}),
    **_name("right", {"eye": 6260, "ear": 4071, "big_toe": 6617, "small_toe": 6624, "heel": 6787}),
    **_name("left", _tips(2746, 2319, 2445, 2556, 2673)),
    **_name("right", _tips(6191, 5782, 5905, 6016, 6133)),
}
_SMPLX = {
    "nose": 9120,
    **_name("left", {"eye": 9448, "ear": 6, "big_toe": 5770, "small_toe": 5780, "heel": 8846}),
    **_name("right", {"eye": 9929, "ear": 616, "big_toe": 8463, "small_toe": 8474, "heel": 8635}),
    **_name("left", _tips(5361, 4933, 5058, 5169, 5286)),
    **_name("right", _tips(8079, 7669, 7794, 7905, 8022)),
}
# FreiHAND's own script takes 555 and 672 for ring and little finger, a millimetre beside.
_MANO = _tips(744, 320, 443, 554, 671)
# The farthest point of each on anny's mesh at rest: of the nose, the eyeballs and toes forwards, of
# the heels backwards, of the ears sideways, of the head upwards; fingertips as of its hand.
_ANNY = {
    "nose": 297,
    "head_top": 881,
    **_name(
        "left", {"eye": 13583, "ear": 12006, "big_toe": 11519, "small_toe": 13248, "heel": 12410}
    ),
    **_name("right", {"eye": 13655, "ear": 5423, "big_toe": 4917, "small_toe": 6668, "heel": 5829}),
    **_name("left", _tips(9316, 8563, 8755, 8950, 9139)),
    **_name("right", _tips(2664, 1911, 2103, 2298, 2487)),
}
LANDMARKS: dict[str, dict[str, int]] = {
    "smpl": _SMPL,
    "smplh": _SMPL,
    "smplx": _SMPLX,
    "mano": _MANO,
    "anny": _ANNY,
}
# Of the meshes that these numbers are of.
VERTEX_COUNTS = {"smpl": 6890, "smplh": 6890, "smplx": 10475, "mano": 778, "anny": 13718}


def _name_anny_joints() -> dict[str, str]:
    """{name of a point: anny's joint}: those that bodies share, the whole spine, the fingers."""
    out = dict(ANNY_KEYPOINTS)
    out |= {"spine_1": out["spine"], "spine_2": out["chest"], "spine_3": "spine01"}
    for side, letter in (("left", "L"), ("right", "R")):
        out[f"{side}_eyeball"] = f"eye.{letter}"
        for number, finger in enumerate(FINGERS, 1):
            for joint in (1, 2, 3):
                out[f"{side}_{finger}_{joint}"] = f"finger{number}-{joint}.{letter}"
    return out


ANNY_JOINTS = _name_anny_joints()
