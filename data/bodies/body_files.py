"""Files of SMPL, SMPL-H, SMPL-X and MANO that a user has: found, read and checked. No torch.

They are npz archives or pickles of Python 2; nothing in them is executed, and chumpy is not needed.
Which fields they have: docs/bodies.md.
"""

import fnmatch
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from data.bodies.smpl_layout import FAMILY, FINGER_JOINTS, FamilySpec
from engine.errors import UserError

VARIABLE = "COUNTERPOSE_BODIES"
SHAPES_OF_SMPLX = 300  # the first of shapedirs; those of the expression follow
OLD_SHAPES_OF_SMPLX = 10  # in files that have both cut to ten
WEIGHTS_TOLERANCE = 0.05  # how far from 1 a vertex's weights may add up to
SAME_SHAPES_M = 1e-6  # what is nearer is one and the same blend shape
FIELDS = ("v_template", "f", "weights", "kintree_table", "J_regressor", "shapedirs", "posedirs")
# Of hands and faces; a file may lack them.
EXTRAS = (
    "hands_components",
    "hands_mean",
    "hands_componentsl",
    "hands_componentsr",
    "hands_meanl",
    "hands_meanr",
    "lmk_faces_idx",
    "lmk_bary_coords",
)
Arrays = dict[str, np.ndarray]


@dataclass
class BodyTables:
    """What a file holds, checked: V vertices, J joints, S shapes, E expressions.

    Attributes:
        path: the file.  spec: which model it is of.  variant: such as "neutral".
        template: (V, 3) metres.  faces: (F, 3) int64.  weights: (V, J), each row adds up to 1.
        directions: (V, 3, S + E) float32, the shapes first.  shapes: S.
        pose_directions: (V, 3, 9 (J - 1)) float32.
        regressor: (J, V), joints of a mesh at rest.
        finger_means: {"left", "right": (15, 3) rotation vectors}.
        finger_components: {"left", "right": (45, 45), a component a row}, both where there are.
        face_triangles: (51,) rows of faces of the face's points, with face_weights (51, 3); empty
            where it has none.
    """

    path: str
    spec: FamilySpec
    variant: str
    template: np.ndarray
    faces: np.ndarray
    weights: np.ndarray
    directions: np.ndarray
    shapes: int
    pose_directions: np.ndarray
    regressor: np.ndarray
    finger_means: dict[str, np.ndarray]
    finger_components: dict[str, np.ndarray]
    face_triangles: np.ndarray
    face_weights: np.ndarray


def read_body(spec: FamilySpec, variant: str) -> BodyTables:
    """Returns the tables of the user's file of a model and variant.

    Raises:
        UserError: the folder or file is not there, or the file is not of this model; the message
            says which one, and where its files are had.
    """
    return read_tables(find_file(spec, variant), spec, variant)


def find_file(spec: FamilySpec, variant: str) -> str:
    """Returns the path of a model's file below the folder that COUNTERPOSE_BODIES names."""
    if variant not in spec.variants:
        raise UserError(
            f"body={spec.name} comes as {', '.join(spec.variants)}; '{variant}' was asked for"
        )
    root = os.environ.get(VARIABLE, "")
    if not root:
        raise UserError(
            f"body={spec.name} needs {spec.title}'s own file, and {VARIABLE} is not set: register "
            f"at {spec.place}, unpack its files into a folder, and set {VARIABLE} to that folder "
            "(docs/bodies.md)"
        )
    if not os.path.isdir(root):
        raise UserError(f"{VARIABLE}={root} is no folder")
    found = _search(spec, variant, root)
    if found is None:
        names = " or ".join(spec.files[variant])
        places = ", ".join(os.path.join(root, folder) for folder in spec.folders)
        raise UserError(
            f"body={spec.name} ({variant}) needs {names}, in capitals or not, in one of {places}: "
            f"there is none; register at {spec.place} to download it (docs/bodies.md)"
        )
    return found


def has_file(spec: FamilySpec, variant: str) -> bool:
    """Returns whether ``find_file`` finds one."""
    root = os.environ.get(VARIABLE, "")
    return bool(root) and _search(spec, variant, root) is not None


