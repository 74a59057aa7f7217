"""Which joints of two body models are the same joint, by name."""

import re

from data.bodies.base import BodyModel
from data.bodies.models import LAYOUTS
from data.format.joint_sets import FINGERS

SIDES = {"L": "left_", "R": "right_"}


def name_joints(body: BodyModel) -> dict[str, int]:
    """Returns {name that body models share: the joint's index} of a body model.

    Names of the body are those of its layout's keypoints, of fingers those of MANO and SMPL-X
    ("left_index_1"; without a side where the model is a hand). A model's own names are kept where
    nothing else is known.
    """
    own = {name: index for index, name in enumerate(body.joint_names)}
    found: dict[str, int] = {}
    if body.kind == "body" and body.name in LAYOUTS.list_names():
        for shared, name in LAYOUTS.find(body.name).keypoints.items():
            found[shared] = own[name]
    for name, index in own.items():
        shared = _translate(name, body.kind)
        if index not in found.values() and shared not in found:
            found[shared] = index
    if body.kind == "hand":
        found["wrist"] = 0
    return found


def _translate(name: str, kind: str) -> str:
    """The shared name of one of anny's fingers or eyes; other names as they are."""
    finger = re.fullmatch(r"finger(\d)-(\d)\.([LR])", name)
    if finger:
        side = SIDES[finger[3]] if kind == "body" else ""
        return f"{side}{FINGERS[int(finger[1]) - 1]}_{finger[2]}"
    eye = re.fullmatch(r"eye\.([LR])", name)
    return f"{SIDES[eye[1]]}eyeball" if eye else name


def match_joints(source: BodyModel, target: BodyModel) -> list[tuple[str, int, int]]:
    """Returns [(name, index in the source, index in the target), ...] of the joints both have."""
    mine, other = name_joints(source), name_joints(target)
    return [(name, mine[name], other[name]) for name in mine if name in other]
