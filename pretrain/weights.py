"""Weights in and out: our own files, runs, CroCo's checkpoints, timm's checkpoints.

Nothing is ever downloaded. Our file is a safetensors with bare names; its header
(pretrain/header.py) holds the ModelConfig and what training saw, so the file alone is a network
with its history.
"""

import dataclasses
import io
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from data.loading.augment import MEAN, STD
from data.sampling.seen import Seen
from engine.checkpoint.tensors import write_tensors
from engine.config.parser import parse_keys
from engine.errors import UserError, explain, failure_of
from engine.logging.console import get_logger
from engine.run.files import replace_file
from pretrain import header, state_dict_adapters
from pretrain.config import ModelConfig, VisionConfig
from pretrain.files import Content, check_finite, find_weights, read_content
from pretrain.model import CrossCompletion
from pretrain.model_card import describe_run, write_card
from pretrain.verb_config import ExportConfig

log = get_logger(__name__)


@dataclass
class Source:
    """What lies in a file.

    Attributes:
        layout: "ours", "croco" or "timm".  tensors: under the file's names.
        config: where known; of timm's layout that of the run an encoder was exported from.
        seen: what training saw, and what is not known of it.
        notes: sentences on what the file does not say.  ours: whether this software wrote it.
    """

    path: Path
    layout: str
    tensors: dict[str, torch.Tensor]
    config: ModelConfig | None
    seen: Seen
    notes: list[str]
    ours: bool


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
    _fill(model.state_dict(), _ours(found), found)
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
    _check_same(_known_config(found), model.config, source, ("encoder", "decoder"))
    _fill(model.state_dict(), _ours(found), found)
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
    if found.config is not None:
        _check_same(found.config, config, source, ("encoder",))
    if found.layout == "timm":
        if found.config is None:
            _check_unsaid(found, config, source)
        tensors, left = state_dict_adapters.from_timm(found.tensors)
    else:
        every = _ours(found)
        tensors = {name: every[name] for name in every if name.startswith("encoder.")}
    state = {f"encoder.{name}": value for name, value in module.state_dict().items()}
    _fill(state, tensors, found)
    words = (f"; left there: {', '.join(_shortened(left))}" if left else "") + words
    _note(f"taken from {found.path}: {len(tensors)} tensors of the encoder{words}")
    return _say_seen(found)


def _check_same(
    found: VisionConfig, wanted: VisionConfig, source: str | Path, parts: tuple[str, ...]
) -> None:
    """Raise UserError where two configs' weights would mean something else."""
    for name in ("position", "rope_base", "patch"):
        there, here = getattr(found, name), getattr(wanted, name)
        if there != here and (name != "rope_base" or wanted.position == "rope"):
            raise UserError(
                f"init={source} has model.{name}={there}, this run has model.{name}={here}"
            )
    if isinstance(found, ModelConfig) and isinstance(wanted, ModelConfig) and "decoder" in parts:
        there, here = found.decoder.cross, wanted.decoder.cross
        if there != here:
            raise UserError(
                f"init={source} has model.decoder.cross={there}, this run has "
                f"model.decoder.cross={here}; python -m pretrain export writes its encoder alone"
            )
    for part in parts:
        there, here = getattr(found, part).heads, getattr(wanted, part).heads
        if there != here:
            raise UserError(
                f"init={source} has model.{part}.heads={there}, this run has "
                f"model.{part}.heads={here}"
            )


def _check_unsaid(found: Source, wanted: VisionConfig, source: str | Path) -> None:
    """Refuse what the tensors of a timm-style encoder contradict, and note what they leave open.

    Such an encoder says nothing of itself.
    """
    fixed = "pos_embed" in found.tensors
    if fixed != (wanted.position == "cosine"):
        has = "has no pos_embed: its positions are rotary"
        if fixed:
            has = "has pos_embed: its positions are added"
        raise UserError(f"init={source} {has}; this run has model.position={wanted.position}")
    open_keys = [f"model.encoder.heads={wanted.encoder.heads}"]
    if not fixed:
        open_keys.append(f"model.rope_base={wanted.rope_base:g}")
    found.notes.append(
        f"{found.path.name} does not say its heads{'' if fixed else ' and rotary base'}: taken to "
        f"be {' and '.join(open_keys)}"
    )


def _say_seen(found: Source) -> Seen:
    for words in (*found.notes, *found.seen.unknown):
        _note(words)
    return found.seen


def _note(words: str) -> None:
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        log.info("note: init: %s", words)


def read(source: str | Path) -> Source:
    """Read whatever weights lie at a path.

    Raises:
        UserError: nothing there, nothing that is understood, numbers that are not finite, or a file
            that contradicts itself.
    """
    path = find_weights(Path(source))
    content = read_content(path)
    check_finite(content.tensors, path)
    header.check_header(content.metadata, path)
    layout, config, notes = _identify(content, path)
    seen = header.seen_in(content.metadata, path)
    ours = layout == "ours" or "software" in content.metadata
    return Source(path, layout, content.tensors, config, seen, notes, ours)


