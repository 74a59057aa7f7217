"""The decoder: what is left of the masked picture looks at itself and at the reference."""

import torch
import torch.nn.functional as F
from timm.layers import AttentionRope, Mlp, apply_rot_embed_cat
from torch import nn

EPSILON = 1e-6


def take(x, index):
    """x (B, N, C), index (B, K) -> (B, K, C). A gather of fixed size: no data-dependent shape."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


class CrossAttention(nn.Module):
    """Queries from the picture that is completed, keys and values from the reference."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x, y, rope_x, rope_y):
        """x (R*K, T, C), y (R, N, C) -> (R*K, T, C); rows i*K to i*K + K-1 of x look at row i of y."""
        batch, tokens, width = x.shape
        references = len(y)
        q = self.q(x).view(batch, tokens, self.heads, -1).transpose(1, 2)
        k, v = self.kv(y).view(references, -1, 2, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        if rope_x is not None:
            q = apply_rot_embed_cat(q, rope_x)
            k = apply_rot_embed_cat(k, rope_y)
        if batch != references:
            # A query does not see other queries, so those of several targets share one attention: no copy of k and v.
            q = q.unflatten(0, (references, -1)).transpose(1, 2).flatten(2, 3)
        out = F.scaled_dot_product_attention(q, k, v)  # (R, heads, K*T, width of a head)
        return self.proj(out.transpose(1, 2).reshape(batch, tokens, width))


class DecoderBlock(nn.Module):
    """CroCo's decoder block: self-attention, cross-attention to features that stay as they are, MLP; norms come first."""

    def __init__(self, width, heads, mlp_ratio):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, EPSILON)
        self.attn = AttentionRope(width, heads, num_prefix_tokens=0)
        self.norm2 = nn.LayerNorm(width, EPSILON)
        self.norm_y = nn.LayerNorm(width, EPSILON)
        self.cross = CrossAttention(width, heads)
        self.norm3 = nn.LayerNorm(width, EPSILON)
        self.mlp = Mlp(width, int(width * mlp_ratio))

    def forward(self, x, y, rope_x=None, rope_y=None, first=0):
        """x (B, T, C), y (R, N, C) -> (B, T - first, C): tokens before ``first`` are left out after the self-attention."""
        x = x + self.attn(self.norm1(x), rope=rope_x)
        if first:
            x = x[:, first:]
            rope_x = None if rope_x is None else rope_x[..., first:, :]
        x = x + self.cross(self.norm2(x), self.norm_y(y), rope_x, rope_y)
        return x + self.mlp(self.norm3(x))


class Decoder(nn.Module):
    """Features of the visible tokens and of the reference to features of all or of the masked tokens."""

    def __init__(self, encoder_width, width, depth, heads, mlp_ratio, outputs, rotary):
        super().__init__()
        self.rotary = rotary
        self.embed = nn.Linear(encoder_width, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.ModuleList(DecoderBlock(width, heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(width, EPSILON)
        self.head = nn.Linear(width, outputs)

    def forward(self, visible, reference, order, table, masked_only):
        """Features after the last norm, in the order of ``order``.

        Attention does not care about order, so tokens stay where they are cheapest: visible ones first, then the masked.

        Args:
            visible: (B, V, E) encoded tokens of the masked picture.  reference: (R, N, E), B a multiple of R.
            order: (B, N) patch of each token, the V visible ones first.
            table: (N, C) of sincos_table, or (N, 2 * head width) of rope_table where the decoder is rotary.
            masked_only: leave the visible tokens out once nothing looks at them any more.
        Returns:
            (B, N, C), or (B, N - V, C) with masked_only.
        """
        batch, seen = visible.shape[:2]
        kind = self.mask_token.dtype  # the sum that runs through the blocks stays in float32 under autocast
        hidden = self.mask_token.expand(batch, order.shape[1] - seen, -1)
        x = torch.cat([self.embed(visible).to(kind), hidden], 1)
        y = self.embed(reference).to(kind)
        rope_x = rope_y = None
        if self.rotary:
            rope_x, rope_y = table[order].unsqueeze(1), table
        else:
            x, y = x + table[order], y + table
        for i, block in enumerate(self.blocks):
            last = i == len(self.blocks) - 1
            x = block(x, y, rope_x, rope_y, first=seen if last and masked_only else 0)
        return self.norm(x)
