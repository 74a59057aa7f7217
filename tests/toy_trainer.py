"""What toy.py trains: a trainer of three weights, with the faults that it is told to have."""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import toy

from engine.checkpoint import checkpoints
from engine.config import train_config
from engine.config.parser import flat, key, section
from engine.distributed import process_group
from engine.distributed.parallel import own
from engine.errors import Failure, UserError
from engine.run import preflight
from engine.run.folder import Run
from engine.training import loop
from engine.training.trainer import Trainer

BATCH = 4


@dataclass
class ToyConfig(train_config.TrainConfig):
    log: train_config.LogConfig = section(train_config.LogConfig)
    pace_s: float = key(0.0, "of a step")


class Loader:
    """Numbers from a slot's own generator."""

    workers, ring = [], []

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

    def close(self):
        pass


class Toy(Trainer):
    """``faults``: those of toy.py; none on ranks that they do not strike."""

    room = "toy"

    def __init__(self, faults, config, processes):
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
        model = torch.nn.Linear(3, 1)
        super().__init__(config, processes, model, model, 2, slice(0, 1))
        self.replaced = self.replaced[:1]
        share = BATCH // processes.world
        self.loader = Loader(
            range(processes.rank * share, (processes.rank + 1) * share),
            self.faults.get("hang_reading"),
        )
        self.val = np.arange(12)
        # A loss that is scaled is scaled on all ranks.
        self.scale = faults.get("scale", {})

    @staticmethod
    def _slow_saves(seconds):
        write = checkpoints.write_tensors

        def slowly(*words):
            time.sleep(seconds)
            write(*words)

        checkpoints.write_tensors = slowly

    def to_device(self, arrays):
        return {name: torch.from_numpy(values) for name, values in arrays.items()}

    def update(self, step, arrays):
        self.step = step
        time.sleep(self.config.pace_s)
        if step == self.faults.get("fail"):
            raise UserError("shard x cannot be read")
        if step == self.faults.get("crash"):
            raise ValueError("a fault of the program")
        if step == self.faults.get("hang"):
            time.sleep(1000)
        if step == self.faults.get("fail_in_save"):
            # Once the first process is at its save.
            place = Path(self.config.run) / "checkpoints"
            while not list(place.glob(".writing-*")):
                time.sleep(0.01)
            raise UserError("shard x cannot be read")
        super().update(step, arrays)
        if step == self.faults.get("flip"):
            own(self.model.weight.detach()).view(torch.int32)[0, 1] ^= 1 << 20

    def loss(self, piece):
        losses = (self.wrapped(piece["x"])[:, 0] - piece["x"].sum(1)).square()
        time.sleep(self.faults.get("slow", 0))
        if self.step == 0:
            time.sleep(self.faults.get("slow_first", 0))
        factor = float("nan") if self.step in self.faults.get("nan", []) else 1.0
        factor *= self.scale.get(str(self.step), 1.0)
        meters = torch.stack([losses.sum(), losses.new_tensor(len(losses))]).detach().double()
        return factor * losses.sum() / BATCH, meters

    def losses(self, sums):
        return {"loss/toy": sums[0] / sums[1]}

    @torch.no_grad()
    def evaluate(self):
        total = torch.zeros(1, dtype=torch.float64)
        for rows in self.shares(len(self.val), 2):
            time.sleep(self.faults.get("slow_evaluation", 0))
            total += sum(self.model(torch.full((3,), float(row)))[0] for row in rows)
        return {"val/toy": self.total(total)[0]}

    def draw(self, folder, step):
        return {}

    def open_run(self):
        try:
            return Run(
                self.config.run,
                self.config,
                "toy",
                (*train_config.FREE, "pace_s"),
                self.device.type,
            ), None
        except Failure as error:
            return None, error

    def announce(self, start):
        self.planted("announce")
        print(f"goes on at {start}", flush=True)

    def measured(self, step, samples, seconds):
        return {"speed/pairs_per_s": samples / seconds}

    def note_bad(self):
        pass

    def list_bad(self, folder, slot):
        pass

    def save(self, run, step, last):
        super().save(run, step, last, {})


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
    check, join = preflight.check, process_group.start

    def check_planted(config, trainer):
        trainer.planted("preflight")
        check(config, trainer)

    def start_planted(device, timeout_s=600, store=None):
        toy.planted(faults, "group", int(os.environ.get("RANK") or 0))
        return join(device, timeout_s, store)

    preflight.check, process_group.start = check_planted, start_planted
    try:
        return loop.train(config, lambda config, processes: Toy(faults, config, processes))
    finally:  # a test may train in its own process: what it plants ends with it
        preflight.check, process_group.start = check, join
