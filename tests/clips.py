"""Synthetic clips for tests: every angle, gap, overlap and mask in them is known beforehand."""

import io
import math
import tarfile

import numpy as np
import simplejpeg

from data.format.clip import MASK_SIDE, Clip, Crop
from data.format.shards import shard_name, write_shard

ANGLE_DEG, GAP_S, RADIUS_M = 40.0, 0.5, 3.0


def camera_at(azimuth_rad, size, radius_m=RADIUS_M):
    """(K, Rt) of a level camera on a circle around the origin that points at it; z is up in the
    world."""
    K = [[float(size), 0, size / 2], [0, float(size), size / 2], [0, 0, 1]]
    s, c = math.sin(azimuth_rad), math.cos(azimuth_rad)
    R = np.array([[-s, c, 0], [0, 0, -1], [-c, -s, 0]])  # rows: right, down, forward
    return K, np.column_stack([R, [0, 0, radius_m]]).tolist()


def disc():
    """(64, 64) bool, the person of every synthetic image."""
    y, x = np.mgrid[:MASK_SIDE, :MASK_SIDE] + 0.5
    return (x - 32) ** 2 + ((y - 32) / 1.4) ** 2 < 14**2


def image(i, view, instant, size):
    """(size, size, 3) uint8: a disc on a smooth ground, both coloured by clip, view and instant."""
    ramp = np.linspace(40, 200, size)
    ground = np.stack(
        [
            np.tile(ramp, (size, 1)),
            np.tile(ramp[:, None], (1, size)),
            np.full((size, size), 60 + 30 * view),
        ],
        2,
    )
    shape = disc()[np.ix_(*[np.arange(size) * MASK_SIDE // size] * 2)]
    ground[shape] = [(90 + 37 * i) % 256, (120 + 60 * instant) % 256, 220 - 40 * view]
    return np.clip(ground, 0, 255).astype(np.uint8)


def make_clip(
    i,
    views=2,
    instants=2,
    size=64,
    kinds=("body",),
    source="synthetic",
    calibrated=True,
    masks=True,
    labels=False,
):
    """Clip number i, crops by kind, then instant, then view.

    Cameras stand ANGLE_DEG apart, instants lie GAP_S apart; the overlap of two crops is 1 - 0.2 *
    (difference of views)
    - 0.1 * (difference of instants), at least 0; the mask is disc(), the subject one of three.
    """
    places = [(kind, t, v) for kind in kinds for t in range(instants) for v in range(views)]
    crops, jpegs = [], []
    for kind, t, v in places:
        K, Rt = camera_at(math.radians(ANGLE_DEG * v), size) if calibrated else (None, None)
        crops.append(
            Crop(f"cam{v}", GAP_S * t, kind, K, Rt, [10.0, 20.0, 10.0 + 2 * size, 20.0 + 2 * size])
        )
        jpegs.append(simplejpeg.encode_jpeg(image(i, v, t, size), quality=92, colorspace="RGB"))
    overlap = [
        [max(0.0, 1 - 0.2 * abs(v - w) - 0.1 * abs(t - s)) for _, s, w in places]
        for _, t, v in places
    ]
    truth = None
    if labels:
        joints = np.arange(len(crops) * 6, dtype=np.float32).reshape(len(crops), 2, 3)
        truth = {"joint_set": np.array("toy2"), "joints": joints}
    person = np.repeat(disc()[None], len(crops), 0) if masks else None
    return Clip(
        f"clip{i:05d}",
        source,
        "CC0-1.0",
        f"person{i % 3}",
        size,
        crops,
        jpegs,
        person,
        np.array(overlap),
        truth,
    )


def write_shards(folder, clips, per_shard):
    """Write clips as shards of so many each; returns their paths."""
    paths = []
    for first in range(0, len(clips), per_shard):
        paths.append(str(folder / shard_name(len(paths))))
        write_shard(paths[-1], clips[first : first + per_shard])
    return paths


def rewrite(path, change):
    """Write a tar anew; change(name, data) gives each member's new bytes, or None to leave it
    out."""
    with tarfile.open(path) as tar:
        members = [(m.name, tar.extractfile(m).read()) for m in tar]
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            data = change(name, data)
            if data is not None:
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
