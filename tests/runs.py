"""Tiny runs of pre-training and fine-tuning for tests, as a user would start them."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parent.parent
TINY = [
    "model.image_size=48",
    "model.encoder.width=32",
    "model.encoder.depth=2",
    "model.encoder.heads=2",
    "model.decoder.width=32",
    "model.decoder.depth=1",
    "model.decoder.heads=2",
    "batch=8",
    "optim.warmup=2",
    "log.every=2",
    "log.val_every=8",
    "log.val_pairs=4",
    "log.images_every=0",
    "log.wandb=off",
    "data.val_clips=4",
    "device=cpu",
    "precision=float32",
]


def words(run, shards, *more):
    return ["configs/pretrain/demo_body.yaml", f"run={run}", f"data.shards={shards}", *TINY, *more]


def start(arguments, processes=1, command="pretrain train", before=None):
    """A started ``python -m COMMAND``; several processes by torchrun. ``before`` is called in the
    new process."""
    launcher = [sys.executable, "-m"]
    if processes > 1:
        launcher += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    # One thread, so that runs under way at the same time stay equal to the bit.
    return subprocess.Popen(
        [*launcher, *command.split(), *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=before,
    )


def finish(process, code=0):
    """Wait for a process; its output. Fails the test on another exit code."""
    output = process.communicate(timeout=300)[0]
    assert process.returncode == code, output
    return output


def ranks(process):
    """{rank: process number} of what torchrun started, once they all run; of one process its
    own."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == process.pid:
                names = dict(
                    part.partition("=")[::2]
                    for part in (stat.parent / "environ").read_text().split("\0")
                )
                if "RANK" in names:
                    found[int(names["RANK"])] = int(stat.parent.name)
    return found or {0: process.pid}


def kill(process):
    """kill -9 of all its processes at once."""
    for number in {*ranks(process).values(), process.pid}:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    process.communicate()


def outcome(run):
    """What two equal runs share: the last checkpoint's name and tensors to the bit, and the log
    without times."""
    last = sorted((Path(run) / "checkpoints").glob("step-*"))[-1]
    lines = [
        {
            k: v
            for k, v in json.loads(line).items()
            if k != "time" and not k.startswith(("speed/", "memory/"))
        }
        for line in (Path(run) / "log.jsonl").read_text().splitlines()
    ]
    # The file's header may list its metadata in another sequence; the tensors are what counts.
    tensors = [
        {name: value.tobytes() for name, value in load_file(last / part).items()}
        for part in ("model.safetensors", "optimizer.safetensors")
    ]
    return last.name, *tensors, lines


def apart(one, two):
    """The difference that one weight in a thousand exceeds, of two {name: array} of weights.

    Single weights may be off by a step of Adam: where a gradient is next to nothing, its sign is
    rounding.
    """
    assert one.keys() == two.keys()
    differences = np.concatenate([np.abs(one[name] - two[name]).ravel() for name in one])
    assert differences.max() < 1e-3
    return float(np.quantile(differences, 0.999))


FINETUNE = [
    "model.image_size=32",
    "model.patch=8",
    "model.encoder.width=32",
    "model.encoder.depth=1",
    "model.encoder.heads=2",
    "head.width=32",
    "head.depth=1",
    "head.heads=2",
    "head.token_proj_dim=4",
    "coarse_vertices=32",
    "batch=8",
    "optim.warmup=2",
    "log.every=2",
    "log.val_every=4",
    "log.val_clips=2",
    "log.images_every=0",
    "log.wandb=off",
    "data.val_clips=4",
    "data.workers=1",
    "device=cpu",
    "precision=float32",
]


def finetune_words(run, kind, shards, *more):
    return [
        f"configs/finetune/demo_{kind}.yaml",
        f"run={run}",
        f"data.shards={shards}",
        *FINETUNE,
        *more,
    ]
