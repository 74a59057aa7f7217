"""Numbers that protocols of bodies share, frame by frame."""

from collections.abc import Sequence

import numpy as np

from finetune.evaluation.protocols import Frames, Value
from finetune.evaluation.scoring.align import align_similarity, centre
from finetune.evaluation.scoring.errors import (
    acceleration_errors,
    area_under,
    distances,
    share_below,
    share_within,
)

MM = 1000.0
# SMPL's joints whose orientations are compared: pelvis, hips, knees, shoulders, elbows.
ORIENTED = (0, 1, 2, 4, 5, 16, 17, 18, 19)
NAN_NOTE = "their scale is 0 / 0, and numbers after the alignment are NaN or noise, as the script's"


def rooted(frames: Frames) -> np.ndarray:
    """Return (N, J, 3) joints about ``pelvis``, or as they are where there is none."""
    if frames.pelvis is None:
        return frames.joints
    return centre(frames.joints, frames.pelvis)


def joint_errors(found: Frames, true: Frames) -> tuple[np.ndarray, np.ndarray]:
    """Return (N, J) errors in mm about the pelvis, and after the alignment."""
    mine, theirs = rooted(found), rooted(true)
    plain = distances(mine, theirs) * MM
    return plain, distances(align_similarity(mine, theirs), theirs) * MM


def vertex_errors(found: Frames, true: Frames) -> list[Value]:
    """Return PVE about the pelvis and PA-PVE in mm, where both have meshes; no script's."""
    if found.vertices is None or true.vertices is None:
        return []
    mine, theirs = found.vertices, true.vertices
    moved = align_similarity(mine, theirs)
    if found.pelvis is not None and true.pelvis is not None:
        mine, theirs = centre(mine, found.pelvis), centre(theirs, true.pelvis)
    aligned = distances(moved, true.vertices).mean() * MM
    return [
        Value("pve", "PVE", float(distances(mine, theirs).mean() * MM), "mm", 2, by_script=False),
        Value("pa_pve", "PA-PVE", float(aligned), "mm", 2, by_script=False),
    ]


def acceleration(found: Frames, true: Frames) -> list[Value]:
    """Return the acceleration error in mm a squared frame, where there are sequences."""
    if true.sequence is None:
        return []
    errors = acceleration_errors(rooted(found), rooted(true), true.sequence)
    if not len(errors):
        return []
    value = float(errors.mean()) * MM
    return [Value("accel", "acceleration error", value, "mm/frame^2", 2, by_script=False)]


def pck_below(errors_mm: np.ndarray, limit_mm: float) -> float:
    """Return the percentage of errors below a limit."""
    return float(share_below(errors_mm, np.array([limit_mm]))[0]) * 100


def pck_within(errors_mm: np.ndarray, limit_mm: float) -> float:
    """Return the percentage of errors that do not exceed a limit."""
    return float(share_within(errors_mm, np.array([limit_mm]))[0]) * 100


def area_within(errors_mm: np.ndarray, limits_mm: np.ndarray) -> float:
    """Return the area under the share of errors within limits, the limits' range being 1."""
    return area_under(limits_mm, share_within(errors_mm, limits_mm))


def angle_errors(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return (N, R) angles in degrees between (N, R, 3, 3) orientations.

    Predictions that are no rotations are brought to the nearest one after the product, by OpenCV,
    as the scripts do.
    """
    import cv2

    product = found @ np.swapaxes(true, -1, -2)
    vectors = [cv2.Rodrigues(matrix)[0] for matrix in product.reshape(-1, 3, 3)]
    angles = np.array([np.linalg.norm(vector) for vector in vectors])
    return np.degrees(angles).reshape(product.shape[:2])


def list_means(named: Sequence[tuple[str, str, np.ndarray, str, int]]) -> list[Value]:
    """Return a Value of the mean of each (key, name, numbers, unit, digits)."""
    return [
        Value(key, name, float(numbers.mean()), unit, digits)
        for key, name, numbers, unit, digits in named
    ]
