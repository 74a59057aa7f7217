"""What is taken for the truth about real people: found keypoints and outlines, kept in a folder.

A clip is a video, or one image. Each clip's people are found once and stored as one npz, under a
name that holds the digest of the file, the frames and the networks, so that another run on the same
samples starts at once.
"""

import hashlib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data.find.detection import Detection, PersonMask
from data.find.finder import Finder
from data.format.joint_sets import COCO17
from engine.run.files import write_file

VERSION = 1
LIMBS = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
# The joints that found keypoints and body models share, in this order everywhere here.
JUDGED = tuple(f"{side}_{limb}" for limb in LIMBS for side in ("left", "right"))
FOUND = np.array([COCO17.index(name) for name in JUDGED])
MASK_SIDE = 64


@dataclass
class Seen:
    """One person or hand in one frame, as found.

    Attributes:
        frame: number in the clip.
        box: (4,) pixels.
        score: 0 to 1.
        keypoints: (17, 3) x, y, confidence, coco17; of a hand (21, 3), hand21.
        side: of a hand, "left" or "right", else "".
        square: (4,) pixels that the mask covers, and mask (64, 64) bool; both None where no outline
            was found.
    """

    frame: int
    box: np.ndarray
    score: float
    keypoints: np.ndarray
    square: np.ndarray | None = None
    mask: np.ndarray | None = None
    side: str = ""

    @property
    def joints(self) -> np.ndarray:
        """(n, 3) x, y, confidence of what is judged: the 12 JUDGED of a body, all 21 of a hand."""
        return self.keypoints if self.side else self.keypoints[FOUND]

    @property
    def outline(self) -> PersonMask | None:
        """The outline, or None where none was found."""
        if self.square is None or self.mask is None:
            return None
        return PersonMask(self.square, self.mask)

    @property
    def side_px(self) -> float:
        """The box's longer side in pixels."""
        return float((self.box[2:] - self.box[:2]).max())


def find_people_of(
    frames: Iterator[tuple[int, np.ndarray]], finder: Finder, least_score: float, least_side: float
) -> list[Seen]:
    """The people of some frames, with outlines."""
    out = []
    for number, image in frames:
        people = finder.find_people(image)
        for person in people:
            side = float((person.box[2:] - person.box[:2]).max())
            if person.score < least_score or side < least_side or person.keypoints is None:
                continue
            mask = finder.find_mask(image, person, people)
            out.append(_describe(number, person, mask))
    return out


def find_hands_of(frames: Iterator[tuple[int, np.ndarray]], finder: Finder) -> list[Seen]:
    """The hands of some frames, all that the finder sees: ``keep_hands`` chooses."""
    out = []
    for number, image in frames:
        for hand in finder.find_hands(image):
            if hand.keypoints is not None:
                box = np.asarray(hand.box)
                out.append(Seen(number, box, hand.score, hand.keypoints, side=hand.side))
    return out


def keep_hands(hands: Sequence[Seen], least_score: float, least_px: float) -> list[Seen]:
    """Those that the finder is sure of and that are large enough to be read to a few pixels."""
    return [hand for hand in hands if hand.score >= least_score and hand.side_px >= least_px]


def _describe(number: int, person: Detection, mask: PersonMask | None) -> Seen:
    assert person.keypoints is not None
    seen = Seen(number, np.asarray(person.box), person.score, person.keypoints)
    if mask is not None:
        seen.square = np.asarray(mask.square, np.float64)
        seen.mask = shrink_mask(mask.inside)
    return seen


def shrink_mask(inside: np.ndarray) -> np.ndarray:
    """(64, 64) bool of a square mask of any size: the cells that are at least half inside."""
    side = len(inside)
    if side % MASK_SIDE == 0:
        step = side // MASK_SIDE
        return inside.reshape(MASK_SIDE, step, MASK_SIDE, step).mean((1, 3)) >= 0.5
    at = ((np.arange(MASK_SIDE) + 0.5) * side / MASK_SIDE).astype(int)
    return inside[np.ix_(at, at)]


def truth_name(path: str, frames: Sequence[int], salt: Mapping[str, object]) -> str:
    """The file name for what is found in a clip: another file, frames or networks, another name."""
    hasher = hashlib.blake2b(digest_size=8)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            hasher.update(block)
    hasher.update(np.asarray(frames, np.int64).tobytes())
    hasher.update(repr((VERSION, sorted(salt.items()))).encode())
    stem = os.path.splitext(os.path.basename(path))[0]
    safe = "".join(c if c.isalnum() and c.isascii() else "_" for c in stem)
    return f"{safe}-{hasher.hexdigest()}.npz"


def save_truth(path: str, people: Sequence[Seen]) -> None:
    """Write people to a file."""
    masks = np.zeros((len(people), MASK_SIDE, MASK_SIDE), bool)
    squares = np.full((len(people), 4), np.nan)
    for i, seen in enumerate(people):
        if seen.mask is not None and seen.square is not None:
            masks[i], squares[i] = seen.mask, seen.square
    points = len(people[0].keypoints) if people else len(COCO17)
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        frame=np.array([seen.frame for seen in people], np.int64),
        box=np.array([seen.box for seen in people]).reshape(-1, 4),
        score=np.array([seen.score for seen in people]),
        keypoints=np.array([seen.keypoints for seen in people]).reshape(-1, points, 3),
        side=np.array([seen.side for seen in people], "U5"),
        square=squares,
        mask=np.packbits(masks.reshape(len(people), MASK_SIDE * MASK_SIDE), axis=1),
    )
    write_file(path, buffer.getvalue())


def load_truth(path: str) -> list[Seen]:
    """Read what ``save_truth`` wrote; ValueError or OSError where it cannot be."""
    with np.load(path, allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    masks = np.unpackbits(found["mask"], axis=1).astype(bool)
    sides = found.get("side", np.full(len(found["frame"]), ""))  # older files are of bodies
    out = []
    for i, frame in enumerate(found["frame"]):
        seen = Seen(int(frame), found["box"][i], float(found["score"][i]), found["keypoints"][i])
        seen.side = str(sides[i])
        if np.isfinite(found["square"][i]).all():
            seen.square = found["square"][i]
            seen.mask = masks[i, : MASK_SIDE * MASK_SIDE].reshape(MASK_SIDE, MASK_SIDE)
        out.append(seen)
    return out
