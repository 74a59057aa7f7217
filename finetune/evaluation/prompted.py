"""What keypoints that are given beside the image change, of people who are seen and hidden.

A run with ``head.prompts`` answers three times: by the image alone, with the labels' true
keypoints, and with keypoints that have a finder's faults (finetune.prompts.spoil_keypoints).
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from data.loading import appearance_keys as columns
from finetune.attack import draw_uniform, name_crops
from finetune.evaluation.metrics import (
    DRAWS,
    INTERVAL,
    METRICS,
    ROWS,
    Interval,
    measure_interval,
)
from finetune.evaluation.tables import NOT_SIGNIFICANT, interval, verdict, word_signed
from finetune.heads.base import Prediction
from finetune.inference.predictor import Predictor
from finetune.prompts import make_prompts, tell_prompts
from finetune.views import View

TRUE, SPOILED = "keypoints", "spoiled"
EDGES = (0.7, 0.9)  # of the shares of people that are seen, between groups
SEED = 19  # of the faults
TOLD = ("mpjpe", "pve")  # metrics that sentences and the small table are about
PROMPT_DRAWS = columns.PROMPT.stop - columns.PROMPT.start


class Prompted:
    """Gives a run keypoints.

    Attributes:
        rows: of the table.
        visible: [(n,) arrays] of measure_visible, a list a batch; none where masks are unknown.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor, self.rows = predictor, [TRUE, SPOILED]
        self.visible: list[np.ndarray] = []

    def answer(
        self, batch: Mapping[str, torch.Tensor], seen: View, truth: Prediction
    ) -> dict[str, Prediction]:
        """Return {row: Prediction} of full meshes of a batch of whole crops.

        The faults of a crop are the same in whatever batch it is.
        """
        model, body = self.predictor.model, self.predictor.body
        size = self.predictor.config.model.size
        u = draw_uniform(name_crops(batch["tags"], SEED), PROMPT_DRAWS).float()
        prompts = {
            TRUE: tell_prompts(body, truth, seen.K, size),
            SPOILED: make_prompts(body, truth, seen.K, size, u, 1.0),
        }
        return {row: model(seen.images, seen.K, body, prompts[row]) for row in self.rows}


def measure_visible(drawn: torch.Tensor, masks: torch.Tensor) -> np.ndarray:
    """Return (B,) which share of a true mesh's outline in the crop is seen: 1 of an empty one.

    What is behind something is not. What is beyond the crop's edge says nothing, nor does a limb
    that the person's own body hides.

    Args:
        drawn: (B, S, S) bool, where the mesh is.  masks: (B, S, S) bool, where the person is seen.
    """
    whole = drawn.sum((1, 2))
    seen = (drawn & masks).sum((1, 2)) / whole.clamp_min(1)
    return torch.where(whole > 0, seen, 1.0).double().cpu().numpy()


def summarise_prompted(
    found: Mapping[str, Mapping[str, np.ndarray]],
    clips: np.ndarray,
    visible: np.ndarray | None,
    rows: Sequence[str],
) -> dict:
    """Return ``prompts`` of evaluation.json.

    {"edges", "groups": [{"name", "crops", "clips", "visible", "rows": {row: {metric: {"alone",
    "given", "difference"}}}}], "more_hidden": {row: {metric: Interval}}}. The first group is
    everybody; of an empty one there is none. A difference is of the same crops, given minus alone;
    ``more_hidden`` is that of the most hidden group less that of the least hidden, None where one
    of them is empty.

    Args:
        found: {row: {metric: (n,)}}.  clips: (n,) number of each crop's clip.
        visible: (n,) of measure_visible, or None: then everybody is the only group.
        rows: of ``found`` that were given something.
    """
    groups = {"all": np.ones(len(clips), bool)}
    if visible is not None:
        groups |= _split(visible)
    out: dict = {"edges": list(EDGES), "groups": [], "more_hidden": None}
    for name, chosen in groups.items():
        if chosen.any():
            group = _summarise_group(found, clips, chosen, rows)
            shares = None if visible is None else float(visible[chosen].mean())
            out["groups"].append({"name": name, "visible": shares} | group)
    parts = list(groups.values())[1:]
    if parts and parts[0].any() and parts[-1].any():
        out["more_hidden"] = {
            row: {
                metric: _measure_gap(
                    found[row][metric] - found["model"][metric], clips, parts[0], parts[-1]
                )
                for metric in found[row]
            }
            for row in rows
        }
    return out


