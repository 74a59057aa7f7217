"""TRC: places of markers, as OpenSim reads them; a file a body.

Markers are the body's joints of the field's names and its landmarks. Millimetres; x to the
camera's right, y up, z towards the camera. A frame of the video in which somebody is not found has
empty places, which OpenSim reads as missing markers.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from finetune.animation.files import write_parts
from finetune.animation.formats import FORMATS
from finetune.animation.rig import TO_WORLD
from finetune.animation.track import Take, Track

MM = 1000.0  # a metre


@FORMATS.register("trc")
def write_trc(take: Take, stem: Path) -> list[Path]:
    """Write STEM.NAME.trc of each person, a row a frame of the video from their first to last."""
    return [
        write_parts(f"{stem}.{track.name}.trc", _list_lines(take, track, stem))
        for track in take.tracks
    ]


def _list_lines(take: Take, track: Track, stem: Path) -> Iterator[str]:
    names, places = find_markers(track)
    first, last = int(track.frames[0]), int(track.frames[-1])
    count = last - first + 1
    rate = f"{take.fps:.6f}"
    yield f"PathFileType\t4\t(X/Y/Z)\t{stem.name}.{track.name}.trc\n"
    yield (
        "DataRate\tCameraRate\tNumFrames\tNumMarkers\tUnits\tOrigDataRate\tOrigDataStartFrame\t"
        "OrigNumFrames\n"
    )
    yield f"{rate}\t{rate}\t{count}\t{len(names)}\tmm\t{rate}\t1\t{count}\n"
    yield "Frame#\tTime\t" + "".join(f"{name}\t\t\t" for name in names) + "\n"
    yield "\t\t" + "".join(f"X{n}\tY{n}\tZ{n}\t" for n in range(1, len(names) + 1)) + "\n\n"
    row_of = {int(frame): row for row, frame in enumerate(track.frames)}
    for frame in range(first, last + 1):
        head = f"{frame - first + 1}\t{take.times[frame]:.6f}\t"
        if frame in row_of:
            numbers = (places[row_of[frame]] * MM).ravel()
            yield head + "\t".join(f"{value:.4f}" for value in numbers) + "\n"
        else:
            yield head + "\t" * (3 * len(names) - 1) + "\n"


@torch.no_grad()
def find_markers(track: Track) -> tuple[list[str], np.ndarray]:
    """Return names of M markers and (T, M, 3) metres, y up."""
    body = track.body
    names, parts = list(body.landmark_names), []
    device = body.vertex_ids.device
    for _, points in track.walk_points():
        vertices, joints = (
            torch.from_numpy(one).to(device) for one in (points.vertices, points.joints)
        )
        parts.append(body.landmarks(vertices, joints).cpu().numpy())
    return names, np.concatenate(parts).astype(np.float64) @ TO_WORLD.T
