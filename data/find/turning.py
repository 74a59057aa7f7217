"""Detections of a camera that lay on its side: from the image shown upright to the frame itself."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from data.find.detection import Detection, PersonMask
from data.sources.frames import Frames


class TurnedFrames(Frames):
    """A video whose frames are shown turned clockwise, for a finder that knows upright people.

    Attributes:
        quarter_turns: 0 to 3.  width, height: as shown.
    """

    def __init__(self, video: Frames, quarter_turns: int) -> None:
        super().__init__(video.path, video.index)
        self.quarter_turns = quarter_turns
        if quarter_turns % 2:
            self.width, self.height = video.height, video.width

    def get(self, indices: Iterable[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (index, (H, W, 3) uint8 RGB as shown), as Frames.get does."""
        for index, image in super().get(indices):
            yield index, turn_image(image, self.quarter_turns)


def turn_image(image: np.ndarray, quarter_turns: int) -> np.ndarray:
    """Return an image turned clockwise by quarter turns, its memory in order."""
    return np.ascontiguousarray(np.rot90(image, -quarter_turns))


def turn_points(points: np.ndarray, quarter_turns: int, width: int, height: int) -> np.ndarray:
    """Return (..., 2) pixels of an image as they lie once it is turned clockwise.

    Args:
        width, height: of the image before.
    """
    x, y = points[..., 0], points[..., 1]
    turned = {0: (x, y), 1: (height - y, x), 2: (width - x, height - y), 3: (y, width - x)}
    return np.stack(turned[quarter_turns % 4], -1)


def turn_detection(found: Detection, quarter_turns: int, width: int, height: int) -> Detection:
    """Return a detection as it lies once its image is turned clockwise.

    Args:
        width, height: of the image before.
    """

    def box_of(box):
        corners = np.asarray(box, np.float64).reshape(2, 2)
        corners = turn_points(corners, quarter_turns, width, height)
        return np.concatenate([corners.min(0), corners.max(0)])

    def points_of(points):
        if points is None:
            return None
        flat = turn_points(points[:, :2], quarter_turns, width, height)
        return np.concatenate([flat, points[:, 2:]], 1)

    hands = {
        side: replace(hand, box=box_of(hand.box), keypoints=points_of(hand.keypoints))
        for side, hand in found.hands.items()
    }
    mask = found.mask
    if mask is not None:
        mask = PersonMask(box_of(mask.square), turn_image(mask.inside, quarter_turns))
    return replace(
        found,
        box=box_of(found.box),
        keypoints=points_of(found.keypoints),
        hands=hands,
        mask=mask,
    )
