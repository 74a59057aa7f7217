"""SMPL posed for a protocol: vertices, joints and orientations of parameters."""

from dataclasses import dataclass

import numpy as np
import torch

from data.bodies.models import open_model
from engine.geometry import axis_angle_to_matrix

CHUNK = 64


@dataclass
class Posed:
    """N posed bodies, float64.

    Attributes:
        vertices: (N, V, 3) metres.  joints: (N, 24, 3).  rotations: (N, 24, 3, 3) from each
            joint's axes to those of the frame.
    """

    vertices: np.ndarray
    joints: np.ndarray
    rotations: np.ndarray


class SmplPoser:
    """Poses SMPL, by the user's own files (docs/bodies.md).

    Args:
        variant: "neutral", "female" or "male".
    Raises:
        UserError: there is no such file.
    """

    def __init__(self, variant: str) -> None:
        self.body = open_model("smpl", variant)

    @torch.no_grad()
    def __call__(
        self, pose: np.ndarray, shape: np.ndarray, transl: np.ndarray | None = None
    ) -> Posed:
        """Return the posed bodies.

        Args:
            pose: (N, 72) rotation vectors.  shape: (N, S).
            transl: (N, 3), as the family's files have it: added to a body whose pelvis is not at
                0; None: 0.
        """
        turns = torch.from_numpy(np.array(pose)).float().reshape(len(pose), -1, 3)
        betas = torch.from_numpy(np.array(shape)).float()
        shift = torch.zeros(len(pose), 3)
        if transl is not None:
            shift = torch.from_numpy(np.array(transl)).float()
        parts = []
        for start in range(0, len(pose), CHUNK):
            rows = slice(start, start + CHUNK)
            root = self.body.rest_root(betas[rows])  # pyrefly: ignore[not-callable]
            parts.append(self.body(turns[rows], shift[rows] + root, betas[rows]))
        vertices = torch.cat([part[0] for part in parts]).double().numpy()
        joints = torch.cat([part[1] for part in parts]).double().numpy()
        return Posed(vertices, joints, chain_rotations(np.asarray(pose), self.body.parents))


def chain_rotations(pose: np.ndarray, parents: list[int]) -> np.ndarray:
    """Return (N, J, 3, 3) orientations in the frame of rotation vectors relative to the parents.

    Args:
        pose: (N, 3 J).  parents: of each joint, -1 for joint 0.
    """
    turns = torch.from_numpy(np.asarray(pose, np.float64)).reshape(len(pose), -1, 3)
    return chain_rotations_of(axis_angle_to_matrix(turns).double().numpy(), parents)


def chain_rotations_of(local: np.ndarray, parents: list[int]) -> np.ndarray:
    """Return (N, J, 3, 3) orientations of matrices relative to the parents."""
    out = np.array(local, np.float64)
    for joint, parent in enumerate(parents):
        if parent >= 0:
            out[:, joint] = out[:, parent] @ local[:, joint]
    return out
