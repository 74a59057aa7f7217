"""Sums over frames, from which all numbers follow, with intervals over scenes.

Each number is a ratio of sums. NMJE and NMVE are the mean error of who was found over F1, as AGORA
defines them (Patel et al., CVPR 2021; its script rounds F1 to 0.01 first, nothing is rounded here).
Frames of one scene show the same people at the same place, so that whole scenes are drawn with
replacement: 95 % percentile intervals, as of finetune.evaluation.metrics.bootstrap.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from finetune.evaluation.metrics import DRAWS, INTERVAL, Interval
from finetune.evaluation.protocols.coco import SIGMAS
from finetune.evaluation.scene.frame_scores import ERRORS, FrameScores
from finetune.evaluation.scene.groups import Group, list_groups
from finetune.evaluation.scoring.oks import (
    AREAS,
    RECALLS,
    THRESHOLDS,
    Matches,
    Objects,
    match_image,
    similarities,
)

COUNTS = ("people", "found", "false", "pairs", "ordered", "in_order", "apart")
SUMS = (*COUNTS, *ERRORS)
# Key: name, unit, which is better.
METRICS = {
    "precision": ("precision", "", "higher"),
    "recall": ("recall", "", "higher"),
    "f1": ("F1", "", "higher"),
    "nmve": ("NMVE", "mm", "lower"),
    "nmje": ("NMJE", "mm", "lower"),
    "mve": ("MVE", "mm", "lower"),
    "mpjpe": ("MPJPE", "mm", "lower"),
    "pa_mpjpe": ("PA-MPJPE", "mm", "lower"),
    "pve": ("PVE, by area", "mm", "lower"),
    "translation": ("place", "mm", "lower"),
    "depth": ("depth", "mm", "lower"),
    "order": ("order of depths", "", "higher"),
    "apart": ("distance of two", "mm", "lower"),
    "ap": ("AP (OKS)", "", "higher"),
    "ar": ("AR (OKS)", "", "higher"),
}
OF_FALSE = ("precision", "f1", "nmve", "nmje", "ap")  # which need to know who is nobody
DRAWS_AP = 400  # each takes a thousand times as long as one of a mean
SEED = 0


@dataclass(eq=False)
class SceneAp:
    """What AP is computed from, of one group: D detections of all frames, best first.

    Attributes:
        hit, counted: (T, D) bool at each of oks.THRESHOLDS.
        scene: (D,) number of each detection's scene.
        wanted: (S,) people of each scene.
    """

    hit: np.ndarray
    counted: np.ndarray
    scene: np.ndarray
    wanted: np.ndarray

    def average(self, weights: np.ndarray) -> tuple[float, float]:
        """Return AP and AR where each scene comes (S,) ``weights`` times.

        NaN where nobody is wanted.
        """
        wanted = float(weights @ self.wanted)
        if not wanted:
            return float("nan"), float("nan")
        if not len(self.scene):
            return 0.0, 0.0
        each = weights[self.scene]
        right = np.cumsum((self.hit & self.counted) * each, 1)
        wrong = np.cumsum((~self.hit & self.counted) * each, 1)
        # As oks.summarise_matches, of detections that come several times each.
        precision = right / (wrong + right + np.spacing(1))
        envelope = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
        total = 0.0
        for row in range(len(THRESHOLDS)):
            places = np.searchsorted(right[row] / wanted, RECALLS, side="left")
            inside = places < len(each)
            total += float(envelope[row, places[inside]].sum())
        return total / (len(THRESHOLDS) * len(RECALLS)), float(right[:, -1].mean()) / wanted


@dataclass(eq=False)
class SceneSums:
    """All that the table is computed from.

    Attributes:
        frames: keys, in order.  scenes: names of the S scenes.
        values: {key of a group: (S, len(SUMS)) float64}.
        detections: {key of a group: its SceneAp}.
    """

    frames: list[str]
    scenes: list[str]
    values: dict[str, np.ndarray]
    detections: dict[str, SceneAp]


def add_up(scores: Sequence[FrameScores]) -> SceneSums:
    """Return the sums of all frames."""
    scenes = list(dict.fromkeys(one.scene for one in scores))
    numbers = {scene: number for number, scene in enumerate(scenes)}
    values, detections = {}, {}
    for group in list_groups():
        rows = np.zeros((len(scenes), len(SUMS)))
        for one in scores:
            rows[numbers[one.scene]] += _sum_frame(one, group)
        values[group.key] = rows
        detections[group.key] = _gather_detections(scores, group, numbers)
    return SceneSums([one.key for one in scores], scenes, values, detections)


def _sum_frame(scores: FrameScores, group: Group) -> np.ndarray:
    chosen = group.choose(scores)
    hit = chosen & scores.hit
    # A pair belongs to where both its people do, of groups that split a frame to either's.
    near = chosen[scores.pairs].all(1) if group.whole else chosen[scores.pairs].any(1)
    ordered = near & scores.ordered
    false = scores.false if group.takes_frame(scores) else 0
    counts = (
        chosen.sum(),
        hit.sum(),
        false,
        near.sum(),
        ordered.sum(),
        (ordered & scores.in_order).sum(),
        scores.apart[near].sum(),
    )
    return np.array([*counts, *(scores.errors[name][hit].sum() for name in ERRORS)], np.float64)


def _gather_detections(
    scores: Sequence[FrameScores], group: Group, numbers: Mapping[str, int]
) -> SceneAp:
    """Each frame's detections matched by OKS; people outside of the group are ignored."""
    wanted = np.zeros(len(numbers))
    parts: list[Matches] = []
    scene: list[np.ndarray] = []
    for one in scores:
        if group.whole and not group.takes_frame(one):
            continue
        ignored = np.ones(len(one.objects.ids), bool)
        ignored[one.numbers[group.choose(one)]] = False
        objects = Objects(**{**vars(one.objects), "ignored": ignored | one.objects.ignored})
        oks = similarities(one.detections, objects, SIGMAS)
        found = match_image(one.detections, objects, oks, AREAS[0])
        number = numbers[one.scene]
        wanted[number] += found.wanted
        parts.append(found)
        scene.append(np.full(len(found.scores), number))
    none = np.zeros((len(THRESHOLDS), 0), bool)
    listed = np.concatenate([np.zeros(0), *(part.scores for part in parts)])
    order = np.argsort(-listed, kind="stable")
    hit = np.concatenate([none, *(part.hit for part in parts)], 1)[:, order]
    ignored = np.concatenate([none, *(part.ignored for part in parts)], 1)[:, order]
    places = np.concatenate([np.zeros(0, np.int64), *scene]).astype(np.int64)[order]
    return SceneAp(hit, ~ignored, places, wanted)


