"""``python -m engine report RUN ...``: curves and images of one or several runs.

They make one HTML page, without wandb.

What lies in the folders is read and nothing else: config.yaml, environment.json, log.jsonl, what
its numbers are (metrics.json), the newest images, and how many bad samples and captures there are.
The page needs no other file.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timezone
from pathlib import Path

import yaml

from engine.config.parser import parse_keys
from engine.errors import UserError
from engine.logging import metrics
from engine.logging.metric_registry import MetricBook, read_metrics
from engine.logging.page import render
from engine.logging.page.curves import PALETTE, Chart, Line, chart, points, thinned
from engine.logging.page.images import inline_file
from engine.logging.report_config import ReportConfig
from engine.run.run_folder import RunFolder


@dataclass
class SeenRun:
    """What a run's folder shows.

    Attributes:
        name: told apart from the others'.  colour: of its curves.  config: {dotted key: text}.
            command: "pretrain train" or such.
        log: a dict a logged step.  images: {kind: (step, path)}, the newest of each.
        counts: {"bad samples" or "captures": how many}, of what is there.  environment: versions,
            git, command, or {}.  book: what its numbers and images are.
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
    book: MetricBook


def main(argv: list[str]) -> int:
    """Write the page; returns the exit code."""
    config, paths = parse_keys(ReportConfig, argv, "engine report")
    named = zip(paths, names(paths), strict=True)
    runs = [read_run(path, name, PALETTE[i % len(PALETTE)]) for i, (path, name) in enumerate(named)]
    text = page(runs)
    out = config.out or str(RunFolder(paths[0]).report)
    render.write(out, text)
    print(f"wrote {out} ({len(text.encode()) / 1e6:.1f} MB)")
    return 0


def names(paths: Sequence[str]) -> list[str]:
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


def read_run(path: str | Path, name: str, colour: str) -> SeenRun:
    """The SeenRun of a folder.

    Raises:
        UserError: it is not a run's folder, or a file in it is broken.
    """
    path = Path(path)
    folder = RunFolder(path)
    file = folder.config
    if not file.is_file():
        raise UserError(f"{path} is not a run's folder: it has no config.yaml")
    try:
        tree = yaml.load(file.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(
            f"{file} is not a YAML config: {' '.join(str(error).split())[:200]}"
        ) from None
    if not isinstance(tree, dict):
        raise UserError(f"{file} is not a YAML config: it holds no keys")
    newest = {}
    for kind, images in folder.list_images().items():
        newest[kind] = max(images.items())
    counts = {}
    if folder.bad_samples.is_file():
        with open(folder.bad_samples, encoding="utf-8") as lines:
            counts["bad samples"] = sum(1 for _ in lines)
    if folder.captures.is_dir():
        captures = [entry.name for entry in folder.captures.iterdir()]
        counts["captures"] = sum(1 for name in captures if not name.startswith("."))
    return SeenRun(
        path,
        name,
        colour,
        str(tree.pop("command", "")),
        dict(_flat(tree)),
        metrics.read(path),
        newest,
        counts,
        _environment(folder.environment),
        read_metrics(path),
    )


def page(runs: Sequence[SeenRun]) -> str:
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


def differences(runs: Sequence[SeenRun]) -> list[tuple[str, list[str | None]]]:
    """[(key, [text or None of each run])] of config keys that are not the same in all of them.

    The folder is left out.
    """
    every = sorted({name for run in runs for name in run.config} - {"run"})
    rows = [(name, [run.config.get(name) for run in runs]) for name in every]
    return [row for row in rows if len(set(row[1])) > 1]


def newest_numbers(runs: Sequence[SeenRun], keys: Sequence[str]) -> list[tuple[str, list]]:
    """Return each number as it was logged last.

    As [(group, [(key, [(value as text, step) or None of each run])])].
    """
    last = [
        {name: (shown(value), line["step"]) for line in run.log for name, value in line.items()}
        for run in runs
    ]
    return [
        (group.title, [(name, [of_run.get(name) for of_run in last]) for name in members])
        for group, members in _grouped(merge_books(runs), keys)
    ]


def merge_books(runs: Iterable[SeenRun]) -> MetricBook:
    """What the numbers of several runs are; of two that differ the later run's word counts."""
    book = MetricBook()
    for run in runs:
        book = book.extend(run.book)
    return book


def shown(value: object) -> str:
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


def _grouped(book, keys):
    """Return [(Group, its keys)] of the groups that have keys.

    Those of the book come in its order, then others.
    """
    known = [group.prefix for group in book.groups]
    rest = {name.split("/")[0] for name in keys} - set(known)
    found = []
    for prefix in [*known, *sorted(rest)]:
        members = [name for name in keys if name.split("/")[0] == prefix]
        if members:
            found.append((book.find_group(prefix), members))
    return found


def _groups(runs, keys):
    """The charts of each group; a number that belongs beside another is drawn in its chart."""
    book, out = merge_books(runs), []
    for group, members in _grouped(book, keys):
        own = [name for name in members if book.find_host(name, keys) is None]
        charts = [one for one in (chart_of(runs, name) for name in own) if one]
        if charts:
            out.append(
                {
                    "prefix": group.prefix,
                    "title": group.title,
                    "words": group.text,
                    "charts": charts,
                }
            )
    return out


def chart_of(runs: Sequence[SeenRun], name: str) -> Chart | None:
    """The Chart of a key over all runs, with what is drawn beside it.

    None where nobody logged a number.
    """
    book = merge_books(runs)
    lines = [line for run in runs for line in _lines_of(run, name, book, len(runs) > 1)]
    group = book.find_group(name.partition("/")[0])
    for companion in group.companions:
        if companion.colour:
            key = name + companion.suffix
            # What training does not change: once, from the first run that has it.
            found = (points(run, key) for run in runs)
            still = next((one for one in found if one), [])
            lines.append(Line(companion.label, still, companion.colour, companion.look))
    metric = book.find_metric(name)
    return chart(metric.title, metric.unit, lines, metric.unit, name, metric.log_scale)


def _lines_of(run: SeenRun, name: str, book: MetricBook, several: bool) -> Iterator[Line]:
    """The curves of one run in the chart of ``name``. ``several``: other runs are drawn there."""
    prefix, _, rest = name.partition("/")
    group = book.find_group(prefix)
    series = [(name, group.label, group.look)]
    for companion in group.companions:
        if not companion.colour:
            series.append((name + companion.suffix, companion.label, companion.look))
    for other in book.groups:
        if other.beside == prefix:
            series.append((f"{other.prefix}/{rest}", other.label, other.look))
    found = [(points(run, key), label, look) for key, label, look in series]
    alone = not any(values for values, _, _ in found[1:])
    for values, label, look in found:
        words = [run.name] if several or alone or not label else []
        words += [label] if label and not alone else []
        yield Line(", ".join(words), thinned(values), run.colour, "solid" if alone else look)


def _images(runs):
    out = {}
    for run in runs:
        for kind, (step, path) in sorted(run.images.items(), key=lambda item: item[0] != "step"):
            title = run.book.images.get(kind, kind.replace("_", " ").capitalize())
            words = f"{title} of {run.name} at step {step:,}"
            out.setdefault(title, []).append(
                {"run": run.name, "step": f"{step:,}", "words": words, **inline_file(path)}
            )
    return out


if __name__ == "__main__":
    from engine.cli import run as run_command

    run_command(main)
