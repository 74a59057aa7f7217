"""Pieces of one person that nothing linked yet: joined by space where two meet, else by looks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.sources.cameras import Camera
from data.sources.multicam.affinity import errors_of_pairs, score_errors, view_pairs
from data.sources.multicam.appearance import Colours, compare_colours
from data.sources.multicam.associate import NOBODY
from data.sources.multicam.sightings import Sightings

_LEAST_SCORE = 0.3
_LEAST_COMPARED = 5
# Clothes of one person in two cameras are this alike, and by this much more than anybody else's.
_ALIKE, _AHEAD = 0.75, 0.08
_LEAST_INSTANTS = 5  # a piece of fewer tells nothing by its looks


@dataclass
class _Piece:
    rows: list[np.ndarray]  # for each view the rows of its sightings

    def instants(self, view: int, sightings: Sequence[Sightings]) -> set[int]:
        """The instants at which a view shows the piece."""
        return set(sightings[view].instants[self.rows[view]].tolist())

    def size(self) -> int:
        """How many sightings it has."""
        return sum(len(rows) for rows in self.rows)


def join_identities(
    identities: Sequence[np.ndarray],
    sightings: Sequence[Sightings],
    cameras: Sequence[Camera],
    colours: Colours | None,
) -> list[np.ndarray]:
    """Return identities of which those of one person are one, numbered by how often they are seen.

    Args:
        identities: for each view (n,) int, NOBODY: of none.
        colours: {(view, row): description} of the sightings asked for; None: looks are not used.
    """
    people = {int(who) for own in identities for who in np.unique(own)} - {NOBODY}
    pieces = [_Piece([np.flatnonzero(own == who) for own in identities]) for who in sorted(people)]
    pieces = _join_by_space(pieces, sightings, cameras)
    if colours is not None and len(pieces) > 1:
        pieces = _join_by_looks(pieces, sightings, cameras, colours)
    pieces.sort(key=lambda piece: -piece.size())
    out = [np.full(len(own), NOBODY) for own in identities]
    for number, piece in enumerate(pieces):
        for view, rows in enumerate(piece.rows):
            out[view][rows] = number
    return out


def _clash(a, b, sightings):
    """Whether one camera shows both at one instant."""
    return any(
        a.instants(view, sightings) & b.instants(view, sightings) for view in range(len(sightings))
    )


def _joined(a, b):
    return _Piece([np.sort(np.concatenate(both)) for both in zip(a.rows, b.rows, strict=True)])


def _join_best(pieces, scores):
    """The pieces after the pair of the highest score is one; None where no score is above 0."""
    i, j = np.unravel_index(int(np.argmax(scores)), scores.shape)
    if scores[i, j] <= 0:
        return None
    i, j = min(i, j), max(i, j)
    rest = [piece for n, piece in enumerate(pieces) if n not in (i, j)]
    return [_joined(pieces[i], pieces[j]), *rest]


def _join_by_space(pieces, sightings, cameras):
    while len(pieces) > 1:
        scores = np.full((len(pieces), len(pieces)), -np.inf)
        for i, j in view_pairs(len(pieces)):
            if not _clash(pieces[i], pieces[j], sightings):
                score = _score_space(pieces[i], pieces[j], sightings, cameras)
                scores[i, j] = -np.inf if np.isnan(score) else score - _LEAST_SCORE
        joined = _join_best(pieces, scores)
        if joined is None:
            break
        pieces = joined
    return pieces


def _score_space(a, b, sightings, cameras):
    """Mean score of the instants at which two cameras show one each; NaN where too few."""
    scores = []
    for view in range(len(sightings)):
        for other in range(len(sightings)):
            if view != other:
                scores += _scores_between(a, b, view, other, sightings, cameras)
    return float(np.mean(scores)) if len(scores) >= _LEAST_COMPARED else np.nan


def _scores_between(a, b, view, other, sightings, cameras):
    own, its = sightings[view].instants[a.rows[view]], sightings[other].instants[b.rows[other]]
    both = np.intersect1d(own, its)
    if not len(both):
        return []
    rows = np.stack(
        [a.rows[view][np.searchsorted(own, both)], b.rows[other][np.searchsorted(its, both)]], 1
    )
    errors = errors_of_pairs(
        sightings[view], sightings[other], rows, (cameras[view], cameras[other])
    )
    return score_errors(errors[np.isfinite(errors)]).tolist()


def _join_by_looks(pieces, sightings, cameras, colours):
    """Pieces that space neither joins nor keeps apart, by their clothes: the surest first."""
    able = _open_pairs(pieces, sightings, cameras)
    if not able.any():
        return pieces
    looks = _describe(pieces, colours)
    while able.any():
        alike = np.zeros(able.shape)
        for i, j in view_pairs(len(pieces)):
            alike[i, j] = alike[j, i] = _alike(looks[i], looks[j])
        scores = _sure(alike, able)
        i, j = np.unravel_index(int(np.argmax(scores)), scores.shape)
        joined = _join_best(pieces, scores)
        if joined is None:
            break
        rest = [look for n, look in enumerate(looks) if n not in (i, j)]
        pieces, looks = joined, [looks[i] + looks[j], *rest]
        able = _open_pairs(pieces, sightings, cameras)
    return pieces


def _open_pairs(pieces, sightings, cameras):
    """(n, n) bool: which pieces no camera shows at once and no two cameras can compare."""
    able = np.zeros((len(pieces), len(pieces)), bool)
    for i, j in view_pairs(len(pieces)):
        if not _clash(pieces[i], pieces[j], sightings):
            space = _score_space(pieces[i], pieces[j], sightings, cameras)
            able[i, j] = able[j, i] = np.isnan(space)
    return able


def _sure(alike, able):
    """Scores above 0 where two are alike, and more so than either is to any other."""
    scores = np.full(alike.shape, -np.inf)
    for i, j in zip(*np.nonzero(np.triu(able)), strict=True):
        rivals = np.concatenate([np.delete(alike[i], [i, j]), np.delete(alike[j], [i, j])])
        ahead = alike[i, j] - max(rivals, default=0.0)
        if alike[i, j] >= _ALIKE and ahead >= _AHEAD:
            scores[i, j] = alike[i, j]
    return scores


def _describe(pieces, colours):
    """For each piece the descriptions of a few of its sightings."""
    asked = []
    for piece in pieces:
        rows = []
        if piece.size() >= _LEAST_INSTANTS:
            for view, own in enumerate(piece.rows):
                few = (
                    own[np.unique(np.linspace(0, len(own) - 1, 4).astype(int))] if len(own) else []
                )
                rows += [(view, int(row)) for row in few]
        asked.append(rows)
    wanted = sorted({entry for rows in asked for entry in rows})
    found = colours(wanted) if wanted else {}
    return [[found[entry] for entry in rows if entry in found] for rows in asked]


def _alike(a, b):
    """Median over all pairs of descriptions of how alike they are; 0 where there is none."""
    if not a or not b:
        return 0.0
    values = []
    for first in a:
        values += [compare_colours(first, second) for second in b]
    return float(np.median(values))
