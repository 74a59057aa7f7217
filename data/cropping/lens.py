"""The lens's distortion, and the part of the world that it can see."""

from typing import Protocol

import numpy as np


class Lens(Protocol):
    """What cutting needs to know of a camera, such as data.sources.cameras.Camera.

    Attributes:
        K: (3, 3) intrinsics in pixels, the first pixel's centre at (0.5, 0.5).
        distortion: (8,) k1, k2, p1, p2, k3, k4, k5, k6 as in OpenCV, on normalised coordinates; of
            a fisheye k1, k2, k3, k4 of cv2.fisheye, then zeros.
        fisheye: which of the two the distortion is.
    """

    K: np.ndarray
    distortion: np.ndarray
    fisheye: bool


def distort(xy: np.ndarray, coefficients: np.ndarray, fisheye: bool = False) -> np.ndarray:
    """Return where the lens puts ideal normalised coordinates.

    Source: the rational model in the documentation of OpenCV's calib3d, without its thin prism and
    tilt, and the model of its fisheye module. Past the radius where the polynomial turns back, it
    would show the image's inside again: there the result is NaN.

    Args:
        xy: (..., 2).
        coefficients: (8,).  fisheye: see Lens.
    """
    k1, k2, p1, p2, k3, k4, k5, k6 = coefficients
    x, y = xy[..., 0], xy[..., 1]
    r2 = x * x + y * y
    if fisheye:
        r = np.sqrt(r2)
        scale = _bend_angle(r, coefficients) / np.maximum(r, 1e-12)
        seen = (r > 1e-12) & (r < fold_radius(coefficients, True))
        return xy * np.where(seen, scale, np.where(r > 1e-12, np.nan, 1.0))[..., None]
    radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
    radial = np.where(r2 < fold_radius(coefficients) ** 2, radial, np.nan)
    return np.stack(
        [
            x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
            y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
        ],
        -1,
    )


def _bend_angle(r: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """Return the radius at which a fisheye shows what is at the ideal radius ``r``."""
    k1, k2, k3, k4 = coefficients[:4]
    angle = np.arctan(r)
    a2 = angle * angle
    return angle * (1 + a2 * (k1 + a2 * (k2 + a2 * (k3 + a2 * k4))))


def fold_radius(coefficients: np.ndarray, fisheye: bool = False) -> float:
    """Return the normalised radius up to which the radial distortion grows.

    At most 4, which is 76 degrees off the axis.
    """
    k1, k2, _, _, k3, k4, k5, k6 = coefficients
    r = np.linspace(0, 4, 2001)
    if fisheye:
        grows = np.diff(_bend_angle(r, coefficients)) > 0
        return 4.0 if grows.all() else float(r[np.argmin(grows)])
    r2 = r * r
    below = 1 + r2 * (k4 + r2 * (k5 + r2 * k6))
    mapped = r * (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / np.where(below > 1e-6, below, np.nan)
    grows = np.nan_to_num(np.diff(mapped), nan=-1.0) > 0
    return 4.0 if grows.all() else float(r[np.argmin(grows)])
