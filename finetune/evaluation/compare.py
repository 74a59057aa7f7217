"""``python -m finetune compare``: finished runs on the same clips, with intervals of differences.

Runs whose configs differ in the seed alone are one arm. Differences are paired by clip, and by seed
where both arms have several (engine.paired_stats); of one seed the interval is over clips alone and
says nothing of another seed. p-values are Holm's for all pairs of arms together.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from data.config import CropPairDataConfig
from engine.config.parser import flat, parse_keys, resumable_keys
from engine.errors import UserError
from engine.paired_stats import (
    LEVEL,
    Seeds,
    adjust_by_holm,
    compare_over_clips,
    compare_paired,
    pool_seeds,
)
from engine.run.files import write_file
from engine.run.patience import read_bytes
from engine.run.run_folder import RunFolder
from finetune.evaluation.clips import TestClips, collect, feed, open_test
from finetune.evaluation.metrics import columns
from finetune.evaluation.own_judge import OwnJudge, refuse_keypoints
from finetune.evaluation.selection import choose_data
from finetune.inference.predictor import Predictor
from finetune.verb_config import CompareConfig, EvaluateConfig
from pretrain import header

FORMAT = 1
# Budgets that differ by less count as equal. Seconds of a machine that others share say little.
EQUAL = {"crops": 0.02, "tokens": 0.02, "parameters": 0.02, "seconds": 0.25}
UNITS = {
    "crops": "crops seen",
    "tokens": "tokens seen",
    "parameters": "parameters",
    "seconds": "seconds of training",
}
OF_ARMS = ("init", "data.shards", "data.sources")  # resumable, and yet of another arm


@dataclass
class Budget:
    """What a run's training took.

    Attributes:
        crops: seen.  tokens: of their images: a larger image costs more.
        steps: taken, of ``planned``.  parameters: of the network.
        seconds: of training by the log's speed; None where it has none.
    """

    crops: int
    tokens: int
    steps: int
    planned: int
    parameters: int
    seconds: float | None


@dataclass
class Arm:
    """Runs that differ in the seed alone.

    Attributes:
        name: of the first one's folder.  runs: {seed: its folder}.
        budgets: {seed: Budget}.
        values: {seed: {metric: (C,) means over each clip's crops}}.
    """

    name: str
    runs: dict[int, str] = field(default_factory=dict)
    budgets: dict[int, Budget] = field(default_factory=dict)
    values: dict[int, dict[str, np.ndarray]] = field(default_factory=dict)


def main(argv: list[str]) -> int:
    """``python -m finetune compare``; returns the exit code."""
    config, runs = parse_keys(CompareConfig, argv, "finetune compare", least=2)
    found = compare(config, runs, "python -m finetune compare " + shlex.join(argv))
    place = Path(config.out or Path(runs[0]) / "compare.json")
    write_file(place, json.dumps(found, indent=1).encode())
    print(describe(found))
    print(f"wrote {place}")
    return 0


def compare(config: CompareConfig, runs: Sequence[str], command: str) -> dict[str, Any]:
    """Returns what compare.json holds (docs/finetuning.md).

    Args:
        runs: folders of fine-tuning runs.  command: what was typed.
    Raises:
        UserError: a run is named twice, two recover different bodies, no clip is left to judge by,
            or one takes no keypoints and they are to be given.
    """
    predictors = _open_runs(config, runs)
    test = _open_clips(config, predictors)
    arms: dict[str, Arm] = {}
    for run, predictor in predictors.items():
        arm = arms.setdefault(_tell_arms_apart(predictor), Arm(Path(run).name or run))
        seed = predictor.config.seed
        if seed in arm.runs:
            raise UserError(f"{run} and {arm.runs[seed]} are one arm and have one seed={seed}")
        arm.runs[seed], arm.budgets[seed] = run, _measure_budget(predictor)
        arm.values[seed] = _mean_over_clips(_judge_run(test, predictor, config.given), test.clips)
    if len(arms) < 2:
        raise UserError(
            f"{' and '.join(runs)} differ in the seed alone: there is nothing to compare"
        )
    listed = list(arms.values())
    kind = next(iter(predictors.values())).body.kind
    metrics = [one for one in columns(kind) if one["key"] in listed[0].values[min(listed[0].runs)]]
    return {
        "format": FORMAT,
        "command": command,
        "given": config.given,
        "clips": int(test.clips.max()) + 1,
        "crops": len(test.clips),
        "metrics": metrics,
        "arms": [_describe_arm(arm) for arm in listed],
        "pairs": _compare_arms(listed, [one["key"] for one in metrics]),
        "budget": list_unequal(listed),
        "notes": test.notes,
    }


def _open_runs(config: CompareConfig, runs: Sequence[str]) -> dict[str, Predictor]:
    predictors: dict[str, Predictor] = {}
    for run in runs:
        if run in predictors:
            raise UserError(f"{run} is named twice")
        predictors[run] = Predictor(run, config.device).require_mesh("compare")
        refuse_keypoints(predictors[run], config.given)
        first = next(iter(predictors))
        one, other = predictors[first].body.name, predictors[run].body.name
        if one != other:
            raise UserError(f"{run} recovers {other}, {first} recovers {one}")
    return predictors


def _open_clips(config: CompareConfig, predictors: Mapping[str, Predictor]) -> TestClips:
    first, predictor = next(iter(predictors.items()))
    asked = EvaluateConfig(first, allow_commands=config.allow_commands, data=config.data)
    data = choose_data(asked, predictor)
    if isinstance(data, CropPairDataConfig):
        raise UserError(f"{first} is of two views: evaluate judges it beside one")
    seen = [header.read_seen(one.checkpoint) for one in predictors.values()]
    return open_test(data, predictor, seen, config.clips)


def _judge_run(test: TestClips, predictor: Predictor, given: bool) -> dict[str, np.ndarray]:
    """{metric: (n,)} of a run's crops."""
    judge = OwnJudge(predictor, test.masks, given)
    feed(judge, test, predictor.device)
    return collect(judge)["model"]


def _tell_arms_apart(predictor: Predictor) -> str:
    """Text that is the same for runs which differ in the seed alone."""
    free = resumable_keys(predictor.config) | {"seed"}
    kept = {
        name: value
        for name, value in flat(predictor.config).items()
        if name not in free or name.startswith(OF_ARMS)
    }
    return json.dumps(kept, sort_keys=True, default=str)


def _measure_budget(predictor: Predictor) -> Budget:
    """What a run's training took up to the checkpoint that is judged."""
    config, step = predictor.config, predictor.step
    path = RunFolder(predictor.folder).log
    lines = (read_bytes(path) or b"").splitlines() if path.is_file() else []
    rates = [json.loads(line).get("speed/crops_per_s") for line in lines]
    known = [rate for rate in rates if rate]
    crops = step * config.batch
    seconds = crops * float(np.mean([1 / rate for rate in known])) if known else None
    parameters = sum(weight.numel() for weight in predictor.model.parameters())
    rows, columns = config.model.grid()
    return Budget(crops, crops * rows * columns, step, config.steps, parameters, seconds)


def _mean_over_clips(values: Mapping[str, np.ndarray], clips: np.ndarray) -> dict[str, np.ndarray]:
    """{metric: (C,)} of {metric: (crops,)}."""
    counts = np.bincount(clips)
    return {name: np.bincount(clips, per_crop) / counts for name, per_crop in values.items()}


def list_unequal(arms: Sequence[Arm]) -> list[str]:
    """Returns sentences on budgets in which arms differ by more than EQUAL, and on unfinished runs.

    Crops seen, tokens of their images, parameters, and seconds of training.
    """
    said = []
    for arm in arms:
        for seed, budget in arm.budgets.items():
            if budget.steps < budget.planned:
                said.append(
                    f"{arm.runs[seed]} is at step {budget.steps} of {budget.planned}: it is not "
                    "finished"
                )
    for name, words in UNITS.items():
        means = {}
        for arm in arms:
            values = [getattr(budget, name) for budget in arm.budgets.values()]
            if None not in values:
                means[arm.name] = float(np.mean(values))
        if means and max(means.values()) > (1 + EQUAL[name]) * min(means.values()):
            each = ", ".join(f"{arm} {value:,.0f}" for arm, value in means.items())
            said.append(f"budgets differ in {words}: {each}")
    return said


def _describe_arm(arm: Arm) -> dict[str, Any]:
    seeds = sorted(arm.runs)
    metrics = arm.values[seeds[0]]
    return {
        "name": arm.name,
        "runs": {str(seed): arm.runs[seed] for seed in seeds},
        "budgets": {str(seed): asdict(arm.budgets[seed]) for seed in seeds},
        "means": {
            name: float(np.mean([arm.values[seed][name].mean() for seed in seeds]))
            for name in metrics
        },
    }


def _compare_arms(arms: Sequence[Arm], metrics: Sequence[str]) -> list[dict[str, Any]]:
    """Each pair's differences in each metric, with Holm's p over the pairs of a metric."""
    out = []
    for metric in metrics:
        means = {
            arm.name: {seed: float(values[metric].mean()) for seed, values in arm.values.items()}
            for arm in arms
        }
        known = pool_seeds(means) if all(len(one) > 1 for one in means.values()) else Seeds()
        pairs = list(combinations(arms, 2))
        found = [_compare_pair(a, b, metric, known) for a, b in pairs]
        adjusted = adjust_by_holm([one["p"] for one in found])
        for one, p in zip(found, adjusted, strict=True):
            verdict = bool(p < 1 - LEVEL)
            out.append({**one, "p": _or_none(one["p"]), "p_holm": _or_none(p)})
            out[-1]["significant"] = verdict
    return out


def _compare_pair(a: Arm, b: Arm, metric: str, known: Seeds) -> dict[str, Any]:
    seeds_a, seeds_b = _pair_seeds(a, b)
    one = np.stack([a.values[seed][metric] for seed in seeds_a])
    other = np.stack([b.values[seed][metric] for seed in seeds_b])
    if len(seeds_a) > 1:
        found, over = compare_paired(one, other, known), "seeds and clips"
    else:
        found, over = compare_over_clips(one[0], other[0]), "clips"
    return {
        "metric": metric,
        "a": a.name,
        "b": b.name,
        "mean": found.mean,
        "low": _or_none(found.low),
        "high": _or_none(found.high),
        "p": found.p,
        "seeds": found.seeds,
        "over": over,
    }


def _pair_seeds(a: Arm, b: Arm) -> tuple[list[int], list[int]]:
    """The seeds of both arms that are set against each other: equal ones, else as they come."""
    common = sorted(a.runs.keys() & b.runs.keys())
    if len(common) > 1:
        return common, common
    count = min(len(a.runs), len(b.runs))
    return sorted(a.runs)[:count], sorted(b.runs)[:count]


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value


def describe(found: Mapping[str, Any]) -> str:
    """Returns tables and sentences to read of what compare.json holds."""
    metrics = found["metrics"]
    given = ", with the true keypoints" if found["given"] else ""
    lines = [f"{found['clips']} clips, {found['crops']} crops{given}", ""]
    header = ["arm", "seeds", *(_title(one) for one in metrics)]
    rows = [
        [arm["name"], str(len(arm["runs"])), *(_digits(arm["means"], one) for one in metrics)]
        for arm in found["arms"]
    ]
    lines += _lay_out([header, *rows]) + [""]
    header = ["difference", "metric", "mean [95 %]", "p (Holm)", "over", ""]
    rows = []
    for pair in found["pairs"]:
        bounds = "no interval"
        if pair["low"] is not None:
            bounds = f"{pair['low']:.3g}, {pair['high']:.3g}"
        rows.append(
            [
                f"{pair['a']} - {pair['b']}",
                pair["metric"],
                f"{pair['mean']:.3g} [{bounds}]",
                "-" if pair["p_holm"] is None else f"{pair['p_holm']:.3g}",
                pair["over"],
                "significant" if pair["significant"] else "no significant difference",
            ]
        )
    lines += _lay_out([header, *rows]) + [""]
    lines += found["budget"] or [f"budgets are equal: {', '.join(UNITS.values())}"]
    if any(pair["over"] == "clips" for pair in found["pairs"]):
        lines.append(
            "Intervals over clips alone say nothing of another seed: name runs of several seeds."
        )
    return "\n".join([*lines, *found["notes"]])


def _title(metric: Mapping[str, str]) -> str:
    return f"{metric['name']} ({metric['unit']})" if metric["unit"] else metric["name"]


def _digits(means: Mapping[str, float], metric: Mapping[str, str]) -> str:
    return f"{means[metric['key']]:.{1 if metric['unit'] else 3}f}"


def _lay_out(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table whose first row is its header."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    ruled = [rows[0], ["-" * width for width in widths], *rows[1:]]
    return [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |"
        for row in ruled
    ]
