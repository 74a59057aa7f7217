"""What the referee found, as numbers with intervals over clips, and as tables of text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.evaluation.metrics import bootstrap
from finetune.referee.kinds import KINDS, Kind
from finetune.referee.rows import MEAN, RUN
from finetune.referee.takes import Triangulated

if TYPE_CHECKING:
    from finetune.referee.judge import JudgedPerson

# Key: name, unit, how many digits. What facing_2d is called depends on the kind.
METRICS = {
    "pck_0.1": ("PCK@0.1", "", 3),
    "pck_0.2": ("PCK@0.2", "", 3),
    "iou": ("mask IoU", "", 3),
    "facing_2d": ("", "", 3),
    "facing": ("faces within 45 deg", "", 3),
    "pck_others": ("PCK@0.2, other cameras", "", 3),
    "mpjpe": ("MPJPE", "mm", 0),
    "pa_mpjpe": ("PA-MPJPE", "mm", 0),
}
GROUPS = {"all": "all", "standing": "standing, whole, not hidden"}
SIDES = ("real", "synthetic")


@dataclass
class Judged:
    """Everything that was judged.

    Attributes:
        kind: of what.
        titles: {row: title} of the tables' rows, the run's first.
        people: found in real images.
        takes: {take: Triangulated}.
        synthetic: labelled synthetic ones, none unless they were asked for.
    """

    kind: Kind
    titles: Mapping[str, str]
    people: Sequence["JudgedPerson"]
    takes: Mapping[str, Triangulated]
    synthetic: Sequence["JudgedPerson"] = field(default_factory=list)

    def groups(self) -> dict[str, list["JudgedPerson"]]:
        """{group: real people}."""
        groups = {"all": list(self.people)}
        if self.kind.name == "body":
            groups["standing"] = [person for person in self.people if person.standing]
        return groups


def summarise(judged: Judged, command: str, step: int) -> dict[str, Any]:
    """The content of referee.json."""
    people, titles = judged.people, judged.titles
    results: dict[str, Any] = {
        "command": command,
        "kind": judged.kind.name,
        "step": step,
        "rows": dict(titles),
        "groups": {name: _group(members, titles) for name, members in judged.groups().items()},
        "joints": {row: _per_joint(judged.kind, people, row) for row in titles},
        "clips": {name: _clip(members, titles) for name, members in by_clip(people).items()},
        "truth": {take: _describe_take(found) for take, found in judged.takes.items()},
    }
    if judged.synthetic:
        made = judged.synthetic
        results["synthetic"] = _group(made, titles)
        results["synthetic"]["joints"] = {row: _per_joint(judged.kind, made, row) for row in titles}
    return results


def by_clip(people: Sequence["JudgedPerson"]) -> dict[str, list["JudgedPerson"]]:
    """{name of the clip: its people}."""
    clips: dict[str, list[JudgedPerson]] = {}
    for person in people:
        clips.setdefault(person.clip.name, []).append(person)
    return clips


def _group(people: Sequence["JudgedPerson"], titles: Mapping[str, str]) -> dict[str, Any]:
    return {
        "people": len(people),
        "clips": len(by_clip(people)),
        "rows": {row: summarise_row(people, row) for row in titles},
        "differences": {row: _differences(people, row) for row in titles if row != RUN},
    }


def _clip(people: Sequence["JudgedPerson"], titles: Mapping[str, str]) -> dict[str, Any]:
    return {
        "people": len(people),
        "standing": sum(person.standing for person in people),
        "frames": len({person.seen.frame for person in people}),
        "take": people[0].clip.take,
        "rows": {row: summarise_row(people, row, False) for row in titles},
    }


def summarise_row(
    people: Sequence["JudgedPerson"], row: str, intervals: bool = True
) -> dict[str, Any]:
    """{metric: {"mean", "people"}}; with ``intervals`` "low" and "high" too, where defined."""
    out: dict[str, Any] = {}
    for metric in METRICS:
        entry = _entry(people, _values(people, row, metric), intervals)
        if entry:
            out[metric] = entry
    return out


def _differences(people: Sequence["JudgedPerson"], row: str) -> dict[str, Any]:
    """{metric: the run minus a row, person by person}."""
    out: dict[str, Any] = {}
    for metric in METRICS:
        entry = _entry(people, _values(people, RUN, metric) - _values(people, row, metric), True)
        if entry:
            out[metric] = entry
    return out


def _values(people: Sequence["JudgedPerson"], row: str, metric: str) -> np.ndarray:
    return np.array([person.values[row].get(metric, np.nan) for person in people])


def _entry(
    people: Sequence["JudgedPerson"], values: np.ndarray, intervals: bool
) -> dict[str, float | int]:
    known = np.isfinite(values)
    if not known.any():
        return {}
    entry: dict[str, float | int] = {"mean": float(values[known].mean())}
    entry["people"] = int(known.sum())
    if intervals:
        names = np.array([person.clip.take or person.clip.name for person in people])
        _, low, high = bootstrap(values[known], names[known])
        if np.isfinite(low):
            entry |= {"low": low, "high": high}
    return entry


def _per_joint(
    kind: Kind, people: Sequence["JudgedPerson"], row: str
) -> dict[str, list[float | None]]:
    """{joint: [PCK@0.1, PCK@0.2]}."""
    hits = np.stack([person.joints[row] for person in people])
    out: dict[str, list[float | None]] = {}
    for i, joint in enumerate(kind.joints):
        both: list[float | None] = []
        for k in (0, 1):
            known = hits[:, k, i][np.isfinite(hits[:, k, i])]
            both.append(float(known.mean()) if len(known) else None)
        out[joint] = both
    return out


def _describe_take(found: Triangulated) -> dict[str, float | int]:
    if not found.errors_px:
        return {"instants": 0}
    return {
        "instants": len(found.joints),
        "median_px": float(np.median(found.errors_px)),
        "p90_px": float(np.percentile(found.errors_px, 90)),
        "median_of_box": float(np.median(found.errors_box)),
        "p90_of_box": float(np.percentile(found.errors_box, 90)),
    }


def describe(results: Mapping[str, Any]) -> str:
    """The tables that the command prints."""
    words = KINDS[results["kind"]].words
    parts = []
    for group, found in results["groups"].items():
        parts.append(f"{GROUPS[group]}: {found['people']} {words} in {found['clips']} clips")
        parts.append(_lay_out(_lines_of_group(results, found)))
    if "synthetic" in results:
        made = results["synthetic"]
        parts.append(f"real | synthetic: {made['people']} {words} of {made['clips']} made clips")
        parts.append(_lay_out(_lines_of_gap(results)))
    parts.append("by clip, this run and the mean")
    parts.append(_lay_out(_lines_of_clips(results)))
    parts += [_sentence(take, found) for take, found in results["truth"].items()]
    return "\n".join(parts)


def name_metric(kind: Kind, metric: str) -> str:
    """What a metric is called, with its unit."""
    name, unit, _ = METRICS[metric]
    return (name or kind.face) + (f", {unit}" if unit else "")


def _lines_of_group(results: Mapping[str, Any], found: Mapping[str, Any]) -> list[list[str]]:
    """A line a row, below it the run's difference from it; a column a metric."""
    metrics = [m for m in METRICS if any(m in row for row in found["rows"].values())]
    lines = [["", *(name_metric(KINDS[results["kind"]], metric) for metric in metrics)]]
    for row, title in results["rows"].items():
        lines.append([title, *(_cell(found["rows"][row], metric) for metric in metrics)])
        if row in found["differences"]:
            less = found["differences"][row]
            lines.append(["  the run minus it", *(_cell(less, m, "+") for m in metrics)])
    return lines


