"""Ultralytics' label files: ``class cx cy w h`` a person, as shares of the image.

A folder of ``VIDEO_12.txt`` a frame (frames count from 1) or ``IMAGE.txt`` an image, as its
``save_txt`` writes them. ``save_conf`` adds a score, tracking an identity; a pose model puts 17
keypoints (x, y, score, or x, y) between the box and those. Which of them a folder has is told by
the values: the last one is an identity where all of them are whole numbers from 1 up. Class 0 is a
person.
"""

import re
from collections.abc import Iterator

import numpy as np

from data.find.detection import Detection
from data.sources.detections.source import Found, Source, as_box
from data.sources.tables import quote
from engine.errors import UserError

PERSON = 0
POINTS = 17
BOX_VALUES = 5
_FRAME = re.compile(r"^(.*)_(\d+)$")


def read_ultralytics(source: Source) -> Iterator[Found]:
    """Yield the people of a folder of label files, or of one file."""
    rows = []
    for file in source.files((".txt",)):
        if file.name.rsplit("/", 1)[-1] != "classes.txt":
            rows += _rows(file)
    counts = {len(values) for _, _, values in rows}
    depth = _keypoint_values(counts, source)
    extra = {count - BOX_VALUES - POINTS * depth for count in counts}
    has_id = _has_identity(rows, extra)
    starts_at = _first_frames(rows)
    for file, where, values in rows:
        if values[0] != PERSON:
            continue
        cx, cy, width, height = values[1:BOX_VALUES].tolist()
        x0, y0 = cx - width / 2, cy - height / 2
        box = as_box(x0, y0, x0 + width, y0 + height, where)
        rest = values[BOX_VALUES + POINTS * depth :]
        who = str(int(rest[-1])) if has_id and len(rest) else None
        scores = rest[:-1] if has_id else rest
        score = float(np.clip(scores[0], 0, 1)) if len(scores) else 1.0
        keypoints = _keypoints(values, depth) if depth else None
        names, number = _place(file, starts_at)
        detection = Detection(box, score, keypoints, where=where)
        yield Found(names, number, who, detection, True, 2)


def _rows(file):
    """[(file, where, values)] of a label file."""
    rows = []
    for number, line in enumerate(file.text.splitlines(), 1):
        if not line.strip():
            continue
        where = f"{file.path}:{number}"
        try:
            values = np.array(line.split(), np.float64)
        except ValueError:
            raise UserError(f"{where}: '{quote(line)}' is not class cx cy w h in numbers") from None
        if len(values) < BOX_VALUES or not np.isfinite(values).all():
            raise UserError(f"{where}: '{quote(line)}' is not class cx cy w h in finite numbers")
        if np.abs(values[1:BOX_VALUES]).max() > 2:
            raise UserError(
                f"{where}: '{quote(line)}' is not in shares of the image, as theirs are"
            )
        rows.append((file, where, values))
    return rows


def _keypoint_values(counts, source):
    """Numbers a keypoint has: 3, 2, or 0 where rows are boxes alone."""
    for depth in (0, 2, 3):
        least = BOX_VALUES + POINTS * depth
        if all(least <= count <= least + 2 for count in counts):
            return depth
    raise UserError(
        f"{source.path}: rows of {', '.join(map(str, sorted(counts)[:5]))} values; ultralytics "
        f"writes 5 to 7 of a box, 39 to 41 or 56 to 58 with 17 keypoints (outlines are not read)"
    )


def _has_identity(rows, extra):
    """Whether the last value of the rows is an identity, not a score."""
    if 2 in extra:
        return True
    if 1 not in extra:
        return False
    last = np.array([values[-1] for _, _, values in rows])
    return bool(np.all(last == np.floor(last)) and np.all(last >= 1))


def _first_frames(rows):
    """{name before the number: its least number}."""
    first: dict[str, int] = {}
    for file, _, _ in rows:
        found = _FRAME.match(file.stem)
        if found:
            first[found[1]] = min(first.get(found[1], int(found[2])), int(found[2]))
    return first


def _place(file, starts_at):
    """(names, frame from 0): a still image of the whole name, or a video of what is before _12."""
    found = _FRAME.match(file.stem)
    if not found:
        return (file.stem, _outside(file.stem)), 0
    base, number = found[1], int(found[2])
    from_zero = starts_at[base] == 0
    names = (file.stem, _outside(file.stem), base, _outside(base))
    return names, number if from_zero else number - 1


def _outside(name):
    """The name without the folder ``labels``, beside which images lie in ``images``."""
    return name.removeprefix("labels/").replace("/labels/", "/")


def _keypoints(values, depth):
    points = values[BOX_VALUES : BOX_VALUES + POINTS * depth].reshape(POINTS, depth)
    if depth == 3:
        return np.concatenate([points[:, :2], np.clip(points[:, 2:], 0, 1)], 1)
    there = (points != 0).any(1, keepdims=True)
    return np.concatenate([points, there.astype(np.float64)], 1)
