"""What a run's folder says about steps that were done. Nothing here imports torch.

RUN/checkpoints/step-00000050/            a checkpoint; engine.checkpoint has its files
RUN/checkpoints/damaged-step-00000050-X/  did not hold what was written: moved aside by a start
RUN/checkpoints/replaced-step-00000050-X/ its step was done again: moved aside by a save
RUN/saved.json                            {"format", "step"} of the last complete checkpoint;
                                          step 0: none yet
"""

import json
import os
import secrets
from pathlib import Path

from engine.errors import UserError, explain
from engine.logging.console import get_logger
from engine.run.files import write_file
from engine.run.patience import exists, list_names, read_bytes
from engine.run.run_folder import RunFolder, step_of

log = get_logger(__name__)

FORMAT = 1
MARKER = "complete.json"  # written last: without it a checkpoint's folder does not count
PLANNED = ".complete.json"  # the marker before it counts: with this alone it is what a kill left
WRITING = ".writing-"  # begins the name of a folder that a save is busy with


def list_checkpoints(run: str | Path) -> list[tuple[int, Path]]:
    """Return [(step, folder)] by step, complete or not; whatever has another name is left out.

    Raises:
        EnvironmentFault, UserError: the folder cannot be read; see engine.run.patience.
    """
    folder = RunFolder(run).checkpoints
    found = [(step_of(name), folder / name) for name in list_names(folder)]
    return sorted((step, path) for step, path in found if step is not None)


def list_complete(run: str | Path) -> list[int]:
    """Return the steps of a run's complete checkpoints, by their marker alone.

    Raises as list_checkpoints.
    """
    return [step for step, path in list_checkpoints(run) if exists(path / MARKER)]


def is_leftover(path: Path) -> bool:
    """Return whether a checkpoint's folder never counted.

    It is what a kill left of a save, or empty.
    """
    names = list_names(path)
    return os.path.isdir(path) and MARKER not in names and (not names or PLANNED in names)


def move_aside(path: Path, reason: str) -> Path:
    """Rename a checkpoint's folder to one that does not count; returns the new path.

    Args:
        reason: begins the new name.
    """
    aside = path.with_name(f"{reason}-{path.name}-{secrets.token_hex(2)}")
    os.rename(path, aside)
    return aside


def read_saved(run: str | Path) -> int | None:
    """Return the step in saved.json; None where there is none, or it cannot be parsed."""
    data = read_bytes(RunFolder(run).saved)
    try:
        return None if data is None else int(json.loads(data)["step"])
    except (ValueError, KeyError, TypeError):
        return None


def write_saved(run: str | Path, step: int) -> None:
    """Note that the checkpoint of a step is complete; a failure is a warning and no more."""
    path = RunFolder(run).saved
    try:
        write_file(path, json.dumps({"format": FORMAT, "step": step}), durable=True)
    except OSError as error:
        log.warning("%s cannot be written: %s", path, explain(error))


def find_traces(run: str | Path) -> list[str]:
    """Find what in a run's folder says that a checkpoint was complete once, as "FILE says ...".

    Lines of the log, captures and images are such traces only where there is no saved.json: a run
    that was killed before its first checkpoint has them too, and nothing to resume from.

    Raises:
        EnvironmentFault, UserError: something cannot be read; see engine.run.patience.
    """
    paths = RunFolder(run)
    names = list_names(paths.checkpoints)
    held = [name for name in names if _holds_checkpoint(paths.checkpoints / name)]
    traces = [f"checkpoints/{name}" for name in held]
    saved = read_saved(run)
    if saved:
        traces.append(f"{paths.saved.name} (a checkpoint of step {saved} was complete)")
    traces += [
        f"evaluations/{name}"
        for name in list_names(paths.evaluations)
        if name.endswith(".json") and step_of(name.removesuffix(".json")) is not None
    ]
    if saved is None:
        traces += _weak_traces(paths)
    return traces


def _holds_checkpoint(path: Path) -> bool:
    """Whether a folder in ``checkpoints`` holds, or held, a checkpoint, under whatever name."""
    if path.name.startswith(WRITING):
        return False
    names = list_names(path)
    unmarked = step_of(path.name) is not None and bool(names) and PLANNED not in names
    return MARKER in names or unmarked


def _weak_traces(paths: RunFolder) -> list[str]:
    last = last_logged(paths.path)
    traces = [f"{paths.log.name} (its last line is of step {last})"] if last else []
    for folder in (paths.captures, paths.images):
        steps = [step_of(name.rpartition(".")[0]) for name in list_names(folder)]
        if any(steps):
            traces.append(f"{folder.name} (of step {max(filter(None, steps))})")
    return traces


def last_logged(run: str | Path) -> int:
    """Return the largest step in a run's log, 0 where there is none.

    Lines that are no JSON are ignored.
    """
    data = read_bytes(RunFolder(run).log) or b""
    steps = [step_of_line(line) for line in data.splitlines()]
    return max((step for step in steps if step is not None), default=0)


def step_of_line(line: bytes) -> int | None:
    """Return the step of a line of the log; None of other lines."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return None
    return step if isinstance(step, int) else None


def refuse_lost_steps(run: str | Path, faults: list[str]) -> None:
    """Raise UserError if a run that has no checkpoint to resume from has steps behind it.

    Args:
        faults: what is wrong with the checkpoints that are there, in words.
    """
    traces = find_traces(run)
    if not traces:
        return
    more = f", and {len(traces) - 6} more" if len(traces) > 6 else ""
    damaged = f" ({'; '.join(faults)})" if faults else ""
    raise UserError(
        f"run={run} has no checkpoint to resume from{damaged}, but steps were done: "
        f"{', '.join(traces[:6])}{more}. It is not started again at step 0. Put its "
        f"checkpoints back, or name a new run=DIR; to begin anew in this folder, move "
        f"aside everything in it but config.yaml"
    )
