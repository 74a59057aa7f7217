"""MOTChallenge's text: frame, id, left, top, width, height, confidence, x, y, z, without a header.

Frames and pixels count from 1 there (Leal-Taixé et al., MOTChallenge 2015, arXiv:1504.01942): the
corner of the first pixel is at (1, 1), so 1 is taken off both. An id of -1 means that nobody says
who it is. In ground truth of 9 columns the seventh is 0 where a box is to be ignored and the
eighth is a class, of which 1, 2 and 7 are people.
"""

import math
import re
from collections.abc import Iterator

from data.find.detection import Detection
from data.sources.detections.source import ANY, Found, Source, as_box
from data.sources.tables import read_number
from engine.errors import UserError
from engine.logging.console import get_logger

COLUMNS = ("frame", "id", "left", "top", "width", "height", "confidence")
PEOPLE = (1, 2, 7)  # pedestrian, person on a vehicle, static person
GROUND_TRUTH_COLUMNS = 9
# A sequence's files lie in folders of these names, which say nothing of the video.
_PLACES = ("gt", "det", "results")
_SPLIT = re.compile(r"[,;\s]\s*")

log = get_logger(__name__)


def read_mot(source: Source) -> Iterator[Found]:
    """Yield the people of a file; the video has the file's name, or its sequence's folder's."""
    names, ignored = _names(source), 0
    for number, line in enumerate(source.text.splitlines(), 1):
        values = line.split(",") if "," in line else _SPLIT.split(line.strip())
        if not line.strip():
            continue
        where = f"{source.path}:{number}"
        if len(values) < 6:
            raise UserError(
                f"{where}: {len(values)} values; MOT has frame, id, left, top, width, height and "
                f"more, without a header"
            )
        row = _numbers(values, where)
        frame, person = int(row[0]), int(row[1])
        if frame != row[0] or frame < 1:
            raise UserError(f"{where}: frame {row[0]:g} is not a whole number from 1 up")
        if _is_ignored(row):
            ignored += 1
            continue
        left, top = row[2] - 1, row[3] - 1
        box = as_box(left, top, left + row[4], top + row[5], where)
        score = row[6] if len(row) > 6 and 0 <= row[6] <= 1 else 1.0
        who = str(person) if person >= 0 else None
        yield Found(names, frame - 1, who, Detection(box, score, where=where))
    if ignored:
        log.info(f"{source.path}: {ignored} boxes are not of people, or to be ignored; left out")


def _numbers(values, where):
    try:
        row = [float(value) for value in values]
        if all(map(math.isfinite, row)):
            return row
    except ValueError:
        row = []
    names = [*COLUMNS, *(f"column {k + 1}" for k in range(len(COLUMNS), len(values)))]
    return [read_number(value, where, name) for value, name in zip(values, names, strict=False)]


def _is_ignored(row):
    if len(row) != GROUND_TRUTH_COLUMNS or row[7] < 1:
        return False
    return row[6] == 0 or int(row[7]) not in PEOPLE


def _names(source):
    parts = source.path.replace("\\", "/").split("/")
    names = [source.stem]
    if len(parts) > 2 and parts[-2] in _PLACES:
        names.insert(0, parts[-3])
    return (*names, ANY) if source.is_whole else tuple(names)
