"""What of bodies and of hands is judged: which joints, about what, and what facing means."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from data.format.joint_sets import find_joint_set
from finetune.referee import scores
from finetune.referee.truth import JUDGED, Seen

HAND = find_joint_set("hand21").joints
LIMBS = (("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle"))


@dataclass(frozen=True)
class Kind:
    """Bodies or hands.

    Attributes:
        name: "body" or "hand", as body models have it.
        joints: names of what is judged, in the order of ``Seen.joints``.
        roots: places of the joints whose middle 3D errors are about.
        bones: pairs of places that sheets join by a line.
        spins: whether the mean is turned about the camera's axis too: hands have no upright.
        front: (n, 3) joints to the (3,) unit direction that they face.
        flat: (n, 2) recovered joints and who was seen to 1 where both show the same face, 0 where
            not, NaN where that cannot be told.
        words: what one and several are called.
        face: what ``flat`` is called.
    """

    name: str
    joints: tuple[str, ...]
    roots: tuple[int, ...]
    bones: tuple[tuple[int, int], ...]
    spins: bool
    front: Callable[[np.ndarray], np.ndarray]
    flat: Callable[[np.ndarray, Seen], float]
    words: str
    face: str


def _limbs() -> tuple[tuple[int, int], ...]:
    out = []
    for a, b in LIMBS:
        out += [(JUDGED.index(f"{s}_{a}"), JUDGED.index(f"{s}_{b}")) for s in ("left", "right")]
    return tuple(out)


def _fingers() -> tuple[tuple[int, int], ...]:
    """From the wrist to each finger's base, and along the fingers."""
    return tuple((0 if i % 4 == 1 else i - 1, i) for i in range(1, len(HAND)))


KINDS = {
    "body": Kind(
        name="body",
        joints=JUDGED,
        roots=(scores.LEFT_HIP, scores.RIGHT_HIP),
        bones=_limbs(),
        spins=False,
        front=scores.front_of,
        flat=scores.faces_right_flat,
        words="people",
        face="front or back right",
    ),
    "hand": Kind(
        name="hand",
        joints=HAND,
        roots=(0,),
        bones=_fingers(),
        spins=True,
        front=scores.palm_of,
        flat=scores.palm_right_flat,
        words="hands",
        face="palm or back right",
    ),
}
