"""What a user waits for: from the command to the first step, at checkpoints, for fine-tuning, for a
mesh from an image.

    python benchmarks/runs.py [pretrain=demo_body] [finetune=demo_body] [clips=60] [size=64]
                              [steps=40] [device=auto] [data=DIR] [batch=]

Real commands run one after the other on synthetic humans, which are made at the first run and kept.
The wall's time is counted. The stall is the time between the log's lines around a checkpoint, minus
that of other steps. The folder of the runs is deleted.
"""

import contextlib
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from benchmarks.options import own_temporary, read_options
from engine.cli import run
from engine.distributed import hardware
from engine.errors import UserError
from engine.run.run_folder import RunFolder

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).resolve().parent.parent
OPTIONS = {
    "pretrain": "demo_body",
    "finetune": "demo_body",
    "clips": "60",
    "size": "64",
    "steps": "40",
    "device": "auto",
    "data": "",
    "batch": "",
}
IMAGES = (4, 20)  # of the two predictions whose difference is the cost of an image


def main(argv: list[str]) -> None:
    """Print the figures; returns nothing."""
    options = read_options(argv, OPTIONS)
    data = Path(options["data"] or own_temporary("counterpose-runs"))
    data, steps = data / f"people-{options['clips']}-{options['size']}", int(options["steps"])
    if not data.is_dir():
        command(
            "data",
            "make",
            "configs/data/people_body_easy.yaml",
            f"out={data}",
            f"clips={options['clips']}",
            f"size={options['size']}",
        )
    print(
        f"machine: {hardware.describe()}, {time.strftime('%d %B %Y')}\n\n| what | figure "
        f"|\n|---|---|",
        flush=True,
    )
    folder = Path(tempfile.mkdtemp())
    try:
        common = [
            f"data.shards={data}",
            f"device={options['device']}",
            f"steps={steps}",
            f"checkpoint.every={steps // 4}",
            "log.every=1",
            "log.val_every=0",
            "log.images_every=0",
            "log.wandb=off",
            "optim.warmup=1",
        ]
        common += [f"batch={options['batch']}"] if options["batch"] else []
        train(
            "pre-training",
            ["pretrain", "train", f"configs/pretrain/{options['pretrain']}.yaml"],
            folder / "pretrain",
            common,
            "pairs",
            steps // 4,
        )
        train(
            "fine-tuning",
            ["finetune", "train", f"configs/finetune/{options['finetune']}.yaml"],
            folder / "finetune",
            common,
            "crops",
            steps // 4,
        )
        predict(folder, options["device"])
    finally:
        shutil.rmtree(folder)


def command(package: str, *words: str) -> float:
    """Run ``python -m PACKAGE ...`` and wait; return seconds it took.

    Raises:
        UserError: it failed; with its last words.
    """
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", package, *words],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode:
        raise UserError(
            f"python -m {package} {' '.join(words)}: exit code {done.returncode}: "
            f"{done.stdout.strip()[-300:]}"
        )
    return time.perf_counter() - start


def train(
    name: str,
    words: Sequence[str],
    folder: Path,
    common: Sequence[str],
    unit: str,
    every: int,
) -> None:
    """Print start-up, speed and the stall at checkpoints of a run."""
    start = time.time()
    command(*words, f"run={folder}", *common)
    took = time.time() - start
    lines = [json.loads(line) for line in RunFolder(folder).log.read_text().splitlines()]
    times = {line["step"]: line["time"] for line in lines}
    gaps = {step: times[step + 1] - times[step] for step in list(times)[2:-1]}
    usual = statistics.median(gap for step, gap in gaps.items() if step % every)
    stalls = [gap - usual for step, gap in gaps.items() if step % every == 0]
    rate = statistics.median(line[f"speed/{unit}_per_s"] for line in lines[2:])
    print(
        f"| {name}: from the command to the first step | {lines[0]['time'] - start:.1f} s |\n"
        f"| {name}: {unit}/s | {rate:.0f} |\n"
        f"| {name}: stall at a checkpoint | {1e3 * statistics.median(stalls):.0f} ms of steps of "
        f"{1e3 * usual:.0f} ms |\n"
        f"| {name}: whole command of {len(lines)} steps | {took:.1f} s |",
        flush=True,
    )


def predict(folder: Path, device: str) -> None:
    """Print what an image costs from file to mesh, overlay and numbers on disk, and the network's
    share of it."""
    from engine.distributed.process_group import device_of
    from finetune import predict
    from finetune.model import Recovery

    images, used = write_images(folder / "images", IMAGES[1]), device_of(device)
    spent, network = [], Recovery.forward

    def timed(*inputs: Any) -> object:
        settle(used)
        start = time.perf_counter()
        out = network(*inputs)
        settle(used)
        spent.append(time.perf_counter() - start)
        return out

    def seconds(count: int) -> float:
        start = time.perf_counter()
        with (
            mock.patch.object(Recovery, "forward", timed),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            predict.main(
                [
                    f"run={folder / 'finetune'}",
                    f"out={folder / f'out{count}'}",
                    f"device={used.type}",
                    *images[:count],
                ]
            )
        return time.perf_counter() - start

    # The first few are slower: kernels are looked for.
    few, many = [seconds(count) for count in IMAGES]
    each = (many - few) / (IMAGES[1] - IMAGES[0])
    network = statistics.median(spent)
    print(
        f"| predict: an image of 640 x 480, from its file to overlay, mesh and numbers on disk | "
        f"{1e3 * each:.0f} ms |\n"
        f"| predict: of these the network | {1e3 * network:.1f} ms, {network / each:.0%} |\n"
        f"| predict: before the first image, after Python's imports | "
        f"{few - IMAGES[0] * each:.1f} s |",
        flush=True,
    )


def settle(device: "torch.device") -> None:
    """Wait until a GPU has done what it was asked to."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


def write_images(folder: Path, count: int) -> list[str]:
    """Write so many JPEGs of smooth noise; return their paths."""
    import cv2
    import numpy as np

    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        small = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        cv2.imwrite(
            str(folder / f"{number:02d}.jpg"),
            cv2.resize(small, (640, 480), interpolation=cv2.INTER_CUBIC),
        )
    return [str(path) for path in sorted(folder.iterdir())]


if __name__ == "__main__":
    run(main)
