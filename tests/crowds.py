"""People of known movement before cameras of known places, as a finder and a tracker would tell of
them."""

import cv2
import numpy as np

from data.find.detection import Detection
from data.sources.cameras import Camera

# COCO's 17 points of somebody who stands at the origin and faces along x: x, y (to the left), z.
STANDING = np.array(
    [
        [0.12, 0, 1.62],
        *([0.1, side * 0.03, 1.65] for side in (1, -1)),
        *([0.02, side * 0.08, 1.63] for side in (1, -1)),
        *([0, side * 0.2, 1.42] for side in (1, -1)),
        *([0.02, side * 0.26, 1.12] for side in (1, -1)),
        *([0.08, side * 0.27, 0.87] for side in (1, -1)),
        *([0, side * 0.12, 0.92] for side in (1, -1)),
        *([0.03, side * 0.12, 0.5] for side in (1, -1)),
        *([0, side * 0.12, 0.08] for side in (1, -1)),
    ]
)
# How far forward each point swings in a walk, metres, left and right against each other.
SWING = np.array([0, 0, 0, 0, 0, 0, 0, 0.1, -0.1, 0.25, -0.25, 0, 0, -0.15, 0.15, -0.3, 0.3])


def walk(start, stop, count, rate_hz=30.0, steps_hz=0.9):
    """(count, 17, 3) world points of somebody who walks from start to stop (x, y), metres."""
    start, stop = np.asarray(start, float), np.asarray(stop, float)
    t = np.linspace(0, 1, count)[:, None]
    places = start + (stop - start) * t
    along = stop - start
    heading = np.arctan2(along[1], along[0]) if np.linalg.norm(along) > 1e-6 else 0.0
    c, s = np.cos(heading), np.sin(heading)
    points = np.repeat(STANDING[None], count, 0)
    moving = min(1.0, np.linalg.norm(along))
    phase = np.sin(2 * np.pi * steps_hz * np.arange(count) / rate_hz)
    points[:, :, 0] += moving * SWING * phase[:, None]
    turned = points @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]]).T
    turned[:, :, :2] += places[:, None]
    return turned


def ring(angles_deg, distance_m=5.0, height_m=1.6, size=(1280, 960)):
    """Cameras a, b, ... around the origin that look at the height of a belt, with a lens."""
    cameras = []
    for name, angle in zip("abcdefgh", np.deg2rad(angles_deg), strict=False):
        centre = np.array([distance_m * np.cos(angle), distance_m * np.sin(angle), height_m])
        forward = np.array([0, 0, 1.0]) - centre
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, [0, 0, 1.0])
        right /= np.linalg.norm(right)
        R = np.stack([right, np.cross(forward, right), forward])
        K = np.array([[900, 0, size[0] / 2], [0, 900, size[1] / 2], [0, 0, 1.0]])
        lens = np.array([-0.1, 0.02, 0, 0, 0, 0, 0, 0])
        Rt = np.concatenate([R, (-R @ centre)[:, None]], 1)
        cameras.append(Camera(name, K, lens, Rt, *size))
    return cameras


def film(cameras, people, noise_share=0.012, seed=0):
    """For each camera {person: {frame: Detection}}, by OpenCV's own projection.

    Keypoints are off by ``noise_share`` of the box's side; frames of nobody's are left out.
    """
    rng = np.random.default_rng(seed)
    out = []
    for camera in cameras:
        rotation, shift = cv2.Rodrigues(camera.Rt[:, :3])[0], camera.Rt[:, 3]
        tracks = {}
        for person, points in people.items():
            track = {}
            for frame, now in enumerate(points):
                if not np.isfinite(now).all():
                    continue
                at = cv2.projectPoints(now, rotation, shift, camera.K, camera.distortion)[0][:, 0]
                low, high = at.min(0), at.max(0)
                side = (high - low).max()
                at = at + rng.normal(0, noise_share * side, at.shape)
                box = np.concatenate([low - 0.05 * side, high + 0.05 * side])
                keypoints = np.concatenate([at, np.full((17, 1), 0.8)], 1)
                track[frame] = Detection(box, 0.9, keypoints)
            tracks[person] = track
        out.append(tracks)
    return out


def rename(tracks, names):
    """Tracks under other names, in the order of those names."""
    return {names[old]: tracks[old] for old in sorted(tracks, key=lambda old: names[old])}


def break_up(tracks, starts):
    """Tracks cut at frames: each piece is a track of its own."""
    out = {}
    for name, track in tracks.items():
        for frame, found in track.items():
            piece = sum(frame >= start for start in starts)
            out.setdefault(f"{name}.{piece}", {})[frame] = found
    return out


def switch(tracks, one, other, start):
    """Two tracks that change places from a frame on, as a tracker does where people cross."""
    early, late = (lambda f: f < start), (lambda f: f >= start)
    out = dict(tracks)
    for mine, its in ((one, other), (other, one)):
        kept = {f: d for f, d in tracks[mine].items() if early(f)}
        out[mine] = kept | {f: d for f, d in tracks[its].items() if late(f)}
    return out
