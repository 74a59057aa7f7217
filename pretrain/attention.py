"""Where masked patches look in the reference.

The decoder's cross-attention, computed once more for a few images.

Training goes through scaled_dot_product_attention, which never has the weights in hand. Here they
are computed from what each cross-attention was given; a test holds that they give the attention's
own output.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from pretrain.masking import ON_PERSON
from pretrain.position import rotate

if TYPE_CHECKING:
    from pretrain.blocks import CrossAttention
    from pretrain.objectives.completion import Completion


def weights(
    cross: CrossAttention,
    x: torch.Tensor,
    y: torch.Tensor,
    rope_x: torch.Tensor | None,
    rope_y: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax of queries and keys of a pretrain.blocks.CrossAttention, and its values.

    Args:
        as its ``forward``, with as many references as rows of x.
    Returns:
        (B, heads, T, N) float32 that sum to 1 over N; (B, heads, N, width of a head).
    """
    batch, tokens, width = x.shape
    q = cross.q(x).view(batch, tokens, cross.heads, -1)
    k, v = cross.kv(y).view(batch, -1, 2, cross.heads, width // cross.heads).unbind(2)
    if rope_x is not None and rope_y is not None:
        q, k = rotate(q, rope_x), rotate(k, rope_y)
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    with torch.autocast(
        x.device.type, enabled=False
    ):  # on a CPU it would leave the weights in bf16
        scores = q.float() @ k.float().transpose(-1, -2) * q.shape[-1] ** -0.5
        return scores.softmax(-1), v


def of_masked(
    module: Completion,
    a: torch.Tensor,
    b: torch.Tensor | None,
    keep: torch.Tensor,
    masked: torch.Tensor,
    seen: torch.Tensor | None,
    layers: Sequence[int],
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return a completion and where its masked patches look in ``b``, by layer.

    (predicted, [(B, M, N) mean over heads, ...]).

    Args:
        module: pretrain.objectives.completion.Completion.  a, b, keep, masked, seen: as for its
            ``complete``, one reference an image. What is not seen of the reference is not attended
            to: 0.
        layers: numbers of decoder blocks.
    """
    found = {}

    def watch(number):
        def hook(cross, inputs):
            # Masked tokens are the last M, whether or not the visible ones have left.
            found[number] = weights(cross, *inputs)[0].mean(1)[:, -masked.shape[1] :]

        return hook

    blocks = module.model.decoder.blocks
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        # A compiled block would run past hooks that were not there when it was compiled.
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        for number in set(layers):
            cross = blocks[number].get_submodule("cross")
            stack.callback(cross.register_forward_pre_hook(watch(number)).remove)
        predicted = module.complete(a, b, keep, masked, seen)
    looks = [found[number] for number in layers]
    if seen is not None:
        places = seen[:, None].expand(-1, masked.shape[1], -1)
        looks = [
            look.new_zeros(*look.shape[:2], module.model.patches).scatter(2, places, look)
            for look in looks
        ]
    return predicted, looks


def middle_and_last(depth: int) -> list[int]:
    """Numbers of the decoder's blocks that are drawn."""
    return [depth // 2 - 1, depth - 1] if depth > 1 else [0]


def chosen(person: torch.Tensor, masked: torch.Tensor, count: int) -> torch.Tensor:
    """Return (B, count) places in ``masked`` of patches on the person.

    Spread from the top of the image to its foot.

    An image with too few masked patches on the person takes those with the most of it.

    Args:
        person: (B, N) share of each patch on the person.  masked: (B, M), ascending.
    """
    share = person.gather(1, masked)
    picked = []
    for row in share:
        on = torch.nonzero(row >= ON_PERSON)[:, 0]
        if len(on) < count:
            on = row.topk(min(count, len(row))).indices.sort().values
        places = ((torch.arange(count) + 0.5) * len(on) / count).long()
        picked.append(on[places.to(on.device)])
    return torch.stack(picked)
