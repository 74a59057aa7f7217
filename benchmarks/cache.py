"""How fast shards come from a server into the node's cache, and what reading through it costs
beside reading from the disk.

    python benchmarks/cache.py [megabytes=1000] [shards=10] [rounds=3] [folder=DIR]

Made-up shards are served by Python's own web server on this machine, in a process of its own; so
the rate is that of fetching, syncing and renaming on one core, not a network's.
"""

import functools
import http.server
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from benchmarks.options import read_options
from data.storage.cache import Cache
from engine.cli import run
from engine.distributed import hardware

OPTIONS = {"megabytes": "1000", "shards": "10", "rounds": "3", "folder": ""}


def main(argv: list[str]) -> None:
    """Print the figures; returns nothing."""
    options = read_options(argv, OPTIONS)
    size = int(float(options["megabytes"]) * 1e6 / int(options["shards"]))
    folder = tempfile.mkdtemp(dir=options["folder"] or None)
    try:
        os.makedirs(f"{folder}/there")
        names = [f"shard-{i:06d}.tar" for i in range(int(options["shards"]))]
        for name in names:
            with open(f"{folder}/there/{name}", "wb") as file:
                file.write(os.urandom(size))
        print(f"machine: {hardware.describe()}; {len(names)} shards of {size / 1e6:.0f} MB")
        print("| | MB/s |\n|---|---|")
        measure(folder, names, size, int(options["rounds"]))
    finally:
        shutil.rmtree(folder)


def measure(folder: str, names: Sequence[str], size: int, rounds: int) -> None:
    """Print medians over rounds: copy by the system, fetch into an empty cache, read what the cache
    has."""
    receiver, sender = multiprocessing.Pipe(False)
    server = multiprocessing.get_context("spawn").Process(
        target=serve, args=(f"{folder}/there", sender), daemon=True
    )
    server.start()
    url, found = (
        f"http://127.0.0.1:{receiver.recv()}",
        {
            "copied on the same disk": [],
            "fetched into the cache": [],
            "read again from the cache": [],
        },
    )
    for turn in range(rounds):
        cache = Cache(f"{folder}/cache-{turn}", 2 * len(names) * size / 1e9)
        work = (
            functools.partial(copy, folder),
            functools.partial(fetch, cache, url),
            functools.partial(read, cache, url),
        )
        for rates, each in zip(found.values(), work, strict=True):
            began = time.perf_counter()
            for name in names:
                each(name)
            rates.append(len(names) * size / 1e6 / (time.perf_counter() - began))
        shutil.rmtree(cache.folder)
    for words, rates in found.items():
        print(f"| {words} | {statistics.median(rates):.0f} |")
    server.terminate()
    server.join()


def copy(folder: str, name: str) -> None:
    """Copy a shard and have it safe on the disk, as a fetch does."""
    shutil.copyfile(f"{folder}/there/{name}", f"{folder}/copy")
    with open(f"{folder}/copy", "rb") as file:
        os.fsync(file.fileno())


def fetch(cache: Cache, url: str, name: str) -> str:
    """Return the path in the cache of a shard, which is fetched if it is not there."""
    return cache.get(f"{url}/{name}")


def read(cache: Cache, url: str, name: str) -> None:
    """Read a shard through the cache, from its first byte to its last."""
    with open(fetch(cache, url, name), "rb") as file:
        while file.read(1 << 22):
            pass


def serve(folder: str, sender: Connection) -> None:
    """Serve a folder until killed; the port goes through the pipe."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            """Quiet."""

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=folder)
    ) as server:
        sender.send(server.server_address[1])
        server.serve_forever()


if __name__ == "__main__":
    run(main)
