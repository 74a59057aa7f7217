"""Progress bars that move on a screen, and leave a line or two a minute in a log file."""

import sys
from collections.abc import Iterator, Sequence
from typing import TypeVar

from tqdm import tqdm

SCREEN_S, FILE_S = 0.5, 30

Item = TypeVar("Item")


def bar(
    total: int | None,
    unit: str,
    initial: int = 0,
    description: str | None = None,
    hidden: bool = False,
) -> tqdm:
    """Return a tqdm bar over ``total`` units; None: nobody knows how many."""
    return tqdm(
        total=total,
        unit=unit,
        initial=initial,
        desc=description,
        disable=hidden,
        dynamic_ncols=True,
        mininterval=SCREEN_S if sys.stderr.isatty() else FILE_S,
    )


def watched(items: Sequence[Item], unit: str) -> Iterator[Item]:
    """Yield the items of a list under a bar."""
    with bar(len(items), unit) as shown:
        for item in items:
            yield item
            shown.update()
