"""The smallest training run there is, to break: ``python tests/toy.py FAULTS key=value ...`` trains three weights.

FAULTS is JSON: {"nan": [step, ...], "scale": {"step": factor}, "on": rank, "KIND": step, ...} where KIND is one of
``fail``, ``crash``, ``hang``, ``slow_start``, ``slow_evaluation`` (seconds). They strike rank ``on`` alone; all without it.
Faults are put into the trainer here: the engine knows nothing of them.
"""

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BATCH = 4


def start(run, faults, *words, world=1):
    """[a started process a rank]."""
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    # One thread, so that runs under way at the same time stay equal to the bit.
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    if world > 1:
        env |= {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    command = [sys.executable, __file__, json.dumps(faults), f"run={run}", *words]
    return [subprocess.Popen(command, cwd=ROOT, env={**env, **({"RANK": str(rank)} if world > 1 else {})},
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for rank in range(world)]


def start_torchrun(run, *words, world):
    """A started torchrun, the first of a process group of its own."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
    return subprocess.Popen([sys.executable, *launcher, __file__, "{}", f"run={run}", *words], cwd=ROOT, text=True,
                            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}, start_new_session=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(processes, codes=0):
    """Wait for the ranks; their outputs. Fails the test on other exit codes."""
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    wanted = codes if isinstance(codes, list) else [codes] * len(processes)
    assert [process.returncode for process in processes] == wanted, outputs
    return outputs


def wait_for(path, processes, text=""):
    """Until a file is there and holds a text."""
    while not (path.exists() and text in path.read_text()):
        assert all(process.poll() is None for process in processes), [process.communicate()[0] for process in processes]
        time.sleep(0.01)


def main(argv):
    from engine import signals

    signals.leave_on_signal()
    faults, words = json.loads(argv[0]), argv[1:]
    import numpy as np
    import torch

    from engine import loop, options
    from engine.config import flat, key, section
    from engine.errors import UserError
    from engine.run import Run
    from engine.trainer import Trainer

    @dataclass
    class ToyConfig(options.TrainConfig):
        log: options.LogConfig = section(options.LogConfig)
        pace_s: float = key(0.0, "of a step")

    class Loader:
        """Numbers from a slot's own generator."""

        workers, ring = [], []

        def __init__(self, rows, on):
            self.rows, self.on = rows, on

        def batches(self, start, stop):
            for step in range(start, stop):
                if self.on and step == faults.get("hang_reading"):
                    time.sleep(1000)
                slots = [step * BATCH + row for row in self.rows]
                yield step, {"x": np.stack([np.random.default_rng(slot).normal(size=3) for slot in slots]).astype(np.float32),
                             "tags": np.zeros((len(slots), 1), np.int64)}

        def close(self):
            pass

    class Toy(Trainer):
        room = "toy"

        def __init__(self, config, processes):
            self.on = faults.get("on") in (None, processes.rank)
            if self.on and "slow_start" in faults:
                print("building", flush=True)
                time.sleep(faults["slow_start"])
            torch.manual_seed(config.seed)
            model = torch.nn.Linear(3, 1)
            super().__init__(config, processes, model, model, 2, slice(0, 1))
            self.replaced = self.replaced[:1]
            share = BATCH // processes.world
            self.loader = Loader(range(processes.rank * share, (processes.rank + 1) * share), self.on)
            self.held_out = np.arange(12)

        def to_device(self, arrays):
            return {name: torch.from_numpy(values) for name, values in arrays.items()}

        def update(self, step, arrays):
            self.step = step
            time.sleep(config.pace_s)
            if self.on and step == faults.get("fail"):
                raise UserError("shard x cannot be read")
            if self.on and step == faults.get("crash"):
                raise ValueError("a fault of the program")
            if self.on and step == faults.get("hang"):
                time.sleep(1000)
            super().update(step, arrays)

        def loss(self, piece):
            losses = (self.wrapped(piece["x"])[:, 0] - piece["x"].sum(1)).square()
            factor = float("nan") if self.on and self.step in faults.get("nan", []) else 1.0
            factor *= faults.get("scale", {}).get(str(self.step), 1.0)
            meters = torch.stack([losses.sum(), losses.new_tensor(len(losses))]).detach().double()
            return factor * losses.sum() / BATCH, meters

        def losses(self, sums):
            return {"loss/toy": sums[0] / sums[1]}

        @torch.no_grad()
        def evaluate(self):
            total = torch.zeros(1, dtype=torch.float64)
            for rows in self.shares(len(self.held_out), 2):
                if self.on:
                    time.sleep(faults.get("slow_evaluation", 0))
                total += sum(self.model(torch.full((3,), float(row)))[0] for row in rows)
            return {"held_out/toy": self.total(total)[0]}

        def draw(self, folder, step):
            return {}

        def open_run(self):
            try:
                return Run(config.run, config, "toy", (*options.FREE, "pace_s")), None
            except UserError as error:
                return None, error

        def announce(self, start):
            print(f"goes on at {start}", flush=True)

        def measured(self, step, samples, seconds):
            return {"speed/pairs_per_s": samples / seconds}

        def note_bad(self):
            pass

        def list_bad(self, folder, slot):
            pass

        def save(self, run, step, last):
            super().save(run, step, last, {})

    config = ToyConfig(steps=24, batch=BATCH, device="cpu")
    config.optim.warmup, config.optim.lr, config.checkpoint.every = 2, 1.0, 6
    config.log.every, config.log.held_out_every, config.log.pictures_every = 2, 8, 0
    known = flat(config)
    for word in words:
        name, value = word.split("=", 1)
        *path, last = name.split(".")
        place = config
        for part in path:
            place = getattr(place, part)
        setattr(place, last, type(known[name])(value) if known[name] is not None else json.loads(value))
    return loop.train(config, Toy)


if __name__ == "__main__":
    from engine.cli import run

    run(main)
