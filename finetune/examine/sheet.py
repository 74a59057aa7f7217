"""The contact sheet: a failure a row, as it was found, as it is, and new samples of its region."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from finetune.examine.judge import Look
from finetune.examine.tiles import TileRow, draw_rows
from finetune.person import Person
from finetune.viz.draw import TRUTH, paint, views

TILE = 220
COLUMNS = ("image", "found", "true", "from the side; orange: true")
NEW = 4  # new samples a row
FOUND_COLOUR, TRUE_COLOUR = (169, 188, 208), TRUTH


@dataclass
class Row:
    """A region on the sheet: its failure, new samples of it, and lines of text."""

    failure: Look
    fresh: Sequence[Look]
    lines: Sequence[str]


def draw_sheet(rows: Sequence[Row], title: str, unit: str) -> Image.Image:
    """Return the sheet of regions."""
    heads = (*COLUMNS, "new samples of the region, with what was found")
    drawn = [TileRow(_draw_row(row, unit), row.lines) for row in rows]
    return draw_rows(drawn, heads, len(COLUMNS) + NEW, TILE, title)


def _draw_row(row: Row, unit: str) -> list[tuple[np.ndarray, str]]:
    image, *more = _draw_failure(row.failure)
    tiles = [(image, _tell_error(row.failure, unit)), *((tile, "") for tile in more)]
    return tiles + [(_overlay(look, look.found), _tell_error(look, unit)) for look in row.fresh]


def _tell_error(look: Look, unit: str) -> str:
    error = look.sample.error
    return "too little seen" if error is None else f"{error:.0f} {unit}"


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
