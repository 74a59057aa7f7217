"""Outlines of people that a detector or somebody found, given to a head beside the image.

They are optional wherever they are taken. A head gets cells finer than its tokens: 1 within the
outline, -1 outside of it, 0 of all cells where nobody knows it. In training the clips' own masks
stand for found ones, with the faults of detectors: they are shifted, too thick or too thin, rough,
with holes and with pieces of something else.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from data.cropping.geometry import Size, Square
from data.cropping.host import cut_square
from data.find.detection import PersonMask

CELLS = 4  # along a token's side
SHIFT = 0.015  # of the image's side, at most either way
BLUR = 0.06  # of the image's side: how wide an outline is smoothed before a level of it is taken
LEVELS = 0.25, 0.75  # of the smoothed outline: lower ones are thick, higher ones are thin
ROUGH_SHARE = 0.3  # of outlines that come from cells of ROUGH_CELLS a side
ROUGH_CELLS = 24
HOLE_SHARE, PIECE_SHARE = 0.25, 0.2  # of outlines with a hole, and with a piece of something else
RADII = 0.03, 0.13  # of holes and pieces, of the image's side
# Columns of the uniform numbers of a crop (data.loading.appearance_keys.MASK_DRAWS).
SHARE, SHIFT_X, SHIFT_Y, LEVEL, ROUGH, HOLE, PIECE = 0, 1, 2, 3, 4, slice(5, 9), slice(9, 13)

FoundMask = PersonMask | np.ndarray | None


def make_masks(
    person: torch.Tensor, known: torch.Tensor, u: torch.Tensor, share: float, grid: tuple[int, int]
) -> torch.Tensor:
    """Return (B, R, C) cells of outlines as a detector would find them.

    Args:
        person: (B, 1, H, W) in [0, 1], how far each pixel of the images shows the person.
        known: (B,) bool, whether that is known.
        u: (B, MASK_DRAWS) uniform numbers.
        share: of crops that are given an outline at all.
        grid: (rows, columns) of tokens.
    """
    given = known & (u[:, SHARE] < share)
    return pool_masks(spoil_masks(person, u), grid) * given[:, None, None]


def spoil_masks(person: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Return (B, 1, H, W), 0 or 1: true masks with the faults of detectors; see ``make_masks``."""
    rows, columns = person.shape[2:]
    longer = max(rows, columns)
    rough = F.interpolate(
        F.adaptive_avg_pool2d(person, ROUGH_CELLS), (rows, columns), mode="bilinear"
    )
    found = torch.where(_broad(u[:, ROUGH] < ROUGH_SHARE), (rough > 0.5).float(), person)
    found = _shift(found, SHIFT * longer * (2 * u[:, SHIFT_X : SHIFT_Y + 1] - 1))
    half = max(1, round(BLUR * longer / 2))
    smooth = F.avg_pool2d(F.pad(found, (half,) * 4, mode="replicate"), 2 * half + 1, stride=1)
    low, high = LEVELS
    found = (smooth > _broad(low + (high - low) * u[:, LEVEL])).float()
    found = found * (1 - _draw_discs(u[:, HOLE], HOLE_SHARE, (rows, columns)))
    return torch.maximum(found, _draw_discs(u[:, PIECE], PIECE_SHARE, (rows, columns)))


def pool_masks(person: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Return (B, R, C) from -1 to 1, CELLS a token's side, of (B, 1, H, W) from 0 to 1."""
    cells = (grid[0] * CELLS, grid[1] * CELLS)
    return 2 * F.adaptive_avg_pool2d(person, cells)[:, 0] - 1


def place_masks(
    found: Sequence[FoundMask], squares: Sequence[Square], size: Size, grid: tuple[int, int]
) -> torch.Tensor:
    """Return (n, R, C) cells of what was found in an image.

    Args:
        found: of each crop a PersonMask, or (H, W) of the image's pixels, not 0 on the person; None
            where nothing is known.
        squares: of the crops.  size: of their images.  grid: (rows, columns) of tokens.
    """
    out = torch.zeros(len(squares), grid[0] * CELLS, grid[1] * CELLS)
    for row, mask, square in zip(out, found, squares, strict=True):
        if mask is None:
            continue
        inside = mask
        if isinstance(mask, PersonMask):
            inside, corner = mask.inside, mask.square[:2]
            scale = len(inside) / float(mask.square[2] - mask.square[0])
            x, y = (np.array([square.x, square.y]) - corner) * scale
            square = Square(float(x), float(y), square.side * scale, square.angle)
        pixels = np.repeat((np.asarray(inside) != 0).astype(np.uint8)[..., None] * 255, 3, 2)
        cut = torch.from_numpy(cut_square(pixels, square, size)[..., 0]).float() / 255
        row.copy_(pool_masks(cut[None, None], grid)[0])
    return out


def mirror_masks(masks: torch.Tensor, flip: torch.Tensor) -> torch.Tensor:
    """(B, R, C) for images of which ``flip`` (B,) are mirrored."""
    return torch.where(flip[:, None, None], masks.flip(-1), masks)


def _shift(masks: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """(B, 1, H, W) moved by (B, 2) pixels, whole ones."""
    rows, columns = masks.shape[2:]
    x = torch.arange(columns, device=masks.device) - pixels[:, :1].round().long()
    y = torch.arange(rows, device=masks.device) - pixels[:, 1:].round().long()
    x, y = x.clamp(0, columns - 1), y.clamp(0, rows - 1)
    batch = torch.arange(len(masks), device=masks.device)[:, None, None]
    return masks[:, 0][batch, y[:, :, None], x[:, None, :]][:, None]


def _draw_discs(u: torch.Tensor, share: float, sides: tuple[int, int]) -> torch.Tensor:
    """(B, 1, H, W), 1 within a disc that a share of the images has. ``u``: (B, 4)."""
    rows, columns = sides
    longer = max(sides)
    low, high = RADII
    x = torch.arange(columns, device=u.device) + 0.5 - columns * u[:, 1:2]
    y = torch.arange(rows, device=u.device) + 0.5 - rows * u[:, 2:3]
    radius = longer * (low + (high - low) * u[:, 3])
    inside = x[:, None, :].square() + y[:, :, None].square() < radius.square()[:, None, None]
    return (inside & (u[:, 0] < share)[:, None, None])[:, None].float()


def _broad(values: torch.Tensor) -> torch.Tensor:
    return values[:, None, None, None]
