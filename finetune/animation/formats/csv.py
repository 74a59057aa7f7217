"""CSV: a row a person and frame, for tables."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from engine.geometry import matrix_to_axis_angle
from finetune.animation.files import write_parts
from finetune.animation.formats import FORMATS
from finetune.animation.track import Take, Track

BOX = ["x0", "y0", "x1", "y1"]
HEAD = ["frame", "time_s", "person", "confidence", *BOX, "smoothing", "filled"]
AXES = ("x", "y", "z")


@FORMATS.register("csv")
def write_csv(take: Take, stem: Path) -> list[Path]:
    """Write STEM.csv, or STEM.BODY.csv for each body model where there are several.

    Columns: frame, seconds, person, confidence, box in pixels, what smoothed the person, whether a
    motion module filled the frame (1), the shape's numbers, then of each joint its place (JOINT.x,
    .y, .z, metres in the camera's frame) and its rotation against its parent as a rotation vector
    (JOINT.rx, .ry, .rz, radians).
    """
    by_body: dict[str, list[Track]] = {}
    for track in take.tracks:
        by_body.setdefault(track.body.name, []).append(track)
    single = len(by_body) == 1
    return [
        write_parts(f"{stem}.csv" if single else f"{stem}.{name}.csv", _list_rows(tracks))
        for name, tracks in by_body.items()
    ]


def _list_rows(tracks: list[Track]) -> Iterator[str]:
    body = tracks[0].body
    columns = [*HEAD, *body.shape_space.names]
    for prefix in ("", "r"):
        columns += [f"{joint}.{prefix}{axis}" for joint in body.joint_names for axis in AXES]
    yield _word(columns)
    for track in tracks:
        joints, _ = track.skeleton
        vectors = matrix_to_axis_angle(torch.from_numpy(track.pose)).numpy()
        for row in range(len(track)):
            numbers = [track.box[row], track.shape, joints[row].ravel(), vectors[row].ravel()]
            yield _word(
                [
                    int(track.frames[row]),
                    f"{track.times[row]:.6f}",
                    track.name,
                    f"{track.confidence[row]:.4f}",
                    *(f"{value:.6f}" for value in numbers[0]),
                    track.smoothing,
                    int(track.filled[row]),
                    *(f"{value:.6f}" for value in np.concatenate(numbers[1:])),
                ]
            )


def _word(values: list) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()
