"""What a run trains.

``engine.training.trainer`` takes the steps, ``engine.training.loop`` runs them; both know a task by
what stands here and no more.

A new task is a subclass of Task (on clips: of ``data.loading.clip_task.ClipTask``) in a file of its
own, with its config beside it.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import nn

from engine.config.train_config import TrainConfig
from engine.distributed.process_group import Processes
from engine.errors import UserError
from engine.logging.metric_registry import MetricBook
from engine.training.shares import Shares

if TYPE_CHECKING:
    from PIL import Image

Config = TypeVar("Config", bound=TrainConfig)
Arrays = Mapping[str, np.ndarray]  # rows of a batch on the host; "tags" is (rows, columns) int64
Batch = Mapping[str, torch.Tensor]  # the same on the device


class BatchLoader(Protocol):
    """What reads a rank's share of each step's batch.

    Attributes:
        workers: its processes.  ring: the batches that it has memory for.  alive: is called while
            a batch is waited for.
    """

    workers: Sequence[object]
    ring: Sequence[Arrays]
    alive: Callable[[], None]

    def batches(self, start: int, stop: int) -> Iterator[tuple[int, Arrays]]:
        """Yield (step, arrays) of the steps from ``start`` to before ``stop``."""
        ...

    def take_waited(self) -> float:
        """Seconds that ``batches`` was waited for since the last call."""
        ...

    def close(self) -> None:
        """End its processes and give its memory back."""
        ...


class Task(abc.ABC, Generic[Config]):
    """The network, the data, the loss and what is measured of a run.

    Methods are called on all ranks, in the same sequence, unless they say otherwise.

    Class attributes:
        command: the words after ``python -m``, which the run's config.yaml names.
        schema: the dataclass of its keys.
        unit: what a step learns from, in the log: "pairs" gives speed/pairs_per_s.
    Attributes:
        metrics: what its numbers and images are; of the class where they are the same in every run.
        config, processes, device.
        model: the bare network, on the device, whose weights are saved.
        step_module: a module that holds it, called on parts of a batch.
        loader: reads this rank's share of the batches.
        val: validation rows that are never trained on, as arrays of the loader; None where there
            are none: then nothing is evaluated or drawn.
        meter_count: how many numbers ``compute_loss`` gives beside the loss.
        replaced_columns: columns of "tags" with the counts of replaced samples.
        entries: methods of the network, beside ``forward``, that are called while its weights may
            be sharded.
        bf16: the step module runs the network under bf16 autocast.
        probe_every: steps between calls of ``probe``; 0: never.
    """

    command: ClassVar[str]
    schema: ClassVar[type[TrainConfig]]
    unit: ClassVar[str] = "samples"
    metrics: MetricBook = MetricBook()

    model: nn.Module
    step_module: nn.Module
    loader: BatchLoader
    val: Arrays | None = None
    meter_count: int = 0
    replaced_columns: slice = slice(0, 0)
    entries: tuple[str, ...] = ()
    bf16: bool = False
    probe_every: int = 0

    def __init__(self, config: Config, processes: Processes) -> None:
        self.config, self.processes, self.device = config, processes, processes.device

    def require_val(self) -> Arrays:
        """Return ``val``; RuntimeError where there are no validation rows."""
        if self.val is None:
            raise RuntimeError("there are no validation rows, so nothing is evaluated or drawn")
        return self.val

    @property
    def package(self) -> str:
        """The package whose command it is: "pretrain" or "finetune"."""
        return self.command.split()[0]

    # The step.

    @abc.abstractmethod
    def to_device(self, arrays: Arrays) -> Batch:
        """The loader's arrays as tensors on the device."""

    def prepare_step(self, step: int, shares: Shares) -> None:
        """Do what is due before a step, such as making its labels; minutes are allowed.

        Called on all ranks before each step that is taken, and never twice in one process. What
        it makes has to follow from the weights of the step and from earlier such calls, so that a
        run that resumes makes it again.

        Args:
            shares: has a request to stop, and the watch that wants a sign now and then.
        Raises:
            engine.training.shares.BrokenOff: on all ranks: the run was asked to stop; then
                nothing has changed.
        """
        return

    @abc.abstractmethod
    def compute_loss(self, module: nn.Module, piece: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """(loss, (meter_count,) float64 meters) of a part of this rank's rows.

        The loss is this part's share of the global batch's: the sum over all parts and ranks is
        the loss that is minimised. Meters are summed over parts, ranks and steps.

        Args:
            module: ``step_module``, wrapped as the ranks share its weights and gradients.
        """

    @abc.abstractmethod
    def name_losses(self, sums: Sequence[float]) -> dict[str, float]:
        """{"loss/NAME": mean} from summed meters."""

    def lr_mult(self, name: str) -> float:
        """The factor on the learning rate of the weight called ``name``."""
        return 1.0

    def trained_from(self, name: str) -> int:
        """The step from which on the weight called ``name`` is trained; before, it is frozen.

        Its learning rate then has a warm-up of its own. A weight that is never trained has
        ``requires_grad`` off before the trainer is made.
        """
        return 0

    def finish_update(self, step: int, bad: torch.Tensor) -> None:
        """Take up the weights after the update of a step, on all ranks.

        Args:
            bad: () bool on the device: the update was skipped, and no weight has changed.
        """
        return

    def list_state(self) -> dict[str, torch.Tensor]:
        """{"KIND/WEIGHT": tensor} that checkpoints hold beside the weights, which are the model's.

        Of each kind there is one of each weight that is trained, whole or spread as that is.
        """
        return {}

    def load_state(self, path: Path) -> None:
        """Go on with what ``list_state`` gave when a checkpoint's folder was written."""
        return

    # What is measured beside the loss.

    @abc.abstractmethod
    def evaluate(self, shares: Shares) -> dict[str, float]:
        """{"GROUP/NAME": number} over ``val``; each rank takes its share.

        Raises:
            engine.training.shares.BrokenOff: on all ranks: the run was asked to stop.
        """

    def probe(self, shares: Shares) -> dict[str, float]:
        """{"GROUP/NAME": number} that cost more than ``evaluate``; every ``probe_every`` steps."""
        return {}

    def draw_images(self, folder: Path, step: int) -> dict[str, Path]:
        """Draw rows of ``val`` into ``folder/images``; {name: path} of what the dashboard gets.

        On rank 0.
        """
        return {}

    def measure_data(self, step: int, replaced: Sequence[int]) -> dict[str, float]:
        """{"GROUP/NAME": number} about the data so far.

        Args:
            step: the last one taken.  replaced: sums of the ``replaced_columns`` over all rows and
                ranks since the run began.
        """
        return {}

    def count_flops(self) -> float | None:
        """Operations of a sample, forward and backward.

        None: not known, and no share of the device's peak is given.
        """
        return None

    # The run and its folder.

    def find_faults(self) -> list[str]:
        """Return a sentence for each thing that would keep this rank from training.

        A preflight, told together with what the engine finds.
        """
        return []

    def begin_run(self, folder: Path) -> None:
        """Write what the folder keeps of the data, or compare it with what it kept. On rank 0.

        Raises:
            engine.errors.Failure: the data are not the run's.
        """
        return

    def announce(self, start: int) -> None:
        """Say what is derived from the config, before the first step. On rank 0."""
        return

    def make_metadata(self) -> dict[str, str]:
        """{text: text} for the header of the weights' file."""
        return {}

    def read_metadata(self, checkpoint: Path) -> None:
        """Take up what the header of a checkpoint says, before the run resumes from it."""
        return

    def list_bad(self, folder: Path, slot: int) -> None:
        """Resume the folder's list of bad samples from a slot. On rank 0."""
        return

    def note_bad(self) -> None:
        """Write bad samples since the last call into that list.

        Raises:
            UserError: on all ranks: they are too many.
        """
        return

    # For ``replay``, which reads a step's batch again.

    def score_samples(self, batch: Batch) -> torch.Tensor:
        """(rows,) losses of a batch's rows, each by itself.

        Raises:
            UserError: the task has none to give.
        """
        raise UserError(f"replay: {self.command} of {type(self).__name__} scores no single samples")

    def draw_samples(self, arrays: Arrays, labels: Sequence[str], title: str) -> Image.Image:
        """An image of rows of a batch, each with its label.

        Raises:
            UserError: the task has none to give.
        """
        raise UserError(f"replay: {self.command} of {type(self).__name__} draws no single samples")
