"""A teacher sees a whole pair; the student says its features from one masked image.

What the second image tells reaches the student by the target alone: the student reads one image,
as it will when it is used. Pixels are completed beside that.

The teacher is another run, which stays as it is, or it follows the student: its weights are their
running average (BYOL, arXiv 2006.07733; data2vec, arXiv 2202.03555). Then the decoder learns to
attend to a reference by completing pixels with its help, beside what it says from one image.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F

from data.sampling.seen import Seen
from engine.checkpoint import restore
from engine.config.parser import key
from engine.distributed.parallel import whole
from engine.errors import UserError
from engine.logging.metric_registry import Group, Metric, MetricBook
from engine.training.shares import Shares
from engine.training.task import Batch
from pretrain import patch_loss, weights
from pretrain.blocks import stop_gradient, take
from pretrain.config import CompletionConfig, ObjectiveConfig, PretrainConfig
from pretrain.flops import alone_flops, feature_flops
from pretrain.model import CrossCompletion
from pretrain.objectives import OBJECTIVES
from pretrain.objectives.completion import Completion
from pretrain.reference_gain import AT_ONCE
from pretrain.sources import read

if TYPE_CHECKING:
    from pretrain.task import PretrainTask

COPY = "teacher.safetensors"  # in the run's folder: a teacher that trains on changes nothing here
EMA = "ema"
STATE = "teacher"  # kind of the tensors that a checkpoint holds of a teacher that follows
FLOOR = 1e-6  # under the root of a channel's variance

Said = tuple[torch.Tensor, Mapping[str, torch.Tensor]]


@dataclass
class TeacherConfig(CompletionConfig):
    """A teacher's features of whole pairs are said from one masked image."""

    teacher: str = key(
        "",
        "the teacher: a run or weights of completion with the same image_size and patch, which "
        "stay as they are; with model.decoder.cross=false it sees no reference (to compare with). "
        "ema: the running average of this run's own weights",
        path="one",
    )
    latent_weight: float = key(1.0, "weight of the teacher's features", low=0)
    pixel_weight: float = key(1.0, "weight of the completed pixels beside them", low=0)
    latent_norm: str = key(
        "patch",
        "what the teacher's features are normalised over: the channels of each patch, or for each "
        "channel the masked patches of the batch",
        choices=("patch", "channel"),
    )
    momentum: float = key(
        0.99, "teacher=ema: share of itself that it keeps at the first update", low=0, high=1
    )
    momentum_end: float = key(
        1.0, "teacher=ema: the same at the last update; half a cosine lies between", low=0, high=1
    )
    pair_weight: float = key(
        1.0,
        "teacher=ema: weight of the pixels that are completed with the help of the reference, by "
        "which the decoder learns to attend to it",
        low=1e-6,
    )
    teacher_reference: bool = key(
        True, "teacher=ema: false: it sees the target alone, all else as it is (to compare with)"
    )

    @property
    def follows(self) -> bool:
        """Whether the teacher follows the student."""
        return self.teacher == EMA

    def check_run(self, config: PretrainConfig) -> None:
        """UserError where there is no teacher, or no head that says its features."""
        if not self.teacher:
            raise UserError(
                "objective.name=teacher needs objective.teacher=RUN, a pre-training of completion, "
                "or objective.teacher=ema"
            )
        if config.model.decoder.cross and not self.follows:
            raise UserError(
                "objective.name=teacher with model.decoder.cross=true: the student reads one "
                "image; set model.decoder.cross=false"
            )
        if not config.model.decoder.latents:
            raise UserError(
                "objective.name=teacher with model.decoder.latents=0: set it to the teacher's "
                "model.decoder.width"
            )
        if config.model.decoder.geometry:
            raise UserError(
                f"objective.name=teacher with model.decoder.geometry="
                f"{','.join(config.model.decoder.geometry)}: its heads are of "
                f"objective.name=completion and views"
            )
        self._check_followed(config)

    def _check_followed(self, config):
        """UserError where keys of a teacher that follows have no effect, or it is of another width.

        Those of its reference want a decoder that attends to one.
        """
        usual = TeacherConfig()
        for name in ("momentum", "momentum_end", "pair_weight", "teacher_reference"):
            value = getattr(self, name)
            if value == getattr(usual, name):
                continue
            if not self.follows:
                raise UserError(
                    f"objective.{name}={value}, but objective.teacher={self.teacher} stays as it "
                    f"is: objective.teacher=ema follows"
                )
            if not name.startswith("momentum") and not config.model.decoder.cross:
                raise UserError(
                    f"objective.{name}={value}, but model.decoder.cross=false attends to no "
                    f"reference"
                )
        part = config.model.decoder
        if self.follows and part.latents != part.width:
            raise UserError(
                f"objective.teacher=ema with model.decoder.latents={part.latents} and "
                f"model.decoder.width={part.width}: it has the student's width"
            )


