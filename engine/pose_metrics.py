"""Errors of predicted points in space, crop by crop: what probes and evaluations share.

Points are (B, N, 3) tensors in metres, of any float type; errors come out as (B,) float64 in
millimetres, computed in float64: a person 1000 m away in float32 would cost 0.06 mm. What
degenerate points give: see finetune/evaluation/metrics.py.
"""

import torch

from engine.errors import UserError
from engine.geometry import similarity_align

MM = 1000.0


def mpjpe(predicted: torch.Tensor, true: torch.Tensor, root: int) -> torch.Tensor:
    """Return the mean per-joint position error after both root keypoints are aligned.

    The root's own distance of 0 counts among the K, as is usual on Human3.6M.

    Args:
        predicted, true: (B, K, 3) keypoints, metres.  root: index of the root keypoint (pelvis,
            wrist).
    Returns:
        (B,) float64, mm.
    Raises:
        UserError: a point is not finite.
    """
    predicted, true = checked(predicted, true)
    return mean_distance_mm(predicted - predicted[:, root, None], true - true[:, root, None])


def pa_mpjpe(predicted: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Return the mean per-joint position error after the best shift, rotation and scale.

    Procrustes alignment, Umeyama 1991.

    Args:
        predicted, true: (B, K, 3) keypoints, metres.
    Returns:
        (B,) float64, mm. The alignment makes the sum of *squared* distances least, so that this can
        exceed MPJPE a little.
    Raises:
        UserError: a point is not finite.
    """
    predicted, true = checked(predicted, true)
    return mean_distance_mm(similarity_align(predicted, true), true)


def checked(predicted: torch.Tensor, true: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return both in float64.

    Raises:
        UserError: a point is not finite.  ValueError: shapes differ, which would broadcast to a
            wrong number.
    """
    if predicted.shape != true.shape or true.ndim != 3 or true.shape[1] == 0 or true.shape[2] != 3:
        raise ValueError(
            f"predicted points of shape {tuple(predicted.shape)} for true ones of "
            f"{tuple(true.shape)}: both are (B, N, 3) with N > 0"
        )
    for name, points in (("predicted", predicted), ("true", true)):
        bad = ~torch.isfinite(points).flatten(1).all(1)
        if bad.any():
            raise UserError(
                f"{name} points: {int(bad.sum())} of {len(bad)} crops of a batch hold NaN or "
                f"infinity, the first is number {int(bad.int().argmax())}"
            )
    return predicted.double(), true.double()


def mean_distance_mm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the (B,) mean distance in millimetres of (B, N, 3) points in metres."""
    return torch.linalg.vector_norm(a - b, dim=-1).mean(-1) * MM
