"""Small draws from a numpy Generator."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def pick_one(
    rng: np.random.Generator, options: Sequence[T], weights: Sequence[float] | None = None
) -> T:
    """One of ``options``.

    Much cheaper than Generator.choice, which counts at a hundred draws a clip.
    """
    if weights is None:
        return options[int(rng.random() * len(options))]
    rest = rng.random() * sum(weights)
    for option, weight in zip(options, weights, strict=True):
        rest -= weight
        if rest < 0:
            return option
    return options[-1]
