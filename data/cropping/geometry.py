"""Where the pixels of a square crop lie in the image that it is cut from.

The centre of the first pixel is at (0.5, 0.5), in the image and in the crop, so the corner of
either is at 0 and no formula needs to know which pixel is the last. A square has a centre, a side
and an angle by which it is rotated about its centre, from x towards y. With S, the crop's side in
pixels, the crop's pixel v shows the image at

    u = centre + (side / S) Rot(angle) (v - (S/2, S/2)),    Rot(a) = [[cos a, -sin a],
                                                                      [sin a,  cos a]]

The crop is the image of another camera at the same place: intrinsics K become image_to_crop @ K,
which data.cropping.batch.crop_cameras splits into intrinsics and a rotation about the optical axis
where the square is rotated.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

Number = TypeVar("Number", float, np.ndarray, "torch.Tensor")


@dataclass(frozen=True)
class Square:
    """A square in an image.

    Attributes:
        x, y: the centre in pixels of the image.
        side: pixels of the image.
        angle: radians by which it is rotated about its centre, from x towards y.
    """

    x: float
    y: float
    side: float
    angle: float = 0.0

    @property
    def box(self) -> np.ndarray:
        """(4,) x0, y0, x1, y1 of the square before it is rotated."""
        half = self.side / 2
        return np.array([self.x - half, self.y - half, self.x + half, self.y + half])


def square_of_box(box: npt.ArrayLike) -> Square:
    """Return the Square whose box is this [x0, y0, x1, y1], which is as high as wide."""
    x0, y0, x1, y1 = np.asarray(box, np.float64).tolist()
    return Square((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0)


def square_around(box: npt.ArrayLike, margin: float) -> Square:
    """Return the Square around a box's middle, of ``margin`` times its longer side.

    Args:
        box: [x0, y0, x1, y1] in pixels of the image.
    """
    x0, y0, x1, y1 = np.asarray(box, np.float64).tolist()
    return Square((x0 + x1) / 2, (y0 + y1) / 2, max(x1 - x0, y1 - y0) * margin)


def scaled_rotation(
    scale: Number, cos: Number, sin: Number
) -> tuple[tuple[Number, Number], tuple[Number, Number]]:
    """Return the rows of scale * Rot(angle), of numbers, arrays or tensors.

    From crop to image it is of side / S and angle, from image to crop of S / side and -angle.
    """
    return (scale * cos, -(scale * sin)), (scale * sin, scale * cos)


def image_to_crop(square: Square, size: int) -> np.ndarray:
    """Return the (3, 3) map of homogeneous pixels of the image to pixels of a crop of ``size``."""
    cos, sin = np.cos(square.angle), np.sin(square.angle)
    # Through the corner that is the crop's origin, as engine.geometry.crop_intrinsics does it.
    (a, b), (c, d) = scaled_rotation(1.0, cos, sin)
    half = square.side / 2
    origin = np.array([square.x - (a * half + b * half), square.y - (c * half + d * half)])
    out = np.eye(3)
    out[:2, :2] = scaled_rotation(size / square.side, cos, -sin)
    out[:2, 2] = -(out[:2, :2] @ origin)
    return out
