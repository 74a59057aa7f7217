"""Python's garbage collector, by hand: left alone it stops a step whenever it likes, and each rank another step."""

import contextlib
import gc

EVERY = 200  # steps between collections; what is there at the first one is never looked through again


@contextlib.contextmanager
def by_hand(every=EVERY):
    """Within it nothing is collected but by the function it gives, which is called after each step."""
    was, count = gc.isenabled(), 0

    def after_step():
        nonlocal count
        if count % every == 0:
            gc.collect()
        if count == 0:
            gc.freeze()
        count += 1

    gc.disable()
    try:
        yield after_step
    finally:
        gc.unfreeze()
        if was:
            gc.enable()
