"""Sizes of timm's vision transformers by name: model.backbone=timm:NAME.

The encoder of this software computes what plain ones of timm do, so a name stands for its keys; the
weights come from a file (init=), and nothing is downloaded.
"""

import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from engine.errors import UserError

if TYPE_CHECKING:
    from torch import nn

PREFIX = "timm:"
DINOV3_SPAN = 12.566370614359172  # 4 pi: its positions run from -1 to 1 and are times 2 pi


def read_backbone(backbone: str) -> dict[str, Any]:
    """Returns {key below model.: value} that build an encoder as timm's of that name.

    Args:
        backbone: "timm:NAME".
    Raises:
        UserError: there is no such model, or it is of a kind that this software's encoder is not.
    """
    import timm  # seconds, for those alone who name one

    name = backbone.removeprefix(PREFIX)
    if name == backbone:
        raise UserError(f"model.backbone={backbone}: write timm:NAME, such as timm:{_example()}")
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), 4, 0.5)
        hint = f"; near it are {', '.join(near)}" if near else ""
        raise UserError(f"model.backbone={backbone}: timm has no model of that name{hint}")
    return _describe(_build(name, backbone), backbone)


def _example() -> str:
    return "vit_small_patch14_dinov2"


def _build(name: str, backbone: str) -> Any:
    """The model without weights, on no device: what is asked of it are its sizes."""
    import timm
    import torch

    with torch.device("meta"):
        try:
            return timm.create_model(name, pretrained=False, num_classes=0)
        except (RuntimeError, TypeError, ValueError) as error:
            words = " ".join(str(error).split())[:200]
            raise UserError(f"model.backbone={backbone}: timm cannot build it: {words}") from None


def _describe(model: Any, backbone: str) -> dict[str, Any]:
    from timm.models.eva import Eva, EvaBlock
    from timm.models.vision_transformer import Block, VisionTransformer

    if type(model) not in (Eva, VisionTransformer):
        raise UserError(
            f"model.backbone={backbone} is a {type(model).__name__}, not a plain vision transformer"
        )
    blocks = list(model.blocks)
    refused = _find_differences(model, blocks[0], (Block, EvaBlock))
    rotary = isinstance(model, Eva)
    if rotary and "DinoV3" not in type(model.rope).__name__:
        refused.append("rotary positions that are not DINOv3's")
    if refused:
        raise UserError(
            f"model.backbone={backbone} has {' and '.join(refused)}, which this software's encoder "
            "has not"
        )
    (patch, *others) = model.patch_embed.patch_size
    if set(others) != {patch}:
        raise UserError(f"model.backbone={backbone}: its patches are no squares")
    return {
        "patch": int(patch),
        "position": "rope" if rotary else "learnt",
        "position_span": DINOV3_SPAN if rotary else 0.0,
        "mlp_ratio": blocks[0].mlp.fc1.out_features / model.embed_dim,
        "encoder.width": int(model.embed_dim),
        "encoder.depth": len(blocks),
        "encoder.heads": int(blocks[0].attn.num_heads),
        "encoder.prefix": int(model.num_prefix_tokens),
        "encoder.epsilon": float(blocks[0].norm1.eps),
    }


def _find_differences(model: Any, block: Any, kinds: tuple[type, ...]) -> list[str]:
    """What a model has that this software's encoder has not, in words."""
    from torch import nn

    found = []
    if type(block) not in kinds:
        found.append(f"blocks of another kind ({type(block).__name__})")
    elif not (_is_plain(block.mlp) and isinstance(block.mlp.act, nn.GELU)):
        found.append("another MLP than two layers and GELU")
    elif not isinstance(getattr(block.attn, "q_norm", None) or nn.Identity(), nn.Identity):
        found.append("normalised queries and keys")
    if not isinstance(getattr(model, "norm_pre", nn.Identity()), nn.Identity):
        found.append("a norm before its blocks (CLIP)")
    return found


def _is_plain(mlp: "nn.Module") -> bool:
    from timm.layers import Mlp

    return type(mlp) is Mlp


def adopt(config: Any, values: Mapping[str, Any], backbone: str) -> None:
    """Set keys of a model's config, those of ``read_backbone``.

    Raises:
        UserError: one is set to something else.
    """
    usual = type(config)()
    for name, value in values.items():
        owner, of_usual, last = config, usual, name
        if name.startswith("encoder."):
            owner, of_usual = config.encoder, usual.encoder
            last = name.removeprefix("encoder.")
        here = getattr(owner, last)
        if here not in (value, getattr(of_usual, last)):
            raise UserError(
                f"model.{name}={here}, and model.backbone={backbone} has {value}: leave one out, "
                "as configs/finetune/body_timm.yaml does"
            )
        setattr(owner, last, value)
