"""What an evaluation of frames writes, and what is read again to compare two.

scenes.json     numbers of everybody and of each group, with intervals; differences, if asked for
scenes.npz      the sums of each scene, from which another evaluation computes differences
table.md        the same to read
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import UserError, explain, failure_of
from engine.run.files import replace_file, write_file
from finetune.evaluation.metrics import Interval
from finetune.evaluation.scene.groups import list_groups
from finetune.evaluation.scene.sums import METRICS, SUMS, SceneAp, SceneSums

FORMAT = 1
NUMBERS, ARRAYS, TABLE = "scenes.json", "scenes.npz", "table.md"
# Of a table of groups, which have less room.
SHORT = ("recall", "f1", "nmve", "mve", "pa_mpjpe", "translation", "order", "apart", "ap", "ar")


def write_results(folder: Path, found: Mapping[str, Any], sums: SceneSums) -> None:
    """Write all files, the JSON last: its being there means that the rest is.

    Raises:
        Failure: they cannot be written.
    """
    arrays = {
        "frames": np.array(sums.frames),
        "scenes": np.array(sums.scenes),
        "sums": np.array(SUMS),
        "run": np.array(found["run"]),
    }
    for key, values in sums.values.items():
        arrays[f"{key}/values"] = values
        arrays |= {f"{key}/{name}": part for name, part in vars(sums.detections[key]).items()}
    try:
        (folder / NUMBERS).unlink(missing_ok=True)
        with replace_file(folder / ARRAYS) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays)  # pyrefly: ignore[bad-argument-type]
        write_file(folder / TABLE, describe(found) + "\n")
        write_file(folder / NUMBERS, json.dumps(found, indent=1))
    except OSError as error:
        raise failure_of(error, f"{folder} cannot be written: {explain(error)}") from None


def read_sums(folder: Path) -> tuple[str, SceneSums]:
    """Return (what answered, the sums) of an evaluation's folder.

    Raises:
        UserError: there is none, or it was written by another version.
    """
    path = folder / ARRAYS
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        if tuple(arrays["sums"].tolist()) != SUMS:
            raise UserError(f"{path} holds other sums than this version: evaluate anew")
        keys = [group.key for group in list_groups()]
        values = {key: arrays[f"{key}/values"] for key in keys}
        parts = [one.name for one in fields(SceneAp)]
        detections = {key: SceneAp(*(arrays[f"{key}/{part}"] for part in parts)) for key in keys}
        frames, scenes = arrays["frames"].tolist(), arrays["scenes"].tolist()
        return str(arrays["run"]), SceneSums(frames, scenes, values, detections)
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise UserError(
            f"beside={folder} holds no results of whole frames, such as finetune evaluate "
            f"writes into out= or RUN/evaluation: {error}"
        ) from None


def refuse_other_frames(one: SceneSums, other: SceneSums, names: tuple[str, str]) -> None:
    """UserError where two results are of different frames."""
    if one.frames == other.frames:
        return
    apart = sorted(set(one.frames) ^ set(other.frames))
    words = f", such as {apart[0]}" if apart else ""
    raise UserError(
        f"{names[0]} is of {len(one.frames)} frames, {names[1]} of {len(other.frames)}{words}: the "
        "same frames are compared"
    )


def describe(found: Mapping[str, Any]) -> str:
    """Return tables and sentences to read of what the JSON holds."""
    rows = {row["key"]: row for row in found["rows"]}
    lines = [
        f"{found['answers']}: {found['frames']} frames of {found['scenes']} scenes, "
        f"{rows['all']['people']} people who count, {rows['all']['found']} found, "
        f"{rows['all']['false']} false; {rows['all']['pairs']} pairs with an order",
        "",
    ]
    beside = {row["key"]: row for row in found.get("beside", {}).get("rows", [])}
    apart = {row["key"]: row for row in found.get("differences", [])}
    name, other = Path(found["run"]).name, Path(found["beside"]["run"]).name if beside else ""
    header = ["", name, other, "difference"] if beside else ["", name]
    table = [header]
    for key, (title, unit, _) in METRICS.items():
        cells = [f"{title} ({unit})" if unit else title, _word(rows["all"]["values"][key], unit)]
        if beside:
            cells.append(_word(beside["all"]["values"][key], unit))
            cells.append(_word(apart["all"]["values"][key], unit, "+"))
        table.append(cells)
    lines += [*lay_out(table), ""]
    parts = [("", name, found["rows"])]
    if beside:
        parts.append(("", other, found["beside"]["rows"]))
        parts.append(("+", "difference", found["differences"]))
    for sign, title, listed in parts:
        lines += [*lay_out(_list_groups(title, listed, rows, sign)), ""]
    return "\n".join([*lines, *found["notes"]])


def _list_groups(
    title: str, listed: Sequence[Mapping[str, Any]], rows: Mapping[str, Any], sign: str
) -> list[list[str]]:
    heads = [f"{METRICS[key][0]} {METRICS[key][1]}".strip() for key in SHORT]
    table = [[title, "people", *heads]]
    for row in listed:
        known = rows[row["key"]]
        cells = [_word(row["values"][key], METRICS[key][1], sign) for key in SHORT]
        table.append([known["name"], str(known["people"]), *cells])
    return table


def _word(value: Interval, unit: str, sign: str = "") -> str:
    """Such as "12 [11, 14]"; "-" where there is nothing."""
    if value["mean"] is None:
        return "-"
    digits = 0 if unit else 3
    words = f"{value['mean']:{sign}.{digits}f}"
    if value["low"] is None:
        return words
    return f"{words} [{value['low']:{sign}.{digits}f}, {value['high']:{sign}.{digits}f}]"


def lay_out(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table whose first row is its header."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    ruled = [rows[0], ["-" * width for width in widths], *rows[1:]]
    return [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |"
        for row in ruled
    ]
