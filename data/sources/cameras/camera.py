"""A calibrated camera: where its lens puts a point of the world, and back.

A calibration file's principal point counts the first pixel's *centre* as (0, 0), as OpenCV does;
here it is (0.5, 0.5), so every reader adds half a pixel to cx and cy.
"""

import dataclasses
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from data.cropping.lens import distort
from engine.errors import UserError


@dataclass
class Camera:
    """One camera.

    Attributes:
        name: unique in the calibration.
        K: (3, 3) intrinsics in pixels, the first pixel's centre at (0.5, 0.5).
        distortion: (8,) k1, k2, p1, p2, k3, k4, k5, k6 as in OpenCV, on normalised coordinates; of
            a fisheye k1, k2, k3, k4 of cv2.fisheye, then zeros.
        Rt: (3, 4) world to camera, metres.
        width, height: of the image in pixels; 0 where the file does not tell.
        fisheye: which of the two the distortion is.
        quarter_turns: 0 to 3 turns clockwise by 90 degrees that show its image upright.
    """

    name: str
    K: np.ndarray
    distortion: np.ndarray
    Rt: np.ndarray
    width: int
    height: int
    fisheye: bool = False
    quarter_turns: int = 0


def project_distorted(camera: Camera, points: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """World points in the camera's own, distorted image.

    Args:
        points: (..., 3).
    Returns:
        (..., 2) pixels, NaN where the lens cannot see, and (...) depths in metres.
    """
    local = np.asarray(points, np.float64) @ camera.Rt[:, :3].T + camera.Rt[:, 3]
    depth = local[..., 2]
    xy = local[..., :2] / np.where(depth > 1e-6, depth, np.nan)[..., None]
    bent = distort(xy, camera.distortion, camera.fisheye)
    return bent @ camera.K[:2, :2].T + camera.K[:2, 2], depth


def undistort_pixels(camera: Camera, pixels: npt.ArrayLike) -> np.ndarray:
    """Return (..., 2) pixels of the ideal pinhole image, from those of the distorted one.

    Both have the same K.
    """
    pixels = np.asarray(pixels, np.float64)
    # By K's inverse and not by OpenCV, which leaves out the skew. K and pixels share the
    # half-pixel, so it cancels.
    bent = (pixels - camera.K[:2, 2]) @ np.linalg.inv(camera.K[:2, :2]).T
    flat, eye = bent.reshape(-1, 1, 2), np.eye(3)
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 50, 1e-9)
    if not camera.distortion.any() and not camera.fisheye:
        return pixels.copy()
    if camera.fisheye:
        ideal = cv2.fisheye.undistortPoints(flat, eye, camera.distortion[:4], criteria=criteria)
    else:
        ideal = cv2.undistortPoints(flat, eye, camera.distortion, criteria=criteria)
    return ideal.reshape(pixels.shape) @ camera.K[:2, :2].T + camera.K[:2, 2]


def fit_to_video(
    camera: Camera,
    width: int,
    height: int,
    offset: tuple[float, float] = (0, 0),
    slack_px: int = 16,
) -> Camera:
    """Return the camera as its video shows it.

    For a video that is a few pixels smaller or larger than the calibration.

    Args:
        width, height: of the video.  offset: (x, y) of the video's corner in the calibrated
            image.
        slack_px: the largest difference that is taken for a cropped border; more means another mode
            of the sensor.
    Returns:
        a Camera of the video's size.
    Raises:
        UserError: the sizes differ by more, or the file tells no size and the principal point is
            not in the video's image.
    """
    known = camera.width > 0 and camera.height > 0
    if known and (abs(width - camera.width) > slack_px or abs(height - camera.height) > slack_px):
        raise UserError(
            f"camera {camera.name}: the video is {width}x{height}, its calibration is for "
            f"{camera.width}x{camera.height}; they may differ by size_slack_px={slack_px}"
        )
    K = camera.K.copy()
    K[0, 2] -= offset[0]
    K[1, 2] -= offset[1]
    if not known and not (0 < K[0, 2] < width and 0 < K[1, 2] < height):
        raise UserError(
            f"camera {camera.name}: its principal point is ({K[0, 2]:g}, {K[1, 2]:g}), outside the "
            f"video's {width}x{height}: the calibration is of another image size"
        )
    return dataclasses.replace(camera, K=K, width=width, height=height)
