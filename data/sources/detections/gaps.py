"""Boxes between those that a file has."""

from collections.abc import Mapping

from data.find.detection import Detection


def fill_gaps(track: Mapping[int, Detection], gap: int) -> dict[int, Detection]:
    """A track with its boxes interpolated linearly across gaps, frames in order.

    Between detections that are at most ``gap`` frames apart. What is between them has a box alone:
    keypoints, hands and masks are not guessed.
    """
    frames = sorted(track)
    out = {frame: track[frame] for frame in frames}
    for first, last in zip(frames, frames[1:], strict=False):
        if 1 < last - first <= gap:
            before, after = track[first], track[last]
            for frame in range(first + 1, last):
                share = (frame - first) / (last - first)
                box = before.box + (after.box - before.box) * share
                score = min(before.score, after.score)
                out[frame] = Detection(box, score, where=before.where)
    return dict(sorted(out.items()))
