"""What a video does from one looked-at frame to the next: cut, stand still, or move on.

A hard cut is told by colours and layout that change at once: the shared part of the colour
histograms and the correlation of small grey images fall together. A fade changes them step by step
and is no cut; nor is a camera that turns, whose small images agree after a shift. A frame that
repeats the last different one is still: doubled frames, and images shown as video; so is one of one
colour.
"""

from dataclasses import dataclass

import cv2
import numpy as np

GREY = (96, 54)  # columns and rows of the small grey image
COARSE = (24, 14)  # of the one whose correlation tells a cut
STILL = 4.0  # grey levels: the largest change of a block that coding alone makes
ALIKE = 1.25  # shared share of colours plus correlation: under it is a cut; within shots 1.5 and up
SAME_LAYOUT = 0.8  # a correlation from which on there is no cut: it got dark or bright
FLAT = 3.0  # standard deviation of grey levels under which an image shows nothing
SHIFTED = 0.7  # a shift is the camera's where it leaves less than this share of the typical change


@dataclass
class Step:
    """What happened since the last frame that was looked at.

    Attributes:
        cut: another shot begins with this frame.
        still: it repeats the last different frame, or shows nothing.
        shift: (2,) pixels by which the scene moved, x and y, as the camera turned.
    """

    cut: bool
    still: bool
    shift: np.ndarray


class ShotWatcher:
    """Looks at the frames of one video in order."""

    def __init__(self) -> None:
        self._last: _Small | None = None
        self._window = cv2.createHanningWindow(GREY, cv2.CV_32F)

    def look(self, image: np.ndarray) -> Step:
        """Return what happened since the frame before.

        Args:
            image: (H, W, 3) uint8 RGB; all of a video have one size.
        """
        now, last = _Small.of(image), self._last
        if last is None:
            self._last = now
            return Step(False, False, np.zeros(2))
        if now.differs_from(last) < STILL or now.grey.std() < FLAT:
            return Step(False, True, np.zeros(2))
        self._last = now
        shift, moved = self._find_shift(last, now)
        if now.is_cut_from(last, moved):
            return Step(True, False, np.zeros(2))
        return Step(False, False, shift * np.array(image.shape[1::-1]) / GREY)

    def _find_shift(self, last, now):
        """(2,) pixels of the small image that the camera moved it by, and the last one so moved."""
        # It multiplies its arguments by the window in place.
        (x, y), _ = cv2.phaseCorrelate(last.grey.copy(), now.grey.copy(), self._window)
        shift = np.array([x, y])
        if np.abs(shift).max() < 0.5 or (np.abs(shift) > np.array(GREY) / 3).any():
            return np.zeros(2), last.grey
        matrix = np.array([[1, 0, x], [0, 1, y]], np.float32)
        moved = cv2.warpAffine(last.grey, matrix, GREY, borderMode=cv2.BORDER_REPLICATE)
        before = float(np.median(np.abs(now.grey - last.grey)))
        after = float(np.median(np.abs(now.grey - moved)))
        return (shift, moved) if after < SHIFTED * before else (np.zeros(2), last.grey)


@dataclass
class _Small:
    """A frame made small: grey, its mean of each block, and its colours."""

    grey: np.ndarray
    blocks: np.ndarray
    colours: np.ndarray

    @classmethod
    def of(cls, image: np.ndarray) -> "_Small":
        small = cv2.resize(image, GREY, interpolation=cv2.INTER_AREA)
        grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
        hsv = cv2.cvtColor(small, cv2.COLOR_RGB2HSV)
        colours = cv2.calcHist([hsv], [0, 1, 2], None, [8, 4, 4], [0, 180, 0, 256, 0, 256])
        blocks = cv2.resize(grey, COARSE, interpolation=cv2.INTER_AREA)
        return cls(grey, blocks, colours.ravel() / colours.sum())

    def differs_from(self, other: "_Small") -> float:
        """The largest change of a pixel of the small images, in grey levels."""
        return float(np.abs(self.grey - other.grey).max())

    def is_cut_from(self, other: "_Small", moved: np.ndarray) -> bool:
        """Whether another shot began; ``moved``: the other's grey image as the camera turned it."""
        shared = float(np.minimum(self.colours, other.colours).sum())
        coarse = cv2.resize(moved, COARSE, interpolation=cv2.INTER_AREA)
        alike = max(_correlate(self.blocks, blocks) for blocks in (other.blocks, coarse))
        return alike < SAME_LAYOUT and shared + alike < ALIKE


def _correlate(a, b):
    """Pearson's correlation of two images; 1 where one of them is of one grey."""
    a, b = a - a.mean(), b - b.mean()
    size = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / size) if size > 1e-3 else 1.0
