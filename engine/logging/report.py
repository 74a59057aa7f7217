"""``python -m engine report RUN ...``: curves and images of one or several runs as one
HTML page, without wandb.

What lies in the folders is read and nothing else: config.yaml, environment.json, log.jsonl, the
newest images, and how many bad samples and captures there are. The page needs no other file.
"""

import json
import os
import re
from dataclasses import dataclass
from datetime import date, datetime, timezone
from pathlib import Path

import yaml

from engine.config.parser import key, parse_keys
from engine.errors import UserError
from engine.logging import metrics
from engine.logging.page import render
from engine.logging.page.curves import PALETTE, Line, chart, points, thinned
from engine.logging.page.images import inline_file

USAGE = "python -m engine report RUN ... [out=FILE.html]"
# Groups of the log in the order of the page: prefix, title, what to look for. Others come after,
# under their prefix.
GROUPS = (
    ("loss", "Loss", "Mean since the last line (thin) and of fixed held-out samples (strong)."),
    ("loss_by_source", "Loss by source", "The same mean, each source by itself."),
    ("val", "Validation", "On fixed samples that are never trained on."),
    (
        "reference_gain",
        "Reference gain",
        "Loss with a stranger's reference, less that with the true one; dashed: all patches, "
        "solid: person patches alone. Zero: the second image is not used.",
    ),
    (
        "probe",
        "3D probe",
        "Error of joints read off the frozen encoder by a ridge regression, beside rows without "
        "training.",
    ),
    (
        "evaluation",
        "Evaluation",
        "Of checkpoints, in processes or jobs of their own beside the training.",
    ),
    ("optim", "Optimisation", ""),
    ("speed", "Speed", ""),
    ("memory", "Memory", ""),
    ("data", "Data", ""),
)
UNITS = {
    "evaluation/pa_mpjpe": "mm",
    "evaluation/mpjpe": "mm",
    "evaluation/pve": "mm",
    "evaluation/pa_pve": "mm",
    "evaluation/pve_plain": "mm",
    "evaluation/pa_pve_plain": "mm",
    "probe/pa_mpjpe": "mm",
    "probe/mpjpe": "mm",
    "val/mpjpe": "mm",
    "val/pa_mpjpe": "mm",
    "probe/lambda": "over crops",
    "speed/data_wait_share": "of the time",
    "speed/mfu": "of the device's peak",
    "speed/slowest_share": "over the median",
    "memory/host_gib": "GiB",
    "memory/device_gib": "GiB",
}
TITLES = {
    "lr": "learning rate",
    "mpjpe": "MPJPE",
    "pa_mpjpe": "PA-MPJPE",
    "pve": "PVE",
    "pa_pve": "PA-PVE",
    "pve_plain": "PVE, plain mean",
    "pa_pve_plain": "PA-PVE, plain mean",
    "f5": "F@5",
    "f15": "F@15",
    "iou": "IoU",
    "host_gib": "first process",
    "device_gib": "first GPU",
    "grad_norm": "gradient norm",
    "pairs_per_s": "pairs a second",
    "pairs_per_s_device": "pairs a second and device",
    "crops_per_s": "crops a second",
    "crops_per_s_device": "crops a second and device",
    "data_wait_share": "waiting for data",
    "mfu": "share of the peak",
    "bad_samples": "samples with bad bytes",
    "no_pair": "samples without a pair",
    "slowest_rank": "slowest rank",
    "slowest_share": "own time of the slowest rank",
}
STILL = {
    "_constant": ("mean pose", "#9aa3b0"),
    "_random": ("random encoder", "#5b6473"),
    "_timm": ("timm model", "#8a5a9b"),
}
STOOD = ("probe", "evaluation")  # groups with rows of those beside
IMAGES = {
    ("pretrain", "step"): "Completions",
    ("pretrain", "attention"): "Attention",
    ("finetune train", "step"): "Overlays",
}


@dataclass
class ReportConfig:
    out: str = key(
        "", "the HTML file to write; default: report.html in the first run's folder", path="one"
    )

    def check(self):
        if self.out and not self.out.lower().endswith((".html", ".htm")):
            raise UserError(f"out={self.out}: the file's name does not end in .html")


@dataclass
class SeenRun:
    """What a run's folder shows.

    Attributes:
        name: told apart from the others'.  colour: of its curves.  config: {dotted key: text}.
            command: "pretrain" or such.
        log: a dict a logged step.  images: {kind: (step, path)}, the newest of each.
        counts: {"bad samples" or "captures": how many}, of what is there.  environment: versions,
            git, command, or {}.
    """

    path: Path
    name: str
    colour: str
    command: str
    config: dict
    log: list
    images: dict
    counts: dict
    environment: dict


