"""What keypoints and outlines that are given beside the image change, of people seen and hidden.

A run with ``head.prompts`` answers by the image alone, with the labels' true keypoints, and with
keypoints that have a finder's faults (finetune.prompts.spoil_keypoints); one with
``head.prompt_mask`` likewise with outlines (finetune.masks), and with both.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from data.loading import appearance_keys as columns
from data.loading.appearance import find_known
from finetune.attack import draw_uniform, name_crops
from finetune.evaluation.metrics import (
    DRAWS,
    INTERVAL,
    METRICS,
    ROWS,
    Interval,
    measure_interval,
)
from finetune.evaluation.tables import NOT_SIGNIFICANT, WINS, verdict, word_signed
from finetune.heads.base import Prediction
from finetune.heads.keys import HeadConfig
from finetune.inference.predictor import Predictor
from finetune.masks import make_masks, pool_masks
from finetune.prompts import make_prompts, tell_prompts
from finetune.views import View

NONE, TRUE, SPOILED = range(3)
EDGES = (0.8, 0.95)  # of the shares of people that are seen, between groups
FEWEST = 5  # clips of a group: an interval over fewer says nothing
SEED = 19  # of the faults
SHOWN = ("mpjpe", "pve", "iou")  # metrics of the small table; sentences are about the first
PROMPT_DRAWS = columns.PROMPT.stop - columns.PROMPT.start
# (keypoints, outline) of each row: none, true, or spoiled.
GIVEN = {
    "keypoints": (TRUE, NONE),
    "spoiled": (SPOILED, NONE),
    "mask": (NONE, TRUE),
    "spoiled_mask": (NONE, SPOILED),
    "both": (TRUE, TRUE),
    "spoiled_both": (SPOILED, SPOILED),
}


class Prompted:
    """Gives a run keypoints and outlines.

    Attributes:
        rows: of the table.
        visible: [(n,) arrays] of measure_visible, a list a batch; none where masks are unknown.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        head = predictor.config.head
        self.rows = [
            row
            for row, (keypoints, mask) in GIVEN.items()
            if (head.prompts or keypoints == NONE) and (head.prompt_mask or mask == NONE)
        ]
        self.visible: list[np.ndarray] = []

    def answer(
        self, batch: Mapping[str, torch.Tensor], seen: View, truth: Prediction
    ) -> dict[str, Prediction]:
        """Return {row: Prediction} of full meshes of a batch of whole crops.

        The faults of a crop are the same in whatever batch it is.
        """
        model, body = self.predictor.model, self.predictor.body
        keypoints, masks = self._make_keypoints(batch, seen, truth), self._make_masks(batch, seen)
        answers = {}
        for row in self.rows:
            points, mask = GIVEN[row]
            images = seen.require_images()
            answers[row] = model(images, seen.K, body, keypoints[points], masks=masks[mask])
        return answers

    def _make_keypoints(
        self, batch: Mapping[str, torch.Tensor], seen: View, truth: Prediction
    ) -> dict[int, torch.Tensor | None]:
        body, size = self.predictor.body, self.predictor.config.model.size
        u = draw_uniform(name_crops(batch["tags"], SEED), PROMPT_DRAWS).float()
        return {
            NONE: None,
            TRUE: tell_prompts(body, truth, seen.K, size),
            SPOILED: make_prompts(body, truth, seen.K, size, u, 1.0),
        }

    def _make_masks(
        self, batch: Mapping[str, torch.Tensor], seen: View
    ) -> dict[int, torch.Tensor | None]:
        if not self.predictor.config.head.prompt_mask or seen.find_person is None:
            return {NONE: None, TRUE: None, SPOILED: None}
        grid, person = self.predictor.config.model.grid(), seen.find_person()
        known = find_known(batch["mask"])
        u = draw_uniform(name_crops(batch["tags"], SEED + 1), columns.MASK_DRAWS).float()
        true = pool_masks((person > 0.5).float(), grid) * known[:, None, None]
        return {NONE: None, TRUE: true, SPOILED: make_masks(person, known, u, 1.0, grid)}


def list_taken(head: HeadConfig) -> list[str]:
    """What a head takes beside the image, in words."""
    taken = {"keypoints (head.prompts)": head.prompts}
    taken["outlines (head.prompt_mask)"] = head.prompt_mask
    return [words for words, takes in taken.items() if takes]


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
    everybody; of one of less than FEWEST clips there is none. A difference is of the same crops,
    given minus alone; ``more_hidden`` is that of the most hidden group less that of the least
    hidden, None where one of them is left out.

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
        if name == "all" or _is_large(chosen, clips):
            group = _summarise_group(found, clips, chosen, rows)
            shares = None if visible is None else float(visible[chosen].mean())
            out["groups"].append({"name": name, "visible": shares} | group)
    parts = list(groups.values())[1:]
    if parts and all(_is_large(part, clips) for part in (parts[0], parts[-1])):
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


def _is_large(chosen: np.ndarray, clips: np.ndarray) -> bool:
    return len(np.unique(clips[chosen])) >= FEWEST


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
    """Return a Markdown table of ``evaluation["prompts"]``: a row a group and what was given."""
    groups = evaluation["prompts"]["groups"]
    given = groups[0]["rows"]
    shown = [metric for metric in SHOWN if metric in next(iter(given.values()))]
    lines = [["people", "crops", "given", *(METRICS[metric][0] for metric in shown)]]
    for group in groups:
        for row in given:
            cells = [_compare(group, row, metric) for metric in shown]
            lines.append([group["name"], str(group["crops"]), _word_given(row), *cells])
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def describe_prompted(prompts: dict) -> list[str]:
    """Return sentences on ``prompts`` of evaluation.json, one a row."""
    everybody, *groups = prompts["groups"]
    sentences, metric = [], SHOWN[0]
    for row in everybody["rows"]:
        text = f"Given {_word_given(row)}: {METRICS[metric][0]} {_compare(everybody, row, metric)}"
        for group in (groups[0], groups[-1]) if len(groups) > 1 else ():
            text += f"; of the {group['crops']} crops of people {group['name']}, "
            text += _compare(group, row, metric)
        sentences.append(f"{text}.{_word_gap(prompts, row, metric)}")
    if groups:
        sentences.append(
            "How much of a person is seen is the share of the true body's outline in the crop that "
            "the person mask holds: things and other people hide the rest."
        )
    return sentences


def _word_given(row: str) -> str:
    return ROWS[row].removeprefix("this run, given ")


def _compare(group: dict, row: str, metric: str) -> str:
    values, unit = group["rows"][row][metric], METRICS[metric][1]
    digits = 1 if unit else 3
    alone, given = (values[name]["mean"] for name in ("alone", "given"))
    change = word_signed(values["difference"], unit)
    return f"from {alone:.{digits}f} to {given:.{digits}f} ({change})"


def _word_gap(prompts: dict, row: str, metric: str) -> str:
    if prompts["more_hidden"] is None:
        return ""
    _, unit, better = METRICS[metric]
    gap = prompts["more_hidden"][row][metric]
    words = word_signed(gap, unit)
    found = verdict(gap, better)
    if found == NOT_SIGNIFICANT:
        return f" No significant difference between the two groups' changes ({words})."
    return f" It gives {'more' if found == WINS else 'less'} where people are hidden ({words})."
