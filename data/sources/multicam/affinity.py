"""How well the tracks of different cameras go together, window of time by window of time.

A track of one camera may break, or change from one person to another. So tracks are compared in
windows of half a second, and what the neighbouring windows say counts with a weight that falls with
their distance: evidence is gathered over whole tracks, and a switch is seen where it happens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data.sources.cameras import Camera
from data.sources.multicam.rays import (
    epipolar_distances,
    fundamental_matrix,
    median_of_points,
    meet_rays,
    pixel_rays,
)
from data.sources.multicam.sightings import Sightings

WINDOW_S = 0.5
RATE_HZ = 20  # instants a second that are compared
# The keypoints of one person in two cameras miss each other by 1 to 4 % of the box's side, those of
# two people by 5 to 30 % (docs/multicam.md): at NEUTRAL both are as likely.
NEUTRAL, SCALE = 0.045, 0.03
MOST, LEAST = 1.5, -4.0
BEHIND = 1.0  # the error of two people whose rays meet behind a camera
NEIGHBOUR_WEIGHT, NEIGHBOURS = 0.6, 4
_CHUNK = 20_000


@dataclass(frozen=True)
class Windows:
    """How instants are parted into windows.

    Attributes:
        length: instants of a window.  stride: of the instants every stride-th is compared.
    """

    length: int
    stride: int

    @classmethod
    def of_step(cls, step_s: float) -> "Windows":
        """Windows for instants that are ``step_s`` apart."""
        return cls(max(1, round(WINDOW_S / step_s)), max(1, round(1 / (RATE_HZ * step_s))))

    def of(self, instants: np.ndarray) -> np.ndarray:
        """(n,) the window of each instant."""
        return instants // self.length


Pair = tuple[int, int]  # of tracks: one of the first view, one of the second


def pair_up(a: Sightings, b: Sightings, stride: int = 1, shift: int = 0) -> np.ndarray:
    """Return (M, 2) rows of a and of b that are of one instant.

    Args:
        stride: every stride-th instant is taken.  shift: b's instant i + shift goes with a's i.
    """
    taken = np.flatnonzero(a.instants % stride == 0)
    low = np.searchsorted(b.instants, a.instants[taken] + shift, "left")
    high = np.searchsorted(b.instants, a.instants[taken] + shift, "right")
    counts = high - low
    first = np.repeat(taken, counts)
    starts = np.repeat(low - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts)
    return np.stack([first, starts + np.arange(len(first))], 1)


def distances_of_pairs(
    a: Sightings, b: Sightings, rows: np.ndarray, cameras: tuple[Camera, Camera]
) -> np.ndarray:
    """Return (M, J) epipolar distances of pairs of sightings, as shares of the box.

    NaN where a point is not found in both; BEHIND where most rays meet behind a camera.

    Args:
        rows: (M, 2) of ``pair_up``.  cameras: of a and of b.
    """
    first, second = cameras
    F = fundamental_matrix(first.K, first.Rt, second.K, second.Rt)
    out = np.full((len(rows), a.points.shape[1]), np.nan)
    for start in range(0, len(rows), _CHUNK):
        i, j = rows[start : start + _CHUNK].T
        found = epipolar_distances(a.points[i], a.sides[i], b.points[j], b.sides[j], F)
        rays_a = pixel_rays(a.points[i], first.K, first.Rt)
        rays_b = pixel_rays(b.points[j], second.K, second.Rt)
        _, far_a, far_b = meet_rays(rays_a, first.Rt, rays_b, second.Rt)
        behind = ((far_a < 0) | (far_b < 0)).sum(-1) > 0.5 * np.isfinite(found).sum(-1)
        found[behind] = np.where(np.isfinite(found[behind]), BEHIND, np.nan)
        out[start : start + _CHUNK] = found
    return out


def errors_of_pairs(
    a: Sightings, b: Sightings, rows: np.ndarray, cameras: tuple[Camera, Camera]
) -> np.ndarray:
    """Return (M,) medians of ``distances_of_pairs`` over the points; NaN: not comparable."""
    return median_of_points(distances_of_pairs(a, b, rows, cameras))


def score_errors(errors: np.ndarray) -> np.ndarray:
    """Return how much each error speaks for one person (above 0) or for two (below)."""
    return np.clip((NEUTRAL - errors) / SCALE, LEAST, MOST)


def score_tracks(
    a: Sightings, b: Sightings, cameras: tuple[Camera, Camera], windows: Windows
) -> dict[Pair, dict[int, float]]:
    """Return {(track of a, track of b): {window: score}} of all that are seen at one instant.

    A window's score is the mean over its instants, weighted by how many of them can be compared,
    and what the windows around it say.
    """
    rows = pair_up(a, b, windows.stride)
    scores = score_errors(errors_of_pairs(a, b, rows, cameras))
    rows, scores = rows[np.isfinite(scores)], scores[np.isfinite(scores)]
    expected = max(1, windows.length // windows.stride)
    sums: dict[Pair, dict[int, float]] = {}
    whens = windows.of(a.instants[rows[:, 0]])
    pairs = zip(a.tracks[rows[:, 0]].tolist(), b.tracks[rows[:, 1]].tolist(), strict=True)
    for pair, when, score in zip(pairs, whens.tolist(), scores.tolist(), strict=True):
        own = sums.setdefault(pair, {})
        own[when] = own.get(when, 0.0) + score / expected
    return {pair: _with_neighbours(own) for pair, own in sums.items()}


def _with_neighbours(own):
    """{window: score} of a pair, each with its neighbours' scores at falling weights."""
    start, stop = min(own), max(own) + 1
    line = np.zeros(stop - start)
    line[[when - start for when in own]] = list(own.values())
    reach = np.arange(-NEIGHBOURS, NEIGHBOURS + 1)
    spread = np.convolve(line, NEIGHBOUR_WEIGHT ** np.abs(reach))
    return {when: float(spread[when - start + NEIGHBOURS]) for when in own}


def view_pairs(count: int) -> Iterator[Pair]:
    """Yield (a, b), a < b, of all pairs of ``count`` views."""
    for a in range(count):
        for b in range(a + 1, count):
            yield a, b


Affinities = dict[Pair, dict[Pair, dict[int, float]]]


def score_views(
    sightings: Sequence[Sightings], cameras: Sequence[Camera], windows: Windows
) -> Affinities:
    """Return {(view a, view b): score_tracks} of all pairs of views."""
    return {
        (a, b): score_tracks(sightings[a], sightings[b], (cameras[a], cameras[b]), windows)
        for a, b in view_pairs(len(sightings))
    }
