"""The command line of ``python -m slurm COMMAND ...`` taken apart.

The command's words, slurm. keys and sweep. keys.
"""

import itertools
import os
import re
from dataclasses import dataclass

from engine.config.parser import parse_all
from engine.config.paths import split_list
from engine.config.shipped import config_folder
from engine.run.job_description import CommandTraits, Words
from slurm import commands
from slurm.config import SlurmConfig

SITE = "COUNTERPOSE_SITE"  # environment variable: the site's file where slurm.site= is not given
LARGEST_SWEEP = 1000

Choice = list[tuple[str, str]]  # of one run of a sweep: [(key, text), ...]


@dataclass
class Line:
    """A command line.

    Attributes:
        words: the command's.
        arguments: its own.
        settings: None where they have faults.
        sweep: {key: [text, ...]}.
        dry: nothing is to be submitted.
        faults: of the settings, a sentence each.
    """

    words: Words
    arguments: list[str]
    settings: SlurmConfig | None
    sweep: dict[str, list[str]]
    dry: bool
    faults: list[str]


def read_line(argv: list[str]) -> Line:
    """Return a command line taken apart.

    Raises:
        UserError: no known command.
    """
    words, line = commands.split_words(argv)
    own, swept, rest, dry = [], {}, [], False
    site = os.environ.get(SITE) or str(config_folder() / "slurm" / "default.yaml")
    for word in line:
        if word == "--dry-run":
            dry = True
        elif word.startswith("slurm.site="):
            site = word.split("=", 1)[1]
        elif word.startswith("slurm."):
            own.append(word.removeprefix("slurm."))
        elif word.startswith("sweep."):
            key, _, values = word.removeprefix("sweep.").partition("=")
            swept[key] = split_list(values, word.partition("=")[0]) or [""]
        else:
            rest.append(word)
    settings, faults = parse_all(SlurmConfig, [site, *own], "slurm")
    return Line(words, rest, settings, swept, dry, [_as_typed(fault) for fault in faults])


def _as_typed(fault: str) -> str:
    """Keys on the command line carry the slurm. that was taken off."""
    if "in the command line" not in fault:
        return fault
    return re.sub(r"(unknown key '|did you mean '|^')(?!slurm\.)", r"\1slurm.", fault)


def find_array_faults(line: Line, traits: CommandTraits) -> list[str]:
    """Return what is wrong with a sweep, or with the number of jobs, for a command like this."""
    return [*_find_jobs_faults(line, traits), *_find_sweep_faults(line, traits)]


def _find_jobs_faults(line: Line, traits: CommandTraits) -> list[str]:
    jobs = line.settings.jobs if line.settings else 1
    if jobs == 1:
        return []
    faults = []
    if not traits.takes_part:
        takes = "sweep.KEY=A,B" if traits.trains else "checkpoints=all or checkpoints=STEP,STEP"
        faults.append(
            f"slurm.jobs={jobs} is for commands that make shards; {' '.join(line.words)} takes "
            f"{takes}"
        )
    if any(word.startswith("part=") for word in line.arguments):
        faults.append(f"part= is set by slurm.jobs={jobs}")
    return faults


def _find_sweep_faults(line: Line, traits: CommandTraits) -> list[str]:
    faults = []
    if line.sweep and not traits.trains:
        shares = "slurm.jobs=N" if traits.takes_part else "checkpoints=all"
        faults.append(
            f"sweep.{next(iter(line.sweep))}: sweeps are for training, {' '.join(line.words)} "
            f"shares its work with {shares}"
        )
    for key, values in line.sweep.items():
        if "" in values or len(set(values)) < len(values):
            text = ",".join(values)
            faults.append(f"sweep.{key}={text}: the values must differ, and none be empty")
        if any(word.startswith(f"{key}=") for word in line.arguments):
            faults.append(f"{key} is given twice: once alone, and as sweep.{key}")
        if key == traits.folder_key:
            faults.append(
                f"sweep.{key}: each run of a sweep gets a folder of its own inside {key}="
            )
    count = len(choose(line.sweep))
    if count > LARGEST_SWEEP:
        faults.append(f"the sweep has more than {LARGEST_SWEEP} runs: {count} and above")
    return faults


def choose(sweep: dict[str, list[str]]) -> list[Choice]:
    """Return the runs of a sweep, up to one more than LARGEST_SWEEP; one where nothing is swept.

    >>> choose({"a": ["1", "2"], "b": ["x"]})
    [[('a', '1'), ('b', 'x')], [('a', '2'), ('b', 'x')]]
    """
    runs = itertools.islice(itertools.product(*sweep.values()), LARGEST_SWEEP + 1)
    return [list(zip(sweep, values, strict=True)) for values in runs]


def name_run(choice: Choice) -> str:
    """Return the folder of one run of a sweep.

    >>> name_run([("optim.lr", "1e-4"), ("masking.ratio", "0.9")])
    'optim.lr=1e-4_masking.ratio=0.9'
    """
    return "_".join(re.sub(r"[^\w.=+-]", "-", f"{key}={value}") for key, value in choice)
