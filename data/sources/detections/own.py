"""This project's own boxes: a table with a header, or a JSON list of objects.

    video,frame,x0,y0,x1,y1,person,score
    take1/cam.mp4,0,608,57,833,672,ann,0.9

``person`` (by default "0") and ``score`` may be left out. In JSON an object may have ``keypoints``
(x, y, confidence of coco17) and ``left_hand`` and ``right_hand`` (of hand21), as `data find` writes
them. A still image has ``image`` in place of
``video``, and no ``frame``.
"""

from collections.abc import Iterator

import numpy as np

from data.find.detection import SIDES, Detection
from data.sources.detections.source import Found, Source, as_box, as_numbers, read_hand
from data.sources.tables import parse_rows, read_frame, read_number
from engine.errors import UserError

BOX = ("x0", "y0", "x1", "y1")
EVERYBODY = "0"  # the person of a table that has no column for it


def read_own(source: Source) -> Iterator[Found]:
    """Yield the people of a table or a JSON list."""
    name = "image" if _is_of_images(source) else "video"
    numbers = BOX if name == "image" else ("frame", *BOX)
    named: dict[str, tuple[str]] = {}
    for where, row in parse_rows(source.text, source.path, (name, *numbers), numbers):
        box = as_box(row["x0"], row["y0"], row["x1"], row["y1"], where)
        score = row.get("score")
        sure = 1.0 if score in (None, "") else read_number(score, where, "score")
        if not 0 <= sure <= 1:
            raise UserError(f"{where}: score={sure:g} is not from 0 to 1")
        frame = 0 if row.get("frame") in (None, "") else read_frame(row["frame"], where)
        video = str(row[name])
        person = row.get("person")
        yield Found(
            named.setdefault(video, (video,)),
            frame,
            EVERYBODY if person in (None, "") else str(person),
            _read_points(Detection(box, sure, where=where), row),
        )


def _read_points(one: Detection, row: dict) -> Detection:
    """A detection with the keypoints and hands of its row, if there are any."""
    keypoints = _points_of(row, "keypoints", 17, one.where)
    if keypoints is not None:
        one.keypoints = keypoints
    for side in SIDES:
        points = _points_of(row, f"{side}_hand", 21, one.where)
        hand = None if points is None else read_hand(points, side)
        if hand is not None:
            one.hands[side] = hand
    return one


def _points_of(row: dict, name: str, count: int, where: str) -> np.ndarray | None:
    """(count, 3) x, y and confidence, or None where the row does not have them."""
    if row.get(name) in (None, ""):
        return None
    numbers = as_numbers(row[name], where, name)
    if len(numbers) != 3 * count:
        raise UserError(
            f"{where}: '{name}' has {len(numbers)} numbers; x, y and confidence of {count} points "
            f"are {3 * count}"
        )
    return numbers.reshape(count, 3)


def _is_of_images(source):
    if source.path.lower().endswith(".json"):
        entries = source.content
        first = entries[0] if isinstance(entries, list) and entries else {}
        return isinstance(first, dict) and "video" not in first and "image" in first
    header = source.text[:1000].split("\n", 1)[0]
    words = [
        word.strip().strip('"') for word in header.replace(";", ",").replace("\t", ",").split(",")
    ]
    return "video" not in words and "image" in words
