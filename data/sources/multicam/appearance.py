"""The colours of a person's clothes: what tells people apart where geometry cannot."""

from collections.abc import Callable, Mapping, Sequence

import cv2
import numpy as np

from data.find.detection import Detection
from data.sources.frames import Frames

Named = tuple[tuple[int, int], Detection]  # its view and row, and itself
# Describes the sightings asked for: {(view, row): (2, 16)}.
Colours = Callable[[list[tuple[int, int]]], dict[tuple[int, int], np.ndarray]]
_HUES, _SHADES = 12, 4
_LEAST_SATURATION = 50  # of 255: below, a colour is a shade of grey
# Shares of the box's height and width where no keypoints say where the trunk and the thighs are.
_UPPER, _LOWER, _ACROSS = (0.2, 0.5), (0.5, 0.75), (0.3, 0.7)
_SHOULDERS, _HIPS, _KNEES = (5, 6), (11, 12), (13, 14)
_LEAST_CONFIDENCE = 0.3
_SIDE = 48  # pixels of a patch's side: more tell no more


def describe_colours(image: np.ndarray, detection: Detection) -> np.ndarray:
    """Return (2, 16) shares of hues and greys of a person's upper and lower body.

    Rows sum to 1. Hue alone for colours and lightness alone for greys: another camera shows another
    brightness and saturation.

    Args:
        image: (H, W, 3) uint8 RGB.  detection: with keypoints of coco17, or a box alone.
    """
    regions = _regions(detection)
    return np.stack([_histogram(_patch(image, region)) for region in regions])


def compare_colours(a: np.ndarray, b: np.ndarray) -> float:
    """Return how alike two descriptions are, 0 to 1 (Bhattacharyya), mean over the rows."""
    return float(np.sqrt(a * b).sum(-1).mean())


def read_colours(
    videos: Sequence[Frames], wanted: Mapping[int, Mapping[int, Sequence[Named]]]
) -> dict[tuple[int, int], np.ndarray]:
    """Return {name: mean (2, 16) description}, decoding each video once.

    Args:
        wanted: {view: {frame: [(name, detection)]}}.
    """
    sums: dict[tuple[int, int], np.ndarray] = {}
    counts: dict[object, int] = {}
    for view, frames in wanted.items():
        for frame, image in videos[view].get(sorted(frames)):
            for name, detection in frames[frame]:
                sums[name] = sums.get(name, 0) + describe_colours(image, detection)
                counts[name] = counts.get(name, 0) + 1
    return {name: total / counts[name] for name, total in sums.items()}


def _regions(detection):
    """Upper and lower body as (x0, y0, x1, y1)."""
    x0, y0, x1, y1 = detection.box
    wide, high = x1 - x0, y1 - y0
    across = x0 + wide * np.array(_ACROSS)
    upper = [across[0], y0 + high * _UPPER[0], across[1], y0 + high * _UPPER[1]]
    lower = [across[0], y0 + high * _LOWER[0], across[1], y0 + high * _LOWER[1]]
    points = detection.keypoints
    if points is None or detection.joint_set != "coco17":
        return upper, lower
    least = 0.15 * high
    trunk = _around(points[[*_SHOULDERS, *_HIPS]], least)
    thighs = _around(points[[*_HIPS, *_KNEES]], least)
    return (upper if trunk is None else trunk), (lower if thighs is None else thighs)


def _around(points, least):
    """Box of keypoints, of a side of ``least`` at least; None where fewer than 3 are found."""
    known = points[points[:, 2] >= _LEAST_CONFIDENCE, :2]
    if len(known) < 3:
        return None
    low, high = known.min(0), known.max(0)
    middle, half = (low + high) / 2, np.maximum((high - low) / 2, least / 2)
    return np.concatenate([middle - half, middle + half])


def _patch(image, region):
    height, width = image.shape[:2]
    x0, y0 = np.clip(np.floor(region[:2]).astype(int), 0, [width - 1, height - 1])
    x1, y1 = np.clip(np.ceil(region[2:]).astype(int), [x0 + 1, y0 + 1], [width, height])
    patch = image[y0:y1, x0:x1]
    side = (min(_SIDE, patch.shape[1]), min(_SIDE, patch.shape[0]))
    return cv2.resize(patch, side, interpolation=cv2.INTER_AREA)


def _histogram(patch):
    hsv = cv2.cvtColor(patch, cv2.COLOR_RGB2HSV).reshape(-1, 3).astype(np.int64)
    grey = hsv[:, 1] < _LEAST_SATURATION
    hues = hsv[~grey, 0] * _HUES // 180
    shades = _HUES + hsv[grey, 2] * _SHADES // 256
    counts = np.bincount(np.concatenate([hues, shades]), minlength=_HUES + _SHADES)
    return counts / max(1, counts.sum())
