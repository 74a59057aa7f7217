"""Named joint sets: which points, in which order, a row of keypoints or joints holds.

Equal names in two sets mean the same point as the field understands it, so labels of one set are
read as another by name (``match_joint_sets``). They are not equal to the millimetre: COCO's hips
are marked on the skin, SMPL's and Human3.6M's lie inside. "left" is the person's own left.

A labelled source with a set of its own registers it beside its reader:

    register_joint_set(JointSet("mine3", ("head", "left_hand", "right_hand"), root="head"))
"""

from dataclasses import dataclass

import numpy as np

from engine.errors import UserError


@dataclass(frozen=True)
class JointSet:
    """A joint set.

    Attributes:
        name: ends in the number of joints.
        joints: their names, in the order of the arrays.
        root: the joint that root-relative errors and positions are about, or None.
    """

    name: str
    joints: tuple[str, ...]
    root: str | None = None

    def __post_init__(self) -> None:
        if len(set(self.joints)) != len(self.joints):
            raise ValueError(f"joint set {self.name}: two joints have one name")
        if self.root is not None and self.root not in self.joints:
            raise ValueError(f"joint set {self.name}: its root '{self.root}' is not a joint of it")

    def __len__(self) -> int:
        return len(self.joints)


JOINT_SETS: dict[str, JointSet] = {}


def register_joint_set(joint_set: JointSet) -> JointSet:
    """Put a set into JOINT_SETS and return it.

    Raises:
        ValueError: another set has the name.
    """
    if JOINT_SETS.get(joint_set.name, joint_set) != joint_set:
        raise ValueError(f"two joint sets are called '{joint_set.name}'")
    JOINT_SETS[joint_set.name] = joint_set
    return joint_set


def find_joint_set(name: str) -> JointSet:
    """The set of that name.

    Raises:
        UserError: there is none; the message lists those there are.
    """
    if name not in JOINT_SETS:
        raise UserError(f"joint set '{name}' is none of {', '.join(sorted(JOINT_SETS))}")
    return JOINT_SETS[name]


def match_joint_sets(source: str, target: str) -> np.ndarray:
    """Where each joint of ``target`` lies in ``source``, by name.

    Returns:
        (len(target),) int64, -1 where the source has no such joint.
    """
    if source == target and source not in JOINT_SETS:
        raise UserError(f"joint set '{source}' is not registered, so its length is not known")
    places = {name: place for place, name in enumerate(find_joint_set(source).joints)}
    wanted = find_joint_set(target).joints
    return np.array([places.get(name, -1) for name in wanted], np.int64)


FINGERS = ("thumb", "index", "middle", "ring", "little")
FACE5 = ("nose", "left_eye", "right_eye", "left_ear", "right_ear")


def _sides(*parts: str) -> tuple[str, ...]:
    """Each part's left and then right name."""
    names: list[str] = []
    for part in parts:
        names += [f"left_{part}", f"right_{part}"]
    return tuple(names)


def _hand(prefix: str = "") -> tuple[str, ...]:
    """Wrist, then each finger from its base to its tip."""
    names = [f"{prefix}wrist"]
    for finger in FINGERS:
        names += [f"{prefix}{finger}_{joint}" for joint in ("1", "2", "3", "tip")]
    return tuple(names)


def _mano_fingers(prefix: str = "") -> tuple[str, ...]:
    """The 15 joints of the fingers in MANO's order."""
    names: list[str] = []
    for finger in ("index", "middle", "little", "ring", "thumb"):
        names += [f"{prefix}{finger}_{joint}" for joint in (1, 2, 3)]
    return tuple(names)


