"""What a prediction is compared with.

Rotations, shape, joints, vertices, projected keypoints, translation.

Each is a mean over its own numbers for each crop, so that a weight means the same for bodies and
hands. What a head does not predict is left out.
"""

import torch

from finetune.crop_camera import to_image_translation
from finetune.heads.base import Head, Prediction
from finetune.heads.keypoint_maps import compare_maps

OF_PARAMETERS = ("rotation", "shape")
OF_POINTS = ("joints", "vertices", "keypoints_2d", "translation")
OF_MAPS = ("keypoint_maps",)
TERMS = (*OF_PARAMETERS, *OF_POINTS)
NEAREST_M = 0.1  # points that are nearer, or behind the camera, are projected as if they were here


def list_terms(head: Head) -> tuple[str, ...]:
    """Returns the names of the terms that a head's predictions have."""
    terms = TERMS if head.has_parameters else OF_POINTS
    return (*terms, *OF_MAPS) if head.has_maps else terms


def compute_terms(
    found: Prediction, true: Prediction, K: torch.Tensor, size: int
) -> dict[str, torch.Tensor]:
    """Returns {term: (B,)} of predictions.

    rotation: squared Frobenius distance of rotation matrices, mean over joints; shape: squared
    distance; both where the prediction has parameters. joints (keypoints, in fact), vertices:
    metres, L1, both moved to their own root. keypoints_2d: L1 of projected keypoints over the
    image's side. translation: L1 of joint 0's offset in the image and of the log of its width.
    keypoint_maps: cross-entropy, where the prediction has maps (heads.keypoint_maps.compare_maps).

    Args:
        found, true: of the same body model and vertices.
        K: (B, 3, 3) intrinsics of images of ``size`` px.
    """
    out = {}
    if found.parameters is not None:
        out = _compare_parameters(found, true)
    root, true_root = found.keypoints[:, :1], true.keypoints[:, :1]
    points = (found.keypoints - root) - (true.keypoints - true_root)
    surface = (found.vertices - root) - (true.vertices - true_root)
    true_points = project_points(true.keypoints, K) / size
    if found.maps is not None:
        out["keypoint_maps"] = compare_maps(found.maps, true_points)
    apart = project_points(found.keypoints, K) / size - true_points
    translation = to_image_translation(found.translation, K, size)
    true_translation = to_image_translation(true.translation, K, size)
    return out | {
        "joints": points.abs().mean((1, 2)),
        "vertices": surface.abs().mean((1, 2)),
        "keypoints_2d": apart.abs().mean((1, 2)),
        "translation": (translation - true_translation).abs().mean(1),
    }


def _compare_parameters(found: Prediction, true: Prediction) -> dict[str, torch.Tensor]:
    a, b = found.parameters, true.parameters
    if a is None or b is None or a.body != b.body:
        raise ValueError(f"parameters of {a and a.body} are compared with those of {b and b.body}")
    return {
        "rotation": (a.pose - b.pose).square().sum((2, 3)).mean(1),
        "shape": (a.shape - b.shape).square().mean(1),
    }


def project_points(points: torch.Tensor, K: torch.Tensor) -> torch.Tensor:
    """Returns (B, N, 2) pixels of points (B, N, 3) in the camera's frame.

    Those behind it are held 0.1 m before it.
    """
    depth = points[..., 2:].clamp_min(NEAREST_M)
    rays = torch.cat([points[..., :2] / depth, torch.ones_like(depth)], -1)
    return (rays @ K.transpose(1, 2))[..., :2]
