"""What a person's clothes look like, and how sharp they are in the image."""

import cv2
import numpy as np

from data.find.detection import Detection

BINS = (12, 8, 8)  # of hue, saturation and value
SPREAD_BINS = 1.2  # by which a change of light moves saturation and value
PARTS = 2  # above the hips and below
CLOTHES = (PARTS, int(np.prod(BINS)))  # shape of a description
SURE = 0.2  # least confidence of a keypoint that is used
SEEN_PX = 96  # longer side of the box that sharpness is measured at


def part_boxes(person: Detection) -> tuple[np.ndarray, np.ndarray]:
    """Return the (4,) boxes of the torso and of the thighs, by keypoints where they are sure."""
    x0, y0, x1, y1 = person.box
    width, height = x1 - x0, y1 - y0
    points = person.keypoints
    if points is not None and person.joint_set == "coco17":
        torso = points[[5, 6, 11, 12]]
        if (torso[:, 2] >= SURE).all() and np.ptp(torso[:, 1]) > 4:
            left, top = torso[:, :2].min(0)
            right, bottom = torso[:, :2].max(0)
            tall = bottom - top
            spare = max(0.0, 0.3 * tall - (right - left)) / 2  # seen from the side
            left, right = left - spare, right + spare
            return (
                np.array([left, top, right, bottom]),
                np.array([left, bottom, right, min(bottom + 0.8 * tall, y1)]),
            )
    middle = np.array([x0 + 0.25 * width, 0.0, x1 - 0.25 * width, 0.0])
    above = middle + [0, y0 + 0.2 * height, 0, y0 + 0.5 * height]
    below = middle + [0, y0 + 0.55 * height, 0, y0 + 0.8 * height]
    return above, below


def describe_clothes(image: np.ndarray, person: Detection) -> np.ndarray:
    """Return (2, 768) histograms of colour, of the upper and the lower body, each of sum 1.

    A part of which nothing is in the image is all zeros.

    Args:
        image: (H, W, 3) uint8 RGB that the person's box is in.
    """
    out = np.zeros(CLOTHES)
    for part, box in enumerate(part_boxes(person)):
        x0, y0 = np.maximum(box[:2], 0).astype(int)
        x1, y1 = np.ceil(np.minimum(box[2:], image.shape[1::-1])).astype(int)
        if x1 - x0 < 3 or y1 - y0 < 3:
            continue
        small = cv2.resize(image[y0:y1, x0:x1], (24, 32), interpolation=cv2.INTER_AREA)
        hsv = cv2.cvtColor(small, cv2.COLOR_RGB2HSV)
        counts = cv2.calcHist([hsv], [0, 1, 2], None, BINS, [0, 180, 0, 256, 0, 256]).ravel()
        # Neighbouring values share their counts, so that a change of light does not empty a bin.
        cube = counts.reshape(BINS)
        cube = cube + 0.5 * (np.roll(cube, 1, 0) + np.roll(cube, -1, 0))
        for hue in range(BINS[0]):
            cube[hue] = cv2.GaussianBlur(cube[hue], (0, 0), SPREAD_BINS)
        out[part] = cube.ravel() / cube.sum()
    return out


def compare_clothes(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Hellinger distance of two descriptions, 0 to 1, over the parts that both have.

    0.5 where they have none in common.
    """
    both = (a.sum(1) > 0) & (b.sum(1) > 0)
    if not both.any():
        return 0.5
    shared = np.sqrt(a[both] * b[both]).sum(1) / np.sqrt(a[both].sum(1) * b[both].sum(1))
    return float(np.sqrt(np.maximum(0.0, 1 - shared)).mean())


def measure_sharpness(image: np.ndarray, box: np.ndarray) -> float:
    """Return the standard deviation of the Laplacian within a box over that of its grey levels.

    The box is scaled to one size first, so that near and far people compare. 0 where less than 8
    pixels of the box are in the image.
    """
    x0, y0 = np.maximum(box[:2], 0).astype(int)
    x1, y1 = np.minimum(box[2:], image.shape[1::-1]).astype(int)
    if x1 - x0 < 8 or y1 - y0 < 8:
        return 0.0
    scale = min(1.0, SEEN_PX / max(x1 - x0, y1 - y0))
    size = max(4, round((x1 - x0) * scale)), max(4, round((y1 - y0) * scale))
    grey = cv2.cvtColor(image[y0:y1, x0:x1], cv2.COLOR_RGB2GRAY)
    grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    return float(cv2.Laplacian(grey, cv2.CV_32F).std() / (grey.std() + 1.0))
