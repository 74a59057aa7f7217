"""MOT: joint angles for OpenSim, a file a body.

Degrees and metres; names, signs and axes are those of finetune.animation.angles. A row a frame in
which the person is found: OpenSim takes uneven times.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from finetune.animation.angles import measure_angles
from finetune.animation.files import write_parts
from finetune.animation.formats import FORMATS
from finetune.animation.track import Take, Track

LENGTHS = ("pelvis_tx", "pelvis_ty", "pelvis_tz")


@FORMATS.register("mot")
def write_mot(take: Take, stem: Path) -> list[Path]:
    """Write STEM.NAME.mot of each body; hands have none."""
    return [
        write_parts(f"{stem}.{track.name}.mot", _list_lines(track))
        for track in take.tracks
        if track.kind == "body"
    ]


def _list_lines(track: Track) -> Iterator[str]:
    angles = measure_angles(track)
    columns = [values if name in LENGTHS else np.rad2deg(values) for name, values in angles.items()]
    yield (
        f"Coordinates\nversion=1\nnRows={len(track)}\nnColumns={len(angles) + 1}\ninDegrees=yes\n\n"
        "Units are S.I. units (second, meters, Newtons, ...)\nAngles are in degrees.\n\nendheader\n"
    )
    yield "\t".join(["time", *angles]) + "\n"
    for time, row in zip(track.times, np.column_stack(columns), strict=True):
        yield "\t".join([f"{time:.8f}", *(f"{value:.8f}" for value in row)]) + "\n"
