"""Features of an image where a mesh lies in it: mesh-aligned evidence, as PyMAF names it.

Where the vertices of an answer are projected, features are read off a grid that is finer than the
tokens (Zhang et al., "PyMAF: 3D Human Pose and Shape Regression with Pyramidal Mesh Alignment
Feedback Loop", ICCV 2021). A vertex beside the person then sees background, and a head that mends
its answer is told so (finetune/heads/mending.py).
"""

import torch
from torch import nn

CELLS = 4  # along a token's side
CHANNELS = 8  # of a place


class AlignedFeatures(nn.Module):
    """Tokens and places in the image to what queries are changed by.

    Args:
        width: channels of a token.  grid: (rows, columns) of tokens.  points: P, places that are
            read.  queries: (Q, channels) of the head's queries.
    """

    def __init__(
        self, width: int, grid: tuple[int, int], points: int, queries: tuple[int, int]
    ) -> None:
        super().__init__()
        self.grid, self.queries = grid, queries
        self.layer = nn.Linear(width, CELLS * CELLS * CHANNELS)
        channels = queries[1]
        self.first = nn.Linear(points * (CHANNELS + 2), 2 * channels)
        self.last = nn.Linear(2 * channels, queries[0] * channels)

    def reset(self) -> None:
        """Make a network that goes on with it the one that it was without."""
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def refine(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, N, C) tokens -> (B, rows, columns, CHANNELS) of cells finer than tokens."""
        fine = self.layer(tokens).unflatten(1, self.grid).unflatten(-1, (CELLS, CELLS, CHANNELS))
        # b row column y x f -> b (row y) (column x) f
        return fine.transpose(2, 3).flatten(3, 4).flatten(1, 2)

    def forward(self, fine: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """(B, Q, channels) to be added to the queries.

        Args:
            fine: of ``refine``.
            places: (B, P, 2) x and y about the image's middle over its longer side.
        """
        seen = sample_places(fine, places)
        told = torch.cat([seen, places.clamp(-1, 1).to(seen.dtype)], -1)
        hidden = nn.functional.gelu(self.first(told.flatten(1)))
        return self.last(hidden).unflatten(1, self.queries)


def sample_places(fine: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """(B, P, F) features between the cells' middles, linearly; 0 beyond the image.

    By matrices of weights: torch's grid_sample has no deterministic gradient on a GPU.

    Args:
        fine: (B, R, C, F).  places: (B, P, 2) x and y about the middle over the longer side.
    """
    rows, columns = fine.shape[1:3]
    longer = max(rows, columns)
    across = _weigh(places[..., 0] * longer + columns / 2, columns).to(fine.dtype)
    down = _weigh(places[..., 1] * longer + rows / 2, rows).to(fine.dtype)
    along = torch.einsum("bpr,brcf->bpcf", down, fine)
    return torch.einsum("bpc,bpcf->bpf", across, along)


def _weigh(at: torch.Tensor, cells: int) -> torch.Tensor:
    """(B, P, cells) weights of the cells about a place in cells from the image's edge.

    Within half a cell of the edge the outermost cell stands alone.
    """
    middles = torch.arange(cells, device=at.device) + 0.5
    inside = (at >= 0) & (at <= cells)
    held = at.clamp(0.5, cells - 0.5)
    weights = (1 - (middles - held[..., None]).abs()).clamp_min(0)
    return weights * inside[..., None]
