"""Pre-training as a task of the engine: pairs in, an objective's loss out."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from data.format.index import PAIR_KINDS
from data.loading.build import open_loader, open_order
from data.loading.clip_task import DATA_METRICS, ClipTask
from data.loading.reader import TAGS
from data.loading.validation import val_pairs
from data.sampling.seen import Seen
from engine.checkpoint import history
from engine.distributed import hardware, process_group
from engine.distributed.process_group import Processes
from engine.logging.console import get_logger
from engine.logging.metric_registry import Companion, Group, Metric, MetricBook
from engine.training.shares import Shares
from engine.training.task import Arrays, Batch
from pretrain import header, patch_loss, probe
from pretrain.blocks import prepare
from pretrain.config import PretrainConfig
from pretrain.model import PairNetwork
from pretrain.objectives import OBJECTIVES
from pretrain.objectives.base import Objective

if TYPE_CHECKING:
    from PIL import Image

KIND, SOURCE = TAGS.index("kind"), TAGS.index("source")
# Rows of the probe that training does not change.
REFERENCE_ROWS = (
    Companion("_constant", "mean pose", colour="#9aa3b0"),
    Companion("_random", "random encoder", colour="#5b6473"),
    Companion("_timm", "timm model", colour="#8a5a9b"),
)
METRICS = DATA_METRICS.extend(
    MetricBook(
        groups=(
            Group(
                "loss_by_source",
                "Loss by source",
                "The same mean, each source by itself.",
                position=10,
            ),
            Group(
                "probe",
                "3D probe",
                "Error of joints read off the frozen encoder by a ridge regression, beside rows "
                "without training.",
                companions=REFERENCE_ROWS,
            ),
            Group(
                "evaluation",
                "Evaluation",
                "The 3D probe of checkpoints, in processes or jobs of their own beside the "
                "training.",
                companions=REFERENCE_ROWS,
                position=60,
            ),
        ),
        metrics=(
            Metric("mpjpe", "MPJPE", "mm", lower_is_better=True),
            Metric("pa_mpjpe", "PA-MPJPE", "mm", lower_is_better=True),
            Metric("lambda", "lambda", "over crops", log_scale=True),
        ),
    )
)

log = get_logger(__name__)


class PretrainTask(ClipTask[PretrainConfig]):
    """An encoder that learns from pairs of images of one person."""

    command = "pretrain train"
    schema = PretrainConfig
    unit = "pairs"
    tags = TAGS

    # Narrower than the Task's, and set once, by the constructor.
    model: PairNetwork  # pyrefly: ignore - see above
    step_module: Objective  # pyrefly: ignore - see above
    prober: probe.Prober | None

    def __init__(self, config: PretrainConfig, processes: Processes) -> None:
        order = processes.from_first(lambda: open_order(config.data, config.batch, config.seed))
        super().__init__(config, processes, order)
        objective = OBJECTIVES.find(config.objective.name)
        model, before = build(config)
        self.model = model.to(processes.device)
        prepare(objective.list_blocks(model), config, processes.device)
        self.bf16 = hardware.bf16(config.precision, processes.device)
        self.step_module = self.objective = objective(self.model, config, self.bf16)
        processes.from_first(lambda: self.objective.check_shards(order))
        self.entries = objective.entries
        self.metrics = METRICS.extend(objective.metrics)
        self.meter_count = 2 * len(PAIR_KINDS) * len(order.sources)
        loader = open_loader(
            order,
            config.data,
            model.patches,
            processes.rank,
            processes.world,
            process_group.loader_workers(config.data.workers),
            self.skip,
            config.targets_per_reference,
            self.objective.reads_reference,
            objective.reads_rotations,
            self.objective.reads_surface,
        )
        val = val_pairs(
            order,
            config.data,
            model.patches,
            config.log.val_pairs,
            self.skip,
            objective.reads_rotations,
            self.objective.reads_surface,
        )
        self.use_data(loader, val, before)
        if val is not None:
            self.objective.begin_validation(val, [subject for _, subject in self.people])
        self.probe_every = config.log.probe_every
        self.prober = None
        if config.log.probe_every:
            self.prober = probe.Prober(config, order, processes)
            self.prober.refuse_seen(self.seen)
        self.kind_weights = self._on_device(config.objective.kind_weights())
        self.kind_shares = self._on_device(order.shares)

    def _on_device(self, values):
        return torch.tensor(values, dtype=torch.float32, device=self.device)

    def compute_loss(self, module: nn.Module, piece: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (loss, sum and count of the losses of each source and kind).

        Of a part of this rank's rows.
        """
        losses = module(piece)
        tags = piece["tags"].repeat_interleave(self.config.targets_per_reference, 0)
        kind = tags[:, KIND].long()
        loss = patch_loss.combine(
            losses, kind, self.kind_weights, self.kind_shares, self.config.samples
        )
        group = tags[:, SOURCE].long() * len(PAIR_KINDS) + kind
        groups = len(self.order.sources) * len(PAIR_KINDS)
        return loss, sum_groups(losses.detach().double(), group, groups)

    def finish_update(self, step: int, bad: torch.Tensor) -> None:
        """Have the objective take up the new weights."""
        self.objective.finish_update(step, bad)

    def list_state(self) -> dict[str, torch.Tensor]:
        """The objective's, for each weight."""
        return self.objective.list_state()

    def load_state(self, path: Path) -> None:
        """Give the objective its state of a checkpoint."""
        self.objective.load_state(path)

    def name_losses(self, sums: Sequence[float]) -> dict[str, float]:
        """Return the losses by their names, from the meters of ``compute_loss``.

        {"loss/KIND"} and, of several sources, {"loss_by_source/SOURCE/KIND"}.
        """
        by_source = np.reshape(sums, (-1, len(PAIR_KINDS), 2))
        named = [("loss/", by_source.sum(0))]
        if len(by_source) > 1:
            for source, one in zip(self.order.sources, by_source, strict=True):
                named.append((f"loss_by_source/{source.name}/", one))
        out = {}
        for prefix, of_kinds in named:
            for kind, (total, count) in zip(PAIR_KINDS, of_kinds.tolist(), strict=True):
                if count:
                    out[prefix + kind] = total / count
        return out

    def evaluate(self, shares: Shares) -> dict[str, float]:
        """The objective's numbers over the validation pairs."""
        return self.objective.evaluate(self, shares)

    def probe(self, shares: Shares) -> dict[str, float]:
        """{"probe/NAME"}: how well joints in 3D are read off the frozen encoder.

        See pretrain/probe.py.
        """
        if self.prober is None:
            raise RuntimeError("log.probe_every=0: there is no probe")
        return self.prober.measure(self.model, self.bf16, shares.watch.alive)

    def draw_images(self, folder: Path, step: int) -> dict[str, Path]:
        """Draw the objective's images of the validation pairs.

        Those that may be sent are returned.
        """
        return self.select_sendable(self.objective.draw_images(self, folder, step))

    def score_samples(self, batch: Batch) -> torch.Tensor:
        """(R,) losses of the rows of a batch: means over the targets of each."""
        return self.step_module(batch).view(len(batch["tags"]), -1).mean(1)

    def draw_samples(self, arrays: Arrays, labels: Sequence[str], title: str) -> "Image.Image":
        """An image of the loader's pairs, a row each."""
        return self.objective.draw_samples(self, arrays, labels, title)

    def count_flops(self) -> float | None:
        """Operations of a pair's training step."""
        return self.objective.count_step_flops(self.config)

    def read_seen(self, checkpoint: Path) -> Seen:
        """What the weights of a checkpoint saw."""
        return header.read_seen(checkpoint)

    def read_metadata(self, checkpoint: Path) -> None:
        """Take up what a checkpoint saw; UserError where the probe's shards are among it."""
        super().read_metadata(checkpoint)
        if self.prober:
            self.prober.refuse_seen(self.seen)

    def make_metadata(self) -> dict[str, str]:
        """The header of the weights' file."""
        return header.make_header(self.model.config, self.seen)

    def announce(self, start: int) -> None:
        """Say what is derived from the config.

        UserError where the probe shows people who are trained on.
        """
        self.objective.keep_inputs(Path(self.config.run))
        self._announce_run(start)
        self.list_people()
        if self.prober:
            self.prober.refuse_people(self.seen.people)

    def _announce_run(self, start):
        config, order = self.config, self.order
        if start == config.steps:
            log.info(f"run {config.run} is complete at step {start}; a new run=DIR starts another")
            return
        begins = f"resumes at step {start}" if start else "starts"
        log.info(
            f"run {config.run}: {begins}, to step {config.steps} "
            f"({config.steps * config.samples} pairs) on {self.processes.world} x "
            f"{self.device.type}, {'bf16' if self.bf16 else 'float32'}"
        )
        encoder = sum(p.numel() for p in self.model.encoder.parameters()) / 1e6
        words = [f"model: encoder {encoder:.1f} M parameters", self.objective.describe()]
        log.info(", ".join(filter(None, words)))
        quota = ", ".join(f"{q} {kind}" for q, kind in zip(order.quota, PAIR_KINDS, strict=True))
        targets = config.targets_per_reference
        more = f", {targets} targets each" if targets > 1 else ""
        self.announce_data(f"batch {config.batch}: {quota}{more}")
        if self.val is None:
            log.info(
                "note: there are no validation clips (data.val_clips=0 or fewer than 10 clips): no "
                "validation loss and no images"
            )
        for note in self.objective.list_notes(self):
            log.info(f"note: {note}")
        if self.prober:
            split = self.prober.split
            log.info(
                f"3D probe every {config.log.probe_every} steps: {len(split.places)} "
                f"{self.prober.crops} crops of {config.probe.clips} clips of {config.probe.shards}"
            )


def sum_groups(values: torch.Tensor, group: torch.Tensor, groups: int) -> torch.Tensor:
    """(2 * groups,) sum and count of the values (B,) of each group; ``group``: (B,) long."""
    chosen = group[None] == torch.arange(groups, device=group.device)[:, None]
    return torch.stack([(values * chosen).sum(1), chosen.double().sum(1)], 1).flatten()


def build(config: PretrainConfig) -> tuple[PairNetwork, Seen]:
    """(network, Seen) of a config: from ``init`` if it is set, with what that saw.

    Else from the seed.
    """
    objective = OBJECTIVES.find(config.objective.name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = objective.build_network(config.model)
    before = Seen()
    # A run that resumes has weights of its own, and needs its beginnings no more.
    # The marker tells: the first process alone reads the files through, when it opens the run.
    if config.init and not history.list_complete(config.run):
        before = objective.init_network(model, config.init)
    return model, before.union(objective.read_lessons(config))
