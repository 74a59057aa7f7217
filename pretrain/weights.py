"""Weights in and out: our own files, runs, CroCo's checkpoints, timm's checkpoints.

Nothing is ever downloaded. Our file is a safetensors with bare names; its header
(pretrain/header.py) holds the ModelConfig and what training saw, so the file alone is a network
with its history.
"""

import dataclasses
import io
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from data.cropping.geometry import find_sides
from data.loading.augment import MEAN, STD
from data.sampling.seen import Seen
from engine.checkpoint.tensors import write_tensors
from engine.config.parser import parse_keys
from engine.errors import UserError, explain, failure_of
from engine.logging.console import get_logger
from engine.run.files import replace_file
from pretrain import foreign, header, state_dict_adapters
from pretrain.config import ModelConfig, VisionConfig
from pretrain.model import CrossCompletion
from pretrain.model_card import describe_run, write_card
from pretrain.position import resample
from pretrain.sources import Source, read
from pretrain.verb_config import ExportConfig

PLACES = "encoder.pos_embed"  # position vectors, fixed or learnt

log = get_logger(__name__)


def load(source: str | Path) -> CrossCompletion:
    """Return a network in evaluation mode on the CPU; see pretrain.load."""
    return _network(read(source))


def _network(found: Source) -> CrossCompletion:
    if found.layout == "timm":
        raise UserError(
            f"{found.path} holds an encoder alone, without the decoder: load it with "
            f"timm.create_model(..., checkpoint_path='{found.path}'), or start a run from it with "
            f"init={found.path}"
        )
    # Building draws first values that are about to be replaced: the caller's stream of random
    # numbers stays where it was.
    with torch.random.fork_rng(devices=[]):
        model = CrossCompletion(_known_config(found))
    config = model.config
    _fill(model.state_dict(), fit_positions(_ours(found), config, config), found)
    return model.eval()


def _known_config(found: Source) -> ModelConfig:
    """The config of weights of a whole network, which always have one."""
    if found.config is None:
        raise ValueError(f"{found.path} of layout {found.layout} has no config")
    return found.config


def save_model(model: CrossCompletion, path: str | Path, seen: Seen | None = None) -> None:
    """Write a bare network, whole or not at all.

    Args:
        seen: what its training saw; None: not known.
    """
    write_safetensors(model.state_dict(), path, header.make_header(model.config, seen))


def init_from(model: CrossCompletion, source: str | Path) -> Seen:
    """Fill a network with other weights, to start a new run; notes what was taken and what left.

    From runs, our files and CroCo's checkpoints everything is taken; from timm's checkpoints the
    encoder.

    Returns:
        what these weights have seen.
    Raises:
        UserError: names the tensor and both shapes, or the key and both values, that do not fit.
    """
    found = read(source)
    if found.layout == "timm":
        words = "; positions are this model's own and the decoder starts afresh"
        return _init_encoder(model.encoder, model.config, found, source, words)
    config = _known_config(found)
    _check_same(config, model.config, source, ("encoder", "decoder"))
    _note_places(found, config, model.config)
    tensors = fit_positions(_ours(found), config, model.config)
    _fill(model.state_dict(), tensors, found)
    _note(f"taken from {found.path}: all weights of encoder and decoder")
    return _say_seen(found)


def init_encoder(module: nn.Module, config: VisionConfig, source: str | Path) -> Seen:
    """Fill an encoder alone, from whatever init_from takes; notes what was taken.

    Args:
        module: a pretrain.model.Encoder.  config: of the module.
    Returns:
        what these weights have seen.
    Raises:
        UserError: as init_from.
    """
    return _init_encoder(module, config, read(source), source, "; positions are this model's own")


def _init_encoder(
    module: nn.Module, config: VisionConfig, found: Source, source: str | Path, words: str
) -> Seen:
    left: list[str] = []
    state = {f"encoder.{name}": value for name, value in module.state_dict().items()}
    if found.config is not None:
        _check_same(found.config, config, source, ("encoder",))
        _note_places(found, found.config, config)
    if found.layout == "timm":
        part = foreign.read_encoder(found.tensors, found.path, found.config)
        try:
            tensors, left, notes = foreign.place(part, config, found.path)
            if found.config is None:
                _check_unsaid(found, part, config, source)
                found.notes.extend(notes)
            _fill(state, tensors, found)
        except UserError as error:
            if found.config is not None:
                raise
            keys = foreign.suggest_keys(part, found.heads[0] if found.heads else None)
            raise UserError(f"{error}; keys that take it as it is: {keys}") from None
    else:
        every = _ours(found)
        tensors = {name: every[name] for name in every if name.startswith("encoder.")}
        _fill(state, fit_positions(tensors, _known_config(found), config), found)
    words = (f"; left there: {', '.join(_shortened(left))}" if left else "") + words
    words = "" if config.position == "learnt" else words
    _note(f"taken from {found.path}: {len(tensors)} tensors of the encoder{words}")
    return _say_seen(found)