def _search(spec: FamilySpec, variant: str, root: str) -> str | None:
    for folder in spec.folders:
        for pattern in spec.files[variant]:
            within, name = os.path.split(pattern)
            place = os.path.join(root, folder, within)
            if not os.path.isdir(place):
                continue
            for file in sorted(os.listdir(place)):
                if fnmatch.fnmatchcase(file.lower(), name):
                    return os.path.join(place, file)
    return None


def read_tables(path: str, spec: FamilySpec, variant: str) -> BodyTables:
    """Returns the tables of a file, checked; see ``read_body``."""
    arrays = _read_arrays(path)
    check = _Checker(path, spec, arrays)
    joints = check.count_joints()
    template = check.numbers("v_template", (None, 3))
    vertices = len(template)
    if spec.kind == "hand" and vertices != spec.vertices:
        raise UserError(
            f"{path}: v_template has {vertices} vertices, {spec.title} has {spec.vertices}"
        )
    weights = check.numbers("weights", (vertices, joints))
    check.sums_to_one("weights", weights)
    directions = check.numbers("shapedirs", (vertices, 3, None), np.float32)
    shapes, blends = _count_shapes(spec, directions.shape[2])
    faces = check.numbers("f", (None, 3)).astype(np.int64)
    check.indices("f", faces, vertices)
    return BodyTables(
        path,
        spec,
        variant,
        template,
        faces,
        weights / weights.sum(1, keepdims=True),
        directions[:, :, :blends],
        shapes,
        check.numbers("posedirs", (vertices, 3, 9 * (joints - 1)), np.float32),
        check.numbers("J_regressor", (joints, vertices)),
        *check.fingers(variant),
        *check.face(len(faces)),
    )


def mirror_wrong_shapes(left: BodyTables, right: BodyTables) -> None:
    """Mirror the shapes of MANO's left file where they are those of the right one.

    The left hand as it is handed out has the right one's ``shapedirs`` along x, so that a shape
    makes other left hands than right ones. The mirrored sign is put right, as users of the data
    set InterHand2.6M do; a file that is right already is left as it is.
    """
    if left.directions.shape != right.directions.shape:
        return
    if np.abs(left.directions[:, 0] - right.directions[:, 0]).max() < SAME_SHAPES_M:
        left.directions = left.directions * np.array([-1, 1, 1], np.float32)[:, None]


def mirror_tables(hand: BodyTables, variant: str) -> BodyTables:
    """Returns a hand as a mirror shows it, for where the other one's file is not there."""
    across = np.array([-1.0, 1.0, 1.0])[:, None]
    # A rotation keeps its sense about x alone, which is across the mirror.
    senses = np.array([1.0, -1.0, -1.0])
    side_of = {hand.variant: variant}
    all_senses = np.tile(senses, FINGER_JOINTS)
    return replace(
        hand,
        variant=variant,
        template=hand.template * across[:, 0],
        faces=hand.faces[:, ::-1],
        directions=hand.directions * across,
        pose_directions=hand.pose_directions * across * _find_bend_senses(),
        finger_means={side_of[side]: mean * senses for side, mean in hand.finger_means.items()},
        finger_components={
            side_of[side]: rows * all_senses for side, rows in hand.finger_components.items()
        },
    )


def _find_bend_senses() -> np.ndarray:
    """(135,) what a mirror makes of the numbers of M R M - I of each joint, rows first."""
    flip = np.array([-1.0, 1.0, 1.0])
    return np.tile(np.outer(flip, flip).ravel(), FINGER_JOINTS)


def _read_arrays(path: str) -> Arrays:
    """{field: array} of those in FIELDS and EXTRAS that a file has."""
    # Readers of labelled datasets import this package's layouts: no circle as long as this import
    # is made when a file is read.
    from data.sources.labelled.npz import read_npz
    from data.sources.labelled.pickles import read_pickle

    names = (*FIELDS, *EXTRAS)
    if path.lower().endswith(".npz"):
        return read_npz(path, names)
    tree = read_pickle(path)
    if not isinstance(tree, dict):
        raise UserError(f"{path} holds a {type(tree).__name__}, not the fields of a body model")
    return {name: np.asarray(tree[name]) for name in names if name in tree}


