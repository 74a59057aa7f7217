"""Rotations as files of animation hold them: quaternions and angles about axes."""

import numpy as np
import torch

from engine.geometry import matrix_to_axis_angle


def to_quaternions(turns: np.ndarray) -> np.ndarray:
    """Return (T, J, 4) unit quaternions x, y, z, w of (T, J, 3, 3) rotations.

    Of a rotation's two quaternions each frame has the one that is nearer to the frame before.
    """
    vectors = matrix_to_axis_angle(torch.from_numpy(turns)).numpy()
    angle = np.linalg.norm(vectors, axis=-1, keepdims=True)
    out = np.concatenate([np.sinc(angle / (2 * np.pi)) / 2 * vectors, np.cos(angle / 2)], -1)
    for row in range(1, len(out)):
        away = (out[row] * out[row - 1]).sum(-1) < 0
        out[row, away] *= -1
    return out


def to_zxy_angles(turns: np.ndarray) -> np.ndarray:
    """Return (..., 3) angles a, b, c in radians with turn = Rz(a) Rx(b) Ry(c).

    The order of BVH's channels here and of OpenSim's joints of three axes: each axis is turned by
    those before it. b lies within a quarter turn of 0; there a and c are not told apart, and c is
    0.

    Args:
        turns: (..., 3, 3) rotation matrices.
    """
    sine = np.clip(turns[..., 2, 1], -1, 1)
    b = np.arcsin(sine)
    is_locked = np.abs(sine) > 1 - 1e-9
    a = np.where(
        is_locked,
        np.arctan2(turns[..., 1, 0], turns[..., 0, 0]),
        np.arctan2(-turns[..., 0, 1], turns[..., 1, 1]),
    )
    c = np.where(is_locked, 0.0, np.arctan2(-turns[..., 2, 0], turns[..., 2, 2]))
    return np.stack([a, b, c], -1)


def unwrap_rows(angles: np.ndarray) -> np.ndarray:
    """Return (T, ...) angles in radians without jumps of a whole turn from row to row."""
    return np.unwrap(angles, axis=0)
