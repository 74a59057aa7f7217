"""Where words go in a drawing so that none covers another."""

from collections.abc import Iterator, Sequence

import numpy as np

RINGS_PX = (0, 16, 24, 34, 46, 60, 78, 100, 130)  # from where a label is wanted
WAYS = 12  # directions in which a ring is tried
Box = tuple[float, float, float, float]


def place_labels(
    wanted: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    taken: Sequence[Box],
    page: tuple[int, int],
) -> list[tuple[float, float] | None]:
    """Return the middle of each label, as near to where it is wanted as there is room.

    Labels are placed in their order, and cover neither each other nor what is taken.

    Args:
        wanted: (x, y) pixels of each middle.  sizes: width and height of each.
        taken: x0, y0, x1, y1 of what must stay free.  page: width and height.
    Returns:
        None for a label that no place is left for.
    """
    covered = list(taken)
    out: list[tuple[float, float] | None] = []
    for middle, size in zip(wanted, sizes, strict=True):
        place = next(
            (
                (x, y)
                for x, y in _list_places(middle)
                if _is_free(make_box((x, y), size), covered, page)
            ),
            None,
        )
        if place is not None:
            covered.append(make_box(place, size))
        out.append(place)
    return out


def make_box(middle: tuple[float, float], size: tuple[float, float]) -> Box:
    """Return x0, y0, x1, y1 of a label by its middle."""
    (x, y), (width, height) = middle, size
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def do_overlap(one: Box, other: Box) -> bool:
    """Whether two boxes share any area."""
    apart_x = one[2] <= other[0] or other[2] <= one[0]
    apart_y = one[3] <= other[1] or other[3] <= one[1]
    return not (apart_x or apart_y)


def _list_places(middle: tuple[float, float]) -> Iterator[tuple[float, float]]:
    for radius in RINGS_PX:
        for angle in np.arange(WAYS if radius else 1) * 2 * np.pi / WAYS:
            yield (
                middle[0] + radius * float(np.cos(angle)),
                middle[1] + radius * float(np.sin(angle)),
            )


def _is_free(box: Box, covered: Sequence[Box], page: tuple[int, int]) -> bool:
    inside = box[0] >= 0 and box[1] >= 0 and box[2] <= page[0] and box[3] <= page[1]
    return inside and not any(do_overlap(box, other) for other in covered)
