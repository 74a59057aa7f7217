"""How fast pairs are read, side by side in one run: the bare JPEG decoder, this loader, loose
files, webdataset.

    python benchmarks/loader.py [clips=10000] [data=DIR] [batch=64] [seconds=3] [rounds=3]

Every contender has as many workers as there are cores: first its workers and the main process share
one core, then all cores. They take turns in rounds, so that a busy machine slows all alike; ratios
are those of each round, and their median is printed. Processor time a pair, of all a contender's
processes, changes less where others use the machine too. ``data`` is made at the first run
(benchmarks/loader_data.py) and kept.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import gc
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from benchmarks import contenders
from benchmarks.loader_data import prepare
from benchmarks.options import own_temporary, read_options
from engine.cli import run

Rates = dict[str, list[tuple[float, float]]]  # of each contender, as take_turns gives them
OPTIONS = {"clips": "10000", "data": "", "batch": "64", "seconds": "3", "rounds": "3"}
NAMES = {
    "limit": "the bare decoder",
    "ours": "this loader",
    "plain": "loose files, Pillow, torchvision",
    "web": "webdataset, Pillow, torchvision",
}


def main(argv: list[str]) -> None:
    """Print the figures; returns nothing."""
    options = read_options(argv, OPTIONS)
    folder, batch = options["data"] or own_temporary("counterpose-loader"), int(options["batch"])
    rounds, seconds = int(options["rounds"]), float(options["seconds"])
    line = prepare(folder, int(options["clips"]))
    from engine.distributed.hardware import describe

    print(
        f"machine: {describe()}, {time.strftime('%d %B %Y')}\ndata: {line}\nbatches of {batch} "
        f"pairs, {rounds} rounds of "
        f"{seconds:g} s each\n",
        flush=True,
    )
    cores = sorted(os.sched_getaffinity(0))
    first, rates = [], {}
    for some in [cores[:1], cores] if len(cores) > 1 else [cores]:
        os.sched_setaffinity(0, some)
        rates[len(some)] = take_turns(folder, batch, len(some), rounds, seconds)
        first.append(first_batch(folder, batch, len(some)))
    table(rates)
    print(
        "\nseconds from building the order to the first batch, indexes there: "
        + ", ".join(
            f"{took:.2f} with {workers} workers" for took, workers in zip(first, rates, strict=True)
        )
    )
    spent = stages(folder, batch)
    print(
        "microseconds a pair in one worker, medians: "
        + ", ".join(f"{k} {v:.0f}" for k, v in spent.items())
        + f"; together {sum(spent.values()):.0f}, of which JPEG is "
        f"{spent['JPEG'] / sum(spent.values()):.2f}"
    )
    print(
        f"augmentation as the device does it, on one core of this CPU: "
        f"{augmentation(folder, batch):.0f} us a pair"
    )


def take_turns(folder: str, batch: int, workers: int, rounds: int, seconds: float) -> Rates:
    """Return {contender: [(pairs/s, processor seconds a pair) of each round]}"""
    makers: dict[str, Callable[[str, int, int], contenders.Limit | contenders.Stream]] = {
        "limit": contenders.Limit,
        "ours": contenders.Ours,
        "plain": contenders.plain,
        "web": contenders.web,
    }
    started = {name: make(folder, batch, workers) for name, make in makers.items()}
    rates: Rates = {name: [] for name in started}
    for _ in range(rounds):
        for name, contender in started.items():
            rates[name].append(contender.rate(seconds))
    for contender in started.values():
        contender.close()
    return rates


def table(rates: Mapping[int, Rates]) -> None:
    """Print a Markdown table of {workers: {contender: rates}}."""
    columns = [
        f"{n} core{'s' * (n > 1)}: {words}"
        for n in rates
        for words in (
            "pairs/s",
            "of the limit",
            "to loose files",
            "processor us a pair",
            "the limit's of it",
        )
    ]
    print("| | " + " | ".join(columns) + " |\n|" + "---|" * (1 + len(columns)))
    for name, words in NAMES.items():
        cells = []
        for found in rates.values():
            speed, cost = (
                {other: [pair[i] for pair in pairs] for other, pairs in found.items()}
                for i in (0, 1)
            )
            cells += [
                f"{statistics.median(speed[name]):.0f}",
                f"{ratio(speed[name], speed['limit']):.2f}",
                f"{ratio(speed[name], speed['plain']):.2f}",
                f"{1e6 * statistics.median(cost[name]):.0f}",
                f"{ratio(cost['limit'], cost[name]):.2f}",
            ]
        print(f"| {words} | " + " | ".join(cells) + " |")


def ratio(ones: Sequence[float], others: Sequence[float]) -> float:
    """Return the median of the ratios of each round."""
    return statistics.median(one / other for one, other in zip(ones, others, strict=True))


def first_batch(folder: str, batch: int, workers: int) -> float:
    """Return seconds until a fresh process has its first batch; the median of three."""
    command = [sys.executable, os.path.abspath(__file__), "first", folder, str(batch), str(workers)]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(3)]
    return statistics.median(float(run.stdout) for run in runs)


def time_first(folder: str, batch: str, workers: str) -> float:
    """Return seconds from building the order to the first batch, in this process."""
    began = time.perf_counter()
    config, order = contenders.order_of(folder, int(batch))
    loader = contenders.open_loader(order, config, contenders.NOISE, 0, 1, int(workers))
    next(loader.batches(0, 100))
    took = time.perf_counter() - began
    loader.close()
    return took


class Watch:
    """Adds up the time spent in wrapped functions, less what they spend in others that are
    wrapped."""

    def __init__(self) -> None:
        self.spent: defaultdict[str, float] = defaultdict(float)
        self.inner = [0.0]

    def wrap(self, owner: object, name: str, stage: str) -> None:
        """Replace a function of a module or object by one whose time counts for a stage."""
        function = getattr(owner, name)

        def timed(*arguments: object, **named: object) -> object:
            self.inner.append(0.0)
            began = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                took = time.perf_counter() - began
                self.spent[stage] += took - self.inner.pop()
                self.inner[-1] += took

        setattr(owner, name, timed)


def stages(folder: str, batch: int, slots: int = 2048) -> dict[str, float]:
    """Return {stage: microseconds a pair}, medians over slots, read in this process."""
    import simplejpeg

    from data.format import clip, index
    from data.loading import reader

    config, order = contenders.order_of(folder, batch)
    loader = contenders.open_loader(order, config, contenders.NOISE, 0, 1, 0)
    watch, one = Watch(), loader.reader
    for owner, name, stage in (
        (order, "draw", "draw"),
        (index.Index, "members", "index"),
        (one.store, "read", "read"),
        (clip.json, "loads", "JSON"),
        (reader, "decode_meta", "checks"),
        (reader, "choose", "pair"),
        (simplejpeg, "decode_jpeg", "JPEG"),
        (one, "mask", "mask"),
        (reader.Slots, "at", "numbers"),
        (one, "draw_numbers", "numbers"),
        (one, "fill", "rest"),
    ):
        watch.wrap(owner, name, stage)
    found = []
    gc.collect()
    gc.freeze()
    for n in range(slots):
        watch.spent.clear()
        one.fill(loader.ring[0], n % batch, n)
        found.append(dict(watch.spent))
    return {
        stage: 1e6 * statistics.median(spent[stage] for spent in found[256:]) for stage in found[0]
    }


def augmentation(folder: str, batch: int) -> float:
    """Return microseconds a pair of what the device does with a batch, here on the CPU with one
    thread."""
    import torch

    from data.loading.augment import augment

    config, order = contenders.order_of(folder, batch)
    _, arrays = next(contenders.open_loader(order, config, contenders.NOISE, 0, 1, 0).batches(0, 1))
    pixels, numbers = (
        torch.from_numpy(arrays[name]).flatten(0, 1) for name in ("pixels", "numbers")
    )
    took = []
    for _ in range(5):
        began = time.process_time()
        augment(pixels, numbers, contenders.CROP)
        took.append(time.process_time() - began)
    return 1e6 * statistics.median(took) / batch


if __name__ == "__main__":
    if sys.argv[1:2] == ["first"]:
        print(time_first(*sys.argv[2:]))
    else:
        run(main)
