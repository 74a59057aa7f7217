"""Alignments of predicted points to true ones, each in the way of the scripts that name it.

Points are (N, K, 3) float64. That of engine.geometry is a third way: it keeps the scale of points
that coincide, where ``align_similarity`` gives NaN as the bodies' scripts do, and allows no
reflection, where ``align_orthogonal`` does as the hands' scripts do.
"""

from dataclasses import dataclass

import numpy as np

HANDS_EPSILON = 1e-8  # metres, what FreiHAND adds to the size of a set of points


@dataclass
class Similarity:
    """N similarities: ``scale * rotation @ point + shift``.

    Attributes:
        scale: (N,).  rotation: (N, 3, 3).  shift: (N, 3).
    """

    scale: np.ndarray
    rotation: np.ndarray
    shift: np.ndarray

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Return (N, K, 3) points moved."""
        moved = points @ self.rotation.transpose(0, 2, 1)
        return self.scale[:, None, None] * moved + self.shift[:, None]


def fit_similarity(found: np.ndarray, true: np.ndarray) -> Similarity:
    """Return the similarity of least squared distance that moves predictions onto the truth.

    Without reflection. Where all predictions of a frame lie in one point its scale is 0 / 0, NaN,
    as it is in the scripts of SPIN and EMDB. Source: Umeyama, PAMI 1991.

    Args:
        found, true: (N, K, 3).
    """
    found_mean, true_mean = found.mean(1), true.mean(1)
    a, b = found - found_mean[:, None], true - true_mean[:, None]
    covariance = a.transpose(0, 2, 1) @ b
    u, _, vh = np.linalg.svd(covariance)
    sign = np.ones((len(found), 3))
    sign[:, 2] = np.sign(np.linalg.det(u @ vh))
    rotation = np.einsum("nki,nk,njk->nij", vh, sign, u)
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = np.einsum("nij,nji->n", rotation, covariance) / (a**2).sum((1, 2))
    shift = true_mean - scale[:, None] * np.einsum("nij,nj->ni", rotation, found_mean)
    return Similarity(scale, rotation, shift)


def align_similarity(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return (N, K, 3) predictions moved by ``fit_similarity``."""
    return fit_similarity(found, true)(found)


@dataclass
class Orthogonal:
    """What FreiHAND's alignment found: rotations or reflections, and sizes.

    Attributes:
        matrix: (N, 3, 3), applied as ``points @ matrix^T``.
        scale: (N,) of points of size 1.
        found_size, true_size: (N,) norms of the centred points, metres.
        found_mean, true_mean: (N, 1, 3).
    """

    matrix: np.ndarray
    scale: np.ndarray
    found_size: np.ndarray
    true_size: np.ndarray
    found_mean: np.ndarray
    true_mean: np.ndarray


def fit_orthogonal(found: np.ndarray, true: np.ndarray) -> Orthogonal:
    """Return FreiHAND's alignment: shift, scale, and rotation or reflection.

    Both sets are centred and divided by their size plus 1e-8 m, so that predictions in one point
    are moved to the mean of the truth. Source: lmb-freiburg/freihand eval.py; the same in
    shreyashampali/ho3d eval.py.

    Args:
        found, true: (N, K, 3).
    """
    found_mean, true_mean = found.mean(1, keepdims=True), true.mean(1, keepdims=True)
    a, b = found - found_mean, true - true_mean
    found_size = np.linalg.norm(a, axis=(1, 2)) + HANDS_EPSILON
    true_size = np.linalg.norm(b, axis=(1, 2)) + HANDS_EPSILON
    a, b = a / found_size[:, None, None], b / true_size[:, None, None]
    u, s, vh = np.linalg.svd(b.transpose(0, 2, 1) @ a)
    return Orthogonal(u @ vh, s.sum(1), found_size, true_size, found_mean, true_mean)


def align_orthogonal(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return (N, K, 3) predictions moved by ``fit_orthogonal``."""
    fit = fit_orthogonal(found, true)
    unit = (found - fit.found_mean) / fit.found_size[:, None, None]
    turned = unit @ fit.matrix.transpose(0, 2, 1) * fit.scale[:, None, None]
    return turned * fit.true_size[:, None, None] + fit.true_mean


def apply_orthogonal(fit: Orthogonal, points: np.ndarray) -> np.ndarray:
    """Return other points of the same frames moved as the hands' scripts do.

    They turn them about the points' own mean, do not divide by the size of the predicted joints,
    and shift them as far as the joints' means are apart. That is no alignment of the points, but
    what the scripts print for meshes that are not MANO's.

    Args:
        points: (N, V, 3).
    """
    mean = points.mean(1, keepdims=True)
    turned = (points - mean) @ fit.matrix.transpose(0, 2, 1)
    scale = (fit.scale * fit.true_size)[:, None, None]
    return turned * scale + (fit.true_mean - fit.found_mean) + mean


def align_scale_shift(found: np.ndarray, true: np.ndarray, root: int, other: int) -> np.ndarray:
    """Return predictions scaled so that one bone has its true length, the root on the true one.

    A predicted bone of no length keeps its scale. Source: shreyashampali/ho3d eval.py.

    Args:
        found, true: (N, K, 3).  root, other: the joints of the bone.
    """
    length = np.linalg.norm(found[:, other] - found[:, root], axis=-1)
    wanted = np.linalg.norm(true[:, other] - true[:, root], axis=-1)
    # Divided first, then multiplied, as there: predictions that are exact then round alike.
    scaled = found / np.where(length > 0, length, 1.0)[:, None, None] * wanted[:, None, None]
    return scaled - scaled[:, root, None] + true[:, root, None]


def centre(points: np.ndarray, root: np.ndarray) -> np.ndarray:
    """Return (N, K, 3) points about (N, 3) roots."""
    return points - root[:, None]
