"""What of the truth is labelled, where crops of one batch are labelled each in its own way.

Losses read the truth through this: keypoints as the network's images show them and how surely they
are known, whoever labelled them (data.loading.partial_crops). A crop with a body's parameters knows
all its keypoints.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from data.bodies.base import BodyModel, mirrored
from data.loading.partial_crops import MESH, PARTS

if TYPE_CHECKING:
    from finetune.views import View

ABSENT = (
    -1.0
)  # times the image's longer side: where an unknown keypoint is put, outside of the image


@dataclass(eq=False)
class Given:
    """The labels of B crops, for K keypoints of the run's body model.

    Attributes:
        present: (B, 3) bool, which of data.loading.partial_crops.PARTS are labelled.
        points_2d: (B, K, 2) pixels of the network's images; outside of them where unknown.
        weights_2d: (B, K) confidence from 0 to 1.
        points_3d: (B, K, 3) metres in the axes of the images' cameras. Where they are as a whole
            may be unknown: differences alone mean something.
        weights_3d: (B, K).
    """

    present: torch.Tensor
    points_2d: torch.Tensor
    weights_2d: torch.Tensor
    points_3d: torch.Tensor
    weights_3d: torch.Tensor


def tell_known(present: torch.Tensor, needs: Sequence[str]) -> torch.Tensor:
    """Returns (B,) bool, whether a crop holds one of the parts that a term is computed from.

    Args:
        present: (B, 3) as of Given.  needs: names out of PARTS; none: every crop will do.
    """
    if not needs:
        return torch.ones_like(present[:, 0], dtype=torch.bool)
    columns = [PARTS.index(name) for name in needs]
    return present[:, columns].bool().any(1)


def read_given(
    batch: Mapping[str, torch.Tensor],
    seen: "View",
    true: tuple[torch.Tensor, torch.Tensor],
    size: int,
    body: BodyModel,
) -> Given:
    """Returns what is labelled of a batch of data.loading.partial_crops arrays as tensors.

    Args:
        seen: how the images show the crops.
        true: keypoints (B, K, 3) of the true mesh, which count where there is one, and where the
            images show them, (B, K, 2) pixels.
        size: the images' longer side, pixels.
        body: whose keypoints they are.
    """
    keypoints, projected = true
    present = batch["present"].bool()
    has_mesh = present[:, MESH, None]
    points_2d, weights_2d = batch["points_2d"].split((2, 1), -1)
    points_3d, weights_3d = batch["points_3d"].split((3, 1), -1)
    weights_2d, weights_3d = weights_2d[..., 0], weights_3d[..., 0]
    shown = _show_pixels(points_2d, batch["K"], seen)
    turned = _turn(points_3d, seen)
    # A mirrored image is that of a mirrored person, whose left is the right.
    order = torch.arange(len(body.keypoint_mirror), device=shown.device)
    order = torch.where(seen.flip[:, None], body.keypoint_mirror.to(order), order)
    shown, turned, weights_2d, weights_3d = (
        _reorder(values, order) for values in (shown, turned, weights_2d, weights_3d)
    )
    shown = torch.where(weights_2d[..., None] > 0, shown, ABSENT * size)
    return Given(
        present,
        torch.where(has_mesh[..., None], projected, shown),
        torch.where(has_mesh, 1.0, weights_2d),
        torch.where(has_mesh[..., None], keypoints, turned),
        torch.where(has_mesh, 1.0, weights_3d),
    )


def _show_pixels(points: torch.Tensor, K: torch.Tensor, seen: "View") -> torch.Tensor:
    """(B, N, 2) pixels of the decoded crops as pixels of the images, by both cameras' rays."""
    focal = K[:, None, [0, 1], [0, 1]]
    y = (points[..., 1] - K[:, None, 1, 2]) / focal[..., 1]
    x = (points[..., 0] - K[:, None, 0, 2] - K[:, None, 0, 1] * y) / focal[..., 0]
    rays = _turn(torch.stack([x, y, torch.ones_like(x)], -1), seen)
    shown = rays @ seen.K.transpose(1, 2)
    return shown[..., :2] / shown[..., 2:]


def _turn(points: torch.Tensor, seen: "View") -> torch.Tensor:
    """(B, N, 3) in the axes of the crops' cameras, in those of the images' cameras."""
    turned = points @ seen.rotation.transpose(1, 2)
    return torch.where(seen.flip[:, None, None], mirrored(turned), turned)


def _reorder(values: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """(B, K, ...) with the keypoints of each row in another order (B, K)."""
    index = order.reshape(*order.shape, *[1] * (values.ndim - 2)).expand(values.shape)
    return values.gather(1, index)


def compare_joints(found: torch.Tensor, given: Given) -> torch.Tensor:
    """Returns (B,) L1 of keypoints (B, K, 3) in metres, each with its confidence, over 3 K.

    Both moved to the root where it is labelled, else to the mean of what is. A keypoint weighs the
    same however many others of its crop are labelled.
    """
    weights = given.weights_3d
    total = weights.sum(1, keepdim=True).clamp_min(1e-6)
    root = torch.zeros_like(weights)
    root[:, 0] = 1
    anchor = torch.where(weights[:, :1] > 0, root, weights / total)[..., None]
    apart = (found - (anchor * found).sum(1, keepdim=True)) - (
        given.points_3d - (anchor * given.points_3d).sum(1, keepdim=True)
    )
    return (apart.abs() * weights[..., None]).mean((1, 2))


def compare_projected(found: torch.Tensor, given: Given, size: int) -> torch.Tensor:
    """Returns (B,) L1 of keypoints (B, K, 2) over the longer side, by confidence, over 2 K."""
    apart = (found - given.points_2d / size).abs()
    return (apart * given.weights_2d[..., None]).mean((1, 2))
