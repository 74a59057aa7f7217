"""What the referee found, as numbers with intervals over clips, and as a table of text."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.evaluation.metrics import bootstrap
from finetune.referee.rows import ROWS
from finetune.referee.takes import Triangulated
from finetune.referee.truth import JUDGED

if TYPE_CHECKING:
    from finetune.referee.referee import JudgedPerson

# Key: name, unit, how many digits.
METRICS = {
    "pck_0.1": ("PCK@0.1", "", 3),
    "pck_0.2": ("PCK@0.2", "", 3),
    "iou": ("mask IoU", "", 3),
    "facing_2d": ("front or back right", "", 3),
    "facing": ("faces within 45 deg", "", 3),
    "pck_others": ("PCK@0.2, other cameras", "", 3),
    "mpjpe": ("MPJPE", "mm", 0),
    "pa_mpjpe": ("PA-MPJPE", "mm", 0),
}
GROUPS = {"all": "everybody", "standing": "standing, whole, not hidden"}


def summarise(
    judged: Sequence["JudgedPerson"],
    takes: Mapping[str, Triangulated],
    command: str,
    step: int,
) -> dict[str, Any]:
    """The content of referee.json."""
    chosen = {"all": list(judged), "standing": [person for person in judged if person.standing]}
    groups = {}
    for name, people in chosen.items():
        groups[name] = {
            "people": len(people),
            "clips": len({person.clip.name for person in people}),
            "rows": {row: _row(people, row) for row in ROWS},
        }
    clips: dict[str, list[JudgedPerson]] = {}
    for person in judged:
        clips.setdefault(person.clip.name, []).append(person)
    return {
        "command": command,
        "step": step,
        "groups": groups,
        "joints": {row: _per_joint(judged, row) for row in ROWS},
        "clips": {name: _row(people, "model", False) for name, people in clips.items()},
        "truth": {take: _describe_take(found) for take, found in takes.items()},
    }


def _row(people: Sequence["JudgedPerson"], row: str, intervals: bool = True) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for metric in METRICS:
        values = np.array([person.values[row].get(metric, np.nan) for person in people])
        names = np.array([person.clip.take or person.clip.name for person in people])
        known = np.isfinite(values)
        if not known.any():
            continue
        entry: dict[str, Any] = {"mean": float(values[known].mean()), "people": int(known.sum())}
        if intervals:
            _, low, high = bootstrap(values[known], names[known])
            if np.isfinite(low):
                entry |= {"low": low, "high": high}
        out[metric] = entry
    return out


def _per_joint(people: Sequence["JudgedPerson"], row: str) -> dict[str, list[float | None]]:
    """{joint: [PCK@0.1, PCK@0.2]}."""
    hits = np.stack([person.joints[row] for person in people])
    out: dict[str, list[float | None]] = {}
    for i, joint in enumerate(JUDGED):
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
    }


def describe(results: Mapping[str, Any]) -> str:
    """The table that the command prints."""
    lines = []
    for group, words in GROUPS.items():
        found = results["groups"][group]
        lines.append(f"{words}: {found['people']} people in {found['clips']} clips")
        for metric, (name, unit, digits) in METRICS.items():
            cells = []
            for row, title in ROWS.items():
                entry = found["rows"][row].get(metric)
                if entry is not None:
                    cells.append(f"{title} {_number(entry, digits)}")
            if cells:
                lines.append(f"  {name}{f', {unit}' if unit else ''}: " + " | ".join(cells))
    for take, found in results["truth"].items():
        if found["instants"]:
            lines.append(
                f"the truth of {take}: {found['instants']} instants; found keypoints lie "
                f"{found['median_px']:.1f} px (90 %: {found['p90_px']:.1f}) from their 3D joints, "
                f"{100 * found['median_of_box']:.1f} % of the box"
            )
        else:
            lines.append(f"{take}: no instant with one person whose joints meet in its cameras")
    return "\n".join(lines)


def _number(entry: Mapping[str, Any], digits: int) -> str:
    text = f"{entry['mean']:.{digits}f}"
    if "low" in entry:
        text += f" [{entry['low']:.{digits}f}, {entry['high']:.{digits}f}]"
    return text
