"""The four that benchmarks/loader.py sets side by side; each has ``next()``, which returns how many
pairs it brought.

Torch, torchvision and webdataset are imported where they are used: this loader's workers import the
main module anew.
"""

import abc
import io
import json
import multiprocessing
import os
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, cast

from data.config import DataConfig
from data.format.index import PAIR_KINDS
from data.format.shards import find_shards
from data.loading.build import open_loader, open_order
from data.sampling.order import PAIR, Order, numbers
from data.sampling.pairs import choose

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

    import torch
    from torch.utils.data import DataLoader, Dataset
    from torchvision.transforms import Compose
    from webdataset import WebLoader

    from data.loading.reader import Reader

NOISE, CROP, COLOUR = 196, 224, 0.4


def processor_s(processes: "Iterable[BaseProcess]") -> float:
    """Return seconds of processor time that this process and some others have had."""
    ticks = 0
    for process in processes:
        with open(f"/proc/{process.pid}/stat", encoding="utf-8") as file:
            ticks += sum(map(int, file.read().rpartition(")")[2].split()[11:13]))
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def order_of(folder: str, batch: int) -> tuple[DataConfig, Order]:
    """Return (config, order) of the shards, half cross-view and half cross-pose, as data.kinds has
    it by default."""
    config = DataConfig(shards=os.path.join(folder, "shards"))
    return config, open_order(config, batch, 0)


class Limit:
    """The bare decoder: a process a core, each with the images of some hundred pairs in memory,
    decoded over and over."""

    PAIRS = 1024

    def __init__(self, folder: str, batch: int, workers: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipes: list[Connection] = []
        self.processes: list[BaseProcess] = []
        for number in range(workers):
            here, there = context.Pipe()
            process = context.Process(
                target=_decode, args=(there, folder, batch, number * self.PAIRS), daemon=True
            )
            process.start()
            there.close()  # so that a process that fails ends the benchmark, and is not waited for
            self.pipes.append(here)
            self.processes.append(process)
        for pipe in self.pipes:
            pipe.recv()

    def rate(self, seconds: float) -> tuple[float, float]:
        """Return (pairs a second of all processes together, seconds of processor time a pair)"""
        before = processor_s(self.processes)
        for pipe in self.pipes:
            pipe.send(seconds)
        done, rates = zip(*[pipe.recv() for pipe in self.pipes], strict=True)
        return sum(rates), (processor_s(self.processes) - before) / sum(done)

    def close(self) -> None:
        """End the processes."""
        for process in self.processes:
            process.kill()


def _decode(pipe: "Connection", folder: str, batch: int, first: int) -> None:
    import simplejpeg

    config, order = order_of(folder, batch)
    loader = open_loader(order, config, NOISE, 0, 1, 0)
    reader = cast("Reader", loader.reader)
    pairs = []
    for n in range(first, first + Limit.PAIRS):
        draw = order.draw(n)
        path = order.sources[draw.source].paths[draw.shard]
        clip, members = reader.clip(path, draw.index)
        pair = choose(
            clip, PAIR_KINDS[draw.kind], config.pairs, numbers(order.seed, PAIR, n)
        )  # as the loader's
        if pair:
            pairs.append([reader.store.read(path, *members[f"{crop:02d}.jpg"]) for crop in pair])
    pipe.send("ready")
    while True:
        seconds, done, began = pipe.recv(), 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            for data in pairs[done % len(pairs)]:
                simplejpeg.decode_jpeg(data, "RGB")
            done += 1
        pipe.send((done, done / (time.perf_counter() - began)))


class Stream(abc.ABC):
    """A contender that brings batches.

    Attributes:
        batch: pairs in a batch.  ahead: batches decoded ahead, at most.  processes: its workers.
    """

    batch: int
    ahead: int
    processes: "Sequence[BaseProcess]"

    @abc.abstractmethod
    def next(self) -> int:
        """Bring a batch; return how many pairs it has."""

    def rate(self, seconds: float) -> tuple[float, float]:
        """Return (pairs a second, seconds of processor time a pair), after what was decoded ahead
        while others had their turn."""
        for _ in range(self.ahead):
            self.next()
        done, began, before = 0, time.perf_counter(), processor_s(self.processes)
        while time.perf_counter() - began < seconds:
            done += self.next()
        return done / (time.perf_counter() - began), (processor_s(self.processes) - before) / done

    @abc.abstractmethod
    def close(self) -> None:
        """End the processes."""


class Ours(Stream):
    """This project's loader; its batch is copied to the device's memory in one piece."""

    def __init__(self, folder: str, batch: int, workers: int) -> None:
        import torch

        config, order = order_of(folder, batch)
        self.loader = open_loader(order, config, NOISE, 0, 1, workers)
        self.batch, self.ahead, self.processes = (
            batch,
            self.loader.depth,
            [process for process, _ in self.loader.workers],
        )
        self.batches = self.loader.batches(0, 2**31)
        self.memory = torch.empty(len(self.loader.buffers[0]), dtype=torch.uint8)
        self.next()

    def next(self) -> int:
        """Copy the next batch to memory; return how many pairs it has."""
        import torch

        step, _ = next(self.batches)
        self.memory.copy_(torch.from_numpy(self.loader.buffers[step % self.loader.depth]))
        return self.batch

    def close(self) -> None:
        """End the loader's workers."""
        self.loader.close()


def _transforms() -> "Compose":
    from torchvision.transforms import ColorJitter, Compose, Normalize, RandomCrop, ToTensor

    from data.loading.augment import MEAN, STD

    return Compose(
        [RandomCrop(CROP), ColorJitter(COLOUR, COLOUR, COLOUR), ToTensor(), Normalize(MEAN, STD)]
    )


class LooseFiles:
    """A map-style dataset of loose images and a list of pairs."""

    def __init__(self, folder: str) -> None:
        self.folder, self.transform = os.path.join(folder, "files"), _transforms()
        with open(os.path.join(self.folder, "pairs.json"), encoding="utf-8") as file:
            self.pairs = json.load(file)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, i: int) -> "list[torch.Tensor]":
        from PIL import Image

        return [
            self.transform(Image.open(os.path.join(self.folder, name)).convert("RGB"))
            for name in self.pairs[i]
        ]


