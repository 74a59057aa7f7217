"""What is kept of a job in its folder, and what became of it.

    FOLDER/slurm/job.json           what is to be run, how; written before submitting
    FOLDER/slurm/submitted.json     the number it got
    FOLDER/slurm/attempt.json       which start of which job may work in the folder now
    FOLDER/slurm/history.jsonl      one line for each start, failure, warning and end
    FOLDER/slurm/ranks/rank-N.log   what each process said
    FOLDER/slurm/submitit/          the script's own files

A training run keeps it in its run's folder; a command that makes shards in OUT.slurm beside its
folder.
"""

import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import UserError, explain, failure_of
from engine.run.files import write_file
from engine.run.run_folder import RunFolder, step_of

Event = dict[str, Any]  # a line of the history: "time", "event", and more


@dataclass
class Job:
    """What a supervisor is to run.

    Attributes:
        words: the command's, such as ["finetune", "train"].
        arguments: its config file and keys.
        folder: where the record lies (FOLDER above).
        cwd: where relative paths begin.
        code: folder of the snapshot.
        python: the interpreter of the ranks.
        training: whether there are ranks that resume from checkpoints.
        nodes, ranks: machines, and processes on each.
        settings: the slurm. keys that the supervisor reads.
        wandb_online: the run sends its log to a server.
        array: the number in an array, or None.
        evaluation: of a training run whose checkpoints are evaluated {"every", "steps", "words"},
            else None.
        anew: it begins from nothing each time it starts, so that more time than its limit never
            helps.
    """

    words: list[str]
    arguments: list[str]
    folder: str
    cwd: str
    code: str
    python: str
    training: bool
    nodes: int
    ranks: int
    settings: dict[str, Any]
    wandb_online: bool = False
    array: int | None = None
    evaluation: dict[str, Any] | None = None
    anew: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def home(self) -> Path:
        """The folder of the record."""
        return RunFolder(self.folder).slurm

    def save(self) -> None:
        """Write job.json.

        Raises:
            Failure: it cannot be written.
        """
        try:
            (self.home / "ranks").mkdir(parents=True, exist_ok=True)
            write_json(self.home / "job.json", asdict(self))
        except OSError as error:
            raise failure_of(error, f"{self.home} cannot be written: {explain(error)}") from None


def load_job(folder: str | Path) -> Job:
    """Return the Job of a folder, which may be given as a run's, as OUT, or as OUT.slurm.

    Raises:
        UserError: there is none.
    """
    for place in (Path(folder), Path(f"{str(folder).rstrip('/')}.slurm")):
        path = RunFolder(place).slurm / "job.json"
        if path.exists():
            return Job(**json.loads(path.read_text()))
    raise UserError(f"{folder} holds no slurm/job.json: it was not started with python -m slurm")


def refuse_others(job: Job) -> None:
    """Raise UserError where another user wrote a job's record.

    Its code and its shell lines would run as whoever resumes it.
    """
    owner = os.stat(job.home / "job.json").st_uid
    if owner != os.geteuid():
        raise UserError(
            f"{job.home / 'job.json'} belongs to user {owner}, and you are {os.geteuid()}: the "
            f"code and the shell lines that it names would run as you; submit a run of your own"
        )


def write_json(path: str | Path, value: object) -> None:
    """Write JSON to a file in one go: a reader sees the old or the new."""
    write_file(path, json.dumps(value, indent=1))


def read_json(path: str | Path) -> Any:
    """Return the JSON of a file, None where there is none."""
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError:
        return None


def add_event(home: str | Path, event: str, **facts: object) -> None:
    """Append a line to the history; ``facts`` are its fields."""
    with open(Path(home) / "history.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps({"time": round(time.time(), 3), "event": event, **facts}) + "\n")


def read_events(home: str | Path) -> list[Event]:
    """Return the lines of the history; one that a crash cut in two is left out."""
    path, out = Path(home) / "history.jsonl", []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                out.append(json.loads(line))
            except ValueError:
                continue
    return out


def find_newest_step(folder: str | Path) -> int:
    """Return the step of a run's newest checkpoint by its name alone; 0 where there is none."""
    paths = RunFolder(folder).checkpoints.glob("step-*")
    steps = [step_of(path.name) for path in paths]
    return max((step for step in steps if step is not None), default=0)
