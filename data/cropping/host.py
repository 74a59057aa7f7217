"""One crop of one uint8 image with OpenCV, on the host: for shards and for prediction."""

from collections.abc import Iterator

import cv2
import numpy as np

from data.cropping.border import BLACK
from data.cropping.geometry import Size, Square, find_longer, find_sides, image_to_crop
from data.cropping.lens import Lens, fold_radius

# Positions that are read in one go, 8 bytes each and 3 of the image: what a crop of a huge square
# may take of memory.
BAND_POSITIONS = 16 << 20
OUTSIDE = -1e6  # a position that no image has, for what the lens cannot see
# The first pixel's centre, which is at 0 for OpenCV.
HALF_PIXEL = np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])


def cut_square(
    image: np.ndarray, square: Square, size: Size, lens: Lens | None = None
) -> np.ndarray:
    """Return a square of an image, or the middle of one, undistorted, in one resampling.

    Where a crop's pixel covers several of the image's, a grid that is finer by a whole factor is
    read and averaged: each image pixel then counts, and nothing aliases. What lies outside the
    image is black, see data/cropping/border.py.

    Args:
        image: (H, W, 3) uint8.
        square: in pixels of the image, undistorted ones if there is a ``lens``.
        size: the crop's side S in pixels, or (rows, columns) of a rectangular one.
        lens: None to take the image as it is.

    Returns:
        (S, S, 3) or (rows, columns, 3) uint8.
    """
    finer = max(1, int(np.ceil(square.side / find_longer(size) - 1e-6)))
    height, width = find_sides(size)
    out = np.full((height, width, 3), BLACK, np.uint8)
    for rows, columns in _bands(image.shape, square, (height, width), finer, lens):
        fine_size = height * finer, width * finer
        map_x, map_y = _find_positions(square, fine_size, rows, columns, finer, lens)
        fine = cv2.remap(
            image, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=BLACK
        )
        if finer > 1:
            shape = (len(columns), len(rows))
            fine = cv2.resize(fine, shape, interpolation=cv2.INTER_AREA)
        out[rows.start : rows.stop, columns.start : columns.stop] = fine
    return out


def find_positions(square: Square, size: int, lens: Lens | None = None) -> np.ndarray:
    """Return where in the image the centre of each pixel of a crop lies.

    Args:
        square, size, lens: as ``cut_square`` takes them.

    Returns:
        (S, S, 2) float32 x, y; far outside of the image for what the lens cannot see.
    """
    map_x, map_y = _find_positions(square, size, range(size), range(size), 1, lens)
    return np.stack([map_x, map_y], -1) + np.float32(0.5)


def _bands(
    shape: tuple[int, ...], square: Square, size: tuple[int, int], finer: int, lens: Lens | None
) -> Iterator[tuple[range, range]]:
    """Yield (rows, columns) of the crop that are cut one after the other.

    The whole crop, unless the square is so large that its finer grid would take gigabytes.
    """
    rows, columns = range(size[0]), range(size[1])
    if size[0] * size[1] * finer * finer <= BAND_POSITIONS:
        yield rows, columns
        return
    if lens is None:
        rows, columns = _find_shown(shape, square, size)
    step = max(1, BAND_POSITIONS // (finer * finer * max(1, len(columns))))
    for start in range(rows.start, rows.stop, step):
        if columns:
            yield range(start, min(start + step, rows.stop)), columns


def _find_shown(
    shape: tuple[int, ...], square: Square, size: tuple[int, int]
) -> tuple[range, range]:
    """Return (rows, columns) of the crop that may show the image; all others are black."""
    height, width = shape[:2]
    # A pixel more all round: interpolation reaches half a pixel beyond the edge.
    corners = np.array([[-1, -1, 1], [width + 1, -1, 1], [-1, height + 1, 1]])
    corners = np.concatenate([corners, [[width + 1, height + 1, 1]]])
    at = corners @ image_to_crop(square, size)[:2].T
    most = np.array([size[1], size[0]])
    low = np.clip(np.floor(at.min(0)), 0, most).astype(int).tolist()
    high = np.clip(np.ceil(at.max(0)), 0, most).astype(int).tolist()
    return range(low[1], high[1]), range(low[0], high[0])


def _find_positions(
    square: Square, size: Size, rows: range, columns: range, finer: int, lens: Lens | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return two float32 maps for cv2.remap: where in the image each position lies.

    Args:
        size: of the whole crop in positions, ``finer`` of them along a crop's pixel.
        rows, columns: of the crop, for whose positions the maps are; as in ``_bands``.
    """
    K = np.eye(3) if lens is None else lens.K
    coefficients = np.zeros(8) if lens is None else lens.distortion
    ideal = image_to_crop(square, size) @ np.asarray(K, np.float64)
    ideal[:2] -= np.outer([columns.start * finer, rows.start * finer], ideal[2])
    shape = (len(columns) * finer, len(rows) * finer)
    fisheye = lens is not None and lens.fisheye
    # OpenCV leaves out the skew of the first matrix: it maps to unit depth, and the skew comes
    # after.
    skewed = bool(K[0, 1] != 0)
    first = np.eye(3) if skewed else K - HALF_PIXEL
    if fisheye:
        map_x, map_y = cv2.fisheye.initUndistortRectifyMap(
            first, coefficients[:4], np.eye(3), ideal - HALF_PIXEL, shape, cv2.CV_32FC1
        )
    else:
        map_x, map_y = cv2.initUndistortRectifyMap(
            first, coefficients, None, ideal - HALF_PIXEL, shape, cv2.CV_32FC1
        )
    if skewed:
        map_x = K[0, 0] * map_x + K[0, 1] * map_y + (K[0, 2] - 0.5)
        map_x, map_y = map_x.astype(np.float32), (K[1, 1] * map_y + (K[1, 2] - 0.5))
        map_y = map_y.astype(np.float32)
    if fisheye or np.any(coefficients):
        _hide_folded(map_x, ideal, fold_radius(coefficients, fisheye))
    return map_x, map_y


def _hide_folded(map_x: np.ndarray, ideal: np.ndarray, radius: float) -> None:
    """Move positions past the radius where the lens's polynomial folds out of the image.

    OpenCV's polynomial continues there and would show the image's inside a second time.

    Args:
        map_x: (H, W), changed in place.
        ideal: (3, 3) intrinsics of the grid of positions.
        radius: of normalised coordinates.
    """
    height, width = map_x.shape
    inverse = np.linalg.inv(ideal)
    # The farthest position is one of the corners.
    corners = _squared_radius(inverse, np.array([0.5, width - 0.5]), np.array([0.5, height - 0.5]))
    if corners.max() < radius * radius:
        return
    squared = _squared_radius(inverse, np.arange(width) + 0.5, np.arange(height) + 0.5)
    map_x[squared >= radius * radius] = OUTSIDE


def _squared_radius(inverse: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return (H, W) squared distances from the optical axis at unit depth of pixels (u, v)."""
    x = inverse[0, 0] * u + (inverse[0, 1] * v + inverse[0, 2])[:, None]
    y = inverse[1, 0] * u + (inverse[1, 1] * v + inverse[1, 2])[:, None]
    return x * x + y * y