# SMPL's files call its joints 10 and 11 feet; they are the bases of the toes.
SMPL_BODY = (
    "pelvis",
    *_sides("hip"),
    "spine_1",
    *_sides("knee"),
    "spine_2",
    *_sides("ankle"),
    "spine_3",
    *_sides("toes"),
    "neck",
    *_sides("collar"),
    "head",
    *_sides("shoulder", "elbow", "wrist"),
)
COCO17 = (*FACE5, *_sides("shoulder", "elbow", "wrist", "hip", "knee", "ankle"))
OPENPOSE_FEET = ("big_toe", "small_toe", "heel")
OPENPOSE25 = (
    "nose",
    "neck",
    *(f"right_{name}" for name in ("shoulder", "elbow", "wrist")),
    *(f"left_{name}" for name in ("shoulder", "elbow", "wrist")),
    "mid_hip",
    *(f"right_{name}" for name in ("hip", "knee", "ankle")),
    *(f"left_{name}" for name in ("hip", "knee", "ankle")),
    "right_eye",
    "left_eye",
    "right_ear",
    "left_ear",
    *(f"left_{name}" for name in OPENPOSE_FEET),
    *(f"right_{name}" for name in OPENPOSE_FEET),
)
LSP14 = (
    *(f"right_{name}" for name in ("ankle", "knee", "hip")),
    *(f"left_{name}" for name in ("hip", "knee", "ankle")),
    *(f"right_{name}" for name in ("wrist", "elbow", "shoulder")),
    *(f"left_{name}" for name in ("shoulder", "elbow", "wrist")),
    "neck",
    "head_top",
)

# HumanData's 190 points: those of SMPL-X, COCO's face, feet and fingertips, the 68 points of the
# face from the brows on with the contour last, then what other regressors and data sets put at a
# joint of that name, which keep a suffix.
HUMANDATA190 = (
    *SMPL_BODY,
    "jaw",
    *_sides("eyeball"),
    *_mano_fingers("left_"),
    *_mano_fingers("right_"),
    *("nose", "right_eye", "left_eye", "right_ear", "left_ear"),
    *(f"left_{name}" for name in OPENPOSE_FEET),
    *(f"right_{name}" for name in OPENPOSE_FEET),
    *(f"left_{finger}_tip" for finger in FINGERS),
    *(f"right_{finger}_tip" for finger in FINGERS),
    *(f"face_{point}" for point in range(17, 68)),
    *(f"face_{point}" for point in range(17)),
    *("right_hip_extra", "left_hip_extra", "neck_extra", "head_top", "pelvis_extra"),
    *("thorax", "torso", "jaw_extra", "head_extra"),
    *(f"{name}_openpose" for name in OPENPOSE25),
    *("spine_4_3dhp", "left_clavicle_3dhp", "right_clavicle_3dhp"),
    *_sides("hand_3dhp", "toe_3dhp"),
    *("head_h36m", "head_top_h36m", "head_bottom"),
    *_sides("palm"),
)

# 4D-Humans' 44: OpenPose's 25, then SPIN's 19 (LSP's 14 and those of MPII and Human3.6M), which
# keep a suffix where OpenPose's has the name.
SPIN19 = (*LSP14, "pelvis", "thorax", "torso", "jaw_h36m", "head_h36m")
HUMANS44 = (
    *OPENPOSE25,
    *(f"{name}_spin" if name in OPENPOSE25 else name for name in SPIN19),
)

