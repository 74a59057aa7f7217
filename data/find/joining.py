"""Whole tracks looked at once more: who was who before and after people met or were hidden.

A tracker decides at each frame by what it knows until then. Here each track is taken apart where
somebody covered it, and the pieces are put together again by what they look like before and after,
and by where their motion leads: an assignment over all ends and beginnings of a shot.
"""

from bisect import bisect_right

import numpy as np

from data.find.appearance import compare_clothes
from data.find.assignment import assign_edges
from data.find.tracking import (
    SPEED_HEIGHTS,
    Sighting,
    Track,
    longer_side,
)

SAMPLES = 10  # clean sightings that a piece's clothes at an end are the mean of
PIECE_SIGHTINGS = 3  # a piece is at least this long
SAME_TRACK = 0.12  # what a link costs less, where the tracker made it
LINK_LIMIT = 0.5  # cost of two pieces that are not one person
UNKNOWN = 0.35  # cost of clothes that nobody saw


def join_tracks(tracks: list[Track], join_s: float) -> list[Track]:
    """Return the tracks with their pieces linked anew, in order of their first frame.

    Args:
        join_s: longest time between the end of one piece and the start of the next.
    """
    out: list[Track] = []
    for shot in sorted({track.shot for track in tracks}):
        out += _join_shot([track for track in tracks if track.shot == shot], join_s)
    return sorted(out, key=lambda t: (t.sightings[0].frame, t.sightings[0].box[0]))


def split_where_met(sightings: list[Sighting]) -> list[list[Sighting]]:
    """Return the pieces of a track, cut in the middle of each stretch in which somebody covered it.

    A stretch at the start or the end cuts nothing off, and no piece has less than three sightings.
    """
    cuts, start = [0], None
    for number, seen in enumerate(sightings):
        if seen.met and start is None:
            start = number
        if not seen.met and start is not None:
            middle = (start + number) // 2
            if middle - cuts[-1] >= PIECE_SIGHTINGS and start > 0:
                cuts.append(middle)
            start = None
    if len(sightings) - cuts[-1] < PIECE_SIGHTINGS and len(cuts) > 1:
        cuts.pop()
    ends = [*cuts[1:], len(sightings)]
    return [sightings[a:b] for a, b in zip(cuts, ends, strict=True)]


def _join_shot(tracks, join_s):
    pieces: list[tuple[int, list[Sighting]]] = []
    for number, track in enumerate(tracks):
        pieces += [(number, piece) for piece in split_where_met(track.sightings)]
    edges = {}
    order = sorted(range(len(pieces)), key=lambda j: pieces[j][1][0].time_s)
    begins = [pieces[j][1][0].time_s for j in order]
    for i, (track, before) in enumerate(pieces):
        end = before[-1].time_s
        for j in order[bisect_right(begins, end) : bisect_right(begins, end + join_s)]:
            other, after = pieces[j]
            bonus = SAME_TRACK if track == other and j == i + 1 else 0.0
            edges[i, j] = _link_cost(before, after) - bonus
    following = dict(assign_edges(edges, LINK_LIMIT))
    starts = set(range(len(pieces))) - set(following.values())
    out = []
    for first in sorted(starts):
        chain, piece = [], first
        while piece is not None:
            chain += pieces[piece][1]
            piece = following.get(piece)
        out.append(Track(tracks[0].shot, chain))
    return out


def _link_cost(before, after):
    """How unlikely two pieces are of one person, about 0 to 1; inf where they cannot be."""
    end, start = _clean(before)[-SAMPLES:], _clean(after)[:SAMPLES]
    last, first = end[-1], start[0]
    gap = max(first.time_s - last.time_s, 1e-3)
    size = (longer_side(last.box) + longer_side(first.box)) / 2
    larger = abs(np.log(longer_side(first.box) / longer_side(last.box)))
    if larger > np.log(2.0):
        return np.inf
    # From both sides: where the one was going, and where the other came from.
    ahead = last.place + _speed(end, -1) * min(gap, 1.0)
    back = first.place - _speed(start, 0) * min(gap, 1.0)
    away = np.linalg.norm(ahead - first.place) + np.linalg.norm(back - last.place)
    away = float(away) / 2 / size
    reach = min(0.3 + SPEED_HEIGHTS * gap, 1.5)
    if away > reach:
        return np.inf
    where = 0.8 * away / reach + 0.2 * larger / np.log(2.0)
    a, b = _mean_clothes(end), _mean_clothes(start)
    return 0.4 * where + 0.6 * (UNKNOWN if a is None or b is None else compare_clothes(a, b))


def _clean(sightings):
    return [seen for seen in sightings if not seen.met] or sightings


def _speed(sightings, end):
    """(2,) pixels a second at an end, by the straight line through half a second of places."""
    times = np.array([seen.time_s for seen in sightings])
    near = np.abs(times - times[end]) < 0.5 if len(times) > 3 else np.ones(len(times), bool)
    if near.sum() < 2:
        return np.zeros(2)
    places = np.array([seen.place for seen in sightings])[near]
    return np.polyfit(times[near] - times[near].mean(), places, 1)[0]


def _mean_clothes(sightings):
    known = [seen.clothes for seen in sightings if seen.clothes is not None]
    if not known:
        return None
    counts = np.maximum(sum((one.sum(1, keepdims=True) > 0) for one in known), 1)
    return sum(known) / counts
