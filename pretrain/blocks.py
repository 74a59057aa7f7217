"""Blocks of encoder and decoder.

Attention, the encoder's block, and the decoder's, which attends to itself and to the reference.

Tokens are (B, T, channels) throughout; heads are split off behind them, so that nothing is copied
to be laid out anew.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from timm.layers import Mlp
from torch import nn
from torch.utils.checkpoint import checkpoint

from engine.config.train_config import TrainConfig
from engine.distributed import hardware
from pretrain.position import rotate

EPSILON = 1e-6


def take(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return the tokens (B, K, C) of x (B, N, C) at index (B, K).

    A gather of fixed size: no data-dependent shape.
    """
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    rope_q: torch.Tensor | None = None,
    rope_k: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attend from q (B, T, heads, C) to k and v (B, N, heads, C) and return (B, T, heads * C).

    ``rope_*``: see rope_table; None: none is rotated.
    """
    kind = v.dtype
    if rope_q is not None and rope_k is not None:
        q, k = rotate(q, rope_q).to(kind), rotate(k, rope_k).to(kind)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    if v.device.type == "cpu":
        # The CPU's bf16 attention takes three times as long backward as float32's (torch 2.15).
        with torch.autocast("cpu", enabled=False):
            out = F.scaled_dot_product_attention(q.float(), k.float(), v.float()).to(kind)
    else:
        out = F.scaled_dot_product_attention(q, k, v)
    return out.transpose(1, 2).flatten(2)


def prepare(blocks: Iterable[nn.Module], config: TrainConfig, device: torch.device) -> None:
    """Have training compile blocks and compute their inside twice, as the config says.

    Weights keep their names.

    Args:
        blocks: of an Encoder or a Decoder.  config: engine.config.train_config.TrainConfig.
            device: torch.device.
    """
    for block in cast("Iterable[Block]", blocks):
        block.activation_checkpointing = config.activation_checkpointing
        block.compiled = hardware.compiles(config.compile, device)


# Whether what runs without gradient is part of a training step.
_in_step: contextvars.ContextVar[bool] = contextvars.ContextVar("in_step", default=False)


@contextlib.contextmanager
def stop_gradient() -> Iterator[None]:
    """Compute without gradient within, in a training step with blocks that are compiled there."""
    token = _in_step.set(torch.is_grad_enabled())
    try:
        with torch.no_grad():
            yield
    finally:
        _in_step.reset(token)


class Block(nn.Module):
    """A residual block, ``step`` in those that build on it.

    Without gradients, where shapes are many, nothing is compiled but what ``stop_gradient`` covers.

    Attributes:
        compiled: run ``step`` compiled.  activation_checkpointing: keep a block's input alone for
            the backward pass, which then computes the rest once more.
    """

    step: Callable[..., Any]

    def __init__(self) -> None:
        super().__init__()
        self.compiled = self.activation_checkpointing = False

    def forward(self, *tensors: Any) -> torch.Tensor:
        """Run ``step``, compiled or with activation checkpointing where that is set."""
        learns = torch.is_grad_enabled()
        if not learns and not _in_step.get():
            return self.step(*tensors)
        step = compiled_step(type(self)) if self.compiled else type(self).step
        if self.activation_checkpointing and learns:
            return checkpoint(step, self, *tensors, use_reentrant=False, preserve_rng_state=False)
        return step(self, *tensors)


@functools.cache
def compiled_step(kind: "type[Block]") -> Callable[..., Any]:
    """Return a Block's ``step``, compiled once.

    For all blocks of that kind and each of the few shapes of training.
    """
    return torch.compile(kind.step, fullgraph=True, dynamic=False)


class LayerNorm(nn.LayerNorm):
    """Normalises tokens in float32, whose weights may be in bf16.

    Processes that share a copy gather them so (engine/distributed/parallel.py).
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the normalised tokens, of the wider type of theirs and the weights'."""
        kind = torch.promote_types(input.dtype, self.weight.dtype)
        return F.layer_norm(
            input, self.normalized_shape, self.weight.to(kind), self.bias.to(kind), self.eps
        )


