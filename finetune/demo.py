"""``python -m finetune demo DIR``: the whole path.

From synthetic humans to a page that shows what was learnt.

Each stage is a command that anyone could type; it is printed, run and timed. A finished stage is
not run again, and one that was interrupted resumes, as every command of this project does. Bodies
and hands go side by side.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.config.parser import key, parse_keys
from engine.errors import UserError, explain, failure_of
from engine.logging.console import get_logger
from finetune.released.catalogue import list_shipped

log = get_logger(__name__)

KINDS = ("body", "hand")
Stage = tuple[str, list[str]]  # its name, and the words after ``python -m``


@dataclass
class DemoConfig:
    """Holds the keys of the demo."""

    clips: int = key(1000, "clips of synthetic humans, of bodies and of hands each", low=100)
    workers: int | None = key(
        None, "processes that draw synthetic humans, of each kind; default: half the cores", low=1
    )
    device: str = key(
        "auto", "where to draw synthetic humans and to train", choices=("auto", "cpu", "cuda")
    )
    pretrain_steps: int | None = key(
        None, "steps of pre-training; default: as in the configs", low=60
    )
    finetune_steps: int | None = key(
        None, "steps of fine-tuning; default: as in the configs", low=60
    )
    wandb: str = key("offline", "weights & biases", choices=("off", "offline", "online"))
    videos: str = key(
        "",
        "folder of a real take with several cameras, shown beside the synthetic pairs",
        path="one",
    )
    calibration: str = key("", "its calibration file (Qualisys)", path="one")
    track: str = key("", "where the person is in it (docs/real_clips.md)", path="one")

    def check(self) -> None:
        """Raise UserError where a real take lacks a part or a file of it does not exist."""
        if bool(self.videos) != bool(self.calibration):
            raise UserError(
                f"videos={self.videos} and calibration={self.calibration}: a real take needs both, "
                f"or neither"
            )
        for name in ("videos", "calibration", "track"):
            if getattr(self, name) and not os.path.exists(getattr(self, name)):
                raise UserError(f"{name}={getattr(self, name)} does not exist")


def stages(config: DemoConfig, folder: Path, workers: int) -> dict[str, list[Stage]]:
    """Return {lane: [(name, words after ``python -m``), ...]}.

    Bodies and hands know nothing of each other.
    """
    made, train = (
        [f"device={config.device}", f"workers={workers}"],
        [f"device={config.device}", f"log.wandb={config.wandb}"],
    )
    steps = {
        package: [f"steps={count}"] if count else []
        for package, count in (
            ("pretrain", config.pretrain_steps),
            ("finetune", config.finetune_steps),
        )
    }
    out = {}
    for kind in KINDS:
        shards = f"data.shards={folder}/people_{kind}"
        tune = ["finetune", "train", f"demo_{kind}"]
        out[kind] = [
            (
                f"{kind}: synthetic humans",
                [
                    "data",
                    "make",
                    f"people_{kind}_easy",
                    f"out={folder}/people_{kind}",
                    f"clips={config.clips}",
                    *made,
                ],
            ),
            (
                f"{kind}: pre-train",
                [
                    "pretrain",
                    "train",
                    f"demo_{kind}",
                    f"run={folder}/pretrain_{kind}",
                    shards,
                    *steps["pretrain"],
                    *train,
                ],
            ),
            (
                f"{kind}: fine-tune",
                [
                    *tune,
                    f"run={folder}/finetune_{kind}",
                    f"init={folder}/pretrain_{kind}",
                    shards,
                    *steps["finetune"],
                    *train,
                ],
            ),
            (
                f"{kind}: fine-tune without pre-training",
                [
                    *tune,
                    f"run={folder}/finetune_{kind}_scratch",
                    shards,
                    *steps["finetune"],
                    *train,
                ],
            ),
            (
                f"{kind}: evaluate",
                [
                    "finetune",
                    "evaluate",
                    f"{folder}/finetune_{kind}",
                    f"without={folder}/finetune_{kind}_scratch",
                    *([f"beside={kind}"] if kind in list_shipped() else []),
                    f"device={config.device}",
                ],
            ),
        ]
    if config.videos:
        out["hand"].append(
            (
                "real pairs",
                [
                    "data",
                    "pairs",
                    "multicam_qualisys",
                    f"videos={config.videos}",
                    f"calibration={config.calibration}",
                    *([f"track={config.track}"] if config.track else []),
                    f"out={folder}/treadmill",
                    f"workers={workers}",
                ],
            )
        )
    return out


class Demo:
    """Runs lanes of commands side by side.

    It records how long each took, and hands signals on to them.

    Args:
        folder: of the demo; made if it is missing.  threads: for each command's arithmetic.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        self.times, self.threads = folder / "times.jsonl", threads
        self.running, self.code, self.lock = {}, 0, threading.Lock()
        self.done = {}
        if self.times.exists():
            entries = [
                json.loads(line)
                for line in self.times.read_text(encoding="utf-8").splitlines()
                if line.endswith("}")
            ]
            self.done = {
                entry["stage"]: entry["command"] for entry in entries if entry.get("code") == 0
            }
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, self._forward)

    def run(self, lanes: Mapping[str, list[Stage]]) -> int:
        """Run lanes, {name: [(stage, words)]}, at the same time.

        Returns the exit code of the first stage that failed, or 0.
        """
        threads = [
            threading.Thread(target=self.lane, args=(place, todo))
            for place, todo in enumerate(lanes.values())
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return self.code

    def lane(self, place: int, todo: list[Stage]) -> None:
        """Run stages one after the other.

        ``place``: the line of the screen for their progress bars.
        """
        for name, words in todo:
            command = shlex.join(["python", "-m", *words])
            if self.code or (self.done.get(name) == command and _made(words)):
                continue
            log.info("\n%s\n$ %s", name, command)
            # One thread a command where two share two cores: they finish sooner than one after the
            # other on both.
            environment = {
                **os.environ,
                "OMP_NUM_THREADS": str(self.threads),
                "TQDM_POSITION": str(place),
            }
            began = time.time()
            # A session of its own: a Ctrl-C reaches it once, through us, and it saves; a second one
            # would end it at once.
            process = self.running[name] = subprocess.Popen(
                [sys.executable, "-m", *words], env=environment, start_new_session=True
            )
            code = process.wait()
            del self.running[name]
            self.note(
                {
                    "stage": name,
                    "command": command,
                    "began": round(began, 1),
                    "seconds": round(time.time() - began, 1),
                    "code": code,
                }
            )
            if code and not self.code:
                self.code = code
                words = (
                    "fix what it says and start again"
                    if code == 2
                    else "the same command resumes from there"
                )
                log.error("'%s' ended with exit code %d: %s", name, code, words)

    def note(self, entry: dict) -> None:
        """Append an entry to the times as a line of JSON."""
        with self.lock:
            try:
                with open(self.times, "a", encoding="utf-8") as file:
                    file.write(json.dumps(entry) + "\n")
            except OSError as error:
                self.code = self.code or 2
                log.error("%s cannot be written: %s", self.times, explain(error))

    def _forward(self, number, frame):
        self.code = self.code or 128 + number
        for process in list(self.running.values()):
            process.send_signal(number)


def _made(words):
    """Whether what a command writes is there: the folder that it names with out= or run=."""
    folders = [word.split("=", 1)[1] for word in words if word.startswith(("out=", "run="))]
    return all(os.path.isdir(folder) for folder in folders)


def main(argv: Sequence[str]) -> int:
    """``python -m finetune demo``; returns the exit code of the first stage that failed, or 0."""
    config, paths = parse_keys(DemoConfig, argv, "finetune demo")
    if len(paths) > 1:
        raise UserError(
            f"python -m finetune demo takes one folder, not {len(paths)}: {', '.join(paths)}"
        )
    folder = Path(paths[0])
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise failure_of(error, f"{folder}: the folder cannot be made: {explain(error)}") from None
    cores = len(os.sched_getaffinity(0))
    share = max(1, cores // len(KINDS))
    demo = Demo(folder, share)
    lanes = stages(config, folder, config.workers or share)
    if cores == 1:
        lanes = {"all": sum(lanes.values(), [])}
    log.info(
        "the whole path into %s: bodies and hands %s, %d thread%s each",
        folder,
        "one after the other" if cores == 1 else "side by side",
        share,
        "s" * (share > 1),
    )
    # The report is made anew every time: it takes seconds, and what it shows may have changed.
    demo.done.pop("report", None)
    code = demo.run(lanes) or demo.run(
        {"report": [("report", ["finetune", "report", str(folder)])]}
    )
    if not code:
        print(f"\nopen {folder}/report.html")
    return code
