"""What rows of several seeds say together: differences of two arms, paired by seed and clip.

Each difference d[s, c] of seed s and clip c is seen once. Seeds and clips are both drawn from many, so the mean's variance
is estimated as var(means of seeds) / S + var(means of clips) / C. That counts what neither explains twice, so it is never too
small on average (Cameron and Miller, 2015, who treat clusters in two directions, subtract it). Degrees of freedom: Welch and
Satterthwaite.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import t

LEVEL, POWER = 0.95, 0.8


@dataclass
class Difference:
    """Mean of a - b with its interval at LEVEL; bounds are nan of one seed."""

    mean: float
    low: float
    high: float
    seeds: int
    clips: int
    spread: float  # standard deviation of the seeds' means

    @property
    def tells(self):
        """Whether zero is outside the interval."""
        return bool(self.low > 0 or self.high < 0)


def difference(a, b):
    """The Difference of two arms.

    Args:
        a, b: (S, C) values of the same seeds and clips.
    """
    d = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    seeds, clips = d.shape
    mean, of_seeds = float(d.mean()), d.mean(1)
    if seeds < 2 or clips < 2:
        return Difference(mean, np.nan, np.nan, seeds, clips, np.nan)
    parts = of_seeds.var(ddof=1) / seeds, d.mean(0).var(ddof=1) / clips
    half = _quantile(1 - (1 - LEVEL) / 2, parts, seeds, clips) * sum(parts) ** 0.5
    return Difference(mean, mean - half, mean + half, seeds, clips, float(of_seeds.std(ddof=1)))


def detectable(spread, seeds):
    """The least true difference that so many seeds show at LEVEL in POWER of studies, of clips as many as one likes.

    Args:
        spread: standard deviation over seeds of the paired difference.
    Returns:
        in the unit of ``spread``; infinite of one seed.
    """
    if seeds < 2:
        return float("inf")
    return float((t.ppf(1 - (1 - LEVEL) / 2, seeds - 1) + t.ppf(POWER, seeds - 1)) * spread / seeds ** 0.5)


def power_law(x, y):
    """(a, b, c) of y = a * x**-b + c with c >= 0, by least squares on a grid of b; of at least 3 points.

    Returns:
        floats; b in 0.05 .. 2.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    best = None
    for b in np.linspace(0.05, 2, 196):
        basis = np.stack([x ** -b, np.ones_like(x)], 1)
        (a, c), *_ = np.linalg.lstsq(basis, y, rcond=None)
        if c < 0:
            a, c = float((basis[:, 0] @ y) / (basis[:, 0] @ basis[:, 0])), 0.0
        left = float(((a * x ** -b + c - y) ** 2).sum())
        if best is None or left < best[0]:
            best = left, float(a), float(b), float(c)
    return best[1:]


def _quantile(share, parts, seeds, clips):
    total = sum(parts)
    if not total:
        return 0.0
    freedom = total ** 2 / sum(part ** 2 / (count - 1) for part, count in zip(parts, (seeds, clips), strict=True))
    return float(t.ppf(share, freedom))