class SelfAttention(nn.Module):
    """Under timm's names, so that weights come and go as they are."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(
        self, x: torch.Tensor, rope: torch.Tensor | None = None, first: int = 0
    ) -> torch.Tensor:
        """Return (B, T - first, C) of x (B, T, C).

        What tokens before ``first`` would see is left out.
        """
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).unbind(2)
        rope_q = None if rope is None else rope[..., first:, :, :]
        return self.proj(attend(q[:, first:], k, v, rope_q, rope))


class CrossAttention(nn.Module):
    """Queries from the image that is completed, keys and values from the reference."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(
        self,
        x: torch.Tensor,
        y: torch.Tensor,
        rope_x: torch.Tensor | None,
        rope_y: torch.Tensor | None,
    ) -> torch.Tensor:
        """Return (R*K, T, C) of x (R*K, T, C) and the references' tokens y (R, N, C).

        Rows i*K to i*K + K-1 of x attend to row i of y.
        """
        batch, tokens, _ = x.shape
        q = self.q(x).unflatten(2, (self.heads, -1))
        k, v = self.kv(y).unflatten(2, (2, self.heads, -1)).unbind(2)
        if batch != len(y):
            # A query does not see other queries, so those of several targets share one attention:
            # no copy of k and v.
            q = q.reshape(len(y), -1, *q.shape[2:])
            rope_x = None if rope_x is None else rope_x.reshape(len(y), -1, *rope_x.shape[2:])
        return self.proj(attend(q, k, v, rope_x, rope_y).view(batch, tokens, -1))


class EncoderBlock(Block):
    """A ViT's block as timm has it: attention, then MLP; norms come first."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, epsilon: float = EPSILON) -> None:
        super().__init__()
        self.norm1 = LayerNorm(width, epsilon)
        self.attn = SelfAttention(width, heads)
        self.norm2 = LayerNorm(width, epsilon)
        self.mlp = Mlp(width, int(width * mlp_ratio))

    def step(self, x: torch.Tensor, rope: torch.Tensor | None = None) -> torch.Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.attn(self.norm1(x), rope)
        return x + self.mlp(self.norm2(x))


class DecoderBlock(Block):
    """CroCo's decoder block: self-attention, cross-attention, MLP.

    It attends to features that stay as they are; norms come first.

    With ``cross=False`` there is no reference: MAE's block, which is the encoder's but for the name
    of its second norm. So it is without one that is given, too.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float, cross: bool) -> None:
        super().__init__()
        self.norm1 = LayerNorm(width, EPSILON)
        self.attn = SelfAttention(width, heads)
        self.cross = None
        if cross:
            self.norm2 = LayerNorm(width, EPSILON)
            self.norm_y = LayerNorm(width, EPSILON)
            self.cross = CrossAttention(width, heads)
        self.norm3 = LayerNorm(width, EPSILON)
        self.mlp = Mlp(width, int(width * mlp_ratio))

    def step(
        self,
        x: torch.Tensor,
        y: torch.Tensor | None,
        rope_x: torch.Tensor | None = None,
        rope_y: torch.Tensor | None = None,
        first: int = 0,
    ) -> torch.Tensor:
        """Return (B, T - first, C) of x (B, T, C) and y (R, N, C) or None.

        Tokens before ``first`` are looked at, and go no further.
        """
        x = x[:, first:] + self.attn(self.norm1(x), rope_x, first)
        rope_x = None if rope_x is None else rope_x[..., first:, :, :]
        if self.cross is not None and y is not None:
            x = x + self.cross(self.norm2(x), self.norm_y(y), rope_x, rope_y)
        return x + self.mlp(self.norm3(x))


class LookingBlock(Block):
    """A decoder block whose tokens do not see one another.

    They attend to the visible patches and then to the reference, both as the encoder leaves them
    (CrossMAE, arXiv 2401.14391, which has no reference); norms come first.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float, cross: bool) -> None:
        super().__init__()
        self.norm1 = LayerNorm(width, EPSILON)
        self.norm_visible = LayerNorm(width, EPSILON)
        self.look = CrossAttention(width, heads)
        self.cross = None
        if cross:
            self.norm2 = LayerNorm(width, EPSILON)
            self.norm_y = LayerNorm(width, EPSILON)
            self.cross = CrossAttention(width, heads)
        self.norm3 = LayerNorm(width, EPSILON)
        self.mlp = Mlp(width, int(width * mlp_ratio))

    def step(
        self,
        x: torch.Tensor,
        visible: torch.Tensor,
        y: torch.Tensor | None,
        rope_x: torch.Tensor | None = None,
        rope_visible: torch.Tensor | None = None,
        rope_y: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return (B, T, C) of x (B, T, C), visible (B, V, C) and y (R, N, C) or None."""
        x = x + self.look(self.norm1(x), self.norm_visible(visible), rope_x, rope_visible)
        if self.cross is not None and y is not None:
            x = x + self.cross(self.norm2(x), self.norm_y(y), rope_x, rope_y)
        return x + self.mlp(self.norm3(x))


