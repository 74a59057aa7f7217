"""Files of FreiHAND and HO-3D: the truth of an evaluation set, and submissions.

truth/evaluation_xyz.json       N lists of 21 x 3, metres
truth/evaluation_verts.json     N lists of 778 x 3
pred.json                       [those of xyz, those of vertices]
"""

import json
import os
from typing import Any

import numpy as np

from data.sources.labelled.places import read_json
from engine.errors import UserError, explain, failure_of
from engine.run.files import write_file
from finetune.evaluation.protocols import Frames

JOINTS, VERTICES = 21, 778
TRUTH = ("evaluation_xyz.json", "evaluation_verts.json")


def read_truth(folder: str) -> Frames:
    """Return the true frames of an evaluation set.

    Raises:
        UserError: a file is not there or is of another format.
    """
    xyz, verts = (os.path.join(folder, name) for name in TRUTH)
    joints = as_points(read_json(xyz), xyz, JOINTS)
    vertices = as_points(read_json(verts), verts, None)
    if len(joints) != len(vertices):
        raise UserError(f"{xyz} holds {len(joints)} frames, {verts} {len(vertices)}")
    return Frames(joints, vertices, name=folder)


def read_submission(path: str) -> Frames:
    """Return the predicted frames of a submission.

    Raises:
        UserError: it cannot be read or is of another format.
    """
    if os.path.isdir(path):
        path = os.path.join(path, "pred.json")
    value = read_json(path)
    if not isinstance(value, list) or len(value) != 2:
        size = f"a list of {len(value)}" if isinstance(value, list) else type(value).__name__
        raise UserError(f"{path} is {size}, not [joints of all frames, vertices of all frames]")
    joints = as_points(value[0], f"{path}, joints", JOINTS)
    vertices = as_points(value[1], f"{path}, vertices", None)
    if len(joints) != len(vertices):
        raise UserError(
            f"{path} holds joints of {len(joints)} frames and vertices of {len(vertices)}"
        )
    return Frames(joints, vertices, name=path)


def write_submission(path: str, found: Frames) -> None:
    """Write predictions as a submission: metres, to a hundredth of a millimetre.

    Raises:
        UserError: there are no vertices, or the file cannot be written.
    """
    if found.vertices is None:
        raise UserError(f"{path}: the submission holds meshes, and {found.name} gives joints alone")
    value = [found.joints.round(5).tolist(), found.vertices.round(5).tolist()]
    try:
        write_file(path, json.dumps(value))
    except OSError as error:
        raise failure_of(error, f"{path} cannot be written: {explain(error)}") from None


def as_points(value: Any, name: str, count: int | None) -> np.ndarray:
    """Return (N, count, 3) float64 of nested lists.

    Args:
        count: of points a frame; None: any that is the same throughout.
    Raises:
        UserError: they are of another shape, or hold something else than numbers.
    """
    wanted = f"frames x {count or 'points'} x 3"
    if not isinstance(value, list):
        raise UserError(f"{name} is {type(value).__name__}, not {wanted} numbers")
    sizes = {len(frame) if isinstance(frame, list) else -1 for frame in value}
    if len(sizes) > 1:
        first, second = sorted(sizes)[:2]
        raise UserError(f"{name}: frames of {first} and of {second} points; {wanted} are wanted")
    try:
        points = np.asarray(value, np.float64)
    except (ValueError, TypeError) as error:
        raise UserError(f"{name} is not {wanted} numbers: {str(error)[:100]}") from None
    if points.ndim != 3 or points.shape[2] != 3 or (count and points.shape[1] != count):
        raise UserError(f"{name} has shape {points.shape}, not {wanted}")
    return points
