"""Every judged person or hand drawn: the mesh on the image below what was found."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image

from data.cropping.geometry import square_around
from data.cropping.host import cut_square
from engine.geometry import crop_intrinsics
from finetune.person import Person
from finetune.referee.kinds import Kind
from finetune.referee.rows import RUN
from finetune.referee.scores import SURE
from finetune.referee.truth import Seen
from finetune.viz.draw import overlay

if TYPE_CHECKING:
    from finetune.referee.judge import JudgedPerson

TILE = 144
COLUMNS = 10
ROWS_A_SHEET = 12
RED, BLUE = (255, 60, 60), (60, 160, 255)


def save_tiles(folder: Path, name: str, tiles: Sequence[np.ndarray]) -> None:
    """Write tiles of equal size as sheets, numbered; "/" in the name becomes "-"."""
    if tiles:
        folder.mkdir(parents=True, exist_ok=True)
    size = COLUMNS * ROWS_A_SHEET
    for i in range(0, len(tiles), size):
        _save(folder / f"{name.replace('/', '-')}-{i // size:02d}.png", tiles[i : i + size])


def draw_person(image: np.ndarray, K: np.ndarray, person: "JudgedPerson", kind: Kind) -> np.ndarray:
    """(2 * TILE, TILE, 3): what was found, above the run's mesh.

    Args:
        image: (H, W, 3) uint8.  K: (3, 3) of it.
    """
    square = square_around(person.seen.box, 1.25)
    crop = cut_square(image, square, TILE)
    camera = crop_intrinsics(K, square.box, (TILE, TILE))
    found = crop.copy()
    _draw_found(found, person.seen, square.box, kind)
    answer = person.answers[RUN]
    assert answer.vertices is not None
    mesh = Person(
        kind=f"{person.seen.side}_hand" if person.seen.side else "body",
        box=np.array([0, 0, TILE, TILE]),
        vertices=answer.vertices,
        faces=person.faces[:, ::-1] if person.seen.side == "left" else person.faces,
        joints=answer.joints,
        keypoints=answer.joints,
        keypoints_2d=answer.points,
        pose=None,
        shape=None,
        translation=answer.joints.mean(0),
        intrinsics=camera,
    )
    drawn = overlay(crop, [mesh])
    words = f"{person.seen.frame} {person.values[RUN]['pck_0.2']:.2f}"
    cv2.putText(drawn, words, (3, 11), cv2.FONT_HERSHEY_SIMPLEX, 0.35, (255, 255, 0), 1)
    return np.concatenate([found, drawn])


def _draw_found(crop: np.ndarray, seen: Seen, box: np.ndarray, kind: Kind) -> None:
    scale = TILE / (box[2] - box[0])
    points = (seen.joints[:, :2] - box[:2]) * scale
    sure = seen.joints[:, 2] >= SURE
    for a, b in kind.bones:
        if sure[a] and sure[b]:
            is_right = seen.side == "right" or kind.joints[a].startswith("right")
            colour = RED if is_right else BLUE
            cv2.line(crop, _pixel(points[a]), _pixel(points[b]), colour, 2, cv2.LINE_AA)
    if seen.mask is not None and seen.square is not None:
        side = max(2, round((seen.square[2] - seen.square[0]) * scale))
        mask = cv2.resize(seen.mask.astype(np.uint8), (side, side))
        shift = _pixel((seen.square[:2] - box[:2]) * scale)
        outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE, offset=shift)
        cv2.drawContours(crop, outlines, -1, (255, 255, 0), 1)


def _pixel(point: np.ndarray) -> tuple[int, int]:
    return int(round(float(point[0]))), int(round(float(point[1])))


def _save(path: Path, tiles: Sequence[np.ndarray]) -> None:
    height, width = tiles[0].shape[:2]
    rows = -(-len(tiles) // COLUMNS)
    sheet = np.full((rows * height, min(len(tiles), COLUMNS) * width, 3), 255, np.uint8)
    for i, tile in enumerate(tiles):
        row, column = divmod(i, COLUMNS)
        sheet[row * height : (row + 1) * height, column * width : (column + 1) * width] = tile
    Image.fromarray(sheet).save(path)
