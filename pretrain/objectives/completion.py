"""The default: masked patches of a view are completed with the help of the other image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import torch
from torch import nn

from data.cropping.geometry import scale_size
from data.format.surface import MEMBER as SURFACE
from data.loading.appearance import open_appearance
from data.loading.augment import augment, crop_masks
from data.loading.build import list_shards_without
from data.loading.reader import TAGS
from data.sampling.order import Order
from data.sampling.seen import Seen
from engine.errors import UserError
from engine.logging.metric_registry import Companion, Group, Metric, MetricBook
from engine.training.shares import Shares
from engine.training.task import Arrays, Batch
from pretrain import geometry, masking, panels, patch_loss, reference_gain, surface, weights
from pretrain.blocks import take
from pretrain.config import CompletionConfig, ObjectiveConfig, PretrainConfig, get_completion
from pretrain.flops import step_flops
from pretrain.geometry import Geometry
from pretrain.gradients import histograms
from pretrain.model import CrossCompletion, PairNetwork, list_outputs
from pretrain.objectives import OBJECTIVES
from pretrain.objectives.base import Objective

if TYPE_CHECKING:
    from PIL import Image

    from pretrain.task import PretrainTask

MAPS = ("vertex", "normal")  # of the body's surface, in batches that hold them
Pairs = tuple[
    torch.Tensor,
    torch.Tensor | None,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor | None,
]


@OBJECTIVES.register("completion")
class Completion(Objective):
    """From the loader's arrays to the loss of each target: masks, network, mean squared error.

    Only the network itself runs in bf16: in it a crop's corners would be off by half a pixel, and
    masks differ from a CPU's.

    Attributes:
        mismatched: (R,) for each validation row, the row whose reference it gets in
            pretrain.reference_gain; -1: none.
    """

    schema: ClassVar[type[ObjectiveConfig]] = CompletionConfig
    entries: ClassVar[tuple[str, ...]] = ("complete", "encode", "features")
    metrics: ClassVar[MetricBook] = MetricBook(
        groups=(
            Group(
                "reference_gain",
                "Reference gain",
                "Loss with a mismatched reference, minus that with the true one; dashed: all "
                "patches, solid: person patches alone. Zero: the second image is not used.",
                companions=(Companion("_person", "person patches", "solid"),),
                label="all patches",
                look="dashed",
                position=30,
            ),
            Group(
                "geometry",
                "Geometry",
                "How far off the heads of model.decoder.geometry are, on masked patches of the "
                "person.",
                position=32,
            ),
        ),
        metrics=(
            Metric("geometry/normals", "angle between normals", "deg", lower_is_better=True),
            Metric("geometry/parts", "share with another part", lower_is_better=True),
            Metric("geometry/covisibility", "how far the share is off", lower_is_better=True),
        ),
        images={"step": "Completions", "attention": "Attention"},
    )

    model: CrossCompletion  # pyrefly: ignore - narrower: set once, by the constructor

    def __init__(self, model: CrossCompletion, config: PretrainConfig, bf16: bool) -> None:
        super().__init__(model, config, bf16)
        self.mismatched = np.zeros(0, np.int64)
        device = next(model.parameters()).device
        self.appearance = open_appearance(config.data.augment, device)
        # Tables of the body's surface: no buffers, they follow from the body.
        self.regions: tuple[torch.Tensor, ...] = ()
        self.part_of = torch.zeros(0)
        heads = config.model.decoder.geometry
        if get_completion(config).masks == "seen" or "covisibility" in heads:
            self.regions = tuple(values.to(device) for values in surface.read_regions())
        if heads:
            self.part_of = geometry.read_parts().to(device)

    @classmethod
    def init_network(cls, model: PairNetwork, source: str) -> Seen:
        """Fill encoder and decoder with weights of another run or file; what these saw."""
        return weights.init_from(cast(CrossCompletion, model), source)

    @classmethod
    def list_blocks(cls, model: PairNetwork) -> list[nn.Module]:
        """Blocks of encoder and decoder."""
        decoder = cast(CrossCompletion, model).decoder
        return [*model.encoder.blocks, *decoder.blocks]

    @property
    def reads_reference(self) -> bool:
        """Whether the decoder attends to the second image."""
        return self.config.model.decoder.cross

    @property
    def reads_surface(self) -> bool:
        """Whether masks, or heads of geometry, ask what of the body the images show."""
        heads = self.config.model.decoder.geometry
        return get_completion(self.config).masks == "seen" or bool(heads)

    def check_shards(self, order: Order) -> None:
        """UserError where shards lack maps of the body's surface.

        Heads of geometry want them in each shard; masks that follow them want them somewhere, for
        elsewhere patches are masked at random.
        """
        if not self.reads_surface:
            return
        heads = self.config.model.decoder.geometry
        without = list_shards_without(order, self.config.data, SURFACE)
        whole = len(without) == sum(len(source.paths) for source in order.sources)
        if without and (heads or whole):
            asked = f"model.decoder.geometry={','.join(heads)}" if heads else "objective.masks=seen"
            raise UserError(
                f"{asked}, but no clip of shard {without[0]} has {SURFACE}, which says what of the "
                f"body its crops show: python -m data make with surface=true stores that"
            )

    def pairs(self, batch: Batch) -> Pairs:
        """What a batch of tensors asks for, with R rows of K targets each, B = R * K.

        Returns:
            a (B, 3, S, S), b (R, 3, S, S) normalised, keep (B, V), masked (B, M), person (B, N),
            and what of the references is attended to (R, L), or None for all: targets i*K to i*K +
            K-1 share reference i. b is None of a network without references.
        """
        size, rules, numbers = self.config.model.size, self.config.masking, batch["numbers"]
        targets = numbers.shape[1] - 1
        cross = self.reads_reference
        if self.appearance is not None and "look" in batch:
            seen_images = self._change(batch, slice(0, targets + cross), self.appearance)
            a = seen_images[:, :targets].flatten(0, 1)
            b = seen_images[:, targets] if cross else None
        else:
            a = augment(
                batch["pixels"][:, :targets].flatten(0, 1), numbers[:, :targets].flatten(0, 1), size
            )
            b = augment(batch["pixels"][:, targets], numbers[:, targets], size) if cross else None
        noise = batch["noise"].unflatten(1, (targets + 1, -1))
        person = self._persons(batch, slice(0, targets))
        bonus = None
        if get_completion(self.config).masks == "seen":
            bonus, _ = self.share_seen(batch)
        keep, masked = masking.choose_blocks(
            noise[:, :targets].flatten(0, 1),
            person,
            self.model.grid,
            rules.block,
            rules.ratio,
            rules.person_bonus,
            rules.min_visible_person,
            bonus,
        )
        seen = None
        if cross and rules.reference_ratio:
            of_b = self._persons(batch, slice(targets, None))
            seen = masking.choose_reference(
                noise[:, targets], of_b, rules.reference_ratio, rules.reference_bonus
            )
        return a, b, keep, masked, person, seen

    def choose_references(self, batch: Batch) -> Batch:
        """A batch with the references that ``objective.references`` asks for.

        "shuffled": each row has that of the row above. "same": each has another crop of its first
        target, in colours of its own, and no rotation lies between them.
        """
        kind = get_completion(self.config).references
        if kind == "own" or not self.reads_reference:
            return batch
        images, out = batch["numbers"].shape[1], dict(batch)
        out["own_numbers"] = batch["numbers"]
        names = ("pixels", "mask") if kind == "same" else ("pixels", "mask", "numbers", "noise")
        for name in names:
            shape = batch[name].shape
            parts = batch[name].reshape(len(batch[name]), images, -1)
            of_b = parts[:, :1] if kind == "same" else parts[:, -1:].roll(1, 0)
            out[name] = torch.cat([parts[:, :-1], of_b], 1).reshape(shape)
        if kind == "same" and "rotations" in batch:
            none = torch.eye(3, device=batch["rotations"].device)
            out["rotations"] = none.expand_as(batch["rotations"])
        return out

    def _change(self, batch, which, appearance):
        """Return (R, images, 3, S, S) of ``which`` images of each row on new backgrounds."""
        numbers = batch["numbers"][:, which]
        bits = batch["mask"].unflatten(1, (batch["numbers"].shape[1], -1))[:, which]
        sizes = batch["tags"][:, TAGS.index("size")].float()

        def change(images):
            images = images.unflatten(0, numbers.shape[:2])
            squares = numbers[:, :, :3]
            return appearance.change_pairs(images, batch["look"], bits, squares, sizes).flatten(
                0, 1
            )

        images = augment(
            batch["pixels"][:, which].flatten(0, 1),
            numbers.flatten(0, 1),
            self.config.model.size,
            change,
        )
        return images.unflatten(0, numbers.shape[:2])

    def _persons(self, batch, which):
        """Return (R * images, N) share of each patch that lies on the person.

        Of ``which`` of the K + 1 images of each row.
        """
        numbers, grid = batch["numbers"][:, which], self.model.grid
        boxes = numbers.flatten(0, 1)
        sizes = batch["tags"][:, TAGS.index("size")].repeat_interleave(numbers.shape[1])
        bits = batch["mask"].unflatten(1, (batch["numbers"].shape[1], -1))[:, which].flatten(0, 1)
        # Four mask pixels a patch's side are enough to tell how much of it is person.
        return masking.person_share(crop_masks(bits, boxes, sizes, scale_size(grid, 4)), grid)

    def share_seen(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, N) share of each patch that the reference shows, and whether it is known.

        See pretrain.surface.share_seen. It is the pair's own reference, whatever
        ``objective.references`` puts in its place: so arms to compare with have the same masks.
        """
        spots = self._crop_patches(batch, "vertex")
        return surface.share_seen(spots[:, :-1].flatten(0, 1), spots[:, -1], *self.regions)

    def find_geometry(self, batch: Batch, masked: torch.Tensor) -> Geometry:
        """What the maps of a batch say of its masked patches (B, M)."""
        vertex = self._crop_patches(batch, "vertex")
        normal = self._crop_patches(batch, "normal")[:, :-1].flatten(0, 1)
        of_a, share = vertex[:, :-1].flatten(0, 1), None
        if "covisibility" in self.config.model.decoder.geometry:
            share, _ = surface.share_seen(of_a, vertex[:, -1], *self.regions)
            share = share.gather(1, masked)
        here = take(of_a, masked)
        return Geometry(
            (here > 0).float().mean(2),
            geometry.average_normals(take(normal.flatten(2), masked).unflatten(2, (-1, 3))),
            geometry.choose_parts(here, self.part_of),
            share,
        )

    def _crop_patches(self, batch, name):
        """(R, K + 1, N, POINTS ** 2, ...) spots of the maps of a name, under the images' crops."""
        numbers, grid = batch.get("own_numbers", batch["numbers"]), self.model.grid
        sizes = batch["tags"][:, TAGS.index("size")].repeat_interleave(numbers.shape[1])
        size = scale_size(grid, surface.POINTS)
        spots = surface.crop_maps(batch[name].flatten(0, 1), numbers.flatten(0, 1), sizes, size)
        return surface.split_patches(spots, grid).unflatten(0, numbers.shape[:2])

    def complete(
        self,
        a: torch.Tensor,
        b: torch.Tensor | None,
        keep: torch.Tensor,
        masked: torch.Tensor,
        seen: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(B, M, P*P*3) float32 prediction for the masked patches.

        Arguments as ``pairs`` gives them.
        """
        return self.predict(a, b, keep, masked, seen)[0]

    def predict(
        self,
        a: torch.Tensor,
        b: torch.Tensor | None,
        keep: torch.Tensor,
        masked: torch.Tensor,
        seen: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """``complete`` and what the network's other heads say, {name: (B, M, values)} float32."""
        with torch.autocast(a.device.type, torch.bfloat16, enabled=self.bf16):
            said = self.model.complete(a, b, keep, masked, seen)
        return self.split_outputs(said.float())

    def split_outputs(self, said: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """(pixels, {name: values of another head}) of what the network says, (B, M, outputs)."""
        more = list_outputs(self.config.model)
        pixels, *parts = said.split([said.shape[-1] - sum(more.values()), *more.values()], -1)
        return pixels, dict(zip(more, parts, strict=True))

    def forward(self, batch: Batch) -> torch.Tensor:
        """(B,) loss of each target."""
        batch = self.choose_references(batch)
        a, b, keep, masked, person, seen = self.pairs(batch)
        said, more = self.predict(a, b, keep, masked, seen)
        loss = self.compare_pixels(said, more, a, masked, self.weigh_patches(person))
        return self.add_geometry(loss, more, batch, masked)

    def weigh_patches(self, person: torch.Tensor) -> torch.Tensor:
        """(B, N) weight of each patch, from the share (B, N) of it that is person."""
        return patch_loss.patch_weight(person, get_completion(self.config).background_weight)

    def losses(
        self,
        a: torch.Tensor,
        b: torch.Tensor | None,
        keep: torch.Tensor,
        masked: torch.Tensor,
        seen: torch.Tensor | None,
        weights: Sequence[torch.Tensor],
    ) -> list[torch.Tensor]:
        """[(B,) loss of each target's pixels, ...] under several weights of patches, (B, N)."""
        predicted = self.complete(a, b, keep, masked, seen)
        return [self._pixel_loss(predicted, a, masked, weight) for weight in weights]

    def _pixel_loss(self, predicted, a, masked, weight):
        """(B,) loss of predictions (B, M, P*P*3) under a weight (B, N) of patches."""
        kind = get_completion(self.config).target
        target = patch_loss.targets(a, self.config.model.patch, kind, masked)
        return patch_loss.per_sample_loss(predicted, target, weight.gather(1, masked))

    def compare_pixels(
        self,
        said: torch.Tensor,
        more: Mapping[str, torch.Tensor],
        a: torch.Tensor,
        masked: torch.Tensor,
        weight: torch.Tensor,
    ) -> torch.Tensor:
        """(B,) loss of pixels, and of gradients where the network says them.

        Args:
            said, more: what ``predict`` gives.  weight: (B, N) of patches.
        """
        loss = self._pixel_loss(said, a, masked, weight)
        if "gradients" not in more:
            return loss
        part = self.config.model
        target = take(histograms(a, part.patch, part.decoder.gradients), masked)
        chosen = weight.gather(1, masked)
        of_gradients = patch_loss.per_sample_loss(more["gradients"], target, chosen)
        return loss + get_completion(self.config).gradient_weight * of_gradients

    def add_geometry(
        self,
        loss: torch.Tensor,
        more: Mapping[str, torch.Tensor],
        batch: Batch,
        masked: torch.Tensor,
    ) -> torch.Tensor:
        """(B,) loss, and that of geometry beside it where the network says some.

        Args:
            more: what ``predict`` gives.  masked: (B, M) patches of which it is said.
        """
        said = {name: more[name] for name in geometry.VALUES if name in more}
        if not said:
            return loss
        losses = geometry.compare(said, self.find_geometry(batch, masked))
        return loss + get_completion(self.config).geometry_weight * sum(losses.values())

    def begin_validation(self, val: Arrays, subjects: Sequence[str]) -> None:
        """Choose the mismatched reference of each validation row."""
        self.mismatched = reference_gain.choose_mismatched(val["tags"], subjects)
        if not self.config.model.decoder.cross:
            self.mismatched[:] = -1  # no reference, no gain of one

    def evaluate(self, task: PretrainTask, shares: Shares) -> dict[str, float]:
        """{"val/KIND", "reference_gain/KIND", and each as KIND_person} over ``task.val``.

        With heads of geometry, {"geometry/HEAD"} too.
        """
        val = task.require_val()
        out = reference_gain.evaluate(self, val, self.mismatched, task.to_device, shares)
        if not self.config.model.decoder.geometry:
            return out
        return out | geometry.evaluate(self, val, task.to_device, shares)

    def draw_images(self, task: PretrainTask, folder: Path, step: int) -> dict[str, Path]:
        """Draw completions and, with references, attention; see pretrain.panels.save."""
        return panels.save(self, task.require_val(), task.to_device, folder, step)

    def draw_samples(
        self, task: PretrainTask, arrays: Arrays, labels: Sequence[str], title: str
    ) -> Image.Image:
        """An image of the loader's pairs, a row each; of several targets the first."""
        arrays = take_first_target(arrays, self.config.targets_per_reference)
        return panels.sheet(panels.complete_batch(self, task.to_device(arrays)), labels, title)

    @classmethod
    def count_step_flops(cls, config: PretrainConfig) -> float:
        """Operations of a target's training step."""
        rows, columns = config.model.grid()
        visible, attended = config.masking.seen(rows * columns)
        return step_flops(config.model, visible, config.targets_per_reference, attended)

    def describe(self) -> str:
        """Sizes of the decoder's work: patches, those masked, those attended to."""
        patches = self.model.patches
        visible, attended = self.config.masking.seen(patches)
        whole = sum(p.numel() for p in self.model.parameters()) / 1e6
        words = f"with decoder {whole:.1f} M; {patches} patches, {patches - visible} masked"
        if attended < patches:
            words += f", {attended} of the reference attended to"
        if self.config.model.decoder.geometry:
            words += f"; says {', '.join(self.config.model.decoder.geometry)}"
        return words

    def list_notes(self, task: PretrainTask) -> list[str]:
        """Why there is no reference gain, where there is none."""
        if not self.config.model.decoder.cross:
            return ["model.decoder.cross=false: a masked autoencoder; references are not read"]
        if task.val is not None and (self.mismatched < 0).all():
            return [
                "the validation pairs of each source are of one person, so no reference can be "
                "swapped: no reference gain"
            ]
        return []


def take_first_target(arrays: Arrays, targets: int) -> dict[str, np.ndarray]:
    """Arrays of data.loading.reader.layout with the first of their targets alone."""
    rows, chosen = len(arrays["tags"]), [0, targets]
    out = dict(arrays)
    for name in ("mask", "noise"):
        flat = arrays[name].reshape(rows, targets + 1, -1)
        out[name] = flat[:, chosen].reshape(rows, -1)
    for name in ("pixels", "numbers", *MAPS):
        if name in arrays:
            out[name] = arrays[name][:, chosen]
    return out
