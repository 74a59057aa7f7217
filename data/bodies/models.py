"""Body models behind one interface: rotations and shape in, vertices and joints out,
differentiable, float32.

    body = open_model("anny")                  # or "anny_hand", the right hand
    coarse = body.coarse(512)                  # the same function, fewer vertices
    vertices, joints = body(pose, root, shape)

A left hand is the right one in a mirror: see ``mirrored``.
"""

import dataclasses

import torch
from torch import nn

from data.bodies.anny import AnnyBody
from engine.errors import UserError
from engine.geometry import axis_angle_to_matrix

MODELS = {"anny": "body", "anny_hand": "hand"}
# Name and bone of the joints that errors are measured on: those that the field's body models share.
BODY_KEYPOINTS = {
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
FINGERS = ("thumb", "index", "middle", "ring", "little")
# Vertices of anny's base mesh at the tips of the right hand's fingers.
FINGERTIPS = (2680, 1927, 2119, 2314, 2503)
# A hand ends at a plane across the forearm so far beyond the wrist: there the mesh has a ring of 20
# edges, so the cut is even.
HAND_FROM_M = 0.0025


class BodyModel(nn.Module):
    """A skinned mesh with J joints, V vertices and S shape parameters.

    Frames: metres; pose 0 is the rotation of the whole about joint 0, in the axes of whatever frame
        ``root`` is in; the
    others are relative to the parent, with axes that are the world's at rest (see
    data/bodies/anny.py).

    Attributes:
        name: "anny" or "anny_hand".  kind: "body" or "hand".
        joint_names, parents, shape_names: lists.  faces: (F, 3) int64, or None for a coarse model.
        vertex_ids: (V,) int64, each vertex's place in the whole body's mesh.
        keypoint_names: K names.  keypoints(vertices, joints) gives their places.
        whole_names, whole_parents: joints of the whole body, in which labels are given.
        mirror: (J,) int64 the joint on the other side of each; keypoint_mirror: (K,) likewise.  For
            a hand: itself.
    """

    def __init__(self, name, rigged, faces, vertex_ids, keypoints, whole):
        super().__init__()
        self.name, self.kind = name, MODELS[name]
        self.rigged = rigged
        self.joint_names, self.parents = (
            list(rigged.bone_labels),
            [int(p) for p in rigged.bone_parents],
        )
        self.whole, self.shape_names = whole, list(whole.shape_names)
        self.whole_names, self.whole_parents = whole.joint_names, whole.parents
        self.register_buffer("faces", faces, persistent=False)
        self.register_buffer("vertex_ids", vertex_ids, persistent=False)
        self.keypoint_names = list(keypoints)
        places = {int(v): i for i, v in enumerate(vertex_ids)}
        # A keypoint is a joint, by name, or a vertex, by number: an index into joints and then
        # vertices.
        index = [
            self.joint_names.index(at)
            if isinstance(at, str)
            else len(self.joint_names) + places[at]
            for at in keypoints.values()
        ]
        self._keypoints = keypoints
        self.register_buffer("keypoint_index", torch.tensor(index), persistent=False)
        for attribute, names in (
            ("mirror", self.joint_names),
            ("keypoint_mirror", self.keypoint_names),
        ):
            self.register_buffer(
                attribute, torch.tensor([_other_side(n, names) for n in names]), persistent=False
            )

    def forward(self, pose, root, shape):
        """Pose the model.

        Args:
            pose: (B, J, 3) rotation vectors or (B, J, 3, 3) matrices.  root: (B, 3) metres, where
                joint 0 is put.
            shape: (B, S) or (1, S), each in [0, 1].
        Returns:
            vertices (B, V, 3), joints (B, J, 3).
        """
        with torch.autocast(pose.device.type, enabled=False):  # bf16 moves vertices by 3 mm
            rest = self.rigged.get_rest_model(self._coefficients(shape.float()))
            rotation = pose.float() if pose.ndim == 4 else axis_angle_to_matrix(pose.float())
            transforms = torch.zeros(*rotation.shape[:2], 4, 4, device=rotation.device)
            transforms[..., :3, :3] = rotation
            transforms[..., 3, 3] = 1
            moved, bones = self.rigged.get_bone_transforms(transforms, rest["rest_bone_poses"])
            vertices = self.rigged.get_skinned_vertices(
                rest_vertices=rest["rest_vertices"].expand(len(moved), -1, -1),
                bone_transforms=moved,
            )
            return vertices + root.float()[:, None], bones[..., :3, 3] + root.float()[:, None]

    def keypoints(self, vertices, joints):
        """(B, K, 3) places of the keypoints."""
        return torch.cat([joints, vertices], 1)[:, self.keypoint_index]

    def coarse(self, count):
        """The same model with about ``count`` vertices spread evenly over the surface, and those of
        the keypoints.

        A vertex is where it is on the full mesh: skinning treats each alone, so nothing is
        approximated.
        """
        ids = _spread(self.rigged.template_vertices, count)
        tips = self.keypoint_index[self.keypoint_index >= len(self.joint_names)] - len(
            self.joint_names
        )
        chosen = torch.unique(torch.cat([ids, tips]))
        data = _cut_vertices(self.rigged.to_model_data(), chosen)
        return BodyModel(
            self.name, _rigged(data), None, self.vertex_ids[chosen], self._keypoints, self.whole
        )

    def _coefficients(self, shape):
        """(B, C) weights of the blend shapes, without the facial actions that come after them."""
        none = shape.new_zeros(1, 0), shape.new_zeros(1, len(self.whole.face_names))
        coefficients = self.whole.model._get_phenotype_blendshape_coefficients(shape, *none)
        return coefficients[:, : len(self.rigged.blendshapes)]


def open_model(name):
    """The BodyModel of that name.

    Raises:
        UserError: there is no such model, or the body model's cache cannot be written.
    """
    if name not in MODELS:
        raise UserError(f"body model '{name}' is none of {', '.join(MODELS)}")
    body = AnnyBody()
    data = body.model.to_model_data()
    shapes = body.model.phenotype_blendshape_projection.shape[
        1
    ]  # those after it are facial actions
    data = dataclasses.replace(
        data,
        blendshapes=data.blendshapes[:shapes],
        bone_heads_blendshapes=data.bone_heads_blendshapes[:shapes],
        bone_orientation_blendshapes=data.bone_orientation_blendshapes[:shapes],
    )

    keypoints, faces, ids = BODY_KEYPOINTS, body.faces, torch.arange(len(data.template_vertices))
    if name == "anny_hand":
        ids = _hand_vertices(data, "R")
        tips = [int(torch.where(data.base_mesh_vertex_indices == v)[0]) for v in FINGERTIPS]
        faces = _cut_faces(faces, ids, len(data.template_vertices))
        data = _cut_vertices(_cut_bones(data, "R"), ids)
        keypoints = {"wrist": "wrist.R"}
        for number, finger in enumerate(FINGERS, 1):
            keypoints |= {f"{finger}_{joint}": f"finger{number}-{joint}.R" for joint in (1, 2, 3)}
            keypoints[f"{finger}_tip"] = tips[number - 1]
    return BodyModel(name, _rigged(data), faces, ids, keypoints, body)


def mirrored(points):
    """(..., 3) points seen in a mirror that swaps left and right (x)."""
    return points * points.new_tensor([-1.0, 1.0, 1.0])


def mirrored_rotation(matrices):
    """(..., 3, 3) rotations seen in the same mirror: M R M with M = diag(-1, 1, 1)."""
    flip = matrices.new_tensor([-1.0, 1.0, 1.0])
    return matrices * flip[:, None] * flip


def _rigged(data):
    from anny.models.rigged_model import RiggedModelWithLinearBlendShapes

    return (
        RiggedModelWithLinearBlendShapes(
            data, skinning_method="lbs", bone_orientation="cached", root_identity_orientation=True
        )
        .to(torch.float32)
        .requires_grad_(False)
    )


def _cut_vertices(data, ids):
    return dataclasses.replace(
        data,
        template_vertices=data.template_vertices[ids],
        blendshapes=data.blendshapes[:, ids],
        vertex_bone_weights=data.vertex_bone_weights[ids],
        vertex_bone_indices=data.vertex_bone_indices[ids],
        base_mesh_vertex_indices=data.base_mesh_vertex_indices[ids],
    )


def _hand_bones(data, side):
    return [
        i
        for i, name in enumerate(data.metadata.bone_labels)
        if name.endswith(f".{side}") and name.startswith(("wrist", "finger", "metacarpal"))
    ]


def _hand_vertices(data, side):
    """Indices of the vertices of one hand: moved by its forearm, wrist or fingers, and beyond a
    plane at the wrist."""
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


def _cut_bones(data, side):
    """The rig of one hand: a root at the wrist, the wrist, the fingers; the rest of the arm's
    weights go to the root.

    The root is a joint of its own, as in anny's hand rig: the wrist turns the mesh into its own
    axes, which follow the shape, and the root does not.
    """
    hand = _hand_bones(data, side)
    labels, parents = data.metadata.bone_labels, data.metadata.bone_parents
    wrist, eye = hand[0], torch.eye(3, dtype=data.template_vertices.dtype)
    place = {old: new for new, old in enumerate(hand, 1)}
    new = torch.tensor([place.get(i, 0) for i in range(len(labels))])
    rows = [wrist, *hand]

    def rooted(tensor, root, axis):
        out = tensor.index_select(axis, torch.tensor(rows)).clone()
        out.select(axis, 0).copy_(root)
        return out

    zero = torch.zeros(3)
    metadata = dataclasses.replace(
        data.metadata,
        bone_labels=["root", *(labels[i] for i in hand)],
        bone_parents=[-1, *(place.get(int(parents[i]), 0) for i in hand)],
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


def _cut_faces(faces, ids, count):
    """Triangles whose corners are all kept, renumbered."""
    place = torch.full((count,), -1)
    place[ids] = torch.arange(len(ids))
    found = place[faces]
    return found[(found >= 0).all(1)]


def _spread(points, count):
    """(count,) indices by farthest-point sampling from the first point."""
    count = min(count, len(points))
    chosen, distance = [0], points.new_full((len(points),), float("inf"))
    while len(chosen) < count:
        distance = torch.minimum(distance, (points - points[chosen[-1]]).square().sum(1))
        chosen.append(int(distance.argmax()))
    return torch.tensor(chosen, device=points.device)


def _other_side(name, names):
    for left, right in ((".L", ".R"), ("left_", "right_")):
        for one, other in ((left, right), (right, left)):
            if one in name and name.replace(one, other) in names:
                return names.index(name.replace(one, other))
    return names.index(name)
