"""The loader over a long run: memory that stays flat, workers that end with their parent, one copy
to the device."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import make_clip, write_shards

from data.config import DataConfig
from data.loading.build import open_loader, open_order
from data.loading.device import ToDevice, split

ROOT = Path(__file__).resolve().parent.parent
NOISE, BATCH = 9, 50


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """70 shards of 3 clips of 16 px: more than a reader keeps open."""
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, [make_clip(i, size=16) for i in range(210)], 3)
    return folder


def loader_of(folder, workers, prefetch=4):
    config = DataConfig(shards=str(folder), prefetch=prefetch)
    return open_loader(open_order(config, BATCH, 3), config, NOISE, 0, 1, workers)


def private_mb(pid):
    """Memory of a process that it shares with nobody."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="utf-8") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("Private_")) / 1024


def growth_mb(folder, samples, warm):
    """[MB] by which two workers and this process grew between ``warm`` samples and ``samples``."""
    loader = loader_of(folder, 2)
    pids = [os.getpid(), *(process.pid for process, _ in loader.workers)]
    for step, _ in loader.batches(0, samples // BATCH):
        if step == warm // BATCH:
            before = [private_mb(pid) for pid in pids]
    after = [private_mb(pid) for pid in pids]
    loader.close()
    return [late - early for early, late in zip(before, after, strict=True)]


def growth_of_a_fresh_process_mb(folder, samples, warm):
    """``growth_mb`` where nothing ran before: what earlier tests left here is freed at any time."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        return executor.submit(growth_mb, folder, samples, warm).result()


def test_memory_is_flat(folder):
    # An array of 3 numbers kept for each sample would show: 9,000 a worker, about 1.2 MB.
    assert max(growth_of_a_fresh_process_mb(folder, 20_000, 2_000)) < 1.0


@pytest.mark.long
def test_memory_is_flat_over_200_000_samples(folder):
    assert max(growth_of_a_fresh_process_mb(folder, 200_000, 20_000)) < 1.0


def alive(pid):
    """Whether a process still runs; one that is dead but not yet waited for does not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_workers_end_with_a_parent_that_is_killed(folder, tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent(f"""
        from data.config import DataConfig
        from data.loading.build import open_loader, open_order

        if __name__ == "__main__":
            config = DataConfig(shards={str(folder)!r})
            loader = open_loader(open_order(config, {BATCH}, 3), config, {NOISE}, 0, 1, 2)
            for step, _ in loader.batches(0, 10**9):
                if step == 10:
                    print(*[process.pid for process, _ in loader.workers], flush=True)
    """)
    )
    run = subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        workers = [int(pid) for pid in run.stdout.readline().split()]
        with open(f"/proc/{run.pid}/task/{run.pid}/children", encoding="utf-8") as file:
            children = [int(pid) for pid in file.read().split()]
        assert len(workers) == 2 and set(workers) <= set(children) and all(map(alive, workers))
        with open(f"/proc/{workers[0]}/maps", encoding="utf-8") as file:
            maps = file.read()
        # The ring has no name that a killed run could leave behind.
        assert "/memfd:loader" in maps and "/dev/shm" not in maps
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait()
    deadline = time.monotonic() + 20
    while any(map(alive, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, children))


def test_a_batch_lies_in_one_piece_and_goes_over_whole(folder):
    loader = loader_of(folder, 0)
    to_device = ToDevice(loader, torch.device("cpu"))
    _, arrays = next(loader.batches(0, 1))
    assert all(np.shares_memory(values, loader.buffers[0]) for values in arrays.values())
    assert all(values.ctypes.data % 256 == 0 for values in arrays.values())
    tensors, copied = to_device(arrays), split(torch.from_numpy(loader.buffers[0].copy()), loader)
    for name, values in arrays.items():
        assert tensors[name].data_ptr() == values.ctypes.data  # on a CPU nothing is copied
        assert copied[name].dtype == tensors[name].dtype and torch.equal(
            copied[name], tensors[name]
        )
        assert values.any()


@pytest.mark.parametrize("workers", [0, 2])
def test_no_place_is_filled_anew_before_it_is_released(folder, workers):
    loader = loader_of(folder, workers, prefetch=2)
    known, released = {}, []

    def release(place):
        # As a copy that still runs would see it: the batch must be whole until here.
        if place in known:
            assert np.array_equal(loader.buffers[place], known.pop(place))
            released.append(place)

    loader.release = release
    for step, _ in loader.batches(0, 12):
        place = step % loader.depth
        assert place not in known
        time.sleep(0.01)  # for workers that would fill it too early
        known[place] = loader.buffers[place].copy()
    loader.close()
    assert released == [step % loader.depth for step in range(12 - loader.depth)]
