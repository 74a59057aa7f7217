"""Weights in and out: our own files, runs, CroCo's checkpoints, timm's checkpoints. Nothing is ever downloaded.

Our file is a safetensors with bare names; its metadata holds the ModelConfig ("model", as JSON) and a format number, so the
file alone is a network.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pickle
import sys
import typing
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from data.augment import MEAN, STD
from data.remote import base_name
from engine import checkpoint
from engine.config import read_file
from engine.errors import UserError
from engine.paths import split_paths
from pretrain import layouts
from pretrain.config import ModelConfig
from pretrain.model import CrossCompletion

FORMAT = 1
USAGE = """usage: python -m pretrain export RUN out=FILE [layout=timm|croco] [overwrite=true]

RUN     a run's folder, one of its checkpoints, a weights file, or a checkpoint of CroCo's layout
out     timm: FILE.safetensors with the encoder, and beside it FILE.md (a model card) and FILE.json (its config)
        croco: FILE.pth with the whole network as CroCo's code reads it"""


@dataclass
class Source:
    """What lies in a file: its layout ("ours", "croco", "timm"), tensors under the file's names, its config where known."""

    path: Path
    layout: str
    tensors: dict
    config: ModelConfig | None


def load(source):
    """A CrossCompletion in evaluation mode on the CPU; see pretrain.load."""
    found = read(source)
    if found.layout == "timm":
        raise UserError(f"{found.path} holds an encoder alone, without the decoder: load it with timm.create_model(..., "
                        f"checkpoint_path='{found.path}'), or start a run from it with init={found.path}")
    # Building draws first values that are about to be replaced: the caller's stream of random numbers stays where it was.
    with torch.random.fork_rng(devices=[]):
        model = CrossCompletion(found.config)
    _fill(model.state_dict(), _ours(found), found.path)
    return model.eval()


def save_model(model, path):
    """Write a bare CrossCompletion to ``path``, beside it first, then renamed."""
    write_safetensors(model.state_dict(), path, header(model))


def header(model):
    """{text: text} that tells, in a weights file, which CrossCompletion it is of."""
    return {"format": "pt", "counterpose": str(FORMAT), "model": json.dumps(dataclasses.asdict(model.config))}


def init_from(model, source):
    """Fill a network with weights from elsewhere, to start a new run; prints what was taken and what was left.

    From runs, our files and CroCo's checkpoints everything is taken; from timm's checkpoints the encoder.

    Raises:
        UserError: names the tensor and both shapes, or the key and both values, that do not fit.
    """
    found = read(source)
    if found.layout == "timm":
        words = "; positions are this model's own and the decoder starts afresh"
        _init_encoder(model.encoder, model.config, found, source, words)
        return
    _check_same(found.config, model.config, source, ("encoder", "decoder"))
    _fill(model.state_dict(), _ours(found), found.path)
    _note(f"taken from {found.path}: all weights of encoder and decoder")


def init_encoder(module, config, source):
    """Fill an encoder (pretrain.model.Encoder) alone, from whatever init_from takes; prints what was taken.

    Args:
        config: the VisionConfig of the module.
    Raises:
        UserError: as init_from.
    """
    _init_encoder(module, config, read(source), source, "; positions are this model's own")


def _init_encoder(module, config, found, source, words):
    left = []
    if found.layout == "timm":
        tensors, left = layouts.from_timm(found.tensors)
    else:
        _check_same(found.config, config, source, ("encoder",))
        tensors = {name: value for name, value in _ours(found).items() if name.startswith("encoder.")}
    _fill({f"encoder.{name}": value for name, value in module.state_dict().items()}, tensors, found.path)
    words = (f"; left there: {', '.join(_shortened(left))}" if left else "") + words
    _note(f"taken from {found.path}: {len(tensors)} tensors of the encoder{words}")


