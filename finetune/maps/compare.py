"""Losses and errors of maps, a number a crop, each a mean over the samples that are known."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F

from finetune.maps.targets import HALF, TrueMaps

MAPS = ("silhouette", "parts", "depth", "normals", "surface")
Maps = Mapping[str, torch.Tensor]  # {name of MAPS: (B, C, rows, columns)} as a head answers


def count_channels(name: str, parts: int) -> int:
    """Returns how many channels a map has, of a body of so many parts."""
    return {"silhouette": 1, "parts": parts + 1, "depth": 1, "normals": 3, "surface": 3}[name]


def compare_silhouettes(found: Maps, true: TrueMaps) -> torch.Tensor:
    """Returns (B,) binary cross-entropy, nats."""
    logits = found["silhouette"][:, 0].float()
    each = F.binary_cross_entropy_with_logits(logits, true.silhouette, reduction="none")
    return each.mean((1, 2))


def compare_parts(found: Maps, true: TrueMaps) -> torch.Tensor:
    """Returns (B,) cross-entropy, nats, half of it from samples of the person.

    Most samples are none of the person, and alike.
    """
    chances = found["parts"].float().log_softmax(1)
    each = -chances.gather(1, true.parts.clamp_min(0)[:, None])[:, 0]
    return (average(each, true.parts > 0) + average(each, true.parts == 0)) / 2


def compare_depths(found: Maps, true: TrueMaps) -> torch.Tensor:
    """Returns (B,) mean distance, metres."""
    return average((found["depth"][:, 0].float() - true.depth).abs(), true.seen)


def compare_normals(found: Maps, true: TrueMaps) -> torch.Tensor:
    """Returns (B,) 1 less the cosine of the angle between normals."""
    return average(1 - _find_cosines(found, true), true.seen)


def compare_surfaces(found: Maps, true: TrueMaps) -> torch.Tensor:
    """Returns (B,) mean over the three axes of how far canonical positions are apart, metres."""
    each = (found["surface"].float() - true.surface).abs().mean(1)
    return average(each, true.seen)


LOSSES = {
    "silhouette": compare_silhouettes,
    "parts": compare_parts,
    "depth": compare_depths,
    "normals": compare_normals,
    "surface": compare_surfaces,
}


def measure_silhouettes(found: Maps, true: TrueMaps) -> torch.Tensor:
    """Returns (B,) intersection over union; NaN where neither shows anybody."""
    one, other = found["silhouette"][:, 0] > 0, true.silhouette > HALF
    both, any_ = (one & other).sum((1, 2)).float(), (one | other).sum((1, 2)).float()
    return both / any_


def count_parts(found: Maps, true: TrueMaps, parts: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns (B, parts) intersections and unions of each part, in samples that are known."""
    answer = found["parts"].argmax(1)
    labels = torch.arange(1, parts + 1, device=answer.device)[:, None, None]
    known = (true.parts >= 0)[:, None]
    one, other = (answer[:, None] == labels) & known, true.parts[:, None] == labels
    return (one & other).sum((2, 3)).float(), (one | other).sum((2, 3)).float()


def measure_parts(found: Maps, true: TrueMaps) -> torch.Tensor:
    """Returns (B,) mean intersection over union of the parts that a crop shows, NaN of none."""
    parts = found["parts"].shape[1] - 1
    both, any_ = count_parts(found, true, parts)
    labels = torch.arange(1, parts + 1, device=both.device)[:, None, None]
    shown = (true.parts[:, None] == labels).flatten(2).any(2).float()
    share = both / any_.clamp_min(1)
    return (share * shown).sum(1) / shown.sum(1)


def measure_depths(found: Maps, true: TrueMaps) -> torch.Tensor:
    """Returns (B,) mean error, millimetres; NaN where no surface is seen."""
    return 1000 * compare_depths(found, true) + _find_blanks(true)


def measure_normals(found: Maps, true: TrueMaps) -> torch.Tensor:
    """Returns (B,) mean angle between normals, degrees; NaN where no surface is seen."""
    angles = torch.rad2deg(_find_cosines(found, true).clamp(-1, 1).arccos())
    return average(angles, true.seen) + _find_blanks(true)


def measure_surfaces(found: Maps, true: TrueMaps) -> torch.Tensor:
    """Returns (B,) mean distance of canonical positions, millimetres; NaN likewise."""
    apart = (found["surface"].float() - true.surface).norm(dim=1)
    return 1000 * average(apart, true.seen) + _find_blanks(true)


MEASURES = {
    "silhouette": measure_silhouettes,
    "parts": measure_parts,
    "depth": measure_depths,
    "normals": measure_normals,
    "surface": measure_surfaces,
}


def average(values: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Returns (B,) mean of (B, rows, columns) values over those that are known; 0 where none is."""
    weights = known.float()
    return (values * weights).sum((1, 2)) / weights.sum((1, 2)).clamp_min(1)


def _find_cosines(found: Maps, true: TrueMaps) -> torch.Tensor:
    answer = F.normalize(found["normals"].float(), dim=1)
    return (answer * true.normals).sum(1)


def _find_blanks(true: TrueMaps) -> torch.Tensor:
    """(B,) NaN of crops in which no surface is seen, 0 of others."""
    none = ~true.seen.flatten(1).any(1)
    return torch.where(none, torch.nan, 0.0)
