"""Two people of one camera that geometry cannot tell apart in another, told by their clothes.

It happens where both stand on one epipolar line, above all between cameras that face each other.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np

from data.sources.multicam.affinity import Affinities, Windows
from data.sources.multicam.appearance import Colours, compare_colours
from data.sources.multicam.sightings import Sightings

# One way round is believed where it scores by this much more than the other.
_CLEAR = 1.0
_WEIGHT = 6.0  # of a difference in likeness, in units of the score

Place = tuple[int, int, int]  # view, track, window


def settle_ties(
    affinities: Affinities, sightings: Sequence[Sightings], windows: Windows, colours: Colours
) -> Affinities:
    """Return scores to which likeness was added where geometry leaves two ways round open.

    Args:
        colours: {(view, row): description} of the sightings asked for.
    """
    ties = []
    for pair, table in affinities.items():
        ties += [(pair, tie) for tie in _find_ties(table)]
    if not ties:
        return affinities
    middles = _middle_rows(sightings, windows)
    asked = set()
    for (a, b), (firsts, seconds, when) in ties:
        asked |= {(a, middles[a, track, when]) for track in firsts}
        asked |= {(b, middles[b, track, when]) for track in seconds}
    found = colours(sorted(asked))
    out = {pair: {k: dict(v) for k, v in table.items()} for pair, table in affinities.items()}
    for (a, b), (firsts, seconds, when) in ties:
        alike = np.zeros((2, 2))
        for i, one in enumerate(firsts):
            for j, two in enumerate(seconds):
                its, others = found[a, middles[a, one, when]], found[b, middles[b, two, when]]
                alike[i, j] = compare_colours(its, others)
        # The likeness of one way round over the other: clothes that all look alike change nothing.
        lead = float(alike[0, 0] + alike[1, 1] - alike[0, 1] - alike[1, 0]) / 2
        for i, one in enumerate(firsts):
            for j, two in enumerate(seconds):
                sign = 1.0 if i == j else -1.0
                out[a, b][one, two][when] += sign * _WEIGHT * lead
    return out


def _find_ties(table: dict) -> Iterator[tuple[tuple[int, int], tuple[int, int], int]]:
    """Yield (two tracks of a view, two of another, window) that fit both ways round."""
    by_window: dict[int, dict[tuple[int, int], float]] = {}
    for pair, scores in table.items():
        for when, score in scores.items():
            by_window.setdefault(when, {})[pair] = score
    for when, scores in sorted(by_window.items()):
        firsts = sorted({one for one, _ in scores})
        seconds = sorted({two for _, two in scores})
        for one, other in combinations(firsts, 2):
            for two, second in combinations(seconds, 2):
                ways = [(one, two), (other, second), (one, second), (other, two)]
                if not all(way in scores for way in ways):
                    continue
                straight, crossed = (scores[a] + scores[b] for a, b in (ways[:2], ways[2:]))
                if max(straight, crossed) > 0 and abs(straight - crossed) < _CLEAR:
                    yield (one, other), (two, second), when


def _middle_rows(sightings, windows):
    """{(view, track, window): row of the sighting in the middle}."""
    rows: dict[Place, list[int]] = {}
    for view, seen in enumerate(sightings):
        whens = windows.of(seen.instants).tolist()
        for n, (track, when) in enumerate(zip(seen.tracks.tolist(), whens, strict=True)):
            rows.setdefault((view, track, when), []).append(n)
    return {place: own[len(own) // 2] for place, own in rows.items()}