class Torch(Stream):
    """A DataLoader: its tensors are copied to the device's memory one by one."""

    def __init__(self, loader: "DataLoader | WebLoader", batch: int, workers: int) -> None:
        self.batch, self.ahead = batch, 2 * workers  # DataLoader prefetches two batches a worker
        before = multiprocessing.active_children()
        self.loader = loader
        self.batches: Iterator[Sequence[torch.Tensor]] | None = iter(loader)
        self.memory: list[torch.Tensor] | None = None
        self.next()
        self.processes = [
            process for process in multiprocessing.active_children() if process not in before
        ]

    def next(self) -> int:
        """Copy the next batch to memory; return how many pairs it has."""
        import torch

        assert self.batches is not None, "it was closed"
        tensors = next(self.batches)
        if self.memory is None:
            self.memory = [torch.empty_like(t) for t in tensors]
        for memory, tensor in zip(self.memory, tensors, strict=True):
            memory.copy_(tensor)
        return self.batch

    def close(self) -> None:
        """Let go of the batches; their workers end with them."""
        self.batches = None


def plain(folder: str, batch: int, workers: int) -> Torch:
    """Return a contender of loose files, Pillow, torchvision's transforms, torch's DataLoader."""
    from torch.utils.data import DataLoader, RandomSampler

    files = LooseFiles(folder)
    sampler = RandomSampler(files, True, 2**31)
    return Torch(
        DataLoader(
            cast("Dataset[list[torch.Tensor]]", files),
            batch,
            sampler=sampler,
            num_workers=workers,
            drop_last=True,
        ),
        batch,
        workers,
    )


def web(folder: str, batch: int, workers: int) -> Torch:
    """Return a contender of webdataset over the same shards: only the two images of a pair are
    decoded, by Pillow; torchvision's transforms."""
    import webdataset

    shards = find_shards(os.path.join(folder, "shards"))
    data = (
        webdataset.WebDataset(shards, resampled=True, shardshuffle=False)
        .shuffle(500)
        .map(Pick())
        .batched(batch)
    )
    return Torch(webdataset.WebLoader(data, batch_size=None, num_workers=workers), batch, workers)


class Pick:
    """(a, b) tensors of a raw sample: crops of one instant by two cameras, or of one camera at two
    instants."""

    def __init__(self) -> None:
        self.transform = _transforms()

    def __call__(self, sample: Mapping[str, bytes]) -> "tuple[torch.Tensor, ...]":
        """Return the two images of a pair, each (3, CROP, CROP)."""
        from PIL import Image

        crops = json.loads(sample["json"])["crops"]
        same, other = random.choice([("time_s", "camera"), ("camera", "time_s")])
        pairs = [
            (a, b)
            for a, one in enumerate(crops)
            for b, two in enumerate(crops)
            if one[same] == two[same] and one[other] != two[other]
        ]
        return tuple(
            self.transform(Image.open(io.BytesIO(sample[f"{crop:02d}.jpg"])).convert("RGB"))
            for crop in random.choice(pairs)
        )
