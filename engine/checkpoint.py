"""Checkpoints: whole, safe on disk before they count, and found again.

    RUN/checkpoints/step-00000050/
        model.safetensors       weights under bare names, whole tensors
        optimizer.safetensors   "exp_avg/NAME" and the like for each weight
        state.json              step, next slot, what the guard knows (statistics, ledger of skipped stretches), versions
        complete.json           written last: bytes and a hash of each file; without it the folder does not count

One format whether one process or many saved it, so any number of processes resumes it.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from engine.errors import UserError

FORMAT = 1
MARKER = "complete.json"


def folder(run, step):
    return Path(run) / "checkpoints" / f"step-{step:08d}"


def newest(run):
    """The newest whole checkpoint's folder of a run, or None. Damaged ones are named on stderr and passed over.

    Raises:
        UserError: the newest was written by a newer version of this software.
    """
    for path in sorted(Path(run).glob("checkpoints/step-*"), reverse=True):
        fault = damage(path)
        if fault is None:
            return path
        print(f"note: checkpoint {path} is passed over: {fault}", file=sys.stderr)
    return None


def damage(path):
    """What is wrong with a checkpoint's folder, or None."""
    try:
        marker = json.loads((path / MARKER).read_text())
    except FileNotFoundError:
        return f"it was not finished ({MARKER} is missing)"
    except (OSError, ValueError) as error:
        return f"{MARKER} cannot be read: {error}"
    if marker["format"] > FORMAT:
        raise UserError(f"{path} has checkpoint format {marker['format']}; this software reads up to {FORMAT}")
    for name, (size, digest) in marker["files"].items():
        try:
            if (path / name).stat().st_size != size:
                return f"{name} has {(path / name).stat().st_size} bytes, {size} were written"
            if _digest(path / name) != digest:
                return f"{name} does not hold the bytes that were written"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror.lower()}"
    return None


def save(run, step, write_model, optimizer, state, check=lambda: None, keep=3):
    """Write a checkpoint beside its place, sync it, rename it, mark it; then drop all but the newest ``keep``.

    Args:
        write_model: called with the path of model.safetensors.  optimizer: {name: tensor}.  state: JSON values.
        check: called before anything of another run could be touched, and right before the marker; raises if this run
            has lost its folder.
    Raises:
        UserError: no space left or the folder cannot be written; the older checkpoints are untouched.
    """
    place = folder(run, step)
    check()
    beside = place.with_name(f".writing-{place.name}")
    try:
        for left in place.parent.glob(".writing-*"):
            shutil.rmtree(left)
        beside.mkdir(parents=True)
        write_model(beside / "model.safetensors")
        save_file({k: v.contiguous() for k, v in optimizer.items()}, beside / "optimizer.safetensors")
        (beside / "state.json").write_text(json.dumps(state, indent=1))
        files = {f.name: [f.stat().st_size, _digest(f)] for f in sorted(beside.iterdir())}
        for file in beside.iterdir():
            _sync(file)
        _sync(beside)
        check()
        if place.exists():
            shutil.rmtree(place)  # one that was damaged or not finished, or this run would have started after it
        os.replace(beside, place)
        _sync(place.parent)
        check()
        temporary = place / f".{MARKER}"
        temporary.write_text(json.dumps({"format": FORMAT, "files": files}))
        _sync(temporary)
        os.replace(temporary, place / MARKER)
        _sync(place)
        # Those after this one were damaged, or this run would have gone on from them.
        older = [p for p in sorted(place.parent.glob("step-*")) if p.name <= place.name and (p / MARKER).exists()]
        later = [p for p in place.parent.glob("step-*") if p.name > place.name]
        for old in older[:-keep] + later:
            shutil.rmtree(old)
    except Exception as error:
        # safetensors raises its own type for a full disk, with the reason only in its text.
        with contextlib.suppress(OSError):
            shutil.rmtree(beside)
        if isinstance(error, UserError):
            raise
        if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
            raise UserError(f"checkpoint {place} was not written: {error}; older ones are untouched, free some space or "
                            f"permit writing and start again") from None
        raise
    return place


def load(path, model, optimizer_load):
    """Fill a bare model and an optimizer from a checkpoint's folder.

    Args:
        optimizer_load: called with {name: tensor}.
    Returns:
        the state of state.json.
    """
    load_weights(path, model)
    optimizer_load(load_file(path / "optimizer.safetensors"))
    return json.loads((path / "state.json").read_text())


def load_model(path, model):
    """Fill a bare model alone from a checkpoint's folder; returns the step."""
    load_weights(path, model)
    return json.loads((path / "state.json").read_text())["step"]


def load_weights(path, model):
    """Fill a bare model from the weights of a checkpoint's folder; UserError names the first that does not fit."""
    weights = load_file(path / "model.safetensors")
    have = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    found = {k: tuple(v.shape) for k, v in weights.items()}
    if have != found:
        name = sorted(k for k in have.keys() | found.keys() if have.get(k) != found.get(k))[0]
        raise UserError(f"{path}/model.safetensors: weight {name} is {found.get(name, 'missing')} there and "
                        f"{have.get(name, 'missing')} in this run's model")
    model.load_state_dict(weights)


def optimizer_tensors(optimizer, names):
    """{"exp_avg/NAME": tensor} of a torch optimizer. ``names``: {parameter: name}."""
    return {f"{part}/{names[p]}": value.detach().cpu().clone() for p, values in optimizer.state.items()
            for part, value in values.items()}


def load_optimizer(optimizer, names, tensors):
    """The inverse of optimizer_tensors, for an optimizer that has not stepped yet."""
    parts = {}
    for key, value in tensors.items():
        part, name = key.split("/", 1)
        parts.setdefault(name, {})[part] = value
    for p, name in names.items():
        if name in parts:
            # torch keeps the step counter on the host unless the optimizer is fused or capturable.
            fused = optimizer.defaults.get("fused") or optimizer.defaults.get("capturable")
            optimizer.state[p] = {part: value.to(p.device if part != "step" or fused else "cpu")
                                  for part, value in parts[name].items()}


def versions():
    import numpy
    import timm

    return {"python": sys.version.split()[0], "torch": torch.__version__, "timm": timm.__version__,
            "numpy": numpy.__version__}


def _digest(path):
    hasher = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            hasher.update(block)
    return hasher.hexdigest()


def _sync(path):
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
