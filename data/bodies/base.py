"""What a body model is: the interface that training, evaluation and prediction use.

A new one is a subclass of ``BodyModel`` in data/bodies/NAME.py, found by ``body=NAME``.

Frames: metres. Joint 0's rotation is that of the whole, about joint 0, in the axes of whatever
frame ``translation`` is in; those of the others are relative to the parent.
"""

import abc
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from data.bodies.models import LabelChoice
from engine.errors import UserError

# Joints that errors of bodies are measured on, in this order, where a model has them: those that
# the field's body models share.
BODY_KEYPOINTS = (
    "pelvis",
    "left_hip",
    "right_hip",
    "spine",
    "left_knee",
    "right_knee",
    "chest",
    "left_ankle",
    "right_ankle",
    "left_toes",
    "right_toes",
    "neck",
    "left_collar",
    "right_collar",
    "head",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
)
EPSILON = 1e-3  # how near a shape parameter's bounds a free number may start


@dataclass(eq=False)
class BodyParameters:
    """B bodies as the parameters of one body model.

    Attributes:
        body: name of the body model.
        pose: (B, J, 3, 3) rotation matrices.
        shape: (B, S).
        translation: (B, 3) metres, where joint 0 is.
    """

    body: str
    pose: torch.Tensor
    shape: torch.Tensor
    translation: torch.Tensor

    def select(self, rows: slice | torch.Tensor) -> "BodyParameters":
        """Returns those of some rows, a slice or their numbers."""
        return BodyParameters(self.body, self.pose[rows], self.shape[rows], self.translation[rows])


@dataclass(frozen=True)
class ShapeSpace:
    """Which values shape parameters take, and free numbers for a network to answer with instead.

    Bounded parameters (anny's lie in [0, 1]) are a sigmoid of their free numbers; unbounded ones
    (the betas of SMPL) are their own.

    Attributes:
        names: of the S parameters.
        mean: value of each that an average body has.
        low, high: bounds of all of them; both infinite, or neither.
    """

    names: tuple[str, ...]
    mean: float = 0.0
    low: float = -math.inf
    high: float = math.inf

    @property
    def bounded(self) -> bool:
        """Whether the parameters have bounds."""
        return math.isfinite(self.low)

    def to_free(self, shape: torch.Tensor) -> torch.Tensor:
        """Returns free numbers (..., S) of parameters (..., S); bounds are moved off a little."""
        if not self.bounded:
            return shape
        return torch.logit((shape - self.low) / (self.high - self.low), EPSILON)

    def to_parameters(self, free: torch.Tensor) -> torch.Tensor:
        """Returns parameters (..., S) of any finite free numbers (..., S)."""
        if not self.bounded:
            return free
        return self.low + (self.high - self.low) * torch.sigmoid(free)


