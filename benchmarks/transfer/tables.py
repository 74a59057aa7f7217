"""Tables and plots of a study's rows, for docs/results.md."""

import itertools
import json
import re
from pathlib import Path

import numpy as np

from benchmarks.transfer import angles, plan, take
from benchmarks.transfer.stats import difference, power_law
from engine.errors import UserError, explain

RESULTS = Path("docs/results.md")
METRICS = (("finetuned", "px", "2D, px"), ("finetuned", "mpjpe", "MPJPE"), ("finetuned", "pa_mpjpe", "PA"),
           ("frozen", "mpjpe", "frozen MPJPE"), ("frozen", "pa_mpjpe", "frozen PA"))
NAMES = {"px": "2D, px", "mpjpe": "MPJPE, mm", "pa_mpjpe": "PA-MPJPE, mm"}
COLOURS = ("#2563eb", "#d97706", "#6b7280", "#059669", "#db2777", "#7c3aed", "#0891b2", "#b91c1c", "#65a30d")


def read(config):
    """{Row: dict} of all rows that are there, whatever part of the study the config now asks for.

    Raises:
        UserError: a file is no row.
    """
    there = {}
    for path in sorted((Path(config.rows) / config.name).glob("*.json")):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            row = plan.Row(found["arm"], found["seed"], found["share"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is no row of a study ({error}); delete it, and it is made again") from None
        if row.arm in config.arms:
            there[row] = found
    return there


def measured(config):
    """Those of METRICS that the study has."""
    return [one for one in METRICS if config.finetune or one[0] == "frozen"]


def seeds_of(there, arm, share):
    return {row.seed for row in there if row.arm == arm and row.share == share}


def values(there, arm, share, seeds, test, how, metric):
    """(S, C) values of an arm, a seed a row."""
    return np.array([there[plan.Row(arm, seed, share)]["tests"][test][how][metric] for seed in sorted(seeds)])


def compared(there, one, other, share, test, how, metric):
    """The Difference one - other over the seeds that both have, or None where there are none."""
    seeds = seeds_of(there, one, share) & seeds_of(there, other, share)
    return difference(*(values(there, arm, share, seeds, test, how, metric) for arm in (one, other))) if seeds else None


def spreads(config, there):
    """Spreads over seeds of the paired differences of all pairs of arms that have 3 seeds or more, in the headline's metric."""
    test, shares = next(iter(config.tests)), {row.share for row in there}
    found = [compared(there, one, other, share, test, config.how, config.metric)
             for one, other in itertools.combinations(config.arms, 2) for share in sorted(shares)]
    return [d.spread for d in found if d is not None and d.seeds > 2 and np.isfinite(d.spread)]


def write(config):
    """Put the tables into docs/results.md, between the study's marks, and the plots beside it; returns the exit code.

    Raises:
        UserError: there are no rows, or the page has no marks for them.
    """
    there = read(config)
    if not there:
        raise UserError(f"{config.rows}/{config.name} has no rows of this study yet")
    text = "\n\n".join(tables(config, there))
    begin, end = (f"<!-- transfer {config.name}: {word} -->" for word in ("begin", "end"))
    page = RESULTS.read_text(encoding="utf-8")
    if begin not in page or end not in page:
        raise UserError(f"{RESULTS} has no lines '{begin}' and '{end}' to write between")
    for path in plots(config, there):
        text += f"\n\n![{path.stem}]({path.relative_to(RESULTS.parent)})"
    try:
        new = re.sub(f"{begin}.*?{end}", lambda _: f"{begin}\n\n{text}\n\n{end}", page, flags=re.S)
        RESULTS.write_text(new, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{RESULTS} cannot be written: {explain(error)}") from None
    print(text)
    return 0


def tables(config, there):
    """[Markdown, ...]: what was trained, errors, differences."""
    shares = sorted({row.share for row in there})
    out = [_trained(config, there)]
    for test in config.tests:
        out.append(f"Errors on {_clips(there, test)} held-out clips, *{test}*, means over seeds (mm; 2D in pixels of the "
                   f"network's picture):")
        out.append(_errors(config, there, shares, test))
    for base in (config.reference, *(name for name, arm in config.arms.items() if arm.scratch)):
        if any(row.arm == base for row in there):
            out += [_differences(config, there, shares, dict.fromkeys(config.arms, base), test) for test in config.tests]
    others = {name: arm.against for name, arm in config.arms.items() if arm.against}
    if any(row.arm in others for row in there):
        out += [_differences(config, there, shares, others, test) for test in config.tests]
    out += _laws(config, there)
    return out + [found for found in (angles.table(config), take.table(config)) if found]


def _trained(config, there):
    lines = ["| arm | seeds | steps | pairs | seconds | held-out cross-view / cross-pose | reference gain on the person |",
             "|---|---|---|---|---|---|---|"]
    for name, arm in config.arms.items():
        runs = {row.seed: found["pretrain"] for row, found in there.items() if row.arm == name}
        if not runs:
            continue
        if arm.scratch or arm.timm:
            lines.append(f"| {_title(config, name)} | {len(runs)} | | | | | |")
            continue
        first = next(iter(runs.values()))
        cells = [" / ".join(_mean([run.get(f"{group}/{kind}{end}") for run in runs.values()])
                            for kind in ("cross_view", "cross_pose"))
                 for group, end in (("held_out", ""), ("reference_gain", "_person"))]
        lines.append(f"| {_title(config, name)} | {len(runs)} | {first['steps']} | {first['pairs']} | "
                     f"{np.mean([run['seconds'] for run in runs.values()]):.0f} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def _errors(config, there, shares, test):
    heads = ["labelled clips", "arm", "seeds", *(name for *_, name in measured(config))]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for share in shares:
        for arm in config.arms:
            seeds = seeds_of(there, arm, share)
            if seeds:
                labelled = there[plan.Row(arm, min(seeds), share)]["labelled_clips"]
                cells = [f"{values(there, arm, share, seeds, test, how, metric).mean():.{2 if metric == 'px' else 1}f}"
                         for how, metric, _ in measured(config)]
                lines.append(f"| {labelled} | {_title(config, arm)} | {len(seeds)} | " + " | ".join(cells) + " |")
    found = [row["tests"][test]["mean_pose"] for row in there.values() if "mean_pose" in row["tests"][test]]
    if found:
        cells = [f"{np.mean([one[metric] for one in found]):.{2 if metric == 'px' else 1}f}" if how == "finetuned" else ""
                 for how, metric, _ in measured(config)]
        lines.append("| | mean pose | | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _differences(config, there, shares, bases, test):
    """A table of arms less others on a test set; ``bases``: {arm: the one that it is compared with}."""
    one = set(bases.values()) if len(set(bases.values())) == 1 else None
    heads = ["labelled clips", "arm", *(() if one else ("less",)), "seeds", *(name for *_, name in measured(config))]
    less = f"Less *{_title(config, *one)}*" if one else "One arm less another"
    lines = [f"{less}, paired by seed and clip, *{test}* (negative: better than it; bold: the 95 % interval leaves out zero, "
             f"else cannot tell):", "", "| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for share in shares:
        for arm, base in bases.items():
            found = [compared(there, arm, base, share, test, how, metric) for how, metric, _ in measured(config)]
            if arm == base or found[0] is None:
                continue
            labelled = there[plan.Row(base, min(seeds_of(there, base, share)), share)]["labelled_clips"]
            names = [_title(config, arm), *(() if one else (_title(config, base),))]
            cells = [_interval(d, 2 if metric == "px" else 1)
                     for d, (_, metric, _) in zip(found, measured(config), strict=True)]
            lines.append("| " + " | ".join([str(labelled), *names, str(found[0].seeds), *cells]) + " |")
    return "\n".join(lines)


def by_labels(config, there, test):
    """{title of an arm: [(labelled clips, (S,) the headline's error of each seed), ...]} of arms with several label shares."""
    found = {}
    for arm in config.arms:
        shares = sorted({row.share for row in there if row.arm == arm})
        found[_title(config, arm)] = [_point(config, there, arm, share, test, "labelled_clips") for share in shares]
    return {title: points for title, points in found.items() if len(points) > 1}


def by_pairs(config, there, test):
    """{name of a curve: [(pairs of pre-training, (S,) the headline's error of each seed), ...]}, of the least label share."""
    found = {}
    for arm, spec in config.arms.items():
        shares = {row.share for row in there if row.arm == arm}
        if spec.curve and shares:
            found.setdefault(spec.curve, []).append(_point(config, there, arm, min(shares), test, "pairs"))
    return {name: sorted(points, key=lambda point: point[0]) for name, points in found.items() if len(points) > 1}


def _point(config, there, arm, share, test, against):
    seeds = seeds_of(there, arm, share)
    row = there[plan.Row(arm, min(seeds), share)]
    return (row["pretrain"] if against == "pairs" else row)[against], \
        values(there, arm, share, seeds, test, config.how, config.metric).mean(1)


def _laws(config, there):
    """[A sentence on what power laws through three points or more say of ten times the labels, or pairs, ...]."""
    test, out = next(iter(config.tests)), []
    for against, curves in (("labelled clips", by_labels(config, there, test)), ("pairs", by_pairs(config, there, test))):
        told = []
        for name, points in curves.items():
            if len(points) > 2:
                most = 10 * points[-1][0]
                a, b, c = power_law([x for x, _ in points], [y.mean() for _, y in points])
                told.append(f"{name} {a:.0f} n^-{b:.2f} + {c:.0f} ({len(points)} points), {a * most ** -b + c:.1f} at {most}")
        if told:
            out.append(f"{NAMES[config.metric]} against {against} n, *{test}*, as power laws, and what they predict (a "
                       f"prediction, not a measurement): {'; '.join(told)}.")
    return out


def plots(config, there):
    """[Path, ...] of PNGs beside the page: error against labelled clips, and against pairs, where there are several."""
    out = []
    for against, ending, curves in (("labelled clips", "", by_labels), ("pairs (of an MAE, pictures)", "_pairs", by_pairs)):
        drawn = {test: curves(config, there, test) for test in config.tests}
        if any(drawn.values()):
            out.append(RESULTS.parent / "pictures" / f"transfer_{config.name}{ending}.png")
            _plot(out[-1], drawn, against, f"{NAMES[config.metric]} (bars: deviation of seeds)")
    return out


def _plot(path, drawn, against, metric):
    """One PNG, a panel a test of {test: {name: [(x, (S,) y), ...]}}."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(drawn), 4), dpi=110, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for panel, (test, curves) in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn.items(), strict=True):
        for colour, (name, points) in zip(itertools.cycle(COLOURS), curves.items()):
            panel.errorbar([x for x, _ in points], [y.mean() for _, y in points], [y.std() for _, y in points],
                           marker="o", markersize=4, capsize=3, color=colour, label=name)
        panel.set(xscale="log", xlabel=against, title=test, ylabel=metric)
        ticks = sorted({x for points in curves.values() for x, _ in points})
        ticks = [x for k, x in enumerate(ticks) if not k or x > 1.3 * ticks[k - 1]]  # labels have room
        panel.set_xticks(ticks, [f"{x / 1000:.0f}k" if x >= 10_000 else str(x) for x in ticks])
        panel.minorticks_off()
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False, fontsize=8)
    canvas.draw()
    figure.savefig(path)


def _title(config, arm):
    return config.arms[arm].title or arm


def _clips(there, test):
    return len(next(iter(there.values()))["tests"][test]["frozen"]["mpjpe"])


def _mean(found):
    found = [value for value in found if value is not None]
    return f"{np.mean(found):.3f}" if found else "-"


def _interval(d, digits):
    if not np.isfinite(d.low):
        return f"{d.mean:+.{digits}f}"
    text = f"{d.mean:+.{digits}f} [{d.low:+.{digits}f}, {d.high:+.{digits}f}]"
    return f"**{text}**" if d.tells else text