def _identify(content: Content, path: Path) -> tuple[str, ModelConfig | None, list[str]]:
    """(layout, ModelConfig or None, notes) of a file's tensors and of what it says of them."""
    tensors = content.tensors
    config = header.config_in(content.metadata, path)
    if config is not None and "decoder.mask_token" in tensors:
        if "encoder.pos_embed" in tensors:
            state_dict_adapters.check_positions(
                config,
                config.encoder.width,
                tensors["encoder.pos_embed"],
                "encoder.pos_embed",
                path,
            )
        return "ours", config, []
    if "enc_blocks.0.norm1.weight" in tensors:
        arguments = state_dict_adapters.croco_arguments(
            content.croco_kwargs, content.args_model, tensors, path
        )
        unsaid = content.croco_kwargs is None and content.args_model is None
        if unsaid and "enc_pos_embed" in tensors:
            # The first CroCo's network on images of whatever size these vectors are for.
            side = round(len(tensors["enc_pos_embed"].squeeze(0)) ** 0.5)
            arguments = {"img_size": side * state_dict_adapters.CROCO_CALL["patch_size"]}
        config = state_dict_adapters.config_from_croco(arguments, path)
        state_dict_adapters.check_croco_positions(config, tensors, path)
        return "croco", config, []
    if "decoder.mask_token" in tensors and "encoder.blocks.0.norm1.weight" in tensors:
        raise UserError(
            f"{path} has tensors of this software, but its header, which says their heads and "
            f"positions, is lost"
        )
    if header.read_roles(content.metadata, tensors) is not None:
        raise UserError(
            f"{path} is of a fine-tuning run; the weights of a pre-training run, or of an encoder, "
            f"are wanted"
        )
    if "blocks.0.norm1.weight" in tensors:
        notes = []
        if content.part:
            beside = ", ".join([content.part, *content.beside][:6])
            notes.append(f"read from its '{content.part}', of {beside}")
        config = config or _config_beside(path, notes)
        if config is not None:
            _check_encoder(config, tensors, path)
        return "timm", config, notes
    some = ", ".join(list(tensors)[:3]) or ", ".join(content.beside[:6])
    place = f" in its '{content.part}'" if content.part else ""
    raise UserError(
        f"{path} is no network of this software, of CroCo or of timm: it holds "
        + (
            f"{some}{place}"
            if tensors
            else f"no tensors{place}" + (f", but {some}" if some else "")
        )
    )


def _config_beside(path: Path, notes: list[str]) -> ModelConfig | None:
    """The config in the card beside an encoder that was exported before files said it themselves.

    None where there is no such card.
    """
    card = _read_card(path.with_suffix(".json"))
    if isinstance(card.get("model"), dict):
        header.check_input(card, path.with_suffix(".json"))
        return header.read_config(card["model"], path.with_suffix(".json"))
    # A folder as timm's hub lays it out.
    settings = _read_card(path.parent / "config.json").get("pretrained_cfg")
    if not isinstance(settings, dict):
        return None
    for name in ("mean", "std"):
        if settings.get(name) and list(settings[name]) != header.INPUT[name]:
            notes.append(
                f"its images were normalised by {name}={settings[name]}, ours are by "
                f"{header.INPUT[name]}"
            )
    return None


def _read_card(path: Path) -> dict[str, Any]:
    """The object of a JSON file, empty where there is none."""
    try:
        card = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except OSError as error:
        raise failure_of(error, f"{path} cannot be read: {explain(error)}") from None
    except ValueError as error:
        raise UserError(
            f"{path}, which tells what the weights beside it are, is no JSON: {error}"
        ) from None
    return card if isinstance(card, dict) else {}


def _check_encoder(config: ModelConfig, tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Raise UserError where the tensors of an exported encoder are not of the config said."""
    e = config.encoder
    said = {
        "encoder.width": e.width,
        "encoder.depth": e.depth,
        "patch": config.patch,
        "mlp_ratio": int(e.width * config.mlp_ratio) / e.width,
    }
    for name, value in state_dict_adapters.timm_geometry(tensors).items():
        if value != said[name]:
            raise UserError(
                f"{path} is said to have model.{name}={said[name]}, its tensors have {value}"
            )
    if ("pos_embed" in tensors) != (config.position == "cosine"):
        has = "carries" if "pos_embed" in tensors else "does not carry"
        raise UserError(
            f"{path} is said to have model.position={config.position}, but it {has} pos_embed"
        )
    if "pos_embed" in tensors:
        state_dict_adapters.check_positions(
            config, e.width, tensors["pos_embed"], "pos_embed", path
        )


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
        if not model.config.decoder.cross:
            raise UserError(
                f"{source} has model.decoder.cross=false, which CroCo's code does not know; "
                f"layout=timm writes its encoder"
            )
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
        "input_size": [3, model.config.image_size, model.config.image_size],
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
    # Fixed position vectors follow from the config (the image's size may differ).
    fixed, where = "encoder.pos_embed", found.path
    have = {k: v for k, v in state.items() if k != fixed}
    given = {k: v for k, v in tensors.items() if k != fixed}
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
