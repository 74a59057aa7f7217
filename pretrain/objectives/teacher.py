"""A teacher sees a whole pair; the student says its features from one masked image.

What the second image tells reaches the student by the target alone: the student reads one image,
as it will when it is used, and the reference costs it nothing. Pixels are completed beside that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, cast

import numpy as np
import torch
import torch.nn.functional as F

from data.sampling.seen import Seen
from engine.config.parser import key
from engine.errors import UserError
from engine.training.task import Arrays, Batch
from pretrain import patch_loss, weights
from pretrain.blocks import take
from pretrain.config import CompletionConfig, ObjectiveConfig, PretrainConfig
from pretrain.model import CrossCompletion, feature_flops
from pretrain.objectives import OBJECTIVES
from pretrain.objectives.completion import Completion
from pretrain.sources import read

COPY = "teacher.safetensors"  # in the run's folder: a teacher that trains on changes nothing here


@dataclass
class TeacherConfig(CompletionConfig):
    """A teacher's features of whole pairs are said from one masked image."""

    teacher: str = key(
        "",
        "the teacher: a run or weights of completion with the same image_size and patch, which "
        "stay as they are; with model.decoder.cross=false it sees no reference (to compare with)",
        path="one",
    )
    latent_weight: float = key(1.0, "weight of the teacher's features", low=0)
    pixel_weight: float = key(1.0, "weight of the completed pixels beside them", low=0)

    def check_run(self, config: PretrainConfig) -> None:
        """UserError where there is no teacher, or no head that says its features."""
        if not self.teacher:
            raise UserError(
                "objective.name=teacher needs objective.teacher=RUN, a pre-training of completion"
            )
        if config.model.decoder.cross:
            raise UserError(
                "objective.name=teacher with model.decoder.cross=true: the student reads one "
                "image; set model.decoder.cross=false"
            )
        if not config.model.decoder.latents:
            raise UserError(
                "objective.name=teacher with model.decoder.latents=0: set it to the teacher's "
                "model.decoder.width"
            )


@OBJECTIVES.register("teacher")
class Teacher(Completion):
    """Completion of one image, and beside it a frozen teacher's features of its masked patches.

    Attributes:
        teacher: a pretrain.model.CrossCompletion in evaluation mode. No submodule: no optimizer,
            checkpoint or process group knows it.
    """

    schema: ClassVar[type[ObjectiveConfig]] = TeacherConfig

    def __init__(self, model: CrossCompletion, config: PretrainConfig, bf16: bool) -> None:
        super().__init__(model, config, bf16)
        device = next(model.parameters()).device
        teacher = _read_teacher(config).to(device).requires_grad_(False)
        self._held = [teacher]  # in a list, in which nn.Module does not look for submodules

    @property
    def teacher(self) -> CrossCompletion:
        """The frozen network."""
        return self._held[0]

    @classmethod
    def read_lessons(cls, config: PretrainConfig) -> Seen:
        """What the teacher saw: it reaches the student."""
        return read(_find_teacher(config)).seen

    @property
    def reads_reference(self) -> bool:
        """Whether the teacher attends to the second image."""
        return self.teacher.config.decoder.cross

    def forward(self, batch: Batch) -> torch.Tensor:
        """(B,) loss of each target."""
        a, b, keep, masked, person, _ = self.pairs(self.choose_references(batch))
        weight = self.weigh_patches(person)
        said, more = self.predict(a, None, keep, masked)
        latents = self.teach(a, b, masked)
        keys = _keys(self.config)
        of_latents = patch_loss.per_sample_loss(more["latents"], latents, weight.gather(1, masked))
        of_pixels = self.compare_pixels(said, more, a, masked, weight)
        return keys.latent_weight * of_latents + keys.pixel_weight * of_pixels

    @torch.no_grad()
    def teach(self, a: torch.Tensor, b: torch.Tensor | None, masked: torch.Tensor) -> torch.Tensor:
        """(B, M, C) the teacher's features of masked patches, each with mean 0 and variance 1.

        Args:
            a: (B, 3, H, W) whole.  b: (R, 3, H, W), or None for a teacher of one image.
            masked: (B, M).
        """
        with torch.autocast(a.device.type, torch.bfloat16, enabled=self.bf16):
            features = self.teacher.features(a, b)
        chosen = take(features.float(), masked)
        return F.layer_norm(chosen, chosen.shape[-1:])

    def keep_inputs(self, folder: Path) -> None:
        """Copy the teacher into the run's folder, from which a resumed run reads it."""
        if not (folder / COPY).is_file():
            seen = self.read_lessons(self.config)
            weights.save_model(self.teacher, folder / COPY, seen)

    def begin_validation(self, val: Arrays, subjects: Sequence[str]) -> None:
        """The student has no reference, so it has no gain of one."""
        self.mismatched = np.full(len(val["tags"]), -1, np.int64)

    def describe(self) -> str:
        """Sizes of the student's work, and who teaches it."""
        sees = "a pair" if self.reads_reference else "one image"
        return f"{super().describe()}; taught by {_keys(self.config).teacher}, which sees {sees}"

    @classmethod
    def count_step_flops(cls, config: PretrainConfig) -> float:
        """Operations of a target's training step; the teacher's forward pass counts once."""
        found = read(_find_teacher(config)).config
        assert found is not None  # _read_teacher takes no other
        teacher = feature_flops(found, config.targets_per_reference)
        return super().count_step_flops(config) + teacher


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
