"""The people found in one camera, as arrays that geometry works on."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from data.find.detection import Detection, Tracks
from data.format.joint_sets import match_joint_sets
from data.sources.cameras import Camera, undistort_pixels

JOINTS = "coco17"
COUNT = 17
LEAST_CONFIDENCE = 0.3  # of a keypoint that takes part
# Points of a box stand in where a detector gives boxes alone: they are of no one place on the body,
# so they weigh less than keypoints.
BOX_WEIGHT = 0.3


@dataclass
class Sightings:
    """All detections of one view, sorted by instant.

    Attributes:
        instants: (n,) int.  frames: (n,) int of the view's video.
        tracks: (n,) int, which of ``names`` each belongs to.  names: of the tracks.
        points: (n, 17, 2) undistorted pixels, NaN where not found.  weights: (n, 17), 0 where not
            found.
        sides: (n,) longer side of the box in pixels.
        detections: n, in pixels of the image as it is shown.
    """

    instants: np.ndarray
    frames: np.ndarray
    tracks: np.ndarray
    names: list[str]
    points: np.ndarray
    weights: np.ndarray
    sides: np.ndarray
    detections: list[Detection]

    def __len__(self) -> int:
        return len(self.instants)


def collect_sightings(camera: Camera, frames: Mapping[int, int], tracks: Tracks) -> Sightings:
    """Return the Sightings of a view.

    Args:
        camera: as the video shows it.  frames: {instant: frame}.  tracks: of its video.
    """
    instant_of = {frame: instant for instant, frame in frames.items()}
    rows = []
    for number, track in enumerate(tracks.values()):
        for frame, detection in track.items():
            if frame in instant_of:
                rows.append((instant_of[frame], frame, number, detection))
    rows.sort(key=lambda row: row[:3])
    points = np.full((len(rows), COUNT, 2), np.nan)
    weights = np.zeros((len(rows), COUNT))
    sides = np.zeros(len(rows))
    for n, (_, _, _, detection) in enumerate(rows):
        points[n], weights[n] = _points_of(detection)
        sides[n] = max(detection.box[2:] - detection.box[:2])
    if len(rows):
        flat = undistort_pixels(camera, np.nan_to_num(points))
        points = np.where(np.isfinite(points), flat, np.nan)
    numbers = np.array([row[:3] for row in rows], np.int64).reshape(-1, 3)
    found = [row[3] for row in rows]
    instants, its_frames, its_tracks = numbers.T
    return Sightings(instants, its_frames, its_tracks, list(tracks), points, weights, sides, found)


def _points_of(detection):
    """(17, 2) pixels and (17,) weights of a detection's keypoints, or of its box."""
    points, weights = np.full((COUNT, 2), np.nan), np.zeros(COUNT)
    if detection.keypoints is None:
        x0, y0, x1, y1 = detection.box
        heights = np.linspace(y0, y1, 6)[:-1]
        points[: len(heights)] = np.stack([np.full(len(heights), (x0 + x1) / 2), heights], 1)
        weights[: len(heights)] = BOX_WEIGHT
        return points, weights
    found = np.asarray(detection.keypoints, np.float64)
    if detection.joint_set != JOINTS:
        places = match_joint_sets(detection.joint_set, JOINTS)
        found = np.where((places >= 0)[:, None], found[places], 0.0)
    known = found[:, 2] >= LEAST_CONFIDENCE
    points[known], weights[known] = found[known, :2], found[known, 2]
    return points, weights
