"""The rows of a study, and what they say of each arm and of two arms together."""

from dataclasses import replace
from typing import Any

import numpy as np

from engine.errors import UserError
from engine.paired_stats import (
    Difference,
    Seeds,
    compare_alone,
    compare_over_clips,
    compare_paired,
    pool_seeds,
)
from studies import plan
from studies.config import REAL, Claim, StudyConfig

METRICS = (
    ("finetuned", "px", "2D, px"),
    ("finetuned", "mpjpe", "MPJPE"),
    ("finetuned", "pa_mpjpe", "PA"),
    ("frozen", "mpjpe", "frozen MPJPE"),
    ("frozen", "pa_mpjpe", "frozen PA"),
)
# Those that rows have since they were measured too; nothing is refused for want of them.
LATER_METRICS = (
    ("two_views", "mpjpe", "two views MPJPE"),
    ("two_views", "pa_mpjpe", "two views PA"),
    ("two_views_decoder", "mpjpe", "decoder's two views MPJPE"),
    ("two_views_decoder", "pa_mpjpe", "decoder's two views PA"),
    ("relative_rotation", "degrees", "rotation between views, deg"),
    ("relative_rotation_decoder", "degrees", "decoder's rotation, deg"),
    ("relative_rotation_products", "degrees", "rotation off products, deg"),
    ("real", "percent", "off, % of the box"),
    ("real", "missed", "missed, %"),
    ("real_fitted", "percent", "fitted to other scenes: off, % of the box"),
    ("real_fitted", "missed", "missed, %"),
    ("real_later", "percent", "fitted to the scene's first part: off, % of the box"),
    ("real_later", "missed", "missed, %"),
)
Rows = dict[plan.Row, dict[str, Any]]
Curve = list[tuple[int, np.ndarray]]  # (labelled clips or pairs, (S,) error of each seed)

NAMES = {
    "px": "2D, px",
    "mpjpe": "MPJPE, mm",
    "pa_mpjpe": "PA-MPJPE, mm",
    "degrees": "degrees",
    "percent": "distance, % of the person's box",
    "missed": "100 - PCK@0.2, %",
}
HOWS = {
    "finetuned": "fine-tuned",
    "frozen": "frozen",
    "two_views": "two views, frozen encoder",
    "two_views_decoder": "two views, frozen decoder",
    "relative_rotation": "rotation between two views, frozen encoder",
    "relative_rotation_decoder": "rotation between two views, frozen decoder",
    "relative_rotation_products": "rotation between two views, products of frozen features",
    "real": "keypoints of real crops, frozen, fitted to synthetic people",
    "real_fitted": "keypoints of real crops, frozen, fitted to other real scenes",
    "real_later": "keypoints of real crops, frozen, fitted to earlier ones of the scene",
}


def read_rows(config: StudyConfig) -> Rows:
    """Return {Row: dict} of all rows that are there.

    Whatever part of the study the config now asks for.

    Raises:
        UserError: a line is no row, or one that the study would make in another way now, or of
            other people than the rest.
    """
    there: Rows = {}
    first = None
    table = plan.open_table(config)
    for found in table.read("errors"):
        name = "a line"
        try:
            row = plan.Row(found["arm"], found["seed"], found["share"])
            name = row.name
            if row.arm not in config.arms:
                continue
            place = plan.place_of(config, row)
            plan.refuse_other(config, row, found, place)
            for test in config.tests:
                for how, metric, _ in list_metrics(config):
                    found["tests"][test][how][metric]  # a KeyError where it is not there
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{table.path}: {name} is no row of this study ({type(error).__name__}: {error}); "
                f"{plan.ANEW}"
            ) from None
        who = plan.people_of_row(config, found)
        first = first or (place, who)
        plan.refuse_other_people(first[1], who, place, first[0])
        first = first[0], {**who, **first[1]}  # real clips come with the first row that has some
        there[row] = found
    return there


def list_metrics(config: StudyConfig) -> list[tuple[str, str, str]]:
    """Return those of METRICS that the study has."""
    return [one for one in METRICS if config.finetune or one[0] == "frozen"]


def list_shown_metrics(config: StudyConfig, there: Rows, test: str) -> list[tuple[str, str, str]]:
    """Return what is shown of a test: list_metrics, and those of LATER_METRICS that some row has.

    Of real crops the latter alone.
    """
    has = {how for row in there.values() for how in row["tests"].get(test, ())}
    always = [] if test == REAL else list_metrics(config)
    return [*always, *(one for one in LATER_METRICS if one[0] in has)]


def list_seeds(
    there: Rows, arm: str, share: float, read: tuple[str, str] | None = None
) -> set[int]:
    """Return the seeds that an arm has rows of.

    ``read``: a test and a read-out that they are to have; rows from before it was measured lack it.
    """
    return {
        row.seed
        for row, found in there.items()
        if row.arm == arm
        and row.share == share
        and (read is None or read[1] in found["tests"].get(read[0], ()))
    }


