"""Late fusion: each image is answered alone, and the two answers are averaged.

Body models' parameters are averaged where both answers have them: rotations as their first two
columns, made orthonormal again, the shape as it is. Other heads' points are averaged about the
root. Both orders of two images give one body; what differs is the camera that it stands before.
"""

from dataclasses import replace

import torch

from data.bodies.base import BodyModel, BodyParameters
from engine.geometry import rotation_6d_to_matrix
from finetune.heads.base import Prediction, pose_body
from finetune.two_views.cameras import CameraPose


def fuse(first: Prediction, second: Prediction, pose: CameraPose, body: BodyModel) -> Prediction:
    """Return the Prediction in the first camera of two, each in its own camera.

    The root stands where the first answer has it. It is rotated as both say where the cameras are
    known, else as the first says. What is no point or parameter is the first's.

    Args:
        pose: of the cameras.  body: the body model that both are of, coarse or full.
    """
    if first.parameters is None or second.parameters is None:
        return _fuse_points(first, second, pose, body)
    fused = _fuse_parameters(first.parameters, second.parameters, pose)
    posed = pose_body(body, fused)
    return replace(
        first,
        vertices=posed.vertices,
        joints=posed.joints,
        keypoints=posed.keypoints,
        parameters=fused,
    )


def _fuse_parameters(
    first: BodyParameters, second: BodyParameters, pose: CameraPose
) -> BodyParameters:
    turned = torch.cat([(pose.rotation @ second.pose[:, 0])[:, None], second.pose[:, 1:]], 1)
    six = (first.pose + turned)[..., :2].transpose(-1, -2).flatten(-2) / 2
    mean = rotation_6d_to_matrix(six)
    root = torch.where(pose.known[:, None, None], mean[:, 0], first.pose[:, 0])
    return BodyParameters(
        first.body,
        torch.cat([root[:, None], mean[:, 1:]], 1),
        (first.shape + second.shape) / 2,
        first.translation,
    )


def _fuse_points(
    first: Prediction, second: Prediction, pose: CameraPose, body: BodyModel
) -> Prediction:
    root, second_root = first.joints[:, :1], second.joints[:, :1]
    rotation = torch.where(
        pose.known[:, None, None],
        pose.rotation,
        _align(second.vertices - second_root, first.vertices - root),
    ).transpose(1, 2)
    vertices, joints = (
        (mine + (theirs - second_root) @ rotation + root) / 2
        for mine, theirs in ((first.vertices, second.vertices), (first.joints, second.joints))
    )
    return replace(
        first, vertices=vertices, joints=joints, keypoints=body.keypoints(vertices, joints)
    )


@torch.no_grad()
def _align(points: torch.Tensor, onto: torch.Tensor) -> torch.Tensor:
    """(B, 3, 3) rotation that takes points (B, N, 3) nearest to others (Kabsch, 1976)."""
    u, _, vh = torch.linalg.svd(onto.double().transpose(1, 2) @ points.double())
    u = torch.cat([u[..., :2], u[..., 2:] * torch.linalg.det(u @ vh)[:, None, None]], -1)
    return (u @ vh).to(points.dtype)
