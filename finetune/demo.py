"""``python -m finetune demo DIR``: the whole path, from making people to a page that shows what was learnt.

Each stage is a command that anyone could type; it is printed, run and timed. A finished stage is not run again, and one
that was interrupted goes on, as every command of this project does.
"""

import json
import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from engine.config import key, parse_keys
from engine.errors import UserError

USAGE = "python -m finetune demo DIR [real=VIDEOS calibration=FILE] [key=value ...]"
KINDS = ("body", "hand")


@dataclass
class DemoConfig:
    clips: int = key(1000, "clips of made people, of bodies and of hands each", low=100)
    workers: int | None = key(None, "processes that make people; default: the cores", low=1)
    device: str = key("auto", "where to make people and to train", choices=("auto", "cpu", "cuda"))
    pretrain_steps: int | None = key(None, "steps of pre-training; default: as in the configs", low=1)
    finetune_steps: int | None = key(None, "steps of fine-tuning; default: as in the configs", low=1)
    wandb: str = key("offline", "weights & biases", choices=("off", "offline", "online"))
    videos: str = key("", "folder of a real take with several cameras, shown beside the made pairs")
    calibration: str = key("", "its calibration file (Qualisys)")

    def check(self):
        if bool(self.videos) != bool(self.calibration):
            raise UserError(f"videos={self.videos} and calibration={self.calibration}: a real take needs both, or neither")


def stages(config, folder):
    """[(name, words after ``python -m``), ...] of the whole path."""
    workers = config.workers or len(os.sched_getaffinity(0))
    made, train = [f"device={config.device}"], [f"device={config.device}", f"log.wandb={config.wandb}"]
    steps = {room: [f"steps={count}"] if count else [] for room, count in
             (("pretrain", config.pretrain_steps), ("finetune", config.finetune_steps))}
    out = []
    if config.videos:
        out.append(("real pairs", ["data", "pairs", "configs/data/multicam_qualisys.yaml", f"videos={config.videos}",
                                   f"calibration={config.calibration}", f"out={folder}/treadmill", f"workers={workers}"]))
    for kind in KINDS:
        shards = f"data.shards={folder}/people_{kind}"
        out += [
            (f"{kind}: make people", ["data", "make", f"configs/data/people_{kind}_easy.yaml", f"out={folder}/people_{kind}",
                                      f"clips={config.clips}", f"workers={workers}", *made]),
            (f"{kind}: pre-train", ["pretrain", f"configs/pretrain/demo_{kind}.yaml", f"run={folder}/pretrain_{kind}", shards,
                                    *steps["pretrain"], *train]),
            (f"{kind}: fine-tune", ["finetune", "train", f"configs/finetune/demo_{kind}.yaml", f"run={folder}/finetune_{kind}",
                                    f"init={folder}/pretrain_{kind}", shards, *steps["finetune"], *train]),
            (f"{kind}: the same without pre-training", [
                "finetune", "train", f"configs/finetune/demo_{kind}.yaml", f"run={folder}/finetune_{kind}_scratch", shards,
                *steps["finetune"], *train]),
            (f"{kind}: evaluate", ["finetune", "evaluate", f"run={folder}/finetune_{kind}",
                                   f"without={folder}/finetune_{kind}_scratch", f"device={config.device}"])]
    return [*out, ("report", ["finetune", "report", str(folder)])]


def main(argv):
    """``python -m finetune demo``; returns the exit code of the first stage that fails, or 0."""
    config, paths = parse_keys(DemoConfig, argv, "finetune demo", USAGE)
    if len(paths) > 1:
        raise UserError(f"python -m finetune demo takes one folder, not {len(paths)}: {', '.join(paths)}")
    folder = Path(paths[0])
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: the folder cannot be made: {error.strerror.lower()}") from None
    times, todo = folder / "times.jsonl", stages(config, folder)
    for number, (name, words) in enumerate(todo, 1):
        command = shlex.join(["python", "-m", *words])
        if _done(times, name, command) and name != "report":
            continue
        print(f"\n[{number}/{len(todo)}] {name}\n$ {command}", flush=True)
        began = time.time()
        code = subprocess.run([sys.executable, "-m", *words]).returncode
        _note(times, {"stage": name, "command": command, "seconds": round(time.time() - began, 1), "code": code})
        if code:
            print(f"stage '{name}' ended with exit code {code}; the same command goes on from there", file=sys.stderr)
            return code
    print(f"\nlook at {folder}/report.html")
    return 0


def _done(times, name, command):
    """Whether the last entry of a stage is this command, and it ended well."""
    if not times.exists():
        return False
    entries = [json.loads(line) for line in times.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    mine = [entry for entry in entries if entry["stage"] == name]
    return bool(mine) and mine[-1]["code"] == 0 and mine[-1]["command"] == command


def _note(times, entry):
    try:
        with open(times, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
    except OSError as error:
        raise UserError(f"{times} cannot be written: {error.strerror.lower()}") from None
