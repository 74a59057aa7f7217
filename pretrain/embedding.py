"""A head that says a whole image, by some of its patches, in a few 3D vectors."""

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from pretrain.config import EmbeddingConfig


class Embedding(nn.Module):
    """From an encoder's tokens to vectors in the frame of the image's camera.

    Each token is read at its own place, for a mean over places would lose how a person stands.
    """

    def __init__(self, encoder_width: int, patches: int, config: "EmbeddingConfig") -> None:
        super().__init__()
        self.patches, self.points = patches, config.points
        self.read = nn.Linear(encoder_width, config.token_width)
        self.layers = nn.Sequential(
            nn.Linear(patches * config.token_width, config.width),
            nn.GELU(),
            nn.Linear(config.width, config.width),
            nn.GELU(),
            nn.Linear(config.width, 3 * config.points),
        )

    def forward(self, tokens: torch.Tensor, places: torch.Tensor | None) -> torch.Tensor:
        """(B, points, 3) of tokens (B, V, C).

        Args:
            places: (B, V) long, the patch of each token; None: all, in their order. Patches that
                are not there are zeros.
        """
        read = self.read(tokens)
        if places is not None:
            whole = read.new_zeros(len(read), self.patches, read.shape[-1])
            read = whole.scatter(1, places[..., None].expand_as(read), read)
        return self.layers(read.flatten(1)).unflatten(1, (self.points, 3))

    def count_flops(self) -> int:
        """Operations of an image, a multiply-add counted as two, all patches being there."""
        linear = [layer for layer in self.modules() if isinstance(layer, nn.Linear)]
        times = [self.patches, *(1 for _ in linear[1:])]
        return sum(2 * n * layer.weight.numel() for n, layer in zip(times, linear, strict=True))