def _lines_of_gap(results: Mapping[str, Any]) -> list[list[str]]:
    """A line a row, two columns a metric: real images, synthetic ones."""
    sides = [results["groups"]["all"], results["synthetic"]]
    rows = [side["rows"][RUN] for side in sides]
    metrics = [metric for metric in METRICS if all(metric in row for row in rows)]
    lines = [[""]]
    for metric in metrics:
        lines[0] += [f"{name_metric(KINDS[results['kind']], metric)} {side}" for side in SIDES]
    for row, title in results["rows"].items():
        line = [title]
        for metric in metrics:
            line += [_cell(side["rows"][row], metric) for side in sides]
        lines.append(line)
    return lines


def _lines_of_clips(results: Mapping[str, Any]) -> list[list[str]]:
    shown = [metric for metric in METRICS if metric in results["groups"]["all"]["rows"][RUN]]
    words = KINDS[results["kind"]].words
    lines = [
        ["", "frames", words, *(name_metric(KINDS[results["kind"]], metric) for metric in shown)]
    ]
    for name, clip in results["clips"].items():
        cells = []
        for metric in shown:
            both = [_cell(clip["rows"][row], metric) for row in (RUN, MEAN)]
            cells.append(" / ".join(both))
        lines.append([name, str(clip["frames"]), str(clip["people"]), *cells])
    return lines


def _lay_out(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table, padded so that it also reads in a terminal."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    ruled = [lines[0], ["-" * width for width in widths], *lines[1:]]
    return "\n".join(
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |"
        for line in ruled
    )


def _cell(row: Mapping[str, Any], metric: str, sign: str = "") -> str:
    entry = row.get(metric)
    if entry is None:
        return "-"
    digits = METRICS[metric][2]
    text = f"{entry['mean']:{sign}.{digits}f}"
    if "low" in entry:
        text += f" [{entry['low']:{sign}.{digits}f}, {entry['high']:{sign}.{digits}f}]"
    return text


def _sentence(take: str, found: Mapping[str, Any]) -> str:
    if not found["instants"]:
        return f"{take}: no instant with one person whose joints meet in its cameras"
    return (
        f"the truth of {take}: {found['instants']} instants; found keypoints lie "
        f"{found['median_px']:.1f} px (90 %: {found['p90_px']:.1f}) from their 3D joints, "
        f"{100 * found['median_of_box']:.1f} % of the box (90 %: {100 * found['p90_of_box']:.1f})"
    )
