"""The contact sheet of scenes: a failure a row, with who was missed, and new ones of its region."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from finetune.evaluation.scene.draw import draw_frame
from finetune.examine.scene_judge import SceneLook
from finetune.examine.sheet import LINE
from finetune.viz.draw import GAP, INK, MARGIN, PALE

TILE = 300
COLUMNS = ("image", "true green, missed red, found blue")
NEW = 3  # new samples a row


@dataclass
class SceneRow:
    """A region on the sheet: its failure, new samples of it, and lines of text."""

    failure: SceneLook
    fresh: Sequence[SceneLook]
    lines: Sequence[str]


def draw_scene_sheet(rows: Sequence[SceneRow], title: str, unit: str) -> Image.Image:
    """Return the sheet of regions."""
    width = (len(COLUMNS) + NEW) * (TILE + GAP) - GAP + 2 * MARGIN
    head = 3 * LINE
    height = [TILE + GAP + LINE * (1 + len(row.lines)) + MARGIN for row in rows]
    out = Image.new("RGB", (width, head + sum(height) + MARGIN), "white")
    pen, y = ImageDraw.Draw(out), head
    font, small = ImageFont.load_default(15), ImageFont.load_default(13)
    pen.text((MARGIN, MARGIN // 2), title, INK, ImageFont.load_default(18))
    for i, name in enumerate((*COLUMNS, "new scenes of the region")):
        pen.text((MARGIN + i * (TILE + GAP), 2 * LINE), name, PALE, small)
    for row, tall in zip(rows, height, strict=True):
        shown = [row.failure, *row.fresh[:NEW]]
        tiles = [row.failure.true.image, *map(_draw_look, shown)]
        words = ["", *(_tell_look(look, unit) for look in shown)]
        for i, (tile, text) in enumerate(zip(tiles, words, strict=True)):
            x = MARGIN + i * (TILE + GAP)
            image = Image.fromarray(tile)
            image.thumbnail((TILE, TILE), Image.Resampling.LANCZOS)
            out.paste(image, (x + (TILE - image.width) // 2, y + (TILE - image.height) // 2))
            pen.text((x, y + TILE + 2), text, INK, small)
        for n, line in enumerate(row.lines):
            pen.text((MARGIN, y + TILE + LINE * (n + 1)), line, INK, font)
        y += tall
    return out


def _draw_look(look: SceneLook) -> np.ndarray:
    return draw_frame(look.true, look.found, look.scores)


def _tell_look(look: SceneLook, unit: str) -> str:
    sample = look.sample
    if sample.error is None:
        return "nobody counts"
    counts = [int(sample.errors[name]) for name in ("wanted", "lost", "false")]
    return f"{sample.error:.0f} {unit}; people {counts[0]}, missed {counts[1]}, false {counts[2]}"
