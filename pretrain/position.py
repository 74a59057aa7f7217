"""Where a patch is.

Fixed sine-cosine vectors that are added, or angles that queries and keys are rotated by.

A grid is (rows, columns); patches are counted row by row from 0. Tables are computed in float64 and
stored in float32.
"""

import torch


def sincos_table(grid: tuple[int, int], width: int) -> torch.Tensor:
    """(rows * columns, width) sine-cosine vectors, as in MAE and CroCo.

    The first half of the channels tells the column, the second the row; inside a half the sines
    come before the cosines, at frequencies 10000^(-i / (width / 4)).
    """
    row, column = _places(grid)
    frequency = _frequencies(width // 4, 10000.0)
    halves = [
        torch.cat([torch.sin(place * frequency), torch.cos(place * frequency)], 1)
        for place in (column, row)
    ]
    return torch.cat(halves, 1).float()


def rope_table(grid: tuple[int, int], head_width: int, base: float) -> torch.Tensor:
    """Return the cosine and sine of the angle that each pair of channels rotates by.

    (rows * columns, head_width / 2, 2), for ``rotate``.

    The first half of a head's channels rotates with the row, the second with the column, at
    frequencies base^(-i / (head_width / 4)). Channels 2i and 2i + 1 are one rotating pair, as in
    timm.
    """
    row, column = _places(grid)
    frequency = _frequencies(head_width // 4, base)
    angle = torch.cat([row * frequency, column * frequency], 1)
    return torch.stack([torch.cos(angle), torch.sin(angle)], 2).float()


def rotate(x: torch.Tensor, rope: torch.Tensor) -> torch.Tensor:
    """Rotate x (B, T, heads, C) by rope (T, C / 2, 2) or (B, T, C / 2, 2); returns float32.

    A pair of channels is a complex number: one multiplication reads and writes each value once,
    where sines, cosines and swapped copies take four times as long as the attention's own overhead
    (docs/log.md).
    """
    pairs, rope = x.float().unflatten(-1, (-1, 2)), rope.unsqueeze(-3)
    if torch.compiler.is_compiling():
        # Inductor does not fuse complex numbers; it fuses this.
        (one, two), (cos, sin) = pairs.unbind(-1), rope.unbind(-1)
        return torch.stack([one * cos - two * sin, two * cos + one * sin], -1).flatten(-2)
    return torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(rope)).flatten(
        -2
    )


def _places(grid):
    rows, columns = grid
    row = torch.arange(rows, dtype=torch.float64).repeat_interleave(columns)
    column = torch.arange(columns, dtype=torch.float64).repeat(rows)
    return row[:, None], column[:, None]


def _frequencies(count, base):
    return base ** (-torch.arange(count, dtype=torch.float64) / count)
