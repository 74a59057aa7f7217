"""How fast synthetic humans are drawn, by stage, on one core or a GPU; and side by side with
another version of the generator.

    python benchmarks/people.py [config=configs/data/people_body.yaml] [clips=20] [rounds=3]
                                [device=cpu] [size=256] [prototype=DIR]

``prototype`` is a folder with a ``prototype.py`` whose ``Synth(device).clip([seed, n], instants,
cameras, gap)`` draws body crops of 224 px; the two then take turns at that size, so that a busy
machine slows both alike, and the ratio of each turn is printed.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import platform
import statistics
import sys
import time
from collections.abc import Callable

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from benchmarks.options import read_options
from data.people.config import PeopleConfig
from data.people.make import choose_device
from engine.cli import run
from engine.config.parser import parse
from engine.errors import UserError

PROTOTYPE_SIZE = 224
OPTIONS = {
    "config": "configs/data/people_body.yaml",
    "clips": "20",
    "rounds": "3",
    "device": "cpu",
    "size": "",
    "prototype": "",
}


def main(argv: list[str]) -> None:
    """Print the figures; returns nothing."""
    options = read_options(argv, OPTIONS)
    clips, rounds, device = (
        int(options["clips"]),
        int(options["rounds"]),
        choose_device(options["device"]),
    )
    size = options["size"] or (str(PROTOTYPE_SIZE) if options["prototype"] else "")
    config = parse(
        PeopleConfig,
        [options["config"], "out=none"] + ([f"size={size}"] if size else []),
        "data make",
    )
    print(
        f"machine: {machine(device)}; {config.size} px, {config.kind} crops, {config.instants} "
        f"instants x "
        f"{config.cameras} cameras, {clips} clips a round"
    )
    ours = Ours(config, device)
    other = Prototype(options["prototype"], config, device) if options["prototype"] else None
    rates, ratios = [], []
    for turn in range(rounds):
        rates.append(ours.rate(turn * clips, clips))
        line = f"round {turn}: {rates[-1]:.1f} images/s"
        if other:
            theirs = other.rate(turn * clips, clips)
            ratios.append(rates[-1] / theirs)
            line += f", prototype {theirs:.1f}, ratio {ratios[-1]:.2f}"
        print(line)
    print(
        f"median {statistics.median(rates):.1f} images/s"
        + (f", ratio {statistics.median(ratios):.2f}" if ratios else "")
    )
    print("ms an image: " + ", ".join(f"{stage} {ms:.2f}" for stage, ms in ours.stages().items()))


def machine(device: str) -> str:
    """Return what the figures were measured on."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, one of {os.cpu_count()} cores"


def clock(device: str) -> Callable[[], float]:
    """Return the clock to read: processor time on the CPU, so that other processes on the machine
    do not count; wall time on a GPU."""
    return time.process_time if device == "cpu" else time.perf_counter


class Ours:
    """The generator of this repository, warmed up (kernels compiled)."""

    def __init__(self, config: PeopleConfig, device: str) -> None:
        from data.people.maker import ClipMaker

        self.maker = ClipMaker(config, device)
        self.maker.clip(10**6)
        self.maker.stopwatch.seconds.clear()
        self.images, self.now = 0, clock(device)

    def rate(self, first: int, count: int) -> float:
        """Return images a second over some clips, labels, masks and JPEG included."""
        start, drawn = self.now(), 0
        for index in range(first, first + count):
            drawn += len(self.maker.clip(index).jpegs)
        self.images += drawn
        return drawn / (self.now() - start)

    def stages(self) -> dict[str, float]:
        """Return {stage: milliseconds an image}"""
        return {
            stage: 1e3 * seconds / self.images
            for stage, seconds in self.maker.stopwatch.seconds.items()
        }


class Prototype:
    """Another version, through its own entry points."""

    def __init__(self, folder: str, config: PeopleConfig, device: str) -> None:
        if not os.path.isfile(os.path.join(folder, "prototype.py")):
            raise UserError(f"prototype={folder} holds no prototype.py")
        if config.kind != "body" or config.size != PROTOTYPE_SIZE:
            raise UserError(
                f"kind={config.kind} size={config.size}: a prototype draws body crops of "
                f"{PROTOTYPE_SIZE} px"
            )
        sys.path.insert(0, folder)
        import prototype  # pyrefly: ignore - a module of the folder that was asked for

        self.module, self.config = prototype, config
        self.maker, self.now = prototype.Synth(device), clock(device)
        self._clip(10**6)

    def _clip(self, index: int) -> int:
        config = self.config
        made = self.maker.clip(
            [config.seed, index], config.instants, config.cameras, config.gap_s, hands=False
        )
        self.module.ground_truth(self.maker, made)
        return len(made["jpg"])

    def rate(self, first: int, count: int) -> float:
        """Return images a second over some clips, labels, masks and JPEG included."""
        start = self.now()
        drawn = sum(self._clip(index) for index in range(first, first + count))
        return drawn / (self.now() - start)


if __name__ == "__main__":
    run(main)
