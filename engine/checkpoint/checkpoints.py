"""Checkpoints: complete, safe on disk before they count, and found again.

    RUN/checkpoints/step-00000050/
        model.safetensors       weights under bare names, whole tensors; with optim.ema their
                                running average
        optimizer.safetensors   "exp_avg/NAME" and the like for each weight; beside an average
                                "trained/NAME", the weight itself; "task-KIND/NAME", what the task
                                keeps of each weight (Task.list_state)
        state.json              step, next slot, versions, and what the guard knows: statistics,
                                ledger of skipped stretches
        complete.json           written last: bytes and a hash of each file; without it the folder
                                does not count

One format whether one process or many saved it, so any number of processes resumes it. A start and
a save delete nothing that holds steps but complete checkpoints beyond ``keep``, older than the
newest; whatever else is in the way is moved aside. engine.checkpoint.restore fills models from one.
"""

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from engine.checkpoint.history import (
    MARKER,
    PLANNED,
    WRITING,
    is_leftover,
    list_checkpoints,
    move_aside,
    read_saved,
    refuse_lost_steps,
    write_saved,
)
from engine.checkpoint.restore import TRAINED, read_state
from engine.checkpoint.tensors import open_tensors, write_tensors
from engine.errors import EnvironmentFault, Failure, UserError, explain
from engine.logging.console import get_logger
from engine.run.files import sync
from engine.run.patience import list_names, read_again
from engine.run.run_folder import WEIGHTS, RunFolder, step_name

log = get_logger(__name__)

FORMAT = 1
# Of a checkpoint whose weights file holds an average: software that knows none would train on
# from it, so it is told by the number.
AVERAGED = 2
FILES = (WEIGHTS, "optimizer.safetensors", "state.json")
BLOCK = 1 << 22  # bytes read at a time


def newest(run: str | Path) -> Path | None:
    """Return the folder of a run's newest complete checkpoint, or None.

    Damaged ones are passed over with a note.

    Raises:
        UserError: the newest was written by a newer version of this software, or may not be read.
        EnvironmentFault: one cannot be read for now, which says nothing about what it holds.
    """
    return _newest_and_damaged(run)[0]


def _newest_and_damaged(run: str | Path) -> tuple[Path | None, list[tuple[Path, str]]]:
    """(the newest complete checkpoint's folder or None, [(folder, fault)] of the later ones)."""
    damaged: list[tuple[Path, str]] = []
    for _, path in reversed(list_checkpoints(run)):
        fault = damage(path)
        if fault is None:
            return path, damaged
        log.info("note: checkpoint %s is passed over: %s", path, fault)
        damaged.append((path, fault))
    return None, damaged


def find_start(run: str | Path, check: Callable[[], None]) -> Path | None:
    """Return the checkpoint that a run resumes from, or None where no step is behind it.

    Later ones, which are damaged, move aside. Called once a start, by one process, which holds the
    run's folder: each file's hash is computed.

    Args:
        check: raises if this run has lost its folder.
    Raises:
        UserError: no checkpoint is complete, though the folder shows that steps were done; or as
            ``newest``.
        EnvironmentFault: as ``newest``.
    """
    start, damaged = _newest_and_damaged(run)
    if start is None:
        refuse_lost_steps(run, [f"{path.name}: {fault}" for path, fault in damaged])
    step = 0 if start is None else int(start.name[5:])
    check()
    aside = [_put_aside(path) for path, _ in damaged if not is_leftover(path)]
    saved = read_saved(run)
    if saved is not None and saved > step and not aside:
        log.info(
            "note: %s says that a checkpoint of step %d was complete; it is no longer there, so "
            "the run resumes from step %d",
            RunFolder(run).saved.name,
            saved,
            step,
        )
    if saved != step:
        write_saved(run, step)
    return start


def _put_aside(path: Path) -> Path:
    """Move a damaged checkpoint aside.

    One that cannot be moved stays, for it is passed over all the same.
    """
    try:
        aside = move_aside(path, "damaged")
        log.info("note: %s is now %s; nothing removes it but you", path, aside.name)
    except OSError as error:
        log.warning("%s is damaged and cannot be moved aside: %s", path, explain(error))
    return path


