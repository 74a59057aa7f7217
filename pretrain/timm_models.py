"""Networks of timm with weights from a file of the user's; nothing is downloaded."""

import importlib
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from data.cropping.geometry import Size, find_sides, word_size
from engine.errors import UserError
from pretrain.files import check_finite, find_weights, first_line, read_content

# Beginnings of names that a network without its classifier has no use for.
LEFT = ("head.", "head_dist.", "fc.", "classifier.", "decoder", "mask_token", "norm.", "fc_norm.")


def open_timm(name: str, file: str | Path, size: Size) -> nn.Module:
    """Return timm's network ``name`` without its classifier, with a file's weights.

    In evaluation mode, on the CPU. The file is read as ``init=`` reads it, whatever wrappers stand
    around the weights, and runs no code; timm's own rules for the architecture then rename what
    they know (DINOv2, DINOv3, MAE, ...). Position vectors are resampled to the size.

    Args:
        name: of the architecture, such as "vit_base_patch16_224".
        file: "" leaves the weights at random.
        size: of the images it will see.
    Raises:
        UserError: timm knows no such network, or none of that size; the file is not of it.
    """
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"{name.split('_')[0]}*")[:4])
        raise UserError(f"timm has no network '{name}'" + (f"; it has {near}, ..." if near else ""))
    created: Any = timm.create_model(name, pretrained=False, num_classes=0)
    if str(file):
        _fill(created, name, find_weights(Path(file)))
    patch = getattr(getattr(created, "patch_embed", None), "patch_size", (1, 1))
    if any(side % length for side, length in zip(find_sides(size), patch, strict=True)):
        raise UserError(
            f"timm's {name} has patches of {patch[0]} x {patch[1]} px, of which images of "
            f"{word_size(size)} px are no multiple"
        )
    if hasattr(created, "set_input_size"):
        try:
            created.set_input_size(img_size=find_sides(size))
        except (AssertionError, ValueError, RuntimeError) as error:
            raise UserError(
                f"timm's {name} takes no images of {word_size(size)} px: {first_line(error)}"
            ) from None
    return created.eval()


def _fill(model: Any, name: str, path: Path) -> None:
    """Fill a network with a file's weights; all of it must be there and nothing else but heads."""
    content = read_content(path)
    check_finite(content.tensors, path)
    tensors: dict[str, torch.Tensor] = dict(content.tensors)
    module = importlib.import_module(type(model).__module__)
    convert = getattr(module, "checkpoint_filter_fn", None)
    try:
        tensors = convert(tensors, model) if convert else tensors
        missing, unknown = model.load_state_dict(tensors, strict=False)
    except (RuntimeError, KeyError, ValueError, AttributeError, AssertionError) as error:
        raise UserError(f"{path} is not of timm's {name}: {first_line(error)}") from None
    unknown = [one for one in unknown if not one.startswith(LEFT)]
    if missing or unknown:
        parts = [f"lacks {', '.join(missing[:3])}"] if missing else []
        parts += [f"has {', '.join(unknown[:3])} beside it"] if unknown else []
        raise UserError(f"{path} is not of timm's {name}: it {' and '.join(parts)}")
