"""Each detection against the skeleton of its person in space, instant by instant."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.find.assignment import assign_rows
from data.sources.cameras import Camera
from data.sources.multicam.associate import NOBODY
from data.sources.multicam.rays import LEAST_POINTS, triangulate_many
from data.sources.multicam.sightings import Sightings
from engine.geometry import project

AGREE = 0.06  # a view that misses the others' skeleton by more (share of the box) is doubted
REFUSE = 0.12  # and left out above this where nobody else fits it
_BRIDGE_S = 0.25  # a skeleton serves the instants around it that have none for so long


@dataclass
class Skeletons:
    """One person's triangulated keypoints.

    Attributes:
        instants: (T,) int, sorted.
        points: (T, J, 3) metres, NaN where not known.
        trusted: (C, T) bool, the views that they were made from.
        errors: (C, T) how far each view's detection is from them, share of its box; NaN where the
            view has none.
    """

    instants: np.ndarray
    points: np.ndarray
    trusted: np.ndarray
    errors: np.ndarray


def build_skeletons(
    rows: np.ndarray,
    instants: np.ndarray,
    sightings: Sequence[Sightings],
    cameras: Sequence[Camera],
) -> Skeletons:
    """Return one person's Skeletons; the view that disagrees most is left out until all agree.

    Args:
        rows: (C, T) row of each view's sightings at each instant, -1: none.  instants: (T,).
    """
    points, weights, sides = _gather(rows, sightings)
    Ks, Rts = np.stack([c.K for c in cameras]), np.stack([c.Rt for c in cameras])
    trusted = rows >= 0
    while True:
        found = _triangulate(points, weights * trusted[..., None], Ks, Rts)
        errors = _reprojection(found, points, sides, Ks, Rts)
        doubt = np.where(trusted & np.isfinite(errors), errors, -1.0)
        drop = (doubt.max(0) > AGREE) & (trusted.sum(0) >= 3)
        if not drop.any():
            break
        trusted[doubt.argmax(0)[drop], np.flatnonzero(drop)] = False
    # Two views that disagree say nothing: which of them is wrong is not known.
    split = (np.where(trusted, np.nan_to_num(errors), 0).max(0) > AGREE) & (trusted.sum(0) == 2)
    found[split] = np.nan
    return Skeletons(instants, found, trusted & ~split, np.where(split, np.nan, errors))


def _gather(rows, sightings):
    """(C, T, J, 2) pixels, (C, T, J) weights, (C, T) sides of the chosen rows."""
    joints = sightings[0].points.shape[1]
    points = np.full((*rows.shape, joints, 2), np.nan)
    weights, sides = np.zeros((*rows.shape, joints)), np.full(rows.shape, np.nan)
    for view, seen in enumerate(sightings):
        have = rows[view] >= 0
        points[view, have] = seen.points[rows[view, have]]
        weights[view, have] = seen.weights[rows[view, have]]
        sides[view, have] = seen.sides[rows[view, have]]
    return points, weights, sides


def _triangulate(points, weights, Ks, Rts):
    views, count, joints = weights.shape
    flat = points.reshape(views, count * joints, 2)
    return triangulate_many(flat, weights.reshape(views, -1), Ks, Rts).reshape(count, joints, 3)


def _reprojection(found, points, sides, Ks, Rts):
    """(C, T) median over the joints of the distance in the image, as a share of the box."""
    return np.stack(
        [
            miss_skeletons(found, p, s, K, Rt)
            for p, s, K, Rt in zip(points, sides, Ks, Rts, strict=True)
        ]
    )


def miss_skeletons(
    skeletons: np.ndarray, points: np.ndarray, sides: np.ndarray, K: np.ndarray, Rt: np.ndarray
) -> np.ndarray:
    """Return (T,) how far detections are from skeletons, median over the joints, share of the box.

    NaN where fewer than LEAST_POINTS joints are known to both.

    Args:
        skeletons: (T, J, 3) metres.  points: (T, J, 2) pixels.  sides: (T,) of the boxes.
    """
    at, depth = project(skeletons, K, Rt)
    gaps = np.linalg.norm(at - points, axis=-1) / sides[:, None]
    gaps = np.where(depth > 0, gaps, np.nan)
    known = np.isfinite(gaps).sum(-1) >= LEAST_POINTS
    out = np.full(len(gaps), np.nan)
    if known.any():
        out[known] = np.nanmedian(gaps[known], -1)
    return out


def refine_identities(
    identities: Sequence[np.ndarray],
    sightings: Sequence[Sightings],
    cameras: Sequence[Camera],
    step_s: float,
) -> list[np.ndarray]:
    """Return identities of which each detection was checked against its person's skeleton.

    A detection that another person's skeleton fits far better changes to them; one that misses its
    own by more than REFUSE and fits nobody is left out; one of nobody that fits somebody whom its
    camera does not yet show joins them.

    Args:
        identities: for each view (n,) int, NOBODY: of none.  step_s: seconds between instants.
    """
    skeletons = {
        who: build_skeletons(*_rows_of(who, identities, sightings), sightings, cameras)
        for who in _people(identities)
    }
    reach = max(1, round(_BRIDGE_S / step_s))
    out = []
    for view, (seen, own) in enumerate(zip(sightings, identities, strict=True)):
        misses = {
            who: _miss_rows(seen, found, cameras[view], reach) for who, found in skeletons.items()
        }
        out.append(_decide_view(seen, own, misses))
    return out


def _people(identities):
    return sorted({int(who) for own in identities for who in np.unique(own)} - {NOBODY})


def _rows_of(who, identities, sightings):
    """(C, T) rows and (T,) instants of a person; of two detections at once the surer one."""
    masks = [own == who for own in identities]
    instants = np.unique(
        np.concatenate([s.instants[m] for s, m in zip(sightings, masks, strict=True)])
    )
    rows = np.full((len(sightings), len(instants)), -1)
    for view, (seen, mask) in enumerate(zip(sightings, masks, strict=True)):
        chosen = np.flatnonzero(mask)
        order = np.argsort(seen.weights[chosen].sum(1), kind="stable")
        rows[view, np.searchsorted(instants, seen.instants[chosen[order]])] = chosen[order]
    return rows, instants


def _miss_rows(seen, found, camera, reach):
    """(n,) how far each sighting of a view is from a person's skeleton; NaN where there is none.

    Where an instant has no skeleton, the nearest one within ``reach`` instants serves.
    """
    known = np.flatnonzero(np.isfinite(found.points).all(-1).sum(-1) >= LEAST_POINTS)
    if not len(known) or not len(seen):
        return np.full(len(seen), np.nan)
    have = found.instants[known]
    after = np.clip(np.searchsorted(have, seen.instants), 0, len(have) - 1)
    before = np.clip(after - 1, 0, None)
    nearer = np.abs(have[before] - seen.instants) < np.abs(have[after] - seen.instants)
    nearest = np.where(nearer, before, after)
    near = np.abs(have[nearest] - seen.instants) <= reach
    misses = miss_skeletons(
        found.points[known[nearest]], seen.points, seen.sides, camera.K, camera.Rt
    )
    return np.where(near, misses, np.nan)


def _decide_view(seen, own, misses):
    """(n,) the person of each sighting of one view."""
    out = own.copy()
    if not misses:
        return out
    people = list(misses)
    table = np.stack([misses[who] for who in people])  # (people, n)
    place = {who: n for n, who in enumerate(people)}
    current = np.array(
        [table[place[who], n] if who != NOBODY else np.inf for n, who in enumerate(own.tolist())]
    )
    doubtful = np.nan_to_num(current, nan=0.0) > AGREE
    best = np.min(np.where(np.isfinite(table), table, np.inf), 0, initial=np.inf)
    free = doubtful & ((current > REFUSE) | (best < current / 2))
    if not free.any():
        return out
    out[free] = NOBODY
    for instant in np.unique(seen.instants[free]).tolist():
        rows = np.flatnonzero(seen.instants == instant)
        taken = set(out[rows].tolist())
        able = [n for n, who in enumerate(people) if who not in taken]
        loose = rows[out[rows] == NOBODY]
        costs = np.nan_to_num(table[np.ix_(able, loose)], nan=np.inf)
        for i, j in assign_rows(costs, AGREE):
            out[loose[j]] = people[able[i]]
    return out
