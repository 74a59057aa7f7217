"""The small files people bring: person boxes, a point's track, the cameras' clock."""

import csv
import io
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from data.format.names import decode_text
from engine.errors import UserError, explain, failure_of

SHOWN = 60  # letters of a value in a message
DELIMITERS = ",;\t"
_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d*,\d+([eE][+-]?\d+)?\s*")


def read_text(path: str) -> str:
    """The text of a file in UTF-8 or UTF-16, without its byte-order mark.

    Raises:
        UserError: there is no such file, or it is no text.
        EnvironmentFault: reading it failed.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise failure_of(error, f"{path}: {explain(error)}") from None
    try:
        text = decode_text(data)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a table: {error}") from None
    nul = text.find("\0")
    if nul >= 0:
        line = text.count("\n", 0, nul) + 1
        raise UserError(f"{path}:{line}: a NUL byte: the file is no text, or it is damaged")
    return text


def parse_json(text: str, path: str) -> object:
    """What a JSON text says.

    Raises:
        UserError: it is no JSON, or is nested so deeply that it was made to do harm.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: no JSON: {error.msg}") from None
    except RecursionError:
        raise UserError(f"{path}: the JSON is nested too deeply") from None
    except ValueError as error:  # an integer of thousands of digits
        raise UserError(f"{path}: no JSON: {error}") from None


def quote(value: object) -> str:
    """The beginning of a value, in one line, for messages."""
    words = " ".join(str(value).split())
    return words if len(words) <= SHOWN else f"{words[:SHOWN]}..."


def read_number(value: object, where: str, name: str) -> float:
    """A finite number from a table's text or a JSON value.

    Args:
        where: the file and the place in it.  name: of the column.
    Raises:
        UserError: it is none.
    """
    try:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError
        number = float(value)
    except (ValueError, OverflowError):
        raise UserError(f"{where}: {name}={quote(value)} is not a number") from None
    if not math.isfinite(number):
        raise UserError(f"{where}: {name}={value} is not a number")
    return number


def read_frame(value: object, where: str, name: str = "frame") -> int:
    """A whole number from 0 up.

    Raises:
        UserError: it is none; ``where`` and ``name`` as in read_number.
    """
    number = read_number(value, where, name)
    if number < 0 or number != int(number):
        raise UserError(f"{where}: {name} {number:g} is not a whole number from 0 up")
    return int(number)


def read_rows(
    path: str, columns: Sequence[str], numbers: Sequence[str]
) -> Iterator[tuple[str, dict]]:
    """Yield (where, {column: value}) of a table with a header or a JSON list of objects.

    Columns are separated by commas, semicolons or tabs, as the header has it; with semicolons a
    number may have a decimal comma, as spreadsheets of many countries write it.

    Args:
        path: the file; JSON by its suffix.  columns: that must be there.  numbers: those of them
            that are numbers.
    Raises:
        UserError: naming the file, and the line or entry that is malformed.
    """
    yield from parse_rows(read_text(path), path, columns, numbers)


def parse_rows(
    text: str, path: str, columns: Sequence[str], numbers: Sequence[str]
) -> Iterator[tuple[str, dict]]:
    """As read_rows, of a text that was read from ``path``."""
    is_json = path.lower().endswith(".json")
    entries: Iterator[tuple[str, dict]] = (
        _json(text, path) if is_json else _csv(text, path, columns)
    )
    for where, entry in entries:
        for column in columns:
            if entry.get(column) in (None, ""):
                raise UserError(f"{where}: no '{column}'; a row has {', '.join(columns)}")
        for column in numbers:
            entry[column] = read_number(entry[column], where, column)
        yield where, entry


def read_track(path: str) -> dict[int, np.ndarray]:
    """{frame: (3,) world point in metres} of a CSV frame, x_m, y_m, z_m."""
    columns = ("frame", "x_m", "y_m", "z_m")
    return {
        read_frame(row["frame"], where): np.array([row[c] for c in columns[1:]])
        for where, row in _some_rows(path, columns, columns)
    }


def read_timestamps(path: str) -> tuple[dict[int, float], dict[str, dict[int, int]]]:
    """Return (times, frames) of a CSV sync_index, cam_id, frame_time.

    Rows of one camera are that video's frames in order.

    Returns:
        {sync index: seconds since the first}, the mean over the cameras; {cam_id: {sync index:
        frame of its video}}.
    """
    stamps = defaultdict(list)
    columns = ("sync_index", "cam_id", "frame_time")
    for where, row in _some_rows(path, columns, (columns[0], columns[2])):
        index = read_frame(row["sync_index"], where)
        stamps[str(row["cam_id"])].append((row["frame_time"], index))
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


def _some_rows(path, columns, numbers):
    """As read_rows, of a table that has to hold something."""
    rows = list(read_rows(path, columns, numbers))
    if not rows:
        raise UserError(f"{path} is empty: it holds no rows under its header")
    return rows


def _csv(text, path, columns):
    first = text[: text.find("\n")] if "\n" in text else text
    delimiter = max(DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        header = [name.strip() for name in next(reader, [])]
        if not header:
            raise UserError(f"{path} is empty; its first line should be {','.join(columns)}")
        lacking = [c for c in columns if c not in header]
        if lacking:
            raise UserError(
                f"{path}:1: the header has no '{lacking[0]}'; it needs {','.join(columns)}"
            )
        for row in reader:
            if not row:
                continue
            if len(row) > len(header):
                raise UserError(
                    f"{path}:{reader.line_num}: more values than the {len(header)} columns of the "
                    f"header"
                )
            if delimiter == ";":
                row = [_with_point(value) for value in row]
            yield f"{path}:{reader.line_num}", dict(zip(header, row, strict=False))
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: not a table: {error}") from None


def _with_point(value):
    """A number with a decimal point, where it has a decimal comma."""
    return value.replace(",", ".", 1) if _DECIMAL_COMMA.fullmatch(value) else value


def _json(text, path):
    entries = parse_json(text, path)
    if not isinstance(entries, list):
        raise UserError(f"{path}: the JSON is not a list of objects")
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise UserError(f"{path}, entry {i}: not an object, so the JSON is no list of rows")
        yield f"{path}, entry {i}", entry
