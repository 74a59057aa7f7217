"""Tables of a study's rows, and its plots, into docs/results.md."""

import re
from pathlib import Path

import numpy as np

from engine.errors import UserError, explain, failure_of
from engine.paired_stats import fit_power_law, predict_power_law
from engine.run.files import write_file
from studies import angles, claims, plan, plots, seconds, take
from studies.config import REAL, StudyConfig
from studies.protocol import UNCORRECTED, describe_protocol
from studies.rows import (
    NAMES,
    Rows,
    arm_title,
    compare_arms,
    estimate_seed_variance,
    find_usual_share,
    list_seeds,
    list_shown_metrics,
    read_rows,
    stack_values,
    trace_labels,
    trace_pairs,
)

RESULTS = Path("docs/results.md")
POOLED = (
    "An interval depends on the study: the variance over seeds is pooled over all of its arms, so "
    "the same two arms have another interval in another study."
)
EXPLORATORY = (
    "These are exploratory: they are not among the claims, nothing is corrected, and none is "
    "called significant."
)


def write_page(config: StudyConfig) -> None:
    """Put the tables into docs/results.md, between the study's marks, and print them.

    The plots are put beside it.

    Raises:
        UserError: there are no rows, or the page has no marks for them.
    """
    there = read_rows(config)
    if not there:
        raise UserError(f"{plan.open_table(config).path} has no rows of this study yet")
    begin, end = (f"<!-- transfer {config.name}: {word} -->" for word in ("begin", "end"))
    page = RESULTS.read_text(encoding="utf-8")
    if begin not in page or end not in page:
        raise UserError(f"{RESULTS} has no lines '{begin}' and '{end}' to write between")
    drawn = plots.draw_figures(config, there, RESULTS.parent / "images")
    text = "\n\n".join(
        [
            *(f"![{path.stem}]({path.relative_to(RESULTS.parent)})" for path in drawn),
            *make_tables(config, there),
        ]
    )
    try:
        new = re.sub(f"{begin}.*?{end}", lambda _: f"{begin}\n\n{text}\n\n{end}", page, flags=re.S)
        write_file(RESULTS, new)
    except OSError as error:
        raise failure_of(error, f"{RESULTS} cannot be written: {explain(error)}") from None
    print(text)


def make_tables(config: StudyConfig, there: Rows) -> list[str]:
    """Return [Markdown, ...]: protocol, claims, what was trained, errors, differences."""
    shares = sorted({row.share for row in there})
    first = (
        describe_protocol(config),
        claims.make_table(config, there),
        _trained(config, there),
        _given(config, there),
    )
    out = [table for table in first if table]
    for test in config.tests:
        chosen = ", to choose arms by" if test in config.choose else ""
        out.append(
            f"Errors on {_clips(there, test)} test clips, *{test}*{chosen}, means over seeds (mm; "
            f"2D in pixels of the network's image):"
        )
        out.append(_errors(config, there, shares, test))
    real = next((row["real"] for row in there.values() if "real" in row), None)
    if real:
        out.append(_describe_real(real))
        out.append(_errors(config, there, shares, REAL))
    shown = [*config.tests, *([REAL] if real else [])]
    apart = []
    for base in (config.reference, *[name for name, arm in config.arms.items() if arm.scratch][:1]):
        if any(row.arm == base for row in there):
            apart += [
                _differences(config, there, shares, dict.fromkeys(config.arms, base), test)
                for test in shown
            ]
    others = {
        name: arm.against
        for name, arm in config.arms.items()
        if arm.against
        and any(
            list_seeds(there, name, share) & list_seeds(there, arm.against, share)
            for share in shares
        )
    }
    if others:
        apart += [_differences(config, there, shares, others, test) for test in shown]
    if apart:
        words = "Differences of all metrics, with their intervals"
        noted = EXPLORATORY if config.claims else UNCORRECTED
        out.append(
            "\n\n".join(
                [f"<details><summary>{words}</summary>", noted, POOLED, *apart, "</details>"]
            )
        )
    out += _laws(config, there)
    return out + [
        found
        for found in (
            seconds.make_table(config),
            angles.make_table(config),
            take.make_table(config),
        )
        if found
    ]


