"""Square windows of an image: the whole of it, then overlapping parts for small people.

A window shows its part of the image enlarged or reduced to the network's square; what lies beyond
the image is black.
"""

from dataclasses import dataclass

import cv2
import numpy as np

PART = 0.6  # of a window's side: two parts overlap by a third of their own side


@dataclass(frozen=True)
class Window:
    """A square of the image, in whole pixels.

    Attributes:
        x, y: its first pixel.
        side: pixels; a window may reach beyond the image's right and lower edge.
    """

    x: int
    y: int
    side: int


def whole_window(width: int, height: int) -> Window:
    """Return the smallest window that shows the whole image."""
    return Window(0, 0, max(width, height))


def split_window(window: Window, width: int, height: int) -> list[Window]:
    """Return overlapping windows that cover what a window shows of an image of this size.

    They have three fifths of its side. Along an axis on which one suffices there is one, so that an
    image of 16:9 has two and a square one four.
    """
    side = int(np.ceil(window.side * PART))
    columns = _starts(window.x, min(window.x + window.side, width), side)
    rows = _starts(window.y, min(window.y + window.side, height), side)
    parts: list[Window] = []
    for y in rows:
        parts += [Window(x, y, side) for x in columns]
    return parts


def _starts(low: int, high: int, side: int) -> list[int]:
    """Where windows begin that cover low to high: one, or one at each end."""
    return [low] if high - low <= side else [low, high - side]


def cut_window(image: np.ndarray, window: Window, size: int) -> np.ndarray:
    """Return (size, size, 3) uint8 of a window of an (H, W, 3) uint8 image."""
    part = image[window.y : window.y + window.side, window.x : window.x + window.side]
    height, width = part.shape[:2]
    scale = size / window.side
    shape = (max(1, round(width * scale)), max(1, round(height * scale)))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    out = np.zeros((size, size, 3), np.uint8)
    out[: shape[1], : shape[0]] = cv2.resize(part, shape, interpolation=way)
    return out


def window_to_image(
    window: Window, size: int, width: int, height: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return (origin, scale), both (2,) x, y: image = origin + scale * pixel of the cut window.

    The scale differs a little between the axes: the cut part has whole numbers of pixels.
    """
    shown = np.array([min(window.side, width - window.x), min(window.side, height - window.y)])
    drawn = np.maximum(1, np.round(shown * (size / window.side)))
    return np.array([window.x, window.y], np.float64), shown / drawn
