"""What lies at a path that weights are wanted from: its layout, and what it says of itself."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data.sampling.seen import Seen
from engine.errors import UserError, explain, failure_of
from pretrain import foreign, foreign_heads, header, state_dict_adapters
from pretrain.config import ModelConfig
from pretrain.files import Content, check_finite, find_weights, read_content


@dataclass
class Source:
    """What lies in a file.

    Attributes:
        layout: "ours", "croco" or "timm".  tensors: under the file's names.
        config: where known; of timm's layout that of the run an encoder was exported from.
        seen: what training saw, and what is not known of it.
        notes: sentences on what the file does not say.  ours: whether this software wrote it.
        heads: of an encoder of others, and what says so; None where nothing does.
    """

    path: Path
    layout: str
    tensors: dict[str, torch.Tensor]
    config: ModelConfig | None
    seen: Seen
    notes: list[str]
    ours: bool
    heads: tuple[int, str] | None = None


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
    heads = foreign_heads.find_heads(content, path) if layout == "timm" else None
    return Source(path, layout, content.tensors, config, seen, notes, ours, heads)


def _identify(content: Content, path: Path) -> tuple[str, ModelConfig | None, list[str]]:
    """(layout, ModelConfig or None, notes) of a file's tensors and of what it says of them."""
    tensors = content.tensors
    config = header.config_in(content.metadata, path)
    if config is not None and "decoder.mask_token" in tensors:
        if "encoder.pos_embed" in tensors and config.position == "cosine":
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
    if foreign.is_encoder(tensors):
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
    if ("pos_embed" in tensors) != (config.position != "rope"):
        has = "carries" if "pos_embed" in tensors else "does not carry"
        raise UserError(
            f"{path} is said to have model.position={config.position}, but it {has} pos_embed"
        )
    if config.position == "cosine":
        state_dict_adapters.check_positions(
            config, e.width, tensors["pos_embed"], "pos_embed", path
        )
