"""Whether cameras show one instant at once, told from how people move.

Two cameras that are a few frames apart see a moving person in two postures, and the keypoints miss
the epipolar lines. For each pair of cameras the error is a curve over the shift between them; the
offsets of all cameras are those with the least sum over the pairs. No association of people is
needed: each person of one camera is compared with whoever fits best in the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.sources.cameras import Camera
from data.sources.multicam.affinity import distances_of_pairs, pair_up, view_pairs
from data.sources.multicam.sightings import Sightings

_INSTANTS = 120  # that are compared at each shift
_CAP = 0.1  # distances above are of somebody whom the other camera does not show
_LEAST_POINTS = 4
_LEAST_COMPARED = 15
# The error must rise by this share of itself, and by this much, within the shifts that are tried:
# else nobody moves enough to tell one shift from another.
_LEAST_RISE, _LEAST_RISE_SHARE = 0.003, 0.2
_LEAST_GAIN_SHARE = 0.05
_NO_FIT = 0.06  # errors_now: real takes have 0.02 to 0.03, two swapped videos of four 0.07
_TOLD = 1.5  # frames; less is within the noise of keypoints


@dataclass
class Synchrony:
    """How late each camera is.

    Attributes:
        offsets: (C,) instants by which a camera is late: what the others show at instant i, it
            shows at i + offset. NaN where nothing tells. Fractions are of the curve's parabola.
        errors_now, errors_then: (C,) root mean square error with the other cameras, share of the
            box, where the others are shifted by their offsets, and this one not or too.
    """

    offsets: np.ndarray
    errors_now: np.ndarray
    errors_then: np.ndarray

    @property
    def whole(self) -> np.ndarray:
        """(C,) int, the nearest whole instants; 0 where nothing tells, or less than is told."""
        known = np.nan_to_num(self.offsets)
        return np.where(np.abs(known) >= _TOLD, np.rint(known), 0).astype(int)


def measure_shift_curve(
    a: Sightings, b: Sightings, cameras: tuple[Camera, Camera], most: int
) -> np.ndarray:
    """Return (2 most + 1,) mean squared errors of two views for b later by -most to most instants.

    Squared, as a shift moves the error by its product with the speed: hands and feet tell most. NaN
    where too few instants can be compared.
    """
    stride = max(1, len(np.unique(a.instants)) // _INSTANTS)
    curve = np.full(2 * most + 1, np.nan)
    for n, shift in enumerate(range(-most, most + 1)):
        rows = pair_up(a, b, stride, shift)
        squares = np.minimum(distances_of_pairs(a, b, rows, cameras), _CAP) ** 2
        count = np.isfinite(squares).sum(1)
        known = count >= _LEAST_POINTS
        best = np.full(len(a), np.inf)
        np.minimum.at(best, rows[known, 0], np.nansum(squares[known], 1) / count[known])
        shown = np.bincount(rows[:, 0], minlength=len(a))  # people of b at the same instant
        compared = _best_matched(best, a.instants, shown)
        if len(compared) >= _LEAST_COMPARED:
            curve[n] = compared.mean()
    return curve


def _best_matched(best, instants, shown):
    """The least errors of each instant, as many as people can be in both views."""
    known = np.flatnonzero(np.isfinite(best))
    known = known[np.lexsort([best[known], instants[known]])]
    _, starts, counts = np.unique(instants[known], return_index=True, return_counts=True)
    rank = np.arange(len(known)) - np.repeat(starts, counts)
    return best[known[rank < shown[known]]]


def estimate_synchrony(
    sightings: Sequence[Sightings], cameras: Sequence[Camera], most: int
) -> Synchrony:
    """Return how late each camera is, from the motion of the people that they see.

    Args:
        most: the largest shift between two cameras that is tried, in instants.
    """
    count = len(sightings)
    curves = {}
    for a, b in view_pairs(count):
        curve = measure_shift_curve(sightings[a], sightings[b], (cameras[a], cameras[b]), most)
        if np.isfinite(curve).mean() > 0.5:
            # A shift that leaves too few instants is as bad as the worst.
            curves[a, b] = np.where(np.isfinite(curve), curve, np.nanmax(curve))
    telling = {pair: curve for pair, curve in curves.items() if _tells(curve)}
    offsets, known = _spread_offsets(count, telling, most)
    offsets = _descend(offsets, known, telling, most)
    offsets -= _common_clock(offsets[known]) if known.any() else 0
    fine = np.array([_fraction(v, offsets, telling, most) for v in range(count)])
    now = np.array([_mean_error(v, _with(offsets, v, 0), curves, most) for v in range(count)])
    then = np.array([_mean_error(v, offsets, curves, most) for v in range(count)])
    # An offset that makes little difference is none.
    slight = (offsets != 0) & ~(then < (1 - _LEAST_GAIN_SHARE) * now)
    fine = np.where(slight, 0.0, offsets + fine)
    return Synchrony(np.where(known, fine, np.nan), now, then)


def _tells(curve):
    least = np.sqrt(curve.min())
    rise = np.sqrt(np.percentile(curve, 90)) - least
    return rise > max(_LEAST_RISE, _LEAST_RISE_SHARE * least)


def _spread_offsets(count, curves, most):
    """Offsets along a tree of the sharpest pairs, and which cameras it reaches."""
    offsets, known = np.zeros(count, int), np.zeros(count, bool)
    sharp = {pair: float(np.median(c) - c.min()) for pair, c in curves.items()}
    if not sharp:
        return offsets, known
    known[max(sharp, key=lambda pair: sharp[pair])[0]] = True
    while True:
        border = [pair for pair in sharp if known[pair[0]] != known[pair[1]]]
        if not border:
            return offsets, known
        a, b = max(border, key=lambda pair: sharp[pair])
        shift = int(curves[a, b].argmin()) - most
        if known[a]:
            offsets[b] = offsets[a] + shift
        else:
            offsets[a] = offsets[b] - shift
        known[[a, b]] = True


def _descend(offsets, known, curves, most):
    """Offsets after moving one camera after the other to where its pairs agree best."""
    offsets = offsets.copy()
    for _ in range(10):
        before = offsets.copy()
        for view in np.flatnonzero(known):
            tries = offsets[view] + np.arange(-most, most + 1)
            offsets[view] = tries[
                int(
                    np.argmin(
                        [_total(view, _with(offsets, view, value), curves, most) for value in tries]
                    )
                )
            ]
        if (offsets == before).all():
            break
    return offsets


def _with(offsets, view, value):
    changed = offsets.copy()
    changed[view] = value
    return changed


def _total(view, offsets, curves, most):
    """Sum of the curves that a view takes part in."""
    total = 0.0
    for (a, b), curve in curves.items():
        if view in (a, b):
            at = offsets[b] - offsets[a] + most
            total += curve[at] if 0 <= at < len(curve) else curve.max()
    return total


def _mean_error(view, offsets, curves, most):
    taking_part = sum(1 for pair in curves if view in pair)
    if not taking_part:
        return np.nan
    return float(np.sqrt(_total(view, offsets, curves, most) / taking_part))


def _common_clock(values):
    """The offset that most cameras have, to a frame; of equal ones the most central."""
    apart = np.abs(values[:, None] - values)
    return values[int(np.lexsort([apart.sum(1), -(apart <= 1).sum(1)])[0])]


def _fraction(view, offsets, curves, most):
    """What a parabola through the three middle values adds to a camera's offset."""
    left, middle, right = (
        _total(view, _with(offsets, view, offsets[view] + step), curves, most)
        for step in (-1, 0, 1)
    )
    bend = left - 2 * middle + right
    return float(np.clip((left - right) / (2 * bend), -0.5, 0.5)) if bend > 1e-12 else 0.0


