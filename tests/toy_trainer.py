"""What toy.py trains: a trainer of three weights, with the faults that are asked of it."""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import toy

from engine.checkpoint import checkpoints, saver, tensors
from engine.config import train_config
from engine.config.parser import flat, key, section
from engine.distributed import process_group
from engine.distributed.parallel import own
from engine.errors import UserError
from engine.training import loop
from engine.training.task import Task
from engine.training.trainer import Trainer

BATCH = 4


@dataclass
class ToyConfig(train_config.TrainConfig):
    log: train_config.LogConfig = section(train_config.LogConfig, resumable=True)
    pace_s: float = key(0.0, "of a step", resumable=True)


class Loader:
    """Numbers from a slot's own generator."""

    workers, ring, alive = [], [], None

    def __init__(self, rows, hang):
        self.rows, self.hang = rows, hang

    def batches(self, start, stop):
        for step in range(start, stop):
            if step == self.hang:
                time.sleep(1000)
            slots = [step * BATCH + row for row in self.rows]
            yield (
                step,
                {
                    "x": np.stack(
                        [np.random.default_rng(slot).normal(size=3) for slot in slots]
                    ).astype(np.float32),
                    "tags": np.zeros((len(slots), 1), np.int64),
                },
            )

    def take_waited(self):
        return 0.0

    def close(self):
        pass


class ToyTask(Task):
    """Three weights that learn to sum three numbers.

    ``faults``: those of toy.py; none on ranks that they do not strike.
    """

    command, schema, unit = "toy", ToyConfig, "pairs"
    meter_count, replaced_columns = 2, slice(0, 1)

    def __init__(self, faults, config, processes):
        super().__init__(config, processes)
        self.faults = faults if faults.get("on") in (None, processes.rank) else {}
        self.planted = lambda where: toy.planted(faults, where, processes.rank)
        self.planted("trainer")
        processes.from_first(lambda: self.planted("index"))
        if "slow_start" in self.faults:
            print("building", flush=True)
            time.sleep(self.faults["slow_start"])
        if "slow_save" in faults and processes.first:
            self._slow_saves(faults["slow_save"])
        torch.manual_seed(config.seed)
        self.model = self.step_module = torch.nn.Linear(3, 1)
        share = BATCH // processes.world
        self.loader = Loader(
            range(processes.rank * share, (processes.rank + 1) * share),
            self.faults.get("hang_reading"),
        )
        self.val = np.arange(12)
        # A loss that is scaled is scaled on all ranks.
        self.scale = faults.get("scale", {})
        self.step = 0

    @staticmethod
    def _slow_saves(seconds):
        write = tensors.write_tensors

        def slowly(*words):
            time.sleep(seconds)
            write(*words)

        checkpoints.write_tensors = saver.write_tensors = slowly

    def to_device(self, arrays):
        return {name: torch.from_numpy(values) for name, values in arrays.items()}

    def compute_loss(self, module, piece):
        losses = (module(piece["x"])[:, 0] - piece["x"].sum(1)).square()
        time.sleep(self.faults.get("slow", 0))
        if self.step == 0:
            time.sleep(self.faults.get("slow_first", 0))
        factor = float("nan") if self.step in self.faults.get("nan", []) else 1.0
        factor *= self.scale.get(str(self.step), 1.0)
        meters = torch.stack([losses.sum(), losses.new_tensor(len(losses))]).detach().double()
        return factor * losses.sum() / BATCH, meters

    def name_losses(self, sums):
        return {"loss/toy": sums[0] / sums[1]}

    @torch.no_grad()
    def evaluate(self, shares):
        total = torch.zeros(1, dtype=torch.float64)
        for rows in shares.rows(len(self.val), 2):
            time.sleep(self.faults.get("slow_evaluation", 0))
            total += sum(self.model(torch.full((3,), float(row)))[0] for row in rows)
        return {"val/toy": shares.total(total)[0]}

    def find_faults(self):
        self.planted("preflight")
        return []

    def announce(self, start):
        self.planted("announce")
        print(f"resumes at {start}", flush=True)


class Toy(Trainer):
    """A trainer of the toy, whose steps have its faults."""

    def update(self, step, arrays):
        faults = self.task.faults
        self.task.step = step
        time.sleep(self.config.pace_s)
        if step == faults.get("fail"):
            raise UserError("shard x cannot be read")
        if step == faults.get("crash"):
            raise ValueError("a fault of the program")
        if step == faults.get("hang"):
            time.sleep(1000)
        if step == faults.get("fail_in_save"):
            # Once the first process is at its save.
            place = Path(self.config.run) / "checkpoints"
            while not list(place.glob(".writing-*")):
                time.sleep(0.01)
            raise UserError("shard x cannot be read")
        super().update(step, arrays)
        if step == faults.get("flip"):
            own(self.model.weight.detach()).view(torch.int32)[0, 1] ^= 1 << 20


def train(faults, words):
    """Train with ``key=value`` words on top of the toy's own config; returns the exit code."""
    config = ToyConfig(steps=24, batch=BATCH, device="cpu")
    config.optim.warmup, config.optim.lr, config.checkpoint.every = 2, 1.0, 6
    config.log.every, config.log.val_every, config.log.images_every = 2, 8, 0
    known = flat(config)
    for word in words:
        name, value = word.split("=", 1)
        *path, last = name.split(".")
        place = config
        for part in path:
            place = getattr(place, part)
        setattr(
            place, last, type(known[name])(value) if known[name] is not None else json.loads(value)
        )
    join = process_group.start

    def start_planted(device, timeout_s=600, store=None):
        toy.planted(faults, "group", int(os.environ.get("RANK") or 0))
        return join(device, timeout_s, store)

    process_group.start = start_planted
    try:
        return loop.train(config, lambda *words: Toy(ToyTask(faults, *words)))
    finally:  # a test may train in its own process: what it plants ends with it
        process_group.start = join