def _check_same(found, wanted, source, parts):
    """UserError where two configs' weights would mean something else."""
    for name in ("position", "rope_base", "patch"):
        there, here = getattr(found, name), getattr(wanted, name)
        if there != here and (name != "rope_base" or wanted.position == "rope"):
            raise UserError(f"init={source} has model.{name}={there}, this run has model.{name}={here}")
    if "decoder" in parts and found.decoder.cross != wanted.decoder.cross:
        raise UserError(f"init={source} has model.decoder.cross={found.decoder.cross}, this run has model.decoder.cross="
                        f"{wanted.decoder.cross}; python -m pretrain export writes its encoder alone")
    for part in parts:
        there, here = getattr(found, part).heads, getattr(wanted, part).heads
        if there != here:
            raise UserError(f"init={source} has model.{part}.heads={there}, this run has model.{part}.heads={here}")


def _note(words):
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        print(f"note: init: {words}", file=sys.stderr)


def read(source):
    """Whatever weights lie at a path, as a Source.

    Raises:
        UserError: nothing there, or nothing that is understood.
    """
    path = _file_of(Path(source))
    if path.suffix == ".safetensors":
        tensors, metadata = _read_safetensors(path)
        kwargs = metadata.get("croco_kwargs") or metadata.get("kwargs")
        kwargs = _parsed(kwargs, path, "croco_kwargs") if kwargs else {}
    else:
        tensors, kwargs = _read_torch(path)
        metadata = {}
    if "model" in metadata and "decoder.mask_token" in tensors:
        if int(metadata.get("counterpose", 1)) > FORMAT:
            raise UserError(f"{path} has weights format {metadata['counterpose']}; this software reads up to {FORMAT}")
        return Source(path, "ours", tensors, _config(_parsed(metadata["model"], path, "model"), path))
    if "enc_blocks.0.norm1.weight" in tensors:
        return Source(path, "croco", tensors, layouts.config_from_croco(kwargs, path))
    if "head.queries" in tensors:
        raise UserError(f"{path} is of a fine-tuning run; the weights of a pre-training run, or of an encoder, are wanted")
    if "blocks.0.norm1.weight" in tensors:
        return Source(path, "timm", tensors, None)
    some = ", ".join(list(tensors)[:3]) or "no tensors"
    raise UserError(f"{path} is no network of this software, of CroCo or of timm: it holds {some}")


