"""A finder of drawn people: everybody is a rectangle of a strong colour, with white hands."""

from collections.abc import Sequence

import cv2
import numpy as np

from data.cropping.geometry import square_around, square_of_box
from data.cropping.host import cut_square
from data.find.detection import Detection, HandDetection, PersonMask

RED, BLUE = (220, 30, 30), (30, 30, 220)
SIZE = (320, 180)
# Shares of a standing person's box: nose, eyes, ears, shoulders, elbows, wrists, hips, knees, feet.
BODY = np.array(
    [
        [0.5, 0.1],
        [0.45, 0.08],
        [0.55, 0.08],
        [0.4, 0.1],
        [0.6, 0.1],
        [0.75, 0.2],
        [0.25, 0.2],
        [0.85, 0.4],
        [0.15, 0.4],
        [0.9, 0.55],
        [0.1, 0.55],
        [0.65, 0.55],
        [0.35, 0.55],
        [0.65, 0.75],
        [0.35, 0.75],
        [0.65, 0.98],
        [0.35, 0.98],
    ]
)


def draw_scene(people: Sequence[tuple[float, tuple[int, int, int]]], seed: int = 0) -> np.ndarray:
    """People (x of the middle, colour), the last in front; another seed is another place."""
    random = np.random.default_rng(seed)
    noise = random.integers(60, 200, (18, 32, 1)).astype(np.uint8)
    image = cv2.resize(noise, SIZE, interpolation=cv2.INTER_CUBIC)[..., None].repeat(3, 2)
    for x, colour in people:
        left, right = round(x) - 22, round(x) + 22
        image[30:160, max(0, left) : max(0, right)] = colour
        for y in range(40, 150, 16):  # stripes, so that there is something to be sharp
            image[y : y + 6, max(0, left + 12) : max(0, right - 12)] = np.array(colour) // 2
        image[98:114, max(0, left) : max(0, left + 10)] = 255
    return image


class FakeFinder:
    """Finds what ``draw_scene`` draws: each has the right hand alone, on the left."""

    def find_people(self, image: np.ndarray) -> list[Detection]:
        """The people, from left to right."""
        found = []
        for colour in (RED, BLUE):
            inside = cv2.morphologyEx(_inside(image, colour), cv2.MORPH_CLOSE, np.ones((9, 9)))
            count, _, stats, _ = cv2.connectedComponentsWithStats(inside)
            for x, y, width, height, area in stats[1:count].tolist():
                if area > 1500 and width > 25:
                    box = np.array([x, y, x + width, y + height], np.float64)
                    points = box[:2] + BODY * (box[2:] - box[:2])
                    points = np.column_stack([points, np.full(17, 0.9)])
                    found.append(Detection(box, 0.9, points))
        return sorted(found, key=lambda one: one.box[0])

    def find_hands_of(self, image: np.ndarray, person: Detection) -> dict[str, HandDetection]:
        """The white hand at the left of the box."""
        x0, y0 = person.box[:2].astype(int)
        part = image[y0 + 60 : y0 + 90, max(0, x0) : max(0, x0 + 14)]
        rows, columns = np.nonzero(part.min(2) > 200)
        if len(rows) < 60:
            return {}
        low = np.array([columns.min() + max(0, x0), rows.min() + y0 + 60], np.float64)
        high = np.array([columns.max() + 1 + max(0, x0), rows.max() + y0 + 61], np.float64)
        points = np.column_stack([np.linspace(low, high, 21), np.full(21, 0.8)])
        return {"right": HandDetection("right", np.concatenate([low, high]), 0.8, points)}

    def find_hands(
        self, image: np.ndarray, people: Sequence[Detection] | None = None
    ) -> list[HandDetection]:
        """None that belong to nobody."""
        return []

    def find_mask(
        self, image: np.ndarray, person: Detection, others: Sequence[Detection] = ()
    ) -> PersonMask | None:
        """The box's colour, in a square around it."""
        square = square_around(person.box, 1.25)
        colour = RED if _is(image, person, RED) > _is(image, person, BLUE) else BLUE
        inside = (_inside(image, colour) * 255)[..., None].repeat(3, 2)
        return PersonMask(
            square.box, cut_square(inside, square_of_box(square.box), 128)[..., 0] > 127
        )


def open_fake_finder(masks: bool, hands: bool, tiles: bool) -> FakeFinder:
    """In place of data.find.finder.open_finder."""
    return FakeFinder()


def _inside(image, colour):
    strongest, others = int(np.argmax(colour)), [c for c in range(3) if c != np.argmax(colour)]
    return ((image[..., strongest] > 80) & (image[..., others].max(2) < 70)).astype(np.uint8)


def _is(image, person, colour):
    x0, y0, x1, y1 = person.box.astype(int)
    return int(_inside(image[y0:y1, x0:x1], colour).sum())
