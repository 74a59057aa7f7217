"""SMPL, SMPL-H, SMPL-X and MANO as body models, from the tables of the user's files."""

from collections.abc import Mapping

import numpy as np
import torch

from data.bodies.base import BodyParameters, PointedBody, ShapeSpace
from data.bodies.body_files import (
    BodyTables,
    has_file,
    mirror_tables,
    mirror_wrong_shapes,
    read_body,
)
from data.bodies.landmarks import LANDMARKS, VERTEX_COUNTS
from data.bodies.sampling import spread_points
from data.bodies.skinning import Skinning, SkinningTables
from data.bodies.smpl_layout import FINGER_JOINTS, MANO, FamilySpec, lay_out_body
from data.format.joint_sets import FACE5, FINGERS
from engine.errors import UserError
from engine.geometry import axis_angle_to_matrix

# How labels say the fingers' pose (``finger_coding``): by ``pose`` itself, by rotation vectors to
# be added to the mean, or by principal components on top of it.
GIVEN, FROM_MEAN, COMPONENTS = range(3)


class SmplModel(PointedBody):
    """SMPL, SMPL-H or SMPL-X.

    ``forward`` takes up to as many shape numbers as the file has; ``pose`` has no mean left to be
    added (``finger_mean``, ``pose_fingers``).

    Args:
        tables: of the user's file.
        skinning: of some of its vertices.
        vertex_ids: (V,) int64 which.  faces: (F, 3) int64, or None for a coarse model.
    """

    def __init__(
        self,
        tables: BodyTables,
        skinning: SkinningTables,
        vertex_ids: torch.Tensor,
        faces: torch.Tensor | None,
    ) -> None:
        super().__init__()
        spec = tables.spec
        self._tables = tables
        self.name, self.kind, self.variant = spec.name, spec.kind, tables.variant
        self.label_model = spec.name
        self.joint_names, self.parents = list(spec.joint_names), list(spec.parents)
        self.shape_space = ShapeSpace(tuple(f"beta_{i}" for i in range(tables.shapes)))
        expressions = tables.directions.shape[2] - tables.shapes
        self.expression_names = [f"expression_{i}" for i in range(expressions)]
        self.finger_means = dict(tables.finger_means)
        self.finger_components = dict(tables.finger_components)
        self.skinning = Skinning(skinning, self.parents)
        keypoints, face = self._choose_keypoints(), list_face(tables)
        self._register_mesh(vertex_ids, faces, keypoints, face, ("left_", "right_"))

    @property
    def tables(self) -> BodyTables:
        """What the user's file holds."""
        return self._tables

    def _choose_keypoints(self) -> dict[str, str | int]:
        """{name: a joint, by name, or a vertex of the whole mesh, by number}."""
        return dict(lay_out_body(self._tables.spec).keypoints)

    def forward(
        self,
        pose: torch.Tensor,
        translation: torch.Tensor,
        shape: torch.Tensor,
        expression: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Pose the model; see BodyModel. Raises ValueError for more numbers than it has."""
        shapes, expressions = len(self.shape_space.names), len(self.expression_names)
        before = self.tables.shapes  # numbers of the shape that come before those of the expression
        for what, given, most in (
            ("shape", shape, shapes),
            ("expression", expression, expressions),
        ):
            if given is not None and given.shape[1] > most:
                raise ValueError(f"{given.shape[1]} numbers of {what}, {self.name} has {most}")
        with torch.autocast(pose.device.type, enabled=False):  # bf16 moves vertices by 3 mm
            rotation = pose.float() if pose.ndim == 4 else axis_angle_to_matrix(pose.float())
            numbers = shape.float()
            if expression is not None:
                rest = numbers.new_zeros(len(numbers), before - numbers.shape[1])
                rows = max(len(numbers), len(expression))
                body = torch.cat([numbers, rest], 1).expand(rows, -1)
                numbers = torch.cat([body, expression.float().expand(rows, -1)], 1)
            vertices, joints = self.skinning(rotation, numbers)
            shift = (translation.float() - joints[:, 0])[:, None]
            return vertices + shift, joints + shift

    def rest_root(self, shape: torch.Tensor) -> torch.Tensor:
        """Returns the (B, 3) joint 0 of shapes (B, S) in the file's own axes, metres.

        The family's own ``transl`` is added to a body whose joint 0 is here: it lies at
        ``transl + rest_root(shape)``, whatever the pose.
        """
        return self.skinning.rest_joints(shape.float())[:, 0]

    def read_skin(self) -> torch.Tensor:
        """Return (V, J) share of each joint in each vertex, as the file has them."""
        return self.skinning.weights

    def coarse(self, count: int) -> "SmplModel":
        """Return the same model with about ``count`` vertices spread evenly over the surface.

        A vertex is where it is on the full mesh: skinning treats each alone.
        """
        joints = len(self.joint_names)
        kept = self.landmark_index[self.landmark_index >= joints] - joints
        ids = spread_points(self.skinning.template, count)
        chosen = torch.unique(torch.cat([ids, kept]))
        out = self._rebuild(self.skinning.tables.select(chosen), self.vertex_ids[chosen])
        out.limit_shape(len(self.shape_space.names))
        return out

    def limit_shape(self, count: int) -> None:
        """Take the first ``count`` betas alone; see BodyModel."""
        self.shape_space = ShapeSpace(self.shape_space.names[:count])

    def _rebuild(self, skinning: SkinningTables, vertex_ids: torch.Tensor) -> "SmplModel":
        return SmplModel(self._tables, skinning, vertex_ids, None)

    def read_labels(self, labels: Mapping[str, torch.Tensor], flip: torch.Tensor) -> BodyParameters:
        """Returns what the labels say; see BodyModel.

        ``labels["root"]`` is where joint 0 is, or the file's own ``transl`` where
        ``labels["root_is_transl"]`` (B,) says so.
        """
        shape = self.fit_shape(labels["shape"])
        pose = labels["pose"]
        if "finger_coding" in labels:
            is_missing = labels["finger_coding"] != GIVEN
            pose = torch.where(is_missing[:, None, None, None], self.relax_fingers(pose), pose)
        return BodyParameters(self.name, pose, shape, place_root(labels, self.rest_root(shape)))

    def relax_fingers(self, pose: torch.Tensor) -> torch.Tensor:
        """Returns poses (B, J, 3, 3) with the fingers of both hands in the file's mean pose."""
        parts = [pose[:, : -2 * FINGER_JOINTS]]
        for side in ("left", "right"):
            mean = axis_angle_to_matrix(self.finger_mean(side))
            parts.append(mean.expand(len(pose), -1, -1, -1))
        return torch.cat(parts, 1)

    def fit_shape(self, shape: torch.Tensor) -> torch.Tensor:
        """Returns shapes (B, S') as (B, S): numbers that the file lacks are left out, others 0."""
        count = len(self.shape_space.names)
        if shape.shape[1] >= count:
            return shape[:, :count]
        return torch.cat([shape, shape.new_zeros(len(shape), count - shape.shape[1])], 1)

    def finger_mean(self, side: str) -> torch.Tensor:
        """Returns the (15, 3) rotation vectors of a relaxed hand, in the order of the joints.

        Raises:
            UserError: the file has none, as SMPL's never has.
        """
        return self._finger_table(self.finger_means, "mean", side)

    def pose_fingers(self, coefficients: torch.Tensor, side: str) -> torch.Tensor:
        """Returns (B, 15, 3) rotation vectors of a hand, by its principal components.

        Args:
            coefficients: (B, n) of the first n of 45 components, on top of the mean.
            side: "left" or "right".
        """
        components = self._finger_table(self.finger_components, "components", side)
        offset = coefficients.float() @ components[: coefficients.shape[1]]
        return self.finger_mean(side) + offset.unflatten(1, (-1, 3))

    def _finger_table(self, tables: Mapping[str, np.ndarray], what: str, side: str) -> torch.Tensor:
        if side not in tables:
            raise UserError(f"{self.tables.path} has no {what} of the {side} hand's fingers")
        return torch.from_numpy(tables[side]).float().to(self.vertex_ids.device)


class ManoModel(SmplModel):
    """One hand, by default the right one. A left one is learnt in a mirror.

    Args:
        other: tables of the other hand, by which labels of that side are read.
        others: as SmplModel's.
    """

    other_root: torch.Tensor
    other_root_directions: torch.Tensor

    def __init__(
        self,
        tables: BodyTables,
        skinning: SkinningTables,
        vertex_ids: torch.Tensor,
        faces: torch.Tensor | None,
        other: BodyTables,
    ) -> None:
        super().__init__(tables, skinning, vertex_ids, faces)
        self._other = other
        self.finger_means |= other.finger_means
        self.finger_components |= other.finger_components
        rest, directions = regress_joints(other)
        self.register_buffer("other_root", rest[0].float(), persistent=False)
        self.register_buffer("other_root_directions", directions[0].float(), persistent=False)

    def _choose_keypoints(self) -> dict[str, str | int]:
        return list_hand_keypoints()

    def _rebuild(self, skinning: SkinningTables, vertex_ids: torch.Tensor) -> "ManoModel":
        return ManoModel(self.tables, skinning, vertex_ids, None, self._other)

    def read_labels(self, labels: Mapping[str, torch.Tensor], flip: torch.Tensor) -> BodyParameters:
        """Returns the labelled hand: the other one where the image is mirrored; see BodyModel."""
        shape = self.fit_shape(labels["shape"])
        other = self.other_root + shape @ self.other_root_directions.T
        rest = torch.where(flip[:, None], other, self.rest_root(shape))
        mine, theirs = (self._pose_fingers_of(labels, side) for side in self._sides)
        pose = torch.where(flip[:, None, None, None], theirs, mine)
        return BodyParameters(self.name, pose, shape, place_root(labels, rest))

    @property
    def _sides(self) -> tuple[str, str]:
        return self.variant, self._other.variant

    def _pose_fingers_of(self, labels: Mapping[str, torch.Tensor], side: str) -> torch.Tensor:
        """(B, 16, 3, 3) rotations of labels, were they of that side."""
        given, coding = labels["fingers"], labels["finger_coding"]
        if not bool((coding != GIVEN).any()):
            return labels["pose"]
        vectors = torch.where(
            (coding == COMPONENTS)[:, None, None],
            self.pose_fingers(given.flatten(1), side),
            self.finger_mean(side) + given,
        )
        fingers = axis_angle_to_matrix(vectors)
        fingers = torch.where(
            (coding == GIVEN)[:, None, None, None], labels["pose"][:, 1:], fingers
        )
        return torch.cat([labels["pose"][:, :1], fingers], 1)


def list_face(tables: BodyTables) -> dict[str, int]:
    """Returns {point of COCO's face: its vertex}; empty for a hand or a mesh of another size."""
    name = tables.spec.name
    if len(tables.template) != VERTEX_COUNTS[name] or tables.spec.kind == "hand":
        return {}
    return {point: LANDMARKS[name][point] for point in FACE5}


def list_hand_keypoints() -> dict[str, str | int]:
    """Returns {keypoint of MANO: its joint, by name, or a vertex, by number}, the wrist first."""
    tips = LANDMARKS[MANO.name]
    out: dict[str, str | int] = {"wrist": "wrist"}
    for finger in FINGERS:
        for joint in (1, 2, 3):
            out[f"{finger}_{joint}"] = f"{finger}_{joint}"
        out[f"{finger}_tip"] = tips[f"{finger}_tip"]
    return out


def place_root(labels: Mapping[str, torch.Tensor], rest: torch.Tensor) -> torch.Tensor:
    """Returns where joint 0 is, (B, 3), by labels that say it or the family's own ``transl``.

    Args:
        rest: (B, 3) joint 0 of the shape at rest.
    """
    is_transl = labels["root_is_transl"] > 0.5
    return labels["root"] + torch.where(is_transl[:, None], rest, torch.zeros_like(rest))


def regress_joints(tables: BodyTables) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns (J, 3) joints of the template and (J, 3, S + E) how each blend shape moves them."""
    used = tables.regressor.any(0)  # a few vertices around each joint
    regressor = tables.regressor[:, used]
    moved = np.tensordot(regressor, tables.directions[used].astype(np.float64), 1)
    return torch.from_numpy(regressor @ tables.template[used]), torch.from_numpy(moved)


def make_skinning(tables: BodyTables) -> SkinningTables:
    """Returns what a file's mesh is posed by, the expression after the shape."""
    joints, joint_directions = regress_joints(tables)
    return SkinningTables(
        torch.from_numpy(tables.template),
        torch.from_numpy(tables.directions),
        torch.from_numpy(tables.pose_directions),
        joints,
        joint_directions,
        torch.from_numpy(tables.weights),
    )


def build_body(spec: FamilySpec, variant: str) -> SmplModel:
    """Returns the body of a model and variant, "" for the default, by the user's file.

    Raises:
        UserError: there is no such variant or file, or the file does not fit; see body_files.
    """
    tables = read_body(spec, variant or spec.variants[0])
    ids = torch.arange(len(tables.template))
    return SmplModel(tables, make_skinning(tables), ids, torch.from_numpy(tables.faces))


def build_hand(variant: str) -> ManoModel:
    """Returns MANO's hand, "" for the right one, by the user's file; see ``build_body``.

    Where the other hand's file is there too, labels of that side are read by it.
    """
    side = variant or MANO.variants[0]
    tables = read_body(MANO, side)
    (beside,) = [name for name in MANO.variants if name != side]
    other = read_body(MANO, beside) if has_file(MANO, beside) else mirror_tables(tables, beside)
    left, right = (tables, other) if side == "left" else (other, tables)
    mirror_wrong_shapes(left, right)
    ids = torch.arange(len(tables.template))
    return ManoModel(tables, make_skinning(tables), ids, torch.from_numpy(tables.faces), other)
