"""How a network came about: its runs back to the first, what they read and how long they took.

All of it is read from the folders of the runs. What is gone is said to be gone.
"""

import json
import re
import shlex
import statistics
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.format.clip import decode_meta
from data.format.shards import find_shards
from data.storage.fetch import is_remote
from engine.config.parser import read_file
from engine.errors import Failure, UserError
from engine.run.run_folder import RunFolder, find_run
from finetune.released.numbers import read_results

COMMANDS = ("finetune train", "pretrain train")
COUNTED = ("crops", "pairs", "stretches")  # what a log counts that training saw
MOST_STAGES = 16
PAUSE = 10  # a line of the log that comes so many medians late was a stop
# An absolute path of a machine, at the beginning of a word or after what joins words.
ABSOLUTE = re.compile(r"(?:(?<=[=,:\"'\s\[])|^)/(?:[^/\s,\"'\]]+/)+(?=[^/\s,\"'\]]+)")


@dataclass
class Stage:
    """One run of a network's history.

    Attributes:
        name: of its folder.  kind: "finetune train" or "pretrain train".
        command: as it was typed, without folders of the machine.
        commit, device: of its first start.
        steps: done.  seen: {"crops", "pairs" or "stretches": how many}.
        hours: of training, without the time between a stop and the next start; None: unknown.
        data: a line for each source of shards, with its share and its licences.
        init: what it began from, by its last name; "" for nothing.
        ema: how much of itself a running average of the weights keeps a step; "": there is none.
        missing: what could not be read, a sentence each.
    """

    name: str
    kind: str
    command: str = ""
    commit: str = ""
    device: str = ""
    steps: int = 0
    seen: dict[str, int] = field(default_factory=dict)
    hours: float | None = None
    data: list[str] = field(default_factory=list)
    init: str = ""
    ema: str = ""
    missing: list[str] = field(default_factory=list)


def trace_history(run: Path, step: int) -> list[Stage]:
    """Return the runs that led to a checkpoint, the last first.

    Args:
        run: the last run's folder.  step: of its checkpoint.
    """
    stages: list[Stage] = []
    place: Path | None = run
    until: int | None = step
    while place is not None and len(stages) < MOST_STAGES:
        pairs, kind = _read_config(place)
        if not kind:
            break
        stage = _read_stage(place, kind, pairs, until)
        stages.append(stage)
        init = str(pairs.get("init") or "")
        stage.init = Path(init).name
        place, until = _find_init(init)
        if init and place is None:
            stage.missing.append(f"it began from {stage.init}, which is not on this machine")
    return stages


def _read_config(run: Path) -> tuple[dict[str, Any], str]:
    """({dotted key: text}, which command) of a run's config; ({}, "") where it is none."""
    for kind in COMMANDS:
        try:
            return dict(read_file(str(RunFolder(run).config), kind)), kind
        except UserError:
            continue
    return {}, ""


def _find_init(init: str) -> tuple[Path | None, int | None]:
    """(run's folder, step of its checkpoint or None) of ``init=``; (None, None) if not here."""
    path = Path(init)
    if not init or not path.exists():
        return None, None
    if RunFolder(path).config.is_file():
        return path, None
    found = find_run(path if path.is_file() else path / "none")
    if found is None or not found.config.is_file():
        return None, None
    from engine.training.eval_jobs import run_of

    checkpoint = run_of(path.parent if path.is_file() else path)
    return found.path, checkpoint[1] if checkpoint else None


def _read_stage(run: Path, kind: str, pairs: Mapping[str, Any], until: int | None) -> Stage:
    stage = Stage(run.name, kind)
    known = read_results(RunFolder(run).environment)
    if known is None:
        stage.missing.append("its command and commit are not recorded")
    else:
        stage.command = _word_command(kind, known.get("command", ()))
        stage.commit = str(known.get("git") or "")
        stage.device = str(known.get("device") or "")
    lines = _read_log(RunFolder(run).log, until)
    stage.steps = until or (int(lines[-1]["step"]) if lines else int(pairs.get("steps", 0)))
    for name in COUNTED:
        counts = [line[name] for line in lines if name in line]
        if counts:
            stage.seen[name] = int(counts[-1])
    if not stage.seen:
        samples = stage.steps * int(pairs.get("batch", 0))
        stage.seen = {"crops" if kind == "finetune train" else "pairs": samples}
    stage.hours = count_hours([float(line["time"]) for line in lines if "time" in line])
    stage.data = _list_data(pairs)
    ema = str(pairs.get("optim.ema") or "0")
    stage.ema = ema if float(ema) else ""
    return stage


def _word_command(kind: str, words: Sequence[str]) -> str:
    rest = list(words)[len(kind.split()) :]
    return shorten_paths(f"python -m {kind} {shlex.join(rest)}".rstrip())


def shorten_paths(text: str) -> str:
    """Return a text without the folders of this machine: of an absolute path its last name."""
    return ABSOLUTE.sub("", text)


def count_hours(times: Sequence[float]) -> float | None:
    """Return hours between a log's lines, where a pause counts as one line's usual time.

    Args:
        times: seconds, of each line.
    """
    gaps = [after - before for before, after in zip(times, times[1:], strict=False)]
    gaps = [gap for gap in gaps if gap > 0]
    if not gaps:
        return None
    usual = statistics.median(gaps)
    # The first line has a beginning too.
    total = usual + sum(gap if gap <= PAUSE * usual else usual for gap in gaps)
    return total / 3600


def _read_log(path: Path, until: int | None) -> list[dict[str, Any]]:
    """The lines of a run's log up to a step; a line that a kill cut off is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return []
    found = []
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        step = entry.get("step") if isinstance(entry, dict) else None
        if isinstance(step, int) and (until is None or step <= until):
            found.append(entry)
    return found


def _list_data(pairs: Mapping[str, Any]) -> list[str]:
    """A line for each source of a run's shards."""
    lines = []
    if pairs.get("data.shards"):
        lines.append(_describe_source("", pairs["data.shards"], ""))
    for name, value in pairs.items():
        if name.startswith("data.sources.") and name.endswith(".shards"):
            label = name.split(".")[2]
            weight = str(pairs.get(f"data.sources.{label}.weight", ""))
            lines.append(_describe_source(label, value, weight))
    return lines


def _describe_source(label: str, spec: str | list[str], weight: str) -> str:
    head = f"{label}: " if label else ""
    share = f", weight {weight}" if weight else ""
    said = shorten_paths(spec if isinstance(spec, str) else ",".join(spec))
    return f"{head}{said}{share}: {_describe_shards(spec)}"


def _describe_shards(spec: str | list[str]) -> str:
    """How many shards there are, and whose images under which licence, by their first clips."""
    parts = [spec] if isinstance(spec, str) else spec
    if any(is_remote(part) for part in parts):
        return "elsewhere; their clips name their sources and licences"
    try:
        paths = find_shards(spec)
        found = sorted({_first_origin(path) for path in paths})
    except (Failure, OSError, ValueError, tarfile.TarError) as error:
        return f"not read for this card ({shorten_paths(' '.join(str(error).split()))[:120]})"
    origins = "; ".join(f"source {source}, licence {licence}" for source, licence in found)
    return f"{len(paths)} shards, by the first clip of each: {origins}"


def _first_origin(path: str) -> tuple[str, str]:
    """(source, licence) of a shard's first clip."""
    with tarfile.open(path) as tar:
        for member in tar:
            file = tar.extractfile(member) if member.name.endswith(".json") else None
            if file is not None:
                clip = decode_meta(file.read(), path)
                return clip.source, clip.licence
    raise UserError(f"{path} holds no clip")