_SETS = (
    JointSet("coco17", COCO17),
    # Body, feet, 68 points of the face, left hand, right hand; each hand has a wrist of its own.
    JointSet(
        "coco_wholebody133",
        (
            *COCO17,
            *(f"left_{name}" for name in OPENPOSE_FEET),
            *(f"right_{name}" for name in OPENPOSE_FEET),
            *(f"face_{point}" for point in range(68)),
            *_hand("left_hand_"),
            *_hand("right_hand_"),
        ),
    ),
    # The body keypoints that errors of bodies are measured on, as this project's body models give.
    JointSet(
        "body21",
        (
            "pelvis",
            *_sides("hip"),
            "spine",
            *_sides("knee"),
            "chest",
            *_sides("ankle", "toes"),
            "neck",
            *_sides("collar"),
            "head",
            *_sides("shoulder", "elbow", "wrist"),
        ),
        "pelvis",
    ),
    JointSet("smpl24", (*SMPL_BODY, *_sides("palm")), "pelvis"),
    JointSet("smplx22", SMPL_BODY, "pelvis"),
    JointSet(
        "smplx55",
        (
            *SMPL_BODY,
            "jaw",
            *_sides("eyeball"),
            *_mano_fingers("left_"),
            *_mano_fingers("right_"),
        ),
        "pelvis",
    ),
    # SMPL-H has the fingers of SMPL-X and no face.
    JointSet("smplh52", (*SMPL_BODY, *_mano_fingers("left_"), *_mano_fingers("right_")), "pelvis"),
    # Hands of one side, as FreiHAND, COCO-WholeBody and OpenPose order them.
    JointSet("hand21", _hand(), "wrist"),
    # MANO's own order, which HO-3D keeps: its 16 joints, then the tips.
    JointSet(
        "mano21", ("wrist", *_mano_fingers(), *(f"{finger}_tip" for finger in FINGERS)), "wrist"
    ),
    JointSet("mano16", ("wrist", *_mano_fingers()), "wrist"),
    # One hand of InterHand2.6M: each finger from its tip to its base, the wrist last.
    JointSet(
        "interhand21",
        (
            *_hand()[4:0:-1],
            *_hand()[8:4:-1],
            *_hand()[12:8:-1],
            *_hand()[16:12:-1],
            *_hand()[20:16:-1],
            "wrist",
        ),
        "wrist",
    ),
    JointSet("openpose25", OPENPOSE25, "mid_hip"),
    # OpenPose's older body, whose order 3DPW's detections are in.
    JointSet(
        "openpose18",
        (
            "nose",
            "neck",
            *(f"right_{name}" for name in ("shoulder", "elbow", "wrist")),
            *(f"left_{name}" for name in ("shoulder", "elbow", "wrist")),
            *(f"right_{name}" for name in ("hip", "knee", "ankle")),
            *(f"left_{name}" for name in ("hip", "knee", "ankle")),
            "right_eye",
            "left_eye",
            "right_ear",
            "left_ear",
        ),
    ),
    # Body, left hand, right hand, 68 points of the face and two pupils.
    JointSet(
        "openpose137",
        (
            *OPENPOSE25,
            *_hand("left_hand_"),
            *_hand("right_hand_"),
            *(f"face_{point}" for point in range(70)),
        ),
        "mid_hip",
    ),
    JointSet("humandata190", HUMANDATA190, "pelvis"),
    # The 14 joints of LSP, on which papers report 3DPW and Human3.6M.
    JointSet("lsp14", LSP14),
    # SPIN's 24: LSP's, then those of MPII and Human3.6M, and COCO's face. The 17 that Human3.6M
    # and MPI-INF-3DHP have are read as h36m17.
    JointSet(
        "spin24",
        (
            *SPIN19,
            "nose",
            "left_eye",
            "right_eye",
            "left_ear",
            "right_ear",
        ),
        "pelvis",
    ),
    JointSet("humans44", HUMANS44, "mid_hip"),
    JointSet(
        "h36m17",
        (
            "pelvis",
            *(f"right_{name}" for name in ("hip", "knee", "ankle")),
            *(f"left_{name}" for name in ("hip", "knee", "ankle")),
            "torso",
            "neck",
            "nose",
            "head_top",
            *(f"left_{name}" for name in ("shoulder", "elbow", "wrist")),
            *(f"right_{name}" for name in ("shoulder", "elbow", "wrist")),
        ),
        "pelvis",
    ),
    # Rows of J_regressor_h36m.npy, which has the left leg first, unlike the data set
    # (nkolot/SPIN constants.py, H36M_TO_J17), and of J_regressor_extra.npy.
    JointSet(
        "h36m_rows17",
        (
            "pelvis",
            *(f"left_{name}" for name in ("hip", "knee", "ankle")),
            *(f"right_{name}" for name in ("hip", "knee", "ankle")),
            *("torso", "neck", "nose", "head_top"),
            *(f"left_{name}" for name in ("shoulder", "elbow", "wrist")),
            *(f"right_{name}" for name in ("shoulder", "elbow", "wrist")),
        ),
        "pelvis",
    ),
    JointSet(
        "extra_rows9",
        (
            *("right_hip", "left_hip", "neck", "head_top", "pelvis"),
            *("thorax", "torso", "jaw_h36m", "head_h36m"),
        ),
        "pelvis",
    ),
    JointSet(
        "panoptic19",
        (
            "neck",
            "nose",
            "mid_hip",
            *(f"left_{name}" for name in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")),
            *(f"right_{name}" for name in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")),
            "left_eye",
            "left_ear",
            "right_eye",
            "right_ear",
        ),
        "mid_hip",
    ),
)
for _set in _SETS:
    register_joint_set(_set)
