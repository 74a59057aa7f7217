"""Vertices that stand for points of the field's joint sets, by number. Imports no torch.

They are of the meshes as they are handed out; a mesh of another size has none.
"""

from collections.abc import Mapping

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
LANDMARKS: dict[str, dict[str, int]] = {
    "smpl": _SMPL,
    "smplh": _SMPL,
    "smplx": _SMPLX,
    "mano": _MANO,
}
