"""The contact sheet of scenes: a failure a row, with who was missed, and new ones of its region."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from finetune.evaluation.scene.draw import draw_frame
from finetune.examine.scene_judge import SceneLook
from finetune.examine.tiles import TileRow, draw_rows

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
    heads = (*COLUMNS, "new scenes of the region")
    drawn = [TileRow(_draw_row(row, unit), row.lines) for row in rows]
    return draw_rows(drawn, heads, len(COLUMNS) + NEW, TILE, title)


def _draw_row(row: SceneRow, unit: str) -> list[tuple[np.ndarray, str]]:
    shown = [row.failure, *row.fresh]
    tiles = [(_draw_look(look), _tell_look(look, unit)) for look in shown]
    return [(row.failure.true.image, ""), *tiles]


def _draw_look(look: SceneLook) -> np.ndarray:
    return draw_frame(look.true, look.found, look.scores)


def _tell_look(look: SceneLook, unit: str) -> str:
    sample = look.sample
    if sample.error is None:
        return "nobody counts"
    counts = [int(sample.errors[name]) for name in ("wanted", "lost", "false")]
    return f"{sample.error:.0f} {unit}; people {counts[0]}, missed {counts[1]}, false {counts[2]}"
