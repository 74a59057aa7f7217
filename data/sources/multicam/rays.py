"""What calibrated cameras say of points that two or more of them see, all at once in arrays.

Pixels are of the undistorted image. An error is given as a share of the longer side of the person's
box in its image, so that a person near one camera and far from another weighs alike and no unit of
length is needed; the gap between two rays is given in the calibration's metres.
"""

import numpy as np

from engine.geometry import camera_centre

LEAST_POINTS = 4  # common points below which two people are not compared


def fundamental_matrix(
    K_a: np.ndarray, Rt_a: np.ndarray, K_b: np.ndarray, Rt_b: np.ndarray
) -> np.ndarray:
    """Return the (3, 3) F with (x_b, 1) F (x_a, 1) = 0 for pixels of one world point.

    Source: Hartley and Zisserman, Multiple View Geometry, 9.2.
    """
    R = Rt_b[:, :3] @ Rt_a[:, :3].T
    t = Rt_b[:, 3] - R @ Rt_a[:, 3]
    cross = np.array([[0, -t[2], t[1]], [t[2], 0, -t[0]], [-t[1], t[0], 0]])
    return np.linalg.inv(K_b).T @ cross @ R @ np.linalg.inv(K_a)


def epipolar_distances(
    points_a: np.ndarray,
    sides_a: np.ndarray,
    points_b: np.ndarray,
    sides_b: np.ndarray,
    F: np.ndarray,
) -> np.ndarray:
    """Return (..., J) how far points are from obeying two cameras, as shares of the boxes.

    Sampson's distance, the least correction to first order that makes the two pixels meet, in units
    of each image's box. NaN where one camera has not found the point.

    Args:
        points_a, points_b: (..., J, 2) pixels, NaN where not found.  sides_a, sides_b: (...) longer
            sides of the boxes in pixels.  F: (3, 3) of ``fundamental_matrix``.
    """
    line_b = points_a @ F[:, :2].T + F[:, 2]
    line_a = points_b @ F[:2] + F[2]
    across = (points_b * line_b[..., :2]).sum(-1) + line_b[..., 2]
    spread_b = np.linalg.norm(line_b[..., :2], axis=-1) * np.asarray(sides_b)[..., None]
    spread_a = np.linalg.norm(line_a[..., :2], axis=-1) * np.asarray(sides_a)[..., None]
    return np.abs(across) / np.maximum(np.hypot(spread_a, spread_b), 1e-12)


def median_of_points(errors: np.ndarray) -> np.ndarray:
    """Return (...) medians over the last axis of what is finite; NaN for fewer than LEAST_POINTS.

    Args:
        errors: (..., J).
    """
    known = np.isfinite(errors)
    count = known.sum(-1)
    ordered = np.sort(np.where(known, errors, np.inf), -1)
    low = np.clip((count - 1) // 2, 0, None)[..., None]
    high = np.clip(count // 2, 0, errors.shape[-1] - 1)[..., None]
    middle = np.take_along_axis(ordered, low, -1) + np.take_along_axis(ordered, high, -1)
    return np.where(count >= LEAST_POINTS, middle[..., 0] / 2, np.nan)


def pixel_rays(points: np.ndarray, K: np.ndarray, Rt: np.ndarray) -> np.ndarray:
    """Return (..., 3) unit directions in the world of the rays through pixels."""
    flat = np.concatenate([points, np.ones_like(points[..., :1])], -1)
    rays = flat @ np.linalg.inv(K).T @ Rt[:, :3]
    return rays / np.linalg.norm(rays, axis=-1, keepdims=True)


def meet_rays(
    rays_a: np.ndarray, Rt_a: np.ndarray, rays_b: np.ndarray, Rt_b: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the rays of two cameras pass nearest to each other.

    Args:
        rays_a, rays_b: (..., 3) unit directions in the world.
    Returns:
        (...) gaps in metres, and (...) distances along each camera's rays: where one is not
        positive, the rays meet behind that camera.
    """
    between = camera_centre(Rt_b) - camera_centre(Rt_a)
    cosine = (rays_a * rays_b).sum(-1)
    along_a, along_b = rays_a @ between, rays_b @ between
    # Parallel rays meet nowhere in particular; the floor keeps the division finite.
    scale = np.maximum(1 - cosine**2, 1e-9)
    far_a = (along_a - cosine * along_b) / scale
    far_b = (cosine * along_a - along_b) / scale
    offset = between + far_b[..., None] * rays_b - far_a[..., None] * rays_a
    return np.linalg.norm(offset, axis=-1), far_a, far_b


def triangulate_many(
    points: np.ndarray, weights: np.ndarray, Ks: np.ndarray, Rts: np.ndarray
) -> np.ndarray:
    """Return (N, 3) world points of what several cameras see, by the direct linear transform.

    As ``engine.geometry.triangulate``, weighted and for many points at once. NaN where fewer than
    two cameras weigh.

    Args:
        points: (C, N, 2) pixels, NaN where not seen.  weights: (C, N), not negative.  Ks: (C, 3,
            3).  Rts: (C, 3, 4).
    """
    seen = np.isfinite(points).all(-1) & (weights > 0)
    weights = np.where(seen, weights, 0.0)
    flat = np.concatenate([np.where(seen[..., None], points, 0), np.ones((*seen.shape, 1))], -1)
    rays = np.einsum("cij,cnj->cni", np.linalg.inv(Ks), flat)
    rows = rays[..., :2, None] * Rts[:, None, 2:3] - Rts[:, None, :2]
    rows = (rows * weights[..., None, None]).transpose(1, 0, 2, 3).reshape(points.shape[1], -1, 4)
    last = np.linalg.eigh(rows.transpose(0, 2, 1) @ rows)[1][..., 0]
    scale = np.where(np.abs(last[:, 3]) < 1e-12, np.nan, last[:, 3])
    return np.where((seen.sum(0) >= 2)[:, None], last[:, :3] / scale[:, None], np.nan)
