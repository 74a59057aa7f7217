"""The rows of a study, and what they say of each arm and of two arms together."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.transfer import plan
from benchmarks.transfer.stats import difference, of_seeds
from engine.errors import UserError

METRICS = (
    ("finetuned", "px", "2D, px"),
    ("finetuned", "mpjpe", "MPJPE"),
    ("finetuned", "pa_mpjpe", "PA"),
    ("frozen", "mpjpe", "frozen MPJPE"),
    ("frozen", "pa_mpjpe", "frozen PA"),
)
NAMES = {"px": "2D, px", "mpjpe": "MPJPE, mm", "pa_mpjpe": "PA-MPJPE, mm"}


def read(config):
    """{Row: dict} of all rows that are there, whatever part of the study the config now asks for.

    Raises:
        UserError: a file is no row, or one that the study would make in another way now, or of
            other people than the rest.
    """
    there, first = {}, None
    for path in sorted((Path(config.rows) / config.name).glob("*.json")):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            row = plan.Row(found["arm"], found["seed"], found["share"])
            if row.arm not in config.arms:
                continue
            plan.refuse_other(config, row, found, path)
            for test in config.tests:
                for how, metric, _ in measured(config):
                    found["tests"][test][how][metric]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} is no row of this study ({type(error).__name__}: {error}); {plan.ANEW}"
            ) from None
        who = plan.people_of(config, found)
        first = first or (path, who)
        plan.refuse_other_people(first[1], who, path, first[0])
        there[row] = found
    return there


def measured(config):
    """Those of METRICS that the study has."""
    return [one for one in METRICS if config.finetune or one[0] == "frozen"]


def seeds_of(there, arm, share):
    return {row.seed for row in there if row.arm == arm and row.share == share}


def values(there, arm, share, seeds, test, how, metric):
    """(S, C) values of an arm, a seed a row."""
    return np.array(
        [there[plan.Row(arm, seed, share)]["tests"][test][how][metric] for seed in sorted(seeds)]
    )


def compared(there, one, other, share, test, how, metric):
    """The Difference one - other over the seeds that both have, or None where there are none."""
    seeds = seeds_of(there, one, share) & seeds_of(there, other, share)
    if not seeds:
        return None
    known = seeds_apart(there, share, test, how, metric)
    return difference(
        *(values(there, arm, share, seeds, test, how, metric) for arm in (one, other)),
        None if {one, other} & known.odd else known,
    )


def seeds_apart(there, share, test, how, metric):
    """The stats.Seeds of all arms of a share. Arms that share a pre-training have one frozen
    encoder, which counts once."""
    arms, same = {}, {}
    for row, found in there.items():
        if row.share == share:
            arms.setdefault(row.arm, {})[row.seed] = np.mean(found["tests"][test][how][metric])
    for arm in sorted(
        arms, key=lambda name: -len(arms[name])
    ):  # that with most seeds stands for the others
        like = next((other for other in same if arms[arm].items() <= arms[other].items()), arm)
        same.setdefault(like, []).append(arm)
    found = of_seeds({arm: arms[arm] for arm in same})
    return replace(found, odd=frozenset(name for arm in found.odd for name in same[arm]))


def usual_share(there):
    """The share of labels that most rows have."""
    shares = [row.share for row in there]
    return max(sorted(set(shares)), key=shares.count)


def by_labels(config, there, test, how, metric):
    """{title of an arm: [(labelled clips, (S,) error of each seed), ...]} of arms with several
    label shares."""
    found = {}
    for arm in config.arms:
        shares = sorted({row.share for row in there if row.arm == arm})
        found[title(config, arm)] = [
            _point(there, plan.Row(arm, 0, share), "labelled_clips", test, how, metric)
            for share in shares
        ]
    return {name: points for name, points in found.items() if len(points) > 1}


def by_pairs(config, there, test, how, metric):
    """{name of a curve: [(pairs of pre-training, (S,) error of each seed), ...]}, of the least
    label share."""
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


def _point(there, row, against, test, how, metric):
    seeds = seeds_of(there, row.arm, row.share)
    first = there[plan.Row(row.arm, min(seeds), row.share)]
    return (first["pretrain"] if against == "pairs" else first)[against], values(
        there, row.arm, row.share, seeds, test, how, metric
    ).mean(1)


def title(config, arm):
    """An arm's name in tables."""
    return config.arms[arm].title or arm
