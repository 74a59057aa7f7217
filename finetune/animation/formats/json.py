"""JSON: parameters and joints of each person and frame, for programs and people."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from finetune.animation.files import write_parts
from finetune.animation.formats import FORMATS
from finetune.animation.track import Take, Track
from finetune.export import DIGITS

FORMAT = 1
SIDES = ("left", "right")


@FORMATS.register("json")
def write_json(take: Take, stem: Path) -> list[Path]:
    """Write STEM.json: {"format", "units", "axes", "video", "people": [{"name", "frames": [...]}]}.

    A frame of a person holds "frame", "time_s", "confidence", "box", "translation", "pose"
    (rotation matrices), "joints", "keypoints", and what else is known. A frame in which somebody is
    not found is not listed, unless a motion module filled it ("filled"). Numbers have 6 digits
    after the point.
    """
    return [write_parts(f"{stem}.json", _list_parts(take))]


def _list_parts(take: Take) -> Iterator[str]:
    """The document in pieces, one a frame, so that it never is in memory as a whole."""
    head = {
        "format": FORMAT,
        "units": "metres, pixels, seconds, rotation matrices",
        "axes": "camera: x right, y down, z forward; the first pixel's centre is at (0.5, 0.5)",
        "video": {
            "name": Path(take.video).name,
            "frames": len(take.times),
            "fps": round(take.fps, DIGITS),
            "width": take.width,
            "height": take.height,
            "intrinsics": take.intrinsics.tolist(),
            **({"focal_length_from": take.focal_from} if take.focal_from else {}),
        },
    }
    yield json.dumps(head)[:-1] + ', "people": ['
    for number, track in enumerate(take.tracks):
        yield (",\n" if number else "\n") + json.dumps(_describe(track))[:-1] + ', "frames": [\n'
        for row in range(len(track)):
            yield (",\n" if row else "") + json.dumps(_describe_row(track, row))
        yield "\n]}"
    yield "\n]}\n"


def _describe(track: Track) -> dict:
    return {
        "name": track.name,
        "kind": track.kind,
        "body": track.body.name,
        "smoothing": track.smoothing,
        "joint_names": list(track.body.joint_names),
        "keypoint_names": list(track.body.keypoint_names),
        "shape_names": list(track.body.shape_space.names),
        "shape": _round(track.shape),
    }


def _describe_row(track: Track, row: int) -> dict:
    joints, keypoints = track.skeleton
    out = {
        "frame": int(track.frames[row]),
        "time_s": round(float(track.times[row]), DIGITS),
        "confidence": round(float(track.confidence[row]), DIGITS),
        "box": _round(track.box[row]),
        "translation": _round(track.translation[row]),
        "pose": _round(track.pose[row]),
        "joints": _round(joints[row]),
        "keypoints": _round(keypoints[row]),
    }
    if track.filled[row]:
        out["filled"] = True
    if track.error_rad is not None:
        out["error_rad"] = round(float(track.error_rad[row]), DIGITS)
    if track.uncertainty is not None:
        out["uncertainty"] = _round(track.uncertainty[row])
    if track.error_px is not None:
        out["refined"] = bool(track.refined[row])
        if np.isfinite(track.error_px[row]):
            out["error_px"] = round(float(track.error_px[row]), 2)
    for name in ("hands", "held"):
        has = getattr(track, name)[row]
        if has.any():
            out[name] = [side for side, is_so in zip(SIDES, has, strict=True) if is_so]
    return out


def _round(values: np.ndarray) -> list:
    return np.round(np.asarray(values, np.float64), DIGITS).tolist()
