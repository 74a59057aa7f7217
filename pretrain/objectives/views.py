"""Two views of one instant say one person: whole images agree once their cameras are accounted for.

A head says each image in a few 3D vectors in its camera's frame. Of a cross-view pair, whose
cameras are calibrated, those of the reference are rotated into the frame of the target: equal they
must be, and so they tell how a person stands and not only what all views share, such as colours.
Masked patches are completed beside that. Cross-pose pairs are completed alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F

from data.format.index import PAIR_KINDS
from data.loading.reader import TAGS
from engine.config.parser import key
from engine.errors import UserError
from engine.logging.metric_registry import Group, Metric, MetricBook
from engine.training.shares import Shares
from engine.training.task import Batch
from pretrain.config import CompletionConfig, ObjectiveConfig, PretrainConfig
from pretrain.embedding import Embedding
from pretrain.flops import encoder_flops
from pretrain.objectives import OBJECTIVES
from pretrain.objectives.completion import Completion
from pretrain.reference_gain import AT_ONCE

if TYPE_CHECKING:
    from pretrain.task import PretrainTask

KIND = TAGS.index("kind")
CROSS_VIEW = PAIR_KINDS.index("cross_view")
MOST_ROTATIONS = 64  # among which one is chosen
FLOOR = 1e-4  # under the root of a variance, as VICReg has it


@dataclass
class ViewsConfig(CompletionConfig):
    """Whole images of a cross-view pair agree, and masked patches are completed beside that."""

    agreement: str = key(
        "rotation",
        "rotation: which of the batch's rotations leads from one image to the other; vicreg: their "
        "vectors are equal once rotated, and vary and do not repeat one another over the batch",
        choices=("rotation", "vicreg"),
    )
    view_weight: float = key(1.0, "weight of the agreement", low=0)
    pixel_weight: float = key(1.0, "weight of the completed pixels beside it", low=0)
    temperature: float = key(
        0.2, "of the similarities among which agreement=rotation chooses", low=1e-3
    )
    variance_weight: float = key(1.0, "agreement=vicreg: weight of the variance", low=0)
    covariance_weight: float = key(0.04, "agreement=vicreg: weight of the covariances", low=0)

    def reads_reference(self, config: PretrainConfig) -> bool:
        """It is read whether or not the decoder attends to it."""
        return True

    def check_run(self, config: PretrainConfig) -> None:
        """UserError where there is no head that says whole images."""
        super().check_run(config)
        if not config.model.decoder.reference_gradient:
            raise UserError(
                "model.decoder.reference_gradient=false with objective.name=views: both images "
                "learn by their agreement"
            )
        if not config.model.embedding.points:
            raise UserError(
                "objective.name=views with model.embedding.points=0: set how many 3D vectors say "
                "an image, such as 32"
            )


@OBJECTIVES.register("views")
class Views(Completion):
    """Completion, and beside it the agreement of the two images of cross-view pairs."""

    schema: ClassVar[type[ObjectiveConfig]] = ViewsConfig
    entries: ClassVar[tuple[str, ...]] = ("complete_and_embed", *Completion.entries)
    metrics: ClassVar[MetricBook] = Completion.metrics.extend(
        MetricBook(
            groups=(
                Group(
                    "views",
                    "Views",
                    "Agreement of the images of cross-view validation pairs.",
                    position=31,
                ),
            ),
            metrics=(
                Metric("agreement", "loss of the agreement", "", lower_is_better=True),
                Metric(
                    "rotation",
                    "the likeliest rotation to the true one",
                    "deg",
                    lower_is_better=True,
                ),
            ),
        )
    )

    reads_rotations: ClassVar[bool] = True

    @property
    def reads_reference(self) -> bool:
        """It is read whether or not the decoder attends to it."""
        return True

    def forward(self, batch: Batch) -> torch.Tensor:
        """(B,) loss of each target."""
        keys = _keys(self.config)
        batch = self.choose_references(batch)
        a, b, keep, masked, person, seen = self.pairs(batch)
        rotations = batch["rotations"].flatten(0, 1)
        said, more, of_a, of_b = self._embed(a, b, keep, masked, seen)
        known = self._find_known(batch)
        if keys.agreement == "vicreg":
            # A gradient of NaN times nothing would be NaN.
            views = (of_a - rotate(rotations.nan_to_num(), of_b)).square().mean((1, 2))
        else:
            others = _gather_rotations(rotations, known)
            views = compare_rotations(of_a, of_b, rotations, others, keys.temperature)[0]
        loss = keys.view_weight * torch.where(known, views, 0)
        if keys.agreement == "vicreg":
            for vectors in (of_a, of_b):
                loss = loss + keys.view_weight / 2 * spread_out(
                    vectors.flatten(1), keys.variance_weight, keys.covariance_weight
                )
        weight = self.weigh_patches(person)
        loss = loss + keys.pixel_weight * self.compare_pixels(said, more, a, masked, weight)
        return self.add_geometry(loss, more, batch, masked)

    def _embed(self, a, b, keep, masked, seen):
        """What ``predict`` gives, and vectors (B, G, 3) of the targets and of their references."""
        with torch.autocast(a.device.type, torch.bfloat16, enabled=self.bf16):
            said, of_a, of_b = self.model.complete_and_embed(a, b, keep, masked, seen)
        said, more = self.split_outputs(said.float())
        return said, more, of_a.float(), of_b.float().repeat_interleave(len(a) // len(b), 0)

    def _find_known(self, batch):
        """(B,) bool: targets of cross-view pairs with calibrated cameras."""
        targets = batch["rotations"].shape[1]
        views = batch["tags"][:, KIND].repeat_interleave(targets) == CROSS_VIEW
        return views & batch["rotations"].flatten(0, 1).isfinite().all(2).all(1)

    def evaluate(self, task: PretrainTask, shares: Shares) -> dict[str, float]:
        """As Completion's, with {"views/agreement", "views/rotation"} of cross-view pairs.

        Each chooses among the rotations of the first validation pairs, whatever is minimised.
        """
        out = super().evaluate(task, shares)
        val = task.require_val()
        count, world = len(val["tags"]), shares.processes.world
        views = val["rotations"][val["tags"][:, KIND] == CROSS_VIEW].reshape(-1, 3, 3)
        others = torch.from_numpy(views[:MOST_ROTATIONS]).to(shares.processes.device)
        # As many rows on each rank, so that all call the network equally often.
        rows = np.arange(shares.processes.rank, -(-count // world) * world, world)
        sums = torch.zeros(3, dtype=torch.float64, device=shares.processes.device)
        for first in range(0, len(rows), AT_ONCE):
            if shares.stop:
                break  # ``total`` tells all ranks
            shares.watch.alive()
            sums += self._sum_agreement(task, rows[first : first + AT_ONCE], count, others)
        agreement, rotation, pairs = shares.total(sums)
        if not pairs:
            return out
        return out | {"views/agreement": agreement / pairs, "views/rotation": rotation / pairs}

    @torch.no_grad()
    def _sum_agreement(self, task, rows, count, others):
        """(3,) sums of loss and degrees, and their pairs; rows from ``count`` on are none."""
        here = {name: values[rows % count] for name, values in task.require_val().items()}
        batch = task.to_device(here)
        a, b, keep, masked, _, seen = self.pairs(batch)
        _, _, of_a, of_b = self._embed(a, b, keep, masked, seen)
        rotations = batch["rotations"].flatten(0, 1)
        found = compare_rotations(of_a, of_b, rotations, others, _keys(self.config).temperature)
        inside = torch.from_numpy(rows < count).to(of_a.device)
        known = self._find_known(batch) & inside
        values = torch.stack([*found, torch.ones_like(found[0])])
        return torch.where(known, values, 0).double().sum(1)

    def describe(self) -> str:
        """Sizes of the decoder's work, and of the head that says whole images."""
        keys = _keys(self.config)
        points = self.config.model.embedding.points
        return (
            f"{super().describe()}; images said in {points} vectors, agreement by {keys.agreement}"
        )

    def list_notes(self, task: PretrainTask) -> list[str]:
        """Those of completion, and where no pair is calibrated."""
        notes = super().list_notes(task)
        if not self.config.model.decoder.cross:
            notes = ["model.decoder.cross=false: references are read for the agreement alone"]
        val = task.val
        if val is not None and not np.isfinite(val["rotations"]).any():
            notes.append(
                "no validation pair is of calibrated cameras: without them nothing says how two "
                "views agree"
            )
        return notes

    @classmethod
    def count_step_flops(cls, config: PretrainConfig) -> float:
        """As Completion's, with the head, and the encoder of references that it alone reads."""
        rows, columns = config.model.grid()
        part = config.model.embedding
        head = Embedding(config.model.encoder.width, rows * columns, part).count_flops()
        _, attended = config.masking.seen(rows * columns)
        of_b = head
        if not config.model.decoder.cross:
            of_b += encoder_flops(config.model, attended)
        more = head + of_b / config.targets_per_reference
        return super().count_step_flops(config) + 3 * more


