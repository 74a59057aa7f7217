"""The hands of people who are known across cameras."""

from collections.abc import Sequence

import numpy as np

from data.find.detection import Detection, HandDetection
from data.sources.cameras import undistort_pixels
from data.sources.multicam.boxes import ideal_box
from data.sources.multicam.people import Found
from data.sources.multicam.rays import epipolar_distances, fundamental_matrix, median_of_points
from data.sources.multicam.sight import Sight
from data.sources.multicam.views import View

# The points of one hand in two cameras miss each other by a tenth of its box; those of a left and a
# right hand, taken for one, by more than the whole.
_MISS = 0.35
_LEAST_CONFIDENCE = 0.3


def sight_hands(person: Found, side: str, views: Sequence[View]) -> dict[int, list[Sight]]:
    """Return {instant: Sights} of one hand of a person.

    Where a camera takes the other hand for it, the cameras disagree; then those are left out that
    miss most of the others.

    Args:
        side: "left" or "right".
    """
    out: dict[int, list[Sight]] = {}
    for instant, by_view in person.seen.items():
        hands = {view: found.hands[side] for view, found in by_view.items() if side in found.hands}
        kept = agreeing_hands(hands, views)
        if kept:
            out[instant] = [_sight(views[view], side, hands[view]) for view in kept]
    return out


def agreeing_hands(hands: dict[int, HandDetection], views: Sequence[View]) -> list[int]:
    """Return the views whose hands are one in space, sorted; all where nothing can be compared.

    Args:
        hands: {view: hand}.
    """
    left = sorted(hands)
    misses = {}
    for place, a in enumerate(left):
        for b in left[place + 1 :]:
            misses[a, b] = misses[b, a] = _miss(hands[a], views[a], hands[b], views[b])
    while len(left) > 1:
        against = {
            a: sum(misses[a, b] > _MISS for b in left if b != a and np.isfinite(misses[a, b]))
            for a in left
        }
        worst = max(left, key=lambda view: (against[view], -hands[view].score))
        if not against[worst]:
            break
        left.remove(worst)
    return left


def _miss(hand, view, other, its_view):
    points, side = _points(hand, view)
    others, other_side = _points(other, its_view)
    one, two = view.camera, its_view.camera
    F = fundamental_matrix(one.K, one.Rt, two.K, two.Rt)
    found = epipolar_distances(points, np.array(side), others, np.array(other_side), F)
    return float(median_of_points(found))


def _points(hand, view):
    """(21, 2) undistorted pixels, NaN where not found, and the box's longer side."""
    side = max(hand.box[2:] - hand.box[:2])
    if hand.keypoints is None:
        return np.full((21, 2), np.nan), side
    known = hand.keypoints[:, 2] >= _LEAST_CONFIDENCE
    flat = undistort_pixels(view.camera, hand.keypoints[:, :2])
    return np.where(known[:, None], flat, np.nan), side


def _sight(view, side, hand):
    found = Detection(hand.box, hand.score, hands={side: hand})
    return Sight(view, ideal_box(view.camera, hand.box), found)