def damage(path: Path) -> str | None:
    """Return what is wrong with a checkpoint's folder (which file, and how), or None.

    Damage is what the bytes say, or that there are none. A file that cannot be read is tried again,
    and then ends the command.

    Raises:
        UserError: a newer version of this software wrote it; a file may not be read.
        EnvironmentFault: a file cannot be read for now.
    """
    try:
        marker = json.loads(read_again(path / MARKER, (path / MARKER).read_bytes))
        number = int(marker["format"])
        if number > AVERAGED:
            raise UserError(
                f"{path} has checkpoint format {number}; this software reads up to {AVERAGED}"
            )
        listed = marker["files"].items()
        files = {name: (int(size), str(digest)) for name, (size, digest) in listed}
    except FileNotFoundError:
        return f"it was not finished ({MARKER} is missing)"
    except (OSError, ValueError) as error:
        return f"{MARKER} cannot be read: {error}"
    except (AttributeError, KeyError, TypeError):
        return f"{MARKER} does not say which files there are"
    for name in sorted({*FILES, *files}):
        try:
            if name not in files:
                return f"{MARKER} does not list {name}"
            size, digest = files[name]
            file = path / name
            found = read_again(file, lambda file=file: file.stat().st_size)
            if found != size:
                return f"{name} has {found} bytes, {size} were written"
            if read_again(file, lambda file=file: _digest(file)) != digest:
                return f"{name} does not hold the bytes that were written"
        except OSError as error:
            return f"{name} cannot be read: {explain(error)}"
    return _nonsense(path)


def _nonsense(path: Path) -> str | None:
    """What is wrong in files that hold what was once written, or None."""
    try:
        step = int(read_state(path)["step"])
        if path.name != step_name(step) and not path.name.startswith("damaged-"):
            return f"state.json is of step {step}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"state.json cannot be read: {type(error).__name__} {error}"
    parts = {}
    for name in FILES[:2]:
        try:
            with open_tensors(path / name) as file:
                parts[name] = set(file.keys())
        except (OSError, SafetensorError) as error:
            return f"{name} cannot be read: {error}"
    found = {tuple(key.split("/", 1)) for key in parts["optimizer.safetensors"] if "/" in key}
    wanted = {(part, name) for part, _ in found for _, name in found}
    for part, name in sorted(wanted - found):
        return f"optimizer.safetensors lacks {part}/{name}"
    return None


def save(
    run: str | Path,
    step: int,
    write_model: Callable[[Path], None],
    optimizer: Mapping[str, torch.Tensor],
    state: Mapping[str, Any],
    check: Callable[[], None] = lambda: None,
    keep: int = 3,
    keep_every: int = 0,
    needed: Callable[[int], bool] = lambda step: False,
) -> Path:
    """Write a checkpoint beside its path, sync it, rename it, mark it; then drop those not kept.

    Kept are the newest ``keep``, for ever those whose step ``keep_every`` divides (0: none), those
    of steps that are ``needed`` for the time being, and whatever is later than this one or has
    another name.

    Args:
        write_model: called with the path of model.safetensors.  state: JSON values.
        check: called before anything of another run could be touched, and right before the marker;
            raises if this run has lost its folder.
    Returns:
        the checkpoint's folder
    Raises:
        EnvironmentFault: no space left or the folder cannot be written; the older checkpoints are
            untouched.
    """
    place = RunFolder(run).checkpoint(step)
    # A name of its own: what a run that lost its folder clears away after itself is never its
    # successor's.
    beside = place.with_name(f"{WRITING}{secrets.token_hex(4)}-{place.name}")
    try:
        left = [name for name in list_names(place.parent) if name.startswith(WRITING)]
        check()
        for name in left:
            _remove(place.with_name(name))
        beside.mkdir(parents=True)
        write_model(beside / WEIGHTS)
        write_tensors(beside / "optimizer.safetensors", optimizer)
        (beside / "state.json").write_text(json.dumps(state, indent=1))
        files = {f.name: [f.stat().st_size, _digest(f)] for f in sorted(beside.iterdir())}
        averaged = any(name.startswith(f"{TRAINED}/") for name in optimizer)
        marker = {"format": AVERAGED if averaged else FORMAT, "files": files}
        (beside / PLANNED).write_text(json.dumps(marker))
        for file in beside.iterdir():
            sync(file)
        sync(beside)
        check()
        _make_room(place, check)
        # Not engine.run.files, here and below: a whole folder is renamed, then what marks it, each
        # after a look at the lease and a sync; a kill between any two leaves what can be told.
        os.replace(beside, place)
        sync(place.parent)
        sync(place.parent.parent)  # which may not know of "checkpoints" yet
        check()
        os.replace(place / PLANNED, place / MARKER)
        sync(place)
    except Exception as error:
        with contextlib.suppress(OSError):
            shutil.rmtree(beside)
        # safetensors raises its own type for a full disk, with the reason only in its text.
        if isinstance(error, (OSError, SafetensorError)):
            # A later save may find room or rights again, so this is never the last word on a run.
            words = explain(error) if isinstance(error, OSError) else error
            raise EnvironmentFault(
                f"checkpoint {place} was not written: {words}; older ones are untouched, free some "
                f"space or permit writing"
            ) from None
        raise
    _note_complete(run, step, check)
    _drop(run, step, check, keep, keep_every, needed)
    return place


