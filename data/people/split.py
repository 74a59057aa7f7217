"""Which looks belong to training and which to tests.

Textures, cuts of garments, their colours, hair and photographs have names, and a name belongs to
one side. So those of a test set are such as no training set of this generator has shown, and a
network that does well there does not do so by their aid. Skin, painted backgrounds and the plain
colours of things are drawn anew on both sides.
"""

import colorsys
import hashlib
from collections.abc import Callable
from typing import TypeVar

import numpy as np

T = TypeVar("T")
LOOKS = ("few", "all", "train", "test")
TEST_ONE_OF = 5  # a fifth of all names
TRIES = 2000


def holds(looks: str, name: str) -> bool:
    """Whether ``looks``, one of LOOKS, has what is of this name."""
    if looks in ("few", "all"):
        return True
    digest = hashlib.blake2b(name.encode(), digest_size=4, person=b"looks").digest()
    is_test = int.from_bytes(digest, "little") % TEST_ONE_OF == 0
    return is_test == (looks == "test")


def draw_held(looks: str, draw: Callable[[], T], name: Callable[[T], str]) -> T:
    """The first that ``looks`` has of what ``draw`` gives.

    Raises:
        RuntimeError: none of 2000 is one: the names are too few.
    """
    for _ in range(TRIES):
        drawn = draw()
        if holds(looks, name(drawn)):
            return drawn
    raise RuntimeError(f"looks={looks}: {TRIES} draws gave nothing that belongs to it")


def name_colour(colour: np.ndarray) -> str:
    """The name of the cell that a linear RGB colour lies in: 11 greys, or hue and value."""
    hue, saturation, value = colorsys.rgb_to_hsv(*np.sqrt(np.clip(colour, 0, 1)).tolist())
    if saturation < 0.12:
        return f"grey {round(value * 10)}"
    return f"colour {int(hue * 24)} {int(saturation * 2)} {int(value * 4)}"
