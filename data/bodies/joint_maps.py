"""Points of any joint set from a posed body of any model, by name.

    give = JointMap(body, "coco17")
    points = give(vertices, joints)                 # (B, 17, 3), zeros where there is none
    give.missing                                    # names that this body cannot give

A point is a joint of the body, a vertex or some of them (``landmarks``), or a row of a regressor
that the user has (``read_regressor``). Equal names are one point as the field understands it, and
not to the millimetre: see data.format.joint_sets.
"""

import os
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from data.bodies.base import BodyModel
from data.bodies.body_files import VARIABLE
from data.bodies.landmarks import ANNY_JOINTS, LANDMARKS, VERTEX_COUNTS
from data.bodies.smpl_model import SmplModel
from data.format.joint_sets import JointSet, find_joint_set
from engine.errors import UserError, explain, failure_of

# Names of the rows of regressors that are handed around for SMPL's mesh.
REGRESSORS = {"h36m": "h36m_rows17", "extra": "extra_rows9"}
# Points that lie in the middle of two others.
MIDDLES = {"mid_hip": ("left_hip", "right_hip")}
ALIASES = {"spine": "spine_1", "chest": "spine_2"}
FACE_FIRST = 17  # the number of the first point of the face that is no contour
CORNERS = 3


@dataclass(frozen=True)
class Regressor:
    """Rows that make points of a mesh.

    Attributes:
        joint_set: names of the rows.  rows: (N, V) float64.  path: the file.
    """

    joint_set: JointSet
    rows: np.ndarray
    path: str


def read_regressor(name: str, path: str = "") -> Regressor:
    """Returns a regressor of joints that the user has: "h36m" or "extra".

    Args:
        path: an npy file; by default J_regressor_NAME.npy in the folder that COUNTERPOSE_BODIES
            names.
    Raises:
        UserError: there is none, or it is not of so many rows of finite numbers.
    """
    if name not in REGRESSORS:
        raise UserError(f"regressor '{name}' is none of {', '.join(REGRESSORS)}")
    path = path or os.path.join(os.environ.get(VARIABLE, ""), f"J_regressor_{name}.npy")
    try:
        rows = np.load(path, allow_pickle=False)
    except OSError as error:
        raise failure_of(error, f"{path} cannot be read: {explain(error)}") from None
    except (ValueError, EOFError) as error:
        raise UserError(f"{path} is no npy file of numbers: {error}") from None
    joint_set = find_joint_set(REGRESSORS[name])
    if not isinstance(rows, np.ndarray) or rows.dtype.kind not in "fiu" or rows.ndim != 2:
        raise UserError(f"{path} is no npy file of rows of numbers")
    if len(rows) != len(joint_set):
        raise UserError(f"{path} has {len(rows)} rows, a regressor {name} has {len(joint_set)}")
    if not np.isfinite(rows).all():
        raise UserError(f"{path} holds numbers that are not finite")
    return Regressor(joint_set, np.asarray(rows, np.float64), path)


class JointMap(nn.Module):
    """Gives the points of a joint set from vertices and joints of one body model.

    Args:
        body: full or coarse; a coarse one gives the points whose vertices it kept.
        joint_set: a name of data.format.joint_sets.
        part: "left_hand" or "right_hand": the set is of that hand of a whole body.
        regressor: its points are taken by it, the others as ever.

    Attributes:
        given: (N,) bool which points there are.  missing: names of the others.

    Raises:
        UserError: there is no such joint set, or the regressor is of another mesh.
    """

    index: torch.Tensor
    weight: torch.Tensor
    rows: torch.Tensor
    given: torch.Tensor

    def __init__(
        self,
        body: BodyModel,
        joint_set: str,
        part: str = "",
        regressor: Regressor | None = None,
    ) -> None:
        super().__init__()
        names = find_joint_set(joint_set).joints
        self.names = names
        sources = _Sources(body)
        count = len(names)
        index = np.zeros((count, CORNERS), np.int64)
        weight = np.zeros((count, CORNERS))
        rows = np.zeros((count, len(body.vertex_ids)))
        regressed = {} if regressor is None else _index_rows(regressor, body)
        for place, name in enumerate(names):
            if name in regressed and regressor is not None:
                rows[place] = regressor.rows[regressed[name]]
                continue
            for corner, (at, share) in enumerate(sources.find(_rename(name, part))):
                index[place, corner], weight[place, corner] = at, share
        given = (weight != 0).any(1) | (rows != 0).any(1)
        self.missing = [name for name, there in zip(names, given, strict=True) if not there]
        self.is_regressed = bool(rows.any())
        for name, values in (
            ("index", torch.from_numpy(index)),
            ("weight", torch.from_numpy(weight).float()),
            ("rows", torch.from_numpy(rows).float() if self.is_regressed else torch.zeros(0)),
            ("given", torch.from_numpy(given)),
        ):
            self.register_buffer(name, values, persistent=False)

    def forward(self, vertices: torch.Tensor, joints: torch.Tensor) -> torch.Tensor:
        """Returns (B, N, 3) metres of posed (B, V, 3) vertices and (B, J, 3) joints."""
        corners = torch.cat([joints, vertices], 1)[:, self.index]
        points = (corners * self.weight[..., None]).sum(2)
        if self.is_regressed:
            points = points + self.rows @ vertices
        return points


