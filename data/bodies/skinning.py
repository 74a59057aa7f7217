"""Linear blend skinning with blend shapes of shape and pose, batched and differentiable.

Source: Loper et al., SMPL: A Skinned Multi-Person Linear Model, TOG 2015, equations 2 to 10.
SMPL-H, SMPL-X and MANO have the same form with other joints and other numbers of blend shapes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class SkinningTables:
    """What a skinned mesh is made of: J joints, V vertices, S blend shapes.

    Attributes:
        template: (V, 3) metres, at rest.
        shape_directions: (V, 3, S) metres a unit.
        pose_directions: (V, 3, 9 (J - 1)) metres, one for each number of the joints' rotation
            matrices, joint 0 left out, rows first.
        joint_template: (J, 3) joints of the template.
        joint_directions: (J, 3, S) how each blend shape moves them.
        weights: (V, J) of each joint on each vertex.
    """

    template: torch.Tensor
    shape_directions: torch.Tensor
    pose_directions: torch.Tensor
    joint_template: torch.Tensor
    joint_directions: torch.Tensor
    weights: torch.Tensor

    def select(self, vertices: torch.Tensor) -> "SkinningTables":
        """Returns the tables of some vertices, by (n,) int64; all joints stay as they are."""
        return SkinningTables(
            self.template[vertices],
            self.shape_directions[vertices],
            self.pose_directions[vertices],
            self.joint_template,
            self.joint_directions,
            self.weights[vertices],
        )


class Skinning(nn.Module):
    """Poses a mesh. All is float32, and its tables are no part of a state dict.

    Args:
        tables: SkinningTables.
        parents: of the J joints, each before its children; -1 for joint 0.
    """

    template: torch.Tensor
    shape_directions: torch.Tensor
    pose_directions: torch.Tensor
    joint_template: torch.Tensor
    joint_directions: torch.Tensor
    weights: torch.Tensor

    def __init__(self, tables: SkinningTables, parents: Sequence[int]) -> None:
        super().__init__()
        if any(parent >= joint for joint, parent in enumerate(parents)) or parents[0] != -1:
            raise ValueError(f"joints come before their parents: {list(parents)}")
        self.parents = list(parents)
        for name in SkinningTables.__dataclass_fields__:
            self.register_buffer(name, getattr(tables, name).float().contiguous(), persistent=False)

    @property
    def tables(self) -> SkinningTables:
        """What it was made of, on its device."""
        names = SkinningTables.__dataclass_fields__
        return SkinningTables(*[getattr(self, name) for name in names])

    def rest_joints(self, shape: torch.Tensor) -> torch.Tensor:
        """Returns the (B, J, 3) joints of shapes (B, S) before they are posed, metres.

        S may be less than the tables have; the rest are 0.
        """
        directions = self.joint_directions[..., : shape.shape[1]]
        return self.joint_template + torch.einsum("jcs,bs->bjc", directions, shape)

    def forward(
        self, rotation: torch.Tensor, shape: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Pose the mesh about its resting joint 0, which stays where it is.

        Args:
            rotation: (B, J, 3, 3) relative to the parent.
            shape: (B, S) or (1, S) blend shapes; S may be less than the tables have.
        Returns:
            vertices (B, V, 3), joints (B, J, 3), metres.
        """
        directions = self.shape_directions[..., : shape.shape[1]]
        shaped = self.template + torch.einsum("vcs,bs->bvc", directions, shape)
        resting = self.rest_joints(shape)
        eye = torch.eye(3, device=rotation.device)
        bends = (rotation[:, 1:] - eye).flatten(1)
        rest = shaped + torch.einsum("vcp,bp->bvc", self.pose_directions, bends)
        turned, joints = self._follow_chains(rotation, resting)
        # A vertex v goes to turned @ (v - resting) + joint for each of its joints.
        shift = joints - (turned @ resting[..., None])[..., 0]
        blended = torch.einsum("vj,bjrc->bvrc", self.weights, turned)
        moved = (blended @ rest[..., None])[..., 0]
        return moved + torch.einsum("vj,bjc->bvc", self.weights, shift), joints

    def _follow_chains(
        self, rotation: torch.Tensor, resting: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """((B, J, 3, 3) rotations from the root on, (B, J, 3) posed joints)."""
        resting = resting.expand(len(rotation), -1, -1)
        turned, joints = [rotation[:, 0]], [resting[:, 0]]
        for joint, parent in enumerate(self.parents[1:], 1):
            bone = resting[:, joint] - resting[:, parent]
            joints.append(joints[parent] + (turned[parent] @ bone[..., None])[..., 0])
            turned.append(turned[parent] @ rotation[:, joint])
        return torch.stack(turned, 1), torch.stack(joints, 1)
