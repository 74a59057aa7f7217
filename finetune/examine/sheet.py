"""The contact sheet: a failure a row, as it was found, as it is, and new samples of its region."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from finetune.examine.judge import Look
from finetune.person import Person
from finetune.viz.draw import GAP, INK, MARGIN, PALE, TRUTH, paint, views

TILE = 220
COLUMNS = ("image", "found", "true", "from the side; orange: true")
NEW = 4  # new samples a row
LINE = 19
FOUND_COLOUR, TRUE_COLOUR = (169, 188, 208), TRUTH


@dataclass
class Row:
    """A region on the sheet: its failure, new samples of it, and lines of text."""

    failure: Look
    fresh: Sequence[Look]
    lines: Sequence[str]


def draw_sheet(rows: Sequence[Row], title: str, unit: str) -> Image.Image:
    """Return the sheet of regions."""
    width = (len(COLUMNS) + NEW) * (TILE + GAP) - GAP + 2 * MARGIN
    head = 3 * LINE
    height = [TILE + GAP + LINE * (1 + len(row.lines)) + MARGIN for row in rows]
    out = Image.new("RGB", (width, head + sum(height) + MARGIN), "white")
    pen, y = ImageDraw.Draw(out), head
    font, small = ImageFont.load_default(15), ImageFont.load_default(13)
    pen.text((MARGIN, MARGIN // 2), title, INK, ImageFont.load_default(18))
    for i, name in enumerate((*COLUMNS, "new samples of the region, with what was found")):
        pen.text((MARGIN + i * (TILE + GAP), 2 * LINE), name, PALE, small)
    for row, tall in zip(rows, height, strict=True):
        tiles = [*_draw_failure(row.failure), *(_overlay(look, look.found) for look in row.fresh)]
        for i, tile in enumerate(tiles[: len(COLUMNS) + NEW]):
            out.paste(Image.fromarray(tile), (MARGIN + i * (TILE + GAP), y))
        shown = [row.failure, *row.fresh[:NEW]]
        for i, look in zip((0, *range(len(COLUMNS), len(COLUMNS) + NEW)), shown, strict=False):
            error = look.sample.error
            words = "too little seen" if error is None else f"{error:.0f} {unit}"
            pen.text((MARGIN + i * (TILE + GAP), y + TILE + 2), words, INK, small)
        for n, line in enumerate(row.lines):
            pen.text((MARGIN, y + TILE + LINE * (n + 1)), line, INK, font)
        y += tall
    return out


def _draw_failure(look: Look) -> list[np.ndarray]:
    person, truth = look.found, look.truth
    shift = truth.joints[0] - person.joints[0]
    moved = replace(truth, vertices=truth.vertices - shift)
    side, _ = views(person, TILE, moved)
    return [_scale(look.image), _overlay(look, person), _overlay(look, truth, TRUE_COLOUR), side]


def _overlay(look: Look, person: Person, colour: tuple[int, int, int] = FOUND_COLOUR) -> np.ndarray:
    K = np.diag([TILE / look.image.shape[1], TILE / look.image.shape[0], 1.0]) @ person.intrinsics
    placed = replace(person, intrinsics=K)
    return paint(_scale(look.image), [placed], [colour])


def _scale(image: np.ndarray) -> np.ndarray:
    return np.array(Image.fromarray(image).resize((TILE, TILE), Image.Resampling.BICUBIC))
