"""Who is who across cameras and over time.

1. In each window of time the tracks of all cameras are gathered into people: pair after pair, the
   best first, while the sum of what geometry says of all pairs between two groups speaks for it,
   and never two tracks that one camera shows at one instant (greedy additive edge contraction:
   Keuper et al., Efficient decomposition of image and mesh graphs by lifted multicuts, ICCV 2015).
2. From window to window a group goes on with the identity that shares its tracks or is where it is
   in the world.
3. Identities that never meet in one camera and are one person in space, or look alike, are joined
   (``data.sources.multicam.join``).
4. Instant by instant each detection is checked against the skeleton that the other cameras give
   (``data.sources.multicam.refine``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from data.find.assignment import assign_rows
from data.sources.cameras import Camera
from data.sources.multicam.affinity import Affinities, Windows, view_pairs
from data.sources.multicam.rays import triangulate_many
from data.sources.multicam.sightings import Sightings

Node = tuple[int, int]  # (view, track)
NOBODY = -1

_TRACK_SCORE = 1.0
# Between windows a body's middle moves by this much and this fast at most, to be surely the same.
_SLACK_M, _SPEED_M_S = 0.3, 2.0
_LEAST_LINK = 0.3
_MEMORY_S = 2.0


@dataclass
class Group:
    """The tracks that are one person in one window.

    Attributes:
        nodes: (view, track) of each.  first, last: (3,) middle of the body at the window's first
            and last instants, metres, or None where one camera alone sees it.
    """

    nodes: list[Node]
    first: np.ndarray | None = None
    last: np.ndarray | None = None


@dataclass
class _Identity:
    window: int = NOBODY
    last: np.ndarray | None = None
    last_window: int = NOBODY
    nodes: set[Node] = field(default_factory=set)


def contract_greedily(scores: np.ndarray) -> list[list[int]]:
    """Return groups of nodes, the pair with the highest score joined first.

    Args:
        scores: (n, n) symmetric; above 0: rather one, below: rather two, -inf: never one.
    """
    scores = np.array(scores, np.float64)
    np.fill_diagonal(scores, -np.inf)
    groups: list[list[int]] = [[n] for n in range(len(scores))]
    while len(scores) > 1:
        i, j = np.unravel_index(int(np.argmax(scores)), scores.shape)
        if scores[i, j] <= 0:
            break
        i, j = min(i, j), max(i, j)
        groups[i] += groups.pop(j)
        joined = scores[i] + scores[j]
        scores[i], scores[:, i] = joined, joined
        scores[i, i] = -np.inf
        scores = np.delete(np.delete(scores, j, 0), j, 1)
    return [sorted(group) for group in groups]


def group_windows(
    sightings: Sequence[Sightings], affinities: Affinities, windows: Windows
) -> dict[int, list[Group]]:
    """Return {window: groups} of the tracks that each window holds."""
    present: dict[int, dict[Node, set[int]]] = {}
    for view, seen in enumerate(sightings):
        whens = windows.of(seen.instants).tolist()
        for when, track, instant in zip(
            whens, seen.tracks.tolist(), seen.instants.tolist(), strict=True
        ):
            present.setdefault(when, {}).setdefault((view, track), set()).add(instant)
    out = {}
    for when in sorted(present):
        nodes = sorted(present[when])
        scores = _window_scores(nodes, present[when], affinities, when)
        out[when] = [Group([nodes[n] for n in group]) for group in contract_greedily(scores)]
    return out


def _window_scores(nodes, instants, affinities, when):
    """(n, n) scores of the nodes of a window; -inf for two that one camera shows at once."""
    scores = np.zeros((len(nodes), len(nodes)))
    for i, j in view_pairs(len(nodes)):
        (view, track), (other, its) = nodes[i], nodes[j]
        if view == other:
            both = instants[nodes[i]] & instants[nodes[j]]
            score = -np.inf if both else 0.0
        else:
            score = affinities[view, other].get((track, its), {}).get(when, 0.0)
        scores[i, j] = scores[j, i] = score
    return scores


def place_groups(
    groups: Mapping[int, Sequence[Group]],
    sightings: Sequence[Sightings],
    cameras: Sequence[Camera],
    windows: Windows,
) -> None:
    """Fill in where each group is at its window's first and last instants."""
    rows = _rows_of_nodes(sightings, windows)
    Ks, Rts = np.stack([c.K for c in cameras]), np.stack([c.Rt for c in cameras])
    for when, found in groups.items():
        for group in found:
            if len({view for view, _ in group.nodes}) < 2:
                continue
            middles = _middles(group, rows, when, sightings, Ks, Rts)
            if len(middles):
                group.first, group.last = middles[0], middles[-1]