def _note_complete(run: str | Path, step: int, check: Callable[[], None]) -> None:
    """Have saved.json say so.

    The checkpoint is complete: what goes wrong here is reported, and does not fail the save.
    """
    try:
        check()
    except OSError as error:
        name = RunFolder(run).saved.name
        log.warning("%s is not written, for the lease cannot be read: %s", name, explain(error))
        return
    write_saved(run, step)


def _make_room(place: Path, check: Callable[[], None]) -> None:
    """Move away what is where a checkpoint goes.

    Only what a kill left of a save is deleted: it never counted.
    """
    if not os.path.lexists(place):
        return
    leftover = is_leftover(place)
    aside = place.with_name(f"{WRITING}{secrets.token_hex(4)}-old")
    if leftover:
        os.rename(place, aside)
    else:
        aside = move_aside(place, "replaced")
    _check_or_return(aside, place, check)
    if leftover:
        _remove(aside)


def _check_or_return(aside: Path, place: Path, check: Callable[[], None]) -> None:
    """Check that what was just renamed is this run's; what may be a successor's goes back."""
    try:
        check()
    except (Failure, OSError):
        os.rename(aside, place)
        raise


def _drop(
    run: str | Path,
    last: int,
    check: Callable[[], None],
    keep: int,
    keep_every: int,
    needed: Callable[[int], bool],
) -> None:
    """Remove complete checkpoints older than that of step ``last`` and not kept.

    What kills left of saves goes with them.
    """
    try:
        complete: list[tuple[int, Path]] = []
        dropped: list[Path] = []
        for step, path in list_checkpoints(run):
            names = list_names(path)
            if MARKER in names and step <= last:
                complete.append((step, path))
            elif is_leftover(path):
                dropped.append(path)
        for step, path in complete[:-keep]:
            if not (keep_every and step % keep_every == 0 or needed(step)):
                dropped.append(path)
    except (Failure, OSError) as error:
        log.info("note: %s; older checkpoints are kept until the next save", error)
        return
    for path in dropped:
        try:
            check()  # after they were listed: what a successor has written since is not among them
            # Under another name first: what a kill leaves of the rest is then no checkpoint, not a
            # damaged one.
            aside = path.with_name(f"{WRITING}{secrets.token_hex(4)}-old")
            os.rename(path, aside)
            _check_or_return(aside, path, check)
        except OSError as error:
            log.info(
                "note: %s is not kept, but cannot be removed: %s; the next save tries again",
                path,
                error,
            )
        else:
            _remove(aside)


def _remove(path: Path) -> None:
    """Remove a folder that counts for nothing.

    One that cannot be removed (a file that is open on NFS, another owner) costs room alone: it is
    told, and the save continues.
    """
    try:
        if path.is_symlink():
            path.unlink()
        else:
            shutil.rmtree(path)
    except OSError as error:
        if error.errno != errno.ENOENT:
            log.warning("%s cannot be removed: %s; saves continue beside it", path, explain(error))


def _digest(path: Path) -> str:
    hasher = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            hasher.update(block)
    return hasher.hexdigest()