class BodyModel(nn.Module, abc.ABC):
    """A skinned mesh with J joints, V vertices, S shape parameters and K keypoints.

    A subclass sets the attributes in its constructor, tensors as buffers, and defines the abstract
    methods. All is float32, and autocast is switched off inside: bf16 moves vertices by 3 mm.

    Attributes:
        name: as in ``body=``.  kind: "body" or "hand" (the right one).
        variant: such as "neutral"; "" where there is one alone.
        label_model: whose labels ``read_labels`` reads.
        joint_names, parents: of the J joints; parent -1 for joint 0.
        keypoint_names: K names, the root first. Of a body: those of BODY_KEYPOINTS that it has.
        shape_space: ShapeSpace.
        expression_names: of what ``forward`` takes as expression; empty where it takes none.
        faces: (F, 3) int64, outward by the right-hand rule; None for a coarse model.
        vertex_ids: (V,) int64, each vertex's number in the mesh of ``whole``.
        mirror: (J,) int64 the joint on the other side of each; keypoint_mirror: (K,) likewise.
    """

    name: str
    kind: str
    variant: str
    label_model: str = LabelChoice.model
    joint_names: list[str]
    parents: list[int]
    keypoint_names: list[str]
    shape_space: ShapeSpace
    expression_names: list[str]
    faces: torch.Tensor | None
    vertex_ids: torch.Tensor
    mirror: torch.Tensor
    keypoint_mirror: torch.Tensor

    @abc.abstractmethod
    def forward(
        self,
        pose: torch.Tensor,
        translation: torch.Tensor,
        shape: torch.Tensor,
        expression: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Pose the model.

        Args:
            pose: (B, J, 3) rotation vectors or (B, J, 3, 3) matrices.
            translation: (B, 3) metres, where joint 0 is put. (SMPL's own files add theirs to a
                template whose pelvis is not at 0: its module subtracts the shape's rest pelvis.)
            shape: (B, S) or (1, S).
            expression: (B, E), or None for a face at rest.
        Returns:
            vertices (B, V, 3), joints (B, J, 3), metres.
        """

    @abc.abstractmethod
    def keypoints(self, vertices: torch.Tensor, joints: torch.Tensor) -> torch.Tensor:
        """Return the (B, K, 3) keypoints of posed vertices and joints.

        They are some of these, or a regressor's.
        """

    def turn_joints(self, pose: torch.Tensor, shape: torch.Tensor) -> torch.Tensor:
        """Return (B, J, 3, 3) how each joint turns what hangs on it, from rest.

        In the axes of the frame that ``translation`` is in. Here the joints' rotations one after
        the other; a model whose joints have axes of their own says otherwise.

        Args:
            pose: (B, J, 3, 3) rotation matrices.  shape: (B, S) or (1, S).
        """
        turned = [pose[:, 0]]
        for joint, parent in enumerate(self.parents[1:], 1):
            turned.append(turned[parent] @ pose[:, joint])
        return torch.stack(turned, 1)

    def read_rest(self, shape: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (B, V, 3) vertices and (B, J, 3) joints that ``turn_joints`` counts from, metres.

        That is the mesh which skinning moves: each vertex goes where its joints' turns and places
        take it, by its shares in them. Joint 0 is at the origin.
        """
        still = shape.new_zeros(len(shape), len(self.joint_names), 3)
        return self(still, shape.new_zeros(len(shape), 3), shape)

    def read_skin(self) -> torch.Tensor:
        """Return (V, J) share of each joint in each vertex; a vertex's sum to 1.

        Raises:
            UserError: the model is no skinned mesh.
        """
        raise UserError(f"body={self.name} does not say how its joints move its vertices")

    @property
    def landmark_names(self) -> list[str]:
        """Names of what ``landmarks`` returns: the keypoints, then COCO's points of the face."""
        return self.keypoint_names

    def landmarks(self, vertices: torch.Tensor, joints: torch.Tensor) -> torch.Tensor:
        """Return (B, L, 3) points that detectors of keypoints find; without a face, keypoints."""
        return self.keypoints(vertices, joints)

    @abc.abstractmethod
    def coarse(self, count: int) -> "BodyModel":
        """Return the same model with about ``count`` vertices spread over the surface.

        It keeps those that keypoints and landmarks need.
        """

    def lean(self, count: int) -> "BodyModel":
        """Return a coarse model that may leave out joints which no landmark hangs on, for speed.

        It takes the same parameters and gives equal landmarks.
        """
        return self.coarse(count)

    @abc.abstractmethod
    def read_labels(self, labels: Mapping[str, torch.Tensor], flip: torch.Tensor) -> BodyParameters:
        """Returns what labels say of each crop, in the world's frame.

        Args:
            labels: data.loading.crops arrays as tensors, ``pose`` as (B, ..., 3, 3) matrices.
            flip: (B,) bool, whether the image is mirrored; a hand is then the left one, whose
                joints are still to be mirrored.
        """

    def limit_shape(self, count: int) -> None:
        """Take the first ``count`` shape numbers alone; the others are 0 from then on.

        Raises:
            UserError: all of this model's numbers mean something of their own.
        """
        raise UserError(
            f"body={self.name} has {len(self.shape_space.names)} shape numbers of its own; "
            f"body_betas={count} is for SMPL's family"
        )

    @property
    def label_choice(self) -> LabelChoice:
        """Which labels it learns from."""
        return LabelChoice(self.label_model, self.variant)

    @property
    def whole(self) -> "BodyModel":
        """The body model of the whole person that this one is a part of, or itself."""
        return self

    def mirror_parameters(self, found: BodyParameters, flip: torch.Tensor) -> BodyParameters:
        """Return the bodies with those in ``flip`` (B,) as a mirror shows them.

        Left and right are swapped.
        """
        pose = mirrored_rotation(found.pose[:, self.mirror])
        translation = mirrored(found.translation)
        return BodyParameters(
            found.body,
            torch.where(flip[:, None, None, None], pose, found.pose),
            found.shape,
            torch.where(flip[:, None], translation, found.translation),
        )


class PointedBody(BodyModel):
    """A body model whose keypoints and landmarks are some of its joints and vertices.

    Attributes:
        keypoint_index: (K,) int64, landmark_index: (L,) int64 into joints and then vertices.
    """

    keypoint_index: torch.Tensor
    landmark_index: torch.Tensor
    _landmark_names: list[str]

    def _register_mesh(
        self,
        vertex_ids: torch.Tensor,
        faces: torch.Tensor | None,
        keypoints: Mapping[str, str | int],
        face: Mapping[str, str | int],
        sides: tuple[str, str],
    ) -> None:
        """Set the names and buffers of BodyModel that tell of mesh, keypoints and sides.

        Args:
            keypoints: {name: a joint, by name, or a vertex of the whole body, by number}.
            face: landmarks that are no keypoints, likewise.
            sides: what a joint's name has of the left and of the right, such as ".L" and ".R".
        """
        self.keypoint_names = list(keypoints)
        self._landmark_names = [*keypoints, *face]
        numbers = {int(vertex): i for i, vertex in enumerate(vertex_ids)}
        index = [
            self.joint_names.index(at)
            if isinstance(at, str)
            else len(self.joint_names) + numbers[at]
            for at in (*keypoints.values(), *face.values())
        ]
        for name, values in (
            ("faces", faces),
            ("vertex_ids", vertex_ids),
            ("keypoint_index", torch.tensor(index[: len(keypoints)])),
            ("landmark_index", torch.tensor(index)),
            ("mirror", pair_sides(self.joint_names, *sides)),
            ("keypoint_mirror", pair_sides(self.keypoint_names, "left_", "right_")),
        ):
            self.register_buffer(name, values, persistent=False)

    def keypoints(self, vertices: torch.Tensor, joints: torch.Tensor) -> torch.Tensor:
        """Returns the (B, K, 3) keypoints: some of the joints and of the vertices."""
        return torch.cat([joints, vertices], 1)[:, self.keypoint_index]

    @property
    def landmark_names(self) -> list[str]:
        """Names of the landmarks; see BodyModel."""
        return self._landmark_names

    def landmarks(self, vertices: torch.Tensor, joints: torch.Tensor) -> torch.Tensor:
        """Returns the (B, L, 3) landmarks: some of the joints and of the vertices."""
        return torch.cat([joints, vertices], 1)[:, self.landmark_index]


def mirrored(points: torch.Tensor) -> torch.Tensor:
    """Returns (..., 3) points seen in a mirror that swaps left and right (x)."""
    return points * points.new_tensor([-1.0, 1.0, 1.0])


def mirrored_rotation(matrices: torch.Tensor) -> torch.Tensor:
    """Returns (..., 3, 3) rotations seen in the same mirror: M R M with M = diag(-1, 1, 1)."""
    flip = matrices.new_tensor([-1.0, 1.0, 1.0])
    return matrices * flip[:, None] * flip


def pair_sides(names: Sequence[str], left: str, right: str) -> torch.Tensor:
    """Return (N,) int64: for each name the index of its other side.

    That is the one with ``left`` and ``right`` swapped, or its own where there is none.
    """
    index = []
    for name in names:
        other = name
        if left in name:
            other = name.replace(left, right)
        elif right in name:
            other = name.replace(right, left)
        index.append(names.index(other if other in names else name))
    return torch.tensor(index)
