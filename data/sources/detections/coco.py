"""COCO's JSON: annotations or results, with tracks (CocoVID, PoseTrack18) or of still images.

An annotation's image says its video and frame: by ``video_id`` or ``vid_id`` and ``videos``, else
by ``file_name`` (``VIDEO/000012.jpg``), with ``frame_id`` where it counts frames; PoseTrack18's is
the number of an image. Numbers that start at 1 in a video count from 1. A bare list of results says
``image_id`` alone: the number in a still image's name, or the frame of the only video.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data.find.detection import SIDES, Detection
from data.format.joint_sets import find_joint_set
from data.sources.detections.coco_masks import read_outline
from data.sources.detections.source import (
    ANY,
    Found,
    Source,
    as_box,
    as_numbers,
    box_around,
    read_hand,
    split_wholebody,
    to_joint_set,
)
from data.sources.tables import quote, read_number
from engine.errors import UserError
from engine.logging.console import get_logger

PERSON = 1  # COCO's category where a file lists none
BODY_POINTS, WHOLEBODY_POINTS, HAND_POINTS = 17, 133, 21
MOST_FRAMES = 10_000_000  # a frame_id above is the number of an image
_TRACK = ("track_id", "instance_id")
_END = re.compile(r"(\d+)$")

log = get_logger(__name__)


@dataclass
class Place:
    """Where an image is: names of its video, and its number there."""

    names: tuple[str, ...]
    number: int
    images: int = 0


def read_coco(source: Source) -> Iterator[Found]:
    """Yield the people of annotations or results.

    Raises:
        UserError: a field that is missing or no number, naming the annotation.
    """
    content = source.content
    if isinstance(content, dict):
        annotations = _list_of(content, "annotations", source)
        places = _places(content, source)
        people, joints = _categories(content, source)
    else:
        annotations, places, people, joints = content, None, {PERSON: None}, None
    if not isinstance(annotations, list):
        raise UserError(f"{source.path}: neither COCO's annotations nor a list of results")
    left_out = 0
    for i, entry in enumerate(annotations):
        where = f"{source.path}, annotation {i}"
        if not isinstance(entry, dict):
            raise UserError(f"{where}: not an object")
        if _id(entry, "category_id", where, next(iter(people), PERSON)) not in people:
            continue
        if entry.get("iscrowd") in (1, True):
            continue
        place = _place_of(entry, places, where)
        detection = _detection(entry, joints, where)
        if detection is None:
            left_out += 1
            continue
        who = next((str(entry[key]) for key in _TRACK if entry.get(key) is not None), None)
        yield Found(place.names, place.number, who, detection, False, place.images)
    if left_out:
        log.info(
            f"{source.path}: {left_out} annotations have neither a box nor keypoints; left out"
        )


def _list_of(content, name, source):
    entries = content.get(name, [])
    if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        raise UserError(f"{source.path}: '{name}' is not a list of objects")
    return entries


def _id(entry, name, where, default=None):
    """A field that tells things apart: a number or a text."""
    value = entry.get(name, default)
    if value is None:
        raise UserError(f"{where}: no '{name}'")
    if not isinstance(value, int | str | float):
        raise UserError(f"{where}: {name}={quote(value)} is neither a number nor a text")
    return value


def _categories(content, source):
    """({category id of a person: None}, names of the keypoints or None)."""
    entries = _list_of(content, "categories", source)
    if not entries:
        return {PERSON: None}, None
    people = [
        e for e in entries if str(e.get("name")).lower() in ("person", "pedestrian", "people")
    ]
    people = people or (entries if len(entries) == 1 else [])
    if not people:
        raise UserError(f"{source.path}: none of its categories is 'person'")
    joints = people[0].get("keypoints")
    known = [str(j) for j in joints] if isinstance(joints, list) and joints else None
    where = f"{source.path}, the category of people"
    return {_id(e, "id", where): None for e in people}, known


def _places(content, source):
    """{image id: Place} of all images, numbers from 0."""
    videos = {}
    for i, video in enumerate(_list_of(content, "videos", source)):
        name = video.get("name", video.get("file_name"))
        videos[_id(video, "id", f"{source.path}, video {i}")] = name
    found, by_video = {}, defaultdict(list)
    for i, image in enumerate(_list_of(content, "images", source)):
        where = f"{source.path}, image {i}"
        place = _place(image, videos, where)
        found[_id(image, "id", where)] = place
        by_video[place.names[place.images :] if place.number >= 0 else ()].append(place)
    for names, places in by_video.items():
        if names and min(place.number for place in places) == 1:
            log.info(f"{source.path}: frames of {names[0]} start at 1 there; taken to count from 1")
            for place in places:
                place.number -= 1
    for place in found.values():
        place.number = max(place.number, 0)
    return found


def _place(image, videos, where):
    """The Place of an image; number -1 where nothing tells a frame."""
    file = str(image.get("file_name") or "").replace("\\", "/")
    folder, stem = os.path.split(os.path.splitext(file)[0])
    end = _END.search(stem)
    key = "video_id" if "video_id" in image else "vid_id"
    video = _id(image, key, where) if image.get(key) is not None else None
    named = videos.get(video)
    names = [str(named)] if named else []
    if folder and end:
        names.append(folder)
    if video is not None and not named:
        names.append(str(video))
    if not names and not file:
        raise UserError(f"{where}: neither 'file_name' nor 'video_id'")
    number = image.get("frame_id", image.get("frame_index"))
    if number is not None:
        number = int(read_number(number, where, "frame_id"))
    if number is None or not 0 <= number < MOST_FRAMES:
        number = int(end[1]) if end and len(end[1]) < 10 else None
    # A still image of this very name comes first.
    still = (file,) if file else ()
    if not names or number is None:
        return Place((*still, *names), -1, len(still))
    return Place((*still, *names), number, len(still))


def _place_of(entry, places, where):
    image = _id(entry, "image_id", where)
    if places is not None:
        if image not in places:
            raise UserError(f"{where}: image_id={quote(image)} is not among the file's images")
        return places[image]
    if isinstance(image, str):
        folder, stem = os.path.split(os.path.splitext(image.replace("\\", "/"))[0])
        end = _END.search(stem)
        names = (image, folder) if folder else (image,)
        return Place(names, int(end[1]) if end else 0, 1)
    number = int(read_number(image, where, "image_id"))
    return Place((f"{number:012d}", str(number), ANY), max(number, 0), 2)


def _detection(entry, joints, where):
    """The Detection of an annotation, or None where it places nobody."""
    keypoints, hands = None, {}
    if entry.get("keypoints"):
        keypoints, hands = _keypoints(entry, joints, where)
    for side in SIDES:
        # COCO-WholeBody keeps the hands apart from the body's 17 points.
        name = f"{side}hand_kpts"
        hand = _triples(entry, name, where) if entry.get(name) else None
        found = read_hand(hand, side) if hand is not None and len(hand) == HAND_POINTS else None
        if found is not None:
            hands[side] = found
    if entry.get("bbox"):
        values = as_numbers(entry["bbox"], where, "bbox")
        if len(values) < 4:
            raise UserError(
                f"{where}: 'bbox' has {len(values)} numbers; COCO's are x, y, width, height"
            )
        x, y, width, height = values[:4].tolist()
        if width <= 0 and height <= 0 and keypoints is not None:
            box = box_around(keypoints)
        else:
            box = as_box(x, y, x + width, y + height, where)
    else:
        box = None if keypoints is None else box_around(keypoints)
    if box is None:
        return None
    score = entry.get("score")
    sure = 1.0 if score is None else float(np.clip(read_number(score, where, "score"), 0, 1))
    mask = None
    if entry.get("segmentation"):
        mask = read_outline(entry["segmentation"], box, where)
    return Detection(box, sure, keypoints, hands=hands, mask=mask, where=where)


def _triples(entry, name, where):
    """(K, 3) x, y and 0 to 1 of a field; a labeller's visibility 1 or 2 is 1."""
    values = as_numbers(entry[name], where, name)
    if len(values) % 3:
        raise UserError(
            f"{where}: {len(values)} numbers of {name} are not triples x, y, visibility"
        )
    points = values.reshape(-1, 3)
    points[:, 2] = np.clip(points[:, 2], 0, 1)
    return points


def _keypoints(entry, joints, where):
    points = _triples(entry, "keypoints", where)
    scores = entry.get("scores")  # PoseTrack18 has them beside
    if isinstance(scores, list) and len(scores) == len(points):
        points[:, 2] = as_numbers(scores, where, "scores") * (points[:, 2] > 0)
    points[:, 2] = np.clip(points[:, 2], 0, 1)
    if len(points) == WHOLEBODY_POINTS:
        return split_wholebody(points)
    if joints is not None and len(joints) == len(points):
        shared = set(joints) & set(find_joint_set("coco17").joints)
        return (to_joint_set(points, joints, "coco17") if shared else None), {}
    if len(points) == BODY_POINTS:
        return points, {}
    return None, {}
