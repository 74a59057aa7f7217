"""Weights in half precision, and how far their answers are from those of the full ones."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from data.bodies.base import BodyModel
from data.cropping.geometry import Size, find_longer, find_sides
from data.loading.augment import normalise
from engine.errors import UserError
from finetune.model import Recovery

DTYPES = {"float16": torch.float16, "float32": torch.float32}
TOLERANCE_MM = 2.0
CROPS = 32
KEPT = ("mean_pose", "mean_shape", "mean_place")  # few numbers that every answer starts from


@dataclass(frozen=True)
class Agreement:
    """How far a network of rounded weights is from its own, at most, over random crops.

    Attributes:
        vertices_mm: of any vertex about joint 0, in millimetres.
        depth: of joint 0's depth, as a share of it.
        crops: how many were compared.
    """

    vertices_mm: float
    depth: float
    crops: int

    def __str__(self) -> str:
        return (
            f"on {self.crops} random crops the largest difference of a vertex about the root is "
            f"{self.vertices_mm:.2f} mm, of the depth {100 * self.depth:.3f} %"
        )


def round_weights(state: Mapping[str, torch.Tensor], dtype: str) -> dict[str, torch.Tensor]:
    """Return {name: tensor} with matrices in ``dtype``; vectors and means stay as they are.

    Args:
        dtype: one of DTYPES.
    Raises:
        UserError: a weight is beyond what the type holds.
    """
    out = {}
    for name, value in state.items():
        wide = value.ndim < 2 or name in KEPT or not value.is_floating_point()
        rounded = value.detach() if wide else value.detach().to(DTYPES[dtype])
        if not torch.isfinite(rounded).all():
            raise UserError(
                f"weight {name} holds {float(value.abs().max()):g}, which dtype={dtype} cannot: "
                f"take dtype=float32"
            )
        out[name] = rounded
    return out


@torch.no_grad()
def measure_agreement(
    model: Recovery, rounded: Mapping[str, torch.Tensor], body: BodyModel, count: int = CROPS
) -> Agreement:
    """Return how far answers with rounded weights are from those with the model's own.

    Crops are smooth noise of many scales, in cameras of 20 to 60 degrees.

    Args:
        model: in evaluation mode.  count: crops.
    """
    other = copy.deepcopy(model)
    state = other.state_dict()
    for name, value in rounded.items():
        state[name].copy_(value)
    images, K = _random_crops(model.config.size, count)
    device = next(model.parameters()).device
    images, K = images.to(device), K.to(device)
    one, two = model(images, K, body), other(images, K, body)
    about = [found.vertices - found.joints[:, :1] for found in (one, two)]
    depth = [found.translation[:, 2] for found in (one, two)]
    return Agreement(
        1000 * float((about[0] - about[1]).norm(dim=-1).max()),
        float(((depth[0] - depth[1]) / depth[0]).abs().max()),
        count,
    )


def _random_crops(size: Size, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(normalised images (n, 3, H, W), intrinsics (n, 3, 3)), the same each time."""
    random = torch.Generator().manual_seed(0)
    rows, columns = find_sides(size)
    images = torch.zeros(count, 3, rows, columns)
    for side in (2, 4, 8, 16, 32):
        noise = torch.rand(count, 3, side, side, generator=random) - 0.5
        images += torch.nn.functional.interpolate(noise, size=(rows, columns), mode="bilinear")
    images = (0.5 + images * 0.6).clamp(0, 1)
    half = torch.deg2rad(torch.linspace(10, 30, count))
    K = torch.zeros(count, 3, 3)
    K[:, 0, 0] = K[:, 1, 1] = find_longer(size) / 2 / torch.tan(half)
    K[:, 0, 2], K[:, 1, 2] = columns / 2, rows / 2
    K[:, 2, 2] = 1
    return normalise(images), K


def check_agreement(found: Agreement, dtype: str) -> None:
    """Raise UserError where rounding moves a vertex by more than TOLERANCE_MM."""
    if not np.isfinite(found.vertices_mm) or found.vertices_mm > TOLERANCE_MM:
        raise UserError(
            f"dtype={dtype} moves a vertex by {found.vertices_mm:.2f} mm on random crops, more "
            f"than {TOLERANCE_MM:g} mm: take dtype=float32"
        )
