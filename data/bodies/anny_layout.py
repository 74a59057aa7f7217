"""Which joints the open body model anny has, by name. Imports no torch."""

from data.bodies.models import BodyLayout

FINGERS = ("thumb", "index", "middle", "ring", "little")
# The joint of each keypoint that the field's body models share, pelvis first.
KEYPOINTS = {
    "pelvis": "root",
    "left_hip": "upperleg01.L",
    "right_hip": "upperleg01.R",
    "spine": "spine04",
    "left_knee": "lowerleg01.L",
    "right_knee": "lowerleg01.R",
    "chest": "spine02",
    "left_ankle": "foot.L",
    "right_ankle": "foot.R",
    "left_toes": "toe2-1.L",
    "right_toes": "toe2-1.R",
    "neck": "neck01",
    "left_collar": "clavicle.L",
    "right_collar": "clavicle.R",
    "head": "head",
    "left_shoulder": "upperarm01.L",
    "right_shoulder": "upperarm01.R",
    "left_elbow": "lowerarm01.L",
    "right_elbow": "lowerarm01.R",
    "left_wrist": "wrist.L",
    "right_wrist": "wrist.R",
}
# COCO's points of the face: a joint, or a vertex of the base mesh (the nose's tip, where the ears
# stand out farthest).
FACE: dict[str, str | int] = {
    "nose": 297,
    "left_eye": "eye.L",
    "right_eye": "eye.R",
    "left_ear": 12006,
    "right_ear": 5423,
}


def list_hand_joints(side: str) -> tuple[str, ...]:
    """Returns the 20 joints of the hand of a side, "L" or "R": the wrist, then each finger."""
    names = [f"wrist.{side}"]
    for finger in range(1, 6):
        # A thumb has no metacarpal of its own.
        if finger > 1:
            names.append(f"metacarpal{finger - 1}.{side}")
        names += [f"finger{finger}-{joint}.{side}" for joint in (1, 2, 3)]
    return tuple(names)


def _list_leg_joints(side: str) -> tuple[str, ...]:
    names = ["pelvis", "upperleg01", "upperleg02", "lowerleg01", "lowerleg02", "foot"]
    names += ["toe1-1", "toe1-2"]
    for toe in range(2, 6):
        names += [f"toe{toe}-{joint}" for joint in (1, 2, 3)]
    return tuple(f"{name}.{side}" for name in names)


def _list_arm_joints(side: str) -> tuple[str, ...]:
    names = ["clavicle", "shoulder01", "upperarm01", "upperarm02", "lowerarm01", "lowerarm02"]
    return (*(f"{name}.{side}" for name in names), *list_hand_joints(side))


ANNY = BodyLayout(
    joint_names=(
        "root",
        *_list_leg_joints("L"),
        *_list_leg_joints("R"),
        *("spine05", "spine04", "spine03", "spine02", "spine01"),
        *_list_arm_joints("L"),
        *_list_arm_joints("R"),
        *("neck01", "neck02", "neck03", "head", "eye.L", "eye.R"),
    ),
    keypoints=KEYPOINTS,
    parts={"left_hand": list_hand_joints("L"), "right_hand": list_hand_joints("R")},
)


def _list_other_names() -> dict[str, str]:
    names = {
        "left_eye": "eye.L",
        "right_eye": "eye.R",
        "left_eyeball": "eye.L",
        "right_eyeball": "eye.R",
        "mid_hip": "pelvis",
        "left_hand_wrist": "left_wrist",
        "right_hand_wrist": "right_wrist",
    }
    for side, letter in (("left", "L"), ("right", "R")):
        for number, finger in enumerate(FINGERS, 1):
            for joint in (1, 2, 3):
                own = f"finger{number}-{joint}.{letter}"
                names[f"{side}_hand_{finger}_{joint}"] = own
                names[f"{side}_{finger}_{joint}"] = own
    return names


# {a name of data.format.joint_sets: the keypoint or the joint of anny that is meant by it}.
OTHER_NAMES = _list_other_names()
