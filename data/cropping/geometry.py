"""Where the pixels of a crop lie in the image that it is cut from.

The centre of the first pixel is at (0.5, 0.5), in the image and in the crop, so the corner of
either is at 0 and no formula needs to know which pixel is the last. A square has a centre, a side
and an angle by which it is rotated about its centre, from x towards y. With S, the crop's side in
pixels, the crop's pixel v shows the image at

    u = centre + (side / S) Rot(angle) (v - (S/2, S/2)),    Rot(a) = [[cos a, -sin a],
                                                                      [sin a,  cos a]]

A rectangular crop of H x W pixels is the middle of such a square: S is its longer side, and
(W/2, H/2) stands for (S/2, S/2). A ``Size`` is the side of a square crop, or (rows, columns).

The crop is the image of another camera at the same place: intrinsics K become image_to_crop @ K,
which data.cropping.batch.crop_cameras splits into intrinsics and a rotation about the optical axis
where the square is rotated.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from engine.geometry import crop_intrinsics

if TYPE_CHECKING:
    import torch

Number = TypeVar("Number", float, np.ndarray, "torch.Tensor")
Size = int | tuple[int, int]


def find_sides(size: Size) -> tuple[int, int]:
    """Return (rows, columns) of a Size."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def find_longer(size: Size) -> int:
    """Return the longer side of a Size in pixels."""
    return size if isinstance(size, int) else max(size)


def find_size(images: "torch.Tensor") -> Size:
    """Return the Size of images (..., rows, columns)."""
    # Numbers also while a network is traced for export, where they would be tensors.
    rows, columns = (int(side) for side in images.shape[-2:])
    return columns if rows == columns else (rows, columns)


def word_size(size: Size) -> str:
    """Return a Size in words: "224" or "256 x 192" (rows, columns)."""
    return str(size) if isinstance(size, int) else f"{size[0]} x {size[1]}"


def scale_size(size: Size, factor: float) -> Size:
    """Return a Size times a factor, whole pixels."""
    if isinstance(size, int):
        return round(size * factor)
    return round(size[0] * factor), round(size[1] * factor)


@dataclass(frozen=True)
class Square:
    """A square in an image.

    Attributes:
        x, y: the centre in pixels of the image.
        side: pixels of the image, of a rectangular crop those along its longer side.
        angle: radians by which it is rotated about its centre, from x towards y.
    """

    x: float
    y: float
    side: float
    angle: float = 0.0

    @property
    def box(self) -> np.ndarray:
        """(4,) x0, y0, x1, y1 of the square before it is rotated."""
        return self.find_box(1)

    def find_box(self, size: Size) -> np.ndarray:
        """(4,) x0, y0, x1, y1 of what a crop of this size shows, before it is rotated."""
        (rows, columns), longer = find_sides(size), find_longer(size)
        x, y = self.side / 2 * (columns / longer), self.side / 2 * (rows / longer)
        return np.array([self.x - x, self.y - y, self.x + x, self.y + y])


def crop_camera_of(square: Square, K: npt.ArrayLike, size: Size) -> np.ndarray:
    """Return the (3, 3) intrinsics of a crop of an image of intrinsics ``K``.

    Args:
        square: not rotated.  size: of the crop.
    """
    rows, columns = find_sides(size)
    return crop_intrinsics(K, square.find_box(size), (columns, rows))


def square_of_box(box: npt.ArrayLike) -> Square:
    """Return the Square whose box is this [x0, y0, x1, y1], which is as high as wide."""
    x0, y0, x1, y1 = np.asarray(box, np.float64).tolist()
    return Square((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0)


def square_around(box: npt.ArrayLike, margin: float, size: Size = 1) -> Square:
    """Return the Square around a box's middle, of ``margin`` times its longer side.

    For rectangular crops the one whose crop shows ``margin`` times the box, and no more than that
    of its height or of its width.

    Args:
        box: [x0, y0, x1, y1] in pixels of the image.  size: of the crop that is cut.
    """
    x0, y0, x1, y1 = np.asarray(box, np.float64).tolist()
    (rows, columns), longer = find_sides(size), find_longer(size)
    side = max((x1 - x0) * (longer / columns), (y1 - y0) * (longer / rows))
    return Square((x0 + x1) / 2, (y0 + y1) / 2, side * margin)


def scaled_rotation(
    scale: Number, cos: Number, sin: Number
) -> tuple[tuple[Number, Number], tuple[Number, Number]]:
    """Return the rows of scale * Rot(angle), of numbers, arrays or tensors.

    From crop to image it is of side / S and angle, from image to crop of S / side and -angle.
    """
    return (scale * cos, -(scale * sin)), (scale * sin, scale * cos)


def image_to_crop(square: Square, size: Size) -> np.ndarray:
    """Return the (3, 3) map of homogeneous pixels of the image to pixels of a crop of ``size``."""
    cos, sin = np.cos(square.angle), np.sin(square.angle)
    # Through the corner that is the crop's origin, as engine.geometry.crop_intrinsics does it.
    (a, b), (c, d) = scaled_rotation(1.0, cos, sin)
    (rows, columns), longer = find_sides(size), find_longer(size)
    wide, high = square.side / 2 * (columns / longer), square.side / 2 * (rows / longer)
    origin = np.array([square.x - (a * wide + b * high), square.y - (c * wide + d * high)])
    out = np.eye(3)
    out[:2, :2] = scaled_rotation(longer / square.side, cos, -sin)
    out[:2, 2] = -(out[:2, :2] @ origin)
    return out
