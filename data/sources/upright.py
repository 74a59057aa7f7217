"""How a video's images are held: the turn and flips that its container asks for."""

import math
from dataclasses import dataclass

import av
import numpy as np
from av.sidedata.sidedata import SideData, Type

_NEAR_DEG = 1.0  # ffmpeg takes an angle for a multiple of 90 degrees within this much


@dataclass(frozen=True)
class Upright:
    """What makes a stored image upright, in this order.

    Attributes:
        swap: columns become rows.  flip_x: left and right change places.  flip_y: top and bottom.
    """

    swap: bool = False
    flip_x: bool = False
    flip_y: bool = False

    def apply(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) as it is shown, of one as it is stored."""
        if self.swap:
            image = image.transpose(1, 0, 2)
        if self.flip_x:
            image = image[:, ::-1]
        if self.flip_y:
            image = image[::-1]
        return np.ascontiguousarray(image)

    def size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) of the shown image."""
        return (height, width) if self.swap else (width, height)


def read_matrix(matrix: np.ndarray) -> Upright:
    """The turn of a display matrix, as ffmpeg's autorotate takes it.

    A stored point (x, y) is shown at (a x + c y, b x + d y), up to a shift; scales are ignored.

    Args:
        matrix: (9,) int32: a b u c d v x y w of ISO/IEC 14496-12, section 8.3.2.
    Raises:
        ValueError: a turn by anything but a multiple of 90 degrees.
    """
    a, b, c, d = (float(matrix[i]) for i in (0, 1, 3, 4))
    scale_x, scale_y = math.hypot(a, c), math.hypot(b, d)
    if scale_x == 0 or scale_y == 0:
        return Upright()
    degrees = math.degrees(math.atan2(b / scale_y, a / scale_x))
    quarters = round(degrees / 90)
    if abs(degrees - 90 * quarters) > _NEAR_DEG:
        raise ValueError(f"it is shown turned by {degrees:.0f} degrees; re-encode it upright")
    if quarters % 2:
        return Upright(True, c < 0, b < 0)
    return Upright(False, a < 0, d < 0)


def upright_of(frame: av.VideoFrame) -> Upright:
    """The turn of a decoded PyAV frame, from the matrix that its container or its stream gave.

    Raises:
        ValueError: a turn by anything but a multiple of 90 degrees.
    """
    for data in frame.side_data:
        if isinstance(data, SideData) and data.type == Type.DISPLAYMATRIX:
            return read_matrix(np.frombuffer(memoryview(data), np.int32, 9))
    return Upright()
