"""What is found of people and hands in videos and images, and what it costs.

    python benchmarks/finding.py samples=DIR [step=5] [draw=DIR] [rows=3]

``samples`` is a folder whose videos and images are all read, those in its folders too; of a video
every ``step``-th frame. Costs are CPU milliseconds of one thread. ``draw`` gets ``rows`` frames of
each with everything found drawn over them.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from benchmarks.options import read_options
from data.find.detection import Detection, HandDetection
from data.find.finder import Finder, open_finder
from engine.cli import run
from engine.errors import UserError
from finetune.inference.images import read_image

OPTIONS = {"samples": "", "step": "5", "draw": "", "rows": "3"}
VIDEOS, IMAGES = (".mp4", ".mov", ".avi", ".mkv", ".webm"), (".jpg", ".jpeg", ".png")
COLOURS = ((255, 90, 90), (90, 230, 90), (90, 130, 255), (240, 240, 90), (240, 90, 240))
ARMS_AND_LEGS = ((5, 7), (7, 9), (6, 8), (8, 10), (11, 13), (13, 15), (12, 14), (14, 16))
TRUNK = ((0, 1), (0, 2), (1, 3), (2, 4), (5, 6), (5, 11), (6, 12), (11, 12))
DRAWN_SIDE = 700  # pixels

Answer = TypeVar("Answer")


@dataclass
class Tally:
    """What was found in the frames of a video, or of an image, and its cost.

    Attributes:
        people: {people in a frame: frames} of the whole image alone.
        tiled: likewise, with the second pass.
        masks, hands: of people; ``asked`` people altogether.
        anywhere: hands of a frame by the search for all hands, {hands: frames}.
        spent: {stage: CPU seconds}.
    """

    people: Counter[int] = field(default_factory=Counter)
    tiled: Counter[int] = field(default_factory=Counter)
    anywhere: Counter[int] = field(default_factory=Counter)
    masks: int = 0
    hands: int = 0
    asked: int = 0
    spent: dict[str, float] = field(default_factory=dict)

    def measure(self, stage: str, act: Callable[[], Answer]) -> Answer:
        """Return what ``act`` returns, and add its CPU time to a stage's."""
        start = time.process_time()
        answer = act()
        self.spent[stage] = self.spent.get(stage, 0.0) + time.process_time() - start
        return answer


def main(argv: list[str]) -> None:
    """Print a line for each video and image; returns nothing."""
    options = read_options(argv, OPTIONS)
    folder = Path(options["samples"])
    if not options["samples"] or not folder.is_dir():
        raise UserError(f"samples={options['samples']}: name a folder of videos and images")
    finder, single = open_finder(), open_finder(masks=False, hands=False, tiles=False)
    draw = Path(options["draw"]) if options["draw"] else None
    print(
        "name: frames; people a frame by one pass (ms), by both (ms); outlines of people (ms each);"
        " hands of people (ms a person); hands a frame, found anywhere (ms)"
    )
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in VIDEOS + IMAGES:
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        tally = Tally()
        for number, image in read_frames(path, int(options["step"])):
            people, hands = look(finder, single, image, tally)
            if draw and tally.people.total() <= int(options["rows"]):
                draw.mkdir(parents=True, exist_ok=True)
                save_drawn(draw / f"{name.replace('/', '.')}.{number}.png", image, people, hands)
        print(f"{name}: {describe(tally)}", flush=True)


