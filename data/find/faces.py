"""Blurs the faces of an image: those of everybody who is found in it.

For privacy, so a head seen from behind is blurred too, and where the network saw no face the top
of the person's box is.
"""

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from data.find.detection import Detection
from data.format.joint_sets import FACE5, find_joint_set

CONFIDENT = 0.2
HEAD_OF_SHOULDERS = 0.55  # radius of a head over the distance of the shoulders
HEAD_OF_FACE = 1.0  # radius over the distance of the farthest two points of the face
HEAD_OF_BOX = 0.09  # least radius over the longer side of the person's box
MARGIN = 1.25
CELLS = 4  # what is left of a blurred head: cells across


def find_heads(detections: Sequence[Detection]) -> np.ndarray:
    """(n, 3) x, y, radius of the heads, in pixels, a little too large rather than too small."""
    heads = [_head_of(found) for found in detections]
    return np.array(heads, np.float64).reshape(-1, 3)


def _head_of(found: Detection) -> tuple[float, float, float]:
    x0, y0, x1, y1 = np.asarray(found.box, np.float64).tolist()
    least = HEAD_OF_BOX * max(x1 - x0, y1 - y0) / 2
    face = _points(found, FACE5)
    shoulders = _points(found, ("left_shoulder", "right_shoulder"))
    width = float(np.linalg.norm(shoulders[0] - shoulders[1])) if len(shoulders) == 2 else 0.0
    if len(face):
        spread = float(np.linalg.norm(face[:, None] - face[None], axis=-1).max())
        radius = max(HEAD_OF_FACE * spread, HEAD_OF_SHOULDERS * width, least)
        x, y = face.mean(0).tolist()
    elif width:
        radius = max(HEAD_OF_SHOULDERS * width, least)
        x, y = shoulders.mean(0).tolist()
        y -= radius
    else:
        radius = max(0.3 * min(x1 - x0, y1 - y0), least)
        x, y = (x0 + x1) / 2, y0 + radius
    return x, y, MARGIN * radius


def _points(found: Detection, names: Sequence[str]) -> np.ndarray:
    """(n, 2) of the named keypoints that were found."""
    if found.keypoints is None:
        return np.zeros((0, 2))
    order = find_joint_set(found.joint_set).joints
    rows = [found.keypoints[order.index(name)] for name in names if name in order]
    return np.array([row[:2] for row in rows if row[2] >= CONFIDENT], np.float64).reshape(-1, 2)


def blur_heads(image: np.ndarray, heads: np.ndarray) -> np.ndarray:
    """A copy of the image whose heads are a few smooth cells each.

    Args:
        image: (H, W, 3) uint8.  heads: (n, 3) x, y, radius in pixels.
    """
    image = image.copy()
    height, width = image.shape[:2]
    for x, y, radius in heads:
        x0, y0 = max(0, int(x - radius)), max(0, int(y - radius))
        x1, y1 = min(width, int(np.ceil(x + radius))), min(height, int(np.ceil(y + radius)))
        if x1 <= x0 or y1 <= y0:
            continue
        part = image[y0:y1, x0:x1]
        cells = cv2.resize(part, (CELLS, CELLS), interpolation=cv2.INTER_AREA)
        smooth = cv2.resize(cells, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR)
        columns, rows = np.arange(x0, x1) + 0.5 - x, np.arange(y0, y1) + 0.5 - y
        inside = rows[:, None] ** 2 + columns[None] ** 2 <= radius * radius
        part[inside] = smooth[inside]
    return image


BlurFaces = Callable[[np.ndarray, Sequence[Detection]], np.ndarray]


def open_blur() -> BlurFaces:
    """A function (image, detections known already) -> image with all faces blurred.

    Everybody who is found in the whole image is blurred, beside those who are known.

    Raises:
        UserError: the finder or its networks are not installed.
    """
    from data.find.finder import open_finder  # an extra

    finder = open_finder(masks=False, hands=False)

    def blur(image: np.ndarray, known: Sequence[Detection]) -> np.ndarray:
        return blur_heads(image, find_heads([*known, *finder.find(image)]))

    return blur
