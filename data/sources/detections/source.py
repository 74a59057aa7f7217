"""A file or folder of detections as the readers of formats see it, and what they yield."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from data.find.detection import Detection, HandDetection
from data.format.joint_sets import find_joint_set, match_joint_sets
from data.sources.tables import parse_json, read_text
from engine.errors import UserError, explain, failure_of

# A keypoint hull leaves out the top of the head, the hands and the clothes: the box around it is
# wider by this share of its longer side, on each side.
HULL_MARGIN = 0.1
LEAST_POINTS = 3  # of a body, to place a box; of a hand likewise
ANY = ""  # a name that stands for the only video, where a file names none
WHOLEBODY_HANDS = {"left": slice(91, 112), "right": slice(112, 133)}


class Found(NamedTuple):
    """One person in one frame of one video.

    Attributes:
        names: what the video may be called; the first that a video has counts, and ANY means the
            only one.
        frame: from 0.
        person: who, by the file; None where it does not say.
        detection: pixels of the upright image, or shares of its width and height.
        normalised: whether they are shares.
        images: how many of the names, from the first, are those of a still image; it has frame 0.
    """

    names: tuple[str, ...]
    frame: int
    person: str | None
    detection: Detection
    normalised: bool = False
    images: int = 0


@dataclass
class Source:
    """One file of detections, or a folder of them.

    Attributes:
        path: where it lies.
        name: its path inside the folder that the user named, or its file name.
        is_whole: whether it is what the user named, not one file of a folder.
    """

    path: str
    name: str
    is_whole: bool = True

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return os.path.isdir(self.path)

    @cached_property
    def text(self) -> str:
        """The file's text; see data.sources.tables.read_text."""
        return read_text(self.path)

    @cached_property
    def content(self) -> object:
        """What the file's JSON says."""
        return parse_json(self.text, self.path)

    def files(self, suffixes: tuple[str, ...]) -> list["Source"]:
        """The files below a folder whose names end so, in order; of a file, itself."""
        if not self.is_folder:
            return [self]
        found = []
        for folder, folders, names in os.walk(self.path, onerror=self._refuse):
            folders.sort()
            for name in sorted(names):
                if name.lower().endswith(suffixes) and not name.startswith("."):
                    path = os.path.join(folder, name)
                    inside = os.path.relpath(path, self.path).replace(os.sep, "/")
                    found.append(Source(path, inside, False))
        return found

    def _refuse(self, error: OSError) -> None:
        raise failure_of(error, f"{error.filename}: {explain(error)}")

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return os.path.splitext(self.name)[0]


def as_numbers(values: object, where: str, name: str) -> np.ndarray:
    """(n,) float64 of a JSON list of finite numbers.

    Raises:
        UserError: it is none.
    """
    try:
        if not isinstance(values, list):
            raise TypeError
        numbers = np.asarray(values, np.float64)
        if numbers.ndim != 1 or not np.isfinite(numbers).all():
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{where}: '{name}' is not a list of finite numbers") from None
    return numbers


def as_box(x0: float, y0: float, x1: float, y1: float, where: str) -> np.ndarray:
    """(4,) of a box.

    Raises:
        UserError: it has no area.
    """
    if x1 <= x0 or y1 <= y0:
        raise UserError(
            f"{where}: the box [{x0:g}, {y0:g}, {x1:g}, {y1:g}] has no area; x0 < x1 and y0 < y1"
        )
    return np.array((x0, y0, x1, y1))


def box_around(keypoints: np.ndarray, margin: float = HULL_MARGIN) -> np.ndarray | None:
    """(4,) box around the keypoints (K, 3) that were found, or None where too few were.

    It is wider than they are by ``margin`` of its longer side, on each side.
    """
    there = keypoints[keypoints[:, 2] > 0, :2]
    if len(there) < LEAST_POINTS:
        return None
    low, high = there.min(0), there.max(0)
    if (high <= low).any():
        return None
    wider = margin * (high - low).max()
    return np.concatenate([low - wider, high + wider])


def read_hand(keypoints: np.ndarray, side: str) -> HandDetection | None:
    """The hand of (21, 3) keypoints, or None where too few of them were found."""
    box = box_around(keypoints)
    if box is None:
        return None
    there = keypoints[:, 2] > 0
    return HandDetection(side, box, float(keypoints[there, 2].mean()), keypoints)


def to_joint_set(keypoints: np.ndarray, names: Iterable[str], target: str) -> np.ndarray:
    """(K, 3) keypoints in the order of a joint set; points that it alone has are 0.

    Args:
        keypoints: (n, 3).  names: of the n points.  target: a name of data.format.joint_sets.
    """
    places = {name: place for place, name in enumerate(names)}
    out = np.zeros((len(find_joint_set(target)), 3))
    for k, joint in enumerate(find_joint_set(target).joints):
        if joint in places:
            out[k] = keypoints[places[joint]]
    return out


def split_wholebody(keypoints: np.ndarray) -> tuple[np.ndarray, dict[str, HandDetection]]:
    """(17, 3) body and the hands by side of COCO-WholeBody's (133, 3)."""
    hands = {}
    for side, part in WHOLEBODY_HANDS.items():
        hand = read_hand(keypoints[part], side)
        if hand is not None:
            hands[side] = hand
    order = match_joint_sets("coco_wholebody133", "coco17")
    return keypoints[order], hands
