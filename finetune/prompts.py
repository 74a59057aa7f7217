"""Keypoints that a detector or somebody found, given to a head beside the image.

They are optional wherever they are taken: a keypoint of confidence 0 is one that nobody found, and
all of them are at 0 where there are none. In training true keypoints stand for found ones, with
the faults of detectors: they are off, some are missing, left and right are swapped.
"""

from collections.abc import Sequence

import numpy as np
import torch

from data.bodies.base import BodyModel
from data.cropping.geometry import Size
from data.format.joint_sets import find_joint_set
from finetune.crop_camera import to_shares
from finetune.heads.base import Prediction
from finetune.losses import project_points

# A body's are the face's five points and then the limbs' twelve, each left and right.
PROMPTED: dict[str, tuple[str, ...]] = {
    "body": find_joint_set("coco17").joints,
    "hand": find_joint_set("hand21").joints,
}
FACE = 5  # of a body's, the first; networks of before have the limbs alone (head.prompt_face)
LEGS = slice(-6, None)
SURE = 0.3  # of a found keypoint's confidence, to be given
LEAST_SIGMA, MOST_SIGMA = 0.003, 0.03  # of the image's side
DROPPED, STRAYED, SWAPPED = 0.12, 0.04, 0.03
NO_LEGS = 0.05  # of crops whose legs nobody found, as behind a table
TURNED_FOUND = 0.3  # of faces that look away: how many are found nevertheless
STRAY = 0.3  # how far a stray keypoint may lie, of the image's side


def count_prompted(kind: str, face: bool) -> int:
    """Return how many keypoints a head takes. ``kind``: "body" or "hand"."""
    return len(PROMPTED[kind]) - (FACE if kind == "body" and not face else 0)


def make_prompts(
    body: BodyModel, true: Prediction, K: torch.Tensor, size: Size, u: torch.Tensor, share: float
) -> torch.Tensor:
    """Return (B, K, 3) keypoints of people as a detector would find them; see spoil_keypoints.

    Points that the body model does not have are not given, nor most of a face that looks away.

    Args:
        body: the body model of ``true``, coarse or full.
        true: the people, posed.
        K: (B, 3, 3) intrinsics of images of ``size`` px.
        u: (B, columns.PROMPT) uniform numbers.
        share: of crops that are prompted at all.
    """
    points, known = _find_points(body, true)
    flat = to_shares(project_points(points, K), size)
    if body.kind == "body" and "nose" in body.landmark_names:
        known = known & ~_hide_faces(points, u[:, 0])
    return spoil_keypoints(flat, u, share) * known[..., None]


def tell_prompts(body: BodyModel, true: Prediction, K: torch.Tensor, size: Size) -> torch.Tensor:
    """Return (B, K, 3) true keypoints of people: all within the image, hidden or not.

    Args: as make_prompts has them.
    """
    points, known = _find_points(body, true)
    flat = to_shares(project_points(points, K), size)
    given = known & (flat.abs() < 0.5).all(-1)
    return torch.cat([flat, torch.ones_like(flat[..., :1])], -1) * given[..., None]


def _find_points(body: BodyModel, true: Prediction) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, K, 3) points in the cameras' frames in the order of PROMPTED; (B, K) which there are."""
    names = body.landmark_names
    wanted = PROMPTED[body.kind]
    rows = [names.index(name) if name in names else 0 for name in wanted]
    points = body.landmarks(true.vertices, true.joints)[:, rows]
    known = torch.tensor([name in names for name in wanted], device=points.device)
    return points, known.expand(len(points), -1)


def _hide_faces(points: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """(B, K) which points nobody finds: nose and eyes of most faces that look away.

    Args:
        points: (B, K, 3) in the cameras' frames, in the order of PROMPTED.
        u: (B,) uniform numbers.
    """
    ahead = points[:, 0] - points[:, 3:5].mean(1)
    away = (ahead * points[:, 0]).sum(1) > 0
    # The last digits of a number that says something else too: as good as one of their own.
    hidden = away & ((u * 97) % 1 > TURNED_FOUND)
    out = torch.zeros(points.shape[:2], dtype=torch.bool, device=points.device)
    out[:, :3] = hidden[:, None]
    return out


def spoil_keypoints(points: torch.Tensor, u: torch.Tensor, share: float) -> torch.Tensor:
    """Return (B, K, 3) prompts: x and y about the image's middle over its side, and 1 or 0.

    Args:
        points: (B, K, 2) true keypoints likewise, in the order of PROMPTED.
        u: (B, columns.PROMPT) uniform numbers.
        share: of crops that are prompted at all.
    """
    count = points.shape[1]
    whole, single = u[:, :3], u[:, 3:].unflatten(1, (-1, 4))[:, :count]
    points = torch.where((whole[:, 2] < SWAPPED)[:, None, None], _swap(points), points)
    sigma = LEAST_SIGMA * (MOST_SIGMA / LEAST_SIGMA) ** whole[:, 1]
    normal = torch.erfinv((2 * single[..., :2] - 1).clamp(-0.9999, 0.9999)) * 2**0.5
    found = points + normal * sigma[:, None, None]
    # One number tells whether a keypoint is missing, right, or far off; what is left of it, where.
    fate = single[..., 2]
    strayed = (fate > 1 - STRAYED)[..., None]
    angle = 2 * torch.pi * single[..., 3]
    aside = torch.stack([angle.cos(), angle.sin()], -1) * STRAY * ((1 - fate) / STRAYED)[..., None]
    found = torch.where(strayed, points + aside, found)
    inside = (points.abs() < 0.5).all(-1)
    given = inside & (fate > DROPPED) & (whole[:, 0] < share)[:, None]
    if _is_body(points):
        given[:, LEGS] &= (whole[:, 2] < 1 - NO_LEGS)[:, None]
    return torch.cat([found, torch.ones_like(found[..., :1])], -1) * given[..., None]


def _is_body(points: torch.Tensor) -> bool:
    return points.shape[1] == len(PROMPTED["body"])


def _swap(points: torch.Tensor) -> torch.Tensor:
    """Points with left and right exchanged; of a hand, which has one side, the same points."""
    if not _is_body(points):
        return points
    pairs = points[:, 1:].unflatten(1, (-1, 2)).flip(2).flatten(1, 2)
    return torch.cat([points[:, :1], pairs], 1)


def place_keypoints(
    found: Sequence[np.ndarray | None], squares: np.ndarray, kind: str
) -> np.ndarray:
    """Return (n, K, 3) float32 prompts of what was found in an image.

    Args:
        found: (K, 3) x, y in pixels of the image and confidence, in the order of PROMPTED; None
            where nothing is known.
        squares: (n, 4) x0, y0, x1, y1 of the crops.
        kind: "body" or "hand".
    """
    out = np.zeros((len(found), len(PROMPTED[kind]), 3), np.float32)
    for row, keypoints, square in zip(out, found, squares, strict=True):
        if keypoints is None:
            continue
        middle, side = (square[:2] + square[2:]) / 2, square[2] - square[0]
        row[:, :2] = (keypoints[:, :2] - middle) / side
        row[:, 2] = (keypoints[:, 2] >= SURE) & (np.abs(row[:, :2]) < 0.5).all(1)
        row[:, :2] *= row[:, 2:]
    return out


def mirror_prompts(prompts: torch.Tensor, flip: torch.Tensor) -> torch.Tensor:
    """Prompts of hands (B, K, 3) for images of which ``flip`` (B,) are mirrored."""
    sign = torch.where(flip, -1.0, 1.0)[:, None]
    return torch.stack([prompts[..., 0] * sign, prompts[..., 1], prompts[..., 2]], -1)
