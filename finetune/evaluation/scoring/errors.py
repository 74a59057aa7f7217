"""Distances, shares within a threshold, areas under them, F-scores, accelerations."""

from collections.abc import Sequence

import numpy as np

NUMBERS_AT_ONCE = 2**20


def distances(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return (N, K) distances of (N, K, 3) points."""
    return np.sqrt(((found - true) ** 2).sum(-1))


def share_within(errors: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return (T,) shares of errors that are no larger than each threshold."""
    ordered = np.sort(errors, axis=None)
    return np.searchsorted(ordered, thresholds, side="right") / ordered.size


def share_below(errors: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return (T,) shares of errors that are smaller than each threshold."""
    ordered = np.sort(errors, axis=None)
    return np.searchsorted(ordered, thresholds, side="left") / ordered.size


def area_under(thresholds: np.ndarray, shares: np.ndarray) -> float:
    """Return the mean height of a piecewise linear curve, by trapezoids."""
    widths = np.diff(thresholds)
    heights = (shares[1:] + shares[:-1]) / 2
    return float((widths * heights).sum() / (thresholds[-1] - thresholds[0]))


def nearest_distances(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance of each point to the nearest of the other set.

    Args:
        a: (V, 3).  b: (W, 3).
    Returns:
        (V,) of a's points, (W,) of b's points.
    """
    rows = max(1, NUMBERS_AT_ONCE // max(1, len(b)))
    of_a, of_b = [], np.full(len(b), np.inf)
    for start in range(0, len(a), rows):
        part = a[start : start + rows]
        squared = np.zeros((len(part), len(b)))
        for axis in range(3):
            squared += np.subtract.outer(part[:, axis], b[:, axis]) ** 2
        of_a.append(squared.min(1))
        of_b = np.minimum(of_b, squared.min(0))
    return np.sqrt(np.concatenate(of_a)), np.sqrt(of_b)


def f_scores(found: np.ndarray, true: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """Return (N, T) harmonic means of precision and recall of vertices within each distance.

    0 where both are. Source: Knapitsch et al., Tanks and Temples, 2017; distances have to be
    smaller than the threshold, as in lmb-freiburg/freihand eval.py.

    Args:
        found: (N, V, 3).  true: (N, W, 3), metres.  thresholds: metres.
    """
    limits = np.asarray(thresholds)[:, None]
    out = np.zeros((len(found), len(thresholds)))
    for row, (mine, theirs) in enumerate(zip(found, true, strict=True)):
        of_mine, of_theirs = nearest_distances(mine, theirs)
        precision, recall = (of_mine < limits).mean(1), (of_theirs < limits).mean(1)
        total = precision + recall
        out[row] = 2 * precision * recall / np.where(total > 0, total, 1.0)
    return out


def acceleration_errors(
    found: np.ndarray, true: np.ndarray, sequence: np.ndarray | None
) -> np.ndarray:
    """Return (M,) errors of the joints' accelerations, metres a squared frame.

    The mean over joints of the distance of second differences, at each three frames that follow
    each other in one sequence. Source: mkocabas/VIBE lib/utils/eval_utils.py.

    Args:
        found, true: (N, J, 3).  sequence: (N,) of each frame; None: one.
    """
    if len(found) < 3:
        return np.zeros(0)
    second = (found - true)[:-2] - 2 * (found - true)[1:-1] + (found - true)[2:]
    errors = np.linalg.norm(second, axis=-1).mean(-1)
    if sequence is None:
        return errors
    return errors[(sequence[:-2] == sequence[1:-1]) & (sequence[1:-1] == sequence[2:])]
