"""Failures as regions of the parameters: alike ones together, and new samples of each.

A region holds what its failure needs: the parameters that ``simplify`` kept, near their values. All
others are as the generator draws them, as are textures, colours and whatever else has no parameter.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.people.steered import find_share
from finetune.examine.points import FRESH, Point, Sample
from finetune.examine.search import MOST_LATENT, Niche, draw

APART = 0.5  # cosine distance from which failures are of two regions
TEST, TRAIN = 1 << 40, 1 << 41  # clips' numbers of new samples; searches have those from 0
REGION = 1 << 24  # between two regions' numbers
WITHIN = 2.0  # spreads of each parameter about its value that a region reaches
NEW = 3  # purpose of random numbers


@dataclass
class Region:
    """Niches that fail alike.

    Attributes:
        niches: numbers.  worst: the niche among them whose simplest form fails most.
    """

    niches: list[int]
    worst: Niche


def cluster(niches: Sequence[Niche], limit: float) -> list[Region]:
    """Return the regions of niches, the worst first.

    Average linkage by the cosine between the simplest forms (scipy.cluster.hierarchy). A niche that
    fails by none of its parameters, or not at all, is of no region.

    Args:
        limit: from which error on a sample is a failure.
    """
    numbers = [
        n
        for n, niche in enumerate(niches)
        if niche.kept.any() and (niche.simple.error or 0.0) > limit
    ]
    groups = [numbers]
    if len(numbers) > 1:
        from scipy.cluster.hierarchy import fcluster, linkage

        places = np.stack([np.where(niches[n].kept, _place(niches[n]), 0.0) for n in numbers])
        tree = linkage(places, method="average", metric="cosine")
        found = fcluster(tree, APART, criterion="distance")
        groups = [[n for n, f in zip(numbers, found, strict=True) if f == g] for g in set(found)]
    regions = [
        Region(group, max((niches[n] for n in group), key=lambda niche: niche.simple.error or 0.0))
        for group in groups
        if group
    ]
    return sorted(regions, key=lambda region: -(region.worst.simple.error or 0.0))


def draw_fresh(
    region: Region, number: int, count: int, first: int, spread: float, seed: int
) -> list[Point]:
    """Return new points of a region, each of a clip of its own.

    Args:
        number: of the region.  first: TEST or TRAIN.  spread: sigma about the region's values.
    """
    worst, points = region.worst, []
    for n in range(count):
        index = first + number * REGION + n
        rng = draw(seed, NEW, index)
        latents = rng.normal(size=len(worst.kept))
        near = np.clip(_place(worst) + spread * latents, -MOST_LATENT, MOST_LATENT)
        latents = np.where(worst.kept, near, latents)
        points.append(Point(FRESH, number, index, tuple(latents.tolist())))
    return points


def count_inside(region: Region, samples: Sequence[Sample], spread: float) -> int:
    """Return how many samples lie in a region."""
    worst = region.worst
    places = np.stack([sample.point.array for sample in samples])[:, worst.kept]
    near = np.abs(places - _place(worst)[worst.kept]) < WITHIN * spread
    return int(near.all(1).sum())


def find_probability(region: Region, spread: float) -> float:
    """Return the probability that a random sample lies in a region."""
    places = _place(region.worst)[region.worst.kept].tolist()
    reach = WITHIN * spread
    return math.prod(find_share(z + reach) - find_share(z - reach) for z in places)


def _place(niche: Niche) -> np.ndarray:
    return niche.simple.point.array
