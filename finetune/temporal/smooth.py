"""Tracks without the jitter of single frames; who is in which frame stays as it is."""

from dataclasses import replace

import numpy as np
import torch

from finetune.animation.track import Take, Track
from finetune.temporal.one_euro import Cutoff, filter_points, filter_rotations

# Of where joint 0 is beside the camera's axis, and how far away: one camera tells the depth four
# times worse.
PLACE = Cutoff(least_hz=2.0, rise=2.0)
DEPTH = Cutoff(least_hz=0.5, rise=0.5)


def smooth_take(take: Take, turns: Cutoff) -> Take:
    """Return a take of smoothed tracks; see ``smooth_track``."""
    return replace(take, tracks=[smooth_track(track, turns) for track in take.tracks])


@torch.no_grad()
def smooth_track(track: Track, turns: Cutoff) -> Track:
    """Return a track whose every stretch of frames without a gap is filtered by itself.

    The place is filtered as the ray towards joint 0 and the depth along it, so that a depth that
    jumps does not move the person in the image. Rays are in metres at the stretch's median depth.

    Args:
        turns: of the joints' rotations.
    """
    pose, place = track.pose.copy(), track.translation.copy()
    for rows in track.list_stretches():
        times = torch.from_numpy(track.times[rows])
        pose[rows] = filter_rotations(torch.from_numpy(track.pose[rows]), times, turns).numpy()
        place[rows] = _filter_place(track.translation[rows], times)
    words = f"one_euro, {turns.least_hz:g} Hz, {turns.rise:g}"
    return replace(track, pose=pose, translation=place, smoothing=words)


def _filter_place(place: np.ndarray, times: torch.Tensor) -> np.ndarray:
    """(T, 3) metres of a stretch, filtered as rays and depths."""
    points = torch.from_numpy(place).double()[:, None]
    depth = points[..., 2:]
    usual = depth.median()
    rays = filter_points(points[..., :2] / depth * usual, times, PLACE)
    depth = filter_points(depth, times, DEPTH)
    return torch.cat([rays * depth / usual, depth], -1)[:, 0].numpy()
