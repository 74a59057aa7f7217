"""Python's garbage collector, by hand.

Left alone it stops a step whenever it likes, and each rank another step.
"""

import gc
from collections.abc import Iterable, Iterator
from typing import TypeVar

Step = TypeVar("Step")
EVERY = (
    200  # steps between collections; what is there at the first one is never looked through again
)


def between(steps: Iterable[Step], every: int = EVERY) -> Iterator[Step]:
    """Yield from ``steps``, with garbage collected between them.

    After the first, then after every so many, and never else.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        for count, step in enumerate(steps):
            yield step
            if count % every == 0:
                gc.collect()
            if count == 0:
                gc.freeze()
    finally:
        gc.unfreeze()
        if was:
            gc.enable()
