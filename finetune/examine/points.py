"""What a search looks at, and what it saw there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

RANDOM, NICHE, SIMPLER, FRESH = "random", "niche", "simpler", "fresh"


@dataclass(frozen=True)
class Point:
    """A synthetic human to look at.

    Attributes:
        stage: RANDOM, NICHE, SIMPLER or FRESH.  group: number of the niche or region, else 0.
        index: number of the clip, of which everything is drawn that has no parameter.
        latents: of the parameters.
    """

    stage: str
    group: int
    index: int
    latents: tuple[float, ...]

    @property
    def array(self) -> np.ndarray:
        """Return (D,) float64 latents."""
        return np.array(self.latents)


@dataclass(frozen=True)
class Sample:
    """A point and how wrong the network is there.

    Attributes:
        error: what is searched for; None where too little of the person is seen.
        visible: share of the surface that is seen.
        errors: {metric: number}, all that were computed.
    """

    point: Point
    error: float | None
    visible: float
    errors: dict[str, float]


Ask = Callable[[Sequence[Point]], list[Sample]]


def list_errors(samples: Sequence[Sample]) -> np.ndarray:
    """(n,) of those whose error is known."""
    return np.array([sample.error for sample in samples if sample.error is not None])