def _rows_of_nodes(sightings, windows):
    """{(view, track, window): rows of the view's sightings}."""
    rows: dict[tuple[int, int, int], list[int]] = {}
    for view, seen in enumerate(sightings):
        whens = windows.of(seen.instants).tolist()
        for n, (track, when) in enumerate(zip(seen.tracks.tolist(), whens, strict=True)):
            rows.setdefault((view, track, when), []).append(n)
    return rows


def _middles(group, rows, when, sightings, Ks, Rts):
    """(L, 3) middles of the body at the instants that two cameras share, in order."""
    at: dict[int, dict[int, int]] = {}
    for view, track in group.nodes:
        for n in rows[view, track, when]:
            at.setdefault(int(sightings[view].instants[n]), {})[view] = n
    shared = sorted(instant for instant, seen in at.items() if len(seen) >= 2)
    middles = []
    for instant in {shared[0], shared[-1]} if shared else ():
        points = np.full((len(sightings), sightings[0].points.shape[1], 2), np.nan)
        weights = np.zeros(points.shape[:2])
        for view, n in at[instant].items():
            points[view], weights[view] = sightings[view].points[n], sightings[view].weights[n]
        found = triangulate_many(points, weights, Ks, Rts)
        found = found[np.isfinite(found).all(1)]
        if len(found):
            middles.append((instant, np.median(found, 0)))
    return [middle for _, middle in sorted(middles, key=lambda entry: entry[0])]


def link_windows(
    groups: Mapping[int, Sequence[Group]], window_s: float
) -> dict[tuple[int, int, int], int]:
    """Return {(view, track, window): identity}: groups that follow each other in time."""
    identities: list[_Identity] = []
    owners: dict[Node, int] = {}
    out: dict[tuple[int, int, int], int] = {}
    for when in sorted(groups):
        found = list(groups[when])
        scores = np.array(
            [
                [_link(group, who, n, owners, when, window_s) for n, who in enumerate(identities)]
                for group in found
            ]
        ).reshape(len(found), len(identities))
        chosen = _assign(found, scores)
        for group, identity in zip(found, chosen, strict=True):
            if identity == NOBODY:
                identity = len(identities)
                identities.append(_Identity())
            who = identities[identity]
            who.window = when
            if group.last is not None:
                who.last, who.last_window = group.last, when
            for node in group.nodes:
                owners[node] = identity
                out[(*node, when)] = identity
    return out


def _link(group, who, number, owners, when, window_s):
    """How much speaks for a group being the next of an identity."""
    score = sum(_TRACK_SCORE for node in group.nodes if owners.get(node) == number)
    if group.first is not None and who.last is not None:
        gap_s = (when - who.last_window) * window_s
        if gap_s <= _MEMORY_S:
            reach = _SLACK_M + _SPEED_M_S * max(0.0, gap_s - window_s)
            score += float(np.clip(2 - 2 * np.linalg.norm(group.first - who.last) / reach, -2, 2))
    return score


def _assign(groups, scores):
    """The identity of each group, NOBODY for a new one.

    One each; then those that are left go along where no camera shows both.
    """
    chosen = [NOBODY] * len(groups)
    if scores.size:
        for n, identity in assign_rows(-scores, -_LEAST_LINK):
            chosen[n] = identity
    for n in range(len(groups)):
        if chosen[n] != NOBODY or not scores.size:
            continue
        for identity in np.argsort(-scores[n]).tolist():
            if scores[n, identity] < _LEAST_LINK:
                break
            others = [g for g, c in zip(groups, chosen, strict=True) if c == identity]
            taken = {view for group in others for view, _ in group.nodes}
            if not taken & {view for view, _ in groups[n].nodes}:
                chosen[n] = identity
                break
    return chosen
