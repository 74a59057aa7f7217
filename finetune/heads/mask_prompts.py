"""A person's outline that was found, read by a head beside the image (finetune/masks.py).

It changes the tokens, from which a first answer is read and which queries attend to. In each round
of finetune/heads/mending.py it is read at the places of the answer's vertices too, at three widths:
a body that is too thin has its sides deep within the outline, one that is too wide has them
outside.

All layers are without biases and the last ones begin at 0: without an outline, and before
training, a network is the one that it was.
"""

import torch
import torch.nn.functional as F
from torch import nn

from finetune.heads.aligned import sample_places
from finetune.masks import CELLS

POINTS = 192  # vertices, spread over the body, whose places are read
WIDTHS = 1, 5, 11  # cells over which the outline is a mean
HIDDEN = 64


class MaskPrompts(nn.Module):
    """Cells of an outline to what tokens and queries are changed by.

    Args:
        width: channels of a token.  grid: (rows, columns) of tokens.
        points: places that are read in a round; 0: there are no rounds.
        queries: (Q, channels) of the head's queries.
    """

    def __init__(
        self, width: int, grid: tuple[int, int], points: int, queries: tuple[int, int]
    ) -> None:
        super().__init__()
        self.grid, self.queries = grid, queries
        self.first = nn.Linear(CELLS * CELLS, HIDDEN, bias=False)
        self.last = nn.Linear(HIDDEN, width, bias=False)
        self.round_first = self.round_last = None
        if points:
            channels = queries[1]
            self.round_first = nn.Linear(points * len(WIDTHS), 2 * channels, bias=False)
            self.round_last = nn.Linear(2 * channels, queries[0] * channels, bias=False)

    def reset(self) -> None:
        """Make a network that goes on with it the one that it was without."""
        for layer in (self.last, self.round_last):
            if layer is not None:
                nn.init.zeros_(layer.weight)

    def forward(self, masks: torch.Tensor) -> torch.Tensor:
        """(B, N, C) to be added to the tokens, of (B, R, C) cells of finetune.masks."""
        cells = masks.unflatten(2, (self.grid[1], CELLS)).unflatten(1, (self.grid[0], CELLS))
        # b row y column x -> b (row column) (y x)
        cells = cells.transpose(2, 3).flatten(3).flatten(1, 2)
        return self.last(F.gelu(self.first(cells)))

    def compare(self, masks: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """(B, Q, channels) to be added to the queries of a round.

        Args:
            masks: (B, R, C).  places: (B, P, 2) x and y about the image's middle over its side.
        """
        assert self.round_first is not None and self.round_last is not None
        wide = [_average(masks, width) for width in WIDTHS]
        # Beyond the image is outside of the outline, as far as there is one.
        known = (masks != 0).any((1, 2)).to(masks.dtype)[:, None, None]
        told = (sample_places(torch.stack(wide, -1) + known[..., None], places) - known).flatten(1)
        return self.round_last(F.gelu(self.round_first(told))).unflatten(1, self.queries)


def _average(masks: torch.Tensor, width: int) -> torch.Tensor:
    """(B, R, C) means over squares of cells; beyond the image as at its edge."""
    half = width // 2
    padded = F.pad(masks[:, None], (half,) * 4, mode="replicate")
    return F.avg_pool2d(padded, width, stride=1)[:, 0]
