"""Keypoints that jump away for a frame or two and come back: a finder's slips."""

import numpy as np

NEAR_S = 0.15  # about an instant, on either side, what it is compared with
LEAST = 2  # instants on each side that are compared with: of a slow video there are none
# Of the person's size, by which most keypoints are off at once. Limbs that move fast move alone;
# whoever moves as a whole is not back within a tenth of a second.
JUMP = 0.1


def find_jumps(
    points: np.ndarray, times_s: np.ndarray, sizes: np.ndarray, sure: float
) -> np.ndarray:
    """Return (T,) bool, in which instants keypoints are somewhere else than before and after.

    Args:
        points: (T, P, 3) x, y in pixels and confidence.  times_s: (T,).
        sizes: (T,) pixels, of the person.  sure: keypoints of a lower confidence say nothing.
    """
    places = np.where(points[..., 2:] >= sure, points[..., :2], np.nan)
    out = np.zeros(len(points), bool)
    for row, time_s in enumerate(times_s):
        since = times_s - time_s
        before = np.flatnonzero((since < 0) & (since >= -NEAR_S))
        after = np.flatnonzero((since > 0) & (since <= NEAR_S))
        # As many on either side: who moves evenly is in their middle.
        count = min(len(before), len(after))
        if count < LEAST:
            continue
        near = (before[-count:], after[:count])
        size = float(np.median(sizes[np.concatenate(near)]))
        # From where they are before, after, and half-way between the two.
        sides = [_find_middle(places[which]) for which in near]
        apart = [_measure_apart(places[row], one) for one in (*sides, (sides[0] + sides[1]) / 2)]
        out[row] = min(apart) > JUMP * size
    return out


def _find_middle(places: np.ndarray) -> np.ndarray:
    """(P, 2) median of places (K, P, 2), NaN of points that are never known."""
    known = np.isfinite(places[..., 0]).any(0)
    out = np.full(places.shape[1:], np.nan)
    out[known] = np.nanmedian(places[:, known], 0)
    return out


def _measure_apart(places: np.ndarray, others: np.ndarray) -> float:
    """Median distance of points (P, 2) that are known in both; 0 where there are none."""
    apart = np.linalg.norm(places - others, axis=1)
    apart = apart[np.isfinite(apart)]
    return float(np.median(apart)) if len(apart) else 0.0
