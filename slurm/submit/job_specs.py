"""The jobs that one command line asks for.

One, one for each run of a sweep or each checkpoint, or the parts of one command's work.
"""

import os
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.config.parser import flat
from engine.run.job_description import CommandTraits, Description, JobDescription
from engine.run.run_folder import CONFIG, RunFolder
from slurm import commands, job_record, site
from slurm.config import SlurmConfig
from slurm.submit import check, cli_args
from slurm.submit.cli_args import Choice, Line

Config = dict[str, Any]  # {dotted key: value}


@dataclass
class Element:
    """One job of a submission.

    Attributes:
        arguments: of the command.
        config: {dotted key: value}, resolved.
        folder: of its record.
        evaluation: as in slurm.job_record.Job.
    """

    arguments: list[str]
    config: Config
    folder: str
    evaluation: dict[str, Any] | None = None


@dataclass
class Submission:
    """A command line without faults: what is to be run, and how."""

    words: tuple[str, ...]
    traits: CommandTraits
    settings: SlurmConfig
    elements: list[Element]
    dry: bool

    @property
    def command(self) -> str:
        """The command as it is typed."""
        return " ".join(self.words)


def describe_runs(line: Line) -> tuple[list[Choice], Description]:
    """Return the runs of a line's sweep, and what the command's package says of each."""
    choices = cli_args.choose(line.sweep)
    if len(choices) > cli_args.LARGEST_SWEEP:
        choices = choices[:1]  # it is refused; one run tells what else is wrong
    lines = []
    for choice in choices:
        swept = [f"{key}={value}" for key, value in choice]
        lines.append([*line.arguments, *swept])
    return choices, commands.describe(line.words, lines)


def make_elements(
    line: Line, choices: list[Choice], described: Description, where: str | None
) -> tuple[list[Element], list[str]]:
    """Return (jobs, faults) of a command line.

    Args:
        choices, described: as ``describe`` returns them.
        where: "slurm", "local", or None where the settings have faults.
    """
    traits, settings = described.traits, line.settings
    if not traits.takes_config:
        elements = [element for job in described.jobs for element in _make_plain(job)]
        return _share_out(elements, line, traits, where), []
    elements, faults = [], []
    for choice, job in zip(choices, described.jobs, strict=True):
        if job.config is None or job.folder is None:
            continue
        folder = os.path.abspath(job.folder)
        elements.append(_make_configured(job, job.config, folder, choice, traits))
        if traits.trains and settings and where == "slurm":
            faults += check.find_batch_faults(job.config, settings)
    return _share_out(elements, line, traits, where), faults


def _share_out(
    elements: list[Element], line: Line, traits: CommandTraits, where: str | None
) -> list[Element]:
    """Return the parts of a command that slurm.jobs=N share, or its elements as they are."""
    settings = line.settings
    if elements and settings and traits.takes_part and where == "slurm" and settings.jobs > 1:
        first, jobs = elements[0], settings.jobs
        return [_make_part(first, number, jobs) for number in range(1, jobs + 1)]
    return elements


def _make_configured(
    job: JobDescription, config: Config, folder: str, choice: Choice, traits: CommandTraits
) -> Element:
    arguments = job.arguments
    if choice:
        folder = os.path.join(folder, cli_args.name_run(choice))
        arguments = [*arguments, f"{traits.folder_key}={folder}"]
    record = folder if traits.trains else f"{folder}.slurm"
    return Element(arguments, config, record, job.evaluation)


def _make_plain(job: JobDescription) -> list[Element]:
    """Return the element of a command without a config file; none where it has faults."""
    if job.config is None or job.folder is None:
        return []
    record = os.path.join(f"{os.path.abspath(job.folder)}.slurm", job.element)
    return [Element(job.arguments, job.config, record.rstrip("/"))]


def _make_part(element: Element, number: int, count: int) -> Element:
    name = f"part-{number:0{len(str(count))}d}"
    arguments = [*element.arguments, f"part={number}/{count}"]
    return replace(element, arguments=arguments, folder=os.path.join(element.folder, name))


def demand_gpu(element: Element, gpus: int) -> None:
    """Make device=auto cuda where GPUs are asked for.

    A node whose driver is broken must fail, not train on its CPU.
    """
    if gpus and element.config.get("device") == "auto":
        element.arguments = [*element.arguments, "device=cuda"]
        element.config = {**element.config, "device": "cuda"}


def make_job(
    submission: Submission,
    element: Element,
    code: str | Path,
    nodes: int,
    ranks: int,
    array: int | None = None,
) -> job_record.Job:
    """Return the record of an element; nothing is written yet.

    Args:
        code: folder of the code that it runs from.
        nodes, ranks: machines, and processes on each, of a training run.
        array: its place in an array.
    """
    traits, arguments = submission.traits, element.arguments
    if traits.takes_config:
        config = RunFolder(element.folder).slurm / CONFIG
        arguments = [str(config), *arguments[1:]]
    return job_record.Job(
        words=list(submission.words),
        arguments=arguments,
        folder=element.folder,
        cwd=os.getcwd(),
        code=str(code),
        python=sys.executable,
        training=traits.trains,
        nodes=nodes if traits.trains else 1,
        ranks=ranks if traits.trains else 1,
        settings=flat(submission.settings),
        wandb_online=element.config.get("log.wandb") == "online",
        array=array,
        evaluation=element.evaluation,
        anew=not traits.takes_config,
    )


def list_elements(base: str | Path, jobs: list[job_record.Job], takes_part: bool) -> None:
    """Write the list of a folder's elements: these, after those of earlier submissions.

    The jobs of earlier ones may run. Of parts of one work those that are in no job's hands are left
    out: cut anew, they are others.
    """
    path = RunFolder(base).slurm / "elements.json"
    known = []
    for folder in job_record.read_json(path) or []:
        there = (RunFolder(folder).slurm / "job.json").exists()
        if there and (not takes_part or _is_alive(folder)):
            known.append(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    job_record.write_json(path, list(dict.fromkeys([*known, *(job.folder for job in jobs)])))


def _is_alive(folder: str) -> bool:
    number = (job_record.read_json(RunFolder(folder).slurm / "submitted.json") or {}).get("job")
    return bool(number) and site.is_present() and site.read_state(number) in site.ALIVE


def save_job(job: job_record.Job, element: Element) -> None:
    """Write a job's record, and the copy of its config file beside it where it has one."""
    job.save()
    if job.arguments[:1] == [str(job.home / CONFIG)]:
        shutil.copyfile(element.arguments[0], job.home / CONFIG)
