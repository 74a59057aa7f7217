"""The curve of a run: how well each of its checkpoints does on the same people."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from engine.checkpoint.history import list_checkpoints
from engine.errors import UserError
from engine.logging.console import get_logger
from finetune.inference.predictor import Predictor
from finetune.referee.kinds import Kind
from finetune.referee.rows import MEAN, RUN, TURNED
from finetune.referee.tables import name_metric, summarise_row

if TYPE_CHECKING:
    from finetune.referee.judge import JudgedPerson

SHOWN = ("pck_0.2", "pck_0.1", "iou", "facing_2d")
COLOURS = {"all": "#2563eb", "standing": "#16a34a", "synthetic": "#9333ea"}
WORDS = {"all": "real", "standing": "real, standing whole", "synthetic": "synthetic"}
STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}

log = get_logger(__name__)


def open_checkpoints(predictor: Predictor, device: str) -> dict[str, Predictor]:
    """{name: Predictor} of a run's other complete checkpoints, by their steps.

    They share the run's body model. A checkpoint that is not complete is passed over with a note.

    Raises:
        UserError: the predictor is of a file of weights, which has no other checkpoints.
    """
    if predictor.checkpoint.is_file():
        raise UserError(
            f"checkpoints=true, but {predictor.checkpoint} is a file of weights and no run"
        )
    found = {}
    for step, path in list_checkpoints(predictor.folder):
        if step == predictor.step:
            continue
        try:
            other = Predictor(path, device)
        except UserError as error:
            log.warning(f"passed over: {error}")
            continue
        other.body = predictor.body
        found[path.name] = other
    return found


def trace_curve(
    groups: Mapping[str, Sequence["JudgedPerson"]], steps: Mapping[str, int], batch: int
) -> dict[str, Any]:
    """The content of curve.json.

    Args:
        groups: {name: people}, each judged in all rows.
        steps: {row: step} of the run and its other checkpoints.
        batch: crops a step.
    """
    chosen = {name: people for name, people in groups.items() if people}
    points = []
    for row, step in sorted(steps.items(), key=lambda one: one[1]):
        values = {name: summarise_row(people, row) for name, people in chosen.items()}
        points.append({"step": step, "crops": step * batch, "groups": values})
    levels = {}
    for row in (TURNED, MEAN):
        levels[row] = {name: summarise_row(people, row) for name, people in chosen.items()}
    return {"batch": batch, "points": points, "levels": levels}


def list_steps(predictor: Predictor, others: Mapping[str, Predictor]) -> dict[str, int]:
    """{row: step} of a run and of its other checkpoints."""
    return {RUN: predictor.step} | {row: other.step for row, other in others.items()}


def draw_curve(curve: Mapping[str, Any], kind: Kind) -> bytes:
    """A PNG of curve.json: a panel a metric, a line a group with its interval.

    The mean pose is a level dashed line of the group's colour.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points = curve["points"]
    metrics = [metric for metric in SHOWN if any(_known(points, name, metric) for name in WORDS)]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.2 * len(metrics), 3.6), dpi=110, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        panels = figure.subplots(1, len(metrics), squeeze=False)[0]
        for panel, metric in zip(panels, metrics, strict=True):
            for name, words in WORDS.items():
                known = _known(points, name, metric)
                if not known:
                    continue
                x, means, lows, highs = zip(*known, strict=True)
                colour = COLOURS[name]
                panel.plot(x, means, "o-", markersize=3, color=colour, label=words)
                panel.fill_between(x, lows, highs, color=colour, alpha=0.12, linewidth=0)
                level = curve["levels"][MEAN][name][metric]["mean"]
                panel.axhline(level, linestyle="--", linewidth=1, color=colour)
            panel.set(title=name_metric(kind, metric), xlabel="crops seen", ylim=(0, 1.02))
            panel.set_xlim(left=0)
        panels[0].legend(frameon=False, title="dashed: the mean alone")
        buffer = io.BytesIO()
        canvas.print_png(buffer)
    return buffer.getvalue()


def _known(
    points: Sequence[Mapping[str, Any]], name: str, metric: str
) -> list[tuple[float, float, float, float]]:
    """[(crops, mean, low, high)]; the bounds are the mean where there are none."""
    out = []
    for point in points:
        entry = point["groups"].get(name, {}).get(metric)
        if entry is not None:
            mean = entry["mean"]
            out.append((point["crops"], mean, entry.get("low", mean), entry.get("high", mean)))
    return out
