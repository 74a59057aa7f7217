"""Rows of images with words under them: what the sheets of single people and of scenes share."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from finetune.viz.draw import GAP, INK, MARGIN, PALE

LINE = 19


@dataclass
class TileRow:
    """A row of a sheet.

    Attributes:
        tiles: (image (H, W, 3) uint8, a few words) from the left.
        lines: of text, below.
    """

    tiles: Sequence[tuple[np.ndarray, str]]
    lines: Sequence[str]


def draw_rows(
    rows: Sequence[TileRow], heads: Sequence[str], columns: int, tile: int, title: str
) -> Image.Image:
    """Return a sheet of rows.

    Args:
        heads: words over the columns, from the left.  columns: as many are drawn of a row at most.
        tile: side of an image's place in pixels; a larger image shrinks into it.
    """
    heights = [tile + GAP + LINE * (1 + len(row.lines)) + MARGIN for row in rows]
    y = 3 * LINE
    size = columns * (tile + GAP) - GAP + 2 * MARGIN, y + sum(heights) + MARGIN
    out = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(out)
    font, small = ImageFont.load_default(15), ImageFont.load_default(13)
    pen.text((MARGIN, MARGIN // 2), title, INK, ImageFont.load_default(18))
    for i, name in enumerate(heads):
        pen.text((MARGIN + i * (tile + GAP), 2 * LINE), name, PALE, small)
    for row, height in zip(rows, heights, strict=True):
        for i, (pixels, words) in enumerate(row.tiles[:columns]):
            x = MARGIN + i * (tile + GAP)
            image = Image.fromarray(pixels)
            image.thumbnail((tile, tile), Image.Resampling.LANCZOS)
            out.paste(image, (x + (tile - image.width) // 2, y + (tile - image.height) // 2))
            pen.text((x, y + tile + 2), words, INK, small)
        for n, line in enumerate(row.lines):
            pen.text((MARGIN, y + tile + LINE * (n + 1)), line, INK, font)
        y += height
    return out