def tell_synchrony(found: Synchrony, names: Sequence[str]) -> list[str]:
    """Return sentences for the log: one for each camera that is late, or that all is well."""
    told = []
    for name, offset, now, then in zip(
        names, found.offsets, found.errors_now, found.errors_then, strict=True
    ):
        if np.isfinite(offset) and abs(offset) >= _TOLD:
            late = "late" if offset > 0 else "early"
            told.append(
                f"camera {name} seems {abs(offset):.1f} frames {late} (epipolar error "
                f"{100 * now:.1f} % -> {100 * then:.1f} % of a person's box)"
            )
    unknown = [n for n, offset in zip(names, found.offsets, strict=True) if not np.isfinite(offset)]
    if len(unknown) == len(names):
        told.append(
            "nobody moves enough, or is seen by two cameras, to tell if they are synchronous"
        )
    elif unknown:
        told.append(f"whether {', '.join(unknown)} are synchronous is not known: too little moves")
    if not told and np.nanmean(found.errors_now) > _NO_FIT:
        told.append(
            f"no shift makes the cameras fit each other (epipolar error "
            f"{100 * np.nanmean(found.errors_now):.1f} % of a person's box), so nothing tells if "
            f"they are synchronous"
        )
    elif not told:
        told.append(
            f"the cameras are synchronous to a frame (epipolar error "
            f"{100 * np.nanmean(found.errors_now):.1f} % of a person's box)"
        )
    return told
