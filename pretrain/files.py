"""What lies in weights files of all kinds, under plain names. No file's code is ever run."""

import argparse
import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from engine.checkpoint import checkpoints
from engine.errors import EnvironmentFault, UserError, explain, failure_of
from engine.run.run_folder import find_weights_file

# Where training files keep their weights, the ones to use first: averaged ones before plain ones.
# "teacher" and "student" are DINO's and iBOT's, "target_encoder" and "encoder" I-JEPA's.
PARTS = (
    "state_dict_ema",
    "model_ema",
    "state_dict",
    "model",
    "teacher",
    "target_encoder",
    "module",
    "student",
    "encoder",
)
# What wrappers (DDP, torch.compile, FSDP, checkpointing) add to names.
WRAPPERS = frozenset(("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))
CROCO_KEYS = ("croco_kwargs", "kwargs")  # in the header of CroCo's weights as safetensors
# Names of an encoder's patch embedding, before which stands what the file calls the encoder.
PATCHES = (
    "patch_embed.proj.weight",
    "patch_embeddings.projection.weight",
    "patch_embeddings.weight",
)
# Of several encoders in one file the one to use first. "base_encoder" is MoCo v3's, whose averaged
# "momentum_encoder" only gives targets.
ENCODERS = ("teacher.", "base_encoder.", "")
OURS = ("encoder.", "")  # before names of this software's and of CroCo's own files


@dataclass
class Content:
    """A weights file.

    Attributes:
        tensors: by plain names.  metadata: of our header, empty in files of others.
        croco_kwargs: of CroCo's released files, or None.
        args_model: the ``model`` of a training's command line, or None.
        arch: the name of the network in the words of whoever trained it, or "".
        encoder: what stood before the encoder's names, such as "base_encoder."; "": nothing.
        part: which of a file's sets of weights these are, such as "teacher"; "": there is one.
        beside: what else the file holds, for messages.
    """

    tensors: dict[str, torch.Tensor]
    metadata: dict[str, str] = field(default_factory=dict)
    croco_kwargs: dict[str, Any] | None = None
    args_model: str | None = None
    arch: str = ""
    encoder: str = ""
    part: str = ""
    beside: list[str] = field(default_factory=list)


def find_weights(path: Path) -> Path:
    """Return the file that a path means: itself, a checkpoint's, or a run's newest checkpoint's."""
    if path.is_file():
        return path
    if not path.exists():
        raise UserError(
            f"there is nothing at {path}; weights are read from disk, nothing is downloaded"
        )
    if find_weights_file(path).is_file():
        return find_weights_file(path)
    newest = checkpoints.newest(path)
    if newest is None:
        raise UserError(f"the folder {path} holds no complete checkpoint (checkpoints/step-*)")
    return find_weights_file(newest)


def read_content(path: Path) -> Content:
    """Read a .safetensors file, or of a torch file.

    Raises:
        UserError: it is neither, or it wants to run code.
        EnvironmentFault: the disk does not give it.
    """
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return _read_torch(path)


def read_metadata(path: Path) -> dict[str, str]:
    """Return our header alone; of a torch file the whole file is read for it."""
    if path.suffix != ".safetensors":
        return _read_torch(path).metadata
    with _opened(path) as file:
        metadata = file.metadata() or {}
    return metadata if "counterpose" in metadata else {}


def check_finite(tensors: Mapping[str, torch.Tensor], where: object) -> None:
    """Raise UserError that names the first tensor with a NaN or an infinity."""
    for name, value in tensors.items():
        if not (value.is_floating_point() or value.is_complex()):
            continue
        comparable = value if value.element_size() > 1 else value.float()
        bad = value.numel() - int(torch.isfinite(comparable).sum())
        if bad:
            raise UserError(
                f"{where}: {bad} of {value.numel()} values of tensor {name} are NaN or infinite: "
                f"these weights are of a training that diverged, or damaged"
            )


def first_line(error: Exception) -> str:
    """Return what an exception says, in one line of at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, "pt")
    except OSError as error:
        raise failure_of(error, f"{path} cannot be read: {explain(error)}") from None
    except SafetensorError as error:
        raise UserError(f"{path} is not a whole safetensors file: {first_line(error)}") from None


def _read_safetensors(path: Path) -> Content:
    with _opened(path) as file:
        try:
            names = list(file.keys())
            tensors = {name: file.get_tensor(name) for name in names}
        except (SafetensorError, OSError) as error:
            raise EnvironmentFault(f"{path} cannot be read: {first_line(error)}") from None
        metadata = file.metadata() or {}
    if "counterpose" not in metadata:
        # Another's header, whose words may mean anything; of ours nothing is taken from it.
        metadata = {name: metadata[name] for name in CROCO_KEYS if name in metadata}
    kwargs = metadata.get("croco_kwargs") or metadata.get("kwargs")
    if kwargs is not None:
        kwargs = parse_object(kwargs, path, "croco_kwargs")
    plain, start = _plain(tensors, path)
    return Content(plain, metadata, kwargs, encoder=start)


def parse_object(text: str, where: object, name: str) -> dict[str, Any]:
    """Return the JSON object of a header's line; UserError if it is none."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{where}: its metadata '{name}' is not a JSON object")
    return value


def _read_torch(path: Path) -> Content:
    try:
        # timm's and CroCo's training files carry their command line as a Namespace, which holds
        # values and runs nothing.
        with torch.serialization.safe_globals([argparse.Namespace]):
            tree = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch names the class in the middle of much advice.
        named = re.search(r"(?:GLOBAL|class|function) ([\w.]+\.[\w.]+) was not", str(error))
        held = f"it holds a {named[1]}" if named else first_line(error)
        raise UserError(
            f"{path} is not read: it is no torch file of tensors and plain values alone: {held}"
        ) from None
    except OSError as error:
        raise failure_of(error, f"{path} cannot be read: {explain(error)}") from None
    except (
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        IndexError,
        AttributeError,
        TypeError,
    ) as error:
        raise UserError(
            f"{path} is not a torch checkpoint: {type(error).__name__} {first_line(error)}"
        ) from None
    tree = tree if isinstance(tree, dict) else {}
    part = next((name for name in PARTS if isinstance(tree.get(name), dict)), "")
    found = tree[part] if part else tree
    tensors = {str(name): value for name, value in found.items() if isinstance(value, torch.Tensor)}
    # A header that we wrote into a torch file, and what CroCo's own files say.
    header = tree.get("counterpose")
    metadata = header if isinstance(header, dict) else {}
    kwargs = tree.get("croco_kwargs")
    if kwargs is not None and not isinstance(kwargs, dict):
        raise UserError(f"{path}: its croco_kwargs is a {type(kwargs).__name__}, not a dictionary")
    beside = [str(name) for name in (found if part and not tensors else tree) if name != part]
    plain, start = _plain(tensors, path)
    model = _said_in(tree, "model")
    return Content(
        plain,
        {str(name): str(value) for name, value in metadata.items()},
        kwargs,
        model,
        _said_in(tree, "arch") or model or "",
        start,
        part,
        beside,
    )


def _said_in(tree: Mapping[str, Any], name: str) -> str | None:
    """A text of a training's command line, or of the file itself; None where there is none."""
    args = tree.get("args")
    args = vars(args) if isinstance(args, argparse.Namespace) else args
    said = args.get(name) if isinstance(args, dict) else None
    said = tree.get(name) if said is None else said
    return said if isinstance(said, str) else None


def _plain(tensors: Mapping[str, torch.Tensor], path: Path) -> tuple[dict[str, torch.Tensor], str]:
    """(tensors without what wrappers add to their names, what stood before an encoder's).

    Of an encoder beside heads and other encoders the encoder and, as "head", the rest.
    """
    names = {}
    for name in tensors:
        names[name] = ".".join(part for part in name.split(".") if part not in WRAPPERS)
    start = _find_encoder(list(names.values()))
    out = {}
    for name, value in tensors.items():
        plain = names[name]
        if plain.startswith(start):
            plain = plain.removeprefix(start)
        else:
            plain = f"head.{plain.removeprefix('head.')}"
        if plain in out:
            raise UserError(f"{path} holds two tensors that mean {plain}, one of them {name}")
        out[plain] = value
    return out, start


def _find_encoder(names: list[str]) -> str:
    """What stands before the names of a file's encoder; "" where nothing does, or of our files."""
    starts = []
    for name in names:
        ends = [end for end in PATCHES if name == end or name.endswith(f".{end}")]
        if ends:
            starts.append(name.removesuffix(ends[0]).removesuffix("embeddings."))
    if not starts or set(starts) & set(OURS):
        return ""
    return min(starts, key=lambda start: next(i for i, e in enumerate(ENCODERS) if e in start))
