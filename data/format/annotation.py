"""What a data set's own protocol asks for beside labels: of COCO and InterHand2.6M."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass
class Annotation:
    """Numbers, boxes and areas of N crops as annotated; those of one crop have no first dimension.

    Attributes:
        number: (N,) int64, by which the data set knows each annotation.
        box: (N, 4) float32 x0, y0, x1, y1 of the person, pixels of the image that was cut, or None.
        area: (N,) float32 square pixels of that image, or None.
    """

    number: np.ndarray
    box: np.ndarray | None = None
    area: np.ndarray | None = None

    def at(self, crop: int) -> "Annotation":
        """Return that of one crop."""
        box = None if self.box is None else self.box[crop]
        return Annotation(self.number[crop], box, None if self.area is None else self.area[crop])

    def pack(self) -> dict[str, np.ndarray]:
        """Return the arrays of data.format.labels."""
        out: dict[str, np.ndarray] = {"annotation": np.asarray(self.number, np.int64)}
        for name, values in (("box", self.box), ("area", self.area)):
            if values is not None:
                out[f"annotation_{name}"] = np.asarray(values, np.float32)
        return out


def stack_annotations(values: Sequence[Annotation | None]) -> Annotation | None:
    """Return those of all crops together; a part that one of them lacks is left out."""
    there = [value for value in values if value is not None]
    if not there or len(there) < len(values):
        return None
    boxes = [value.box for value in there if value.box is not None]
    areas = [value.area for value in there if value.area is not None]
    return Annotation(
        np.array([value.number for value in there], np.int64),
        np.stack(boxes).astype(np.float32) if len(boxes) == len(there) else None,
        np.array(areas, np.float32) if len(areas) == len(there) else None,
    )
