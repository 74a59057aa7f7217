"""The report's charts: which curves of which runs; how they are drawn is in
engine/logging/page/curves.py."""

from engine.logging.page.curves import INK, PALETTE, Line, chart, points

WITH, WITHOUT = PALETTE[:2]


def pretraining_chart(run):
    """Losses of a pre-training run by kind of pair, training's and held-out; None where nothing is
    logged."""
    kinds = sorted(
        {key.split("/")[1] for line in run.log for key in line if key.startswith(("loss/", "val/"))}
    )
    lines = []
    for kind, colour in zip(kinds, _colours(len(kinds)), strict=True):
        words = kind.replace("_", "-")
        lines.append(Line(f"{words}, training", points(run, f"loss/{kind}"), colour, "faint"))
        lines.append(Line(f"{words}, held out", points(run, f"val/{kind}"), colour))
    target = (
        run.config.get("objective", {}).get("target")
        if isinstance(run.config.get("objective"), dict)
        else None
    )
    of = {"image": "pixels normalised by image", "patch": "pixels normalised by patch"}.get(
        target, "pixels"
    )
    return chart(run.name, f"mean squared error of {of}", lines, "mean squared error", run.name)


def loss_chart(run):
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


def val_chart(runs, key, name):
    """A held-out error of runs that differ in pre-training, in one chart; None where none has
    logged it."""
    lines = []
    for run in runs:
        words = (
            "without pre-training"
            if run.scratch
            else ("with pre-training" if len(runs) > 1 else run.name)
        )
        look, colour = ("dashed", WITHOUT) if run.scratch else ("solid", WITH)
        lines.append(Line(words, points(run, key), colour, look))
    return chart(runs[0].name, f"{name}, held out", lines, f"{name} (mm)", f"{runs[0].name} {key}")


def _colours(count):
    return [PALETTE[i % len(PALETTE)] for i in range(count)]
