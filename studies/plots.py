"""Plots of a study's rows.

Differences with their intervals, error against labelled clips and against pairs.
"""

import itertools
from pathlib import Path

import numpy as np

from studies.config import StudyConfig
from studies.rows import (
    NAMES,
    Rows,
    arm_title,
    compare_arms,
    find_usual_share,
    trace_labels,
    trace_pairs,
)

COLOURS = (
    "#2563eb",
    "#d97706",
    "#6b7280",
    "#059669",
    "#db2777",
    "#7c3aed",
    "#0891b2",
    "#b91c1c",
    "#65a30d",
)
SIGNIFICANT, OPEN = "#1d4ed8", "#9ca3af"


def draw_figures(config: StudyConfig, there: Rows, folder: Path) -> list[Path]:
    """Return [Path, ...] of the PNGs ``transfer_STUDY...`` in a folder that the rows give.

    ``_differences``: the headline's, where two arms have an interval, of the share of labels that
    most rows have. No ending: error against labelled clips, where an arm has several shares of
    them. ``_pairs``: error against pairs, of curves; the frozen encoder's below it.
    """
    out, headline = [], (config.how, config.metric)
    share = find_usual_share(there)
    groups = _groups(config, there, share)
    if sum(len(entries) for _, entries in groups) > 1:
        clips = next(found["labelled_clips"] for row, found in there.items() if row.share == share)
        out.append(folder / f"transfer_{config.name}_differences.png")
        _forest(out[-1], list(config.tests), groups, _named(*headline), clips, bool(config.claims))
    probe = [headline, ("frozen", "mpjpe")] if config.finetune else [headline]
    for against, ending, of, shown in (
        ("labelled clips", "", trace_labels, [headline]),
        ("pairs (of an MAE, images)", "_pairs", trace_pairs, probe),
    ):
        drawn = [
            (how, metric, {test: of(config, there, test, how, metric) for test in config.tests})
            for how, metric in shown
        ]
        if any(drawn[0][2].values()):
            out.append(folder / f"transfer_{config.name}{ending}.png")
            _curves(out[-1], drawn, against)
    return out


def _named(how, metric):
    return f"frozen {NAMES[metric]}" if how == "frozen" else NAMES[metric]


def _groups(config, there, share):
    """Return [(heading, [(name, {test: Difference}), ...]), ...].

    Arms minus the reference, and those that name another one.
    """
    others = [(name, arm.against) for name, arm in config.arms.items() if arm.against]
    pairs = [
        (
            f"minus {arm_title(config, config.reference)}",
            [(name, config.reference) for name in config.arms],
        ),
        ("pairs of arms", others),
    ]
    out = []
    for heading, of in pairs:
        entries = []
        for one, other in of:
            found = {
                test: compare_arms(there, one, other, share, test, config.how, config.metric)
                for test in config.tests
            }
            if one != other and all(d is not None and np.isfinite(d.low) for d in found.values()):
                name = (
                    arm_title(config, one)
                    if other == config.reference
                    else f"{arm_title(config, one)}, minus {arm_title(config, other)}"
                )
                entries.append((name, found))
        out.append((heading, entries))
    return out


def _figure(columns, rows, height, width):
    """(Figure with its canvas, (rows, columns) panels); inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False)
    for panel in panels.flat:
        panel.spines[["top", "right"]].set_visible(False)
    return figure, panels


def _forest(path, tests, groups, metric, clips, exploratory):
    """One PNG: a line an arm with its mean and interval, a panel a test.

    A group's heading above its lines. ``exploratory``: none is called significant, for the study
    has claims, which its table tells.
    """
    lines = [line for heading, entries in groups if entries for line in ((heading, None), *entries)]
    known = [d for _, found in lines if found for d in found.values()]
    usual = np.median([d.high - d.low for d in known]) / 2
    # Two seeds that disagree give an interval that would leave no room for the others: it runs off
    # the edge.
    edge = 1.15 * max(abs(d.mean) + min((d.high - d.low) / 2, 2 * usual) for d in known)
    names = [
        heading if found is None else f"{heading} ({next(iter(found.values())).seeds})"
        for heading, found in lines
    ]
    figure, panels = _figure(
        len(tests), 1, 0.25 * len(lines) + 1.1, 3.2 * len(tests) + 0.062 * max(map(len, names))
    )
    for panel, test in zip(panels[0], tests, strict=True):
        panel.axvline(0, color="black", linewidth=0.8)
        for place, (_, found) in enumerate(lines):
            if found:
                d = found[test]
                significant = d.significant and not exploratory
                colour = SIGNIFICANT if significant else OPEN
                panel.plot(
                    [max(d.low, -edge), min(d.high, edge)], [place] * 2, color=colour, linewidth=1.6
                )
                panel.plot(
                    d.mean,
                    place,
                    "o",
                    markersize=5,
                    color=colour,
                    markerfacecolor=colour if significant else "white",
                )
                for beyond, at, sign in ((d.low < -edge, -edge, "<"), (d.high > edge, edge, ">")):
                    if beyond:
                        panel.plot(at, place, sign, markersize=5, color=colour, clip_on=False)
        panel.set(
            xlim=(-edge, edge),
            ylim=(len(lines) - 0.4, -0.6),
            title=test,
            xlabel=f"{metric}: better < 0 < worse",
        )
        panel.set_yticks([])
        panel.spines["left"].set_visible(False)
    panels[0, 0].set_yticks(range(len(lines)), names, fontsize=8)
    panels[0, 0].tick_params(axis="y", length=0, pad=8)
    for label, (_, found) in zip(panels[0, 0].get_yticklabels(), lines, strict=True):
        label.set_fontweight("bold" if found is None else "normal")
    meaning = (
        "exploratory, nothing is corrected" if exploratory else "hollow and grey: not significant"
    )
    figure.supxlabel(
        f"{clips} labelled clips; mean and 95 % interval, seeds in parentheses; {meaning}",
        fontsize=8,
        color="#4b5563",
    )
    figure.savefig(path)


def _curves(path, drawn, against):
    """Draw one PNG, a row a metric and a panel a test.

    Of [(how, metric, {test: {name: [(x, (S,) y), ...]}}), ...].
    """
    figure, panels = _figure(len(drawn[0][2]), len(drawn), 4 * len(drawn), 5 * len(drawn[0][2]))
    for row, (how, metric, tests) in zip(panels, drawn, strict=True):
        for panel, (test, curves) in zip(row, tests.items(), strict=True):
            for colour, (name, points) in zip(itertools.cycle(COLOURS), curves.items()):
                panel.errorbar(
                    [x for x, _ in points],
                    [y.mean() for _, y in points],
                    [y.std(ddof=1) if len(y) > 1 else 0 for _, y in points],
                    marker="o",
                    markersize=4,
                    capsize=3,
                    color=colour,
                    label=name,
                )
            panel.set(
                xscale="log",
                xlabel=against,
                title=test,
                ylabel=f"{_named(how, metric)} (bars: standard deviation over seeds)",
            )
            ticks = sorted({x for points in curves.values() for x, _ in points})
            ticks = [
                x for k, x in enumerate(ticks) if not k or x > 1.3 * ticks[k - 1]
            ]  # labels have room
            panel.set_xticks(ticks, [f"{x / 1000:.0f}k" if x >= 10_000 else str(x) for x in ticks])
            panel.minorticks_off()
            panel.legend(frameon=False, fontsize=8)
    figure.savefig(path)
