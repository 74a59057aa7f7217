"""Judging a head without a mesh crop by crop, beside no pre-training and a constant answer."""

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from data.cropping.geometry import Size
from data.loading.augment import denormalise
from data.sampling.seen import Seen, leak_warnings
from engine.distributed import hardware
from engine.errors import explain, failure_of
from engine.geometry import axis_angle_to_matrix
from engine.run.files import write_file
from finetune.evaluation.metrics import Interval, bootstrap
from finetune.evaluation.tables import LEAK, verdict
from finetune.heads.base import ImagePrediction, Truth, pose_body
from finetune.heads.image_head import ImageHead, Told
from finetune.inference.image_answers import require_image_head
from finetune.inference.predictor import Predictor
from finetune.tasks.keypoints import tell_points
from finetune.verb_config import EvaluateConfig
from finetune.views import Targets, view

ROWS = {
    "model": "this run",
    "scratch": "without pre-training",
    "beside": "another network",
    "mean": "the mean of the truth",
}
DRAWN = 8  # crops that are drawn
Errors = dict[str, dict[str, np.ndarray]]  # {row: {measure: (n,)}}


class ImageJudge:
    """Collects what is judged of all rows of the table, batch by batch.

    The constant answer is the mean of what is true of the very crops that are judged: no network
    that does not look at its image can know better.

    Args:
        predictor: of the run.
        others: {row: of another network whose head answers alike, or None}.
    """

    def __init__(self, predictor: Predictor, others: Mapping[str, Predictor | None]) -> None:
        self.predictors = {"model": predictor}
        self.predictors |= {row: other for row, other in others.items() if other is not None}
        self.head: ImageHead = require_image_head(predictor)
        self.head.judge_finely()
        self.size: Size = predictor.config.model.size
        self.body = predictor.body.coarse(predictor.config.coarse_vertices).to(predictor.device)
        self.measures = self.head.list_judgements()
        self.values: dict[str, dict[str, list[np.ndarray]]] = {
            row: {measure[0]: [] for measure in self.measures} for row in self.predictors
        }
        self.told: list[Told] = []
        self.drawn: list[np.ndarray] = []

    @torch.no_grad()
    def add(self, batch: Mapping[str, torch.Tensor]) -> None:
        """Judge a batch of whole crops, tensors of data.loading.crops.layout."""
        truth = self.tell_truth(batch)
        told = self.head.tell(truth)
        self.told.append(told)
        for row, predictor in self.predictors.items():
            found = predictor.model(truth.require_images(), truth.K, predictor.body)
            for name, values in self._judge(found, told).items():
                self.values[row][name].append(values)
            if row == "model":
                self._draw(truth, found)

    def tell_truth(self, batch: Mapping[str, torch.Tensor]) -> Truth:
        """What crops show; its mesh is coarse, for maps are drawn of their parameters."""
        if "points" in batch:
            return tell_points(batch, view(batch, self.size), self.size)
        labels = {**batch, "pose": axis_angle_to_matrix(batch["pose"])}
        seen = view(batch, self.size)
        mesh = pose_body(self.body, Targets(self.body)(labels, seen))
        return Truth(mesh, seen.K, self.size, seen, batch, body=self.body)

    def _judge(self, found: ImagePrediction, told: Told) -> dict[str, np.ndarray]:
        values = {name: compute(found, told) for name, _, _, _, compute in self.measures}
        return {name: value.double().cpu().numpy() for name, value in values.items()}

    def _draw(self, truth: Truth, found: ImagePrediction) -> None:
        images = denormalise(truth.require_images()).mul(255).round().byte()
        shown = images.permute(0, 2, 3, 1).cpu().numpy()
        for row in range(min(len(shown), DRAWN - len(self.drawn))):
            answer = self.head.draw(shown[row], found, row)
            side = (answer.shape[1], answer.shape[0])
            image = np.asarray(Image.fromarray(shown[row]).resize(side))
            self.drawn.append(np.concatenate([image, answer]))

    def finish(self) -> Errors:
        """Returns the values of all rows, those of the constant answer added."""
        found = {
            row: {name: np.concatenate(parts) for name, parts in values.items()}
            for row, values in self.values.items()
        }
        constant = self.head.average_truths(self.told)
        parts = [self._judge(constant, told) for told in self.told]
        found["mean"] = {
            measure[0]: np.concatenate([part[measure[0]] for part in parts])
            for measure in self.measures
        }
        return found


