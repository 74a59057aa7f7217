"""What the errors of the people who were matched say of the calibration, in words."""

from collections.abc import Mapping, Sequence

import numpy as np

from data.sources.cameras import Camera
from data.sources.multicam.affinity import errors_of_pairs, pair_up, view_pairs
from data.sources.multicam.associate import NOBODY
from data.sources.multicam.sightings import Sightings

USUAL = 0.04  # of a person's box: what a finder's keypoints miss by in well calibrated cameras
_TIMES = 2.5
_LEAST_COMPARED = 10


def measure_pair_errors(
    identities: Sequence[np.ndarray], sightings: Sequence[Sightings], cameras: Sequence[Camera]
) -> dict[tuple[int, int], float]:
    """Return {(view a, view b): median epipolar error of one person in both}, share of the box."""
    out = {}
    for a, b in view_pairs(len(sightings)):
        rows = pair_up(sightings[a], sightings[b])
        who = identities[a][rows[:, 0]]
        rows = rows[(who == identities[b][rows[:, 1]]) & (who != NOBODY)]
        errors = errors_of_pairs(sightings[a], sightings[b], rows, (cameras[a], cameras[b]))
        errors = errors[np.isfinite(errors)]
        if len(errors) >= _LEAST_COMPARED:
            out[a, b] = float(np.median(errors))
    return out


def measure_best_errors(
    sightings: Sequence[Sightings], cameras: Sequence[Camera]
) -> dict[tuple[int, int], float]:
    """Return {(view a, view b): median over instants of the error of the two who fit best}.

    Of an instant one pair counts, for the others may be people whom one camera alone shows.
    """
    out = {}
    for a, b in view_pairs(len(sightings)):
        rows = pair_up(sightings[a], sightings[b])
        errors = errors_of_pairs(sightings[a], sightings[b], rows, (cameras[a], cameras[b]))
        known = np.isfinite(errors)
        instants, place = np.unique(sightings[a].instants[rows[known, 0]], return_inverse=True)
        best = np.full(len(instants), np.inf)
        np.minimum.at(best, place, errors[known])
        if len(best) >= _LEAST_COMPARED:
            out[a, b] = float(np.median(best))
    return out


def tell_calibration(errors: dict[tuple[int, int], float], names: Sequence[str]) -> list[str]:
    """Return sentences about cameras whose keypoints miss the others' by too much; [] if none does.

    Args:
        errors: of ``measure_best_errors`` or ``measure_pair_errors``.
    """
    told = []
    if len(names) == 2:
        error = errors.get((0, 1), 0.0)
        if error > USUAL:
            told.append(
                f"cameras {names[0]} and {names[1]} miss each other by {100 * error:.1f} % of a "
                f"person's box, up to {100 * USUAL:.0f} % is usual: the calibration, or which "
                f"video is whose, or the synchronisation is wrong"
            )
        return told
    for view, name in enumerate(names):
        own = [error for pair, error in errors.items() if view in pair]
        rest = [error for pair, error in errors.items() if view not in pair]
        if not own or not rest:
            continue
        miss, usual = float(np.median(own)), float(np.median(rest))
        if miss > max(USUAL, _TIMES * usual):
            told.append(
                f"camera {name} misses the others by {100 * miss:.1f} % of a person's box, they "
                f"each other by {100 * usual:.1f} %: its calibration, or its video, is of "
                f"something else"
            )
    if not told and errors and np.median(list(errors.values())) > USUAL:
        told.append(
            f"the cameras miss each other by {100 * np.median(list(errors.values())):.1f} % of a "
            f"person's box, up to {100 * USUAL:.0f} % is usual: the calibration, or which video is "
            f"whose, or the synchronisation is wrong"
        )
    return told


def tell_strangers(
    best: Mapping[tuple[int, int], float],
    matched: Mapping[tuple[int, int], float],
    names: Sequence[str],
) -> list[str]:
    """Return a sentence where most pairs of cameras show people at once, but no common one.

    Args:
        best: of ``measure_best_errors``.  matched: of ``measure_pair_errors``.
    """
    apart = [pair for pair in best if pair not in matched]
    if 2 * len(apart) <= len(best):
        return []
    named = ", ".join(f"{names[a]}/{names[b]}" for a, b in apart)
    return [
        f"{len(apart)} of {len(best)} pairs of cameras show people at the same instants, but "
        f"nobody in both ({named}): unless they look at different places, the calibration, or "
        f"which video is whose, is wrong"
    ]
