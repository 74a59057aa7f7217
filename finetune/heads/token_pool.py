"""All tokens of an image side by side, in their places on a coarse grid."""

import torch
import torch.nn.functional as F
from torch import nn

GRID = 7  # images of any size are pooled to it


class TokenPool(nn.Module):
    """(B, N, C) tokens to (B, width) numbers.

    Args:
        channels: C.  grid: (rows, columns) of tokens.  kept: channels that are left of each.

    Attributes:
        width: of what it gives.
    """

    def __init__(self, channels: int, grid: tuple[int, int], kept: int) -> None:
        super().__init__()
        rows, columns = min(GRID, grid[0]), min(GRID, grid[1])
        # Pooling as a matrix: torch's own has no deterministic gradient on a GPU.
        cells = torch.eye(grid[0] * grid[1]).unflatten(1, grid)[:, None]
        pool = F.adaptive_avg_pool2d(cells, (rows, columns)).flatten(1).T.contiguous()
        self.register_buffer("_pool", pool, persistent=False)
        self.compress = nn.Linear(channels, kept)
        self.width = rows * columns * kept

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Returns (B, width); see the class."""
        return (self._pool @ self.compress(tokens)).flatten(1)
