"""How far a recovered body or hand is from what was found: keypoints, outline, facing.

PCK@a: share of the keypoints that lie within a times the longer side of the person's box (Andriluka
et al., CVPR 2014, normalise by the head; by the box as in PCK of Yang and Ramanan, TPAMI 2013).
"""

from collections.abc import Sequence

import numpy as np
import torch

from engine.pose_metrics import pa_mpjpe
from finetune.referee.truth import JUDGED, Seen

SURE = 0.3  # of a keypoint's confidence, to be judged
PCK = (0.1, 0.2)
FACING_DEG = 45.0
LEFT_SHOULDER, RIGHT_SHOULDER = JUDGED.index("left_shoulder"), JUDGED.index("right_shoulder")
LEFT_HIP, RIGHT_HIP = JUDGED.index("left_hip"), JUDGED.index("right_hip")
LEFT_KNEE, RIGHT_KNEE = JUDGED.index("left_knee"), JUDGED.index("right_knee")
LEFT_ANKLE, RIGHT_ANKLE = JUDGED.index("left_ankle"), JUDGED.index("right_ankle")
WRIST, INDEX_BASE, LITTLE_BASE = 0, 5, 17  # of hand21
LEAST_POINTS = 6  # joints known in 3D from which errors are told
SEEN_FLAT = 0.25  # sine of the angle index, wrist, little finger: below, a palm is seen edge on


def hits(points: np.ndarray, seen: Seen) -> np.ndarray:
    """(2, n) 1 where a joint is within 0.1 and 0.2 of the box's longer side, 0 where not.

    NaN where it was not found surely enough.

    Args:
        points: (n, 2) pixels, in the order of ``seen.joints``.
    """
    side = float((seen.box[2:] - seen.box[:2]).max())
    away = np.linalg.norm(points - seen.joints[:, :2], axis=1) / side
    out = np.array([away < limit for limit in PCK], np.float64)
    out[:, seen.joints[:, 2] < SURE] = np.nan
    return out


def outline_iou(drawn: np.ndarray, seen: Seen) -> float:
    """Area that two outlines share over the area that they cover; NaN where none was found.

    Args:
        drawn: (64, 64) bool over ``seen.square``.
    """
    if seen.mask is None:
        return float("nan")
    covered = (drawn | seen.mask).sum()
    return float((drawn & seen.mask).sum() / covered) if covered else float("nan")


def is_standing(seen: Seen) -> bool:
    """Whether a whole person stands there, nothing of whom is hidden, as far as keypoints tell.

    All twelve joints are found, ankles below knees below hips below shoulders, and the legs are
    straight enough: hip to ankle is at least nine tenths of hip to knee and knee to ankle.
    """
    points, sure = seen.joints[:, :2], seen.joints[:, 2]
    if (sure < SURE).any():
        return False
    for side in (0, 1):
        shoulder, hip = points[LEFT_SHOULDER + side], points[LEFT_HIP + side]
        knee, ankle = points[LEFT_KNEE + side], points[LEFT_ANKLE + side]
        if not shoulder[1] < hip[1] < knee[1] < ankle[1]:
            return False
        length = np.linalg.norm(knee - hip) + np.linalg.norm(ankle - knee)
        if np.linalg.norm(ankle - hip) < 0.9 * length:
            return False
    return True


def front_of(joints: np.ndarray) -> np.ndarray:
    """(3,) unit direction to the front of a body.

    Across from right to left, by shoulders and hips, and from the hips up: their cross product.

    Args:
        joints: (12, 3) of JUDGED, in any right-handed frame.
    """
    across = joints[LEFT_SHOULDER] + joints[LEFT_HIP] - joints[RIGHT_SHOULDER] - joints[RIGHT_HIP]
    up = joints[LEFT_SHOULDER] + joints[RIGHT_SHOULDER] - joints[LEFT_HIP] - joints[RIGHT_HIP]
    front = np.cross(across, up)
    return front / max(float(np.linalg.norm(front)), 1e-12)


def palm_of(joints: np.ndarray) -> np.ndarray:
    """(3,) unit normal of a palm: from its wrist to index and little finger, their cross product.

    It leaves a right hand through its back and a left one through its palm: only hands of one side
    are compared.

    Args:
        joints: (21, 3) of hand21.
    """
    normal = np.cross(joints[INDEX_BASE] - joints[WRIST], joints[LITTLE_BASE] - joints[WRIST])
    return normal / max(float(np.linalg.norm(normal)), 1e-12)


def faces_right(front: np.ndarray, true: np.ndarray) -> float:
    """1 where two unit directions (3,) of one frame agree within 45 degrees, else 0."""
    return float(float(front @ true) >= np.cos(np.deg2rad(FACING_DEG)))


def faces_right_flat(points: np.ndarray, seen: Seen) -> float:
    """1 where shoulders and hips lie the same way round in the image, 0 where not.

    That tells front from back; of somebody seen from the side, whose shoulders are nearer to each
    other than a third of the trunk's length, it tells nothing: NaN.

    Args:
        points: (12, 2) pixels of JUDGED, as recovered.
    """
    true, sure = seen.joints[:, :2], seen.joints[:, 2]
    four = [LEFT_SHOULDER, RIGHT_SHOULDER, LEFT_HIP, RIGHT_HIP]
    if (sure[four] < SURE).any():
        return float("nan")
    trunk = (
        np.linalg.norm(
            true[LEFT_SHOULDER] + true[RIGHT_SHOULDER] - true[LEFT_HIP] - true[RIGHT_HIP]
        )
        / 2
    )
    across = true[LEFT_SHOULDER] - true[RIGHT_SHOULDER]
    if np.linalg.norm(across) < trunk / 3:
        return float("nan")
    found = points[LEFT_SHOULDER] - points[RIGHT_SHOULDER]
    return float(found @ across > 0)


def palm_right_flat(points: np.ndarray, seen: Seen) -> float:
    """1 where the image shows the same face of both hands, palm or back, 0 where not.

    By the sense in which wrist, index finger and little finger lie; NaN where the true palm is seen
    edge on, or was not found surely enough.

    Args:
        points: (21, 2) pixels of hand21, as recovered.
    """
    true, sure = seen.joints[:, :2], seen.joints[:, 2]
    if (sure[[WRIST, INDEX_BASE, LITTLE_BASE]] < SURE).any():
        return float("nan")
    sine = _palm_sine(true)
    if abs(sine) < SEEN_FLAT:
        return float("nan")
    return float(_palm_sine(points) * sine > 0)


def _palm_sine(points: np.ndarray) -> float:
    """The sine of the angle at the wrist from index to little finger, in the image."""
    a, b = points[INDEX_BASE] - points[WRIST], points[LITTLE_BASE] - points[WRIST]
    sizes = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a[0] * b[1] - a[1] * b[0]) / max(sizes, 1e-12)


def joint_errors_mm(
    found: np.ndarray, true: np.ndarray, roots: Sequence[int]
) -> tuple[float, float]:
    """(MPJPE, PA-MPJPE) in mm of joints (n, 3), the first about the middle of the roots.

    Joints of ``true`` that are NaN are left out.

    Args:
        roots: places of joints.
    """
    known = np.asarray(np.isfinite(true).all(1))
    middle = list(roots)
    if known.sum() < LEAST_POINTS or not known[middle].all():
        return float("nan"), float("nan")
    both = [
        torch.from_numpy(points - points[middle].mean(0))[None, known] for points in (found, true)
    ]
    plain = torch.linalg.vector_norm(both[0] - both[1], dim=-1).mean()
    return 1000 * float(plain), float(pa_mpjpe(*both))
