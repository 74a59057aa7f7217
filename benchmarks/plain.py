"""The baseline of benchmarks/step.py: the same network as one would first write it down, after
CroCo's own code.

Attention is written out, masking is boolean, every token goes through the whole decoder and the
head, targets are made for all patches, images come as float32. Names and orders of weights are
CroCo's, so that pretrain/weights.py carries them over; tests/test_step.py holds loss and gradients
equal to ours.
"""

import torch
import torch.nn.functional as F
from torch import nn

from pretrain.config import ModelConfig

EPSILON = 1e-6


class Rotation(nn.Module):
    """Rotary positions in two dimensions: the first half of a head rotates by the row, the second
    by the column."""

    def __init__(self, base: float) -> None:
        super().__init__()
        self.base = base

    def forward(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Return tokens (B, heads, N, C) rotated by their positions (B, N, 2), long."""
        y, x = tokens.chunk(2, -1)
        return torch.cat(
            [self._rotate(y, positions[..., 0]), self._rotate(x, positions[..., 1])], -1
        )

    def _rotate(self, tokens: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        channels = tokens.shape[-1]
        frequency = 1.0 / self.base ** (
            torch.arange(0, channels, 2, device=tokens.device).float() / channels
        )
        angle = position[..., None].float() * frequency
        angle = torch.cat([angle, angle], -1)[:, None]
        one, two = tokens.chunk(2, -1)
        return tokens * angle.cos() + torch.cat([-two, one], -1) * angle.sin()


class Attention(nn.Module):
    """Self-attention, written out."""

    def __init__(self, width: int, heads: int, rotation: Rotation | None) -> None:
        super().__init__()
        self.heads, self.scale, self.rotation = heads, (width // heads) ** -0.5, rotation
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Return (B, N, C) tokens that attended to each other."""
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if self.rotation:
            q, k = self.rotation(q, positions), self.rotation(k, positions)
        attention = (q @ k.transpose(-2, -1) * self.scale).softmax(-1)
        return self.proj((attention @ v).transpose(1, 2).reshape(batch, tokens, width))


class CrossAttention(nn.Module):
    """Attention of one image's tokens to another's, written out."""

    def __init__(self, width: int, heads: int, rotation: Rotation | None) -> None:
        super().__init__()
        self.heads, self.scale, self.rotation = heads, (width // heads) ** -0.5, rotation
        self.projq, self.projk, self.projv, self.proj = (nn.Linear(width, width) for _ in range(4))

    def forward(
        self, x: torch.Tensor, y: torch.Tensor, positions: torch.Tensor, positions_y: torch.Tensor
    ) -> torch.Tensor:
        """Return tokens x (B, N, C) that attended to y (B, M, C)."""

        def split(tokens: torch.Tensor) -> torch.Tensor:
            return tokens.reshape(*tokens.shape[:2], self.heads, -1).transpose(1, 2)

        q, k, v = split(self.projq(x)), split(self.projk(y)), split(self.projv(y))
        if self.rotation:
            q, k = self.rotation(q, positions), self.rotation(k, positions_y)
        attention = (q @ k.transpose(-2, -1) * self.scale).softmax(-1)
        return self.proj((attention @ v).transpose(1, 2).reshape(x.shape))


class Mlp(nn.Module):
    """Two linear layers with GELU between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (B, N, C) of (B, N, C)."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """A block of the encoder."""

    def __init__(self, width: int, heads: int, hidden: int, rotation: Rotation | None) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, EPSILON), nn.LayerNorm(width, EPSILON)
        self.attn, self.mlp = Attention(width, heads, rotation), Mlp(width, hidden)

    def forward(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Return tokens (B, N, C) after the block."""
        x = x + self.attn(self.norm1(x), positions)
        return x + self.mlp(self.norm2(x))


class DecoderBlock(nn.Module):
    """A block of the decoder: tokens attend to each other, then to the reference's."""

    def __init__(self, width: int, heads: int, hidden: int, rotation: Rotation | None) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3, self.norm_y = (
            nn.LayerNorm(width, EPSILON) for _ in range(4)
        )
        self.attn, self.cross_attn = (
            Attention(width, heads, rotation),
            CrossAttention(width, heads, rotation),
        )
        self.mlp = Mlp(width, hidden)

    def forward(
        self, x: torch.Tensor, y: torch.Tensor, positions: torch.Tensor, positions_y: torch.Tensor
    ) -> torch.Tensor:
        """Return tokens x (B, N, C) after the block; y (B, M, C) are the reference's."""
        x = x + self.attn(self.norm1(x), positions)
        x = x + self.cross_attn(self.norm2(x), self.norm_y(y), positions, positions_y)
        return x + self.mlp(self.norm3(x))


class PatchEmbed(nn.Module):
    """A convolution that takes each patch to a token."""

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return tokens (B, N, C) of images (B, 3, H, W)."""
        return self.proj(images).flatten(2).transpose(1, 2)


class Plain(nn.Module):
    """As pretrain.model.CrossCompletion with the loss of pretrain.patch_loss behind it.

    Args:
        config: pretrain.config.ModelConfig.
    """

    positions: torch.Tensor
    enc_pos_embed: torch.Tensor
    dec_pos_embed: torch.Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config, self.grid = config, config.grid()
        e, d, ratio = config.encoder, config.decoder, config.mlp_ratio
        rotation = Rotation(config.rope_base) if config.position == "rope" else None
        self.patch_embed = PatchEmbed(config.patch, e.width)
        self.enc_blocks = nn.ModuleList(
            Block(e.width, e.heads, int(e.width * ratio), rotation) for _ in range(e.depth)
        )
        self.enc_norm = nn.LayerNorm(e.width, EPSILON)
        self.decoder_embed = nn.Linear(e.width, d.width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, d.width))
        self.dec_blocks = nn.ModuleList(
            DecoderBlock(d.width, d.heads, int(d.width * ratio), rotation) for _ in range(d.depth)
        )
        self.dec_norm = nn.LayerNorm(d.width, EPSILON)
        self.prediction_head = nn.Linear(d.width, 3 * config.patch**2)
        rows, columns = self.grid
        patches = torch.arange(rows * columns)
        self.register_buffer(
            "positions", torch.stack([patches // columns, patches % columns], 1), persistent=False
        )
        if config.position == "cosine":
            self.register_buffer("enc_pos_embed", torch.zeros(rows * columns, e.width))
            self.register_buffer("dec_pos_embed", torch.zeros(rows * columns, d.width))

    def encode(self, images: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return tokens (B, V, C) where ``mask`` (B, N) is False, and their positions (B, V, 2)."""
        x = self.patch_embed(images)
        if self.config.position == "cosine":
            x = x + self.enc_pos_embed
        positions = self.positions.expand(len(x), -1, -1)[~mask].view(len(x), -1, 2)
        x = x[~mask].view(len(x), -1, x.shape[-1])
        for block in self.enc_blocks:
            x = block(x, positions)
        return self.enc_norm(x), positions

    def forward(self, a: torch.Tensor, b: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return (B, N, P*P*3): a prediction for every patch."""
        seen, _ = self.encode(a, mask)
        y, positions = self.encode(b, torch.zeros_like(mask))
        seen, y = self.decoder_embed(seen), self.decoder_embed(y)
        x = self.mask_token.expand(*mask.shape, -1).clone().to(seen.dtype)
        x[~mask] = seen.flatten(0, 1)
        if self.config.position == "cosine":
            x, y = x + self.dec_pos_embed, y + self.dec_pos_embed
        for block in self.dec_blocks:
            x = block(x, y, positions, positions)
        return self.prediction_head(self.dec_norm(x))

    def patches(self, images: torch.Tensor) -> torch.Tensor:
        """Return the patches (B, N, P*P*3) of (B, 3, H, W)."""
        patch, (rows, columns) = self.config.patch, self.grid
        x = images.reshape(len(images), 3, rows, patch, columns, patch)
        return x.permute(0, 2, 4, 3, 5, 1).reshape(len(images), rows * columns, -1)

    def loss(
        self,
        a: torch.Tensor,
        b: torch.Tensor,
        mask: torch.Tensor,
        person: torch.Tensor,
        kind: str,
        background: float,
    ) -> torch.Tensor:
        """Return the mean over the batch of each image's weighted error on masked patches.

        Args:
            mask: (B, N) bool.  person: (B, N) share of person.  kind, background: objective.target,
                .background_weight.
        """
        target = self.patches(a)
        if kind != "none":
            axes = {"patch": -1, "image": (1, 2)}[kind]
            mean, variance = target.mean(axes, keepdim=True), target.var(axes, keepdim=True)
            target = (target - mean) / (variance + 1e-6) ** 0.5
        error = ((self(a, b, mask).float() - target) ** 2).mean(-1)
        weight = (background + (1 - background) * person) * mask
        return ((error * weight).sum(1) / weight.sum(1).clamp(min=1e-6)).mean()
