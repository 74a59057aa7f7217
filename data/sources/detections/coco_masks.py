"""Outlines of people as COCO stores them: polygons, and run lengths that are not compressed."""

from collections.abc import Mapping

import cv2
import numpy as np

from data.cropping.geometry import square_around
from data.find.detection import PersonMask
from data.sources.detections.source import as_numbers
from data.sources.tables import read_number
from engine.errors import UserError

SIDE = 128  # cells of a mask's side
_FINE = 4  # samples along a cell's side
MARGIN = 1.1  # of the mask's square around the box
MOST_CELLS = 100_000_000  # of a mask of run lengths: more is a mistake, or meant to do harm


def read_outline(segmentation: object, box: np.ndarray, where: str) -> PersonMask | None:
    """The outline of an annotation, None where it is compressed or empty.

    Args:
        segmentation: polygons [[x0, y0, x1, y1, ...], ...], or {counts, size}.
        box: (4,) of the person.  where: the place in the file, for messages.
    Raises:
        UserError: it is neither.
    """
    square = square_around(box, MARGIN).box
    if isinstance(segmentation, list):
        inside = _fill(segmentation, square, where)
    elif isinstance(segmentation, dict) and isinstance(segmentation.get("counts"), list):
        inside = _cut(unroll_runs(segmentation, where), square)
    else:
        return None
    return PersonMask(square, inside) if inside.any() else None


def _fill(polygons, square, where):
    """(SIDE, SIDE) bool: cells of the square that lie mostly in one of the polygons."""
    fine = SIDE * _FINE
    canvas = np.zeros((fine, fine), np.uint8)
    for polygon in polygons:
        numbers = as_numbers(polygon, where, "segmentation")
        if len(numbers) < 6 or len(numbers) % 2:
            raise UserError(f"{where}: a polygon of {len(numbers)} numbers; 6 or more, x and y")
        points = (numbers.reshape(-1, 2) - square[:2]) * (fine / (square[2] - square[0])) - 0.5
        points = np.clip(points * 16, -(2**24), 2**24).round().astype(np.int32)
        cv2.fillPoly(canvas, [points], 1, shift=4)
    return canvas.reshape(SIDE, _FINE, SIDE, _FINE).mean((1, 3)) > 0.5


def unroll_runs(runs: Mapping[str, object], where: str) -> np.ndarray:
    """(H, W) uint8 of run lengths down the columns, of outside and inside in turn.

    Args:
        runs: {counts, size}.  where: the place in the file, for messages.
    Raises:
        UserError: they are not of their image.
    """
    counts = as_numbers(runs["counts"], where, "segmentation.counts")
    size = runs.get("size")
    if not isinstance(size, list) or len(size) != 2:
        raise UserError(f"{where}: 'segmentation.size' is not [height, width]")
    height, width = (int(read_number(value, where, "segmentation.size")) for value in size)
    if not 0 < height * width <= MOST_CELLS or (counts < 0).any() or counts.sum() != height * width:
        raise UserError(
            f"{where}: run lengths of {counts.sum():g} pixels in an image of {width}x{height}"
        )
    values = np.arange(len(counts), dtype=np.uint8) % 2
    return np.repeat(values, counts.astype(np.int64)).reshape(width, height).T


def _cut(mask, square):
    """(SIDE, SIDE) bool of the square's part of a mask of the image."""
    centres = (np.arange(SIDE) + 0.5) / SIDE * (square[2] - square[0])
    x, y = (np.floor(start + centres).astype(int) for start in square[:2])
    height, width = mask.shape
    there = ((y >= 0) & (y < height))[:, None] & ((x >= 0) & (x < width))
    taken = mask[np.clip(y, 0, height - 1)][:, np.clip(x, 0, width - 1)]
    return there & (taken > 0)
