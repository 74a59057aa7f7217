"""Curves of a run's log as small SVG charts; their legends are the page's own text."""

import io
import math
import re
from dataclasses import dataclass

import matplotlib
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

WITH, WITHOUT = "#2f5d9b", "#c2712a"
INK = "#1d2330"
PALETTE = (WITH, WITHOUT, "#3f8f7a", "#8a5a9b", "#a3484f", "#8a8f2a", "#4f9bc2", "#6b7280")
STYLE = {"font.size": 9.5, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#9aa3b0",
         "axes.labelcolor": "#4a5260", "xtick.color": "#9aa3b0", "ytick.color": "#9aa3b0", "xtick.labelcolor": "#4a5260",
         "ytick.labelcolor": "#4a5260", "axes.grid": True, "axes.grid.axis": "y", "grid.color": "#e8ebef",
         "grid.linewidth": 0.8, "axes.axisbelow": True, "svg.fonttype": "none", "figure.facecolor": "none",
         "axes.facecolor": "none"}
SIZE_IN = 4.7, 3.0
MANY_POINTS = 40  # more are drawn without a dot each


@dataclass
class Line:
    """One curve: words for the legend, steps and values (not finite: a gap), colour, "solid", "faint" or "dashed"."""

    words: str
    points: list
    colour: str
    look: str = "solid"


@dataclass
class Chart:
    """A title, what is measured, the SVG as text, the lines for the legend, and all in words for who cannot see it."""

    title: str
    unit: str
    svg: str
    lines: list
    words: str


def pretraining_chart(run):
    """Losses of a pre-training run by kind of pair, training's and held-out; None where nothing is logged."""
    kinds = sorted({key.split("/")[1] for line in run.log for key in line if key.startswith(("loss/", "held_out/"))})
    lines = []
    for kind, colour in zip(kinds, _colours(len(kinds)), strict=True):
        words = kind.replace("_", "-")
        lines.append(Line(f"{words}, training", points(run, f"loss/{kind}"), colour, "faint"))
        lines.append(Line(f"{words}, held out", points(run, f"held_out/{kind}"), colour))
    target = run.config.get("objective", {}).get("target") if isinstance(run.config.get("objective"), dict) else None
    of = {"picture": "pixels normalised by picture", "patch": "pixels normalised by patch"}.get(target, "pixels")
    return _chart(run.name, f"mean squared error of {of}", lines, "mean squared error", run.name)


def loss_chart(run):
    """All terms of a fine-tuning run's loss as they are logged, on a logarithmic axis."""
    keys = sorted({key for line in run.log for key in line if key.startswith("loss/")}, key=lambda k: (k != "loss/total", k))
    colours = iter(_colours(len(keys)))
    lines = [Line(key.removeprefix("loss/").replace("_", " "), points(run, key), INK if key == "loss/total" else next(colours))
             for key in keys]
    return _chart(run.name, "training losses", lines, "loss", run.name + " loss", logarithmic=True)


def held_out_chart(runs, key, name):
    """A held-out error of runs that differ in pre-training, in one chart; None where none has logged it."""
    lines = []
    for run in runs:
        words = "without pre-training" if run.scratch else ("with pre-training" if len(runs) > 1 else run.name)
        look, colour = ("dashed", WITHOUT) if run.scratch else ("solid", WITH)
        lines.append(Line(words, points(run, key), colour, look))
    return _chart(runs[0].name, f"{name}, held out", lines, f"{name} (mm)", f"{runs[0].name} {key}")


def points(run, key):
    """[(step, value), ...] of a key of the log."""
    return [(line["step"], float(line[key])) for line in run.log
            if isinstance(line.get(key), (int, float)) and math.isfinite(line[key])]


def _colours(count):
    return [PALETTE[i % len(PALETTE)] for i in range(count)]


def _chart(title, unit, lines, label, salt, logarithmic=False):
    lines = [line for line in lines if line.points]
    if not lines:
        return None
    # A logarithm of what is not above zero is none: such a loss is drawn on a plain axis.
    logarithmic = logarithmic and all(value > 0 for line in lines for _, value in line.points)
    ends = "; ".join(f"{line.words}: {line.points[0][1]:.4g} at step {line.points[0][0]}, {line.points[-1][1]:.4g} at step "
                     f"{line.points[-1][0]}" for line in lines)
    return Chart(title, unit, _draw(lines, label, salt, logarithmic), lines, f"{title}: {unit}, over steps. {ends}.")


def _draw(lines, label, salt, logarithmic):
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": salt}):
        figure = Figure(figsize=SIZE_IN, layout="constrained")
        canvas = FigureCanvasSVG(figure)
        panel = figure.subplots()
        for line in lines:
            few = len(line.points) <= MANY_POINTS and line.look != "faint"
            panel.plot(*zip(*line.points, strict=True), color=line.colour, alpha=0.4 if line.look == "faint" else 1.0,
                       linestyle="--" if line.look == "dashed" else "-", linewidth=1.2 if line.look == "faint" else 1.8,
                       marker="o" if few else None, markersize=3.4, solid_capstyle="round", solid_joinstyle="round")
        panel.set(xlabel="step", ylabel=label)
        if logarithmic:
            panel.set_yscale("log")
            plain = FuncFormatter(lambda value, _: f"{value:g}")
            panel.yaxis.set_major_formatter(plain)
            low, high = panel.get_ylim()
            panel.yaxis.set_minor_formatter(plain if high < 10 * low else NullFormatter())
        else:
            panel.yaxis.set_major_locator(MaxNLocator(6))
        panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        panel.set_xlim(left=0)
        text = io.StringIO()
        canvas.print_svg(text, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return Markup(tidy(text.getvalue()))


def tidy(svg):
    """The <svg> element alone, fit to stand in HTML: without namespaces, and without ids that nothing refers to.

    Matplotlib gives every figure's parts the same ids; two charts in one page would share them.
    """
    svg = svg[svg.index("<svg"):]
    svg = re.sub(r'\s+(xmlns(:\w+)?|version)="[^"]*"', "", svg)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
    return re.sub(r'\s+id="([^"]*)"', lambda found: found[0] if found[1] in used else "", svg)
