"""The formats of detections by name, and which of them a file has."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from data.sources.detections.coco import read_coco
from data.sources.detections.mot import read_mot
from data.sources.detections.openpose import is_openpose, read_openpose
from data.sources.detections.own import read_own
from data.sources.detections.source import Found, Source
from data.sources.detections.ultralytics import read_ultralytics
from engine.errors import UserError

AUTO = "auto"
_NUMBERS = frozenset("0123456789.+-eE,;\t ")


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        read: yields what a file or folder says.
        suffixes: of its files.
        of_folders: whether a folder is read as a whole, not file by file.
    """

    read: Callable[[Source], Iterator[Found]]
    suffixes: tuple[str, ...]
    of_folders: bool = False


READERS = {
    "csv": Format(read_own, (".csv", ".tsv", ".txt")),
    "json": Format(read_own, (".json",)),
    "mot": Format(read_mot, (".txt", ".csv")),
    "coco": Format(read_coco, (".json",)),
    "openpose": Format(read_openpose, (".json",), True),
    "ultralytics": Format(read_ultralytics, (".txt",), True),
}
FORMATS = (AUTO, *READERS)


def recognise(source: Source) -> str:
    """The name of the format that a file, or a folder's first file, has.

    Raises:
        UserError: it has none of them.
    """
    if source.is_folder:
        files = source.files((".json", ".csv", ".txt", ".tsv"))
        if not files:
            raise UserError(f"{source.path} holds no .json, .csv or .txt file of detections")
        return next((name for name in map(recognise, files[:20]) if name), "ultralytics")
    if source.path.lower().endswith(".json"):
        return _recognise_json(source)
    line = next((line for line in source.text.splitlines() if line.strip()), "")
    if not line:
        return ""
    if not set(line) <= _NUMBERS:
        return "csv"
    return "mot" if "," in line or ";" in line else _recognise_numbers(line)


def _recognise_json(source):
    content = source.content
    if is_openpose(content):
        return "openpose"
    if isinstance(content, dict) and "annotations" in content:
        return "coco"
    first = content[0] if isinstance(content, list) and content else None
    if isinstance(first, dict) and "image_id" in first:
        return "coco"
    if isinstance(content, list):
        return "json"
    raise UserError(
        f"{source.path}: neither a list of boxes, COCO's annotations nor OpenPose's people; "
        f"boxes_format= says which of {', '.join(READERS)} it is"
    )


def _recognise_numbers(line):
    """Of a line of numbers between white space: shares of the image, or MOT."""
    values = line.split()
    try:
        box = [float(value) for value in values[1:5]]
    except ValueError:
        return "mot"
    return "ultralytics" if len(box) == 4 and all(0 <= v <= 1 for v in box) else "mot"