def stack_values(
    there: Rows, arm: str, share: float, seeds: set[int], test: str, how: str, metric: str
) -> np.ndarray:
    """Return (S, C) values of an arm, a seed a row."""
    return np.array(
        [there[plan.Row(arm, seed, share)]["tests"][test][how][metric] for seed in sorted(seeds)]
    )


def compare_arms(
    there: Rows, one: str, other: str, share: float, test: str, how: str, metric: str
) -> Difference | None:
    """Return the Difference one - other over the seeds that both have.

    None where there are none.
    """
    seeds = set.intersection(*(list_seeds(there, arm, share, (test, how)) for arm in (one, other)))
    if not seeds:
        return None
    known = estimate_seed_variance(there, share, test, how, metric)
    mine, theirs = (
        stack_values(there, arm, share, seeds, test, how, metric) for arm in (one, other)
    )
    return compare_paired(mine, theirs, None if {one, other} & known.odd else known)


def compare_claim(there: Rows, claim: Claim) -> Difference | None:
    """Return the Difference arm - minus of a claim, by the rows of its two arms alone.

    Paired by seed and clip over the seeds that both have; of one seed over clips alone, which says
    nothing of other seeds. None where there are none.
    """
    sides = ((claim.arm, claim.how), (claim.minus, claim.minus_how))
    seeds = set.intersection(
        *(list_seeds(there, arm, claim.share, (claim.test, how)) for arm, how in sides)
    )
    if not seeds:
        return None
    mine, theirs = (
        stack_values(there, arm, claim.share, seeds, claim.test, how, claim.metric)
        for arm, how in sides
    )
    if mine.shape != theirs.shape:
        raise UserError(
            f"claims.{claim.name} compares {mine.shape[1]} clips of {claim.arm}, {claim.how}, with "
            f"{theirs.shape[1]} of {claim.minus}, {claim.minus_how}: clips are compared one by one"
        )
    if len(seeds) == 1:
        return compare_over_clips(mine[0], theirs[0])
    return compare_alone(mine, theirs)


def estimate_seed_variance(there: Rows, share: float, test: str, how: str, metric: str) -> Seeds:
    """Return the stats.Seeds of all arms of a share.

    Arms that share a pre-training have one frozen encoder, which counts once.
    """
    arms: dict[str, dict[int, float]] = {}
    same: dict[str, list[str]] = {}
    for row, found in there.items():
        if row.share == share and how in found["tests"].get(test, ()):
            arms.setdefault(row.arm, {})[row.seed] = float(
                np.mean(found["tests"][test][how][metric])
            )
    for arm in sorted(
        arms, key=lambda name: -len(arms[name])
    ):  # that with most seeds stands for the others
        like = next((other for other in same if arms[arm].items() <= arms[other].items()), arm)
        same.setdefault(like, []).append(arm)
    found = pool_seeds({arm: arms[arm] for arm in same})
    return replace(found, odd=frozenset(name for arm in found.odd for name in same[arm]))


def find_usual_share(there: Rows) -> float:
    """Return the share of labels that most rows have."""
    shares = [row.share for row in there]
    return max(sorted(set(shares)), key=shares.count)


def trace_labels(
    config: StudyConfig, there: Rows, test: str, how: str, metric: str
) -> dict[str, Curve]:
    """Return the errors of arms with several label shares.

    {title of an arm: [(labelled clips, (S,) error of each seed), ...]}.
    """
    found = {}
    for arm in config.arms:
        shares = sorted({row.share for row in there if row.arm == arm})
        found[arm_title(config, arm)] = [
            _point(there, plan.Row(arm, 0, share), "labelled_clips", test, how, metric)
            for share in shares
        ]
    return {name: points for name, points in found.items() if len(points) > 1}


def trace_pairs(
    config: StudyConfig, there: Rows, test: str, how: str, metric: str
) -> dict[str, Curve]:
    """Return the errors of the curves against pairs, of the least label share.

    {name of a curve: [(pairs of pre-training, (S,) error of each seed), ...]}.
    """
    found = {}
    for arm, spec in config.arms.items():
        shares = {row.share for row in there if row.arm == arm}
        if spec.curve and shares:
            found.setdefault(spec.curve, []).append(
                _point(there, plan.Row(arm, 0, min(shares)), "pairs", test, how, metric)
            )
    return {
        name: sorted(points, key=lambda point: point[0])
        for name, points in found.items()
        if len(points) > 1
    }


def _point(
    there: Rows, row: plan.Row, against: str, test: str, how: str, metric: str
) -> tuple[int, np.ndarray]:
    seeds = list_seeds(there, row.arm, row.share)
    first = there[plan.Row(row.arm, min(seeds), row.share)]
    counts = first["pretrain"] if against == "pairs" else first
    errors = stack_values(there, row.arm, row.share, seeds, test, how, metric)
    return counts[against], errors.mean(1)


def arm_title(config: StudyConfig, arm: str) -> str:
    """Return an arm's name in tables."""
    return config.arms[arm].title or arm
