"""Motions mended: a temporal module learnt by masked modelling on motion alone, without images."""

import json
from collections.abc import Sequence

import torch
from torch import nn

from data.bodies.models import open_model
from engine.checkpoint import history
from engine.distributed import hardware
from engine.distributed.process_group import Processes
from engine.logging.console import get_logger
from engine.logging.metric_registry import Metric, MetricBook
from engine.training.shares import Shares
from engine.training.task import Arrays, Batch, Task
from finetune.tasks import TASKS
from finetune.temporal.batches import VALIDATED, MotionLoader
from finetune.temporal.keys import MotionConfig
from finetune.temporal.limbs import find_limbs
from finetune.temporal.module_file import KEY, begin_from, describe_module, locate_module
from finetune.temporal.motions import join_pieces, make_pieces, read_bank
from finetune.temporal.network import Answer, MotionNetwork
from finetune.temporal.step import TERMS, MotionStep
from pretrain import header

METRICS = MetricBook(
    metrics=(
        Metric("val/mpjpe_seen", "MPJPE, frames that were seen", "mm", lower_is_better=True),
        Metric("val/mpjpe_missing", "MPJPE, missing frames", "mm", lower_is_better=True),
        Metric("val/mpjpe_before", "MPJPE, as it was seen", "mm", lower_is_better=True),
        Metric("val/angle", "error of rotations", "degrees", lower_is_better=True),
        Metric("val/acceleration", "acceleration error", "mm/frame^2", lower_is_better=True),
        Metric("val/place", "error of the root", "mm", lower_is_better=True),
    )
)
VAL_SEED = 1 << 40  # apart from seeds that people choose

log = get_logger(__name__)


@TASKS.register("motion")
class MotionTask(Task[MotionConfig]):
    """A motion module that learns to mend spoilt motions."""

    command = "finetune train"
    schema = MotionConfig
    unit = "stretches"
    metrics = METRICS
    meter_count = len(TERMS) + 2

    # Narrower than the Task's, and set once, by the constructor.
    model: MotionNetwork  # pyrefly: ignore - see above
    step_module: MotionStep  # pyrefly: ignore - see above
    loader: MotionLoader  # pyrefly: ignore - see above

    def __init__(self, config: MotionConfig, processes: Processes) -> None:
        super().__init__(config, processes)
        self.body = open_model(config.body).coarse(64)
        limbs = find_limbs(self.body)
        self.bf16 = hardware.bf16(config.precision, processes.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            network = MotionNetwork(config.model, self.body, limbs, self.bf16)
        if config.init and not history.list_complete(config.run):
            begin_from(network, locate_module(config.init, "init"), config)
        chain = network.chain
        bank = read_bank(config.data, self.body, limbs, chain, config.seed)
        held_out = config.data.seconds, config.data.acted, limbs, chain, config.seed + VAL_SEED
        others = join_pieces(list(make_pieces(config.data.val_motions, *held_out)))
        share = config.batch // processes.world
        rows = range(processes.rank * share, (processes.rank + 1) * share)
        words = (limbs, config.data, config.spoil, config.model.frames, config.seed, config.batch)
        self.loader = MotionLoader(bank, *words, rows)
        val = MotionLoader(others, *words, rows)
        self.val = val.draw(range(2 * config.data.val_motions), VALIDATED)
        self.count_motions = len(bank)
        self.model = network.to(processes.device)
        self.step_module = MotionStep(self.model, limbs, config.loss).to(processes.device)

    def to_device(self, arrays: Arrays) -> Batch:
        """The loader's arrays as tensors on the device."""
        return {name: torch.from_numpy(values).to(self.device) for name, values in arrays.items()}

    def compute_loss(self, module: nn.Module, piece: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """(loss, sums of the terms, of the loss, and rows) of a part of this rank's rows."""
        found = module(piece)
        total = self.step_module.weigh(found)
        meters = [*(found[name] for name in TERMS), total, torch.ones_like(total)]
        return total.sum() / self.config.batch, torch.stack(meters).detach().double().sum(1)

    def name_losses(self, sums: Sequence[float]) -> dict[str, float]:
        """{"loss/TERM"} means over rows, and "loss/total"."""
        names = (*TERMS, "total")
        return {f"loss/{name}": value / sums[-1] for name, value in zip(names, sums, strict=False)}

    @torch.no_grad()
    def evaluate(self, shares: Shares) -> dict[str, float]:
        """{"val/MEASURE"} over validation motions; each rank takes its share."""
        val, step = self.require_val(), self.step_module
        totals: dict[str, torch.Tensor] = {}
        for rows in shares.rows(len(val["tags"])):
            true, given = step.spoil(self.to_device({k: v[rows] for k, v in val.items()}))
            measures = step.measure(self.model(given), true)
            same = Answer(given.turns, given.place, given.turns.new_zeros(()))
            measures["mpjpe_before"] = step.measure(same, true)["mpjpe_seen"]
            for name, (values, factor) in measures.items():
                pair = torch.stack([values.double().sum() * factor, values.new_tensor(len(values))])
                totals[name] = totals.get(name, 0) + pair
        # A rank may have had no rows: all add up the same numbers.
        names = [metric.name.removeprefix("val/") for metric in METRICS.metrics]
        none = torch.zeros(2, dtype=torch.float64, device=self.device)
        sums = shares.total(torch.cat([totals.get(name, none) for name in names]))
        pairs = zip(names, sums[::2], sums[1::2], strict=True)
        return {f"val/{name}": total / count for name, total, count in pairs if count}

    def make_metadata(self) -> dict[str, str]:
        """The header of the weights' file, which alone says how to build the module."""
        known = describe_module(self.config, self.body)
        return {"counterpose": str(header.FORMAT), KEY: json.dumps(known)}

    def announce(self, start: int) -> None:
        """Say what is derived from the config, before the first step."""
        config = self.config
        count = sum(p.numel() for p in self.model.parameters())
        begins = f"resumes at step {start}" if start else "starts"
        log.info(
            f"run {config.run}: {begins}, to step {config.steps} on {self.processes.world} x "
            f"{self.device.type}, {'bf16' if self.bf16 else 'float32'}; {count / 1e6:.2f} M "
            f"parameters, {self.count_motions} motions of {config.body}"
        )

    def score_samples(self, batch: Batch) -> torch.Tensor:
        """(B,) losses of a batch's rows."""
        return self.step_module.weigh(self.step_module(batch))