def _rename(name: str, part: str) -> str:
    """The name of a joint set's point among those of a whole body."""
    if part:
        return f"{part.removesuffix('_hand')}_{name}"
    for side in ("left", "right"):
        if name.startswith(f"{side}_hand_"):
            return name.replace("_hand_", "_", 1)
    return name


def _index_rows(regressor: Regressor, body: BodyModel) -> dict[str, int]:
    """{name: row} of a regressor, after a check that it is of this mesh."""
    count = regressor.rows.shape[1]
    if body.faces is None or count != len(body.vertex_ids):
        raise UserError(
            f"{regressor.path} is of {count} vertices, body={body.name} has {len(body.vertex_ids)}"
        )
    return {name: row for row, name in enumerate(regressor.joint_set.joints)}


class _Sources:
    """Where a body's points are: places among its joints and then its vertices, and shares."""

    def __init__(self, body: BodyModel) -> None:
        self.body = body
        self.joints = {name: place for place, name in enumerate(body.joint_names)}
        if body.name == "anny":
            self.joints = {
                name: body.joint_names.index(joint) for name, joint in ANNY_JOINTS.items()
            }
        if body.name == "anny_hand":
            self.joints = {}
        first, numbers = len(body.joint_names), body.vertex_ids.tolist()
        places = {vertex: first + place for place, vertex in enumerate(numbers)}
        self.vertices = places
        self.landmarks: dict[str, int] = {}
        is_whole = body.faces is None or len(numbers) == VERTEX_COUNTS.get(body.name)
        if is_whole:
            known = LANDMARKS.get(body.name, {})
            self.landmarks = {n: places[at] for n, at in known.items() if at in places}
        if body.name == "anny_hand":
            self._take_keypoints(body)
        self.face = self._list_face(body)

    def _take_keypoints(self, body: BodyModel) -> None:
        """The hand's points are its keypoints, whose places it knows itself."""
        index = getattr(body, "keypoint_index")  # noqa: B009 - a buffer
        places = torch.as_tensor(index).tolist()
        self.landmarks |= dict(zip(body.keypoint_names, places, strict=True))

    def _list_face(self, body: BodyModel) -> dict[str, list[tuple[int, float]]]:
        """{face_17 ...: its triangle's corners} of SMPL-X, whose file says them."""
        if not isinstance(body, SmplModel):
            return {}
        tables, out = body.tables, {}
        for number, triangle in enumerate(tables.face_triangles):
            corners = tables.faces[triangle].tolist()
            shares = tables.face_weights[number].tolist()
            if all(vertex in self.vertices for vertex in corners):
                places = [self.vertices[vertex] for vertex in corners]
                out[f"face_{FACE_FIRST + number}"] = list(zip(places, shares, strict=True))
        return out

    def find(self, name: str) -> list[tuple[int, float]]:
        """[(place, share), ...] of a point; empty where there is none."""
        if name in self.face:
            return self.face[name]
        if name in MIDDLES:
            found = [self.find(side) for side in MIDDLES[name]]
            if not all(found):
                return []
            return [(place, share / len(found)) for ((place, share),) in found]
        if name in self.joints:
            return [(self.joints[name], 1.0)]
        if name in self.landmarks:
            return [(self.landmarks[name], 1.0)]
        return self.find(ALIASES[name]) if name in ALIASES else []
