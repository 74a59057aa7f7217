"""What the order of samples costs at scale: start-up, memory, resuming anywhere; building the
shards' indexes apart.

    python benchmarks/order.py [clips=100e6] [shards=10000] [ranks=1024] [batch=8192] [slots=20000]

First the shards are found and their catalogue read, in a folder of that many empty files with a
made-up shards.json. For the rest the manifest is made up in memory (names, counts, digests), the
order is built and the slots of some rows are drawn, from the start and from a step far into the
run, by a process that has not seen what came before. Measured are one rank of many, one process
that owns all rows, and both with the clips spread over ten sources of uneven weights. The first
slots shuffle a pool for each slice they meet; the next as many show what a slot costs from then on.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np

from benchmarks.options import read_options
from data.sampling.manifest import SourceManifest, read_manifest
from data.sampling.order import Order, default_lanes
from data.storage.catalogue import Entry, write_catalogues
from data.storage.shard_store import Store
from engine.cli import run
from engine.errors import UserError

OPTIONS = {"clips": "100e6", "shards": "10000", "ranks": "1024", "batch": "8192", "slots": "20000"}
FAR_STEP = 1_000_000
SHARES = [0.5, 0.5]


def main(argv: list[str]) -> None:
    """Print the figures; returns nothing."""
    options = read_options(argv, OPTIONS)
    sizes = {name: int(float(value)) for name, value in options.items()}
    if sizes["batch"] % sizes["ranks"]:
        raise UserError(f"batch={sizes['batch']} does not divide by ranks={sizes['ranks']}")
    if sizes["shards"] < 10 or sizes["clips"] < sizes["shards"]:
        raise UserError(
            f"shards={sizes['shards']} and clips={sizes['clips']} are not 10 shards or more of a "
            f"clip or more"
        )
    print(
        f"{sizes['clips']:,} clips in {sizes['shards']:,} shards, batch {sizes['batch']}, "
        f"{sizes['slots']:,} slots drawn"
    )
    found = _in_process("start", sizes)
    print(
        f"finding the shards and reading their catalogue: {found[0]:.3g} s, {found[1]:.3g} MB of "
        f"the process\n"
    )
    print(
        "| | from step | s to first slot | us a slot | of the next | MB of the process | MB for "
        "the order |"
    )
    print("|---|---|---|---|---|---|---|")
    for sources in (1, 10):
        for ranks in (sizes["ranks"], 1):
            for step in (0, FAR_STEP):
                # Each in a process of its own: memory is counted from nothing, and nothing is
                # remembered.
                asked = {**sizes, "ranks": ranks, "sources": sources, "step": step}
                found = _in_process("one", asked)
                who = f"one of {ranks} ranks" if ranks > 1 else "one process, all rows"
                print(
                    f"| {who}, {sources} source{'s' * (sources > 1)} | {step:,} | "
                    + " | ".join(f"{value:.3g}" for value in found)
                    + " |",
                    flush=True,
                )


def _in_process(work: str, sizes: Mapping[str, int]) -> list[float]:
    return json.loads(
        subprocess.run(
            [sys.executable, __file__, work, json.dumps(sizes)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout
    )


def start(sizes: Mapping[str, int]) -> tuple[float, float]:
    """Return (s, MB) of reading a source's manifest from a folder."""
    count = sizes["clips"] // sizes["shards"]
    with tempfile.TemporaryDirectory() as folder:
        names = [f"shard-{i:06d}.tar" for i in range(sizes["shards"])]
        entries = {}
        for name in names:
            with open(os.path.join(folder, name), "wb") as file:
                file.truncate(100_000 * count)
            stat = os.stat(os.path.join(folder, name))
            entries[os.path.join(folder, name)] = Entry(
                count, 256, "0" * 16, 3, stat.st_size, stat.st_mtime_ns
            )
        write_catalogues(entries)
        began = time.perf_counter()
        source = read_manifest("made", folder, 512, 3, Store(None))
        assert len(source.paths) == sizes["shards"]
        return time.perf_counter() - began, _megabytes()


def one(sizes: Mapping[str, int]) -> tuple[float, ...]:
    """Return (s to the first slot, us a slot twice, MB, MB for the order) of the rank in the
    middle, beginning at a step."""
    before = _megabytes()
    count, shards, rank = (
        sizes["clips"] // sizes["shards"],
        sizes["shards"] // sizes["sources"],
        sizes["ranks"] // 2,
    )
    sources = [
        SourceManifest(
            f"made-{s}",
            [f"/data/{s}/shard-{i:06d}.tar" for i in range(shards)],
            np.full(shards, count),
            [],
            ["0" * 16] * shards,
            [0, 1],
            256,
        )
        for s in range(sizes["sources"])
    ]
    weights = [1 / (s + 1) for s in range(sizes["sources"])]
    began = time.perf_counter()
    order = Order(
        sources, weights, SHARES, 0, sizes["batch"], default_lanes(sizes["batch"], SHARES), 4.0
    )
    share = sizes["batch"] // sizes["ranks"]
    order.draw(sizes["step"] * sizes["batch"] + rank * share)
    first = time.perf_counter() - began
    each = []
    for start in (0, sizes["slots"]):
        slots = [
            (sizes["step"] + n // share) * sizes["batch"] + rank * share + n % share
            for n in range(start, start + sizes["slots"])
        ]
        began = time.perf_counter()
        for n in slots:
            order.draw(n)
        each.append(1e6 * (time.perf_counter() - began) / sizes["slots"])
    return first, *each, _megabytes(), _megabytes() - before


def _megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    if sys.argv[1:2] in (["one"], ["start"]):
        print(json.dumps({"one": one, "start": start}[sys.argv[1]](json.loads(sys.argv[2]))))
    else:
        run(main)
