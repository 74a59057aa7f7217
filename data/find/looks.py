"""What is seen in the searched frames of a video, as arrays that a file keeps.

A long video is searched in pieces, which several processes share and a kill leaves; each piece's
Looks lie in a file until the video's people are followed. Numbers are rounded as the file keeps
them, so that what comes from a file and what was just found are equal.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np

from data.find.appearance import CLOTHES, describe_clothes, measure_sharpness
from data.find.detection import SIDES, Detection, HandDetection, PersonMask
from data.find.shots import ShotWatcher, Step
from data.find.tracking import drop_twins, iou

SAME_HAND = 0.3  # overlap of a hand of nobody with one of a person's that is the same


class PeopleFinder(Protocol):
    """What the search asks of a finder; see data.find.finder.Finder."""

    def find_people(self, image: np.ndarray) -> list[Detection]:
        """Return the people of an image, best first."""
        ...

    def find_hands_of(self, image: np.ndarray, person: Detection) -> dict[str, HandDetection]:
        """Return a person's hands by side."""
        ...

    def find_hands(
        self, image: np.ndarray, people: Sequence[Detection] | None = None
    ) -> list[HandDetection]:
        """Return all hands of an image, of given people and of nobody."""
        ...

    def find_mask(
        self, image: np.ndarray, person: Detection, others: Sequence[Detection] = ()
    ) -> PersonMask | None:
        """Return a person's outline, None where it is not seen."""
        ...


Opener = Callable[[bool, bool, bool], PeopleFinder]  # of masks, hands and tiles


@dataclass
class Looks:
    """N searched frames with M people and L hands that belong to nobody.

    Attributes:
        frame: (N,) int64.  cut, still: (N,) bool.  shift: (N, 2); see data.find.shots.Step.
        people, loose: (N,) int64, how many each frame has.
        box: (M, 4).  score: (M,).  points: (M, 17, 3).  clothes: (M, 2, 768).  sharp: (M,).
        hand_score: (M, 2), 0 without a hand, left and right.  hand_box: (M, 2, 4).
        hand_points: (M, 2, 21, 3).  hand_sharp: (M, 2).
        loose_right: (L,) bool.  loose_score: (L,).  loose_box: (L, 4).  loose_points: (L, 21, 3).
        loose_sharp: (L,).
    """

    frame: np.ndarray
    cut: np.ndarray
    still: np.ndarray
    shift: np.ndarray
    people: np.ndarray
    loose: np.ndarray
    box: np.ndarray
    score: np.ndarray
    points: np.ndarray
    clothes: np.ndarray
    sharp: np.ndarray
    hand_score: np.ndarray
    hand_box: np.ndarray
    hand_points: np.ndarray
    hand_sharp: np.ndarray
    loose_right: np.ndarray
    loose_score: np.ndarray
    loose_box: np.ndarray
    loose_points: np.ndarray
    loose_sharp: np.ndarray


SHAPES: dict[str, tuple[type, tuple[int, ...]]] = {
    "frame": (np.int64, ()),
    "cut": (np.bool_, ()),
    "still": (np.bool_, ()),
    "shift": (np.float32, (2,)),
    "people": (np.int64, ()),
    "loose": (np.int64, ()),
    "box": (np.float32, (4,)),
    "score": (np.float32, ()),
    "points": (np.float32, (17, 3)),
    "clothes": (np.float16, CLOTHES),
    "sharp": (np.float32, ()),
    "hand_score": (np.float32, (2,)),
    "hand_box": (np.float32, (2, 4)),
    "hand_points": (np.float32, (2, 21, 3)),
    "hand_sharp": (np.float32, (2,)),
    "loose_right": (np.bool_, ()),
    "loose_score": (np.float32, ()),
    "loose_box": (np.float32, (4,)),
    "loose_points": (np.float32, (21, 3)),
    "loose_sharp": (np.float32, ()),
}


def join_looks(parts: Iterable[Looks]) -> Looks:
    """Return the Looks of several pieces, one after the other."""
    listed = list(parts)
    names = [field.name for field in fields(Looks)]
    return Looks(**{name: np.concatenate([getattr(p, name) for p in listed]) for name in names})


class LookWriter:
    """Gathers the Looks of one piece, frame by frame.

    Args:
        finder: of people, and of hands where ``hands``.
    """

    def __init__(self, finder: PeopleFinder, hands: bool, score_min: float) -> None:
        self._finder, self._hands, self._score_min = finder, hands, score_min
        self._watcher = ShotWatcher()
        self._rows: dict[str, list] = {name: [] for name in SHAPES}

    def compare_with(self, image: np.ndarray) -> None:
        """Take the searched frame before the piece, for what its first frame is compared with."""
        self._watcher.look(image)

    def look(self, frame: int, image: np.ndarray) -> None:
        """Search one frame; a still one is not searched."""
        step = self._watcher.look(image)
        people: list[Detection] = []
        loose: list[HandDetection] = []
        if not step.still:
            found = self._finder.find_people(image)
            found = [person for person in found if person.score >= self._score_min]
            people = [found[i] for i in drop_twins(found)]
            if self._hands:
                loose = self._find_hands(image, people)
        self.note(frame, people, loose, image, step)

    def note(
        self,
        frame: int,
        people: Sequence[Detection],
        loose: Sequence[HandDetection],
        image: np.ndarray,
        step: Step | None = None,
    ) -> None:
        """Take what was found in a frame.

        Args:
            loose: hands that are nobody's.
            step: what happened since the frame before; None: nothing.
        """
        step = step or Step(False, False, np.zeros(2))
        self._add(
            frame=frame,
            cut=step.cut,
            still=step.still,
            shift=step.shift,
            people=len(people),
            loose=len(loose),
        )
        for person in people:
            self._note_person(image, person)
        for hand in loose:
            self._add(
                loose_right=hand.side == SIDES[1],
                loose_score=hand.score,
                loose_box=hand.box,
                loose_points=_points(hand),
                loose_sharp=measure_sharpness(image, hand.box),
            )

    def finish(self) -> Looks:
        """Return what was seen."""
        out = {}
        for name, (kind, shape) in SHAPES.items():
            out[name] = np.array(self._rows[name], kind).reshape(-1, *shape)
        return Looks(**out)

    def _find_hands(self, image, people):
        """Give people their hands, and return those that are nobody's."""
        taken = []
        for person in people:
            person.hands = self._finder.find_hands_of(image, person)
            taken += [hand.box for hand in person.hands.values()]
        loose = self._finder.find_hands(image, [])
        return [h for h in loose if all(iou(h.box, box) < SAME_HAND for box in taken)]

    def _note_person(self, image, person):
        hands = [person.hands.get(side) for side in SIDES]
        points = np.zeros((17, 3)) if person.keypoints is None else person.keypoints
        self._add(
            box=person.box,
            score=person.score,
            points=points,
            clothes=describe_clothes(image, person),
            sharp=measure_sharpness(image, person.box),
            hand_score=[0.0 if hand is None else max(hand.score, 1e-3) for hand in hands],
            hand_box=[np.zeros(4) if hand is None else hand.box for hand in hands],
            hand_points=[np.zeros((21, 3)) if hand is None else _points(hand) for hand in hands],
            hand_sharp=[
                0.0 if hand is None else measure_sharpness(image, hand.box) for hand in hands
            ],
        )

    def _add(self, **values):
        for name, value in values.items():
            self._rows[name].append(value)


def _points(hand):
    return np.zeros((21, 3)) if hand.keypoints is None else hand.keypoints
