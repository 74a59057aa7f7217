"""Which feet stand: found from a fit, to be held in the next one."""

import torch

from data.bodies.base import BodyModel
from finetune.fit.scene import Contacts

FEET = ("left_ankle", "right_ankle", "left_toes", "right_toes")
FLOOR_SHARE = 0.1  # of a person's lowest feet, that is taken for the floor
NEAR_M = {"ankle": 0.14, "toes": 0.08}  # a joint that high above the floor stands on it
SLOW_MPS = 0.35
LONGEST_S = 0.34  # between two instants; a foot may have stepped in more


def find_contacts(
    body: BodyModel,
    keypoints: torch.Tensor,
    known: torch.Tensor,
    seconds: torch.Tensor,
    up: str,
) -> Contacts:
    """Return what stands.

    Args:
        keypoints: (S, T, K, 3) of fits, metres.  known: (S, T).  seconds: (S, T).
        up: the world's axis, such as "z" or "-y".
    """
    direction = make_axis(up).to(keypoints)
    names = [name for name in FEET if name in body.keypoint_names]
    rows = torch.tensor([body.keypoint_names.index(name) for name in names])
    feet = keypoints[:, :, rows]
    height = feet @ direction
    lowest = height.amin(2).masked_fill(~known, torch.nan)
    floor = torch.nanquantile(lowest, FLOOR_SHARE, dim=1)
    limit = torch.tensor([NEAR_M[name.partition("_")[2]] for name in names])
    near = height - floor[:, None, None] < limit
    gaps = seconds[:, 1:] - seconds[:, :-1]
    speed = (feet[:, 1:] - feet[:, :-1]).norm(dim=-1) / gaps.clamp_min(1e-3)[..., None]
    pairs = known[:, 1:] & known[:, :-1] & (gaps <= LONGEST_S)
    still = near[:, 1:] & near[:, :-1] & (speed < SLOW_MPS) & pairs[..., None]
    return Contacts(direction, floor, rows, still.float())


def make_axis(up: str) -> torch.Tensor:
    """(3,) unit vector of an axis by name."""
    sign = -1.0 if up.startswith("-") else 1.0
    return sign * torch.eye(3)["xyz".index(up[-1])]
