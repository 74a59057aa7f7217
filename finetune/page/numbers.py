"""Numbers in words: the tables of evaluation.json, the headline, the times."""

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engine.errors import UserError
from finetune.evaluation.tables import LEAK, best_rows, verdict
from finetune.page.folder import Evaluation

ARROWS = {"lower": "↓", "higher": "↑"}


def format_number(value: float, unit: str) -> str:
    """A number with the digits it is worth: 0.1 mm, or 0.001 of what has no unit."""
    if not np.isfinite(value):
        return "not defined"
    return f"{value:.1f}" if unit else f"{value:.3f}"


def format_signed(value: float, unit: str) -> str:
    """Return a number with its sign, with the digits that format_number gives it."""
    text = format_number(value, unit)
    return text.replace("-", "−") if value <= 0 or not np.isfinite(value) else f"+{text}"


def make_table(evaluation: Evaluation) -> dict[str, list]:
    """The table of an Evaluation.

    Returns:
        {"metrics": those of evaluation.json with an "arrow", "rows": [{"name", "own": whether it is
        this run's, "cells"}]}. A cell is None where the row has no such number, or has "mean",
        "low", "high" as text (low None: no interval), "best", and "dot", "left", "width": where
        mean and interval lie, in per cent of the column, from 0 to the largest bound of all rows
        (of a number without unit: to 1).
    """
    content = evaluation.content
    rows = [
        {"name": row["name"], "own": row["key"] == "model", "cells": []} for row in content["rows"]
    ]
    for metric in content["metrics"]:
        key, best = metric["key"], best_rows(content, metric)
        column = [row["values"].get(key) for row in content["rows"]]
        known = [
            number for value in column if value for number in value.values() if number is not None
        ]
        top = max(filter(np.isfinite, known), default=0.0) if metric["unit"] else 1.0
        for row, source, value in zip(rows, content["rows"], column, strict=True):
            row["cells"].append(
                value and {"best": source["key"] in best, **_cell(value, metric["unit"], top)}
            )
    metrics = [
        {**metric, "arrow": ARROWS.get(metric["better"], "")} for metric in content["metrics"]
    ]
    return {"metrics": metrics, "rows": rows}


def _cell(value, unit, top):
    mean, low, high = value["mean"], value["low"], value["high"]
    cell: dict[str, str | float | None] = {
        "mean": format_number(mean, unit),
        "low": None,
        "high": None,
        "dot": None,
        "left": 0,
        "width": 0,
    }
    if np.isfinite(mean) and top > 0:
        cell["dot"] = _percent(mean / top)
    if low is not None and high is not None:
        cell |= {"low": format_number(low, unit), "high": format_number(high, unit)}
        if top > 0:
            cell |= {"left": _percent(low / top), "width": _percent((high - low) / top)}
    return cell


def _percent(share):
    return round(100 * min(max(share, 0.0), 1.0), 2)


def list_differences(evaluation: Evaluation) -> list[dict]:
    """Return this run minus the one without pre-training, a dict a metric.

    "name", "unit", "mean", "low", "high", "verdict".

    Empty where there is no such run. The verdict is finetune.evaluation.tables.verdict's: "wins" or
    "loses" only where the interval excludes 0, else "not significant".
    """
    found, out = evaluation.content.get("differences", {}), []
    for metric in evaluation.content["metrics"]:
        if metric["key"] in found:
            value, unit = found[metric["key"]], metric["unit"]
            low, high = (
                None if value[key] is None else format_signed(value[key], unit)
                for key in ("low", "high")
            )
            out.append(
                {
                    "name": metric["name"],
                    "unit": unit,
                    "mean": format_signed(value["mean"], unit),
                    "low": low,
                    "high": high,
                    "verdict": verdict(value, metric["better"]),
                }
            )
    return out


def make_headline(evaluation: Evaluation) -> dict[str, object]:
    """The few numbers of the page's head.

    Returns:
        {"kind", "run", "clips", "crops", "unit", "error" and "mean_pose": PA-MPJPE of this run and
        of the mean pose, "share": one over the other in per cent, "change": that less 100, "iou",
        "iou_words": median, or mean where per_crop.npz is missing, "warned": a word on leakage, or
        None}; share, change and iou are None where they are not defined.
    """
    content = evaluation.content
    unit = next(metric["unit"] for metric in content["metrics"] if metric["key"] == "pa_mpjpe")
    error, mean_pose = (evaluation.values(key)["pa_mpjpe"]["mean"] for key in ("model", "mean"))
    out = {
        "kind": content["kind"],
        "run": evaluation.path.parent.name,
        "clips": content["clips"],
        "crops": content["crops"],
        "unit": unit,
        "error": format_number(error, unit),
        "mean_pose": format_number(mean_pose, unit),
        "share": None,
        "change": None,
        "iou": None,
        "warned": LEAK if content.get("warnings") else None,
    }
    if mean_pose > 0 and np.isfinite(error / mean_pose):
        change = round(100 * (error / mean_pose - 1))
        out |= {"share": _percent(error / mean_pose), "change": f"{change:+d} %".replace("-", "−")}
    if "iou" not in evaluation.values("model"):
        return out
    per_crop = read_crops(evaluation.path / "per_crop.npz", "model/iou")
    if per_crop is None:
        return out | {
            "iou": f"{evaluation.values('model')['iou']['mean']:.2f}",
            "iou_words": "mean IoU",
        }
    return out | {"iou": f"{np.median(per_crop):.2f}", "iou_words": "median IoU"}


def read_crops(path: Path, name: str) -> np.ndarray | None:
    """(n,) one number a crop of per_crop.npz, or None where there is no such file.

    Raises:
        UserError: it is broken or lacks the array.
    """
    if not path.exists():
        return None
    try:
        with np.load(path) as arrays:
            return arrays[name]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} is not the archive that `python -m finetune evaluate` writes: {error}"
        ) from None


def format_duration(seconds: float) -> str:
    """Seconds in words: "35 s", "9 min 31 s", "2 h 05 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def make_times_table(times: Sequence[dict]) -> dict[str, object]:
    """Return the table of times: {"rows": [...], "total", "total_seconds"}.

    A row is {"stage", "command", "words", "seconds", "width": in per cent of the longest}.
    """
    longest = max((row["seconds"] for row in times), default=0) or 1
    rows = [
        {
            "stage": row["stage"],
            "command": row["command"],
            "words": format_duration(row["seconds"]),
            "seconds": f"{row['seconds']:,.1f}",
            "width": _percent(row["seconds"] / longest),
        }
        for row in times
    ]
    total = _covered(
        [(row["began"], row["began"] + row["seconds"]) for row in times if "began" in row]
    )
    total = total or sum(row["seconds"] for row in times)
    return {"rows": rows, "total": format_duration(total), "total_seconds": f"{total:,.1f}"}


def _covered(spans):
    """Seconds that (begin, end) spans cover together.

    Where two run side by side they count once.
    """
    total, until = 0.0, -math.inf
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total
