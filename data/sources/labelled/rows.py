"""A reader's way through its data set: how far it is, and a few rows spread over all of it.

A reader goes through its rows by ``self.follow(rows)``, and through rows within a row by another:

    for sequence in self.follow(sequences):
        for frame in self.follow(frames_of(sequence)):
            yield LabelledImage(...)

The command then knows how much is left, and ``--check`` sees rows from all over the data set
without reading the rest.
"""

from collections.abc import Iterator, Sequence
from typing import TypeVar

Row = TypeVar("Row")

SPREAD_OUTER, SPREAD_INNER = 400, 16  # rows that a look at a data set takes at most, at each level


class Rows:
    """Where a reader is.

    Attributes:
        spread: rows come in an order that is spread over all of them, and not all of them come.
        enough: set by who wants no more of the outermost row; the rows within it end.
        outer: how many outermost rows there are; 0 before the first, or without ``follow``.
    """

    def __init__(self, spread: bool = False) -> None:
        self.spread = spread
        self.enough = False
        self.outer = 0
        self._levels: list[list[int]] = []
        self._ended = False

    @property
    def share(self) -> float:
        """How much of the data set has been read, 0 to 1."""
        if self._ended:
            return 1.0
        share, width = 0.0, 1.0
        for done, total in self._levels:
            share += width * done / total
            width /= total
        return share

    @property
    def place(self) -> int:
        """Which outermost row is being read, in the order in which they come."""
        return self._levels[0][0] if self._levels else 0

    def follow(self, rows: Sequence[Row]) -> Iterator[Row]:
        """Yield the rows, and note which one is being read."""
        depth = len(self._levels)
        order: Sequence[int] = range(len(rows))
        if self.spread:
            most = SPREAD_INNER if depth else SPREAD_OUTER
            order = spread_places(len(rows), most, self.place if depth else 0)
        if not depth:
            self.outer = len(rows)
        level = [0, max(1, len(order))]
        self._levels.append(level)
        try:
            for place in order:
                if not depth:
                    self.enough = False
                elif self.enough:
                    return
                yield rows[place]
                level[0] += 1
            self._ended = not depth
        finally:
            del self._levels[depth:]


def spread_places(count: int, most: int, first: int = 0) -> list[int]:
    """Return up to ``most`` of ``count`` places, any number of the first ones spread over all.

    Args:
        first: which of them comes first, so that equal lists need not begin alike.
    """
    chosen = min(count, most)
    if not chosen:
        return []
    places = [(2 * number + 1) * count // (2 * chosen) for number in range(chosen)]
    bits = max(1, (chosen - 1).bit_length())
    # Numbers with their bits reversed: 0, 1/2, 1/4, 3/4, 1/8 and so on of the whole.
    order = [int(f"{number:0{bits}b}"[::-1], 2) for number in range(1 << bits)]
    turned = [places[number] for number in order if number < chosen]
    start = first % chosen
    return turned[start:] + turned[:start]
