"""Where in an image a person is asked for: the anchor, a joint that the image shows.

It is the head where that is in the image, hidden or not: of a crowd heads are seen, and they lie
apart. Else it is the joint that ORDER names first of those that are seen, else of those that are
in the image.
"""

from dataclasses import dataclass

import torch

from data.bodies.anny_layout import ANNY, KEYPOINTS
from data.format.labels import OUTSIDE, SEEN
from finetune.scene.config import SLOTS

HEAD = "head"
# The head, then down the body's middle, then from its middle outwards; after these all others.
FIRST = (
    HEAD,
    "neck",
    "chest",
    "spine",
    "pelvis",
    *("left_shoulder", "right_shoulder", "left_hip", "right_hip"),
    *("left_elbow", "right_elbow", "left_knee", "right_knee"),
    *("left_wrist", "right_wrist", "left_ankle", "right_ankle"),
)
EARS, COCO_NOSE = (3, 4), 0  # of coco17's points


def list_order() -> list[int]:
    """Return the numbers of anny's joints, the one first that is an anchor before all others."""
    first = [ANNY.joint_names.index(KEYPOINTS[name]) for name in FIRST]
    return first + [joint for joint in range(len(ANNY.joint_names)) if joint not in first]


ORDER = list_order()


@dataclass(eq=False)
class Anchors:
    """Where the M people of B images are asked for.

    Attributes:
        there: (B, M) bool, whether somebody is asked for.
        pixel: (B, M, 2) x and y in the image.
        joint: (B, M) long, which of anny's joints it is; the head of people of keypoints alone.
        token: (B, M) long, the token that it lies in, row by row.
        slot: (B, M) long, 0 for the nearest person in a token, 1 for the next.
    """

    there: torch.Tensor
    pixel: torch.Tensor
    joint: torch.Tensor
    token: torch.Tensor
    slot: torch.Tensor


def choose_joints(visible: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ((...) long anchor joint, (...) bool whether there is one) of people.

    Args:
        visible: (..., J) 0 outside the image, 1 hidden, 2 seen.
    """
    order = torch.tensor(ORDER, device=visible.device)
    ordered = visible[..., order]
    head = torch.zeros(len(ORDER), device=visible.device)
    head[0] = 2
    worth = (ordered == SEEN).float() + (ordered != OUTSIDE).float() * (1 + head)
    # The first of the largest: argmax of equal numbers may give any of them.
    place = torch.arange(len(ORDER), device=visible.device)
    best = worth.amax(-1, keepdim=True)
    first = torch.where(worth == best, place, len(ORDER)).amin(-1)
    return order[first], best[..., 0] > 0


def choose_keypoints(points: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """Return (..., 3) x, y and 1 where a head is, of people of coco17's points alone; 0: nowhere.

    The middle of both ears, else the first point that is labelled, as coco17 lists them.

    Args:
        points: (..., 17, 3).  visible: (..., 17).
    """
    known = visible != OUTSIDE
    place = torch.arange(known.shape[-1], device=known.device)
    first = torch.where(known, place, len(place)).amin(-1).clamp_max(len(place) - 1)
    one = points[..., :2].gather(-2, first[..., None, None].expand(*first.shape, 1, 2))[..., 0, :]
    ears = points[..., EARS, :2].mean(-2)
    both = known[..., EARS].all(-1, keepdim=True)
    at = torch.where(both, ears, one)
    return torch.cat([at, known.any(-1, keepdim=True).float()], -1)


def place_anchors(
    there: torch.Tensor,
    pixel: torch.Tensor,
    joint: torch.Tensor,
    depth: torch.Tensor,
    grid: tuple[int, int],
    patch: int,
) -> Anchors:
    """Return the Anchors of people whose anchors' pixels (B, M, 2) are known.

    Of those whose anchors lie in one token the nearest is in slot 0; after SLOTS of them the others
    are not asked for.

    Args:
        depth: (B, M) of the anchors, metres.  grid: (rows, columns) of tokens.
    """
    rows, columns = grid
    cell = (pixel / patch).floor().long()
    inside = (cell >= 0).all(-1) & (cell[..., 0] < columns) & (cell[..., 1] < rows)
    there = there & inside
    token = torch.where(there, cell[..., 1] * columns + cell[..., 0], 0)
    same = (token[:, :, None] == token[:, None]) & there[:, :, None] & there[:, None]
    place = torch.arange(there.shape[1], device=there.device)
    before = depth[:, None] < depth[:, :, None]
    before |= (depth[:, None] == depth[:, :, None]) & (place[None] < place[:, None])
    slot = (same & before).sum(-1)
    there = there & (slot < SLOTS)
    return Anchors(there, pixel, joint, token, slot.clamp_max(SLOTS - 1))


def draw_heat(anchors: Anchors, grid: tuple[int, int]) -> torch.Tensor:
    """Return (B, N, SLOTS) what the heat map is to be: whether a slot of a token holds somebody."""
    count = grid[0] * grid[1]
    heat = torch.zeros(len(anchors.there), count * SLOTS, device=anchors.there.device)
    place = anchors.token * SLOTS + anchors.slot
    heat.scatter_add_(1, place, anchors.there.float())
    return heat.clamp_max(1).unflatten(1, (count, SLOTS))


def token_centres(token: torch.Tensor, columns: int, patch: int) -> torch.Tensor:
    """Return (..., 2) pixels of the middles of tokens (...), counted row by row."""
    row = token.div(columns, rounding_mode="floor")
    return torch.stack([token - row * columns, row], -1).float().add(0.5) * patch