def compute(sums: np.ndarray, group: Group) -> dict[str, np.ndarray]:
    """Return {metric, but AP and AR: (...)} of (..., len(SUMS)) sums.

    NaN where there is nothing.
    """
    total = {name: sums[..., place] for place, name in enumerate(SUMS)}
    people, found, false = total["people"], total["found"], total["false"]
    with np.errstate(invalid="ignore", divide="ignore"):
        out = {
            "precision": found / (found + false),
            "recall": found / people,
            "f1": found / (found + 0.5 * (false + people - found)),
        }
        out |= {name: total[name] / found for name in ERRORS}
        out["nmve"], out["nmje"] = out["mve"] / out["f1"], out["mpjpe"] / out["f1"]
        out["order"] = total["in_order"] / total["ordered"]
        out["apart"] = total["apart"] / total["pairs"]
    if not group.whole:
        out |= {name: np.full_like(people, np.nan) for name in OF_FALSE if name in out}
    return out


def summarise(sums: SceneSums) -> list[dict]:
    """Return a row a group that has people: key, name, people, scenes, and values with bounds."""
    rows = []
    for group in list_groups():
        there = sums.values[group.key]
        if not there[:, 0].any():
            continue
        row = {
            "key": group.key,
            "name": group.name,
            "people": int(there[:, 0].sum()),
            "found": int(there[:, 1].sum()),
            "false": int(there[:, 2].sum()) if group.whole else None,
            "pairs": int(there[:, 4].sum()),
            "scenes": int((there[:, 0] > 0).sum()),
            "values": _measure([sums], group),
        }
        rows.append(row)
    return rows


def compare(one: SceneSums, other: SceneSums) -> list[dict]:
    """Return a row a group: {"key", "values": ``one`` minus ``other`` with paired bounds}.

    Both are of the same scenes, in order.
    """
    return [
        {"key": group.key, "values": _measure([one, other], group)}
        for group in list_groups()
        if one.values[group.key][:, 0].any()
    ]


def _measure(both: Sequence[SceneSums], group: Group) -> dict[str, Interval]:
    """Values of one result, or differences of two, whose scenes are drawn together."""
    count = len(both[0].scenes)
    there = int((both[0].values[group.key][:, 0] > 0).sum())
    drawn = np.random.default_rng(SEED).multinomial(count, np.full(count, 1 / count), DRAWS)
    once = np.ones((1, count))
    weights = np.concatenate([once, drawn])
    tables = [compute(weights @ one.values[group.key], group) for one in both]
    few = weights[: DRAWS_AP + 1]
    for table, one in zip(tables, both, strict=True):
        average = one.detections[group.key].average
        table["ap"], table["ar"] = np.array([average(each) for each in few]).T
        if not group.whole:
            table["ap"] = np.full(len(few), np.nan)
    out = {}
    for name in METRICS:
        values = tables[0][name] if len(both) == 1 else tables[0][name] - tables[1][name]
        out[name] = _bound(values, there)
    return out


def _bound(values: np.ndarray, scenes: int) -> Interval:
    """The first is the value, the others are draws; draws in which there is nothing are left out.

    None where there is nothing.

    Args:
        scenes: with people of the group; of one there are no bounds.
    """
    value, draws = float(values[0]), values[1:]
    draws = draws[np.isfinite(draws)]
    if not np.isfinite(value):
        return {"mean": None, "low": None, "high": None}
    if scenes < 2 or not len(draws):
        return {"mean": value, "low": None, "high": None}
    low, high = np.percentile(draws, INTERVAL)
    return {"mean": value, "low": float(low), "high": float(high)}
