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
from pathlib import Path

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
from engine.training.task import Task
from engine.training.trainer import Trainer
from pretrain.config import EncoderConfig, VisionConfig
from pretrain.model import Encoder, table

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


class Means(nn.Module):
    """A ViT that is to make all its features small: (B, 3, S, S) -> ()."""

    def __init__(self, model, positions):
        super().__init__()
        self.model, self.positions = model, positions

    def forward(self, images):
        return self.model(images, self.positions).square().mean()


class Toy(Task):
    """A task without data: images are made once."""

    loader, replaced_columns = None, slice(0, 2)

    def __init__(self, config, device, width, depth):
        super().__init__(config, Processes(0, 1, device))
        vision = VisionConfig(image_size=SIDE, encoder=EncoderConfig(width, depth, width // 64))
        self.model = Encoder(vision).to(device)
        positions = table(vision, vision.encoder, vision.grid()).to(device)
        self.step_module = Means(self.model, positions)

    def to_device(self, arrays):
        return {name: torch.from_numpy(values).to(self.device) for name, values in arrays.items()}

    def compute_loss(self, module, piece):
        return module(piece["images"]), torch.zeros(0, device=self.device)

    def name_losses(self, sums):
        return {}

    def evaluate(self, shares):
        return {}

    def make_metadata(self):
        return {"format": "pt"}


class Folder:
    """What a save needs of engine.run.folder.Run."""

    def __init__(self, path):
        self.folder, self.lease = Path(path), Lease(path)

    def check(self):
        self.lease.check()


def main(argv):
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


def measure(trainer, images, folder, rounds, steps):
    """{mode: {"stalls", "writes" (seconds of each save), "alone", "beside" (of each step),
    "bytes"}}."""
    savers = {
        mode: Saver(CheckpointConfig(keep=1, background=background), True)
        for mode, background in MODES.items()
    }
    found = {mode: {"stalls": [], "writes": [], "alone": [], "beside": []} for mode in MODES}
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
            trainer.save(folder, step, last=False)
            row["stalls"].append(time.perf_counter() - began)
            while not (path / checkpoints.MARKER).exists():
                row["beside"].append(_step(trainer, step, images))
                step += 1
            row["writes"].append((path / checkpoints.MARKER).stat().st_mtime - wall)
            saver.settle(last=True)
            row["bytes"] = sum(f.stat().st_size for f in path.iterdir())
    folder.lease.release()
    return found


def _step(trainer, step, images):
    began = time.perf_counter()
    trainer.update(step, images)
    if trainer.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


if __name__ == "__main__":
    run(main)
