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
import secrets
import shutil
import sys
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from engine.errors import EnvironmentFault, Failure, UserError, explain
from engine.parallel import cut, own, spread_like

FORMAT = 1
MARKER = "complete.json"
FILES = ("model.safetensors", "optimizer.safetensors", "state.json")
DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
          torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL"}
BLOCK = 1 << 22  # bytes read or written at a time


def folder(run, step):
    return Path(run) / "checkpoints" / f"step-{step:08d}"


def newest(run):
    """The newest whole checkpoint's folder of a run, or None. Damaged ones are named on stderr and passed over.

    Raises:
        UserError: the newest was written by a newer version of this software.
    """
    for _, path in reversed(_found(Path(run) / "checkpoints")):
        fault = damage(path)
        if fault is None:
            return path
        print(f"note: checkpoint {path} is passed over: {fault}", file=sys.stderr)
    return None


def _found(checkpoints):
    """[(step, folder)] by step, whole or not; folders that someone put aside under another name are left alone."""
    folders = [p for p in checkpoints.glob("step-*") if p.name[5:].isdecimal()]
    return sorted((int(p.name[5:]), p) for p in folders)


def damage(path):
    """What is wrong with a checkpoint's folder (which file, and how), or None.

    Raises:
        UserError: a newer version of this software wrote it.
    """
    try:
        marker = json.loads((path / MARKER).read_text())
        number = int(marker["format"])
        if number > FORMAT:
            raise UserError(f"{path} has checkpoint format {number}; this software reads up to {FORMAT}")
        files = {name: (int(size), str(digest)) for name, (size, digest) in marker["files"].items()}
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
            if (path / name).stat().st_size != files[name][0]:
                return f"{name} has {(path / name).stat().st_size} bytes, {files[name][0]} were written"
            if _digest(path / name) != files[name][1]:
                return f"{name} does not hold the bytes that were written"
        except OSError as error:
            return f"{name} cannot be read: {explain(error)}"
    return _nonsense(path)


def _nonsense(path):
    """What is wrong in files that hold what was once written, or None."""
    try:
        step = int(json.loads((path / "state.json").read_text())["step"])
        if path.name != folder("", step).name:
            return f"state.json is of step {step}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"state.json cannot be read: {type(error).__name__} {error}"
    parts = {}
    for name in FILES[:2]:
        try:
            with safe_open(path / name, "pt") as file:
                parts[name] = set(file.keys())
        except (OSError, SafetensorError) as error:
            return f"{name} cannot be read: {error}"
    found = {tuple(key.split("/", 1)) for key in parts["optimizer.safetensors"] if "/" in key}
    for part, name in sorted({(part, name) for part, _ in found for _, name in found} - found):
        return f"optimizer.safetensors lacks {part}/{name}"
    return None


def save(run, step, write_model, optimizer, state, check=lambda: None, keep=3, keep_every=0, needed=lambda step: False):
    """Write a checkpoint beside its place, sync it, rename it, mark it; then drop those that are not kept.

    Kept are the newest ``keep``, for ever those whose step ``keep_every`` divides (0: none), and those of steps that are
    ``needed`` for the time being.

    Args:
        write_model: called with the path of model.safetensors.  optimizer: {name: tensor}.  state: JSON values.
        check: called before anything of another run could be touched, and right before the marker; raises if this run
            has lost its folder.
    Raises:
        EnvironmentFault: no space left or the folder cannot be written; the older checkpoints are untouched.
    """
    place = folder(run, step)
    # A name of its own: what a run that lost its folder clears away after itself is never its successor's.
    beside = place.with_name(f".writing-{secrets.token_hex(4)}-{place.name}")
    try:
        left = list(place.parent.glob(".writing-*"))
        check()
        for path in left:
            shutil.rmtree(path)
        beside.mkdir(parents=True)
        write_model(beside / "model.safetensors")
        write_tensors(beside / "optimizer.safetensors", optimizer)
        (beside / "state.json").write_text(json.dumps(state, indent=1))
        files = {f.name: [f.stat().st_size, _digest(f)] for f in sorted(beside.iterdir())}
        for file in beside.iterdir():
            _sync(file)
        _sync(beside)
        check()
        _clear(place, check)
        os.replace(beside, place)
        _sync(place.parent)
        _sync(place.parent.parent)  # which may not know of "checkpoints" yet
        temporary = place / f".{MARKER}"
        temporary.write_text(json.dumps({"format": FORMAT, "files": files}))
        _sync(temporary)
        check()
        os.replace(temporary, place / MARKER)
        _sync(place)
    except Exception as error:
        with contextlib.suppress(OSError):
            shutil.rmtree(beside)
        # safetensors raises its own type for a full disk, with the reason only in its text.
        if isinstance(error, (OSError, SafetensorError)):
            # A later save may find room or rights again, so this is never the last word on a run.
            raise EnvironmentFault(f"checkpoint {place} was not written: {error}; older ones are untouched, free some space or "
                                   f"permit writing") from None
        raise
    _drop(place, check, keep, keep_every, needed)
    return place


def _clear(place, check):
    """Make room where a checkpoint goes: what is there was damaged or not finished, or is of a stretch that is done again."""
    if not place.exists():
        return
    aside = place.with_name(f".writing-{secrets.token_hex(4)}-old")
    os.rename(place, aside)
    try:
        check()
    except Failure:
        os.rename(aside, place)  # it may be a successor's
        raise
    shutil.rmtree(aside)


