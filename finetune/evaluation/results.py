"""What an evaluation writes: evaluation.json, the errors of each crop, meshes and images."""

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data.loading.crops import TAGS
from data.sampling.seen import Seen, leak_warnings
from engine.distributed import hardware
from engine.errors import explain, failure_of
from engine.run.files import write_file
from finetune.evaluation import metrics, tables
from finetune.evaluation.calibration import draw_calibration, word_calibration
from finetune.evaluation.judge import Judge
from finetune.evaluation.prompted import describe_prompted, list_taken, summarise_prompted
from finetune.inference.predictor import Predictor
from finetune.person import Person
from finetune.verb_config import EvaluateConfig
from finetune.viz import draw

CALIBRATION = "images/calibration.png"
EXAMPLES = (("best", 0.0), ("median", 0.5), ("worst", 1.0))
Errors = Mapping[str, Mapping[str, np.ndarray]]  # {row: {metric: (n,)}}


def clear_folder(folder: Path) -> None:
    """Make the folder, and take the last evaluation.json away.

    What stands beside it is about to change.
    """
    try:
        (folder / "images").mkdir(parents=True, exist_ok=True)
        (folder / "evaluation.json").unlink(missing_ok=True)
    except OSError as error:
        raise failure_of(error, f"{folder} cannot be written: {explain(error)}") from None


def list_numbers(evaluation: dict) -> dict[str, float]:
    """Return {"evaluation/METRIC": mean} for the run's log.

    Of the run's row, and of the mean pose's as it is.
    """
    rows = {row["key"]: row["values"] for row in evaluation["rows"]}
    numbers: dict[str, float] = {}
    if evaluation["warnings"]:
        numbers["evaluation/leakage_not_excluded"] = 1
    for name, value in rows["model"].items():
        numbers[f"evaluation/{name}"] = value["mean"]
    constant = rows["mean"]
    # Of a mesh these two are shown beside the run's; of answers in the image all are.
    for name in ("mpjpe", "pa_mpjpe") if "mpjpe" in constant else constant:
        numbers[f"evaluation/{name}_constant"] = constant[name]["mean"]
    return numbers


def summarise_run(
    config: EvaluateConfig,
    predictor: Predictor,
    judge: Judge,
    found: Errors,
    clips: np.ndarray,
    command: str,
    seen: Mapping[str, Seen],
) -> dict:
    """Returns the dict of evaluation.json, without its examples.

    Args:
        found: {row: {metric: (n,)}}.
        clips: (n,) number of each crop's clip.
        command: what was typed.
        seen: of "model", "scratch" and "beside", what their weights saw.
    """
    rows, differences = metrics.summarise(found, clips)
    runs = {"model": config.run, "scratch": config.without, "beside": config.beside}
    warnings = []
    for name, one in seen.items():
        warnings += leak_warnings(one, runs[name])
    for row in rows:
        if row["key"] == "beside":
            row["name"] = f"{config.beside}, beside"
        if row["key"] in seen and seen[row["key"]].unknown:
            row["name"] += f" ({tables.LEAK})"
    columns = [m for m in metrics.columns(judge.body.kind) if m["key"] in judge.columns]
    evaluation: dict[str, Any] = {
        "format": 1,
        "kind": judge.body.kind,
        "run": str(config.run),
        "step": predictor.step,
        "clips": int(clips.max()) + 1,
        "crops": len(clips),
        "command": command,
        "machine": hardware.describe(),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "metrics": columns,
        "rows": rows,
        "warnings": warnings,
        "medians": {name: _find_medians(row) for name, row in found.items()},
    }
    if differences:
        evaluation["differences"] = differences
    compared = judge.list_compared()
    if compared:
        evaluation["compared"] = metrics.compare_rows(found, clips, compared)
    evaluation["notes"] = tables.sentences(evaluation, judge.made) + _explain_rows(judge)
    if judge.prompted is not None:
        parts = judge.prompted.visible
        visible = np.concatenate(parts) if parts else None
        evaluation["prompts"] = summarise_prompted(found, clips, visible, judge.prompted.rows)
        evaluation["notes"] += describe_prompted(evaluation["prompts"])
    calibration = judge.calibration.summarise()
    if calibration is not None:
        evaluation["calibration"] = calibration
        evaluation["notes"].append(word_calibration(calibration))
    return evaluation


def _find_medians(row: Mapping[str, np.ndarray]) -> dict[str, float]:
    return {metric: float(np.median(values)) for metric, values in row.items()}