class Decoder(nn.Module):
    """Turns features of the visible tokens and of the reference into those of tokens.

    Of all or of the masked ones.
    """

    def __init__(
        self,
        encoder_width: int,
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: float,
        outputs: int,
        rotary: bool,
        cross: bool = True,
        self_attention: bool = True,
        more_outputs: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.rotary, self.self_attention = rotary, self_attention
        self.embed = nn.Linear(encoder_width, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        block = DecoderBlock if self_attention else LookingBlock
        self.blocks = nn.ModuleList(block(width, heads, mlp_ratio, cross) for _ in range(depth))
        self.norm = LayerNorm(width, EPSILON)
        self.head = nn.Linear(width, outputs)
        # What is said beside the pixels, by heads of their own: their names tell them apart.
        self.more_heads = nn.ModuleDict(
            {name: nn.Linear(width, count) for name, count in (more_outputs or {}).items()}
        )

    def read(self, features: torch.Tensor) -> torch.Tensor:
        """(B, T, outputs of all heads) of features (B, T, C): pixels first."""
        pixels = self.head(features)
        if not self.more_heads:
            return pixels
        more = [head(features) for head in self.more_heads.values()]
        return torch.cat([pixels, *more], -1)

    def forward(
        self,
        visible: torch.Tensor,
        reference: torch.Tensor | None,
        order: torch.Tensor,
        table: torch.Tensor,
        masked_only: int,
        seen: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Features after the last norm, in the order of ``order``.

        Attention does not care about order, so tokens stay where they are cheapest: visible ones
        first, then the masked.

        Args:
            visible: (B, V, E) encoded tokens of the masked image.
            reference: (R, L, E), B a multiple of R; None: cross-attention is passed over.
            order: (B, N) patch of each token, the V visible ones first.
            table: (N, C) of sincos_table, or (N, head width / 2, 2) of rope_table where the decoder
                is rotary.
            masked_only: leave the visible tokens out once nothing attends to them any more.
            seen: (R, L) patch of each token of the reference; None: all, in their order.
        Returns:
            (B, N, C), or (B, N - V, C) with masked_only.
        """
        batch, given = visible.shape[:2]
        kind = (
            self.mask_token.dtype
        )  # the sum that runs through the blocks stays in float32 under autocast
        hidden = self.mask_token.expand(batch, order.shape[1] - given, -1)
        x = torch.cat([self.embed(visible).to(kind), hidden], 1)
        y = None if reference is None else self.embed(reference).to(kind)
        rope_x = rope_y = None
        of_reference = table if seen is None else table[seen]
        if self.rotary:
            rope_x, rope_y = table[order], of_reference
        else:
            x, y = x + table[order], None if y is None else y + of_reference
        if not self.self_attention:
            return self._look(x, y, rope_x, rope_y, given, masked_only)
        for i, block in enumerate(self.blocks):
            last = i == len(self.blocks) - 1
            x = block(x, y, rope_x, rope_y, given if last and masked_only else 0)
        return self.norm(x)

    def _look(self, x, y, rope_x, rope_y, given, masked_only):
        """``forward`` where tokens attend to the first ``given`` of x as they are, and to y."""
        visible, first = x[:, :given], given if masked_only else 0
        rope_visible = rope_queries = None
        if rope_x is not None:
            rope_visible, rope_queries = rope_x[:, :given], rope_x[:, first:]
        x = x[:, first:]
        for block in self.blocks:
            x = block(x, visible, y, rope_queries, rope_visible, rope_y)
        return self.norm(x)
