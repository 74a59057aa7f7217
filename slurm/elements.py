"""The runs that one command line asks for: one, one for each combination of a sweep, or the parts of one command's work."""

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from engine.config import flat
from slurm import check, line, record


@dataclass
class Element:
    """One run: ``arguments`` of the room, ``config`` resolved, ``folder`` of its record."""

    arguments: list
    config: dict
    folder: str


def of(order, where, faults, notes):
    """[Element, ...] of a slurm.line.Line, each checked by its room; what is wrong is added to ``faults``."""
    out = []
    for chosen in line.combinations(order.sweep):
        words = [*order.arguments, *(f"{key}={value}" for key, value in chosen)]
        said = check.room_faults(order.room, words)
        faults += said["faults"]
        notes += said["notes"]
        if said["config"] is None:
            continue
        base = os.path.abspath(said["config"][order.room.folder])
        folder = os.path.join(base, line.name_of(chosen)) if chosen else base
        if chosen:
            words.append(f"{order.room.folder}={folder}")
        if order.room.training and order.settings and where == "slurm":
            faults += check.batch_faults(said["config"], order.settings)
        out.append(Element(words, said["config"], folder if order.room.training else f"{folder}.slurm"))
    jobs = order.settings.jobs if order.settings and order.room.parts and where == "slurm" else 1
    return [_part(out[0], number, jobs) for number in range(1, jobs + 1)] if jobs > 1 and out else out


def _part(element, number, count):
    words = [*element.arguments, f"part={number}/{count}"]
    return Element(words, element.config, os.path.join(element.folder, f"part-{number:0{len(str(count))}d}"))


def make_job(order, element, code, nodes, ranks, array=None):
    """The slurm.record.Job of an element; nothing is written yet."""
    home, training = Path(element.folder) / "slurm", order.room.training
    return record.Job(list(order.room.words), [str(home / "config.yaml"), *element.arguments[1:]], element.folder, os.getcwd(),
                      str(code), sys.executable, training, nodes if training else 1, ranks if training else 1,
                      flat(order.settings), element.config.get("log.wandb") == "online", array)


def put_down(job, config_file):
    """Write a job's record, and the copy of its config file beside it."""
    job.save()
    shutil.copyfile(config_file, job.home / "config.yaml")
