"""The people of one video as the search found them, and the file that keeps them.

A JSON file a video, written whole or not at all. Its ``digest`` says of which bytes, which keys and
which networks it is; a file of another digest is searched anew.
"""

import json
from dataclasses import dataclass, field

import numpy as np

from data.find.detection import SIDES, Detection, HandDetection, Tracks

PIXEL_DIGITS, SHARE_DIGITS = 1, 3


@dataclass
class Found:
    """What the search of one video says.

    Attributes:
        tracks: by person "0", "1", ... in order of their coming; hands of which no body is seen are
            people "hand0", ... whose keypoints are of hand21.
        sharpness: {person: {frame: of the person's box}}; see data.find.appearance.
        hand_sharpness: {person: {frame: {side: of the hand's box}}}.
        searched, still: how many frames were searched, and passed over as they repeat others.
        cuts: the searched frames with which another shot begins.
        broken: why the search ended before the video does, or "".
    """

    tracks: Tracks = field(default_factory=dict)
    sharpness: dict[str, dict[int, float]] = field(default_factory=dict)
    hand_sharpness: dict[str, dict[int, dict[str, float]]] = field(default_factory=dict)
    searched: int = 0
    still: int = 0
    cuts: list[int] = field(default_factory=list)
    broken: str = ""


def encode_found(found: Found, digest: str) -> bytes:
    """Return the JSON of a Found; equal bytes for equal ones."""
    people = {}
    for person, track in found.tracks.items():
        people[person] = {
            "joint_set": next(iter(track.values())).joint_set,
            "frames": {
                str(frame): _encode_person(found, person, frame, one)
                for frame, one in track.items()
            },
        }
    whole = {
        "format": 1,
        "digest": digest,
        "searched": found.searched,
        "still": found.still,
        "cuts": found.cuts,
        "broken": found.broken,
        "people": people,
    }
    return json.dumps(whole, separators=(",", ":")).encode()


def decode_found(data: bytes, digest: str) -> Found | None:
    """Return what ``encode_found`` wrote; None where it is of another digest or damaged."""
    try:
        whole = json.loads(data)
        if whole["format"] != 1 or whole["digest"] != digest:
            return None
        found = Found(
            searched=whole["searched"],
            still=whole["still"],
            cuts=whole["cuts"],
            broken=whole["broken"],
        )
        for person, entry in whole["people"].items():
            found.tracks[person] = {}
            found.sharpness[person] = {}
            found.hand_sharpness[person] = {}
            for frame, row in entry["frames"].items():
                _decode_person(found, person, int(frame), row, entry["joint_set"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return found


def _encode_person(found, person, frame, one):
    row = {
        "box": _round(one.box, PIXEL_DIGITS),
        "score": _round(one.score, SHARE_DIGITS),
        "sharp": _round(found.sharpness[person][frame], SHARE_DIGITS),
    }
    if one.keypoints is not None:
        row["keypoints"] = _encode_points(one.keypoints)
    for side, hand in one.hands.items():
        row[side] = {
            "box": _round(hand.box, PIXEL_DIGITS),
            "score": _round(hand.score, SHARE_DIGITS),
            "sharp": _round(found.hand_sharpness[person][frame][side], SHARE_DIGITS),
        }
        if hand.keypoints is not None:
            row[side]["keypoints"] = _encode_points(hand.keypoints)
    return row


def _decode_person(found, person, frame, row, joint_set):
    one = Detection(np.array(row["box"], np.float64), row["score"], joint_set=joint_set)
    if "keypoints" in row:
        one.keypoints = np.array(row["keypoints"], np.float64).reshape(-1, 3)
    sharp = {}
    for side in SIDES:
        if side in row:
            hand = row[side]
            points = None
            if "keypoints" in hand:
                points = np.array(hand["keypoints"], np.float64).reshape(-1, 3)
            box = np.array(hand["box"], np.float64)
            one.hands[side] = HandDetection(side, box, hand["score"], points)
            sharp[side] = hand["sharp"]
    found.tracks[person][frame] = one
    found.sharpness[person][frame] = row["sharp"]
    found.hand_sharpness[person][frame] = sharp


def _round(values, digits):
    return np.round(np.asarray(values, np.float64), digits).tolist()


def _encode_points(points):
    """One row of numbers: x and y to a tenth of a pixel, confidence to a thousandth."""
    rounded = np.asarray(points, np.float64).copy()
    rounded[:, :2] = np.round(rounded[:, :2], PIXEL_DIGITS)
    rounded[:, 2] = np.round(rounded[:, 2], SHARE_DIGITS)
    return rounded.ravel().tolist()
