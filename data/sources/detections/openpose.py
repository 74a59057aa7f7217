"""OpenPose's JSON: a file a frame, ``VIDEO_000000000012_keypoints.json``, also Pose2Sim's.

Skeletons are told by their length: 25 points (BODY_25), 18 (OpenPose's COCO), 17 (COCO's own
order), 26 (HALPE_26), 133 (COCO-WholeBody); hands become HandDetections. People are in no order
over the frames and ``person_id`` is -1, so they are linked by their boxes' overlap. Where all
points of a video lie in [0, 1] or [-1, 1] they are shares of the image (``--keypoint_scale``).
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from data.find.detection import Detection, HandDetection
from data.format.joint_sets import COCO17
from data.sources.detections.source import (
    ANY,
    Found,
    Source,
    as_numbers,
    box_around,
    read_hand,
    split_wholebody,
    to_joint_set,
)
from engine.errors import UserError
from engine.logging.console import get_logger

_ARMS = ("shoulder", "elbow", "wrist")
_LEGS = ("hip", "knee", "ankle")
# https://github.com/CMU-Perceptual-Computing-Lab/openpose, doc/02_output.md: "COCO", 18 points.
OPENPOSE18 = (
    "nose",
    "neck",
    *(f"right_{name}" for name in _ARMS),
    *(f"left_{name}" for name in _ARMS),
    *(f"right_{name}" for name in _LEGS),
    *(f"left_{name}" for name in _LEGS),
    "right_eye",
    "left_eye",
    "right_ear",
    "left_ear",
)
# Halpe-FullBody's first 26: COCO's 17, then head, neck, hip and the feet.
COCO_FIRST = (17, 26)
SCALED_MOST = 1.05  # points that were found may lie a little outside of the image
_FRAME = re.compile(r"^(.*?)[_\-. ]?(\d+)(?:_keypoints)?$")
_FOLDER_ENDS = ("_json", "_keypoints")

log = get_logger(__name__)


def read_openpose(source: Source) -> Iterator[Found]:
    """Yield the people of a folder of files, or of one file."""
    videos = defaultdict(list)
    for file in source.files((".json",)):
        found = _FRAME.match(file.stem)
        name, number = (found[1], int(found[2])) if found else (file.stem, 0)
        videos[name].append((number, file))
    if not videos:
        raise UserError(f"{source.path} holds no .json files")
    nobody = 0
    for name, files in videos.items():
        names = _names(name, source)
        if len(videos) == 1:
            names += (ANY,)
        people = [(number, *one) for number, file in files for one in _people(file)]
        scale = _scale_of([keypoints for _, keypoints, _, _, _ in people])
        if scale:
            log.info(f"{source.path}: keypoints of {name or 'the video'} are shares of the image")
        for number, keypoints, hands, who, where in people:
            detection = _detection(keypoints, hands, scale, where)
            if detection is None:
                nobody += 1
            else:
                yield Found(names, number, who, detection, scale is not None)
    if nobody:
        log.info(f"{source.path}: {nobody} people have too few keypoints for a box; left out")


def is_openpose(content: object) -> bool:
    """Whether a JSON is a frame of OpenPose's."""
    return isinstance(content, dict) and isinstance(content.get("people"), list)


def _people(file):
    """[(keypoints, {side: keypoints of a hand}, person or None, where)] of one frame."""
    if not is_openpose(file.content):
        raise UserError(
            f"{file.path}: no 'people'; OpenPose's JSON has a list of them in each file"
        )
    out = []
    for i, person in enumerate(file.content["people"]):
        where = f"{file.path}, person {i}"
        if not isinstance(person, dict):
            raise UserError(f"{where}: not an object")
        body = _points(person, ("pose_keypoints_2d", "pose_keypoints"), where)
        hands = {
            side: _points(person, (f"hand_{side}_keypoints_2d", f"hand_{side}_keypoints"), where)
            for side in ("left", "right")
        }
        who = person.get("person_id", -1)
        who = who[0] if isinstance(who, list) and who else who
        is_named = isinstance(who, int | str) and who not in (-1, "-1", "")
        out.append((body, hands, str(who) if is_named else None, where))
    return out


def _points(person, keys, where):
    """(K, 3) keypoints of the first of ``keys`` that is there; K may be 0."""
    values = next((person[key] for key in keys if person.get(key)), [])
    numbers = as_numbers(values, where, keys[0])
    if len(numbers) % 3:
        raise UserError(f"{where}: {len(numbers)} numbers of {keys[0]} are not triples x, y, score")
    points = numbers.reshape(-1, 3)
    points[:, 2] = np.clip(points[:, 2], 0, 1)
    return points


def _scale_of(bodies):
    """The least of the normalised coordinates (0 or -1) where they are that, or None for pixels."""
    there = [points[points[:, 2] > 0, :2] for points in bodies]
    every = np.concatenate(there) if there else np.zeros((0, 2))
    if not len(every) or np.abs(every).max() > SCALED_MOST:
        return None
    return -1 if every.min() < SCALED_MOST - 1 - 0.1 else 0


def _detection(keypoints, hands, scale, where):
    if scale == -1:
        keypoints = _to_shares(keypoints)
        hands = {side: _to_shares(points) for side, points in hands.items()}
    box = box_around(keypoints)
    if box is None:
        return None
    found: dict[str, HandDetection] = {}
    for side, points in hands.items():
        hand = read_hand(points, side) if len(points) == 21 else None
        if hand is not None:
            found[side] = hand
    joint_set, score = "coco17", float(keypoints[keypoints[:, 2] > 0, 2].mean())
    if len(keypoints) == 25:
        joint_set = "openpose25"
    elif len(keypoints) == 18:
        keypoints = to_joint_set(keypoints, OPENPOSE18, "coco17")
    elif len(keypoints) in COCO_FIRST:
        keypoints = keypoints[: len(COCO17)]
    elif len(keypoints) == 133:
        keypoints, found = split_wholebody(keypoints)
    else:
        raise UserError(
            f"{where}: {len(keypoints)} keypoints; known are 17, 18, 25, 26 (HALPE_26) and 133"
        )
    return Detection(box, score, keypoints, joint_set, found, where=where)


def _to_shares(points):
    """Keypoints of [-1, 1] as shares in [0, 1]."""
    return np.concatenate([(points[:, :2] + 1) / 2, points[:, 2:]], 1)


def _names(name, source):
    """What a video may be called whose files begin with ``name``: so, or as their folder."""
    folder, base = os.path.split(name)
    names = [name] if base else []
    outer = folder or os.path.basename(os.path.normpath(source.path))
    for end in _FOLDER_ENDS:
        if outer.endswith(end):
            names.append(outer.removesuffix(end))
    return tuple(dict.fromkeys([*names, outer]))
