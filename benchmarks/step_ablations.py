"""The training step without each of its optimisations in turn, for benchmarks/step.py."""

import contextlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from unittest import mock

import torch
import torch.nn.functional as F
from timm.layers import apply_rot_embed_cat
from torch import nn

from engine.config.train_config import OptimConfig
from pretrain import blocks, model, patch_loss

if TYPE_CHECKING:
    from benchmarks.step import Case, Version

Targets = Callable[[torch.Tensor, int, str], torch.Tensor]


@dataclass
class Variant:
    """``version``: bf16 -> a benchmarks.step.Version. ``change``: () -> a context in which its
    steps are made."""

    version: "Callable[[bool], Version]"
    change: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext


def variants(case: "Case") -> dict[str, Variant]:
    """Return {what is left out: Variant} for a benchmarks.step.Case."""

    def patched(
        place: object, name: str, value: object
    ) -> Callable[[], AbstractContextManager[object]]:
        return lambda: mock.patch.object(place, name, value)

    def with_keys(**keys: object) -> "Callable[[bool], Version]":
        return lambda bf16: case.ours(bf16, **keys)

    out = {
        "fused attention (written out)": Variant(
            case.ours, patched(F, "scaled_dot_product_attention", written_out)
        ),
        "masked tokens alone behind the last attention": Variant(
            case.ours, patched(model.CrossCompletion, "complete", everything)
        ),
        "targets of masked patches alone": Variant(
            case.ours, patched(patch_loss, "targets", every_target(patch_loss.targets))
        ),
        "embedding of visible patches alone": Variant(
            case.ours, patched(model.PatchEmbed, "forward", every_patch)
        ),
        "fused AdamW": Variant(lambda bf16: replaced_optimizer(case, bf16)),
        "losses left on the device (.item() each step)": Variant(lambda bf16: asking(case, bf16)),
        "activations kept (activation_checkpointing=true)": Variant(
            with_keys(activation_checkpointing=True)
        ),
    }
    if case.position == "rope":
        out["rotation by complex numbers (timm's)"] = Variant(
            case.ours, patched(blocks, "rotate", timms_rotation)
        )
    if case.bf16:
        out["bf16 (float32)"] = Variant(lambda bf16: case.ours(False))
    if case.compile == "on":
        out["nothing, and blocks compiled (compile=on)"] = Variant(with_keys(compile="on"))
    return out


def written_out(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Return the attention of (B, heads, N, C) as products and a softmax, each by itself."""
    return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1) @ v


def everything(
    self: model.CrossCompletion,
    a: torch.Tensor,
    b: torch.Tensor | None,
    keep: torch.Tensor,
    masked: torch.Tensor,
    seen: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return what CrossCompletion.complete does, with every token through the whole decoder and the
    head."""
    features = self._decode(a, b, keep, masked, self._grid(a, b), masked_only=False, seen=seen)
    return self.decoder.head(features)[:, keep.shape[1] :]


def every_target(
    targets: Targets,
) -> Callable[[torch.Tensor, int, str, torch.Tensor], torch.Tensor]:
    """Return a function that makes patch_loss.targets of all patches, of which some are taken."""

    def made(a: torch.Tensor, patch: int, kind: str, chosen: torch.Tensor) -> torch.Tensor:
        return blocks.take(targets(a, patch, kind), chosen)

    return made


def every_patch(
    self: model.PatchEmbed, images: torch.Tensor, keep: torch.Tensor | None = None
) -> torch.Tensor:
    """Return what PatchEmbed.forward does, by a convolution over all patches."""
    x = self.proj(images).flatten(2).transpose(1, 2)
    return x if keep is None else blocks.take(x, keep)


def timms_rotation(x: torch.Tensor, rope: torch.Tensor) -> torch.Tensor:
    """Return what pretrain.position.rotate does, by timm's sines and cosines."""
    cos, sin = rope.repeat_interleave(2, -2).unbind(-1)
    table = torch.cat([sin, cos], -1)
    rotated = apply_rot_embed_cat(
        x.transpose(1, 2), table if table.ndim == 2 else table[:, None]
    ).transpose(1, 2)
    return rotated.float()


def plain_optimizer(
    names: Mapping[nn.Parameter, str],
    optim: OptimConfig,
    device: torch.device,
    scale: Callable[[str], float] | None,
) -> torch.optim.Optimizer:
    """Return AdamW as torch gives it."""
    return torch.optim.AdamW(
        list(names), lr=optim.lr, betas=(optim.beta1, optim.beta2), weight_decay=optim.weight_decay
    )


def replaced_optimizer(case: "Case", bf16: bool) -> "Version":
    """Return a Version with AdamW as torch gives it."""
    version = case.ours(bf16)
    version.optimizer = plain_optimizer(version.weights, case.config.optim, case.device, None)
    return version


def asking(case: "Case", bf16: bool) -> "Version":
    """Return a Version that asks the device for the loss at each step."""
    version = case.ours(bf16)
    loss = version.loss

    def asked() -> torch.Tensor:
        value = loss()
        value.item()
        return value

    version.loss = asked
    return version
