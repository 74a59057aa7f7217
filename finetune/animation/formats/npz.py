"""NPZ: all numbers of a take, for programs."""

import io
import json
from pathlib import Path

import numpy as np

from engine.geometry import project
from finetune.animation.files import write_bytes
from finetune.animation.formats import FORMATS
from finetune.animation.track import Take

FORMAT = 1
MEASURED = ("uncertainty", "error_rad", "found", "error_px")


@FORMATS.register("npz")
def write_npz(take: Take, stem: Path) -> list[Path]:
    """Write STEM.npz.

    "times" (F,) of all frames, "size" (2,), "intrinsics" (3, 3), "about" (JSON: format, video, a
    list of tracks with name, kind, body, variant, smoothing, joint_names, keypoint_names), and for
    each track NAME/frames, /times, /pose, /shape, /translation, /confidence, /box, /hands, /held,
    /filled, /refined, where there are such /uncertainty, /error_rad, /found and /error_px
    (finetune.animation.track.Track), and its posed /joints, /keypoints (metres, camera's frame) and
    /keypoints_2d.
    """
    arrays = {
        "times": take.times,
        "size": np.array([take.width, take.height]),
        "intrinsics": take.intrinsics,
        "about": np.array(json.dumps(_describe(take))),
    }
    for track in take.tracks:
        for name in ("frames", "times", "pose", "shape", "translation", "confidence", "box"):
            arrays[f"{track.name}/{name}"] = getattr(track, name)
        for name in ("hands", "held", "filled", "refined", *MEASURED):
            if getattr(track, name) is not None:
                arrays[f"{track.name}/{name}"] = getattr(track, name)
        joints, keypoints = track.skeleton
        flat, _ = project(keypoints.reshape(-1, 3), track.intrinsics, np.eye(3, 4))
        arrays[f"{track.name}/joints"] = joints
        arrays[f"{track.name}/keypoints"] = keypoints
        arrays[f"{track.name}/keypoints_2d"] = flat.reshape(*keypoints.shape[:2], 2).astype(
            np.float32
        )
    file = io.BytesIO()
    # pyrefly: ignore[bad-argument-type]
    np.savez_compressed(file, **arrays)
    return [write_bytes(f"{stem}.npz", file.getvalue())]


def _describe(take: Take) -> dict:
    return {
        "format": FORMAT,
        "video": Path(take.video).name,
        "units": "metres, pixels, seconds, rotation matrices",
        "axes": "camera: x right, y down, z forward; the first pixel's centre is at (0.5, 0.5)",
        "tracks": [
            {
                "name": track.name,
                "kind": track.kind,
                "body": track.body.name,
                "variant": track.body.variant,
                "smoothing": track.smoothing,
                "joint_names": list(track.body.joint_names),
                "keypoint_names": list(track.body.keypoint_names),
            }
            for track in take.tracks
        ],
    }