def _check_same(
    found: VisionConfig, wanted: VisionConfig, source: str | Path, parts: tuple[str, ...]
) -> None:
    """Raise UserError where two configs' weights would mean something else."""
    for name in ("prefix", "epsilon"):
        there, here = getattr(found.encoder, name), getattr(wanted.encoder, name)
        if there != here:
            raise UserError(
                f"init={source} has model.encoder.{name}={there:g}, this run has "
                f"model.encoder.{name}={here:g}"
            )
    for name in ("position", "rope_base", "patch"):
        there, here = getattr(found, name), getattr(wanted, name)
        if there != here and (name != "rope_base" or wanted.position == "rope"):
            raise UserError(
                f"init={source} has model.{name}={there}, this run has model.{name}={here}"
            )
    if isinstance(found, ModelConfig) and isinstance(wanted, ModelConfig) and "decoder" in parts:
        for name in ("cross", "self_attention", "gradients", "latents", "geometry"):
            there, here = getattr(found.decoder, name), getattr(wanted.decoder, name)
            if there != here:
                raise UserError(
                    f"init={source} has model.decoder.{name}={there}, this run has "
                    f"model.decoder.{name}={here}; python -m pretrain export writes its encoder "
                    f"alone"
                )
        if found.embedding != wanted.embedding:
            raise UserError(
                f"init={source} has model.embedding={_list_sizes(found)}, this run has "
                f"model.embedding={_list_sizes(wanted)} (points, token_width, width); "
                f"python -m pretrain export writes its encoder alone"
            )
    for part in parts:
        there, here = getattr(found, part).heads, getattr(wanted, part).heads
        if there != here:
            raise UserError(
                f"init={source} has model.{part}.heads={there}, this run has "
                f"model.{part}.heads={here}"
            )


def _list_sizes(config: ModelConfig) -> tuple[int, int, int]:
    part = config.embedding
    return part.points, part.token_width, part.width


def _check_unsaid(
    found: Source, part: foreign.Foreign, wanted: VisionConfig, source: str | Path
) -> None:
    """Refuse other heads than a foreign file says, and note what it leaves open."""
    heads, width = wanted.encoder.heads, wanted.encoder.width
    open_keys = {}
    if found.heads is None:
        open_keys["heads"] = f"model.encoder.heads={heads}"
        if not width % 64 and heads != width // 64:
            open_keys["heads"] += f" (of width {width} most have {width // 64})"
    elif found.heads[0] != heads:
        raise UserError(
            f"init={source} has {found.heads[0]} attention heads, as {found.heads[1]} says; this "
            f"run has model.encoder.heads={heads}"
        )
    if part.positions is None and not part.halves:
        open_keys["rotary base"] = f"model.rope_base={wanted.rope_base:g}"
    if open_keys:
        found.notes.append(
            f"{found.path.name} does not say its {' and '.join(open_keys)}: taken to be "
            f"{' and '.join(open_keys.values())}"
        )


def _note_places(found: Source, before: VisionConfig, wanted: VisionConfig) -> None:
    """Note where positions are not those that an encoder was trained with."""
    there, here = before.grid(), wanted.grid()
    if there == here or wanted.position == "learnt" or before.position_span:
        return
    now = f"{wanted.position_span:g} across the image" if wanted.position_span else "as they were"
    found.notes.append(
        f"trained on {there[0]} x {there[1]} patches, here are {here[0]} x {here[1]}: positions "
        f"are {now}; model.position_span={max(there)} scales them to what it knows"
    )


def fit_positions(
    tensors: dict[str, torch.Tensor], before: VisionConfig, wanted: VisionConfig
) -> dict[str, torch.Tensor]:
    """Return tensors under our names, with learnt positions for the grid that is wanted.

    Fixed ones, which follow from a config, are left out.
    """
    if wanted.position != "learnt":
        return {name: value for name, value in tensors.items() if name != PLACES}
    moved = resample(tensors[PLACES], before.grid(), wanted.grid())
    return {**tensors, PLACES: moved}


def _say_seen(found: Source) -> Seen:
    for words in (*found.notes, *found.seen.unknown):
        _note(words)
    return found.seen


def _note(words: str) -> None:
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        log.info("note: init: %s", words)


