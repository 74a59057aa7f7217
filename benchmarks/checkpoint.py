"""How long training waits for a checkpoint: written while it continues, and written while it waits.

    python benchmarks/checkpoint.py [width=768] [depth=12] [rounds=4] [steps=4] [batch=8]
    [device=auto] [folder=/tmp]

A ViT of that size (ViT-B by default) takes ``steps`` AdamW steps on small images, saves, and goes
on; the two ways of saving take turns, so that a busy machine slows both alike. ``folder`` is where
the checkpoints go: give one on the file system that your runs use. A step during which a checkpoint
was being written counts for itself.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, cast

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import torch
from torch import nn

from benchmarks.options import read_options
from engine.checkpoint import checkpoints
from engine.checkpoint.saver import Saver
from engine.cli import run
from engine.config.train_config import CheckpointConfig, TrainConfig
from engine.distributed.hardware import describe
from engine.distributed.process_group import Processes, device_of
from engine.run.run_folder import RunFolder
from engine.run.run_lock import Lease
from engine.training.shares import Shares
from engine.training.task import Arrays, Batch, Task
from engine.training.trainer import Trainer
from pretrain.config import EncoderConfig, VisionConfig
from pretrain.model import Encoder, table

if TYPE_CHECKING:
    from engine.run.folder import Run

OPTIONS = {
    "width": "768",
    "depth": "12",
    "rounds": "4",
    "steps": "4",
    "batch": "8",
    "device": "auto",
    "folder": "/tmp",
}
SIDE = 64  # pixels; a step's weights are what matters here, not its tokens
MODES = {"training waits": False, "in the background": True}


class Spent(TypedDict):
    """What saving took: seconds of each stall, of each save until it was complete, of each step
    alone and of each beside a save; and the bytes of a checkpoint."""

    stalls: list[float]
    writes: list[float]
    alone: list[float]
    beside: list[float]
    bytes: int


class Means(nn.Module):
    """A ViT that is to make all its features small: (B, 3, S, S) -> ()."""

    def __init__(self, model: Encoder, positions: torch.Tensor) -> None:
        super().__init__()
        self.model, self.positions = model, positions

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the mean of the squared features of images (B, 3, S, S)."""
        return self.model(images, self.positions).square().mean()


class Toy(Task[TrainConfig]):
    """A task without data: images are made once."""

    loader, replaced_columns = None, slice(0, 2)

    def __init__(self, config: TrainConfig, device: torch.device, width: int, depth: int) -> None:
        super().__init__(config, Processes(0, 1, device))
        vision = VisionConfig(image_size=SIDE, encoder=EncoderConfig(width, depth, width // 64))
        self.model = Encoder(vision).to(device)
        positions = table(vision, vision.encoder, vision.grid()).to(device)
        self.step_module = Means(self.model, positions)

    def to_device(self, arrays: Arrays) -> Batch:
        """Return the arrays as tensors on the device."""
        return {name: torch.from_numpy(values).to(self.device) for name, values in arrays.items()}

    def compute_loss(self, module: nn.Module, piece: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (loss of the images, no meters)."""
        return module(piece["images"]), torch.zeros(0, device=self.device)

    def name_losses(self, sums: Sequence[float]) -> dict[str, float]:
        """Return nothing: there are no meters."""
        return {}

    def evaluate(self, shares: Shares) -> dict[str, float]:
        """Return nothing: there are no validation rows."""
        return {}

    def make_metadata(self) -> dict[str, str]:
        """Return the header of the weights' file."""
        return {"format": "pt"}


class Folder:
    """What a save needs of engine.run.folder.Run."""

    def __init__(self, path: str) -> None:
        self.folder, self.lease = Path(path), Lease(path)

    def check(self) -> None:
        """Check that the folder is still this process's."""
        self.lease.check()


def main(argv: list[str]) -> None:
    """Print the figures; returns nothing."""
    options = read_options(argv, OPTIONS)
    width, depth, rounds, steps, batch = (
        int(options[k]) for k in ("width", "depth", "rounds", "steps", "batch")
    )
    device = device_of(options["device"])
    config = TrainConfig(batch=batch, checkpoint=CheckpointConfig(keep=1))
    trainer = Trainer(Toy(config, device, width, depth))
    images = {
        "images": torch.randn(batch, 3, SIDE, SIDE).numpy(),
        "tags": torch.zeros(batch, 2, dtype=torch.int64).numpy(),
    }
    print(
        f"machine: {describe()}; {sum(p.numel() for p in trainer.names) / 1e6:.1f} M parameters, "
        f"batch {batch}"
    )
    with tempfile.TemporaryDirectory(dir=options["folder"]) as folder:
        found = measure(trainer, images, Folder(folder), rounds, steps)
    print(
        "| | first stall, ms | later stalls, median (largest), ms | step, ms | step while a "
        "checkpoint is written, ms | "
        "from save to whole, s | MB |\n|---|---|---|---|---|---|---|"
    )
    for mode, row in found.items():
        print(
            f"| {mode} | {1e3 * row['stalls'][0]:.0f} | "
            f"{1e3 * statistics.median(row['stalls'][1:]):.0f} "
            f"({1e3 * max(row['stalls'][1:]):.0f}) | {1e3 * statistics.median(row['alone']):.0f} | "
            + (f"{1e3 * statistics.median(row['beside']):.0f}" if row["beside"] else "-")
            + f" | {statistics.median(row['writes']):.1f} | {row['bytes'] / 1e6:.0f} |"
        )
    one, two = (statistics.median(found[mode]["stalls"][1:]) for mode in MODES)
    print(f"ratio of the stalls: {one / two:.1f}")


def measure(
    trainer: Trainer, images: Arrays, folder: Folder, rounds: int, steps: int
) -> dict[str, Spent]:
    """Return {mode: what saving took} of the modes, which take turns."""
    savers = {
        mode: Saver(CheckpointConfig(keep=1, background=background), True)
        for mode, background in MODES.items()
    }
    found: dict[str, Spent] = {
        mode: {"stalls": [], "writes": [], "alone": [], "beside": [], "bytes": 0} for mode in MODES
    }
    step, path = 0, None
    _step(trainer, step, images)
    for _ in range(rounds):
        for mode, saver in savers.items():
            trainer.saver, row = saver, found[mode]
            for _ in range(steps):
                row["alone"].append(_step(trainer, step, images))
                step += 1
            path, began, wall = (
                RunFolder(folder.folder).checkpoint(step),
                time.perf_counter(),
                time.time(),
            )
            trainer.save(cast("Run", folder), step, last=False)
            row["stalls"].append(time.perf_counter() - began)
            while not (path / checkpoints.MARKER).exists():
                row["beside"].append(_step(trainer, step, images))
                step += 1
            row["writes"].append((path / checkpoints.MARKER).stat().st_mtime - wall)
            saver.settle(last=True)
            row["bytes"] = sum(f.stat().st_size for f in path.iterdir())
    folder.lease.release()
    return found


def _step(trainer: Trainer, step: int, images: Arrays) -> float:
    began = time.perf_counter()
    trainer.update(step, images)
    if trainer.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


if __name__ == "__main__":
    run(main)