def read_frames(path: Path, step: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (frame, (H, W, 3) uint8 RGB), every ``step``-th of a video, or the one of an image."""
    if path.suffix.lower() in IMAGES:
        yield 0, read_image(path)
        return
    video = cv2.VideoCapture(str(path))
    number = 0
    while True:
        there, image = video.read()
        if not there:
            return
        if number % step == 0:
            yield number, np.ascontiguousarray(image[..., ::-1])
        number += 1


def look(
    finder: Finder, single: Finder, image: np.ndarray, tally: Tally
) -> tuple[list[Detection], list[HandDetection]]:
    """Return everything that is found in an image, and add it to a tally."""
    once = tally.measure("one pass", partial(single.find_people, image))
    people = tally.measure("both", partial(finder.find_people, image))
    for person in people:
        person.mask = tally.measure("masks", partial(finder.find_mask, image, person, people))
        person.hands = tally.measure("hands", partial(finder.find_hands_of, image, person))
        tally.masks += person.mask is not None
        tally.hands += len(person.hands)
    hands = tally.measure("anywhere", partial(finder.find_hands, image))
    tally.people[len(once)] += 1
    tally.tiled[len(people)] += 1
    tally.anywhere[len(hands)] += 1
    tally.asked += len(people)
    return people, hands


def describe(tally: Tally) -> str:
    """Return a tally in a line."""
    frames, people = tally.people.total(), max(1, tally.asked)

    def cost(stage: str, count: int) -> str:
        return f"({1000 * tally.spent.get(stage, 0.0) / count:.0f} ms)"

    return (
        f"{frames}; {share(tally.people)} {cost('one pass', frames)}, {share(tally.tiled)} "
        f"{cost('both', frames)}; {tally.masks} of {tally.asked} {cost('masks', people)}; "
        f"{tally.hands} of {2 * tally.asked} {cost('hands', people)}; {share(tally.anywhere)} "
        f"{cost('anywhere', frames)}"
    )


def share(counts: Counter[int]) -> str:
    """Return how many frames have how many, such as "1: 79, 0: 1"."""
    return ", ".join(f"{number}: {frames}" for number, frames in counts.most_common())


def save_drawn(
    path: Path, image: np.ndarray, people: list[Detection], hands: list[HandDetection]
) -> None:
    """Write an image with outlines, boxes, skeletons and hands (yellow left, cyan right)."""
    drawn = image.copy()
    for number, person in enumerate(people):
        colour = COLOURS[number % len(COLOURS)]
        _draw_mask(drawn, person, colour)
        _draw_box(drawn, person.box, colour, f"{person.score:.2f}")
        for bone in (*ARMS_AND_LEGS, *TRUNK):
            _draw_bone(drawn, person, bone)
    for hand in hands:
        colour = (255, 255, 0) if hand.side == "left" else (0, 255, 255)
        _draw_box(drawn, hand.box, colour, f"{hand.side[0]} {hand.score:.2f}")
        for x, y, _ in hand.keypoints if hand.keypoints is not None else ():
            cv2.circle(drawn, (int(x), int(y)), max(1, max(image.shape) // 600), colour, -1)
    scale = DRAWN_SIDE / max(image.shape)
    drawn = cv2.resize(drawn, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(path), drawn[..., ::-1])


def _draw_mask(drawn: np.ndarray, person: Detection, colour: tuple[int, int, int]) -> None:
    if person.mask is None:
        return
    x0, y0, x1, _ = person.mask.square
    scale = (x1 - x0) / len(person.mask.inside)
    matrix = np.array([[scale, 0, x0], [0, scale, y0]])
    shape = (drawn.shape[1], drawn.shape[0])
    inside = cv2.warpAffine(person.mask.inside.astype(np.uint8), matrix, shape) > 0
    drawn[inside] = drawn[inside] // 2 + np.array(colour, np.uint8) // 2


def _draw_box(drawn: np.ndarray, box: np.ndarray, colour: tuple[int, int, int], words: str) -> None:
    x0, y0, x1, y1 = box.astype(int).tolist()
    thick = max(1, max(drawn.shape) // 700)
    cv2.rectangle(drawn, (x0, y0), (x1, y1), colour, thick)
    cv2.putText(drawn, words, (x0, y0 + 12 * thick), 0, 0.5 * thick, colour, thick)


def _draw_bone(drawn: np.ndarray, person: Detection, bone: tuple[int, int]) -> None:
    points = person.keypoints
    if points is None or min(points[bone[0], 2], points[bone[1], 2]) < 0.2:
        return
    ends = points[list(bone), :2].astype(int).tolist()
    cv2.line(drawn, tuple(ends[0]), tuple(ends[1]), (255, 255, 255), max(1, len(drawn) // 700))


if __name__ == "__main__":
    run(main)
