"""The figure of `python -m data stats`: a page of small histograms."""

import io

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from PIL import Image

from data.format.clip import KINDS
from data.format.index import PAIR_KINDS
from data.sampling.pairs import PairRules
from data.tools.stats import Tally, rule_masks

ALL, KEPT = "#c7cdd6", "#2563eb"
STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8b93a1",
    "legend.frameon": False,
}
MOST_SOURCES = 8


def draw(tally: Tally, rules: PairRules) -> Image.Image:
    """Histograms of a data.tools.stats.Tally, and what data.sampling.pairs.PairRules keep.

    A PIL image.
    """
    with matplotlib.rc_context(STYLE):
        # A canvas of its own and not pyplot, whose current figure is global state.
        layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
        figure = Figure(figsize=(15, 10.5), dpi=110, layout=layout)
        canvas = FigureCanvasAgg(figure)
        panels = figure.subplots(3, 3).ravel()
        by_kind = {kind: rule_masks(tally.pairs, kind, rules) for kind in PAIR_KINDS}
        rows, masks = by_kind["cross_view"]
        _compared(
            panels[0],
            rows["angle_deg"],
            masks[-1][1],
            "Cross-view pairs: angle",
            "angle between cameras (degrees)",
        )
        rows, masks = by_kind["cross_pose"]
        _compared(
            panels[1],
            rows["gap_s"],
            masks[-1][1],
            "Cross-pose pairs: gap",
            "time between instants (seconds)",
        )
        _rules(panels[2], by_kind)
        for panel, kind in zip(panels[3:5], PAIR_KINDS, strict=True):
            rows, masks = by_kind[kind]
            title = f"{kind.replace('_', '-').capitalize()} pairs: overlap"
            _compared(
                panel,
                rows["overlap"],
                masks[-1][1],
                title,
                "share of a's visible surface that b sees",
                (0, 1),
            )
        _crops(panels[5], tally)
        _plain(panels[6], tally.jpeg_bytes / 1000, "Crops: JPEG", "size (kB)", "crops")
        _plain(
            panels[7],
            tally.box_sides,
            "Crops: box in the source image",
            "longer side (pixels)",
            "crops",
        )
        _sources(panels[8], tally)
        title = (
            f"{tally.clips:,} clips of {len(tally.subjects):,} subjects in {tally.shards:,} shards"
        )
        figure.suptitle(title, x=0.01, ha="left", fontsize=14, fontweight="bold")
        data = io.BytesIO()
        canvas.print_png(data)
    return Image.open(data).convert("RGB")


def _bins(values, bounds=None):
    low, high = bounds or (values.min(), values.max())
    if high - low < 1e-9:  # all are one value: a single bar in the middle
        pad = max(abs(low) * 0.1, 0.5)
        low, high = low - pad, high + pad
    return np.linspace(low, high, 31)


def _compared(panel, values, kept, title, label, bounds=None):
    """All pairs in grey, those that the rules keep in front of them."""
    panel.set(title=title, xlabel=label, ylabel="pairs")
    known = ~np.isnan(values)
    if not known.any():
        _empty(panel, "not known" if len(values) else "no such pairs")
        return
    bins = _bins(values[known], bounds)
    panel.hist(values[known], bins, color=ALL, label="all")
    panel.hist(values[known & kept], bins, color=KEPT, alpha=0.85, label="kept by the rules")
    panel.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    panel.margins(y=0.25)  # room for the legend above the bars
    missing = f" ({(~known).mean():.0%} not known)" if not known.all() else ""
    panel.legend(loc="upper right", ncols=2, fontsize=8, title=missing or None)


def _plain(panel, values, title, label, what):
    panel.set(title=title, xlabel=label, ylabel=what)
    if not len(values):
        _empty(panel, "not known")
        return
    panel.hist(values, _bins(values), color=KEPT, alpha=0.85)
    panel.yaxis.set_major_locator(MaxNLocator(5, integer=True))


def _rules(panel, by_kind):
    """Per kind a bar a rule: which share of the pairs it keeps."""
    names, shares = [], []
    for kind, (rows, masks) in by_kind.items():
        if len(rows):
            names += [f"{kind.replace('_', '-')}: {words}" for words, _ in masks]
            shares += [100 * mask.mean() for _, mask in masks]
    panel.set(title="Pairs kept, by rule", xlabel="share of the kind's pairs (%)")
    if not names:
        _empty(panel, "no pairs")
        return
    colours = [KEPT if name.endswith("all rules") else ALL for name in names]
    _bars(panel, names, shares, [f"{share:.1f} %" for share in shares], colours)


def _crops(panel, tally):
    counts = {kind: sum(n for (_, k), n in tally.kinds.items() if k == kind) for kind in KINDS}
    shown = [kind for kind in KINDS if counts[kind]]
    sizes = ", ".join(f"{side} px" for side in sorted(tally.sizes))
    panel.set(title=f"Crops: kind (side {sizes})", xlabel="crops")
    values = [counts[kind] for kind in shown]
    _bars(
        panel, [kind.replace("_", " ") for kind in shown], values, [f"{n:,}" for n in values], KEPT
    )


def _sources(panel, tally):
    """Clips of each source and licence, the many small ones together."""
    rows = [
        (f"{_short(source)}\n{_short(licence)}", n)
        for (source, licence), n in tally.sources.most_common(MOST_SOURCES)
    ]
    rest = sum(tally.sources.values()) - sum(n for _, n in rows)
    if rest:
        rows.append((f"{len(tally.sources) - MOST_SOURCES} more", rest))
    panel.set(title="Clips: source and licence", xlabel="clips")
    _bars(
        panel, [name for name, _ in rows], [n for _, n in rows], [f"{n:,}" for _, n in rows], KEPT
    )


def _bars(panel, names, values, words, colour):
    bars = panel.barh(range(len(names)), values, color=colour, height=min(0.7, 0.18 * len(names)))
    panel.bar_label(bars, words, padding=3, fontsize=8)
    panel.set_yticks(range(len(names)), names)
    panel.set_ylim(len(names) - 0.4, -0.6)
    panel.margins(x=0.18)  # room for the numbers beside the bars
    panel.xaxis.set_major_locator(MaxNLocator(5))


def _empty(panel, words):
    panel.text(
        0.5, 0.5, words, ha="center", va="center", transform=panel.transAxes, color="#6b7280"
    )
    panel.set(xticks=[], yticks=[])


def _short(name, most=28):
    return name if len(name) <= most else name[: most - 1] + "…"
