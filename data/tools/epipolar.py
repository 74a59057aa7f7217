"""How well the cameras of a take fit each other: epipolar errors of labelled 2D keypoints.

A joint that one camera sees at a pixel lies, for another camera of the same instant, on a line. Its
distance from that line, as a share of the crop's side, says how far calibration, synchronisation or
the keypoints are off. A camera that is late by d seconds shows a moving joint d times its velocity
behind: the part of the distance that grows with the velocity across the line tells the two apart.

Source: Hartley and Zisserman, Multiple View Geometry, 9.6 (the fundamental matrix of two calibrated
cameras).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from data.format.clip import MADE, Clip
from data.format.labels import OUTSIDE
from engine.geometry import camera_centre

LEAST_CONFIDENCE = 0.5
LONGEST_GAP_S = 0.35  # between two sights of a joint that its velocity is taken from
MOST_ROWS = 4000  # of one pair of cameras in a shard; evenly chosen of more
LEAST_BASELINE_M = 1e-3

Take = tuple[str, str]
Pair = tuple[Take, str, str]


@dataclass
class Sight:
    """The keypoints of one person in one camera at one instant.

    Attributes:
        K, Rt: of the crop.  size: its side in pixels.
        points: (J, 2) pixels, NaN where a joint is not labelled or not in the crop.
        velocity: (J, 2) pixels a second, NaN where it is not known.
    """

    K: np.ndarray
    Rt: np.ndarray
    size: int
    points: np.ndarray
    velocity: np.ndarray


class Sights:
    """The sights of a shard's clips; clips of one recording add to each other's."""

    def __init__(self) -> None:
        self._found: dict = defaultdict(dict)

    def add(self, clip: Clip, labels: Mapping[str, np.ndarray]) -> None:
        """Enter the labelled, calibrated crops of a filmed clip.

        Args:
            labels: "keypoints" and, as far as they are there, "keypoint_confidence" and
                "keypoint_visible" of data.format.labels.
        """
        if clip.source == MADE or "keypoints" not in labels:
            return
        points = np.array(labels["keypoints"], np.float64)
        confidence = labels.get("keypoint_confidence")
        if confidence is not None:
            points[confidence < LEAST_CONFIDENCE] = np.nan
        if labels.get("keypoint_visible") is not None:
            points[labels["keypoint_visible"] == OUTSIDE] = np.nan
        track = clip.track if clip.track is not None else clip.key
        for number, crop in enumerate(clip.crops):
            if crop.K is None or crop.Rt is None:
                continue
            K, Rt = np.array(crop.K, np.float64), np.array(crop.Rt, np.float64)
            unknown = np.full_like(points[number], np.nan)
            who = (clip.source, clip.subject, track, crop.kind)
            sight = Sight(K, Rt, clip.size, points[number], unknown)
            self._found[who].setdefault(crop.camera, {})[round(crop.time_s, 6)] = sight

    def measure(self) -> dict[Pair, np.ndarray]:
        """{(take, camera, camera): (n, 2) float32} of all joints that two cameras saw at once.

        A row is the signed distance from the epipolar line, and the velocity across that line,
        NaN where not known: both as shares of the crop's side, so that a second camera that is late
        by d seconds has distance = - d x velocity.
        """
        rows: dict[Pair, list[np.ndarray]] = defaultdict(list)
        for (source, _, track, _), cameras in self._found.items():
            take = source, track.rpartition("/")[0] or track
            for sights in cameras.values():
                _find_velocities(sights)
            names = sorted(cameras)
            for i, a in enumerate(names):
                for b in names[i + 1 :]:
                    for time_s in sorted(cameras[a].keys() & cameras[b].keys()):
                        rows[take, a, b] += _compare(cameras[a][time_s], cameras[b][time_s])
        return {pair: _thin(np.concatenate(parts)) for pair, parts in rows.items() if parts}


def _thin(rows):
    """At most MOST_ROWS of the rows, evenly chosen."""
    if len(rows) <= MOST_ROWS:
        return rows
    return rows[np.linspace(0, len(rows) - 1, MOST_ROWS).astype(int)]


def _find_velocities(sights: Mapping[float, Sight]) -> None:
    """Fill in velocities, from the sights before and after in one camera."""
    times = sorted(sights)
    for number, time_s in enumerate(times):
        here = sights[time_s]
        before, after = times[max(0, number - 1)], times[min(len(times) - 1, number + 1)]
        while time_s - before > LONGEST_GAP_S:
            before = time_s
        while after - time_s > LONGEST_GAP_S:
            after = time_s
        # A camera that moves shows a still joint move: its velocity is not the joint's.
        still = all(np.allclose(sights[t].Rt, here.Rt, atol=1e-6) for t in (before, after))
        if after > before and still:
            moved = _seen_by(here, sights[after]) - _seen_by(here, sights[before])
            here.velocity = moved / (after - before)


def _seen_by(crop: Sight, other: Sight) -> np.ndarray:
    """(J, 2) where ``crop`` would show another sight's points: crops of a camera move about."""
    rays = np.column_stack([other.points, np.ones(len(other.points))]) @ np.linalg.inv(other.K).T
    shown = rays @ crop.K.T
    return shown[:, :2] / shown[:, 2:]


def _compare(a: Sight, b: Sight) -> list[np.ndarray]:
    """Rows of two sights of one instant, from each camera to the other; [] where they have none."""
    if len(a.points) != len(b.points):
        return []
    if np.linalg.norm(camera_centre(a.Rt) - camera_centre(b.Rt)) < LEAST_BASELINE_M:
        return []
    there, back = _distances(a, b), _distances(b, a)
    back[:, 1] *= -1  # where the second is late, the first is early
    rows = np.concatenate([there, back])
    return [rows[np.isfinite(rows[:, 0])].astype(np.float32)]


def _distances(a: Sight, b: Sight) -> np.ndarray:
    """(J, 2) signed distances in ``b`` from the lines of ``a``'s points, and velocities."""
    R = b.Rt[:, :3] @ a.Rt[:, :3].T
    x, y, z = b.Rt[:, 3] - R @ a.Rt[:, 3]
    across = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    F = np.linalg.inv(b.K).T @ across @ R @ np.linalg.inv(a.K)
    lines = np.column_stack([a.points, np.ones(len(a.points))]) @ F.T
    length = np.linalg.norm(lines[:, :2], axis=1)
    normal = lines / np.where(length > 1e-12, length, np.nan)[:, None]
    distance = (normal[:, :2] * b.points).sum(1) + normal[:, 2]
    velocity = (normal[:, :2] * b.velocity).sum(1)
    return np.column_stack([distance, velocity]) / b.size


def merge_rows(parts: Iterable[Mapping[Pair, np.ndarray]]) -> dict[Pair, np.ndarray]:
    """The rows of several shards, pair by pair."""
    found: dict[Pair, list[np.ndarray]] = defaultdict(list)
    for part in parts:
        for pair, rows in part.items():
            found[pair].append(rows)
    return {pair: np.concatenate(rows) for pair, rows in found.items()}
