"""The search: random samples, then CMA-ES from the worst of them, then what each failure needs.

CMA-ES with a diagonal covariance (Ros and Hansen, PPSN 2008; the package cma), because a search has
about twice as many samples as there are parameters. Niches are restarts, each from another random
sample, with that sample's clip number: what has no parameter stays as it is within a niche.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from engine.errors import UserError
from finetune.examine.config import ExamineConfig
from finetune.examine.points import NICHE, RANDOM, SIMPLER, Ask, Point, Sample, list_errors

EXTRA = "pip install -e '.[examine]' -c constraints.txt"
BATCH = 12  # samples that are looked at together
MOST_LATENT = 2.6  # in the outer 1 % of a parameter's draws there is nothing more to learn
FIRST_STEP = 0.5  # of a search, in latents
QUANTILE = 95  # of random samples' errors; what is above is a failure
LEAST_LATENT = 0.25  # nearer to the middle a parameter is ordinary
KEPT_SHARE = 0.85  # of a failure's error that its simplest form keeps
LADDER = (0.2, 0.35, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.93, 0.96, 0.98, 1.0)
DRAWS, STEPS = 1, 2  # purposes of random numbers


@dataclass
class Niche:
    """One search.

    Attributes:
        samples: all of it.  best: the worst error of them.
        simple: the same failure with all parameters at their middle that it does not need.
        kept: (D,) bool, those that it needs.
        costs: (D,) how much smaller the error is with one parameter at its middle.
    """

    samples: list[Sample]
    best: Sample
    simple: Sample
    kept: np.ndarray
    costs: np.ndarray


@dataclass
class Search:
    """What was found: the random samples, those above ``limit`` are failures, and the niches."""

    random: list[Sample]
    limit: float
    niches: list[Niche]


def import_extra(name: str) -> ModuleType:
    """Return a package of the extra.

    Raises:
        UserError: it is not installed; says how to.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"examine wants the package {name.split('.')[0]}: {EXTRA}") from None


def draw(seed: int, purpose: int, number: int) -> np.random.Generator:
    """Return the numpy Generator of a purpose's number."""
    key = np.array([seed, purpose], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, number, 0, 0]))


def search(ask: Ask, dimension: int, config: ExamineConfig) -> Search:
    """Return what a search finds; ``ask`` looks at a batch of points.

    Args:
        dimension: how many parameters there are.
    Raises:
        UserError: too few random samples show enough of a person.
    """
    import_extra("cma")
    points = [
        Point(RANDOM, 0, n, tuple(draw(config.seed, DRAWS, n).normal(size=dimension).tolist()))
        for n in range(config.random)
    ]
    random = ask_in_batches(ask, points)
    errors = list_errors(random)
    if len(errors) < 2 * config.niches:
        raise UserError(
            f"visible_min={config.visible_min:g}: only {len(errors)} of {len(random)} random "
            f"samples show so much of a person, and niches={config.niches} want twice as many"
        )
    limit = float(np.percentile(errors, QUANTILE))
    worst = sorted((s for s in random if s.error is not None), key=lambda s: -(s.error or 0.0))
    scale = float(errors.std())
    niches = []
    for number, start in enumerate(worst[: config.niches]):
        samples = [start, *climb(ask, start.point, number, scale, config)]
        best = max(samples, key=lambda s: -1.0 if s.error is None else s.error)
        simple, kept, costs = simplify(ask, best, number, limit)
        niches.append(Niche(samples, best, simple, kept, costs))
    return Search(random, limit, niches)


def ask_in_batches(ask: Ask, points: Sequence[Point]) -> list[Sample]:
    """Return the samples of any number of points."""
    out: list[Sample] = []
    for at in range(0, len(points), BATCH):
        out += ask(points[at : at + BATCH])
    return out


def find_reach(dimension: int, share: float) -> float:
    """Return the length that this share of standard normal vectors of so many numbers is below."""
    from scipy.special import gammaincinv

    return float(np.sqrt(2 * gammaincinv(dimension / 2, share)))


def keep_within(latents: np.ndarray, reach: float) -> np.ndarray:
    """Return latents (D,), moved to the nearest place that is not rarer than is allowed."""
    inside = np.clip(latents, -MOST_LATENT, MOST_LATENT)
    return inside * min(1.0, reach / max(float(np.linalg.norm(inside)), 1e-9))


def climb(ask: Ask, start: Point, number: int, scale: float, config: ExamineConfig) -> list[Sample]:
    """Return the samples of one search.

    Args:
        start: where it begins.  number: of the niche.  scale: spread of random samples' errors.
    """
    cma = import_extra("cma")
    dimension = len(start.latents)
    reach = find_reach(dimension, config.reach)
    random = draw(config.seed, STEPS, number)
    options = {
        "popsize": config.population,
        "CMA_diagonal": True,
        "randn": lambda *shape: random.standard_normal(shape),
        "seed": np.nan,  # numpy's global random state is left alone
        "verbose": -9,
    }
    steps = cma.CMAEvolutionStrategy(keep_within(start.array, reach), FIRST_STEP, options)
    samples: list[Sample] = []
    for _ in range(config.budget // config.population):
        asked = steps.ask()
        inside = [keep_within(np.asarray(latents), reach) for latents in asked]
        found = ask([Point(NICHE, number, start.index, tuple(z.tolist())) for z in inside])
        samples += found
        costs = []
        for latents, z, sample in zip(asked, inside, found, strict=True):
            outside = float(((latents - z) ** 2).sum())
            unusual = np.linalg.norm(z) / np.sqrt(dimension) * config.prior + outside
            error = 0.0 if sample.error is None else sample.error
            costs.append(scale * float(unusual) - error)
        steps.tell(asked, costs)
    return samples


def simplify(
    ask: Ask, best: Sample, number: int, limit: float
) -> tuple[Sample, np.ndarray, np.ndarray]:
    """Return the simplest form of a failure, which parameters it needs, and what each one costs.

    Parameters go to their middle, the least missed first, as far as the error stays above ``limit``
    and a share of what it was.
    """
    full, point = best.point.array, best.point
    assert best.error is not None
    away = np.flatnonzero(np.abs(full) > LEAST_LATENT)
    base = np.where(np.abs(full) > LEAST_LATENT, full, 0.0)

    def place(gone: np.ndarray) -> Point:
        latents = base.copy()
        latents[gone] = 0.0
        return Point(SIMPLER, number, point.index, tuple(latents.tolist()))

    alone = ask_in_batches(ask, [place(away[j : j + 1]) for j in range(len(away))])
    costs = np.zeros(len(full))
    # Where too little is seen without a parameter, it is needed as much as any.
    costs[away] = [best.error - (0.0 if s.error is None else s.error) for s in alone]
    order = away[np.argsort(costs[away], kind="stable")]
    counts = sorted({round(share * len(order)) for share in LADDER})
    tried = ask_in_batches(ask, [place(order[:count]) for count in counts])
    chosen, gone = best, np.zeros(0, int)
    for count, sample in zip(counts, tried, strict=True):
        if sample.error is not None and sample.error >= max(limit, KEPT_SHARE * best.error):
            chosen, gone = sample, order[:count]
    kept = np.zeros(len(full), bool)
    kept[away] = True
    kept[gone] = False
    return chosen, kept, costs
