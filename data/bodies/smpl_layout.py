"""Joints of SMPL, SMPL-H, SMPL-X and MANO, by the names of data.format.joint_sets. No torch.

Each is a ``FamilySpec``: what its file has to hold, where it is looked for, and who hands it out.
"""

from dataclasses import dataclass

from data.bodies.models import BodyLayout
from data.format.joint_sets import FINGERS, find_joint_set

VARIANTS = ("neutral", "male", "female")
HANDS = ("right", "left")
BODY_JOINTS = 22  # that SMPL, SMPL-H and SMPL-X begin with
FINGER_JOINTS = 15  # of a hand, after its wrist

# Between the joints that all bodies have and those of the file's own.
_SPINE = {"spine": "spine_1", "chest": "spine_2"}
_BODY_PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19)
_WRISTS = (20, 21)
_HEAD = 15


def _list_finger_parents(wrist: int, first: int) -> tuple[int, ...]:
    """Parents of five fingers' joints, three each, the first of them joint ``first``."""
    parents: list[int] = []
    for finger in range(len(FINGERS)):
        base = first + 3 * finger
        parents += [wrist, base, base + 1]
    return tuple(parents)


def _list_hands_parents(first: int) -> tuple[int, ...]:
    left, right = _WRISTS
    return (
        *_list_finger_parents(left, first),
        *_list_finger_parents(right, first + FINGER_JOINTS),
    )


@dataclass(frozen=True)
class FamilySpec:
    """One body model of the family.

    Attributes:
        name: as in ``body=``.  title: as its authors write it.  kind: "body" or "hand".
        joint_set: its joints' names.  parents: of them, -1 for joint 0.
        vertices: of the mesh as it is handed out.
        variants: that it comes in, the default first.
        folders: where it is looked for below the folder of bodies, in this order.
        files: of each variant, patterns in lower case, in this order.
        place: where its files are had.
    """

    name: str
    title: str
    kind: str
    joint_set: str
    parents: tuple[int, ...]
    vertices: int
    variants: tuple[str, ...]
    folders: tuple[str, ...]
    files: dict[str, tuple[str, ...]]
    place: str

    @property
    def joint_names(self) -> tuple[str, ...]:
        """Names of the joints, in the file's order."""
        return find_joint_set(self.joint_set).joints


def _name_smpl_files(variant: str) -> tuple[str, ...]:
    """SMPL's files as people rename them, then as they are handed out."""
    short = variant if variant == "neutral" else variant[0]
    return (
        f"smpl_{variant}.npz",
        f"smpl_{variant}.pkl",
        f"basicmodel_{short}_lbs_10_207_0_v1.1.0.pkl",
        f"basicmodel_{short}_lbs_10_207_0_v1.0.0.pkl",
    )


SMPL = FamilySpec(
    "smpl",
    "SMPL",
    "body",
    "smpl24",
    (*_BODY_PARENTS, *_WRISTS),
    6890,
    VARIANTS,
    ("smpl", "SMPL_python_v.1.1.0/smpl/models", "smpl/models", ""),
    {variant: _name_smpl_files(variant) for variant in VARIANTS},
    "https://smpl.is.tue.mpg.de",
)
SMPLH = FamilySpec(
    "smplh",
    "SMPL-H",
    "body",
    "smplh52",
    (*_BODY_PARENTS, *_list_hands_parents(BODY_JOINTS)),
    6890,
    VARIANTS,
    ("smplh", "mano_v1_2/models", ""),
    {v: (f"{v}/model.npz", f"smplh_{v}.npz", f"smplh_{v}.pkl") for v in VARIANTS},
    "https://mano.is.tue.mpg.de",
)
SMPLX = FamilySpec(
    "smplx",
    "SMPL-X",
    "body",
    "smplx55",
    (*_BODY_PARENTS, _HEAD, _HEAD, _HEAD, *_list_hands_parents(BODY_JOINTS + 3)),
    10475,
    VARIANTS,
    ("smplx", "models/smplx", ""),
    {v: (f"smplx_{v}.npz", f"smplx_{v}.pkl") for v in VARIANTS},
    "https://smpl-x.is.tue.mpg.de",
)
MANO = FamilySpec(
    "mano",
    "MANO",
    "hand",
    "mano16",
    (-1, *_list_finger_parents(0, 1)),
    778,
    HANDS,
    ("mano", "mano_v1_2/models", ""),
    {side: (f"mano_{side}.npz", f"mano_{side}.pkl") for side in HANDS},
    "https://mano.is.tue.mpg.de",
)
FAMILY = {spec.name: spec for spec in (SMPL, SMPLH, SMPLX, MANO)}


def lay_out_body(spec: FamilySpec) -> BodyLayout:
    """Returns which joints the labels of a body of the family hold."""
    names = spec.joint_names
    shared = [name for name in find_joint_set("body21").joints if _SPINE.get(name, name) in names]
    parts = {}
    for side in ("left", "right"):
        fingers = [name for name in names if name.startswith(tuple(_name_fingers(side)))]
        palm = [name for name in names if name == f"{side}_palm"]
        parts[f"{side}_hand"] = (f"{side}_wrist", *fingers, *palm)
    return BodyLayout(names, {name: _SPINE.get(name, name) for name in shared}, parts)


def _name_fingers(side: str) -> list[str]:
    return [f"{side}_{finger}_" for finger in FINGERS]


def lay_out_hand() -> BodyLayout:
    """Returns which joints MANO's labels hold: the same names for a hand of either side."""
    names = MANO.joint_names
    return BodyLayout(names, {"wrist": "wrist"}, {"left_hand": names, "right_hand": names})
