"""One person over the frames of a file that does not say who is who.

Each frame's boxes are matched with the last box of each person so far by overlap (intersection over
union), best pairs of the whole frame first (the Hungarian method, Kuhn 1955). People are never
found again after a longer absence: who comes back is somebody new. Where people cross, identities
may be exchanged; a tracker that sees the images does better.
"""

from collections.abc import Mapping

import numpy as np

from data.find.assignment import assign_rows
from data.find.detection import Detection, Tracks

LEAST_OVERLAP = 0.3  # a pair has more
LONGEST_ABSENCE = 5  # frames


def link_boxes(frames: Mapping[int, list[Detection]], prefix: str = "t") -> Tracks:
    """{person: {frame: Detection}} of the people in each frame; names count from PREFIX1."""
    tracks: Tracks = {}
    last: dict[str, int] = {}
    for frame in sorted(frames):
        found = frames[frame]
        alive = [who for who, seen in last.items() if frame - seen <= LONGEST_ABSENCE]
        overlaps = _overlaps([tracks[who][last[who]] for who in alive], found)
        pairs = assign_rows(1 - overlaps, 1 - LEAST_OVERLAP)
        taken = {column: alive[row] for row, column in pairs}
        for column, detection in enumerate(found):
            who = taken.get(column) or f"{prefix}{len(tracks) + 1}"
            tracks.setdefault(who, {})[frame] = detection
            last[who] = frame
        last = {who: seen for who, seen in last.items() if frame - seen <= LONGEST_ABSENCE}
    return tracks


def _overlaps(before: list[Detection], now: list[Detection]) -> np.ndarray:
    """(m, n) intersection over union of boxes."""
    if not before or not now:
        return np.zeros((len(before), len(now)))
    a = np.stack([d.box for d in before])[:, None]
    b = np.stack([d.box for d in now])[None]
    size = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.clip(size, 0, None).prod(-1)
    areas = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1)
    return shared / (areas - shared)
