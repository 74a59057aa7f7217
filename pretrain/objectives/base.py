"""What every objective of pre-training has; a new one is a file beside this one.

@dataclass
class ColourConfig(ObjectiveConfig):
    blur: float = key(1.0, "...")

@OBJECTIVES.register("colour")
class Colour(Objective):
    schema = ColourConfig

    def forward(self, batch): ...
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from data.sampling.order import Order
from data.sampling.seen import Seen
from engine.errors import UserError
from engine.logging.metric_registry import MetricBook
from engine.training.shares import Shares
from engine.training.task import Arrays, Batch
from pretrain import weights
from pretrain.config import ModelConfig, ObjectiveConfig, PretrainConfig
from pretrain.model import CrossCompletion, PairNetwork

if TYPE_CHECKING:
    from PIL import Image

    from pretrain.task import PretrainTask


class Objective(nn.Module, abc.ABC):
    """From the loader's arrays to the loss of each target: everything that happens on the device.

    Class attributes:
        schema: the dataclass of the keys under ``objective.``; None: those that all have.
        metrics: what its numbers and images are.
        entries: methods of the network, beside ``forward``, that it calls.
        reads_rotations: whether batches hold those between the cameras of each pair.
    Attributes:
        model: the network, with ``encoder`` (pretrain.model.Encoder), ``config`` (ModelConfig),
            ``patches`` and ``grid``.
        bf16: the network, and it alone, runs in bf16.
    """

    schema: ClassVar[type[ObjectiveConfig]] = ObjectiveConfig
    metrics: ClassVar[MetricBook] = MetricBook()
    entries: ClassVar[tuple[str, ...]] = ("encode", "features")
    reads_rotations: ClassVar[bool] = False

    model: PairNetwork

    def __init__(self, model: PairNetwork, config: PretrainConfig, bf16: bool) -> None:
        super().__init__()
        self.model, self.config, self.bf16 = model, config, bf16

    @classmethod
    def build_network(cls, config: ModelConfig) -> PairNetwork:
        """The network of a config, from torch's random state."""
        return CrossCompletion(config)

    @classmethod
    def init_network(cls, model: PairNetwork, source: str) -> Seen:
        """Fill the network with weights of another run or file, to start a new run.

        Returns what these saw.
        """
        return weights.init_encoder(model.encoder, model.config, source)

    @classmethod
    def list_blocks(cls, model: PairNetwork) -> list[nn.Module]:
        """Blocks of the network, which are compiled and recomputed one by one."""
        return list(model.encoder.blocks)

    @property
    def reads_reference(self) -> bool:
        """Whether the second image of a pair is read at all."""
        return True

    @property
    def reads_surface(self) -> bool:
        """Whether batches hold what of the body images show (data.format.surface)."""
        return False

    def check_shards(self, order: Order) -> None:
        """UserError where shards lack what it learns from; on the first process alone."""
        return

    def keep_inputs(self, folder: Path) -> None:
        """Copy what a resumed run reads again into its folder, once, before the first step."""
        return

    @abc.abstractmethod
    def forward(self, batch: Batch) -> torch.Tensor:
        """(R * K,) float32 loss of each target, of R rows of K targets.

        Args:
            batch: data.loading.reader.layout as tensors.
        """

    @abc.abstractmethod
    def evaluate(self, task: PretrainTask, shares: Shares) -> dict[str, float]:
        """{"val/KIND" and more: number} over ``task.val``; see engine.training.task.Task."""

    def finish_update(self, step: int, bad: torch.Tensor) -> None:
        """Take up the weights after an update; see engine.training.task.Task."""
        return

    def list_state(self) -> dict[str, torch.Tensor]:
        """{"KIND/WEIGHT": tensor} for checkpoints; see engine.training.task.Task."""
        return {}

    def load_state(self, path: Path) -> None:
        """Go on with what ``list_state`` gave when a checkpoint's folder was written."""
        return

    def begin_validation(self, val: Arrays, subjects: Sequence[str]) -> None:
        """Take up the validation rows, once, before the first step. ``subjects``: of each row."""
        return

    def draw_images(self, task: PretrainTask, folder: Path, step: int) -> dict[str, Path]:
        """Draw rows of ``task.val`` into ``folder/images``; {name: path}."""
        return {}

    def draw_samples(
        self, task: PretrainTask, arrays: Arrays, labels: Sequence[str], title: str
    ) -> Image.Image:
        """An image of rows of a batch, each with its label.

        Raises:
            UserError: the objective has none to give.
        """
        raise UserError(f"replay: objective {type(self).__name__} draws no single samples")

    @classmethod
    def count_step_flops(cls, config: PretrainConfig) -> float | None:
        """Operations of a target's training step, backward included; None: not known."""
        return None

    @classmethod
    def read_lessons(cls, config: PretrainConfig) -> Seen:
        """What other weights saw from which the network learns, beside those it begins with."""
        return Seen()

    def describe(self) -> str:
        """What there is to say of its network and masks, in a few words, before the first step."""
        return ""

    def list_notes(self, task: PretrainTask) -> list[str]:
        """What somebody should know of its validation before the first step."""
        return []
