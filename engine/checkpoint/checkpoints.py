"""Checkpoints: whole, safe on disk before they count, and found again.

    RUN/checkpoints/step-00000050/
        model.safetensors       weights under bare names, whole tensors
        optimizer.safetensors   "exp_avg/NAME" and the like for each weight
        state.json              step, next slot, what the guard knows (statistics, ledger of skipped
        stretches), versions complete.json           written last: bytes and a hash of each file;
        without it the folder does not count

One format whether one process or many saved it, so any number of processes resumes it. A start and
a save delete nothing that holds steps but complete checkpoints beyond ``keep``, older than the
newest; whatever else is in the way is moved aside.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import sys

import torch
from safetensors import SafetensorError, safe_open

from engine.checkpoint.history import (
    MARKER,
    PLANNED,
    SAVED,
    WRITING,
    checkpoint_folder,
    checkpoint_name,
    is_leftover,
    list_checkpoints,
    move_aside,
    read_saved,
    refuse_lost_steps,
    write_saved,
)
from engine.distributed.parallel import cut, own, spread_like
from engine.errors import EnvironmentFault, Failure, UserError, explain, failure_of
from engine.run.patience import list_names, read_again

FORMAT = 1
FILES = ("model.safetensors", "optimizer.safetensors", "state.json")
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
BLOCK = 1 << 22  # bytes read or written at a time


def folder(run, step):
    return checkpoint_folder(run, step)


def newest(run):
    """The newest whole checkpoint's folder of a run, or None. Damaged ones are named on stderr and
    passed over.

    Raises:
        UserError: the newest was written by a newer version of this software, or may not be read.
        EnvironmentFault: one cannot be read for now, which says nothing about what it holds.
    """
    return _newest_and_damaged(run)[0]


def _newest_and_damaged(run):
    """(the newest whole checkpoint's folder or None, [(folder, fault)] of the later ones)."""
    damaged = []
    for _, path in reversed(list_checkpoints(run)):
        fault = damage(path)
        if fault is None:
            return path, damaged
        print(f"note: checkpoint {path} is passed over: {fault}", file=sys.stderr)
        damaged.append((path, fault))
    return None, damaged


def find_start(run, check):
    """The checkpoint that a run resumes from, or None where no step is behind it. Later ones, which
    are damaged, move aside.

    Called once a start, by one process, which holds the run's folder: each file's hash is computed.

    Args:
        check: raises if this run has lost its folder.
    Raises:
        UserError: no checkpoint is whole, though the folder shows that steps were done; or as
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
        print(
            f"note: {SAVED} says that a checkpoint of step {saved} was complete; it is no longer "
            f"there, so the run resumes from step {step}",
            file=sys.stderr,
            flush=True,
        )
    if saved != step:
        write_saved(run, step)
    return start


def _put_aside(path):
    """Move a damaged checkpoint aside; one that cannot be moved stays, for it is passed over all
    the same."""
    try:
        aside = move_aside(path, "damaged")
        print(
            f"note: {path} is now {aside.name}; nothing removes it but you",
            file=sys.stderr,
            flush=True,
        )
    except OSError as error:
        print(
            f"warning: {path} is damaged and cannot be moved aside: {explain(error)}",
            file=sys.stderr,
            flush=True,
        )
    return path


def damage(path):
    """What is wrong with a checkpoint's folder (which file, and how), or None.

    Damage is what the bytes say, or that there are none. A file that cannot be read is tried again,
    and then ends the command.

    Raises:
        UserError: a newer version of this software wrote it; a file may not be read.
        EnvironmentFault: a file cannot be read for now.
    """
    try:
        marker = json.loads(read_again(path / MARKER, (path / MARKER).read_bytes))
        number = int(marker["format"])
        if number > FORMAT:
            raise UserError(
                f"{path} has checkpoint format {number}; this software reads up to {FORMAT}"
            )
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
            size = read_again(path / name, lambda file=path / name: file.stat().st_size)
            if size != files[name][0]:
                return f"{name} has {size} bytes, {files[name][0]} were written"
            if read_again(path / name, lambda file=path / name: _digest(file)) != files[name][1]:
                return f"{name} does not hold the bytes that were written"
        except OSError as error:
            return f"{name} cannot be read: {explain(error)}"
    return _nonsense(path)


def _nonsense(path):
    """What is wrong in files that hold what was once written, or None."""
    try:
        step = int(_read_state(path)["step"])
        if path.name != checkpoint_name(step) and not path.name.startswith("damaged-"):
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
    for part, name in sorted({(part, name) for part, _ in found for _, name in found} - found):
        return f"optimizer.safetensors lacks {part}/{name}"
    return None


def _read_state(path):
    return json.loads(read_again(path / "state.json", (path / "state.json").read_bytes))


def load_state(path):
    """The values in state.json of a checkpoint that was found whole a moment ago; any fault of
    reading is a Failure."""
    try:
        return _read_state(path)
    except OSError as error:
        raise failure_of(error, f"{path}/state.json cannot be read: {explain(error)}") from None


def open_tensors(path):
    """safetensors' own ``safe_open``, patient with a file that cannot be read for now.

    Raises:
        OSError: there is no such file.  SafetensorError: its bytes are no tensors.
        EnvironmentFault, UserError: as engine.run.patience.
    """

    def attempt():
        try:
            return safe_open(path, "pt")
        except (SafetensorError, RuntimeError, MemoryError) as error:
            # What the system said of a file stands in the text alone: safetensors' or, where that
            # maps it, torch's.
            found = re.search(r"os error (\d+)|: [^:]*\((\d+)\)$", str(error))
            number = found and int(found[1] or found[2])
            if number:
                raise OSError(number, os.strerror(number)) from None
            raise

    return read_again(path, attempt)


def _open_own(path):
    """``open_tensors`` of a checkpoint that was found whole a moment ago; any fault is a
    Failure."""
    try:
        return open_tensors(path)
    except OSError as error:
        raise failure_of(error, f"{path} cannot be read: {explain(error)}") from None
    except SafetensorError as error:
        raise EnvironmentFault(f"{path} cannot be read: {error}") from None


def save(
    run,
    step,
    write_model,
    optimizer,
    state,
    check=lambda: None,
    keep=3,
    keep_every=0,
    needed=lambda step: False,
):
    """Write a checkpoint beside its place, sync it, rename it, mark it; then drop those that are
    not kept.

    Kept are the newest ``keep``, for ever those whose step ``keep_every`` divides (0: none), those
    of steps that are ``needed`` for the time being, and whatever is later than this one or has
    another name.

    Args:
        write_model: called with the path of model.safetensors.  optimizer: {name: tensor}.  state:
            JSON values.
        check: called before anything of another run could be touched, and right before the marker;
            raises if this run has lost its folder.
    Raises:
        EnvironmentFault: no space left or the folder cannot be written; the older checkpoints are
            untouched.
    """
    place = folder(run, step)
    # A name of its own: what a run that lost its folder clears away after itself is never its
    # successor's.
    beside = place.with_name(f"{WRITING}{secrets.token_hex(4)}-{place.name}")
    try:
        left = [
            place.with_name(name) for name in list_names(place.parent) if name.startswith(WRITING)
        ]
        check()
        for path in left:
            _remove(path)
        beside.mkdir(parents=True)
        write_model(beside / "model.safetensors")
        write_tensors(beside / "optimizer.safetensors", optimizer)
        (beside / "state.json").write_text(json.dumps(state, indent=1))
        files = {f.name: [f.stat().st_size, _digest(f)] for f in sorted(beside.iterdir())}
        (beside / PLANNED).write_text(json.dumps({"format": FORMAT, "files": files}))
        for file in beside.iterdir():
            _sync(file)
        _sync(beside)
        check()
        _make_room(place, check)
        os.replace(beside, place)
        _sync(place.parent)
        _sync(place.parent.parent)  # which may not know of "checkpoints" yet
        check()
        os.replace(place / PLANNED, place / MARKER)
        _sync(place)
    except Exception as error:
        with contextlib.suppress(OSError):
            shutil.rmtree(beside)
        # safetensors raises its own type for a full disk, with the reason only in its text.
        if isinstance(error, (OSError, SafetensorError)):
            # A later save may find room or rights again, so this is never the last word on a run.
            words = explain(error) if isinstance(error, OSError) else error
            raise EnvironmentFault(
                f"checkpoint {place} was not written: {words}; older ones are untouched, free some "
                f"space or "
                f"permit writing"
            ) from None
        raise
    _note_complete(run, step, check)
    _drop(run, step, check, keep, keep_every, needed)
    return place


def _note_complete(run, step, check):
    """Have saved.json say so. The checkpoint is complete: what goes wrong here is told, and no
    fault of the save."""
    try:
        check()
    except OSError as error:
        print(
            f"warning: {SAVED} is not written, for the lease cannot be read: {explain(error)}",
            file=sys.stderr,
            flush=True,
        )
        return
    write_saved(run, step)


def _make_room(place, check):
    """Move away what is where a checkpoint goes. Only what a kill left of a save is deleted: it
    never counted."""
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


def _check_or_return(aside, place, check):
    """Check that what was just renamed is this run's; where it may be a successor's it goes
    back."""
    try:
        check()
    except (Failure, OSError):
        os.rename(aside, place)
        raise


def _drop(run, last, check, keep, keep_every, needed):
    """Remove complete checkpoints that are older than the one of step ``last`` and not kept, and
    what kills left of saves."""
    try:
        complete, dropped = [], []
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
        print(
            f"note: {error}; older checkpoints are kept until the next save",
            file=sys.stderr,
            flush=True,
        )
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
            print(
                f"note: {path} is not kept, but cannot be removed: {error}; the next save tries "
                f"again",
                file=sys.stderr,
            )
        else:
            _remove(aside)


def _remove(path):
    """Remove a folder that counts for nothing.

    One that cannot be removed (a file that is open on NFS, another owner) costs room alone: it is
    told, and the save goes on.
    """
    try:
        if path.is_symlink():
            path.unlink()
        else:
            shutil.rmtree(path)
    except OSError as error:
        if error.errno != errno.ENOENT:
            print(
                f"warning: {path} cannot be removed: {explain(error)}; saves go on beside it",
                file=sys.stderr,
                flush=True,
            )


def write_tensors(path, tensors, metadata=None):
    """Write {name: host tensor} as a safetensors file, byte for byte the same for the same input.

    safetensors' own writer holds Python's lock meanwhile before version 0.8, and training waits
    (docs/log.md); the sequence of its metadata varies, and a full disk is an error of its own type.

    Args:
        metadata: {text: text} for the header.
    """
    header, at = {"__metadata__": metadata} if metadata else {}, 0
    # As safetensors does: large items first, so that each tensor begins at a multiple of its item's
    # size.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    for name in names:
        size = tensors[name].numel() * tensors[name].element_size()
        header[name] = {
            "dtype": DTYPES[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [at, at + size],
        }
        at += size
    words = json.dumps(header, separators=(",", ":")).encode()
    words += b" " * (-len(words) % 8)
    with open(path, "wb", buffering=0) as file:
        _write(file, len(words).to_bytes(8, "little") + words)
        for name in names:
            if tensors[name].numel():
                _write(
                    file, tensors[name].detach().contiguous().reshape(-1).view(torch.uint8).numpy()
                )


def _write(file, data):
    data = memoryview(data)
    while data:
        data = data[file.write(data[:BLOCK]) :]


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
    return load_state(path)


def load_model(path, model):
    """Fill a bare model alone from a checkpoint's folder; returns the step."""
    load_weights(path, model)
    return load_state(path)["step"]


def load_weights(path, model):
    """Fill a bare model from the weights of a checkpoint's folder; UserError names the first that
    does not fit."""
    targets = model.state_dict()
    with _open_own(path / "model.safetensors") as file:
        have = {k: tuple(v.shape) for k, v in targets.items()}
        found = {k: tuple(file.get_slice(k).get_shape()) for k in file.keys()}  # noqa: SIM118 - no dict
        if have != found:
            name = sorted(k for k in have.keys() | found.keys() if have.get(k) != found.get(k))[0]
            raise UserError(
                f"{path}/model.safetensors: weight {name} is {found.get(name, 'missing')} there "
                f"and "
                f"{have.get(name, 'missing')} in this run's model"
            )
        with torch.no_grad():
            for name, target in targets.items():
                own(target).copy_(cut(file.get_tensor(name), target))


def optimizer_tensors(optimizer, names):
    """{"exp_avg/NAME": tensor} of a torch optimizer, the very tensors. ``names``: {parameter:
    name}."""
    return {
        f"{part}/{names[p]}": value.detach()
        for p, values in optimizer.state.items()
        for part, value in values.items()
    }


def load_optimizer(path, optimizer, names):
    """Give an optimizer the state that a checkpoint's folder holds, in place of its own."""
    # torch keeps the step counter on the host unless the optimizer is fused or capturable.
    fused = optimizer.defaults.get("fused") or optimizer.defaults.get("capturable")
    with _open_own(path / "optimizer.safetensors") as file:
        parts = {}
        for key in file.keys():  # noqa: SIM118 - no dict
            part, name = key.split("/", 1)
            parts.setdefault(name, []).append(part)
        if parts.keys() != set(names.values()):
            name = sorted(parts.keys() ^ set(names.values()))[0]
            there, here = (
                ("missing", "in this run's model")
                if name not in parts
                else ("there", "not in this run's model")
            )
            raise UserError(
                f"{path}/optimizer.safetensors: the state of weight {name} is {there} and {here}"
            )
        for p, name in names.items():
            optimizer.state[p] = {}
            for part in parts[name]:
                value = file.get_tensor(f"{part}/{name}")
                optimizer.state[p][part] = (
                    spread_like(value, p)
                    if part != "step"
                    else value.to(p.device if fused else "cpu", copy=True)
                )


def versions():
    import numpy
    import timm

    return {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "timm": timm.__version__,
        "numpy": numpy.__version__,
    }


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
