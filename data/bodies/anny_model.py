"""Anny as body models: the whole body, and its right hand cut out at the wrist."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from data.bodies.anny_body import AnnyBody
from data.bodies.anny_layout import ANNY, FACE, FINGERS, KEYPOINTS, list_hand_joints
from data.bodies.anny_shape import ShapeWeights
from data.bodies.base import BodyModel, BodyParameters, PointedBody, ShapeSpace
from data.bodies.sampling import spread_points
from engine.geometry import axis_angle_to_matrix

if TYPE_CHECKING:
    from anny.models.model_data import ModelData
    from anny.models.rigged_model import RiggedModelWithLinearBlendShapes

# Vertices of anny's base mesh at the tips of the right hand's fingers.
FINGERTIPS = (2680, 1927, 2119, 2314, 2503)
# A hand ends at a plane across the forearm so far beyond the wrist: there the mesh has a ring of 20
# edges, so the cut is even.
HAND_FROM_M = 0.0025


class AnnyModel(PointedBody):
    """The whole body: 104 joints, 13718 vertices, 6 shape parameters in [0, 1].

    Args:
        rigged: anny's own model of these vertices, without facial actions.
        faces: (F, 3) int64, or None for a coarse model.
        vertex_ids: (V,) int64 each vertex's number in the whole body's mesh.
        keypoints: {name: a joint, by name, or a vertex of the whole body, by number}.
        source: the AnnyBody that all this is cut from.
        face: landmarks that are no keypoints, likewise.
    """

    name = "anny"
    kind = "body"
    variant = ""

    def __init__(
        self,
        rigged: "RiggedModelWithLinearBlendShapes",
        faces: torch.Tensor | None,
        vertex_ids: torch.Tensor,
        keypoints: Mapping[str, str | int],
        source: AnnyBody,
        face: Mapping[str, str | int],
    ) -> None:
        super().__init__()
        self.rigged, self.source, self._keypoints, self._face = rigged, source, keypoints, face
        self.joint_names = list(rigged.bone_labels)
        self.parents = [int(parent) for parent in rigged.bone_parents]
        self.shape_space = ShapeSpace(tuple(source.shape_names), mean=0.5, low=0.0, high=1.0)
        self.expression_names = list(source.face_names)
        self._shape_weights = ShapeWeights(source.model)
        self._register_mesh(vertex_ids, faces, keypoints, face, (".L", ".R"))

    def forward(
        self,
        pose: torch.Tensor,
        translation: torch.Tensor,
        shape: torch.Tensor,
        expression: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Pose the model; see BodyModel. ``expression``: (B, 52) or (1, 52) facial actions."""
        if expression is not None:
            vertices, joints = self.source(pose, translation, shape, expression)
            return vertices[:, self.vertex_ids], joints
        return self._pose(pose, translation, shape)

    def _pose(
        self, pose: torch.Tensor, translation: torch.Tensor, shape: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return vertices and joints of a face at rest, without the face's blend shapes."""
        with torch.autocast(pose.device.type, enabled=False):  # bf16 moves vertices by 3 mm
            rest, moved, bones = self._move_bones(pose, shape)
            vertices = self.rigged.get_skinned_vertices(
                rest_vertices=rest["rest_vertices"].expand(len(moved), -1, -1),
                bone_transforms=moved,
            )
            shift = translation.float()[:, None]
            return vertices + shift, bones[..., :3, 3] + shift

    def _move_bones(
        self, pose: torch.Tensor, shape: torch.Tensor
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
        """(anny's dict of a body at rest, (B, J, 4, 4) moves from rest, (B, J, 4, 4) bones)."""
        rest = self.rigged.get_rest_model(self._coefficients(shape.float()))
        rotation = pose.float() if pose.ndim == 4 else axis_angle_to_matrix(pose.float())
        # By no assignment, which would fix the number of bodies of a network that is exported.
        corner = torch.zeros(4, 4, device=rotation.device)
        corner[3, 3] = 1
        transforms = F.pad(rotation, (0, 1, 0, 1)) + corner
        moved, bones = self.rigged.get_bone_transforms(transforms, rest["rest_bone_poses"])
        return rest, moved, bones

    def turn_joints(self, pose: torch.Tensor, shape: torch.Tensor) -> torch.Tensor:
        """Return how each joint turns from rest: its axes follow the shape; see BodyModel."""
        with torch.autocast(pose.device.type, enabled=False):
            return self._move_bones(pose, shape)[1][..., :3, :3]

    def read_rest(self, shape: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mesh that is skinned; see BodyModel.

        Poses count from the axes of an average body's joints, so that all shapes stand alike at
        pose 0: that is up to centimetres away from here.
        """
        with torch.autocast(shape.device.type, enabled=False):
            found = self.rigged.get_rest_model(self._coefficients(shape.float()))
            joints = found["rest_bone_poses"][..., :3, 3]
            return found["rest_vertices"] - joints[:, :1], joints - joints[:, :1]

    def read_skin(self) -> torch.Tensor:
        """Return (V, J) share of each joint in each vertex; see BodyModel."""
        weights, bones = self.rigged.vertex_bone_weights, self.rigged.vertex_bone_indices.long()
        out = weights.new_zeros(len(weights), len(self.rigged.bone_labels))
        return out.scatter_add_(1, bones, weights)

    def coarse(self, count: int) -> "AnnyModel":
        """Return the same model with about ``count`` vertices spread evenly over the surface.

        It keeps the vertices of the landmarks too.

        A vertex is where it is on the full mesh: skinning treats each alone, so nothing is
        approximated.
        """
        ids = spread_points(self.rigged.template_vertices, count)
        joints = len(self.joint_names)
        tips = self.landmark_index[self.landmark_index >= joints] - joints
        chosen = torch.unique(torch.cat([ids, tips]))
        data = _cut_vertices(self.rigged.to_model_data(), chosen)
        return self._rebuild(_rigged(data), self.vertex_ids[chosen])

    def lean(self, count: int) -> BodyModel:
        """Return a coarse model without the joints that no landmark hangs on; see BodyModel."""
        model = self.coarse(count)
        data = model.rigged.to_model_data()
        ends = [at for at in {**self._keypoints, **self._face}.values() if isinstance(at, str)]
        chains = [_list_chain(self.joint_names.index(end), self.parents) for end in ends]
        kept = sorted(set().union(*chains))
        return LeanAnny(model, *_keep_bones(data, kept))

    def _rebuild(
        self, rigged: "RiggedModelWithLinearBlendShapes", vertex_ids: torch.Tensor
    ) -> "AnnyModel":
        return AnnyModel(rigged, None, vertex_ids, self._keypoints, self.source, self._face)

    def read_labels(self, labels: Mapping[str, torch.Tensor], flip: torch.Tensor) -> BodyParameters:
        """Returns what the labels say as it is; see BodyModel."""
        return BodyParameters(self.name, labels["pose"], labels["shape"], labels["root"])

    def _coefficients(self, shape: torch.Tensor) -> torch.Tensor:
        """(B, C) weights of the blend shapes, without the facial actions that come after them."""
        weights = self._shape_weights(shape)
        return weights[:, : len(self.rigged.blendshapes)]


class LeanAnny(AnnyModel):
    """The whole body by the joints that its landmarks hang on: 40 of 104, at half the time.

    Fingers and toes keep their places in hands and feet as at rest. ``joints`` are all 104, those
    that are left out where the nearest kept one before them is.

    Args:
        kept: (J',) int64 of the joints that are posed.  nearest: (J,) int64 the one of them that
            each joint moves with.  The others as AnnyModel's.
    """

    kept: torch.Tensor
    nearest: torch.Tensor

    def __init__(
        self, model: AnnyModel, data: "ModelData", kept: torch.Tensor, nearest: torch.Tensor
    ) -> None:
        ids = model.vertex_ids
        super().__init__(_rigged(data), None, ids, model._keypoints, model.source, model._face)
        self.joint_names, self.parents = model.joint_names, model.parents
        self.register_buffer("kept", kept, persistent=False)
        self.register_buffer("nearest", nearest, persistent=False)
        for name in ("keypoint_index", "landmark_index", "mirror"):
            self.register_buffer(name, getattr(model, name), persistent=False)

    def _pose(
        self, pose: torch.Tensor, translation: torch.Tensor, shape: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        vertices, joints = super()._pose(pose[:, self.kept], translation, shape)
        return vertices, joints[:, self.nearest]

    def turn_joints(self, pose: torch.Tensor, shape: torch.Tensor) -> torch.Tensor:
        """Return how each joint turns, those left out as the one they move with."""
        return super().turn_joints(pose[:, self.kept], shape)[:, self.nearest]

    def read_rest(self, shape: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mesh that is skinned, its left out joints where the one they move with is."""
        vertices, joints = super().read_rest(shape)
        return vertices, joints[:, self.nearest]

    def read_skin(self) -> torch.Tensor:
        """Return (V, J) shares, 0 of the joints that are left out; see BodyModel."""
        found = super().read_skin()
        out = found.new_zeros(len(found), len(self.joint_names))
        out[:, self.kept] = found
        return out


class AnnyHand(AnnyModel):
    """The right hand: 21 joints, of which joint 0 is a root at the wrist.

    Args:
        whole: the AnnyModel of the whole body; the others as AnnyModel's.
    """

    name = "anny_hand"
    kind = "hand"

    def __init__(
        self,
        rigged: "RiggedModelWithLinearBlendShapes",
        faces: torch.Tensor | None,
        vertex_ids: torch.Tensor,
        keypoints: Mapping[str, str | int],
        source: AnnyBody,
        whole: AnnyModel,
    ) -> None:
        super().__init__(rigged, faces, vertex_ids, keypoints, source, face={})
        self._whole = whole
        self.expression_names = []
        # A left hand is learnt as the right one in a mirror, so its own joints are looked up under
        # their mirror's names.
        self._fingers, self._chains = {}, {}
        for side in ("left_hand", "right_hand"):
            wrist, *fingers = ANNY.index_part(side)
            self._fingers[side] = torch.tensor(fingers)
            self._chains[side] = _list_chain(wrist, whole.parents)

    @property
    def whole(self) -> AnnyModel:
        """The whole body."""
        return self._whole

    def forward(
        self,
        pose: torch.Tensor,
        translation: torch.Tensor,
        shape: torch.Tensor,
        expression: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Pose the hand; see BodyModel. Raises ValueError for an expression."""
        if expression is not None:
            raise ValueError("a hand has no facial expression")
        return self._pose(pose, translation, shape)

    def lean(self, count: int) -> BodyModel:
        """Return a coarse model: keypoints hang on all joints of a hand."""
        return self.coarse(count)

    def _rebuild(
        self, rigged: "RiggedModelWithLinearBlendShapes", vertex_ids: torch.Tensor
    ) -> "AnnyHand":
        return AnnyHand(rigged, None, vertex_ids, self._keypoints, self.source, self._whole)

    def read_labels(self, labels: Mapping[str, torch.Tensor], flip: torch.Tensor) -> BodyParameters:
        """Returns the left hand where the image is mirrored, else the right; see BodyModel."""
        right, right_wrist = self._read_hand(labels, "right_hand")
        left, left_wrist = self._read_hand(labels, "left_hand")
        pose = torch.where(flip[:, None, None, None], left, right)
        wrist = torch.where(flip[:, None], left_wrist, right_wrist)
        return BodyParameters(self.name, pose, labels["shape"], wrist)

    def _read_hand(
        self, labels: Mapping[str, torch.Tensor], side: str
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, 21, 3, 3) rotations and (B, 3) wrist of a hand, by the whole body's labels."""
        # The hand's root rotates as all joints from the pelvis to the wrist together.
        rotated = labels["pose"][:, 0]
        for joint in self._chains[side][1:]:
            rotated = rotated @ labels["pose"][:, joint]
        wrist = torch.eye(3, device=rotated.device).expand_as(rotated)
        fingers = labels["pose"][:, self._fingers[side].to(rotated.device)]
        rotation = torch.cat([torch.stack([rotated, wrist], 1), fingers], 1)
        return rotation, labels["joints"][:, self._chains[side][-1]]


def build_body() -> AnnyModel:
    """Returns the whole body with its full mesh.

    Raises:
        UserError: the body model's cache cannot be written.
    """
    source = AnnyBody()
    data = _read_data(source)
    ids = torch.arange(len(data.template_vertices))
    return AnnyModel(_rigged(data), source.faces, ids, KEYPOINTS, source, FACE)


def build_hand() -> AnnyHand:
    """Returns the right hand with its full mesh, cut from the whole body; see build_body."""
    whole = build_body()
    data = _read_data(whole.source)
    ids = _hand_vertices(data, "R")
    tips = [int(torch.where(data.base_mesh_vertex_indices == v)[0]) for v in FINGERTIPS]
    faces = _cut_faces(whole.source.faces, ids, len(data.template_vertices))
    keypoints: dict[str, str | int] = {"wrist": "wrist.R"}
    for number, finger in enumerate(FINGERS, 1):
        for joint in (1, 2, 3):
            keypoints[f"{finger}_{joint}"] = f"finger{number}-{joint}.R"
        keypoints[f"{finger}_tip"] = tips[number - 1]
    rigged = _rigged(_cut_vertices(_cut_bones(data, "R"), ids))
    return AnnyHand(rigged, faces, ids, keypoints, whole.source, whole)


def _read_data(source: AnnyBody) -> "ModelData":
    """Return the tables of vertices and bones of anny, without the blend shapes of the face."""
    data = source.model.to_model_data()
    # Those after them are facial actions.
    shapes = _given(source.model.phenotype_blendshape_projection).shape[1]
    return dataclasses.replace(
        data,
        blendshapes=data.blendshapes[:shapes],
        bone_heads_blendshapes=data.bone_heads_blendshapes[:shapes],
        bone_orientation_blendshapes=_given(data.bone_orientation_blendshapes)[:shapes],
    )


def _given(tensor: torch.Tensor | None) -> torch.Tensor:
    """A table that anny's own types leave open and its compact models always have."""
    if tensor is None:
        raise ValueError("this version of anny has other tables than the one that this is for")
    return tensor


def _list_chain(joint: int, parents: list[int]) -> list[int]:
    """Joints from the root to this one."""
    out = [joint]
    while parents[out[0]] >= 0:
        out.insert(0, parents[out[0]])
    return out


def _rigged(data: "ModelData") -> "RiggedModelWithLinearBlendShapes":
    from anny.models.rigged_model import RiggedModelWithLinearBlendShapes

    return (
        RiggedModelWithLinearBlendShapes(
            data, skinning_method="lbs", bone_orientation="cached", root_identity_orientation=True
        )
        .to(torch.float32)
        .requires_grad_(False)
    )


def _cut_vertices(data: "ModelData", ids: torch.Tensor) -> "ModelData":
    return dataclasses.replace(
        data,
        template_vertices=data.template_vertices[ids],
        blendshapes=data.blendshapes[:, ids],
        vertex_bone_weights=data.vertex_bone_weights[ids],
        vertex_bone_indices=data.vertex_bone_indices[ids],
        base_mesh_vertex_indices=data.base_mesh_vertex_indices[ids],
    )


def _hand_bones(data: "ModelData", side: str) -> list[int]:
    names = list_hand_joints(side)
    return [i for i, name in enumerate(data.metadata.bone_labels) if name in names]


def _hand_vertices(data: "ModelData", side: str) -> torch.Tensor:
    """Return indices of the vertices of one hand.

    They are moved by its forearm, wrist or fingers, and lie beyond a plane at the wrist.
    """
    labels = data.metadata.bone_labels
    elbow, wrist = (labels.index(f"{name}.{side}") for name in ("lowerarm01", "wrist"))
    bones = torch.tensor(
        [elbow, labels.index(f"lowerarm02.{side}"), *_hand_bones(data, side)],
        device=data.vertex_bone_indices.device,
    )
    share = (data.vertex_bone_weights * torch.isin(data.vertex_bone_indices, bones)).sum(1)
    along = torch.nn.functional.normalize(
        data.template_bone_heads[wrist] - data.template_bone_heads[elbow], dim=0
    )
    beyond = (data.template_vertices - data.template_bone_heads[wrist]) @ along > HAND_FROM_M
    return torch.where((share > 0.5) & beyond)[0]


def _cut_bones(data: "ModelData", side: str) -> "ModelData":
    """The rig of one hand: a root at the wrist, the wrist, the fingers.

    The rest of the arm's weights go to the root.

    The root is a joint of its own, as in anny's hand rig: the wrist rotates the mesh into its own
    axes, which follow the shape, and the root does not.
    """
    hand = _hand_bones(data, side)
    labels, parents = data.metadata.bone_labels, data.metadata.bone_parents
    wrist, eye = hand[0], torch.eye(3, dtype=data.template_vertices.dtype)
    numbers = {old: new for new, old in enumerate(hand, 1)}
    new = torch.tensor([numbers.get(i, 0) for i in range(len(labels))])
    rows = [wrist, *hand]

    def rooted(tensor: torch.Tensor | None, root: torch.Tensor, axis: int) -> torch.Tensor:
        out = _given(tensor).index_select(axis, torch.tensor(rows)).clone()
        out.select(axis, 0).copy_(root)
        return out

    zero = torch.zeros(3)
    metadata = dataclasses.replace(
        data.metadata,
        bone_labels=["root", *(labels[i] for i in hand)],
        bone_parents=[-1, *(numbers.get(int(parents[i]), 0) for i in hand)],
    )
    return dataclasses.replace(
        data,
        metadata=metadata,
        vertex_bone_indices=new[data.vertex_bone_indices.long()],
        template_bone_heads=data.template_bone_heads[rows],
        bone_heads_blendshapes=data.bone_heads_blendshapes[:, rows],
        reference_bone_orientations=rooted(data.reference_bone_orientations, eye, 0),
        bone_template_orientation_matrices=rooted(data.bone_template_orientation_matrices, eye, 0),
        bone_orientation_blendshapes=rooted(data.bone_orientation_blendshapes, zero, 1),
    )


def _keep_bones(
    data: "ModelData", kept: list[int]
) -> tuple["ModelData", torch.Tensor, torch.Tensor]:
    """The rig of some bones, with all that they hang on.

    Returns:
        the tables; (J',) int64 the bones; (J,) int64 which of them each bone moves with.
    """
    parents, rows = data.metadata.bone_parents, torch.tensor(kept)
    numbers = {old: new for new, old in enumerate(kept)}
    nearest = []
    for bone in range(len(parents)):
        while bone not in numbers:
            bone = int(parents[bone])
        nearest.append(numbers[bone])
    new = torch.tensor(nearest)
    metadata = dataclasses.replace(
        data.metadata,
        bone_labels=[data.metadata.bone_labels[bone] for bone in kept],
        bone_parents=[numbers.get(int(parents[bone]), -1) for bone in kept],
    )
    cut = dataclasses.replace(
        data,
        metadata=metadata,
        vertex_bone_indices=new[data.vertex_bone_indices.long()],
        template_bone_heads=data.template_bone_heads[rows],
        bone_heads_blendshapes=data.bone_heads_blendshapes[:, rows],
        reference_bone_orientations=_given(data.reference_bone_orientations)[rows],
        bone_template_orientation_matrices=_given(data.bone_template_orientation_matrices)[rows],
        bone_orientation_blendshapes=_given(data.bone_orientation_blendshapes)[:, rows],
    )
    return cut, rows, new


def _cut_faces(faces: torch.Tensor, ids: torch.Tensor, count: int) -> torch.Tensor:
    """Triangles whose corners are all kept, renumbered."""
    numbers = torch.full((count,), -1)
    numbers[ids] = torch.arange(len(ids))
    found = numbers[faces]
    return found[(found >= 0).all(1)]
