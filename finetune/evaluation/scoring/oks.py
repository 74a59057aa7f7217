"""Average precision and recall by object keypoint similarity, as pycocotools computes them.

The similarity of all pairs of an image is one array operation, and so is a detection's choice at
all ten thresholds. Source: cocodataset/cocoapi cocoeval.py (Lin et al., COCO, ECCV 2014).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
DETECTIONS_MAX = 20  # an image
AREAS = ((0.0, 1e10), (32.0**2, 96.0**2), (96.0**2, 1e10))  # all, medium, large; square pixels
ALMOST_ONE = 1 - 1e-10


@dataclass
class Objects:
    """The labelled people of one image and category, in the order of the file.

    Attributes:
        ids: (G,).  points: (G, K, 2) pixels.  visible: (G, K) bool.  boxes: (G, 4) x, y, w, h.
        areas: (G,) square pixels.  crowd: (G,) bool.  ignored: (G,) bool.
    """

    ids: np.ndarray
    points: np.ndarray
    visible: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    ignored: np.ndarray


@dataclass
class Detections:
    """The detected people of one image and category, best first.

    Attributes:
        points: (D, K, 2) pixels.  scores: (D,).  areas: (D,) square pixels.
    """

    points: np.ndarray
    scores: np.ndarray
    areas: np.ndarray


@dataclass
class Matches:
    """What became of an image's detections in one range of areas.

    Attributes:
        scores: (D,).  hit: (T, D) bool, matched.  ignored: (T, D) bool.
        wanted: number of labelled people that count.
    """

    scores: np.ndarray
    hit: np.ndarray
    ignored: np.ndarray
    wanted: int


def similarities(found: Detections, true: Objects, sigmas: np.ndarray) -> np.ndarray:
    """Return (D, G) similarities.

    To a person without a labelled keypoint it is measured how far a detection's keypoints lie
    outside of a box three times as large as the person's.

    Args:
        sigmas: (K,) of the keypoints.
    """
    offsets = found.points[:, None] - true.points[None]
    low = true.boxes[:, :2] - true.boxes[:, 2:]
    high = true.boxes[:, :2] + true.boxes[:, 2:] * 2
    zero = np.zeros(())
    outside = np.maximum(zero, low[:, None] - found.points[:, None])
    outside = outside + np.maximum(zero, found.points[:, None] - high[:, None])
    known = np.any(true.visible, axis=1, keepdims=True)  # (G, 1)
    apart = np.where(known[None, :, :, None], offsets, outside)
    squared = (apart**2).sum(-1)
    exponents = squared / (sigmas * 2) ** 2 / (true.areas + np.spacing(1))[None, :, None] / 2
    counted = true.visible | ~known
    return (np.exp(-exponents) * counted).sum(-1) / counted.sum(-1)


def match_image(
    found: Detections, true: Objects, oks: np.ndarray, area: tuple[float, float]
) -> Matches:
    """Return which detections are hits at each threshold.

    The best detection chooses first, the most similar person that is left; only where there is
    none, one who does not count: too small or large, a crowd, or without keypoints.

    Args:
        oks: (D, G).  area: of the people that count, square pixels.
    """
    low, high = area
    ignored = true.ignored | (true.areas < low) | (true.areas > high)
    count = len(found.scores)
    hit = np.zeros((len(THRESHOLDS), count), bool)
    skipped = np.zeros((len(THRESHOLDS), count), bool)
    if len(true.ids) and count:
        taken = np.zeros((len(THRESHOLDS), len(true.ids)), bool)
        least = np.minimum(THRESHOLDS, ALMOST_ONE)[:, None]
        rows = np.arange(len(THRESHOLDS))
        for place in range(count):
            free = (oks[place] >= least) & (~taken | true.crowd)
            near = free & ~ignored
            near = np.where(near.any(1, keepdims=True), near, free & ignored)
            # Of equal ones the last, as in the reference's loop.
            order = np.where(near, oks[place], -1.0)[:, ::-1]
            chosen = order.shape[1] - 1 - order.argmax(1)
            some = near.any(1)
            taken[rows[some], chosen[some]] = True
            # The reference stores the person's id, so that one of id 0 counts as no match.
            hit[:, place] = some & (true.ids[chosen] != 0)
            skipped[:, place] = some & ignored[chosen]
    outside = (found.areas < low) | (found.areas > high)
    return Matches(found.scores, hit, skipped | (~hit & outside), int((~ignored).sum()))


def summarise_matches(images: Sequence[Matches]) -> tuple[np.ndarray, np.ndarray] | None:
    """Return (T, 101) precisions and (T,) recalls of all images, or None where nobody counts."""
    wanted = sum(image.wanted for image in images)
    if not wanted:
        return None
    scores = np.concatenate([image.scores for image in images])
    order = np.argsort(-scores, kind="stable")
    hit = np.concatenate([image.hit for image in images], 1)[:, order]
    counted = ~np.concatenate([image.ignored for image in images], 1)[:, order]
    right, wrong = np.cumsum(hit & counted, 1), np.cumsum(~hit & counted, 1)
    precisions = np.zeros((len(THRESHOLDS), len(RECALLS)))
    recalls = np.zeros(len(THRESHOLDS))
    if not len(scores):
        return precisions, recalls
    for row in range(len(THRESHOLDS)):
        recall = right[row] / wanted
        precision = right[row] / (wrong[row] + right[row] + np.spacing(1))
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        places = np.searchsorted(recall, RECALLS, side="left")
        inside = places < len(scores)
        precisions[row, inside] = envelope[places[inside]]
        recalls[row] = recall[-1]
    return precisions, recalls


def average(
    categories: Sequence[Sequence[tuple[Detections, Objects]]], sigmas: np.ndarray
) -> dict[str, float]:
    """Return AP, AP50, AP75, APm, APl and the same of recall, -1 where nobody counts.

    Args:
        categories: for each, the images that have a detection or a labelled person, by id.
        sigmas: (K,).
    """
    precisions: list[list[np.ndarray]] = [[] for _ in AREAS]
    recalls: list[list[np.ndarray]] = [[] for _ in AREAS]
    for images in categories:
        pairs = [(found, true, similarities(found, true, sigmas)) for found, true in images]
        for number, area in enumerate(AREAS):
            matches = [match_image(found, true, oks, area) for found, true, oks in pairs]
            both = summarise_matches(matches)
            if both is not None:
                precisions[number].append(both[0])
                recalls[number].append(both[1])
    out: dict[str, float] = {}
    for name, parts in (("AP", precisions), ("AR", recalls)):
        out[name] = _mean(parts[0])
        out[f"{name}50"] = _mean([part[0] for part in parts[0]])
        out[f"{name}75"] = _mean([part[5] for part in parts[0]])
        out[f"{name}m"], out[f"{name}l"] = _mean(parts[1]), _mean(parts[2])
    return out


def _mean(parts: Sequence[np.ndarray]) -> float:
    return float(np.mean(parts)) if parts else -1.0
