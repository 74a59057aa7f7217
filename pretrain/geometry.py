"""What of a made body is said of masked patches: normals, parts, and what the reference shows too.

Targets come from the maps of synthetic humans (data/format/surface.py): this is supervision by
what was drawn, and no learning from images alone. A patch counts by the share of its points on the
person. Each loss is 1 for an answer at random.
"""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from data.bodies.models import open_model
from data.bodies.parts import PARTS, name_parts
from data.format.surface import VERTICES
from engine.training.shares import Shares
from engine.training.task import Arrays, Batch
from pretrain.patch_loss import FLOOR
from pretrain.reference_gain import AT_ONCE

if TYPE_CHECKING:
    from pretrain.objectives.completion import Completion

# Values of a masked patch that each head says, in the heads' order.
VALUES = {"normals": 3, "parts": len(PARTS), "covisibility": 1}


@dataclass
class Geometry:
    """What is true of B x M masked patches.

    Attributes:
        weight: (B, M) share of a patch's points on the person; of those alone the rest is true.
        normals: (B, M, 3) mean unit normal of the drawn surface, axes of the target's camera.
        parts: (B, M) int64 the most frequent part, its number in data.bodies.parts.PARTS.
        covisibility: (B, M) share of the points on the person that the reference shows too, or
            None of a network that sees none.
    """

    weight: torch.Tensor
    normals: torch.Tensor
    parts: torch.Tensor
    covisibility: torch.Tensor | None


@functools.cache
def read_parts() -> torch.Tensor:
    """(VERTICES + 1,) int64 part of what maps hold: by the joint that moves it most.

    The number in data.bodies.parts.PARTS; len(PARTS) at 0, where nothing is seen.
    """
    body = open_model("anny")
    of_joint, names = name_parts(body)
    numbers = torch.tensor([PARTS.index(name) for name in names])
    out = torch.full((VERTICES + 1,), len(PARTS))
    out[1:] = numbers[of_joint][body.read_skin().argmax(1).cpu()]
    return out


def average_normals(normal: torch.Tensor) -> torch.Tensor:
    """(..., 3) unit means of the normals (..., P, 3) of points, 0 where there are none."""
    return F.normalize(normal.float().sum(-2), dim=-1)


def choose_parts(vertex: torch.Tensor, part_of: torch.Tensor) -> torch.Tensor:
    """(...) int64 the most frequent part of points, the first where several are.

    Args:
        vertex: (..., P) what maps hold.  part_of: see ``read_parts``.
    """
    labels = part_of[vertex.long()]
    counts = torch.zeros(*labels.shape[:-1], len(PARTS) + 1, device=labels.device)
    counts.scatter_add_(-1, labels, torch.ones_like(labels, dtype=counts.dtype))
    return counts[..., : len(PARTS)].argmax(-1)


def compare(said: Mapping[str, torch.Tensor], true: Geometry) -> dict[str, torch.Tensor]:
    """{head: (B,) mean loss over the masked patches of each sample, 0 where none counts}.

    Args:
        said: {head: (B, M, values)} float32.
    """
    return {name: _average(LOSSES[name](said[name], true), true.weight) for name in said}


def measure(said: Mapping[str, torch.Tensor], true: Geometry) -> dict[str, torch.Tensor]:
    """{head: (B, M) error of each patch}, see ``ERRORS``. ``said``: as ``compare`` has it."""
    return {name: ERRORS[name](said[name], true) for name in said}


@torch.no_grad()
def evaluate(
    objective: "Completion", val: Arrays, to_device: Callable[[Arrays], Batch], shares: Shares
) -> dict[str, float]:
    """{"geometry/HEAD": mean of ``measure`` over masked patches of all ranks' fixed pairs}.

    Patches weigh by their share on the person. Empty where no such patch is masked.

    Args:
        val: rows of data.loading.reader.layout.
    Raises:
        engine.training.shares.BrokenOff: the run was asked to stop.
    """
    names = [name for name in VALUES if name in objective.config.model.decoder.geometry]
    count, processes = len(val["tags"]), shares.processes
    # As many rows on each rank, so that all call the network equally often.
    rows = np.arange(
        processes.rank, -(-count // processes.world) * processes.world, processes.world
    )
    sums = torch.zeros(1 + len(names), dtype=torch.float64, device=processes.device)
    for first in range(0, len(rows), AT_ONCE):
        if shares.stop:
            break  # ``total`` tells all ranks
        shares.watch.alive()
        here = rows[first : first + AT_ONCE]
        batch = to_device({name: values[here % count] for name, values in val.items()})
        a, b, keep, masked, _, seen = objective.pairs(batch)
        more = objective.predict(a, b, keep, masked, seen)[1]
        true = objective.find_geometry(batch, masked)
        errors = measure({name: more[name] for name in names}, true)
        inside = torch.from_numpy(here < count).to(masked.device)
        weight = true.weight * inside[:, None]
        parts = [weight.sum(), *((weight * error).sum() for error in errors.values())]
        sums += torch.stack(parts)
    weight, *errors = shares.total(sums)
    if not weight:
        return {}
    return {f"geometry/{name}": error / weight for name, error in zip(names, errors, strict=True)}


def _average(values, weight):
    return (weight * values).sum(1) / weight.sum(1).clamp(min=FLOOR)


def _compare_normals(said, true):
    """One less the cosine."""
    return 1 - F.cosine_similarity(said, true.normals, dim=-1)


def _compare_parts(said, true):
    """Cross entropy over that of equal chances."""
    return F.cross_entropy(said.movedim(-1, 1), true.parts, reduction="none") / math.log(len(PARTS))


def _compare_covisibility(said, true):
    """Binary cross entropy with the share, over that of one half."""
    losses = F.binary_cross_entropy_with_logits(said[..., 0], true.covisibility, reduction="none")
    return losses / math.log(2)


def _measure_covisibility(said, true):
    """How far the share is off."""
    return (said[..., 0].sigmoid() - true.covisibility).abs()


LOSSES: dict[str, Callable[[torch.Tensor, Geometry], torch.Tensor]] = {
    "normals": _compare_normals,
    "parts": _compare_parts,
    "covisibility": _compare_covisibility,
}
# Degrees; whether the part is another; how far the share is off.
ERRORS: dict[str, Callable[[torch.Tensor, Geometry], torch.Tensor]] = {
    "normals": lambda said, true: (1 - _compare_normals(said, true)).clamp(-1, 1).acos().rad2deg(),
    "parts": lambda said, true: (said.argmax(-1) != true.parts).float(),
    "covisibility": _measure_covisibility,
}