def _split(visible: np.ndarray) -> dict[str, np.ndarray]:
    """{name: (n,) bool} from the most hidden on."""
    low, high = EDGES
    return {
        f"seen to less than {low:.0%}": visible < low,
        f"seen to {low:.0%} to {high:.0%}": (visible >= low) & (visible <= high),
        f"seen to more than {high:.0%}": visible > high,
    }


def _summarise_group(
    found: Mapping[str, Mapping[str, np.ndarray]],
    clips: np.ndarray,
    chosen: np.ndarray,
    rows: Sequence[str],
) -> dict:
    alone, part = found["model"], clips[chosen]
    return {
        "crops": int(chosen.sum()),
        "clips": len(np.unique(part)),
        "rows": {
            row: {
                metric: {
                    "alone": measure_interval(alone[metric][chosen], part, metric),
                    "given": measure_interval(values[chosen], part, f"{row}/{metric}"),
                    "difference": measure_interval(
                        (values - alone[metric])[chosen], part, f"{row}/{metric}"
                    ),
                }
                for metric, values in found[row].items()
            }
            for row in rows
        },
    }


def _measure_gap(
    values: np.ndarray, clips: np.ndarray, one: np.ndarray, other: np.ndarray
) -> Interval:
    """The mean of ``one`` minus that of ``other`` (n,) bool, by draws of whole clips.

    Draws in which either is empty are left out.
    """
    names, member = np.unique(clips, return_inverse=True)
    sums, counts = (
        np.stack([np.bincount(member[part], weights, len(names)) for part, weights in parts])
        for parts in (
            [(one, values[one]), (other, values[other])],
            [(one, None), (other, None)],
        )
    )
    drawn = np.random.default_rng(0).integers(len(names), size=(DRAWS, len(names)))
    many = counts[:, drawn].sum(2)
    usable = (many > 0).all(0)
    means = sums[:, drawn].sum(2)[:, usable] / many[:, usable]
    mean = float(values[one].mean() - values[other].mean())
    if len(names) == 1 or not usable.any():
        return {"mean": mean, "low": None, "high": None}
    low, high = np.percentile(means[0] - means[1], INTERVAL)
    return {"mean": mean, "low": float(low), "high": float(high)}


def list_prompted(evaluation: dict) -> str:
    """Return a Markdown table of ``evaluation["prompts"]``: a row for each group and metric."""
    rows = list(evaluation["prompts"]["groups"][0]["rows"])
    heads = [ROWS[row].removeprefix("this run, ") for row in rows]
    lines = [["people", "", "image alone", *(word for head in heads for word in (head, "change"))]]
    for group in evaluation["prompts"]["groups"]:
        for metric in TOLD:
            name, unit, _ = METRICS[metric]
            cells = [f"{group['name']} ({group['crops']} crops)", f"{name} ({unit})"]
            cells.append(interval(group["rows"][rows[0]][metric]["alone"], unit))
            for row in rows:
                values = group["rows"][row][metric]
                cells.append(interval(values["given"], unit))
                cells.append(word_signed(values["difference"], unit))
            lines.append(cells)
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def describe_prompted(prompts: dict) -> list[str]:
    """Return sentences on ``prompts`` of evaluation.json, one a row and metric."""
    everybody, *groups = prompts["groups"]
    sentences = []
    for row in everybody["rows"]:
        for metric in TOLD:
            name, unit, better = METRICS[metric]
            given = ROWS[row].removeprefix("this run, ")
            text = f"{given.capitalize()}: {name} {_compare(everybody, row, metric)}"
            for group in (groups[0], groups[-1]) if len(groups) > 1 else ():
                text += f"; of the {group['crops']} crops of people {group['name']}, "
                text += _compare(group, row, metric)
            sentences.append(f"{text}.{_word_gap(prompts, row, metric, unit, better)}")
    if groups:
        sentences.append(
            "How much of a person is seen is the share of the true body's outline in the crop that "
            "the person mask holds: things and other people hide the rest."
        )
    return sentences


def _compare(group: dict, row: str, metric: str) -> str:
    values, unit = group["rows"][row][metric], METRICS[metric][1]
    alone, given = (values[name]["mean"] for name in ("alone", "given"))
    change = word_signed(values["difference"], unit)
    return f"from {alone:.1f} to {given:.1f} {unit} ({change})"


def _word_gap(prompts: dict, row: str, metric: str, unit: str, better: str) -> str:
    if prompts["more_hidden"] is None:
        return ""
    gap = prompts["more_hidden"][row][metric]
    words = word_signed(gap, unit)
    if verdict(gap, better) == NOT_SIGNIFICANT:
        return f" No significant difference between the two groups' changes ({words})."
    more = "more" if gap["mean"] < 0 else "less"
    return f" It gives {more} where people are hidden ({words})."