def export(source, out, overwrite=False, layout="timm"):
    """Write weights for others.

    Args:
        source: as for pretrain.load.
        out: "timm": the encoder as OUT.safetensors, a model card OUT.md and OUT.json beside it. "croco": the whole
            network as a torch file {"model", "croco_kwargs"}.
    Raises:
        UserError: ``out`` is there and ``overwrite`` is not set; it cannot be written.
    """
    out = Path(out)
    if layout not in ("timm", "croco"):
        raise UserError(f"layout={layout}: the value is none of timm, croco")
    if layout == "timm" and out.suffix != ".safetensors":
        raise UserError(f"out={out} does not end in .safetensors, by which timm knows the format")
    if layout == "croco" and out.suffix == ".safetensors":
        raise UserError(f"out={out} ends in .safetensors; layout=croco writes a torch file, such as "
                        f"{out.with_suffix('.pth')}")
    if not out.parent.is_dir():
        raise UserError(f"out={out}: the folder {out.parent} does not exist")
    files = [out, out.with_suffix(".md"), out.with_suffix(".json")] if layout == "timm" else [out]
    if out.is_dir():
        raise UserError(f"out={out} is a folder; name a file in it")
    there = [str(f) for f in files if f.exists()]
    if there and not overwrite:
        raise UserError(f"{there[0]} is there already; overwrite=true replaces it")
    model = load(source)
    tensors = {k: v.detach() for k, v in model.state_dict().items()}
    if layout == "croco":
        if not model.config.decoder.cross:
            raise UserError(f"{source} has model.decoder.cross=false, which CroCo's code does not know; layout=timm writes its "
                            f"encoder")
        tensors, kwargs = layouts.to_croco(model.config, tensors)
        _replace(out, lambda path: torch.save({"model": tensors, "croco_kwargs": kwargs}, path))
        return
    name, arguments = layouts.timm_call(model.config)
    about = {"architecture": name, "model_args": arguments, "mean": MEAN, "std": STD,
             "input_size": [3, model.config.image_size, model.config.image_size], "model": dataclasses.asdict(model.config)}
    write_safetensors(layouts.to_timm(model.config, tensors), out, {"format": "pt"})
    _replace(files[1], lambda path: path.write_text(_card(model.config, out, _history(source)), encoding="utf-8"))
    _replace(files[2], lambda path: path.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8"))


def main(argv):
    """``python -m pretrain export RUN out=FILE``; ``argv`` is what follows ``export``."""
    if "--help" in argv or "-h" in argv:
        print(USAGE)
        return 0
    sources = [a for a in argv if "=" not in a]
    options = dict(a.split("=", 1) for a in argv if "=" in a)
    unknown = sorted(options.keys() - {"out", "layout", "overwrite"})
    if unknown:
        raise UserError(f"unknown key '{unknown[0]}'; export takes out, layout, overwrite")
    if len(sources) != 1 or not options.get("out"):
        raise UserError("python -m pretrain export takes one RUN and out=FILE; see --help")
    if options.get("overwrite", "false") not in ("true", "false"):
        raise UserError(f"'overwrite={options['overwrite']}': the value is neither true nor false")
    export(sources[0], options["out"], options.get("overwrite") == "true", options.get("layout", "timm"))
    print(f"wrote {options['out']}")
    return 0


def _file_of(path):
    """The weights file that a path means: itself, a checkpoint's, or that of a run's newest checkpoint."""
    if path.is_file():
        return path
    if not path.exists():
        raise UserError(f"there is nothing at {path}; weights are read from disk, nothing is downloaded")
    if (path / "model.safetensors").is_file():
        return path / "model.safetensors"
    newest = checkpoint.newest(path)
    if newest is None:
        raise UserError(f"the folder {path} holds no whole checkpoint (checkpoints/step-*)")
    return newest / "model.safetensors"


def _ours(found):
    return found.tensors if found.layout == "ours" else layouts.from_croco(found.config, found.tensors)


def _fill(state, tensors, where):
    """Copy tensors into those of a module's state; all must be there and nothing else."""
    # Fixed position vectors follow from the config (the picture's size may differ).
    fixed = "encoder.pos_embed"
    have = {k: v for k, v in state.items() if k != fixed}
    found = {k: v for k, v in tensors.items() if k != fixed}
    for name in sorted(have.keys() | found.keys()):
        if name not in found:
            raise UserError(f"{where} has no tensor for {name}, {tuple(have[name].shape)} in this model")
        if name not in have:
            raise UserError(f"{where} has a tensor for {name}, {tuple(found[name].shape)}, which this model has not")
        if found[name].shape != have[name].shape:
            raise UserError(f"{where}: tensor {name} is {tuple(found[name].shape)} there and {tuple(have[name].shape)} in "
                            f"this model")
    with torch.no_grad():
        for name, value in found.items():
            have[name].copy_(value)


def _read_safetensors(path):
    try:
        with safe_open(path, "pt") as file:
            return {k: file.get_tensor(k) for k in file.keys()}, file.metadata() or {}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a whole safetensors file: {_line(error)}") from None


def _read_torch(path):
    """(tensors, croco_kwargs) of a torch file. Only tensors and plain values are read: a pickle's code never runs."""
    try:
        # timm's and CroCo's training files carry their command line as a Namespace, which holds values and runs nothing.
        with torch.serialization.safe_globals([argparse.Namespace]):
            tree = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path} is not read: it is no torch file of tensors and plain values alone: "
                        f"{_line(error)}") from None
    except (RuntimeError, EOFError, ValueError, OSError, KeyError, IndexError, AttributeError, TypeError) as error:
        raise UserError(f"{path} is not a torch checkpoint: {_line(error)}") from None
    tree = tree if isinstance(tree, dict) else {}
    kwargs = tree.get("croco_kwargs") or {}
    for name in ("state_dict_ema", "model_ema", "state_dict", "model"):
        if isinstance(tree.get(name), dict):
            tree = tree[name]
            break
    tensors = {}
    for name, value in tree.items():
        if isinstance(value, torch.Tensor):
            # A wrapped or compiled module prefixes its weights.
            tensors[str(name).removeprefix("module.").removeprefix("_orig_mod.").removeprefix("module.")] = value
    return tensors, kwargs