def _explain_rows(judge: Judge) -> list[str]:
    notes = []
    if judge.ceiling and not judge.hand:
        reach = np.concatenate(judge.ceiling)
        notes.append(
            f"The true mesh, which wears no clothes, overlaps the person masks by "
            f"{reach.mean():.3f} "
            "on average: no mesh can be expected to reach much more."
        )
    notes.append(
        "Both mean-pose rows stand at the mean translation in the crop, at the mean depth for its "
        "field of view; a hand that is rotated about its wrist there may leave the crop."
    )
    asked = {"This run": judge.predictor, "The network beside": judge.beside}
    for words, predictor in asked.items():
        taken = [] if predictor is None else list_taken(predictor.config.head)
        if taken:
            notes.append(f"{words} takes {' and '.join(taken)}: its row is by the image alone.")
    if "iou" not in judge.columns:
        notes.append("There is no IoU: not all clips have person masks.")
    return notes


def write_results(
    folder: Path,
    evaluation: dict,
    count: int,
    arrays: Mapping[str, np.ndarray],
    found: Errors,
    clips: np.ndarray,
    judge: Judge,
) -> None:
    """Write all files, evaluation.json last, so that its being there means that the rest is.

    Args:
        evaluation: as of summarise_run; examples are added.
        count: of examples in each of EXAMPLES.
        arrays: of data.loading.crops.layout, all crops.
        found, clips: as for summarise_run.
    """
    people, truth = sum(judge.found, []), sum(judge.truth, [])
    try:
        examples = choose_examples(found["model"], clips, count)
        for example in examples:
            row = example.pop("row")
            size = arrays["tags"][row, TAGS.index("size")]
            sheet = draw.sheet(
                arrays["pixels"][row, :size, :size],
                people[row],
                [f"recovered: {_describe_errors(evaluation, found, row)}", "true"],
                truth[row],
                example["name"],
            )
            sheet.save(folder / example["sheet"])
            for metric in evaluation["metrics"]:
                example[metric["key"]] = float(found["model"][metric["key"]][row])
            example["mesh"] = len(judge.shown)
            judge.shown.append(row)
        evaluation["examples"] = examples
        _write_meshes(folder / "meshes.npz", examples, judge.shown, people, truth)
        flat_values = {
            f"{name}/{key}": values for name, row in found.items() for key, values in row.items()
        }
        if judge.prompted is not None and judge.prompted.visible:
            flat_values["visible"] = np.concatenate(judge.prompted.visible)
        # None of the arrays' names is that of an option.
        # pyrefly: ignore[bad-argument-type]
        np.savez_compressed(folder / "per_crop.npz", clip=clips, **flat_values)
        if "calibration" in evaluation:
            write_file(folder / CALIBRATION, draw_calibration(evaluation["calibration"]))
        write_file(folder / "evaluation.json", json.dumps(evaluation, indent=1))
    except OSError as error:
        raise failure_of(error, f"{folder} cannot be written: {explain(error)}") from None


def _describe_errors(evaluation: dict, found: Errors, row: int) -> str:
    words = []
    for metric in evaluation["metrics"]:
        if metric["key"] in ("mpjpe", "pa_mpjpe", "iou"):
            value = found["model"][metric["key"]][row]
            digits = 0 if metric["unit"] else 2
            words.append(f"{metric['name']} {value:.{digits}f} {metric['unit']}".strip())
    return ", ".join(words)


def _write_meshes(
    path: Path, examples: list[dict], rows: list[int], people: list[Person], truth: list[Person]
) -> None:
    # The triangles of a left hand run the other way round.
    left = [people[row].kind == "left_hand" for row in rows]
    np.savez_compressed(
        path,
        predicted=np.stack([people[row].vertices for row in rows]),
        true=np.stack([truth[row].vertices for row in rows]),
        faces=people[rows[0]].faces,
        names=np.array([example["name"] for example in examples]),
        mirrored=np.array(left) != left[0],
    )


def choose_examples(values: Mapping[str, np.ndarray], clips: np.ndarray, count: int) -> list[dict]:
    """Return the model's best, median and worst crops by PA-MPJPE.

    [{"rank", "name", "sheet", "row"}], no clip twice in a rank.
    """
    order, out = np.argsort(values["pa_mpjpe"], kind="stable"), []
    for rank, share in EXAMPLES:
        middle = share * (len(order) - 1)
        nearest = order[np.argsort(np.abs(np.arange(len(order)) - middle), kind="stable")]
        _, first = np.unique(clips[nearest], return_index=True)
        for number, position in enumerate(np.sort(first)[:count], 1):
            name = f"{rank}-{number}"
            out.append(
                {
                    "rank": rank,
                    "name": name,
                    "sheet": f"images/{name}.png",
                    "row": int(nearest[position]),
                }
            )
    return out
