"""The runs that one command line asks for: one, one for each combination of a sweep, or the parts
of one command's work."""

import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from engine.config.parser import flat
from engine.config.paths import expand_home
from engine.errors import Failure, UserError
from engine.training import eval_jobs
from slurm import job_record, site
from slurm.submit import check, cli_args


@dataclass
class Element:
    """One run: ``arguments`` of the room, ``config`` resolved, ``folder`` of its record;
    ``evaluation``: as in record.Job."""

    arguments: list
    config: dict
    folder: str
    evaluation: dict | None = None


def of(order, where, faults, notes):
    """[Element, ...] of a slurm.submit.cli_args.Line, each checked by its room; what is wrong is
    added to ``faults``."""
    if order.room.plain:
        return _plain(order, faults, notes)
    out = []
    for chosen in cli_args.combinations(order.sweep):
        words = [*order.arguments, *(f"{key}={value}" for key, value in chosen)]
        said = check.room_faults(order.room, words)
        faults += said["faults"]
        notes += said["notes"]
        if said["config"] is None:
            continue
        base = os.path.abspath(said["config"][order.room.folder])
        folder = os.path.join(base, cli_args.name_of(chosen)) if chosen else base
        if chosen:
            words.append(f"{order.room.folder}={folder}")
        if order.room.training and order.settings and where == "slurm":
            faults += check.batch_faults(said["config"], order.settings)
        out.append(
            Element(
                words,
                said["config"],
                folder if order.room.training else f"{folder}.slurm",
                said["evaluation"],
            )
        )
    jobs = order.settings.jobs if order.settings and order.room.parts and where == "slurm" else 1
    return (
        [_part(out[0], number, jobs) for number in range(1, jobs + 1)] if jobs > 1 and out else out
    )


def _part(element, number, count):
    words = [*element.arguments, f"part={number}/{count}"]
    return Element(
        words, element.config, os.path.join(element.folder, f"part-{number:0{len(str(count))}d}")
    )


def _plain(order, faults, notes):
    """Of a command without a config file: one, or one for each checkpoint that is asked for."""
    try:
        several = order.checkpoints is not None
        base, lines = _checkpoints(order) if several else (None, [order.arguments])
    except Failure as error:
        faults.append(str(error))
        return []
    said = check.room_faults(order.room, lines[0])  # the others differ in the checkpoint alone
    faults += said["faults"]
    notes += said["notes"]
    if said["place"] is None:
        return []
    if not several:
        return [Element(order.arguments, said["config"], os.path.abspath(f"{said['place']}.slurm"))]
    steps = [
        next(name for word in words for name in re.findall(r"/(step-\d+)$", word))
        for words in lines
    ]
    return [
        Element(words, said["config"], os.path.join(base, step))
        for words, step in zip(lines, steps, strict=True)
    ]


def _checkpoints(order):
    """(folder of all records, [words of one checkpoint, ...]).

    Raises:
        UserError: no run is named, or a checkpoint that is wanted is not there.
    """
    room, words = order.room, order.arguments
    at = [
        i
        for i, word in enumerate(words)
        if (word.startswith(room.run) if room.run else "=" not in word or os.path.exists(word))
    ]
    if len(at) != 1:
        raise UserError(
            f"checkpoints={order.checkpoints} are those of one run, and {len(at)} are named"
        )
    run = expand_home(words[at[0]].removeprefix(room.run)).rstrip("/")
    there = eval_jobs.whole(run)
    wanted = (
        [str(step) for step in there]
        if order.checkpoints == "all"
        else order.checkpoints.split(",")
    )
    missing = [text for text in wanted if not text.isdecimal() or int(text) not in there]
    if missing or not wanted:
        raise UserError(
            f"checkpoints={order.checkpoints}: {run} has "
            + (
                f"whole checkpoints of steps {', '.join(map(str, there))}"
                if there
                else "no whole checkpoint"
            )
        )
    results = next((word.removeprefix("out=") for word in words if word.startswith("out=")), None)
    rest = [word for i, word in enumerate(words) if i != at[0] and not word.startswith("out=")]
    lines = []
    for step in sorted(map(int, set(wanted))):
        path = eval_jobs.checkpoint_of(run, step)
        place = (
            f"{results}/{path.name}{Path(room.results).suffix}"
            if results
            else (f"{run}/{room.results}".replace("{step}", path.name) if room.results else None)
        )
        lines.append([f"{room.run}{path}", *rest, *([f"out={place}"] if place else [])])
    base = results or os.path.join(run, os.path.dirname(room.results) or "evaluations")
    return os.path.abspath(f"{base}.slurm"), lines


def demand_gpu(element, gpus):
    """Where GPUs are asked for, device=auto is cuda: a node whose driver is broken must fail, not
    train on its CPU."""
    if gpus and element.config.get("device") == "auto":
        element.arguments = [*element.arguments, "device=cuda"]
        element.config = {**element.config, "device": "cuda"}


def make_job(order, element, code, nodes, ranks, array=None):
    """The slurm.job_record.Job of an element; nothing is written yet."""
    home, room = Path(element.folder) / "slurm", order.room
    arguments = (
        element.arguments if room.plain else [str(home / "config.yaml"), *element.arguments[1:]]
    )
    return job_record.Job(
        list(room.words),
        arguments,
        element.folder,
        os.getcwd(),
        str(code),
        sys.executable,
        room.training,
        nodes if room.training else 1,
        ranks if room.training else 1,
        flat(order.settings),
        element.config.get("log.wandb") == "online",
        array,
        element.evaluation,
        bool(room.plain),
    )


def list_all(base, jobs, room):
    """Write the list of a folder's elements: these, after those of earlier submissions, whose jobs
    may run.

    Of parts of one work those that are in no job's hands are left out: cut anew, they are others.
    """
    path = Path(base) / "slurm" / "elements.json"
    known = [
        folder
        for folder in job_record.read(path) or []
        if (Path(folder) / "slurm" / "job.json").exists()
    ]
    if room.parts:
        known = [folder for folder in known if _alive(folder)]
    path.parent.mkdir(parents=True, exist_ok=True)
    job_record.write(path, list(dict.fromkeys([*known, *(job.folder for job in jobs)])))


def _alive(folder):
    number = (job_record.read(Path(folder) / "slurm" / "submitted.json") or {}).get("job")
    return bool(number) and site.present() and site.state(number) in site.ALIVE


def put_down(job, element):
    """Write a job's record, and the copy of its config file beside it where it has one."""
    job.save()
    if job.arguments[:1] == [str(job.home / "config.yaml")]:
        shutil.copyfile(element.arguments[0], job.home / "config.yaml")
