"""Plain functions about points, rotations and pinhole cameras that all packages share.

Frames: metres and pixels; a camera has OpenCV axes (x right, y down, z forward); ``Rt`` (3, 4)
takes world points to the camera, x_cam = R @ x_world + t; the centre of the first pixel is at (0.5,
0.5). Angles are in radians.

The camera half is numpy, because data is prepared on hosts without torch's start-up cost; the
rotation half is torch, because training differentiates through it, and imports torch when it is
called.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    import torch


def project(points: ArrayLike, K: ArrayLike, Rt: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Project world points by a pinhole camera without distortion.

    Args:
        points: (..., 3) world points.  K: (3, 3).  Rt: (3, 4).
    Returns:
        (..., 2) pixels and (...) depths in metres; pixels mean nothing where the depth is not
        positive.
    """
    Rt = np.asarray(Rt, np.float64)
    camera = np.asarray(points, np.float64) @ Rt[:, :3].T + Rt[:, 3]
    depth = camera[..., 2]
    safe = np.where(np.abs(depth) < 1e-9, 1e-9, depth)
    homogeneous = (camera / safe[..., None]) @ np.asarray(K, np.float64).T
    return homogeneous[..., :2], depth


def crop_intrinsics(
    K: ArrayLike, box: Sequence[float] | np.ndarray, size: Sequence[float] | np.ndarray
) -> np.ndarray:
    """Return the (3, 3) intrinsics of a crop scaled to (width, height) = ``size`` pixels.

    With the first pixel's centre at (0.5, 0.5) the image's corner is at 0, so a crop is a shift
    and a scale.

    Args:
        K: (3, 3) of the image.  box: [x0, y0, x1, y1] in its pixels.  size: (width, height) of
            the crop in pixels.
    """
    x0, y0, x1, y1 = box
    scale_x, scale_y = size[0] / (x1 - x0), size[1] / (y1 - y0)
    crop = np.array([[scale_x, 0, -x0 * scale_x], [0, scale_y, -y0 * scale_y], [0, 0, 1]])
    return crop @ np.asarray(K, np.float64)


def camera_centre(Rt: ArrayLike) -> np.ndarray:
    """Return the (3,) world position of a camera."""
    Rt = np.asarray(Rt, np.float64)
    return -Rt[:, :3].T @ Rt[:, 3]


def angle_about(point: np.ndarray, centre_a: ArrayLike, centre_b: ArrayLike) -> float:
    """Return the angle in [0, pi] between two camera centres seen from ``point``.

    All are (3,) world points. By atan2 of cross and dot: arccos loses half its digits near 0 and
    pi.
    """
    a, b = np.asarray(centre_a, np.float64) - point, np.asarray(centre_b, np.float64) - point
    return float(np.arctan2(np.linalg.norm(np.cross(a, b)), a @ b))


def triangulate(pixels: ArrayLike, Ks: ArrayLike, Rts: ArrayLike) -> np.ndarray:
    """Find the world points seen at given pixels, by the direct linear transform.

    Source: Hartley and Zisserman, Multiple View Geometry, 12.2, on normalised rays, so that cameras
    of different resolution weigh alike.

    Args:
        pixels: (C, N, 2), NaN where a camera does not see the point.  Ks: (C, 3, 3).  Rts: (C, 3,
            4).
    Returns:
        (N, 3); NaN where fewer than two cameras see the point.
    """
    pixels = np.asarray(pixels, np.float64)
    points = np.full((pixels.shape[1], 3), np.nan)
    rays = []
    for seen, K in zip(pixels, np.asarray(Ks, np.float64), strict=True):
        rays.append((seen - K[:2, 2]) @ np.linalg.inv(K[:2, :2]).T)
    Rts = np.asarray(Rts, np.float64)
    for n in range(pixels.shape[1]):
        rows = []
        for ray, Rt in zip(rays, Rts, strict=True):
            if np.isfinite(ray[n]).all():
                rows += [ray[n, 0] * Rt[2] - Rt[0], ray[n, 1] * Rt[2] - Rt[1]]
        if len(rows) >= 4:
            x = np.linalg.svd(np.stack(rows))[2][-1]
            points[n] = x[:3] / x[3]
    return points


def point_nearest_lines(origins: ArrayLike, directions: ArrayLike) -> np.ndarray:
    """Return the (3,) point with the least sum of squared distances to lines.

    Args:
        origins: (C, 3) a point of each line.  directions: (C, 3), of any length but zero.
    Raises:
        ValueError: all lines are parallel, so no point is nearest.
    """
    directions = np.asarray(directions, np.float64)
    directions = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    across = np.eye(3) - directions[:, :, None] * directions[:, None, :]
    total = across.sum(0)
    if np.linalg.eigvalsh(total)[0] < 1e-6 * len(directions):
        raise ValueError("the lines are parallel: no point is nearest to all of them")
    return np.linalg.solve(total, np.einsum("cij,cj->i", across, np.asarray(origins, np.float64)))