def main(argv):
    """Write the page; returns the exit code."""
    config, paths = parse_keys(ReportConfig, argv, "engine.logging.report", USAGE)
    named = zip(paths, names(paths), strict=True)
    runs = [read_run(path, name, PALETTE[i % len(PALETTE)]) for i, (path, name) in enumerate(named)]
    text = page(runs)
    out = config.out or os.path.join(paths[0], "report.html")
    render.write(out, text)
    print(f"wrote {out} ({len(text.encode()) / 1e6:.1f} MB)")
    return 0


def names(paths):
    """The shortest ends of the paths that tell them apart.

    Raises:
        UserError: two of them are the same folder.
    """
    parts = [Path(os.path.abspath(path)).parts for path in paths]
    for i, one in enumerate(parts):
        if one in parts[:i]:
            raise UserError(f"{paths[i]} is named twice")
    out = []
    for one in parts:
        length = next(
            n for n in range(1, len(one) + 1) if sum(other[-n:] == one[-n:] for other in parts) == 1
        )
        out.append("/".join(one[-length:]))
    return out


def read_run(path, name, colour):
    """The SeenRun of a folder.

    Raises:
        UserError: it is no run's folder, or a file in it is broken.
    """
    path = Path(path)
    file = path / "config.yaml"
    if not file.is_file():
        raise UserError(f"{path} is no run's folder: it has no config.yaml")
    try:
        tree = yaml.load(file.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(
            f"{file} is not a YAML config: {' '.join(str(error).split())[:200]}"
        ) from None
    if not isinstance(tree, dict):
        raise UserError(f"{file} is not a YAML config: it holds no keys")
    newest = {}
    for image in sorted(path.glob("images/*.png")):
        found = re.fullmatch(r"([a-z_]+)-(\d+)\.png", image.name)
        if found:
            newest[found[1]] = int(found[2]), image
    counts = {}
    if (path / "bad_samples.jsonl").is_file():
        with open(path / "bad_samples.jsonl", encoding="utf-8") as lines:
            counts["bad samples"] = sum(1 for _ in lines)
    if (path / "captures").is_dir():
        counts["captures"] = sum(
            1 for entry in (path / "captures").iterdir() if not entry.name.startswith(".")
        )
    return SeenRun(
        path,
        name,
        colour,
        str(tree.pop("command", "")),
        dict(_flat(tree)),
        metrics.read(path),
        newest,
        counts,
        _environment(path / "environment.json"),
    )


def page(runs):
    """The whole page as text. ``runs``: SeenRuns, at least one."""
    keys = sorted(
        {
            name
            for run in runs
            for line in run.log
            for name, value in line.items()
            if "/" in name and isinstance(value, (int, float))
        }
    )
    return render.page(
        "run_report.html",
        {
            "runs": [_facts(run) for run in runs],
            "made": date.today().isoformat(),
            "differences": differences(runs),
            "groups": _groups(runs, keys),
            "table": newest_numbers(runs, keys),
            "images": [{"title": title, "items": items} for title, items in _images(runs).items()],
        },
    )


def differences(runs):
    """[(key, [text or None of each run])] of config keys that are not the same in all of them; the
    folder is left out."""
    every = sorted({name for run in runs for name in run.config} - {"run"})
    rows = [(name, [run.config.get(name) for run in runs]) for name in every]
    return [row for row in rows if len(set(row[1])) > 1]


def newest_numbers(runs, keys):
    """[(group, [(key, [(value as text, step) or None of each run])])]: each number as it was logged
    last."""
    last = [
        {name: (shown(value), line["step"]) for line in run.log for name, value in line.items()}
        for run in runs
    ]
    return [
        (title, [(name, [of_run.get(name) for of_run in last]) for name in members])
        for _, title, _, members in _grouped(keys)
    ]


def shown(value):
    """A number with the digits that are worth reading."""
    if not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if abs(value) < 1e5 else f"{value:,.0f}"


def _flat(tree, prefix=""):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield (
                f"{prefix}{name}",
                ", ".join(map(str, value)) if isinstance(value, list) else str(value),
            )


def _environment(path):
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from None


def _facts(run):
    """What stands at the head of the page about a run."""
    last = run.log[-1] if run.log else {}
    facts = [
        run.command,
        f"step {last['step']:,} of {run.config.get('steps', '?')}" if last else "no line yet",
    ]
    if "time" in last:
        facts.append(
            "last line "
            + datetime.fromtimestamp(last["time"], timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
        )
    facts += [f"{words}: {count:,}" for words, count in run.counts.items()]
    facts += _slowest(run)
    facts += [f"code {run.environment['git']}"] if run.environment.get("git") else []
    facts += [
        f"{name} {text}"
        for name, text in run.environment.get("versions", {}).items()
        if name in ("torch", "python")
    ]
    return {"name": run.name, "colour": run.colour, "facts": facts}


def _slowest(run):
    """[the rank and node that the others waited for lately], [] of a run of one process."""
    line = next((line for line in reversed(run.log) if "speed/slowest_share" in line), None)
    if line is None:
        return []
    return [
        f"slowest lately: rank {line['speed/slowest_rank']} on {line['speed/slowest_host']}, "
        f"{line['speed/slowest_share']:.0%} over the median"
    ]


def _grouped(keys):
    """[(prefix, title, words, keys)] of the groups that have keys."""
    known = [prefix for prefix, _, _ in GROUPS]
    rest = sorted({name.split("/")[0] for name in keys} - set(known))
    groups = [*GROUPS, *((prefix, prefix.replace("_", " ").capitalize(), "") for prefix in rest)]
    found = [
        (prefix, title, words, [name for name in keys if name.split("/")[0] == prefix])
        for prefix, title, words in groups
    ]
    return [group for group in found if group[3]]


def _groups(runs, keys):
    """The charts of each group; a number that belongs beside another is drawn in its chart."""
    out = []
    for prefix, title, words, members in _grouped(keys):
        charts = [chart_of(runs, name) for name in members if not _beside(name, keys)]
        charts = [one for one in charts if one]
        if charts:
            out.append({"prefix": prefix, "title": title, "words": words, "charts": charts})
    return out


def _beside(name, keys):
    """The key in whose chart this one is drawn, or None."""
    prefix, _, rest = name.partition("/")
    if prefix == "val" and f"loss/{rest}" in keys:
        return f"loss/{rest}"
    if prefix == "reference_gain" and f"{name}_person" in keys:
        return f"{name}_person"
    ending = next((ending for ending in STILL if prefix in STOOD and name.endswith(ending)), None)
    return name.removesuffix(ending) if ending else None


def chart_of(runs, name):
    """The Chart of a key over all runs, with what is drawn beside it; None where nobody logged a
    number."""
    prefix, _, rest = name.partition("/")
    # The key drawn beside this one, and the words and looks of both.
    beside = {
        "loss": (f"val/{rest}", ("training", "held out"), ("faint", "solid")),
        "reference_gain": (
            name.removesuffix("_person"),
            ("person patches", "all patches"),
            ("solid", "dashed"),
        ),
    }
    other, words, looks = beside.get(prefix, (name, ("", ""), ("solid", "solid")))
    rest = rest.removesuffix("_person") if prefix == "reference_gain" else rest
    lines = []
    for run in runs:
        found = [points(run, name), points(run, other) if other != name else []]
        for one, word, look in zip(found, words, looks, strict=True):
            word = (
                ", ".join(
                    [run.name] * (len(runs) > 1)
                    + [word] * bool(word and (found[1] or look != "faint"))
                )
                or run.name
            )
            lines.append(Line(word, thinned(one), run.colour, look if found[1] else "solid"))
    for ending, (words, colour) in STILL.items() if prefix in STOOD else ():
        # Rows that training does not change: once, from the first run that has them.
        still = next((found for run in runs if (found := points(run, name + ending))), [])
        lines.append(Line(words, still, colour, "dashed"))
    title, unit = TITLES.get(rest, rest.replace("_", " ").replace("/", ", ")), UNITS.get(name, "")
    return chart(
        title,
        unit,
        lines,
        unit,
        name,
        name in ("optim/grad_norm", "probe/lambda", "evaluation/lambda"),
    )


def _images(runs):
    out = {}
    for run in runs:
        for kind, (step, path) in sorted(run.images.items(), key=lambda item: item[0] != "step"):
            title = IMAGES.get((run.command, kind), kind.replace("_", " ").capitalize())
            words = f"{title} of {run.name} at step {step:,}"
            out.setdefault(title, []).append(
                {"run": run.name, "step": f"{step:,}", "words": words, **inline_file(path)}
            )
    return out


if __name__ == "__main__":
    from engine.cli import run as run_command

    run_command(main)
