"""What a training step costs, beside a plain implementation of the same network and without each
optimisation in turn.

    python benchmarks/step.py [sizes=demo,tiny,small] [positions=rope,cosine] [device=auto]
                              [rounds=5] [batch=...] [off=demo] [precision=auto] [compile=auto]

All versions take turns in rounds; times are medians over rounds, ratios medians of each round's own
ratio. On a CPU one thread's processor time is counted, so that other processes on the machine count
less; on a GPU the wall's. A step begins with the loader's bytes and ends with AdamW's update; the
plain one is given float32 images, cropped and normalised, for nothing. Operations are counted by
formula (pretrain.flops.step_flops, forward and backward), the same for all versions; the
share is of the device's own rate at square matrix products of the same precision, measured in the
same run. ``off`` names the sizes for which each optimisation is left out in turn, with what that
changes in loss and gradients.
"""

import ctypes
import dataclasses
import gc
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, cast

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np
import torch
from torch import nn

from benchmarks import step_ablations
from benchmarks.options import read_options
from benchmarks.plain import Plain
from data.cropping.geometry import find_longer
from data.loading.reader import TAGS, layout
from engine.cli import run
from engine.config.parser import parse
from engine.config.train_config import OptimConfig
from engine.distributed import hardware
from engine.distributed.process_group import device_of
from engine.errors import UserError
from engine.training.trainer import build_optimizer
from pretrain import blocks, state_dict_adapters
from pretrain.config import PretrainConfig
from pretrain.flops import step_flops
from pretrain.model import CrossCompletion
from pretrain.objectives.completion import Completion, CompletionConfig
from pretrain.task import build

Gradients = dict[str, torch.Tensor]  # of each weight
MakeOptimizer = Callable[
    [Mapping[nn.Parameter, str], OptimConfig, torch.device, Callable[[str], float]],
    torch.optim.Optimizer,
]
CONFIGS = os.path.join(
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "configs", "pretrain"
)
SIZES = {
    "demo": "demo_body",
    "tiny": "body_tiny",
    "small": "body_vits",
    "base": "body_vitb",
    "large": "body_vitl",
}
BATCH = {
    "cpu": {"demo": 32, "tiny": 16, "small": 2, "base": 1, "large": 1},
    "cuda": {"demo": 1024, "tiny": 1024, "small": 256, "base": 128, "large": 64},
}
OPTIONS = {
    "sizes": "",
    "positions": "rope,cosine",
    "device": "auto",
    "rounds": "5",
    "batch": "",
    "off": "demo",
    "precision": "auto",
    "compile": "auto",
}
SIDES = {"cpu": 2048, "cuda": 8192}


