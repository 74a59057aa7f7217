"""The small files people bring: person boxes, a point's track, the cameras' clock."""

import csv
import io
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from data.format.names import decode_text
from engine.errors import UserError, explain, failure_of

Row = tuple[np.ndarray, str]  # a box (4,) and where in the file it stands
BOX_COLUMNS = ("video", "frame", "x0", "y0", "x1", "y1")


def read_rows(
    path: str, columns: Sequence[str], numbers: Sequence[str]
) -> Iterator[tuple[str, dict]]:
    """Yield (where, {column: value}) of a CSV with a header or a JSON list of objects.

    Args:
        path: the file; JSON by its suffix.  columns: that must be there.  numbers: those of them
            that are numbers.
    Raises:
        UserError: naming the file, and the line or entry that is malformed.
    """
    try:
        with open(path, "rb") as file:
            text = decode_text(file.read())
        is_json = path.lower().endswith(".json")
        entries = list(_json(text, path) if is_json else _csv(text, path, columns))
    except OSError as error:
        raise failure_of(error, f"{path}: {explain(error)}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a table: {error}") from None
    if not entries:
        raise UserError(f"{path} is empty: it holds no rows under its header")
    for where, entry in entries:
        lacking = [c for c in columns if entry.get(c) in (None, "")]
        if lacking:
            raise UserError(f"{where}: no '{lacking[0]}'; a row has {', '.join(columns)}")
        for column in numbers:
            try:
                entry[column] = float(entry[column])
                if not np.isfinite(entry[column]):
                    raise ValueError
            except (TypeError, ValueError):
                raise UserError(f"{where}: {column}={entry[column]} is not a number") from None
        yield where, entry


def read_boxes(path: str) -> dict[str, dict[str, dict[int, Row]]]:
    """{video stem: {person: {frame: (box (4,), where)}}} of a boxes file.

    Pixels, the image's corner at (0, 0).

    Raises:
        UserError: a malformed row, a box without area, two boxes for one person in one frame.
    """
    found = defaultdict(lambda: defaultdict(dict))
    for where, row in read_rows(path, BOX_COLUMNS, BOX_COLUMNS[1:]):
        box = np.array([row[c] for c in BOX_COLUMNS[2:]])
        frame = _frame(row["frame"], where)
        if box[2] <= box[0] or box[3] <= box[1]:
            raise UserError(f"{where}: the box {_text(box)} has no area; x0 < x1 and y0 < y1")
        stem = str(row["video"])
        base, suffix = os.path.splitext(os.path.basename(stem))
        stem = base if suffix[1:2].isalpha() else os.path.basename(stem)
        person = found[stem][str(row.get("person") or "0")]
        if frame in person:
            raise UserError(
                f"{where}: a second box for frame {frame} of {stem}; the first is at "
                f"{person[frame][1]}"
            )
        person[frame] = (box, where)
    return {video: dict(people) for video, people in found.items()}


def check_boxes(boxes: Mapping[int, Row], width: int, height: int) -> None:
    """Raise UserError for a box that lies wholly outside an image, naming its row.

    The image is of width x height.

    Args:
        boxes: {frame: (box, where)}.
    """
    for box, where in boxes.values():
        if box[0] >= width or box[1] >= height or box[2] <= 0 or box[3] <= 0:
            raise UserError(
                f"{where}: the box {_text(box)} lies outside the image of {width}x{height}"
            )


def fill_gaps(boxes: Mapping[int, Row], gap: int) -> dict[int, np.ndarray]:
    """Return {frame: box} with linear interpolation across gaps.

    Between boxes that are at most ``gap`` frames apart.
    """
    plain = {frame: box for frame, (box, _) in sorted(boxes.items())}
    frames = list(plain)
    out = dict(plain)
    for a, b in zip(frames, frames[1:], strict=False):
        if 1 < b - a <= gap:
            for f in range(a + 1, b):
                out[f] = plain[a] + (plain[b] - plain[a]) * ((f - a) / (b - a))
    return dict(sorted(out.items()))


def read_track(path: str) -> dict[int, np.ndarray]:
    """{frame: (3,) world point in metres} of a CSV frame, x_m, y_m, z_m."""
    columns = ("frame", "x_m", "y_m", "z_m")
    return {
        _frame(row["frame"], where): np.array([row[c] for c in columns[1:]])
        for where, row in read_rows(path, columns, columns)
    }


def read_timestamps(path: str) -> tuple[dict[int, float], dict[str, dict[int, int]]]:
    """Return (times, frames) of a CSV sync_index, cam_id, frame_time.

    Rows of one camera are that video's frames in order.

    Returns:
        {sync index: seconds since the first}, the mean over the cameras; {cam_id: {sync index:
        frame of its video}}.
    """
    stamps = defaultdict(list)
    for where, row in read_rows(
        path, ("sync_index", "cam_id", "frame_time"), ("sync_index", "frame_time")
    ):
        stamps[str(row["cam_id"])].append((row["frame_time"], _frame(row["sync_index"], where)))
    at = defaultdict(list)
    frames = {}
    for camera, entries in stamps.items():
        entries.sort()
        frames[camera] = {index: number for number, (_, index) in enumerate(entries)}
        for time_s, index in entries:
            at[index].append(time_s)
    means = {index: float(np.mean(times)) for index, times in sorted(at.items())}
    start = min(means.values())
    return {index: time_s - start for index, time_s in means.items()}, frames


def _csv(text, path, columns):
    reader = csv.DictReader(io.StringIO(text, newline=""))
    header = reader.fieldnames or []
    lacking = [c for c in columns if c not in header]
    if lacking:
        raise UserError(f"{path}:1: the header has no '{lacking[0]}'; it needs {','.join(columns)}")
    for row in reader:
        if None in row:
            raise UserError(
                f"{path}:{reader.line_num}: more values than the {len(header)} columns of the "
                f"header"
            )
        yield f"{path}:{reader.line_num}", row


def _json(text, path):
    try:
        entries = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: no JSON: {error.msg}") from None
    if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        raise UserError(f"{path}: the JSON is not a list of objects")
    return [(f"{path}, entry {i}", entry) for i, entry in enumerate(entries)]


def _frame(number, where):
    if number < 0 or number != int(number):
        raise UserError(f"{where}: frame {number:g} is not a whole number from 0 up")
    return int(number)


def _text(box):
    return "[" + ", ".join(f"{v:g}" for v in box) + "]"