def _parsed(text, path, name):
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{path}: its metadata '{name}' is not a JSON object")
    return value


def _config(tree, path, schema=ModelConfig):
    """A ModelConfig from its asdict()."""
    hints = typing.get_type_hints(schema)
    unknown = sorted(tree.keys() - hints.keys())
    if unknown:
        raise UserError(f"{path}: its model config has the key '{unknown[0]}', which this software does not know")
    values = {k: _config(v, path, hints[k]) if dataclasses.is_dataclass(hints[k]) else v for k, v in tree.items()}
    return schema(**values)


def write_safetensors(tensors, path, metadata):
    """Write {name: tensor} beside ``path``, then rename."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    _replace(Path(path), lambda beside: save_file(tensors, beside, metadata))


def _replace(path, write):
    """Write beside ``path``, sync, rename: whoever looks sees the old file or the whole new one."""
    beside = path.with_name(f".writing-{os.getpid()}-{path.name}")
    try:
        write(beside)
        with open(beside, "rb") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    except (OSError, SafetensorError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise UserError(f"{path} was not written: {_line(error)}") from None


def _history(source):
    """Lines about the run that weights come from, of its config.yaml; empty where there is none."""
    path = _file_of(Path(source)).resolve()  # RUN/checkpoints/step-X/model.safetensors
    if path.parent.parent.name != "checkpoints" or not (path.parents[2] / "config.yaml").is_file():
        return []
    pairs, lines = dict(read_file(str(path.parents[2] / "config.yaml"), "pretrain")), []
    for name, value in pairs.items():
        if name == "data.shards" and value:
            lines.append(f"data: {_shard_names(value)}")
        elif name.startswith("data.sources.") and name.endswith(".shards"):
            label = name.split(".")[2]
            weight = pairs.get(f"data.sources.{label}.weight", "1.0")
            lines.append(f"data: {label} ({_shard_names(value)}), weight {weight}")
        elif name in ("init", "steps", "batch", "seed", "masking.ratio", "masking.reference_ratio", "objective.target") \
                and value not in ("", "null"):
            lines.append(f"{name}: {Path(value).name if name == 'init' else value}")
    return lines


def _shard_names(spec):
    """The last parts of what a key names, without what follows a URL's question mark: it may be a signature."""
    return ", ".join(base_name(path) for path in split_paths(spec))


def _card(config, out, history):
    name, arguments = layouts.timm_call(config)
    listed = "".join(f"    {k}={json.dumps(v) if isinstance(v, str) else v},\n" for k, v in arguments.items())
    kind = "fixed sine-cosine" if config.position == "cosine" else f"rotary, base {config.rope_base:g}, rows first"
    e = config.encoder
    known = "\n".join(f"- {line}" for line in history) or "- not known: the weights did not come with a run's config"
    return f"""# {out.stem}

The encoder of a network that was pre-trained by cross-view and cross-pose completion: it painted the hidden patches of a
picture of a person with the help of another picture of the same person. No labels were used. Made with counterpose.

- width {e.width}, depth {e.depth}, heads {e.heads}; patches of {config.patch} px, pictures of {config.image_size} px
- positions: {kind}; no class token
- input: RGB in [0, 1], less the mean {MEAN}, over the deviation {STD}

## How to load

```python
import timm

model = timm.create_model(
    "{name}",
{listed}    checkpoint_path="{out.name}",
)
```

`model(x)` averages the patches, then normalises: ({e.width},) a picture. One feature a patch, as in pre-training:
`model.fc_norm(model.forward_features(x))`, (patches, {e.width}), row by row.

## Where it comes from

{known}

## Licence

The software is under Apache-2.0. The weights follow from the pictures and from the weights that training started from:
check the licences of both before passing this file on (the released CroCo weights are for non-commercial use).
"""


def _shortened(names):
    """Names of tensors by their first word, each once."""
    return list(dict.fromkeys(n.split(".")[0] for n in names))


def _line(error):
    return " ".join(str(error).split())[:200] or type(error).__name__
