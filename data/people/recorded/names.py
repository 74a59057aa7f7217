"""Which joint of a skeleton is which, by its name and by what hangs on what.

Rigs agree on little: an upper arm is LeftArm (Mixamo, CMU's BVH, LAFAN1), LeftShoulder (many old
BVH files, where others call the collar bone so), UpperArm_L (Bandai Namco), lhumerus (CMU's own).
"""

import re
from collections.abc import Sequence

from data.people.recorded.track import SIDES, TOES
from engine.errors import UserError

# What each limb's joints are called, the surest name first.
STEMS = {
    "hip": ("upleg", "upperleg", "uplegs", "thigh", "femur", "hip", "hips"),
    "knee": ("lowerleg", "lowleg", "calf", "shin", "tibia", "knee", "leg"),
    "ankle": ("foot", "ankle"),
    "toes": ("toebase", "toe", "toes", "ball", "toe0", "toesbase"),
    "shoulder": ("upperarm", "uparm", "humerus", "shldr", "arm", "shoulder"),
    "elbow": ("forearm", "lowerarm", "lowarm", "radius", "elbow"),
    "wrist": ("hand", "wrist"),
}
HEADS = ("head",)
_PREFIX = re.compile(
    r"^(?:(?:mixamorig|bip)\d*[\W_]*|(?:joint|jnt|bone|def|rig|character\d*)[\W_]+)", re.I
)
_SIDED = (
    re.compile(r"^(left|right)[\W_]*(.+)$", re.I),
    re.compile(r"^(.+?)[\W_]*(left|right)$", re.I),
    re.compile(r"^([lr])[\W_]+(.+)$", re.I),
    re.compile(r"^(.+?)[\W_]+([lr])$", re.I),
    re.compile(r"^([lrLR])(?=[A-Z][a-z])(.+)$"),
    re.compile(r"^([lr])((?:femur|tibia|foot|toes|humerus|radius|wrist|hand)\w*)$"),
    # J_Bip_L_UpperArm, DEF-thigh.L.001
    re.compile(r"^()(?:.*[\W_])?([lr])[\W_]+(\w+)$", re.I),
)


def split_side(name: str) -> tuple[str, str]:
    """(side, stem) of a joint's name, in lower case; the side is "" where it has none."""
    plain = name.rsplit(":", 1)[-1].strip()
    plain = _PREFIX.sub("", plain) or plain
    for pattern in _SIDED:
        found = pattern.match(plain)
        if found:
            parts = [part for part in found.groups() if part]
            first, second = parts[0].lower(), parts[1].lower()
            is_first = first in ("left", "right", "l", "r")
            side, stem = (first, second) if is_first else (second, first)
            return ("left" if side.startswith("l") else "right"), _clean(stem)
    return "", _clean(plain)


def _clean(stem: str) -> str:
    return re.sub(r"[\W_]+", "", stem.lower())


def find_roles(names: Sequence[str], parents: Sequence[int], what: str) -> dict[str, int]:
    """{role: joint} of a skeleton; toes only where there are some.

    Args:
        names, parents: of the J joints, parents first; -1 for the first's.  what: the file, told in
            errors.

    Raises:
        UserError: some joints cannot be told by their names; it lists them and those that are
            there.
    """
    split = [split_side(name) for name in names]
    found: dict[str, int] = {}
    for side in SIDES:
        for limb, stems in STEMS.items():
            joint = _find_stem(split, side, stems)
            if joint is not None:
                found[f"{side}_{limb}"] = joint
    head = _find_stem(split, "", HEADS)
    if head is not None:
        found["head"] = head
    _refuse_missing(found, names, what)
    for side in SIDES:
        for limb in ((f"{side}_hip", f"{side}_knee", f"{side}_ankle", f"{side}_toes"),) + (
            (f"{side}_shoulder", f"{side}_elbow", f"{side}_wrist"),
        ):
            _check_chain([role for role in limb if role in found], found, names, parents, what)
    found["pelvis"] = _join(found["left_hip"], found["right_hip"], parents)
    found["chest"] = _join(found["left_shoulder"], found["right_shoulder"], parents)
    return found


def _find_stem(split: list[tuple[str, str]], side: str, stems: Sequence[str]) -> int | None:
    """The first joint of a side that has the surest of these names."""
    for stem in stems:
        if (side, stem) in split:
            return split.index((side, stem))
    return None


def _refuse_missing(found: dict[str, int], names: Sequence[str], what: str) -> None:
    wanted = ["head", *(f"{side}_{limb}" for side in SIDES for limb in STEMS if limb != "toes")]
    missing = [role for role in wanted if role not in found]
    if missing:
        raise UserError(
            f"{what}: no joint is found for {', '.join(missing)} by its name; the file's joints "
            f"are {', '.join(names[:60])}"
        )


def _check_chain(
    roles: Sequence[str],
    found: dict[str, int],
    names: Sequence[str],
    parents: Sequence[int],
    what: str,
) -> None:
    """Refuse a limb whose joints do not hang on one another; drop toes that do not."""
    for upper, lower in zip(roles[:-1], roles[1:], strict=True):
        if found[upper] in _list_ancestors(found[lower], parents):
            continue
        if lower in TOES:
            del found[lower]
            continue
        raise UserError(
            f"{what}: {names[found[lower]]}, taken for {lower}, does not hang on "
            f"{names[found[upper]]}, taken for {upper}"
        )


def _list_ancestors(joint: int, parents: Sequence[int]) -> list[int]:
    """A joint's ancestors, nearest first."""
    out = []
    while parents[joint] >= 0:
        joint = parents[joint]
        out.append(joint)
    return out


def _join(first: int, second: int, parents: Sequence[int]) -> int:
    """The nearest joint on which both hang."""
    others = _list_ancestors(second, parents)
    return next(joint for joint in _list_ancestors(first, parents) if joint in others)
