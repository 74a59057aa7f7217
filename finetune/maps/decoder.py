"""From tokens of several encoder layers to maps of an image, finer than the tokens.

After DPT (Ranftl et al., ICCV 2021): each layer's tokens are put back into their places at a scale
of their own, the later the coarser, and merged from coarse to fine by small convolutions. All
resizing is by matrices, for torch's own has no deterministic gradient on a GPU.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn


class MapDecoder(nn.Module):
    """Layers of tokens (B, N, C) to (B, width, rows * cells, columns * cells).

    Args:
        width: channels of the maps.  token_width: C.  grid: (rows, columns) of tokens.
        cells: samples along a token's side, a power of two.  count: of layers.
    """

    def __init__(
        self, width: int, token_width: int, grid: tuple[int, int], cells: int, count: int
    ) -> None:
        super().__init__()
        self.grid = grid
        scales = list_scales(cells, count)
        self.norms = nn.ModuleList(nn.LayerNorm(token_width) for _ in scales)
        self.places = nn.ModuleList(PlaceTokens(token_width, width, scale) for scale in scales)
        self.lateral = nn.ModuleList(ConvUnit(width) for _ in scales)
        self.merge = nn.ModuleList(ConvUnit(width) for _ in scales)
        sides = [*scales, cells]
        for number, (now, then) in enumerate(zip(sides[:-1], sides[1:], strict=True)):
            for axis, length in zip(("rows", "columns"), grid, strict=True):
                matrix = make_resizing(length * now, length * then)
                self.register_buffer(f"_{axis}_{number}", matrix, persistent=False)

    def forward(self, layers: Sequence[torch.Tensor]) -> torch.Tensor:
        """Merge layers, the encoder's first to last."""
        total = None
        for number, tokens in enumerate(reversed(layers)):
            own = self.places[number](self.norms[number](tokens), self.grid)
            total = own if total is None else total + self.lateral[number](own)
            total = self.merge[number](total)
            rows = getattr(self, f"_rows_{number}").to(total.dtype)
            columns = getattr(self, f"_columns_{number}").to(total.dtype)
            total = rows @ total @ columns.T
        if total is None:
            raise ValueError("no layers to merge")
        return total


class PlaceTokens(nn.Module):
    """Tokens to ``scale`` x ``scale`` samples each, side by side in their places."""

    def __init__(self, token_width: int, width: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.layer = nn.Linear(token_width, width * scale * scale)

    def forward(self, tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """(B, N, C) to (B, width, rows * scale, columns * scale)."""
        maps = self.layer(tokens).transpose(1, 2).unflatten(2, grid)
        return F.pixel_shuffle(maps, self.scale)


class ConvUnit(nn.Module):
    """Two convolutions beside an identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, width, H, W) likewise."""
        return maps + self.second(F.gelu(self.first(F.gelu(maps))))


def list_scales(cells: int, count: int) -> list[int]:
    """Returns samples along a token's side of each layer's own map, last layer first.

    1 for the last two, then twice as many each, up to half of ``cells``.
    """
    return [min(max(1, cells // 2), max(1, 2 ** (number - 1))) for number in range(count)]


def choose_layers(depth: int, count: int) -> tuple[int, ...]:
    """Returns ``count`` blocks of ``depth``, from 0, spread evenly, the last one among them."""
    count = min(count, depth)
    return tuple(-(-depth * (number + 1) // count) - 1 for number in range(count))


def make_resizing(old: int, new: int) -> torch.Tensor:
    """Returns (new, old) weights that resize a line bilinearly, pixels' centres at +0.5."""
    at = ((torch.arange(new) + 0.5) * old / new - 0.5).clamp(0, old - 1)
    left = at.floor().long().clamp(max=max(0, old - 2))
    share = at - left
    matrix = torch.zeros(new, old)
    rows = torch.arange(new)
    matrix[rows, left] = 1 - share
    if old > 1:
        matrix[rows, left + 1] += share
    return matrix
