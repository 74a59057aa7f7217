"""The mean of true maps: what a predictor says that does not look at the image."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from finetune.maps.targets import HALF, TrueMaps


def average_maps(told: Sequence[TrueMaps], parts: int) -> dict[str, torch.Tensor]:
    """Returns {map: (1, C, rows, columns)} as a head would answer them.

    Silhouette: positive where the mean is above a half. Parts: how often each is in a place, the
    background among them. Depth, normals, surface: means over the crops whose surface is seen in a
    place, of which normals are as good as their direction; where none is, the mean of all places.

    Args:
        told: of batches.  parts: P.
    """
    silhouette = torch.cat([true.silhouette for true in told]).mean(0)
    labels = torch.cat([true.parts for true in told])
    counts = [(labels == label).float().mean(0) for label in range(parts + 1)]
    seen = torch.cat([true.seen for true in told])[:, None].float()
    return {
        "silhouette": (silhouette - HALF)[None, None],
        "parts": torch.stack(counts)[None],
        "depth": _average_seen(torch.cat([true.depth for true in told])[:, None], seen),
        "normals": F.normalize(
            _average_seen(torch.cat([true.normals for true in told]), seen), dim=1
        ),
        "surface": _average_seen(torch.cat([true.surface for true in told]), seen),
    }


def _average_seen(values: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """(1, C, rows, columns) means of (n, C, ...) where ``seen`` (n, 1, rows, columns) is 1."""
    total, count = (values * seen).sum(0, keepdim=True), seen.sum(0, keepdim=True)
    overall = total.sum((2, 3), keepdim=True) / count.sum((2, 3), keepdim=True).clamp_min(1)
    return torch.where(count > 0, total / count.clamp_min(1), overall)