def main(argv: list[str]) -> None:
    """Print the tables; returns nothing."""
    options = read(argv)
    device = device_of(options["device"])
    # TF32 is off from here on, as it is in training: the plain version is float32, and TF32 has a
    # row of its own.
    if device.type == "cpu":
        torch.set_num_threads(1)
    stopwatch = Stopwatch(device)
    sizes = options["sizes"] or (
        "demo,tiny,small" if device.type == "cpu" else "tiny,small,base,large"
    )
    rates = matrix_rates(device, stopwatch)
    print(
        f"machine: {hardware.describe()}, {time.strftime('%d %B %Y')}; "
        + ("one thread, processor time" if device.type == "cpu" else "wall time")
    )
    print(
        "matrix products: "
        + ", ".join(f"{rate / 1e12:.3g} TFLOP/s in {name}" for name, rate in rates.items())
        + "\n"
    )
    print(
        "| size | positions | batch | GFLOP a pair | version | ms a step | pairs/s | times plain | "
        "share of matrix rate | "
        "peak MB |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    for size in sizes.split(","):
        for position in options["positions"].split(","):
            compare(Case(size, position, device, options), stopwatch, rates, int(options["rounds"]))
    for size in filter(None, options["off"].split(",")):
        for position in options["positions"].split(","):
            leave_out(Case(size, position, device, options), stopwatch, int(options["rounds"]))
    collections(device)


def read(argv: list[str]) -> dict[str, str]:
    """Return {option: text} of the command line.

    Raises:
        UserError: an option or a size that there is not.
    """
    options = read_options(argv, OPTIONS)
    for name in ("sizes", "off"):
        for size in filter(None, options[name].split(",")):
            if size not in SIZES:
                raise UserError(f"{name}={size} is none of {', '.join(SIZES)}")
    return options


class Stopwatch:
    """Seconds of a call: processor time on a CPU, the wall's on a GPU; and the memory it took at
    most, in MB."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"

    def seconds(self, call: Callable[[], object]) -> float:
        """Return the seconds that a call takes."""
        if self.cuda:
            torch.cuda.synchronize()
        now = time.perf_counter if self.cuda else time.process_time
        start = now()
        call()
        if self.cuda:
            torch.cuda.synchronize()
        return now() - start

    def megabytes(self, call: Callable[[], object]) -> float:
        """Return the memory that a call takes at most, beyond what lay there before."""
        gc.collect()
        if self.cuda:
            torch.cuda.synchronize()
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            call()
            torch.cuda.synchronize()
            return (torch.cuda.max_memory_allocated() - before) / 2**20
        ctypes.CDLL(None).malloc_trim(0)
        with open("/proc/self/clear_refs", "w", encoding="utf-8") as file:
            file.write("5")  # the highest mark begins anew
        before = _status("VmRSS")
        call()
        return (_status("VmHWM") - before) / 1024


def _status(name: str) -> int:
    with open("/proc/self/status", encoding="utf-8") as file:
        return int(next(line for line in file if line.startswith(name)).split()[1])


class Case:
    """A size of the network with positions, a batch for it, and the weights that all versions begin
    with."""

    def __init__(
        self, size: str, position: str, device: torch.device, options: Mapping[str, str]
    ) -> None:
        self.size, self.position, self.device = size, position, device
        self.config = parse(
            PretrainConfig,
            [
                os.path.join(CONFIGS, f"{SIZES[size]}.yaml"),
                "run=none",
                "data.shards=none",
                f"model.position={position}",
                # What the plain implementation does: a reference a target, pixels alone.
                "targets_per_reference=1",
                "model.decoder.gradients=0",
                "compile=off",
            ],
            "pretrain train",
        )
        auto = "on" if device.type == "cuda" else "off"
        self.compile = auto if options["compile"] == "auto" else options["compile"]
        # a kind of block may be compiled for eight shapes only, then torch gives up
        torch.compiler.reset()
        self.rows = int(options["batch"] or BATCH[device.type][size])
        self.bf16 = hardware.bf16(options["precision"], device)
        self.batch = sample_batch(self.rows, self.config, device)

    def flops(self) -> float:
        """Return the operations of a pair's forward and backward passes."""
        return step_flops(
            self.config.model, self.config.masking.seen(math.prod(self.config.model.grid()))[0]
        )

    def ours(self, bf16: bool = False, **keys: Any) -> "Version":
        """Return a Version of the training step as it is, blocks not compiled; ``keys``: of the
        config that shall be others."""
        config = dataclasses.replace(self.config, **keys)
        model = cast(CrossCompletion, build(config)[0]).to(self.device)
        blocks.prepare([*model.encoder.blocks, *model.decoder.blocks], config, self.device)
        module = Completion(model, config, bf16)
        return Version(
            lambda: module(self.batch).mean(), model, build_optimizer, config, self.device
        )

    def plain(self) -> "Version":
        """Return a Version of the plain implementation in float32."""
        model = cast(CrossCompletion, build(self.config)[0])
        plain = Plain(self.config.model)
        plain.load_state_dict(
            state_dict_adapters.to_croco(self.config.model, model.state_dict())[0]
        )
        plain.to(self.device)
        with torch.no_grad():
            a, b, _, masked, person, _ = Completion(
                model.to(self.device), self.config, False
            ).pairs(self.batch)
        mask = torch.zeros(person.shape, dtype=torch.bool, device=self.device).scatter(
            1, masked, True
        )
        goal, reference = cast(CompletionConfig, self.config.objective), cast(torch.Tensor, b)

        def loss() -> torch.Tensor:
            value = plain.loss(a, reference, mask, person, goal.target, goal.background_weight)
            value.item()
            return value

        return Version(loss, plain, step_ablations.plain_optimizer, self.config, self.device)


class Version:
    """Something that makes steps. ``loss``: () -> scalar. ``make``: as
    engine.training.trainer.build_optimizer."""

    def __init__(
        self,
        loss: Callable[[], torch.Tensor],
        model: nn.Module,
        make: MakeOptimizer,
        config: PretrainConfig,
        device: torch.device,
    ) -> None:
        self.loss, self.weights = loss, {p: name for name, p in model.named_parameters()}
        self.optimizer = make(self.weights, config.optim, device, lambda name: 1.0)

    def step(self) -> None:
        """Take a training step: forward, backward, the optimizer's update."""
        self.loss().backward()
        torch.nn.utils.get_total_norm(  # which a run logs
            cast("list[torch.Tensor]", [p.grad for p in self.weights])
        )
        self.optimizer.step()
        self.optimizer.zero_grad()

    def step_in_tf32(self) -> None:
        """Take a step as ``step``, on a GPU with products of float32 matrices in TF32, which no run
        does."""
        torch.set_float32_matmul_precision("high")
        try:
            self.step()
        finally:
            hardware.exact_float32()

    def gradients(self) -> tuple[torch.Tensor, Gradients]:
        """Return (loss, {name: gradient}) with the weights as they are."""
        value = self.loss()
        value.backward()
        found = {name: cast(torch.Tensor, p.grad).clone() for p, name in self.weights.items()}
        self.optimizer.zero_grad()
        return value.detach(), found


def sample_batch(
    rows: int, config: PretrainConfig, device: torch.device
) -> dict[str, torch.Tensor]:
    """Return a batch as the loader gives it, of noise: crops of the network's size out of images
    an eighth larger."""
    side = find_longer(config.model.size)
    size, rng = side * 8 // 7, np.random.default_rng(0)
    shape = layout(rows, size, math.prod(config.model.grid()))
    arrays = {name: np.zeros(extent, kind) for name, (extent, kind) in shape.items()}
    for name in ("pixels", "mask"):
        arrays[name][:] = rng.integers(0, 256, arrays[name].shape)
    arrays["numbers"][..., :2], arrays["numbers"][..., 2], arrays["numbers"][..., 3:] = (
        size // 2,
        side,
        1.1,
    )
    arrays["noise"][:] = rng.random(arrays["noise"].shape)
    arrays["tags"][:, TAGS.index("size")] = size
    return {name: torch.from_numpy(values).to(device) for name, values in arrays.items()}


def matrix_rates(device: torch.device, stopwatch: Stopwatch) -> dict[str, float]:
    """Return {precision: operations a second of square matrix products}, the best of a few."""
    side, out = SIDES[device.type], {}
    for name, kind in (("float32", torch.float32), ("bf16", torch.bfloat16)):
        if kind == torch.bfloat16 and not hardware.bf16("auto", device):
            continue
        x, y = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
        out[name] = 2 * side**3 / min(stopwatch.seconds(lambda x=x, y=y: x @ y) for _ in range(8))
        if kind == torch.float32 and device.type == "cuda":
            torch.set_float32_matmul_precision("high")
            out["TF32"] = (
                2 * side**3 / min(stopwatch.seconds(lambda x=x, y=y: x @ y) for _ in range(8))
            )
            hardware.exact_float32()
    return out


def take_turns(
    steps: Mapping[str, Callable[[], object]], stopwatch: Stopwatch, rounds: int, warm: int = 2
) -> dict[str, list[float]]:
    """Return {name: [seconds, ...]} of calls that take turns."""
    for step in steps.values():
        for _ in range(warm):
            step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            times[name].append(stopwatch.seconds(step))
    return times


def ratio(times: Mapping[str, list[float]], of: str, to: str) -> float:
    """Return the median over rounds of the time of one over that of another."""
    return statistics.median(one / other for one, other in zip(times[of], times[to], strict=True))


def compare(case: Case, stopwatch: Stopwatch, rates: Mapping[str, float], rounds: int) -> None:
    """Print the rows of a size: plain, ours in float32 and, where the device multiplies in it, in
    bf16; then compiled too."""
    versions = {"plain, float32": case.plain(), "float32": case.ours()}
    if case.bf16:
        versions["bf16"] = case.ours(True)
    if case.compile == "on":
        versions[f"compiled, {'bf16' if case.bf16 else 'float32'}"] = case.ours(
            case.bf16, compile="on"
        )
    steps = {name: version.step for name, version in versions.items()}
    if case.device.type == "cuda":
        steps["as float32, TF32"] = versions["float32"].step_in_tf32
    times = take_turns(steps, stopwatch, rounds)
    for name, step in steps.items():
        seconds = statistics.median(times[name])
        share = case.flops() * case.rows / seconds / rates[name.split()[-1]]
        print(
            f"| {case.size} | {case.position} | {case.rows} | {case.flops() / 1e9:.3g} | {name} | "
            f"{1e3 * seconds:.1f} | "
            f"{case.rows / seconds:.3g} | {ratio(times, 'plain, float32', name):.2f} | {share:.0%} "
            f"| "
            f"{stopwatch.megabytes(step):.0f} |",
            flush=True,
        )


def leave_out(case: Case, stopwatch: Stopwatch, rounds: int) -> None:
    """Print a table of a size in its fastest precision: what a step costs without each
    optimisation, and what changes.

    Blocks are not compiled, for compiled code would not see what is left out; what compiling adds
    stands in a row.
    """
    print(
        f"\n{case.size}, {case.position}, batch {case.rows}, "
        f"{'bf16' if case.bf16 else 'float32'}\n\n"
        "| without | ms a step | times the whole | peak MB | loss differs by | gradients differ by "
        "|\n"
        "|---|---|---|---|---|---|"
    )
    whole = case.ours(case.bf16)
    steps, results = {"": whole.step}, {"": case.ours().gradients()}
    for name, variant in step_ablations.variants(case).items():
        version, exact = variant.version(case.bf16), variant.version(False)

        def step(version: Version = version, variant: step_ablations.Variant = variant) -> None:
            with variant.change():
                version.step()

        steps[name] = step
        with variant.change():
            results[name] = exact.gradients()
    times = take_turns(steps, stopwatch, rounds)
    for name, step in steps.items():
        loss, gradient = differences(results[""], results[name])
        print(
            f"| {name or 'nothing'} | {1e3 * statistics.median(times[name]):.1f} | "
            f"{ratio(times, name, ''):.2f} | "
            f"{stopwatch.megabytes(step):.0f} | {loss:.1e} | {gradient:.1e} |",
            flush=True,
        )


def differences(
    one: tuple[torch.Tensor, Gradients], other: tuple[torch.Tensor, Gradients]
) -> tuple[float, float]:
    """Return the relative difference of two losses, and the largest of gradients over the largest
    gradient of each weight."""
    loss = abs(one[0] - other[0]) / one[0]
    worst = max(
        float((g - other[1][name]).abs().max() / g.abs().max().clamp(min=1e-12))
        for name, g in one[1].items()
    )
    return float(loss), worst


def collections(device: torch.device) -> None:
    """Print how long Python's collector looks through what a run holds, and through what comes
    after gc.freeze."""

    def seconds():
        start = time.perf_counter()
        gc.collect()
        return time.perf_counter() - start

    everything = statistics.median(seconds() for _ in range(3))
    gc.freeze()
    young = statistics.median(seconds() for _ in range(3))
    gc.unfreeze()
    print(
        f"\ngarbage: {1e3 * everything:.0f} ms to look through all objects, {1e3 * young:.2f} ms "
        f"after gc.freeze "
        f"(engine/training/gc_control.py)"
    )


if __name__ == "__main__":
    run(main)
