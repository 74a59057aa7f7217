"""What the order of samples costs at scale: start-up, memory, going on anywhere; the index of the shards apart.

    python benchmarks/order.py [clips=100e6] [shards=10000] [ranks=1024] [batch=8192] [slots=2000]

One process stands for one rank: the manifest is made up in memory (names, counts, digests), the order is built, the slots of a
step are drawn, first from the start and then from a step far into the run, by a process that has not seen what came before.
"""

import json
import os
import resource
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np

from data.manifest import SourceManifest
from data.order import Order, default_lanes
from engine.cli import run
from engine.errors import UserError

OPTIONS = {"clips": "100e6", "shards": "10000", "ranks": "1024", "batch": "8192", "slots": "2000"}
FAR_STEP = 1_000_000
SHARES = [0.5, 0.5]


def main(argv):
    """Print the figures; returns nothing."""
    options = dict(OPTIONS)
    for argument in argv:
        name, equals, value = argument.partition("=")
        if name not in OPTIONS or not equals:
            raise UserError(f"'{argument}' is none of {', '.join(f'{k}=' for k in OPTIONS)}")
        options[name] = value
    sizes = {name: int(float(value)) for name, value in options.items()}
    if sizes["batch"] % sizes["ranks"]:
        raise UserError(f"batch={sizes['batch']} does not divide by ranks={sizes['ranks']}")
    print(f"{sizes['clips']:,} clips in {sizes['shards']:,} shards, {sizes['ranks']} ranks, batch {sizes['batch']}")
    print("| | from the start | from step 1,000,000 |\n|---|---|---|")
    # Each in a process of its own: memory is counted from nothing, and nothing is remembered.
    found = [json.loads(subprocess.run([sys.executable, __file__, "one", json.dumps({**sizes, "step": step})],
                                       capture_output=True, text=True, check=True).stdout) for step in (0, FAR_STEP)]
    for name in found[0]:
        print(f"| {name} | " + " | ".join(f"{values[name]:.3g}" for values in found) + " |")


def one(sizes):
    """{what: number} of one rank, the one in the middle, that begins at a step."""
    before = _megabytes()
    count, rank = sizes["clips"] // sizes["shards"], sizes["ranks"] // 2
    names = [f"/data/shard-{i:06d}.tar" for i in range(sizes["shards"])]
    source = SourceManifest("made", names, np.full(sizes["shards"], count), [], ["0" * 16] * sizes["shards"], [0, 1], 256)
    began = time.perf_counter()
    order = Order([source], [1.0], SHARES, 0, sizes["batch"], default_lanes(sizes["batch"], SHARES), 4.0)
    share = sizes["batch"] // sizes["ranks"]
    order.draw(sizes["step"] * sizes["batch"] + rank * share)
    first = time.perf_counter() - began
    began = time.perf_counter()
    for n in range(sizes["slots"]):
        step, row = divmod(n, share)
        order.draw((sizes["step"] + step) * sizes["batch"] + rank * share + row)
    each = (time.perf_counter() - began) / sizes["slots"]
    return {"seconds to the first slot": first, "microseconds a slot after that": 1e6 * each,
            "MB of the process": _megabytes(), "MB of them for the order": _megabytes() - before}


def _megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    if sys.argv[1:2] == ["one"]:
        print(json.dumps(one(json.loads(sys.argv[2]))))
    else:
        run(main)
