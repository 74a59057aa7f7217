"""Everybody in an image at once: whole frames in, all their people out."""

from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import nn

from data.loading.clip_task import DATA_METRICS, ClipTask
from data.loading.frame_build import (
    open_frame_loader,
    open_frame_order,
    sample_frames,
    val_frames,
)
from data.loading.frames import TAGS
from data.loading.loader import Loader
from data.sampling.frame_order import FrameOrder
from data.sampling.order import Order
from data.sampling.seen import Seen
from engine.checkpoint import history
from engine.distributed import hardware, process_group
from engine.distributed.process_group import Processes
from engine.logging.console import get_logger
from engine.training.shares import Shares
from engine.training.task import Arrays, Batch
from finetune.init_head import take_encoder
from finetune.layers import ENCODER, count_layers_after
from finetune.scene import panels
from finetune.scene.config import SceneConfig
from finetune.scene.find import THRESHOLD, find_people
from finetune.scene.judge import METRICS, name_measures, sum_errors
from finetune.scene.losses import NAMES as TERMS
from finetune.scene.losses import OF_ANCHORS, OF_BODIES, PEOPLE
from finetune.scene.means import compute_means
from finetune.scene.network import SceneNetwork
from finetune.scene.network_file import describe_scene, fill_network, open_scene
from finetune.scene.step import SceneStep
from finetune.tasks import TASKS
from pretrain import header
from pretrain.blocks import prepare

if TYPE_CHECKING:
    from PIL import Image

MEAN_FRAMES = 192  # whose labels the mean person is taken from
VAL_ROWS = 8  # frames that go through the network at once
COUNTS = ("people", "bodies")

log = get_logger(__name__)


