"""What belongs to a crop, taken through the lens and the crop's map: keypoints, masks, cameras."""

import numpy as np

from data.cropping.geometry import Size, Square, find_sides, image_to_crop
from data.cropping.host import find_positions
from data.cropping.lens import Lens
from data.find.detection import PersonMask
from data.format.labels import OUTSIDE, Keypoints
from data.sources.cameras import Camera, undistort_pixels

FINER = 4  # positions along a mask's cell that are looked up


def turned_square(square: Square, quarter_turns: int) -> Square:
    """The square whose crop shows the image turned clockwise by quarter turns."""
    return Square(square.x, square.y, square.side, -(quarter_turns % 4) * np.pi / 2)


def turn_camera(
    K: np.ndarray, Rt: np.ndarray, square: Square, quarter_turns: int, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """(K, Rt) of the crop of ``turned_square``: a camera at the same place, rolled by the turns.

    The map of the image's pixels to the crop's, times K, is the crop's K times the roll, exactly so
    for quarter turns.

    Args:
        K: (3, 3) of the image.  Rt: (3, 4).  square: as ``turned_square`` returns it.
        size: the crop's side in pixels.
    """
    cos, sin = ((1, 0), (0, 1), (-1, 0), (0, -1))[quarter_turns % 4]
    roll = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]])
    crop_K = image_to_crop(square, size) @ np.asarray(K, np.float64) @ roll.T
    crop_K[np.abs(crop_K) < 1e-9] = 0.0  # a right angle's cosine is 6e-17 here; a skew is kept
    return crop_K, roll @ np.asarray(Rt, np.float64)


def move_keypoints(
    keypoints: Keypoints, square: Square, size: Size, camera: Camera | None
) -> Keypoints:
    """Keypoints of one image in pixels of a crop; those outside of it are said to be.

    Args:
        keypoints: points (K, 2) in pixels of the image as the lens made it.
        square: in pixels of the undistorted image.  size: of the crop.
        camera: None where there is no lens to be undone.
    """
    points = np.asarray(keypoints.points, np.float64)
    if camera is not None:
        points = undistort_pixels(camera, points)
    mapped = image_to_crop(square, size)
    points = points @ mapped[:2, :2].T + mapped[:2, 2]
    visible = keypoints.visible
    if visible is not None:
        inside = ((points >= 0) & (points < find_sides(size)[::-1])).all(-1)
        visible = np.where(inside, visible, OUTSIDE).astype(np.uint8)
    # A joint without a label may lie anywhere; it must not be far out, or NaN.
    labelled = np.asarray(keypoints.confidence) > 0
    points = np.where(labelled[:, None], points, 0).astype(np.float32)
    return Keypoints(keypoints.joint_set, points, keypoints.confidence, visible)


def cut_mask(mask: PersonMask, square: Square, side: int, lens: Lens | None) -> np.ndarray:
    """(side, side) bool of a crop, true where at least half of a cell is the person.

    Args:
        mask: over a square of the image as the lens made it; nobody is beyond that square.
    """
    at = find_positions(square, side * FINER, lens)
    x0, y0, x1, y1 = np.asarray(mask.square, np.float64).tolist()
    height, width = mask.inside.shape
    columns = np.floor((at[..., 0] - x0) * (width / (x1 - x0)))
    rows = np.floor((at[..., 1] - y0) * (height / (y1 - y0)))
    known = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    inside = np.zeros(known.shape, bool)
    inside[known] = mask.inside[rows[known].astype(int), columns[known].astype(int)]
    cells = inside.reshape(side, FINER, side, FINER).mean((1, 3))
    return cells >= 0.5
