"""The command line of ``python -m slurm COMMAND ...`` taken apart: the room's words, slurm. keys,
sweep. keys, checkpoints=."""

import itertools
import os
import re
from dataclasses import dataclass

from engine.config.parser import parse_all
from engine.config.paths import split_list
from engine.errors import UserError
from slurm import commands
from slurm.config import SlurmConfig
from slurm.submit import snapshot

SITE = "COUNTERPOSE_SITE"  # environment variable: the site's file where slurm.site= is not given
LARGEST_SWEEP = 1000


@dataclass
class Line:
    """``room``; its ``arguments``; ``settings``: SlurmConfig or None where it has faults;
    ``sweep``: {key: [text, ...]}.

    ``checkpoints``: steps as text, or "all", of which each has a job of its own; None: the command
    is one job.
    """

    room: commands.Room
    arguments: list
    settings: SlurmConfig | None
    sweep: dict
    dry: bool
    faults: list
    checkpoints: str | None = None


def read(argv):
    """A Line.

    Raises:
        UserError: no known command.
    """
    room = commands.find(argv)
    if room is None:
        known = ", ".join(room.command for room in commands.ROOMS)
        raise UserError(
            f"'{' '.join(argv[:2])}' is no command that can be sent to a cluster; these can: "
            f"{known}"
        )
    own, swept, rest, dry, checkpoints = [], {}, [], False, None
    site = os.environ.get(SITE) or str(snapshot.ROOT / "configs" / "slurm" / "default.yaml")
    for word in argv[len(room.words) :]:
        if word == "--dry-run":
            dry = True
        elif word.startswith("slurm.site="):
            site = word.split("=", 1)[1]
        elif word.startswith("slurm."):
            own.append(word.removeprefix("slurm."))
        elif word.startswith("sweep."):
            key, _, values = word.removeprefix("sweep.").partition("=")
            swept[key] = split_list(values, word.partition("=")[0]) or [""]
        elif word.startswith("checkpoints=") and room.run is not None:
            checkpoints = word.split("=", 1)[1]
        else:
            rest.append(word)
    if not room.plain and (not rest or "=" in os.path.basename(rest[0])):
        raise UserError(
            f"python -m slurm {room.command}: a config file comes first, then key=value; see --help"
        )
    settings, faults = parse_all(SlurmConfig, [site, *own], "slurm")
    faults = [_as_typed(fault) for fault in faults] + _array_faults(room, swept, rest, settings)
    return Line(room, rest, settings, swept, dry, faults, checkpoints)


def _as_typed(fault):
    """Keys on the command line carry the slurm. that was taken off."""
    if "in the command line" not in fault:
        return fault
    return re.sub(r"(unknown key '|did you mean '|^')(?!slurm\.)", r"\1slurm.", fault)


def _array_faults(room, swept, rest, settings):
    out = []
    if settings and settings.jobs > 1 and not room.parts:
        takes = "sweep.KEY=A,B" if room.training else "checkpoints=all or checkpoints=STEP,STEP"
        out.append(
            f"slurm.jobs={settings.jobs} is for commands that make shards; {room.command} takes "
            f"{takes}"
        )
    if settings and settings.jobs > 1 and any(word.startswith("part=") for word in rest):
        out.append(f"part= is set by slurm.jobs={settings.jobs}")
    if swept and not room.training:
        shares = "slurm.jobs=N" if room.parts else "checkpoints=all"
        out.append(
            f"sweep.{next(iter(swept))}: sweeps are for training, {room.command} shares its work "
            f"with {shares}"
        )
    for key, values in swept.items():
        if "" in values or len(set(values)) < len(values):
            out.append(f"sweep.{key}={','.join(values)}: the values must differ, and none be empty")
        if any(word.startswith(f"{key}=") for word in rest):
            out.append(f"{key} is given twice: once alone, and as sweep.{key}")
        if key == room.folder:
            out.append(f"sweep.{key}: each run of a sweep gets a folder of its own inside {key}=")
    if (
        count := len(list(itertools.islice(combinations(swept), LARGEST_SWEEP + 1)))
    ) > LARGEST_SWEEP:
        out.append(f"the sweep has more than {LARGEST_SWEEP} runs: {count} and above")
    return out


def combinations(swept):
    """Yield the runs of a sweep as [(key, text), ...]; one empty one where nothing is swept.

    >>> list(combinations({"a": ["1", "2"], "b": ["x"]}))
    [[('a', '1'), ('b', 'x')], [('a', '2'), ('b', 'x')]]
    """
    for values in itertools.product(*swept.values()):
        yield list(zip(swept, values, strict=True))


def name_of(chosen):
    """The folder of one run of a sweep.

    >>> name_of([("optim.lr", "1e-4"), ("masking.ratio", "0.9")])
    'optim.lr=1e-4_masking.ratio=0.9'
    """
    return "_".join(re.sub(r"[^\w.=+-]", "-", f"{key}={value}") for key, value in chosen)