@OBJECTIVES.register("teacher")
class Teacher(Completion):
    """Completion of one image, and beside it a teacher's features of its masked patches.

    Attributes:
        teacher: a pretrain.model.CrossCompletion in evaluation mode. No submodule: no optimizer
            and no process group knows it. One that follows is whole on each rank, and checkpoints
            hold it beside the optimizer's moments.
    """

    schema: ClassVar[type[ObjectiveConfig]] = TeacherConfig
    entries: ClassVar[tuple[str, ...]] = ("complete_both", *Completion.entries)
    metrics: ClassVar[MetricBook] = Completion.metrics.extend(
        MetricBook(
            groups=(
                Group(
                    "teacher",
                    "Teacher",
                    "What the student says of the teacher's features, and how much these differ "
                    "from patch to patch: 0 is collapse.",
                    position=31,
                ),
            ),
            metrics=(
                Metric("latents", "loss of the teacher's features", "", lower_is_better=True),
                Metric("spread", "share of the features that differs between patches"),
            ),
        )
    )

    def __init__(self, model: CrossCompletion, config: PretrainConfig, bf16: bool) -> None:
        super().__init__(model, config, bf16)
        if _keys(config).follows:
            teacher = copy.deepcopy(model).eval()
        else:
            teacher = _read_teacher(config).to(next(model.parameters()).device)
        # In a list, in which nn.Module does not look for submodules.
        self._held = [teacher.requires_grad_(False)]

    @property
    def teacher(self) -> CrossCompletion:
        """The network that teaches."""
        return self._held[0]

    @classmethod
    def read_lessons(cls, config: PretrainConfig) -> Seen:
        """What another run's teacher saw: it reaches the student."""
        return Seen() if _keys(config).follows else read(_find_teacher(config)).seen

    @property
    def reads_reference(self) -> bool:
        """Whether the teacher attends to the second image, or the student beside it does."""
        return self.teacher.config.decoder.cross

    def forward(self, batch: Batch) -> torch.Tensor:
        """(B,) loss of each target."""
        a, b, keep, masked, person, seen = self.pairs(self.choose_references(batch))
        weight, keys = self.weigh_patches(person), _keys(self.config)
        (said, more), helped = self._complete(a, b, keep, masked, seen)
        latents = self.teach(a, b, masked)
        of_latents = patch_loss.per_sample_loss(more["latents"], latents, weight.gather(1, masked))
        of_pixels = self.compare_pixels(said, more, a, masked, weight)
        loss = keys.latent_weight * of_latents + keys.pixel_weight * of_pixels
        if helped is not None:
            loss = loss + keys.pair_weight * self.compare_pixels(*helped, a, masked, weight)
        return loss

    def _complete(self, a, b, keep, masked, seen) -> tuple[Said, Said | None]:
        """What the student says from ``a`` alone, and with the help of ``b`` where it attends.

        As ``predict`` gives it.
        """
        if not self.model.config.decoder.cross:
            return self.predict(a, None, keep, masked), None
        with torch.autocast(a.device.type, torch.bfloat16, enabled=self.bf16):
            helped, alone = self.model.complete_both(a, b, keep, masked, seen)
        return self.split_outputs(alone.float()), self.split_outputs(helped.float())

    def teach(self, a: torch.Tensor, b: torch.Tensor | None, masked: torch.Tensor) -> torch.Tensor:
        """(B, M, C) the teacher's features of masked patches, as ``latent_norm`` normalises them.

        Args:
            a: (B, 3, H, W) whole.  b: (R, 3, H, W), or None for a teacher of one image.
            masked: (B, M).
        """
        with stop_gradient():
            features = self._see(a, b, masked)
            if _keys(self.config).latent_norm == "channel":
                return standardise(features)
            return F.layer_norm(features, features.shape[-1:])

    def _see(self, a, b, masked):
        """(B, M, C) the teacher's features of masked patches, as they are, in float32."""
        reference = _keys(self.config).teacher_reference
        with torch.autocast(a.device.type, torch.bfloat16, enabled=self.bf16):
            features = self.teacher.features(a, b, reference and self.reads_reference)
        return take(features.float(), masked)

    @torch.no_grad()
    def finish_update(self, step: int, bad: torch.Tensor) -> None:
        """Have a teacher that follows take its share of the new weights."""
        keys = _keys(self.config)
        if not keys.follows:
            return
        kept = find_momentum(step, self.config.steps, keys.momentum, keys.momentum_end)
        ours = dict(self.model.named_parameters())
        averages = {name: value.detach() for name, value in self.teacher.named_parameters()}
        newest = [whole(ours[name].detach()) for name in averages]
        apart = list(torch._foreach_sub(newest, list(averages.values())))
        torch._foreach_mul_(apart, (1 - kept) * ~bad)
        torch._foreach_add_(list(averages.values()), apart)

    def list_state(self) -> dict[str, torch.Tensor]:
        """{"teacher/WEIGHT": tensor} of a teacher that follows."""
        if not _keys(self.config).follows:
            return {}
        return {f"{STATE}/{name}": value for name, value in self.teacher.named_parameters()}

    def load_state(self, path: Path) -> None:
        """Fill a teacher that follows."""
        restore.load_of_task(path, self.list_state())

    def keep_inputs(self, folder: Path) -> None:
        """Copy another run's teacher into the run's folder, from which a resumed run reads it."""
        if not _keys(self.config).follows and not (folder / COPY).is_file():
            seen = self.read_lessons(self.config)
            weights.save_model(self.teacher, folder / COPY, seen)

    def evaluate(self, task: PretrainTask, shares: Shares) -> dict[str, float]:
        """As Completion's, with {"teacher/latents", "teacher/spread"}.

        Of features that are normalised over each patch's channels the mean square is 1; the spread
        is the part of it that is variance from patch to patch.
        """
        out = super().evaluate(task, shares)
        count, processes = len(task.require_val()["tags"]), shares.processes
        rank, world = processes.rank, processes.world
        # As many rows on each rank, so that all call the network equally often.
        rows = np.arange(rank, -(-count // world) * world, world)
        width = self.teacher.config.decoder.width
        sums = torch.zeros(3 + 2 * width, dtype=torch.float64, device=processes.device)
        for first in range(0, len(rows), AT_ONCE):
            if shares.stop:
                break  # ``total`` tells all ranks
            shares.watch.alive()
            sums += self._sum_latents(task, rows[first : first + AT_ONCE], count)
        samples, loss, patches, *moments = shares.total(sums)
        mean, square = np.reshape(moments, (2, width)) / patches
        spread = float((square - mean**2).mean())
        return out | {"teacher/latents": loss / samples, "teacher/spread": spread}

    @torch.no_grad()
    def _sum_latents(self, task, rows, count):
        """(3 + 2 C,) samples, their loss, their patches, sums and squares of the features.

        Rows from ``count`` on are none. Channels are standardised over these rows alone.
        """
        here = {name: values[rows % count] for name, values in task.require_val().items()}
        batch = task.to_device(here)
        a, b, keep, masked, person, seen = self.pairs(batch)
        inside = torch.from_numpy(rows < count).to(a.device)
        features = self._see(a, b, masked)
        plain = F.layer_norm(features, features.shape[-1:])
        channels = _keys(self.config).latent_norm == "channel"
        target = standardise(features, of_all_ranks=False) if channels else plain
        said = self._complete(a, b, keep, masked, seen)[0][1]["latents"]
        weight = self.weigh_patches(person).gather(1, masked)
        loss = patch_loss.per_sample_loss(said, target, weight)
        values = plain.double()[inside].flatten(0, 1)
        samples, total = inside.sum(), loss.double()[inside].sum()
        ends = torch.stack([samples, total, samples * masked.shape[1]])
        return torch.cat([ends, values.sum(0), values.square().sum(0)])

    def describe(self) -> str:
        """Sizes of the student's work, and who teaches it."""
        keys = _keys(self.config)
        pair = self.reads_reference and keys.teacher_reference
        sees = "a pair" if pair else "one image"
        who = "the running average of its weights" if keys.follows else keys.teacher
        return f"{super().describe()}; taught by {who}, which sees {sees}"

    @classmethod
    def count_step_flops(cls, config: PretrainConfig) -> float:
        """Operations of a target's training step; the teacher's forward pass counts once."""
        keys, targets = _keys(config), config.targets_per_reference
        step = super().count_step_flops(config)
        if keys.follows:
            rows, columns = config.model.grid()
            visible, _ = config.masking.seen(rows * columns)
            if config.model.decoder.cross:
                step += 3 * alone_flops(config.model, visible)
            return step + feature_flops(config.model, targets, keys.teacher_reference)
        found = read(_find_teacher(config)).config
        assert found is not None  # _read_teacher takes no other
        return step + feature_flops(found, targets)


def find_momentum(step: int, steps: int, first: float, last: float) -> float:
    """The share of itself that a teacher keeps at a step: half a cosine from first to last.

    BYOL's schedule (arXiv 2006.07733).
    """
    return last - (last - first) * (1 + math.cos(math.pi * step / max(1, steps - 1))) / 2


def standardise(features: torch.Tensor, of_all_ranks: bool = True) -> torch.Tensor:
    """(B, M, C) features, of which each channel has mean 0 and variance 1 over patches.

    Those of the batch of all ranks; with grad_accum_steps, of one of its parts.
    """
    sums = torch.cat([features.new_tensor([features[..., 0].numel()]), features.sum((0, 1))])
    _sum_ranks(sums, of_all_ranks)
    centred = features - sums[1:] / sums[0]
    squares = centred.square().sum((0, 1))
    _sum_ranks(squares, of_all_ranks)
    return centred / (squares / sums[0] + FLOOR).sqrt()


def _sum_ranks(values, wanted):
    if wanted and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(values)


def _keys(config: PretrainConfig) -> TeacherConfig:
    return cast(TeacherConfig, config.objective)


def _find_teacher(config: PretrainConfig) -> Path:
    """The run's own copy of its teacher, or what ``objective.teacher`` names."""
    copy = Path(config.run) / COPY
    return copy if copy.is_file() else Path(_keys(config).teacher)


def _read_teacher(config: PretrainConfig) -> CrossCompletion:
    """The teacher, in evaluation mode.

    Raises:
        UserError: it does not fit the student, with both values.
    """
    name, model = _keys(config).teacher, config.model
    try:
        teacher = weights.load(_find_teacher(config))
    except UserError as error:
        raise UserError(
            f"objective.teacher={name} is no pre-training of completion: {error}"
        ) from None
    for key_name, theirs, ours in (
        ("model.image_size", teacher.config.size, model.size),
        ("model.patch", teacher.config.patch, model.patch),
        ("model.decoder.latents", teacher.config.decoder.width, model.decoder.latents),
    ):
        if theirs != ours:
            what = "decoder.width" if key_name.endswith("latents") else key_name
            raise UserError(
                f"objective.teacher={name} has {what}={theirs}, this run has {key_name}={ours}"
            )
    return teacher
