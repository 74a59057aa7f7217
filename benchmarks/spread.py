"""What spreading the weights costs, and what each way rounds: ddp and fsdp, float32 and bf16,
compiled or not.

    python benchmarks/spread.py [size=base] [device=auto] [processes=] [rounds=5] [batch=]
    [compile=auto]

One process a GPU, two on a CPU, or as many as asked; with one alone the weights are still cut and
gathered, which tells of the time and memory that go into it and nothing of a network. ``first
step`` holds what is compiled; torch's own cache of compiled code is a new, empty folder. ``off
float32``: distance of all gradients from those in float32, over their length: what a way of
spreading adds to bf16's own rounding would show here.
"""

import dataclasses
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Protocol, cast

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import torch
import torch.distributed as dist
from torch import nn

from benchmarks.options import read_options
from benchmarks.step import BATCH, CONFIGS, SIZES, Stopwatch, sample_batch
from engine.cli import run
from engine.config.parser import parse
from engine.distributed import hardware, parallel
from engine.distributed.process_group import Processes, device_of, start
from engine.errors import UserError
from engine.training.trainer import build_optimizer
from pretrain import blocks
from pretrain.config import PretrainConfig
from pretrain.model import CrossCompletion
from pretrain.objectives.completion import Completion
from pretrain.task import build

OPTIONS = {
    "size": "base",
    "device": "auto",
    "processes": "",
    "rounds": "5",
    "batch": "",
    "compile": "auto",
    "rank": "",
}


@dataclasses.dataclass(frozen=True)
class Way:
    """``sharded``: fsdp, else each process has all.  ``gathered``: blocks are gathered in bf16,
    else in float32."""

    name: str
    sharded: bool = False
    bf16: bool = False
    gathered: bool = False
    compile: str = "off"
    activation_checkpointing: bool = False


class Step(Protocol):
    """A training step, as ``make_step`` makes it."""

    def __call__(self, update: bool = True) -> tuple[float, torch.Tensor] | None:
        """Update the weights; with update=False, return (loss, all gradients as one vector)."""
        ...


WAYS = (
    Way("whole, float32"),
    Way("whole, bf16", bf16=True),
    Way("whole, bf16, compiled", bf16=True, compile="on"),
    Way("fsdp, float32", True),
    Way("fsdp, bf16, gathered in float32", True, True),
    Way("fsdp, bf16", True, True, True),
    Way("fsdp, bf16, compiled", True, True, True, "on"),
    Way("fsdp, bf16, compiled, activation_checkpointing", True, True, True, "on", True),
)


def main(argv: list[str]) -> None:
    """Print the table; returns nothing."""
    options = read_options(argv, OPTIONS)
    if options["size"] not in SIZES:
        raise UserError(f"size={options['size']} is none of {', '.join(SIZES)}")
    if options["rank"]:
        measure(options)
        return
    device = device_of(options["device"])
    count = int(options["processes"] or (torch.cuda.device_count() if device.type == "cuda" else 2))
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        env = {
            **os.environ,
            "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count),
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": str(port),
            "TORCHINDUCTOR_CACHE_DIR": folder,
        }
        ranks = [
            subprocess.Popen(
                [sys.executable, __file__, *argv, f"rank={rank}"],
                env={**env, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            )
            for rank in range(count)
        ]
        codes = [rank.wait() for rank in ranks]
    if any(codes):
        raise UserError(f"the processes ended with exit codes {codes}")


def measure(options: Mapping[str, str]) -> None:
    """Do one process's part; the first prints."""
    processes = start(options["device"])
    if processes.world == 1:  # alone it would not be there, and sharding asks for it
        dist.init_process_group("nccl" if processes.device.type == "cuda" else "gloo")
    if processes.device.type == "cpu":
        torch.set_num_threads(1)
    say = print if processes.first else lambda *words, **more: None
    say(
        f"machine: {hardware.describe()}, {time.strftime('%d %B %Y')}; {processes.world} process"
        f"{'es' * (processes.world > 1)}\n\n| way | first step | ms a step | peak MB | loss | off "
        f"float32 |\n"
        "|---|---|---|---|---|---|"
    )
    exact = None
    for way in (
        WAYS
        if hardware.compiles(options["compile"], processes.device)
        else [w for w in WAYS if w.compile == "off"]
    ):
        torch.compiler.reset()
        blocks.compiled_step.cache_clear()
        step = make_step(way, processes, options)
        watch = Stopwatch(processes.device)
        began = time.perf_counter()
        loss, gradients = cast(tuple[float, torch.Tensor], step(update=False))
        first = time.perf_counter() - began
        exact = gradients if exact is None else exact
        off = float((gradients - exact).norm() / exact.norm())
        step()  # the optimizer's moments are made
        times = [watch.seconds(step) for _ in range(int(options["rounds"]))]
        say(
            f"| {way.name} | {first:.1f} s | {1e3 * statistics.median(times):.1f} | "
            f"{watch.megabytes(step):.0f} | "
            f"{loss:.5f} | {off:.1e} |",
            flush=True,
        )
    dist.destroy_process_group()


def make_step(way: Way, processes: Processes, options: Mapping[str, str]) -> Step:
    """Return a function that makes a training step; with update=False it gives the loss and all
    gradients as one vector instead."""
    size, device = options["size"], processes.device
    config = parse(
        PretrainConfig,
        [
            os.path.join(CONFIGS, f"{SIZES[size]}.yaml"),
            "run=none",
            "data.shards=none",
            f"compile={way.compile}",
            f"activation_checkpointing={way.activation_checkpointing}",
        ],
        "pretrain train",
    )
    model = cast(CrossCompletion, build(config)[0]).to(device)
    blocks.prepare([*model.encoder.blocks, *model.decoder.blocks], config, device)
    module = Completion(model, config, way.bf16)
    spread = spread_out(way, processes, model, module)
    names = {p: name for name, p in model.named_parameters()}
    optimizer = build_optimizer(names, config.optim, device, lambda name: 1.0)
    batch = sample_batch(int(options["batch"] or BATCH[device.type][size]), config, device)

    def step(update: bool = True) -> tuple[float, torch.Tensor] | None:
        loss = spread(batch).mean()
        loss.backward()
        if not update:
            with torch.no_grad():
                found = torch.cat(
                    [parallel.whole(cast(torch.Tensor, p.grad)).flatten() for p in names]
                )
            optimizer.zero_grad()
            return loss.item(), found
        optimizer.step()
        optimizer.zero_grad()
        return None

    return step


def spread_out(
    way: Way, processes: Processes, model: CrossCompletion, module: Completion
) -> nn.Module:
    """Return what to call for the losses of a batch."""
    if not way.sharded:
        return parallel.Spread(1, processes, model, module).module
    if processes.world > 1:
        return parallel.Spread(
            processes.world, processes, model, module, ("complete",), way.gathered
        ).module
    mesh = dist.device_mesh.init_device_mesh(processes.device.type, (1,))
    parallel.shard(model, mesh, ("complete",), way.gathered)
    return module


if __name__ == "__main__":
    run(main)
