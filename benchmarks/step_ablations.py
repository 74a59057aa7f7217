"""The training step without each of its optimisations in turn, for benchmarks/step.py."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from unittest import mock

import torch
import torch.nn.functional as F
from timm.layers import apply_rot_embed_cat

from pretrain import blocks, model, patch_loss


@dataclass
class Variant:
    """``version``: bf16 -> a benchmarks.step.Version. ``change``: () -> a context in which its
    steps are made."""

    version: Callable
    change: Callable = contextlib.nullcontext


def variants(case):
    """{what is left out: Variant} for a benchmarks.step.Case."""

    def patched(place, name, value):
        return lambda: mock.patch.object(place, name, value)

    def with_keys(**keys):
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


def written_out(q, k, v):
    return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1) @ v


def everything(self, a, b, keep, masked, seen=None):
    """CrossCompletion.complete with every token through the whole decoder and the head."""
    features = self._decode(a, b, keep, masked, self._grid(a, b), masked_only=False, seen=seen)
    return self.decoder.head(features)[:, keep.shape[1] :]


def every_target(targets):
    """patch_loss.targets of all patches, of which some are taken."""

    def made(a, patch, kind, chosen):
        return blocks.take(targets(a, patch, kind), chosen)

    return made


def every_patch(self, images, keep=None):
    x = self.proj(images).flatten(2).transpose(1, 2)
    return x if keep is None else blocks.take(x, keep)


def timms_rotation(x, rope):
    cos, sin = rope.repeat_interleave(2, -2).unbind(-1)
    table = torch.cat([sin, cos], -1)
    rotated = apply_rot_embed_cat(
        x.transpose(1, 2), table if table.ndim == 2 else table[:, None]
    ).transpose(1, 2)
    return rotated.float()


def plain_optimizer(names, optim, device, scale):
    """AdamW as torch gives it."""
    return torch.optim.AdamW(
        list(names), lr=optim.lr, betas=(optim.beta1, optim.beta2), weight_decay=optim.weight_decay
    )


def replaced_optimizer(case, bf16):
    version = case.ours(bf16)
    version.optimizer = plain_optimizer(version.weights, case.config.optim, case.device, None)
    return version


def asking(case, bf16):
    version = case.ours(bf16)
    loss = version.loss

    def asked():
        value = loss()
        value.item()
        return value

    version.loss = asked
    return version
