"""The motion files of DeepMimic, which pybullet's wheel brings (``humanoid3d_*.txt``).

JSON of frames of 44 numbers: seconds, the root's place, then rotations as quaternions (w, x, y, z),
or an angle about z at knees and elbows (DeepMimic's README, "Mocap Data"). The humanoid's zero pose
hangs its arms, has y up and faces +x (data/characters/humanoid3d.txt in the same repository).
"""

import json
import os

import numpy as np

from data.people.recorded.bvh import Y_UP
from data.people.recorded.track import Track, make_track
from engine.errors import UserError, explain, failure_of

MOST_BYTES = 1 << 28
WIDTH = 44
# name, parent, where it is on the parent in metres, and how many numbers a frame has for it
_JOINTS = (
    ("pelvis", -1, (0, 0, 0), 4),
    ("chest", 0, (0, 0.236, 0), 4),
    ("head", 1, (0, 0.224, 0), 4),
    ("right_hip", 0, (0, 0, 0.085), 4),
    ("right_knee", 3, (0, -0.422, 0), 1),
    ("right_ankle", 4, (0, -0.41, 0), 4),
    ("right_shoulder", 1, (-0.024, 0.244, 0.183), 4),
    ("right_elbow", 6, (0, -0.275, 0), 1),
    ("left_hip", 0, (0, 0, -0.085), 4),
    ("left_knee", 8, (0, -0.422, 0), 1),
    ("left_ankle", 9, (0, -0.41, 0), 4),
    ("left_shoulder", 1, (-0.024, 0.244, -0.183), 4),
    ("left_elbow", 11, (0, -0.275, 0), 1),
    ("right_wrist", 7, (0, -0.259, 0), 0),
    ("left_wrist", 12, (0, -0.259, 0), 0),
)


def read_mimic(path: str) -> Track:
    """The Track in a file of DeepMimic's format.

    Raises:
        UserError: it cannot be read, or is no such file.
    """
    try:
        if os.path.getsize(path) > MOST_BYTES:
            raise UserError(f"{path} is refused: {os.path.getsize(path)} bytes")
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        frames = np.array(content["Frames"], np.float64)
        if frames.ndim != 2 or frames.shape[1] != WIDTH:
            raise ValueError(f"its Frames are {frames.shape}, not (F, {WIDTH})")
        if len(frames) < 2 or not np.isfinite(frames).all() or not frames[0, 0] > 0:
            raise ValueError("at least 2 frames of finite numbers and of some length are needed")
    except OSError as error:
        raise failure_of(error, f"{path} cannot be read: {explain(error)}") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = "it has no Frames" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{path} is no motion of DeepMimic's format: {reason}") from None
    local = np.tile(np.eye(3), (len(frames), len(_JOINTS), 1, 1))
    column = 4
    for joint, (_, _, _, size) in enumerate(_JOINTS):
        part = frames[:, column : column + size]
        if size == 4:
            local[:, joint] = _from_quaternions(part)
        elif size:
            local[:, joint] = _about_z(part[:, 0])
        column += size
    roles = {name: joint for joint, (name, _, _, _) in enumerate(_JOINTS)}
    parents = [parent for _, parent, _, _ in _JOINTS]
    offsets = np.array([offset for _, _, offset, _ in _JOINTS], np.float64)
    return make_track(roles, parents, offsets, local, frames[:, 1:4], Y_UP, 1 / frames[0, 0])


def _from_quaternions(values: np.ndarray) -> np.ndarray:
    """(F, 3, 3) rotations of (F, 4) quaternions w, x, y, z of any length."""
    w, x, y, z = (values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-9)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, 1) for row in rows], 1)


def _about_z(angle: np.ndarray) -> np.ndarray:
    """(F, 3, 3) rotations about z by (F,) radians."""
    out = np.tile(np.eye(3), (len(angle), 1, 1))
    out[:, 0, 0] = out[:, 1, 1] = np.cos(angle)
    out[:, 1, 0] = np.sin(angle)
    out[:, 0, 1] = -np.sin(angle)
    return out
