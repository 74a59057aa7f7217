"""What is kept of a job in its folder, and what became of it.

    FOLDER/slurm/job.json           what is to be run, how; written before submitting, read by the
    supervisor FOLDER/slurm/submitted.json     the number it got
    FOLDER/slurm/life.json          which start of which job may work in the folder now
    FOLDER/slurm/history.jsonl      one line for each start, failure, warning and end
    FOLDER/slurm/ranks/rank-N.log   what each process said
    FOLDER/slurm/submitit/          the script's own files

A training run keeps it in its run's folder; a command that makes shards in OUT.slurm beside its
folder.
"""

import json
import os
import re
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from engine.errors import UserError, explain, failure_of


@dataclass
class Job:
    """What a supervisor is to run.

    Attributes:
        words: the room's, such as ["finetune", "train"].  arguments: its config file and keys.
        folder: where the record lies (FOLDER above).  cwd: where relative paths begin.  code:
            folder of the snapshot.
        python: the interpreter of the ranks.  training: whether there are ranks that go on from
            checkpoints.
        nodes, ranks: machines, and processes on each.  settings: the slurm. keys that the
            supervisor reads.
        wandb_online: the run sends its log to a server.  array: the place in an array, or None.
        evaluation: of a training run whose checkpoints are evaluated {"every", "steps", "words"},
            else None.
        anew: it begins from nothing each time it starts, so that more time than its limit never
            helps.
    """

    words: list
    arguments: list
    folder: str
    cwd: str
    code: str
    python: str
    training: bool
    nodes: int
    ranks: int
    settings: dict
    wandb_online: bool = False
    array: int | None = None
    evaluation: dict | None = None
    anew: bool = False
    notes: list = field(default_factory=list)

    @property
    def home(self):
        return Path(self.folder) / "slurm"

    def save(self):
        try:
            (self.home / "ranks").mkdir(parents=True, exist_ok=True)
            write(self.home / "job.json", asdict(self))
        except OSError as error:
            raise failure_of(error, f"{self.home} cannot be written: {explain(error)}") from None


def load(folder):
    """The Job of a folder, which may be given as a run's, as OUT, or as OUT.slurm.

    Raises:
        UserError: there is none.
    """
    for place in (Path(folder), Path(f"{str(folder).rstrip('/')}.slurm")):
        path = place / "slurm" / "job.json"
        if path.exists():
            return Job(**json.loads(path.read_text()))
    raise UserError(f"{folder} holds no slurm/job.json: it was not started with python -m slurm")


def refuse_others(job):
    """Raises UserError where another user wrote a job's record: its code and its shell lines would
    run as whoever goes on."""
    owner = os.stat(job.home / "job.json").st_uid
    if owner != os.geteuid():
        raise UserError(
            f"{job.home / 'job.json'} belongs to user {owner}, and you are {os.geteuid()}: the "
            f"code and the shell "
            f"lines that it names would run as you; submit a run of your own"
        )


def write(path, value):
    """JSON to a file in one go: a reader sees the old or the new."""
    temporary = Path(path).with_suffix(f".{os.getpid()}.writing")
    temporary.write_text(json.dumps(value, indent=1))
    os.replace(temporary, path)


def read(path):
    """The JSON of a file, None where there is none."""
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError:
        return None


def note(home, event, **facts):
    """Append a line to the history; ``facts`` are its fields."""
    with open(Path(home) / "history.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps({"time": round(time.time(), 3), "event": event, **facts}) + "\n")


def history(home):
    """The lines of the history as dicts; one that a crash cut in two is left out."""
    path, out = Path(home) / "history.jsonl", []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                out.append(json.loads(line))
            except ValueError:
                continue
    return out


def newest_step(folder):
    """The step of a run's newest checkpoint by its name alone; 0 where there is none."""
    steps = [
        re.fullmatch(r"step-(\d+)", path.name) for path in Path(folder).glob("checkpoints/step-*")
    ]
    return max((int(found[1]) for found in steps if found), default=0)
