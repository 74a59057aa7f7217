"""Curves of a run's log as small SVG charts; their legends are the page's own text."""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import matplotlib
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

INK = "#1d2330"
PALETTE = ("#2f5d9b", "#c2712a", "#3f8f7a", "#8a5a9b", "#a3484f", "#8a8f2a", "#4f9bc2", "#6b7280")
STYLE = {
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9aa3b0",
    "axes.labelcolor": "#4a5260",
    "xtick.color": "#9aa3b0",
    "ytick.color": "#9aa3b0",
    "xtick.labelcolor": "#4a5260",
    "ytick.labelcolor": "#4a5260",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e8ebef",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "svg.fonttype": "none",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
SIZE_IN = 4.7, 3.0
MANY_POINTS = 40  # more are drawn without a dot each
MOST_POINTS = 800  # of a curve: a page of many charts stays small enough to send around


Point = tuple[int, float]  # step, value


class Logged(Protocol):
    """What has a log: a dict a logged step."""

    log: list[dict[str, Any]]


@dataclass
class Line:
    """One curve.

    Attributes:
        words: for the legend.  points: steps and values; not finite: a gap.  look: "solid", "faint"
            or "dashed".
    """

    words: str
    points: list[Point]
    colour: str
    look: str = "solid"


@dataclass
class Chart:
    """A chart as a page shows it.

    Attributes:
        unit: what is measured.  svg: the drawing, as text.  lines: for the legend.  words: all of
            it for who cannot see it.
    """

    title: str
    unit: str
    svg: str
    lines: list[Line]
    words: str


def points(run: Logged, key: str) -> list[Point]:
    """Return the points of a key of the log."""
    return [
        (line["step"], float(line[key]))
        for line in run.log
        if isinstance(line.get(key), (int, float)) and math.isfinite(line[key])
    ]


def thinned(found: list[Point], most: int = MOST_POINTS) -> list[Point]:
    """Return ``most`` points of a curve or fewer.

    Of each stretch they are the lowest and the highest, so that no spike is lost.
    """
    if len(found) <= most:
        return found
    stretch = math.ceil(2 * len(found) / most)
    out: list[Point] = []
    for first in range(0, len(found), stretch):
        part = found[first : first + stretch]
        lowest = min(part, key=lambda point: point[1])
        highest = max(part, key=lambda point: point[1])
        out += sorted({lowest, highest})
    return out


def chart(
    title: str,
    unit: str,
    lines: Sequence[Line],
    label: str,
    salt: str,
    logarithmic: bool = False,
) -> Chart | None:
    """Return the chart of lines over steps, or None where none has a point.

    Args:
        label: of the upright axis.  salt: a text that no other chart of the page has.  logarithmic:
            where all is above zero.
    """
    lines = [line for line in lines if line.points]
    if not lines:
        return None
    # A logarithm of what is not above zero is none: such a loss is drawn on a plain axis.
    logarithmic = logarithmic and all(value > 0 for line in lines for _, value in line.points)
    ends = "; ".join(_describe_ends(line) for line in lines)
    return Chart(
        title,
        unit,
        _draw(lines, label, salt, logarithmic),
        lines,
        f"{title}: {unit}, over steps. {ends}.",
    )


def _describe_ends(line: Line) -> str:
    (first, first_value), (last, last_value) = line.points[0], line.points[-1]
    return f"{line.words}: {first_value:.4g} at step {first}, {last_value:.4g} at step {last}"


def _draw(lines: Sequence[Line], label: str, salt: str, logarithmic: bool) -> Markup:
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": salt}):
        figure = Figure(figsize=SIZE_IN, layout="constrained")
        canvas = FigureCanvasSVG(figure)
        panel = figure.subplots()
        for line in lines:
            few = len(line.points) <= MANY_POINTS and line.look != "faint"
            panel.plot(
                *zip(*line.points, strict=True),
                color=line.colour,
                alpha=0.4 if line.look == "faint" else 1.0,
                linestyle="--" if line.look == "dashed" else "-",
                linewidth=1.2 if line.look == "faint" else 1.8,
                marker="o" if few else None,
                markersize=3.4,
                solid_capstyle="round",
                solid_joinstyle="round",
            )
        panel.set(xlabel="step", ylabel=label)
        if logarithmic:
            panel.set_yscale("log")
            plain = FuncFormatter(lambda value, _: f"{value:g}")
            panel.yaxis.set_major_formatter(plain)
            low, high = panel.get_ylim()
            panel.yaxis.set_minor_formatter(plain if high < 10 * low else NullFormatter())
        else:
            panel.yaxis.set_major_locator(MaxNLocator(6))
        if not any(value for line in lines for _, value in line.points):
            # Around zeros alone matplotlib would lay an axis of fractions below zero.
            panel.set_ylim(0, 1)
        panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        panel.set_xlim(left=0)
        text = io.StringIO()
        canvas.print_svg(
            text, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    return Markup(tidy(text.getvalue()))


def tidy(svg: str) -> str:
    """Return the <svg> element alone, fit to stand in HTML.

    It has no namespaces, and no ids that nothing refers to: matplotlib gives every figure's parts
    the same ids; two charts in one page would share them.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'\s+(xmlns(:\w+)?|version)="[^"]*"', "", svg)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
    return re.sub(r'\s+id="([^"]*)"', lambda found: found[0] if found[1] in used else "", svg)