def rotate(rotations: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """(B, G, 3) vectors (B, G, 3) under rotations (B, 3, 3)."""
    return vectors @ rotations.transpose(1, 2)


def compare_rotations(
    of_a: torch.Tensor,
    of_b: torch.Tensor,
    rotations: torch.Tensor,
    others: torch.Tensor,
    temperature: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose by the vectors of two images which rotation leads from the second to the first.

    Beside the true one stand those of other pairs, and the images are the same under each: what
    both show alike, whatever the view, does not tell them apart. Nor does any constant, since
    rotations of other pairs are as usual as the true one.

    Args:
        of_a, of_b: (B, G, 3).  rotations: (B, 3, 3), NaN where it is not known.
        others: (K, 3, 3), NaN where there is none; equal to the true one they do not count.
        temperature: over which similarities, cosines of all vectors together, are divided.
    Returns:
        (B,) cross entropy over the rotations that count, and (B,) how far the likeliest is from
        the true one, degrees.
    """
    count = len(rotations)
    every = torch.cat([rotations[:, None], others.expand(count, -1, -1, -1)], 1)
    usable = every.isfinite().all(3).all(2) & (every != rotations[:, None]).any(3).any(2)
    usable[:, 0] = True
    every = every.nan_to_num()
    rotated = torch.einsum("bkij,bgj->bkgi", every, of_b).flatten(2)
    similarity = F.cosine_similarity(of_a.flatten(1)[:, None], rotated, dim=2) / temperature
    similarity = similarity.masked_fill(~usable, -torch.inf)
    chosen = similarity.argmax(1)[:, None, None, None].expand(-1, 1, 3, 3)
    apart = every.gather(1, chosen)[:, 0] @ every[:, 0].transpose(1, 2)
    cosine = (apart.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2
    return -similarity.log_softmax(1)[:, 0], cosine.clamp(-1, 1).acos().rad2deg()


def _gather_rotations(rotations, known):
    """(K, 3, 3) the first rotations of all ranks' rows, NaN where ``known`` (B,) is false."""
    mine = rotations.masked_fill(~known[:, None, None], torch.nan).contiguous()
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        # On the host's group too, whatever it is made of: a list is what all have.
        parts = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, mine)
        mine = torch.cat(parts)
    return mine[:MOST_ROTATIONS]


def spread_out(
    vectors: torch.Tensor, variance_weight: float, covariance_weight: float
) -> torch.Tensor:
    """(B,) equal losses that are low where vectors vary and their parts do not repeat one another.

    VICReg's variance and covariance terms (arXiv 2105.04906), of the batch of all ranks; with
    grad_accum_steps, of one of its parts. Each row's gradient is by the whole batch's mean and
    second moments, so that the rows' sum does not depend on how they are spread over ranks.

    Args:
        vectors: (B, D) float32.
    """
    count, mean, second = _find_moments(vectors.detach())
    mean.requires_grad_()
    second.requires_grad_()
    with torch.enable_grad():
        covariance = (second - mean[:, None] * mean[None]) * (count / (count - 1).clamp(min=1))
        variance = covariance.diagonal()
        low = F.relu(1 - (variance + FLOOR).sqrt()).mean()
        apart = (covariance.square().sum() - variance.square().sum()) / len(mean)
        loss = variance_weight * low + covariance_weight * apart
        of_mean, of_second = torch.autograd.grad(loss, [mean, second])
    slope = of_mean + vectors.detach() @ (of_second + of_second.T)
    # Its value is the loss, its gradient that of the loss by each row, times the rows over which
    # the losses are averaged.
    along = (vectors * slope).sum(1)
    return loss.detach() + along - along.detach()


def _find_moments(vectors):
    """(rows, mean (D,), second moments (D, D)) over the rows of all ranks."""
    size = vectors.shape[1]
    ones = vectors.new_full((1,), len(vectors))
    sums = torch.cat([ones, vectors.sum(0), (vectors.T @ vectors).flatten()])
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(sums)
    count = sums[0]
    return count, sums[1 : 1 + size] / count, sums[1 + size :].unflatten(0, (size, size)) / count


def _keys(config: PretrainConfig) -> ViewsConfig:
    return cast(ViewsConfig, config.objective)