@TASKS.register("scene")
class SceneTask(ClipTask[SceneConfig]):
    """A network that finds everybody in an image."""

    command = "finetune train"
    schema = SceneConfig
    unit = "frames"
    tags = TAGS
    metrics = DATA_METRICS.extend(METRICS)
    threshold = THRESHOLD

    # Narrower than the Task's, and set once, by the constructor.
    model: SceneNetwork  # pyrefly: ignore - see above
    step_module: SceneStep  # pyrefly: ignore - see above

    def __init__(self, config: SceneConfig, processes: Processes) -> None:
        order = processes.from_first(lambda: self._open_order(config))
        # A FrameOrder has what a task on clips asks of an Order.
        super().__init__(config, processes, cast("Order", order))
        self.frame_order = order
        self.body = config.open_body().to(processes.device)
        self.bf16 = hardware.bf16(config.precision, processes.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = SceneNetwork(config, self.body)
        self.model.to(processes.device)
        self.step_module = SceneStep(
            self.model,
            self.body.coarse(config.coarse_vertices).to(processes.device),
            self.bf16,
            config.data.augment,
            config.scene.unknown_share,
        )
        before = Seen()
        if not history.list_complete(config.run):
            before = self._begin()
        if config.encoder_lr_mult == 0:
            self.model.encoder.requires_grad_(False)
        for blocks in (self.model.encoder.blocks, self.model.blocks):
            prepare(blocks, config, processes.device)
        self.meter_count = len(TERMS) + 2 + len(COUNTS)
        self._sizes = config.sizes_at(0)
        self.use_data(self._open_loader(), self._read_val(), before)

    @staticmethod
    def _open_order(config: SceneConfig) -> FrameOrder:
        return open_frame_order(config.data, config.batch, config.seed, config.scene.pair_share)

    def _open_loader(self) -> Loader:
        config = self.config
        late = None
        if config.scene.late_steps:
            late = config.late_from, config.sizes_at(config.late_from)
        return open_frame_loader(
            self.frame_order,
            config.data,
            config.sizes_at(0),
            self.processes.rank,
            self.processes.world,
            process_group.loader_workers(config.data.workers),
            self.skip,
            late,
        )

    def _read_val(self) -> Arrays | None:
        """The validation frames of all aspects, one after the other; None where there are none."""
        config = self.config
        sizes = config.sizes_at(config.steps)
        found = val_frames(self.frame_order, config.data, sizes, config.log.val_frames, self.skip)
        if not found:
            return None
        return {name: np.concatenate([part[name] for part in found]) for name in found[0]}

    def _begin(self) -> Seen:
        """Fill the network with what a new run starts from; what its weights have seen."""
        config, before = self.config, Seen()
        if config.init_head:
            return self._go_on()
        if config.init_encoder:
            before = take_encoder(self.model.encoder, config.model, config.init)
        elif config.init:
            before = self.model.take_pretrained(config.init)
        sizes = config.sizes_at(0)
        found = sample_frames(self.frame_order, config.data, sizes, MEAN_FRAMES, self.skip)
        batches = [(sizes[_aspect_of(part)], self._copy(part)) for part in found]
        self.model.set_means(*compute_means(self.step_module, batches, self.body))
        return before

    def _go_on(self) -> Seen:
        """Fill the network from the scene network that ``init`` names; what it has seen."""
        opened = open_scene(self.config.init, "init")
        fill_network(self.model, opened.model.state_dict(), opened.file)
        log.info(f"init: all of {self.config.init}")
        return header.read_seen(opened.file)

    def _copy(self, arrays: Arrays) -> Batch:
        return {name: torch.from_numpy(values).to(self.device) for name, values in arrays.items()}

    def prepare_step(self, step: int, shares: Shares) -> None:
        """Say which sizes images have in the step; see Task."""
        self._sizes = self.config.sizes_at(step)

    def to_device(self, arrays: Arrays) -> Batch:
        """The loader's arrays as tensors on the device; all of one aspect, as the step's."""
        self.step_module.size = self._sizes[_aspect_of(arrays)]
        return super().to_device(arrays)

    def lr_mult(self, name: str) -> float:
        """encoder_lr_mult for the encoder, times optim.layer_decay for each layer after."""
        if not name.startswith(ENCODER):
            return 1.0
        depth = len(self.model.encoder.blocks)
        decay = self.config.optim.layer_decay ** count_layers_after(name, depth)
        return self.config.encoder_lr_mult * decay

    def compute_loss(self, module: nn.Module, piece: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """(loss, sums of the terms, of the loss, frames, and counts) of a part of the rows."""
        found = module(piece)
        total = self._weigh(found)
        counted = [found[name] for name in COUNTS]
        meters = [*(found[name] for name in TERMS), total, torch.ones_like(total), *counted]
        return total.sum() / self.config.batch, torch.stack(meters).detach().double().sum(1)

    def _weigh(self, found: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """(B,) losses: sums over people are divided by PEOPLE, whoever is in an image."""
        terms = [
            getattr(self.config.loss, name)
            * found[name]
            / (PEOPLE if name in (*OF_ANCHORS, *OF_BODIES) else 1)
            for name in TERMS
        ]
        return reduce(torch.add, terms)

    def name_losses(self, sums: Sequence[float]) -> dict[str, float]:
        """{"loss/TERM"} means over frames, people or those whose bodies are known."""
        total, frames, people, bodies = sums[len(TERMS) :]
        out = {}
        for name, value in zip(TERMS, sums, strict=False):
            count = frames
            if name in OF_ANCHORS or name in OF_BODIES:
                count = people if name in OF_ANCHORS else bodies
            out[f"loss/{name}"] = value / max(count, 1)
        return out | {"loss/total": total / frames}

    def take_val(self, rows: Sequence[int]) -> list[tuple[tuple[int, int], Batch]]:
        """(size of the images, arrays) of some validation frames, of each aspect a batch."""
        val = self.require_val()
        aspects = val["tags"][rows, TAGS.index("kind")]
        sizes, out = self.config.sizes_at(self.config.steps), []
        for aspect in np.unique(aspects).tolist():
            chosen = np.asarray(rows)[aspects == aspect]
            part = {name: values[chosen] for name, values in val.items()}
            out.append((sizes[aspect], self._copy(part)))
        return out

    @torch.no_grad()
    def evaluate(self, shares: Shares) -> dict[str, float]:
        """{"val/MEASURE"} over the validation frames; each rank takes its share."""
        module, patch = self.step_module, self.model.patch
        total = torch.zeros(8, dtype=torch.float64)
        self.model.eval()
        for rows in shares.rows(len(self.require_val()["tags"]), VAL_ROWS):
            for size, batch in self.take_val(rows):
                module.size = size
                answer, truth = module.look(batch)
                found = find_people(answer, truth.K, module.body, patch, THRESHOLD)
                total += sum_errors(found, truth, module.body, patch)
        self.model.train()
        return name_measures(shares.total(total.to(self.device)))

    def draw_images(self, folder: Path, step: int) -> dict[str, Path]:
        """Draw validation frames with their meshes; those images that may be sent."""
        return self.select_sendable(panels.save(self, folder, step))

    def score_samples(self, batch: Batch) -> torch.Tensor:
        """(B,) losses of a batch's frames."""
        return self._weigh(self.step_module(batch))

    def draw_samples(self, arrays: Arrays, labels: Sequence[str], title: str) -> "Image.Image":
        """An image of the loader's frames, cut as in training, and their people below."""
        return panels.draw_samples(self, self.to_device(arrays), labels, title)

    def read_seen(self, checkpoint: Path) -> Seen:
        """What the weights of a checkpoint saw."""
        return header.read_seen(checkpoint)

    def make_metadata(self) -> dict[str, str]:
        """The header of the weights' file."""
        return describe_scene(self.config, self.body, self.seen)

    def announce(self, start: int) -> None:
        """Say what is derived from the config, before the first step."""
        config = self.config
        self.list_people()
        begins = f"resumes at step {start}" if start else "starts"
        source = f"from {config.init}" if config.init else "without pre-training (init= is not set)"
        log.info(
            f"run {config.run}: {begins}, to step {config.steps} on {self.processes.world} x "
            f"{self.device.type}, {'bf16' if self.bf16 else 'float32'}; {source}"
        )
        every = sum(p.numel() for p in self.model.parameters()) / 1e6
        encoder = sum(p.numel() for p in self.model.encoder.parameters()) / 1e6
        sizes = ", ".join(f"{rows} x {columns}" for rows, columns in config.sizes_at(start))
        log.info(f"model: encoder {encoder:.1f} M parameters, the rest {every - encoder:.1f} M")
        log.info(f"images of {sizes} px")
        self.announce_data(f"batch {config.batch} frames")
        if self.val is None:
            log.info("note: there are no validation frames: no validation errors and no images")


def _aspect_of(arrays: Arrays) -> int:
    return int(arrays["tags"][0, TAGS.index("kind")])