def _drop(newest, check, keep, keep_every, needed):
    """Remove what is beside the newest whole checkpoint and not kept."""
    last, marked, dropped = int(newest.name[5:]), [], []
    for step, path in _found(newest.parent):
        # Those after this one were damaged, or this run would have gone on from them; those without a marker never counted.
        (marked if step <= last and (path / MARKER).exists() else dropped).append((step, path))
    dropped += [(step, path) for step, path in marked[:-keep] if not (keep_every and step % keep_every == 0 or needed(step))]
    for _, path in dropped:
        try:
            check()  # after they were listed: what a successor has written since is not among them
            # The marker first: what a kill leaves of the rest is then no checkpoint, not a damaged one.
            (path / MARKER).unlink(missing_ok=True)
            shutil.rmtree(path)
        except OSError as error:
            print(f"note: {path} is not kept, but cannot be removed: {error}; the next save tries again", file=sys.stderr)


def write_tensors(path, tensors, metadata=None):
    """Write {name: host tensor} as a safetensors file, byte for byte the same for the same input.

    safetensors' own writer holds Python's lock meanwhile before version 0.8, and training waits (docs/log.md); the sequence of
    its metadata varies, and a full disk is an error of its own type.

    Args:
        metadata: {text: text} for the header.
    """
    header, at = {"__metadata__": metadata} if metadata else {}, 0
    # As safetensors does: large items first, so that each tensor begins at a multiple of its item's size.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    for name in names:
        size = tensors[name].numel() * tensors[name].element_size()
        header[name] = {"dtype": DTYPES[tensors[name].dtype], "shape": list(tensors[name].shape),
                        "data_offsets": [at, at + size]}
        at += size
    words = json.dumps(header, separators=(",", ":")).encode()
    words += b" " * (-len(words) % 8)
    with open(path, "wb", buffering=0) as file:
        _write(file, len(words).to_bytes(8, "little") + words)
        for name in names:
            if tensors[name].numel():
                _write(file, tensors[name].detach().contiguous().reshape(-1).view(torch.uint8).numpy())


def _write(file, data):
    data = memoryview(data)
    while data:
        data = data[file.write(data[:BLOCK]):]


def load(path, model, optimizer, names):
    """Fill a bare model and an optimizer from a checkpoint's folder; sharded ones get their shares.

    Args:
        names: {parameter: name} of what the optimizer moves.
    Returns:
        the state of state.json.
    Raises:
        UserError: names the first tensor that is missing, is too much or has another shape.
    """
    load_weights(path, model)
    load_optimizer(path, optimizer, names)
    return json.loads((path / "state.json").read_text())


def load_model(path, model):
    """Fill a bare model alone from a checkpoint's folder; returns the step."""
    load_weights(path, model)
    return json.loads((path / "state.json").read_text())["step"]


def load_weights(path, model):
    """Fill a bare model from the weights of a checkpoint's folder; UserError names the first that does not fit."""
    targets = model.state_dict()
    with safe_open(path / "model.safetensors", "pt") as file:
        have = {k: tuple(v.shape) for k, v in targets.items()}
        found = {k: tuple(file.get_slice(k).get_shape()) for k in file.keys()}  # noqa: SIM118 - no dict
        if have != found:
            name = sorted(k for k in have.keys() | found.keys() if have.get(k) != found.get(k))[0]
            raise UserError(f"{path}/model.safetensors: weight {name} is {found.get(name, 'missing')} there and "
                            f"{have.get(name, 'missing')} in this run's model")
        with torch.no_grad():
            for name, target in targets.items():
                own(target).copy_(cut(file.get_tensor(name), target))


def optimizer_tensors(optimizer, names):
    """{"exp_avg/NAME": tensor} of a torch optimizer, the very tensors. ``names``: {parameter: name}."""
    return {f"{part}/{names[p]}": value.detach() for p, values in optimizer.state.items() for part, value in values.items()}


def load_optimizer(path, optimizer, names):
    """Give an optimizer the state that a checkpoint's folder holds, in place of its own."""
    # torch keeps the step counter on the host unless the optimizer is fused or capturable.
    fused = optimizer.defaults.get("fused") or optimizer.defaults.get("capturable")
    with safe_open(path / "optimizer.safetensors", "pt") as file:
        parts = {}
        for key in file.keys():  # noqa: SIM118 - no dict
            part, name = key.split("/", 1)
            parts.setdefault(name, []).append(part)
        if parts.keys() != set(names.values()):
            name = sorted(parts.keys() ^ set(names.values()))[0]
            there, here = ("missing", "in this run's model") if name not in parts else ("there", "not in this run's model")
            raise UserError(f"{path}/optimizer.safetensors: the state of weight {name} is {there} and {here}")
        for p, name in names.items():
            optimizer.state[p] = {}
            for part in parts[name]:
                value = file.get_tensor(f"{part}/{name}")
                optimizer.state[p][part] = (spread_like(value, p) if part != "step" else
                                            value.to(p.device if fused else "cpu", copy=True))


def versions():
    import numpy
    import timm

    return {"python": sys.version.split()[0], "torch": torch.__version__, "timm": timm.__version__,
            "numpy": numpy.__version__}


def _digest(path):
    hasher = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            hasher.update(block)
    return hasher.hexdigest()


def _sync(path):
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