def axis_angle_to_matrix(axis_angle: torch.Tensor) -> torch.Tensor:
    """Turn (..., 3) rotation vectors into (..., 3, 3) matrices, differentiable at zero.

    By Rodrigues' formula.
    """
    import torch

    x, y, z = axis_angle.unbind(-1)
    squared = (axis_angle * axis_angle).sum(-1)
    small = squared < 1e-8
    # The branch not taken must stay finite too: its gradient is multiplied by zero, and 0 * inf is
    # NaN.
    theta = torch.where(small, torch.ones_like(squared), squared).sqrt()
    a = torch.where(small, 1 - squared / 6, theta.sin() / theta)[..., None, None]
    b = torch.where(small, 0.5 - squared / 24, (1 - theta.cos()) / (theta * theta))[..., None, None]
    zero = torch.zeros_like(x)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    return (
        torch.eye(3, dtype=axis_angle.dtype, device=axis_angle.device)
        + a * skew
        + b * (skew @ skew)
    )


def matrix_to_axis_angle(matrix: torch.Tensor) -> torch.Tensor:
    """Turn (..., 3, 3) rotation matrices into (..., 3) rotation vectors of length in [0, pi].

    Through the unit quaternion whose largest part is found first (Shepperd 1978): exact up to half
    a rotation, where the trace alone leaves the axis undetermined.
    """
    import torch

    m = matrix.flatten(-2)
    m00, m01, m02, m10, m11, m12, m20, m21, m22 = m.unbind(-1)
    rows = torch.stack(
        [
            torch.stack([1 + m00 + m11 + m22, m21 - m12, m02 - m20, m10 - m01], -1),
            torch.stack([m21 - m12, 1 + m00 - m11 - m22, m10 + m01, m02 + m20], -1),
            torch.stack([m02 - m20, m10 + m01, 1 - m00 + m11 - m22, m12 + m21], -1),
            torch.stack([m10 - m01, m20 + m02, m21 + m12, 1 - m00 - m11 + m22], -1),
        ],
        -2,
    )
    best = torch.stack([rows[..., i, i] for i in range(4)], -1).argmax(-1)
    quaternion = rows.gather(-2, best[..., None, None].expand(*best.shape, 1, 4)).squeeze(-2)
    quaternion = quaternion / quaternion.norm(dim=-1, keepdim=True)
    quaternion = torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)
    w, vector = quaternion[..., :1], quaternion[..., 1:]
    squared = (vector * vector).sum(-1, keepdim=True)
    small = squared < 1e-12
    sine = torch.where(small, torch.ones_like(squared), squared).sqrt()
    return vector * torch.where(small, 2 / w.clamp_min(0.5), 2 * torch.atan2(sine, w) / sine)


def rotation_6d_to_matrix(six: torch.Tensor) -> torch.Tensor:
    """Turn (..., 6) numbers into (..., 3, 3) rotations (Zhou et al., CVPR 2019).

    The numbers are the first column, then the second; Gram-Schmidt makes them orthonormal.
    """
    import torch

    first = torch.nn.functional.normalize(six[..., :3], dim=-1)
    second = six[..., 3:] - (first * six[..., 3:]).sum(-1, keepdim=True) * first
    second = torch.nn.functional.normalize(second, dim=-1)
    return torch.stack([first, second, torch.linalg.cross(first, second, dim=-1)], -1)


def matrix_to_rotation_6d(matrix: torch.Tensor) -> torch.Tensor:
    """Turn (..., 3, 3) rotations into (..., 6) numbers: the first column, then the second."""
    return matrix[..., :2].transpose(-1, -2).flatten(-2)


def similarity_align(
    source: torch.Tensor,
    target: torch.Tensor,
    with_scale: bool = True,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Move ``source`` onto ``target`` by the similarity of least squared distance.

    Without reflection. Source: Umeyama, PAMI 1991. Computed in float64: float32 singular vectors
    cost digits that a metric in millimetres shows. Points that all coincide keep their scale (1)
    and are only shifted.

    Args:
        source, target: (..., N, 3) tensors.  with_scale: false for rotation and shift alone.
        weights: (..., N) of the points' squared distances, not negative; None: all alike.
    Returns:
        (..., N, 3) aligned source, in the dtype of ``source``.
    """
    import torch

    p, q = source.double(), target.double()
    shares = torch.ones_like(p[..., :1]) if weights is None else weights.double()[..., None]
    shares = shares / shares.mean(-2, keepdim=True)
    p_mean, q_mean = (shares * p).mean(-2, keepdim=True), (shares * q).mean(-2, keepdim=True)
    p, q = p - p_mean, q - q_mean
    u, s, vh = torch.linalg.svd((shares * p).transpose(-1, -2) @ q)
    sign = torch.ones_like(s)
    # det of U @ Vh is +-1 up to rounding, and a sign of exactly 0 would drop an axis.
    sign[..., 2] = torch.where(torch.linalg.det(u @ vh) < 0, -1.0, 1.0).to(s)
    rotation = (u * sign[..., None, :]) @ vh
    spread = (shares * p * p).sum((-1, -2))
    flat = spread < 1e-18
    one = torch.ones_like(spread)
    scale = torch.where(flat, one, (s * sign).sum(-1) / torch.where(flat, one, spread))
    moved = p @ rotation * (scale[..., None, None] if with_scale else 1.0)
    return (moved + q_mean).to(source.dtype)
