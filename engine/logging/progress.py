"""Progress bars that a person at a screen sees move, and that leave a line or two a minute in a log
file."""

import sys

from tqdm import tqdm

SCREEN_S, FILE_S = 0.5, 30


def bar(total, unit, initial=0, description=None, hidden=False):
    """A tqdm bar over ``total`` units."""
    return tqdm(
        total=total,
        unit=unit,
        initial=initial,
        desc=description,
        disable=hidden,
        dynamic_ncols=True,
        mininterval=SCREEN_S if sys.stderr.isatty() else FILE_S,
    )


def watched(items, unit):
    """Yield the items of a list under a bar."""
    with bar(len(items), unit) as shown:
        for item in items:
            yield item
            shown.update()