def _count_shapes(spec: FamilySpec, count: int) -> tuple[int, int]:
    """(blend shapes of the body, those and of the expression) that are used of a file's.

    SMPL-X has both in one array: 300 and up to 100, or 10 and 10.
    """
    if spec.name != "smplx":
        return count, count
    if count > SHAPES_OF_SMPLX:
        return SHAPES_OF_SMPLX, count
    return min(count, OLD_SHAPES_OF_SMPLX), min(count, 2 * OLD_SHAPES_OF_SMPLX)


class _Checker:
    """Takes fields out of a file and says in one sentence which one does not fit."""

    def __init__(self, path: str, spec: FamilySpec, arrays: Mapping[str, np.ndarray]) -> None:
        self.path, self.spec, self.arrays = path, spec, arrays

    def numbers(
        self, name: str, shape: Sequence[int | None], kind: type = np.float64
    ) -> np.ndarray:
        """A field as floats, of a shape (None: any length)."""
        if name not in self.arrays:
            raise UserError(f"{self.path} is no file of {self.spec.title}: it lacks {name}")
        array = self.arrays[name]
        if array.dtype.kind not in "fiu":
            raise UserError(f"{self.path}: {name} is of {array.dtype}, not numbers")
        fits = array.ndim == len(shape) and all(
            wanted in (None, length) for wanted, length in zip(shape, array.shape, strict=True)
        )
        if not fits or 0 in array.shape:
            words = ", ".join("n" if length is None else str(length) for length in shape)
            raise UserError(f"{self.path}: {name} is of shape {array.shape}, not ({words})")
        if not np.isfinite(array).all():
            raise UserError(f"{self.path}: {name} holds numbers that are not finite")
        return np.array(array, kind)

    def count_joints(self) -> int:
        """The number of joints; refuses another model than the one that was asked for."""
        spec = self.spec
        found = self.numbers("kintree_table", (2, None))[0].astype(np.int64)
        # The root's parent is -1, which files have as an unsigned number.
        parents = (-1, *found[1:].tolist())
        if parents == spec.parents:
            return len(parents)
        others = [other for other in FAMILY.values() if other.parents == parents]
        is_of = f", as {others[0].title} has" if others else ""
        raise UserError(
            f"{self.path} is not a file of {spec.title}: kintree_table has {len(parents)} joints"
            f"{is_of}, {spec.title} has {len(spec.parents)}"
            + ("" if len(parents) != len(spec.parents) else " with other parents")
        )

    def sums_to_one(self, name: str, weights: np.ndarray) -> None:
        """Refuse skinning weights that are none."""
        off = np.abs(weights.sum(1) - 1).max()
        if off > WEIGHTS_TOLERANCE:
            raise UserError(
                f"{self.path}: {name} of a vertex add up to {off:.2f} beside 1, which they should"
            )

    def indices(self, name: str, values: np.ndarray, count: int) -> None:
        """Refuse numbers of rows that are not there."""
        if values.min() < 0 or values.max() >= count:
            raise UserError(
                f"{self.path}: {name} names rows {values.min()} to {values.max()}, of {count}"
            )

    def fingers(self, variant: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """({side: (15, 3) mean}, {side: (45, 45) components}) of the hands that it has.

        ``variant``: the side of a file of one hand.
        """
        means: dict[str, np.ndarray] = {}
        components: dict[str, np.ndarray] = {}
        numbers = 3 * FINGER_JOINTS
        suffixes = {"left": "l", "right": "r"} if self.spec.kind == "body" else {variant: ""}
        for side, suffix in suffixes.items():
            if f"hands_mean{suffix}" in self.arrays:
                mean = self.numbers(f"hands_mean{suffix}", (numbers,))
                means[side] = mean.reshape(FINGER_JOINTS, 3)
            if f"hands_components{suffix}" in self.arrays:
                components[side] = self.numbers(f"hands_components{suffix}", (numbers, numbers))
        return means, components

    def face(self, faces: int) -> tuple[np.ndarray, np.ndarray]:
        """((n,) triangles, (n, 3) weights of their corners) of the face's points."""
        if "lmk_faces_idx" not in self.arrays or "lmk_bary_coords" not in self.arrays:
            return np.zeros(0, np.int64), np.zeros((0, 3))
        triangles = self.numbers("lmk_faces_idx", (None,)).astype(np.int64)
        self.indices("lmk_faces_idx", triangles, faces)
        return triangles, self.numbers("lmk_bary_coords", (len(triangles), 3))
