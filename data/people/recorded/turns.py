"""Small operations on rotations, in numpy; (..., 3, 3) matrices, radians."""

import numpy as np
import numpy.typing as npt
import torch

from engine.geometry import axis_angle_to_matrix, matrix_to_axis_angle


def unit(vector: np.ndarray) -> np.ndarray:
    """The vector (..., 3) at length 1."""
    return vector / np.maximum(np.linalg.norm(vector, axis=-1, keepdims=True), 1e-12)


def turn_about(axis: np.ndarray, angle: npt.ArrayLike) -> np.ndarray:
    """(..., 3, 3) rotations about one unit axis (3,) by angles (...) (Rodrigues)."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.asarray(angle, np.float64)[..., None, None]
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross)


def turn_between(start: np.ndarray, end: np.ndarray, fallback: np.ndarray) -> np.ndarray:
    """(..., 3, 3) the smallest rotations from directions to others, (..., 3) each.

    Args:
        fallback: (3,) axis of the half turn between directions that are opposite.
    """
    a, b = np.broadcast_arrays(unit(start), unit(end))
    cross, cos = np.cross(a, b), (a * b).sum(-1)
    skew = np.zeros((*cross.shape[:-1], 3, 3))
    skew[..., 0, 1], skew[..., 0, 2], skew[..., 1, 2] = (
        -cross[..., 2],
        cross[..., 1],
        -cross[..., 0],
    )
    skew -= np.swapaxes(skew, -1, -2)
    safe = np.maximum(1 + cos, 1e-6)[..., None, None]
    turned = np.eye(3) + skew + skew @ skew / safe
    opposite = (cos < -0.9999)[..., None, None]
    return np.where(opposite, turn_about(unit(fallback), np.pi), turned)


def twist_angle(rotations: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """(...) radians of the rotations' part about a unit axis (swing and twist)."""
    odd = rotations - np.swapaxes(rotations, -1, -2)
    vector = np.stack([odd[..., 2, 1], odd[..., 0, 2], odd[..., 1, 0]], -1)
    trace = np.trace(rotations, axis1=-2, axis2=-1)
    angle = 2 * np.arctan2(vector @ axis, 1 + trace)
    return np.arctan2(np.sin(angle), np.cos(angle))


def part_of(rotations: np.ndarray, share: float) -> np.ndarray:
    """(..., 3, 3) rotations about the same axes by a share of the angles."""
    vectors = matrix_to_axis_angle(torch.from_numpy(np.ascontiguousarray(rotations)))
    return axis_angle_to_matrix(vectors * share).numpy()


def mix_turns(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    """(T, 3, 3) rotations between pairs of them that are near each other.

    The rotation nearest to their mean in the sense of least squares (Markley 2007).
    """
    share = share[:, None, None]
    u, _, v = np.linalg.svd(first * (1 - share) + second * share)
    sign = np.linalg.det(u @ v)
    u[..., -1] *= sign[:, None]
    return u @ v