def _trained(config, there):
    lines = [
        "Training of each arm. Operations and seconds are of pre-training and fine-tuning "
        "together, in parentheses of pre-training; a TFLOP is 10^12 floating-point operations of "
        "matrix products, backward passes included; seconds are means, of runs side by side as "
        "they came.",
        "",
        "| arm | seeds | steps | pairs | fine-tuning steps | TFLOP | seconds | validation loss, "
        "cross-view / cross-pose | reference gain on the person |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in config.arms:
        found = {row: one for row, one in there.items() if row.arm == name}
        runs = {row.seed: one["pretrain"] for row, one in found.items()}
        if not runs:
            continue
        pretrained = any(runs.values())
        first = next(iter(runs.values()))
        losses = [
            " / ".join(
                _mean([run.get(f"{group}/{kind}{end}") for run in runs.values()])
                for kind in ("cross_view", "cross_pose")
            )
            for group, end in (("val", ""), ("reference_gain", "_person"))
        ]
        tuned = [one["finetune"] for one in found.values() if one.get("finetune")]
        cells = [
            arm_title(config, name),
            str(len(runs)),
            *([str(first["steps"]), str(first["pairs"])] if pretrained else ["", ""]),
            str(tuned[0].get("steps", "")) if tuned else "",
            _show_operations(config, name),
            _show_seconds(list(runs.values()), tuned),
            *(losses if pretrained else ["", ""]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _show_operations(config, arm):
    """TFLOP of an arm's training, and of its pre-training; nothing where they are not known."""
    spent = plan.count_training(config, arm)
    if spent is None:
        return ""
    return f"{sum(spent) / 1e12:.1f}" + (f" ({spent[0] / 1e12:.1f})" if spent[0] else "")


def _show_seconds(pretrained, tuned):
    """Mean seconds of an arm's training, and of its pre-training."""
    before = np.mean([run.get("seconds", 0) for run in pretrained])
    after = np.mean([run.get("seconds", 0) for run in tuned]) if tuned else 0.0
    return f"{before + after:.0f}" + (f" ({before:.0f})" if before else "")


def _given(config, there):
    """A table of what references give: the losses of masked autoencoders less those of arms.

    None where no arm names one. A mismatched reference misleads, so that the gain over it says more
    than the reference is worth.
    """
    lines = [
        "| arm | seeds | less than its MAE's loss: cross-view | cross-pose | person patches: "
        "cross-view | cross-pose |",
        "|---|---|---|---|---|---|",
    ]
    for name, arm in config.arms.items():
        if not arm.mae:
            continue
        mine, its = (
            {row.seed: found["pretrain"] for row, found in there.items() if row.arm == which}
            for which in (name, arm.mae)
        )
        seeds = sorted(mine.keys() & its.keys())
        if not seeds:
            continue
        cells = []
        for end in ("", "_person"):
            for kind in ("cross_view", "cross_pose"):
                cells.append(_share_given(mine, its, seeds, f"val/{kind}{end}"))
        lines.append(f"| {arm_title(config, name)} | {len(seeds)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) if len(lines) > 2 else None


def _share_given(mine, its, seeds, key):
    """A loss of ``its`` less that of ``mine``, over seeds, and as a share of its own."""
    if any(key not in run for seed in seeds for run in (mine[seed], its[seed])):
        return ""
    base = np.mean([its[seed][key] for seed in seeds])
    given = base - np.mean([mine[seed][key] for seed in seeds])
    return f"{given:.3f} ({given / base:.1%})"


def _describe_real(real):
    """A line on the real crops of a row, before what is read out of them."""
    scenes = ", ".join(f"{name} {crops}" for name, crops in real["scenes"].items())
    return (
        f"Keypoints of real people, *{REAL}*, read off the frozen encoder, means over seeds and "
        f"scenes: distance from the found keypoints as a share of the person's box, and the share "
        f"of them that is missed by a fifth of the box (100 - PCK@0.2). {real['clips']} clips; "
        f"crops judged, by scene: {scenes}. Fitted to the labelled synthetic people; to the "
        f"found keypoints of all other scenes; to those early in the same scene. *Mean pose*: the "
        f"mean place of each keypoint."
    )


def _errors(config, there, shares, test):
    shown = list_shown_metrics(config, there, test)
    heads = ["labelled clips", "arm", "seeds", *(name for *_, name in shown)]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for share in shares:
        for arm in config.arms:
            seeds = list_seeds(there, arm, share)
            if seeds:
                labelled = there[plan.Row(arm, min(seeds), share)]["labelled_clips"]
                cells = []
                for how, metric, _ in shown:
                    cells.append(_show_mean(there, arm, share, test, how, metric))
                lines.append(
                    f"| {labelled} | {arm_title(config, arm)} | {len(seeds)} | "
                    + " | ".join(cells)
                    + " |"
                )
    cells = [_show_constant(there, test, how, metric) for how, metric, _ in shown]
    if any(cells):
        lines.append("| | mean pose | | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _show_mean(there, arm, share, test, how, metric):
    """An arm's mean over seeds and clips; nothing where its rows lack the read-out."""
    seeds = list_seeds(there, arm, share, (test, how))
    if not seeds:
        return ""
    mean = stack_values(there, arm, share, seeds, test, how, metric).mean()
    return f"{mean:.{_count_digits(metric)}f}"


def _show_constant(there, test, how, metric):
    """The error of the mean pose, or of the mean of what is read off; nothing where unknown."""
    rows = [row["tests"].get(test, {}) for row in there.values()]
    if how == "finetuned":
        found = [one["mean_pose"][metric] for one in rows if "mean_pose" in one]
    else:
        found = [one[how]["constant"][metric] for one in rows if "constant" in one.get(how, {})]
    return f"{np.mean(found):.{_count_digits(metric)}f}" if found else ""


def _count_digits(metric):
    return 2 if metric == "px" else 1


def _differences(config, there, shares, bases, test):
    """A table of arms less others on a test set.

    ``bases``: {arm: the one that it is compared with}.
    """
    shown = list_shown_metrics(config, there, test)
    one = set(bases.values()) if len(set(bases.values())) == 1 else None
    bold = "" if config.claims else "; bold: significant, the 95 % interval excludes zero"
    heads = [
        "labelled clips",
        "arm",
        *(() if one else ("minus",)),
        "seeds",
        *(name for *_, name in shown),
    ]
    heading = (
        f"Difference from *{arm_title(config, *one)}*" if one else "Differences of pairs of arms"
    )
    unit = "scene" if test == REAL else "clip"
    lines = [
        f"{heading}, paired by seed and {unit}, *{test}* (negative: better; 95 % intervals{bold}; "
        f"in parentheses seeds where they are fewer):",
        "",
        "| " + " | ".join(heads) + " |",
        "|" + "---|" * len(heads),
    ]
    claimed = {one.key for one in config.list_claims()}
    for share in shares:
        for arm, base in bases.items():
            found = [
                compare_arms(there, arm, base, share, test, how, metric) for how, metric, _ in shown
            ]
            if arm == base or found[0] is None:
                continue
            labelled = there[plan.Row(base, min(list_seeds(there, base, share)), share)][
                "labelled_clips"
            ]
            names = [arm_title(config, arm), *(() if one else (arm_title(config, base),))]
            cells = []
            for d, (how, metric, _) in zip(found, shown, strict=True):
                both = frozenset(((arm, how), (base, how)))
                if d is None:
                    cells.append("")
                elif (both, test, metric, share) in claimed:
                    cells.append("a claim")
                else:
                    bold = d.significant and not config.claims
                    text = claims.show_difference(d, _count_digits(metric), bold)
                    cells.append(text if d.seeds == found[0].seeds else f"{text} ({d.seeds})")
            lines.append(
                "| " + " | ".join([str(labelled), *names, str(found[0].seeds), *cells]) + " |"
            )
    return "\n".join(lines)


def _laws(config, there):
    """Return a list of sentences on what power laws say of ten times the labels, or pairs.

    Power laws through three points or more.
    """
    test, out = next(iter(config.tests)), []
    apart = estimate_seed_variance(
        there, find_usual_share(there), test, config.how, config.metric
    ).variance
    for against, of in (("labelled clips", trace_labels), ("pairs", trace_pairs)):
        laws, curves = [], of(config, there, test, config.how, config.metric)
        curves = {name: points for name, points in curves.items() if len(points) > 2}
        most = 10 * max((points[-1][0] for points in curves.values()), default=0)
        for name, points in curves.items():
            x, errors = [x for x, _ in points], [y.mean() for _, y in points]
            a, b, c = fit_power_law(x, errors)
            at, low, high = predict_power_law(
                x, errors, [(apart / len(y)) ** 0.5 for _, y in points], most
            )
            laws.append(
                f"{name} {a:.0f} n^-{b:.2f} + {c:.0f} ({len(points)} points), {at:.1f} ({low:.1f} "
                f"to {high:.1f})"
            )
        if laws:
            out.append(
                f"{NAMES[config.metric]} against {against} n, *{test}*, as power laws, and what "
                f"they predict at {most} "
                f"(a prediction, not a measurement; in parentheses where 95 % of such predictions "
                f"lie if seeds move the "
                f"points; three points fix a law of three numbers): {'; '.join(laws)}."
            )
    return out


def _clips(there, test):
    return len(next(iter(there.values()))["tests"][test]["frozen"]["mpjpe"])


def _mean(found):
    found = [value for value in found if value is not None]
    return f"{np.mean(found):.3f}" if found else "-"