def export(
    source: str | Path, out: str | Path, overwrite: bool = False, layout: str = "timm"
) -> None:
    """Write weights for others.

    Args:
        source: as for pretrain.load.
        out: "timm": the encoder as OUT.safetensors, a model card OUT.md and OUT.json beside it.
            "croco": the whole network as a torch file {"model", "croco_kwargs"}.
    Raises:
        UserError: ``out`` is there and ``overwrite`` is not set; it cannot be written.
    """
    out = Path(out)
    if layout not in ("timm", "croco"):
        raise UserError(f"layout={layout}: the value is none of timm, croco")
    if layout == "timm" and out.suffix != ".safetensors":
        raise UserError(f"out={out} does not end in .safetensors, by which timm knows the format")
    if layout == "croco" and out.suffix == ".safetensors":
        raise UserError(
            f"out={out} ends in .safetensors; layout=croco writes a torch file, such as "
            f"{out.with_suffix('.pth')}"
        )
    if not out.parent.is_dir():
        raise UserError(f"out={out}: the folder {out.parent} does not exist")
    files = [out, out.with_suffix(".md"), out.with_suffix(".json")] if layout == "timm" else [out]
    if out.is_dir():
        raise UserError(f"out={out} is a folder; name a file in it")
    there = [str(f) for f in files if f.exists()]
    if there and not overwrite:
        raise UserError(f"{there[0]} is there already; overwrite=true replaces it")
    found = read(source)
    model = _network(found)
    tensors = {k: v.detach() for k, v in model.state_dict().items()}
    known = header.make_header(model.config, found.seen)
    if layout == "croco":
        tensors, kwargs = state_dict_adapters.to_croco(model.config, tensors)
        # CroCo's code reads the first two alone.
        _write_torch({"model": tensors, "croco_kwargs": kwargs, "counterpose": known}, out)
        return
    name, arguments = state_dict_adapters.timm_call(model.config)
    about = {
        "architecture": name,
        "model_args": arguments,
        "mean": MEAN,
        "std": STD,
        "input_size": [3, *find_sides(model.config.size)],
        "model": dataclasses.asdict(model.config),
    }
    write_safetensors(state_dict_adapters.to_timm(model.config, tensors), out, known)
    card = write_card(model.config, out, found, describe_run(found.path))
    _replace(files[1], lambda path: path.write_text(card, encoding="utf-8"))
    text = json.dumps(about, indent=1) + "\n"
    _replace(files[2], lambda path: path.write_text(text, encoding="utf-8"))


def main(argv: list[str]) -> int:
    """``python -m pretrain export RUN out=FILE``; ``argv`` is what follows ``export``."""
    config, _ = parse_keys(ExportConfig, argv, "pretrain export")
    if not config.out:
        raise UserError("out= is not set; see python -m pretrain export --help")
    export(config.source, config.out, config.overwrite, config.layout)
    print(f"wrote {config.out}")
    return 0


def _ours(found: Source) -> dict[str, torch.Tensor]:
    if found.layout == "ours":
        return found.tensors
    return state_dict_adapters.from_croco(_known_config(found), found.tensors, found.path)


def _fill(
    state: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor], found: Source
) -> None:
    """Copy tensors into those of a module's state; all must be there and nothing else.

    Args:
        found: for messages.
    """
    # Fixed position vectors follow from the config (the image's size may differ): they are in no
    # tensors that come here.
    where = found.path
    have = {k: v for k, v in state.items() if k != PLACES or PLACES in tensors}
    given = tensors
    for name in sorted(have.keys() | given.keys()):
        there = state_dict_adapters.name_in(found.layout, name)
        if name not in given:
            raise UserError(
                f"{where} has no tensor {there}, {tuple(have[name].shape)} in this model"
            )
        if name not in have:
            raise UserError(
                f"{where} has a tensor {there}, {tuple(given[name].shape)}, which this model has "
                f"not"
            )
        if given[name].shape != have[name].shape:
            raise UserError(
                f"{where}: tensor {there} is {tuple(given[name].shape)} there and "
                f"{tuple(have[name].shape)} in this model"
            )
    with torch.no_grad():
        for name, value in given.items():
            have[name].copy_(value)


def write_safetensors(
    tensors: Mapping[str, torch.Tensor], path: str | Path, metadata: Mapping[str, str]
) -> None:
    """Write a file of tensors, whole or not at all."""
    host = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    # Not safetensors' own writer, whose files nobody but their owner may read, whatever the umask.
    _replace(Path(path), lambda beside: write_tensors(beside, host, metadata))


def _write_torch(tree: Mapping[str, Any], path: Path) -> None:
    # Through memory, so that a full disk is an OSError and not one of torch's own.
    data = io.BytesIO()
    torch.save(tree, data)
    _replace(Path(path), lambda beside: beside.write_bytes(data.getbuffer()))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Have ``write`` fill a file that then replaces ``path``.

    Raises:
        Failure: it cannot be written.
    """
    try:
        with replace_file(path, durable=True) as beside:
            write(beside)
    except OSError as error:
        raise failure_of(error, f"{path} was not written: {explain(error)}") from None


def _shortened(names: Collection[str]) -> list[str]:
    """Names of tensors by their first word, each once."""
    return list(dict.fromkeys(n.split(".")[0] for n in names))
