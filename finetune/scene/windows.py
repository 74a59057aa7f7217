"""What a query reads about its place: features at points some decimetres apart around it.

Attention alone stays near the mean body for hours, where a linear projection of features that lie
side by side in their places learns within minutes (finetune/heads/model_based.py). For a person
somewhere in an image that is a window as large as the person looks: how many metres a token spans
there is said by the token itself. Where a window's points are farther apart than tokens, a point
stands for the tokens around it.
"""

import torch
from torch import nn

# Metres from the anchor, mostly a head, to the right and down the image.
ACROSS_M = tuple(-1.05 + 0.3 * step for step in range(8))
DOWN_M = tuple(-0.45 + 0.3 * step for step in range(8))


class WindowReader(nn.Module):
    """Tokens and places to what queries start from.

    Args:
        width: channels of a token.  channels: that are read of each point.  out: of a query.
    """

    def __init__(self, width: int, channels: int, out: int) -> None:
        super().__init__()
        self.compress = nn.Linear(width, channels)
        points = len(ACROSS_M) * len(DOWN_M)
        self.read = nn.Sequential(
            nn.Linear(points * channels, 2 * out), nn.GELU(), nn.Linear(2 * out, out)
        )
        self.register_buffer("_across", torch.tensor(ACROSS_M), persistent=False)
        self.register_buffer("_down", torch.tensor(DOWN_M), persistent=False)

    def forward(
        self, tokens: torch.Tensor, grid: tuple[int, int], at: torch.Tensor, span: torch.Tensor
    ) -> torch.Tensor:
        """Return (B, Q, out).

        Args:
            tokens: (B, N, C) of a grid of (rows, columns).
            at: (B, Q, 2) x and y in tokens from the image's corner.
            span: (B, Q) the log of how many metres a token spans there.
        """
        fine = self.compress(tokens).unflatten(1, grid)
        scale = torch.exp(-span)[..., None]
        down = weigh_cells(at[..., 1:], self._down * scale, grid[0]).to(fine.dtype)
        across = weigh_cells(at[..., :1], self._across * scale, grid[1]).to(fine.dtype)
        rows = torch.einsum("bqyr,brcf->bqycf", down, fine)
        return self.read(torch.einsum("bqxc,bqycf->bqyxf", across, rows).flatten(2))


def weigh_cells(at: torch.Tensor, steps: torch.Tensor, cells: int) -> torch.Tensor:
    """Return (B, Q, P, cells) weights of the cells about places, by matrices.

    torch's grid_sample has no deterministic gradient on a GPU. A triangle as wide as the steps
    between the places, one cell at least; together 1 within the image, less across its edge.

    Args:
        at: (B, Q, 1), steps: (B, Q, P) from it, in cells.
    """
    middles = torch.arange(cells, device=at.device) + 0.5
    wide = (steps[..., 1:2] - steps[..., :1]).clamp_min(1)[..., None]
    apart = (middles - (at + steps)[..., None]).abs() / wide
    return (1 - apart).clamp_min(0) / wide
