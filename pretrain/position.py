"""Where a patch is.

Fixed sine-cosine vectors that are added, or angles that queries and keys are rotated by.

A grid is (rows, columns); patches are counted row by row from 0. Tables are computed in float64 and
stored in float32.
"""

import torch
import torch.nn.functional as F


def sincos_table(grid: tuple[int, int], width: int, span: float = 0.0) -> torch.Tensor:
    """(rows * columns, width) sine-cosine vectors, as in MAE and CroCo.

    With a ``span`` those of places between the ones of so many patches a side, where the middles of
    these patches lie in the same image; 0: a patch is 1.

    The first half of the channels tells the column, the second the row; inside a half the sines
    come before the cosines, at frequencies 10000^(-i / (width / 4)).
    """
    row, column = _places(grid, span, span / 2 - 0.5)
    frequency = _frequencies(width // 4, 10000.0)
    halves = [
        torch.cat([torch.sin(place * frequency), torch.cos(place * frequency)], 1)
        for place in (column, row)
    ]
    return torch.cat(halves, 1).float()


def rope_table(
    grid: tuple[int, int], head_width: int, base: float, span: float = 0.0
) -> torch.Tensor:
    """Return the cosine and sine of the angle that each pair of channels rotates by.

    (rows * columns, head_width / 2, 2), for ``rotate``.

    The first half of a head's channels rotates with the row, the second with the column, at
    frequencies base^(-i / (head_width / 4)). Channels 2i and 2i + 1 are one rotating pair, as in
    timm.

    With a ``span`` places run from -span / 2 to span / 2 across each side of the image, 0 in its
    middle, as DINOv3 has it (arXiv 2508.10104) with a span of 4 pi; 0: a patch is 1.
    """
    row, column = _places(grid, span, 0.0)
    frequency = _frequencies(head_width // 4, base)
    angle = torch.cat([row * frequency, column * frequency], 1)
    return torch.stack([torch.cos(angle), torch.sin(angle)], 2).float()


def resample(vectors: torch.Tensor, grid: tuple[int, int], wanted: tuple[int, int]) -> torch.Tensor:
    """Learnt position vectors (1, rows * columns, C) of a grid, for another one.

    Bicubic, smoothed where the other is smaller, as timm's resample_abs_pos_embed does.
    """
    if grid == wanted:
        return vectors
    places = vectors.float().unflatten(1, grid).permute(0, 3, 1, 2)
    found = F.interpolate(places, size=wanted, mode="bicubic", antialias=True)
    return found.permute(0, 2, 3, 1).flatten(1, 2).to(vectors.dtype)


def rotate(x: torch.Tensor, rope: torch.Tensor) -> torch.Tensor:
    """Rotate x (B, T, heads, C) by rope (T, C / 2, 2) or (B, T, C / 2, 2); returns float32.

    A pair of channels is a complex number: one multiplication reads and writes each value once,
    where sines, cosines and swapped copies take four times as long as the attention's own overhead
    (docs/log.md).
    """
    pairs, rope = x.float().unflatten(-1, (-1, 2)), rope.unsqueeze(-3)
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        # Inductor does not fuse complex numbers, and ONNX has none; this they know.
        (one, two), (cos, sin) = pairs.unbind(-1), rope.unbind(-1)
        return torch.stack([one * cos - two * sin, two * cos + one * sin], -1).flatten(-2)
    return torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(rope)).flatten(
        -2
    )


def _places(grid, span, middle):
    """Rows and columns of patches, or where along ``span`` about ``middle`` they are."""
    rows, columns = (torch.arange(count, dtype=torch.float64) for count in grid)
    if span:
        rows, columns = (((x + 0.5) / len(x) - 0.5) * span + middle for x in (rows, columns))
    row, column = rows.repeat_interleave(grid[1]), columns.repeat(grid[0])
    return row[:, None], column[:, None]


def _frequencies(count, base):
    return base ** (-torch.arange(count, dtype=torch.float64) / count)
