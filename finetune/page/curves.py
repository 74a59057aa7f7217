"""The report's charts: which curves of which runs.

How they are drawn is in engine/logging/page/curves.py.
"""

from collections.abc import Sequence

from engine.logging.page.curves import INK, PALETTE, Chart, Line, chart, points
from finetune.page.folder import TrainingRun

WITH, WITHOUT = PALETTE[:2]


def draw_pretraining(run: TrainingRun) -> Chart | None:
    """Losses of a pre-training run by kind of pair, of training and of validation.

    None where nothing is logged.
    """
    kinds = sorted(
        {key.split("/")[1] for line in run.log for key in line if key.startswith(("loss/", "val/"))}
    )
    lines = []
    for kind, colour in zip(kinds, _colours(len(kinds)), strict=True):
        words = kind.replace("_", "-")
        lines.append(Line(f"{words}, training", points(run, f"loss/{kind}"), colour, "faint"))
        lines.append(Line(f"{words}, validation", points(run, f"val/{kind}"), colour))
    target = (
        run.config.get("objective", {}).get("target")
        if isinstance(run.config.get("objective"), dict)
        else None
    )
    words = {"image": "pixels normalised by image", "patch": "pixels normalised by patch"}
    of = words.get(str(target), "pixels")
    return chart(run.name, f"mean squared error of {of}", lines, "mean squared error", run.name)


def draw_losses(run: TrainingRun) -> Chart | None:
    """All terms of a fine-tuning run's loss as they are logged, on a logarithmic axis."""
    keys = sorted(
        {key for line in run.log for key in line if key.startswith("loss/")},
        key=lambda k: (k != "loss/total", k),
    )
    colours = iter(_colours(len(keys)))
    lines = [
        Line(
            key.removeprefix("loss/").replace("_", " "),
            points(run, key),
            INK if key == "loss/total" else next(colours),
        )
        for key in keys
    ]
    return chart(run.name, "training losses", lines, "loss", run.name + " loss", logarithmic=True)


def draw_validation(runs: Sequence[TrainingRun], key: str, name: str) -> Chart | None:
    """A validation error of runs that differ in pre-training, in one chart.

    None where none has logged it.
    """
    lines = []
    for run in runs:
        words = (
            "without pre-training"
            if run.scratch
            else ("with pre-training" if len(runs) > 1 else run.name)
        )
        look, colour = ("dashed", WITHOUT) if run.scratch else ("solid", WITH)
        lines.append(Line(words, points(run, key), colour, look))
    return chart(
        runs[0].name, f"{name}, validation", lines, f"{name} (mm)", f"{runs[0].name} {key}"
    )


def _colours(count):
    return [PALETTE[i % len(PALETTE)] for i in range(count)]