def summarise_answers(
    config: EvaluateConfig,
    judge: ImageJudge,
    found: Errors,
    clips: np.ndarray,
    command: str,
    seen: Mapping[str, Seen],
) -> dict[str, Any]:
    """Returns the dict of answers.json; see docs/finetuning.md.

    Args:
        found: of ImageJudge.finish.  clips: (n,) number of each crop's clip.
        command: what was typed.  seen: {row: what its weights saw}.
    """
    predictor = judge.predictors["model"]
    runs = {"model": config.run, "scratch": config.without, "beside": config.beside}
    warnings = []
    for name, one in seen.items():
        warnings += leak_warnings(one, runs[name])
    rows = []
    for key, values in ((key, found[key]) for key in ROWS if key in found):
        name = f"{config.beside}, beside" if key == "beside" else ROWS[key]
        if key in seen and seen[key].unknown:
            name += f" ({LEAK})"
        known = {name_: _find_interval(each, clips) for name_, each in values.items()}
        rows.append({"key": key, "name": name, "values": _drop_unknown(known)})
    metrics = [
        {"key": name, "name": title, "unit": unit, "better": "lower" if lower else "higher"}
        for name, title, unit, lower, _ in judge.measures
    ]
    evaluation: dict[str, Any] = {
        "format": 1,
        "kind": predictor.body.kind,
        "head": predictor.config.head.name,
        "run": str(config.run),
        "step": predictor.step,
        "clips": int(clips.max()) + 1,
        "crops": len(clips),
        "command": command,
        "machine": hardware.describe(),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "metrics": metrics,
        "rows": rows,
        "warnings": warnings,
        "notes": [
            "The last row is a constant: the mean of what is true of these very crops.",
            "Intervals are 95 %, by bootstrap over clips; a crop of which a number says nothing is "
            "left out of it.",
        ],
    }
    if "scratch" in found:
        evaluation["differences"] = _drop_unknown(
            {
                name: _find_interval(found["model"][name] - found["scratch"][name], clips)
                for name in found["model"]
            }
        )
        evaluation["notes"] += _say_verdicts(evaluation)
    return evaluation


def _find_interval(values: np.ndarray, clips: np.ndarray) -> Interval | None:
    known = np.isfinite(values)
    if not known.any():
        return None
    mean, low, high = bootstrap(values[known], clips[known])
    return {
        "mean": mean,
        "low": None if np.isnan(low) else low,
        "high": None if np.isnan(high) else high,
    }


def _drop_unknown(values: Mapping[str, Interval | None]) -> dict[str, Interval]:
    return {name: value for name, value in values.items() if value is not None}


def _say_verdicts(evaluation: Mapping[str, Any]) -> list[str]:
    """A sentence a number on whether pre-training made a difference."""
    notes = []
    for metric in evaluation["metrics"]:
        difference = evaluation["differences"].get(metric["key"])
        if difference is not None:
            words, unit = verdict(difference, metric["better"]), metric["unit"]
            change = f"{difference['mean']:+.3f} {unit}".strip()
            notes.append(
                f"{metric['name']}: pre-training {words} ({change}, this run less the one without)."
            )
    return notes


def write_answers(
    folder: Path,
    evaluation: Mapping[str, Any],
    found: Errors,
    clips: np.ndarray,
    drawn: Sequence[np.ndarray],
) -> None:
    """Write per_crop.npz, answers.png and, last, answers.json."""
    try:
        Image.fromarray(np.concatenate(drawn, 1)).save(folder / "answers.png")
        flat = {f"{row}/{key}": values for row, of in found.items() for key, values in of.items()}
        # None of the arrays' names is that of an option.
        # pyrefly: ignore[bad-argument-type]
        np.savez_compressed(folder / "per_crop.npz", clip=clips, **flat)
        write_file(folder / "answers.json", json.dumps(evaluation, indent=1))
    except OSError as error:
        raise failure_of(error, f"{folder} cannot be written: {explain(error)}") from None
