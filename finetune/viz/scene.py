"""All people of an image on one scale: on the image, from the side and from above, in metres.

What an overlay hides is how far away each is: whoever is drawn too large at twice the distance
covers the same pixels. Both views share the axis that points away from the camera, a metre has as
many pixels in both, and the camera and what it sees are drawn too. From above everybody is joined
to who is nearest, with the metres between their roots.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from finetune.person import Person, colour
from finetune.viz.clay import draw_clay
from finetune.viz.draw import GRID, INK, PALE, blend, overlay
from finetune.viz.labels import Box, make_box, place_labels

WIDTH, MOST_HIGH = 1200, 620  # pixels of the sheet, and of its image and of each view at most
LEFT, BOTTOM, PAD, LINE = 46, 26, 16, 22  # room for numbers, around views, a line of words
STEPS_M = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 25.0, 100.0)
LEAST_STEP_PX = 34  # between two lines of the grid
CUT = 2.0  # people's room has to begin so many times its length away for the way there to be cut
# Rows: to the right, down and forward in the view, of the camera's x, y, z. From the side, which
# is the right one, the camera is on the left and feet are down; from above
# it is on the left too, so that what is right of it lies below.
SIDE = np.array([[0, 0, 1], [0, 1, 0], [-1, 0, 0]], np.float32)
ABOVE = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]], np.float32)


@dataclass(frozen=True)
class _View:
    """A view without perspective.

    Attributes:
        name: in words.
        axes: (3, 3), see SIDE.  low: (2,) metres right and down of its corner.
        scale: pixels a metre.  size: width and height of it in pixels.
        across: which axis of the camera is that of the view's second.
    """

    name: str
    axes: np.ndarray
    across: int
    low: np.ndarray
    scale: float
    size: tuple[int, int]

    def place(self, points: np.ndarray) -> np.ndarray:
        """(n, 2) pixels of points (n, 3) in the camera's frame."""
        return ((points @ self.axes.T)[:, :2] - self.low) * self.scale


@dataclass(frozen=True, eq=False)
class Level:
    """How a camera stands on a floor.

    Attributes:
        turn: (3, 3) from the camera's axes to level ones, whose y is down.
        height_m: of the camera above the floor.
    """

    turn: np.ndarray
    height_m: float


def draw_scene(
    image: np.ndarray, people: Sequence[Person], words: str = "", level: Level | None = None
) -> Image.Image:
    """Draw the people of an image on it, from the side and from above.

    Args:
        image: (H, W, 3) uint8.  people: with the intrinsics of this image, at least one.
        words: a line on the camera, below.
        level: the views are those of a level floor, which is drawn from the side; None: they are
            along the camera's own axes.
    """
    turn = np.eye(3) if level is None else level.turn
    points = np.concatenate([person.vertices for person in people]) @ turn.T
    low, high = points.min(0) - 0.15, points.max(0) + 0.15
    room = max(high - low)
    first = low[2] if low[2] > CUT * room else min(0.0, low[2])
    space = WIDTH - LEFT - PAD
    scale = space / (high[2] - first)
    scale = min(scale, *(MOST_HIGH / (high[axis] - low[axis]) for axis in (0, 1)))
    parts = [_number_people(image, people)]
    for name, axes, axis in (("from the side", SIDE, 1), ("from above", ABOVE, 0)):
        tall = max(40, round((high[axis] - low[axis]) * scale))
        corner = np.array([first, low[axis]])
        view = _View(name, axes @ turn, axis, corner, scale, (space, tall))
        floor = level.height_m if level is not None and axes is SIDE else None
        parts.append(_draw_view(view, people, image.shape, floor))
    return _stack(parts, [*_list_depths(people), *([words] if words else [])])


def _number_people(image: np.ndarray, people: Sequence[Person]) -> Image.Image:
    """The overlay as large as the sheet has room for, with everybody's number at the head."""
    height, width = image.shape[:2]
    factor = min(WIDTH / width, MOST_HIGH / height)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    page = Image.fromarray(overlay(image, people)).resize(size, Image.Resampling.LANCZOS)
    tops = []
    for person in people:
        top = person.vertices[person.vertices[:, 1].argmin()].astype(np.float64)
        flat = person.intrinsics[:2] @ (top / max(top[2], 1e-3)) * factor
        tops.append(np.clip(flat, (8, 16), (max(8, size[0] - 8), max(16, size[1] - 4))).tolist())
    _write_numbers(page, tops)
    return page


def _write_numbers(page: Image.Image, tops: Sequence[Sequence[float]]) -> list[Box]:
    """Write 1, 2, ... each above a point and in that person's colour, none over another.

    Returns the boxes that they cover.
    """
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(14)
    sizes = [(font.getlength(str(n)) + 8, 18.0) for n in range(1, len(tops) + 1)]
    wanted = [(x, max(y - 12, 9)) for x, y in tops]
    covered = []
    places = place_labels(wanted, sizes, [], page.size)
    for number, (at, place, size) in enumerate(zip(wanted, places, sizes, strict=True), 1):
        middle = place or at  # better over another than nowhere
        box = make_box(middle, size)
        draw.rounded_rectangle(box, 4, colour(number - 1), INK)
        draw.text(middle, str(number), INK, font, "mm")
        covered.append(box)
    return covered


def _draw_view(
    view: _View, people: Sequence[Person], shape: tuple[int, ...], floor: float | None
) -> Image.Image:
    """One view with its grid, numbers and the people's own numbers; ``floor``: where it lies."""
    width, height = view.size
    page = Image.new("RGB", (width, height), "white")
    step = next((one for one in STEPS_M if one * view.scale >= LEAST_STEP_PX), STEPS_M[-1])
    lines = [_list_lines(view, axis, step) for axis in (0, 1)]
    draw = ImageDraw.Draw(page)
    for at, _ in lines[0]:
        draw.line([(at, 0), (at, height)], GRID)
    for at, _ in lines[1]:
        draw.line([(0, at), (width, at)], GRID)
    if floor is not None:
        y = (floor - view.low[1]) * view.scale
        draw.line([(0, y), (width, y)], PALE, 2)
    _draw_camera(draw, view, people[0].intrinsics, shape)
    # Without perspective K maps metres to pixels; depths matter by their order alone.
    K = np.eye(3)
    K[:2, :2] *= view.scale
    K[:2, 2] = -view.low * view.scale
    meshes = [(person.vertices @ view.axes.T, person.faces) for person in people]
    clay, cover = draw_clay(
        meshes, [colour(i) for i in range(len(people))], K, view.size, perspective=False
    )
    page = Image.fromarray(blend(np.asarray(page), clay, cover))
    tops = [person.vertices[person.vertices[:, 1].argmin()] for person in people]
    numbers = _write_numbers(page, view.place(np.stack(tops)).tolist())
    if view.across == 0:
        _join_nearest(page, view, people, numbers)
    return _frame(page, view.name, lines)


def _join_nearest(
    page: Image.Image, view: _View, people: Sequence[Person], taken: Sequence[Box]
) -> None:
    """Lines between everybody and who is nearest, and the metres between their roots.

    Args:
        taken: boxes that no words may cover.
    """
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    roots = view.place(np.stack([person.translation for person in people]))
    pairs = list_nearest(people)
    middles = [((roots[a] + roots[b]) / 2).tolist() for a, b, _ in pairs]
    words = [f"{metres:.2f} m" for _, _, metres in pairs]
    sizes = [(font.getlength(text) + 6, 16.0) for text in words]
    places = place_labels(middles, sizes, taken, page.size)
    for a, b, _ in pairs:
        ends = [tuple(roots[a].tolist()), tuple(roots[b].tolist())]
        draw.line(ends, "white", 4)
        draw.line(ends, INK, 1)
    for middle, place in zip(middles, places, strict=True):
        if place is not None:
            draw.line([tuple(middle), place], PALE, 1)
    for text, place, size in zip(words, places, sizes, strict=True):
        if place is not None:
            draw.rectangle(make_box(place, size), "white", GRID)
            draw.text(place, text, INK, font, "mm")


def _list_lines(view: _View, axis: int, step: float) -> list[tuple[int, str]]:
    """(pixel, metres) of the lines of the grid across an axis of a view."""
    first = math.ceil(view.low[axis] / step)
    last = math.floor((view.low[axis] + view.size[axis] / view.scale) / step)
    return [
        (round((number * step - view.low[axis]) * view.scale), f"{number * step:g}")
        for number in range(first, last + 1)
    ]


def _draw_camera(
    draw: ImageDraw.ImageDraw, view: _View, K: np.ndarray, shape: tuple[int, ...]
) -> None:
    """The camera, and the edges of what it sees: straight lines of a view from its side."""
    axis = view.across
    eye = view.place(np.zeros((1, 3)))[0]
    for edge in (0, shape[1 - axis]):
        ray = np.zeros(3)
        ray[axis], ray[2] = (edge - K[axis, 2]) / K[axis, axis], 1.0
        far = view.place(1e3 * ray[None])[0]
        draw.line([tuple(eye.tolist()), tuple(far.tolist())], PALE, 1)
    x, y = eye.tolist()
    draw.polygon([(x, y), (x + 14, y - 7), (x + 14, y + 7)], INK)


def _frame(page: Image.Image, name: str, lines: list[list[tuple[int, str]]]) -> Image.Image:
    """A view with its name on top and metres left and below."""
    out = Image.new("RGB", (WIDTH, page.height + LINE + BOTTOM), "white")
    out.paste(page, (LEFT, LINE))
    draw, font = ImageDraw.Draw(out), ImageFont.load_default(13)
    draw.text((LEFT, 2), f"{name}; metres from the camera", PALE, font)
    box = [LEFT, LINE, LEFT + page.width - 1, LINE + page.height - 1]
    draw.rectangle(box, outline=GRID)
    for at, words in lines[0]:
        draw.text((LEFT + at, LINE + page.height + 4), words, PALE, font, "mt")
    for at, words in lines[1]:
        draw.text((LEFT - 6, LINE + at), words, PALE, font, "rm")
    return out


def _list_depths(people: Sequence[Person]) -> list[str]:
    """Lines on how far away each is, and from whom stands next in depth."""
    told = [f"{number}: {person.translation[2]:.2f} m" for number, person in enumerate(people, 1)]
    lines = ["away from the camera " + ", ".join(told)]
    pairs = list_nearest(people)
    if len(people) == 2:
        lines[0] += f"; 1 and 2 are {pairs[0][2]:.2f} m apart"
    elif len(people) > 2:
        told = [f"{a + 1} - {b + 1} {metres:.2f} m" for a, b, metres in pairs]
        lines.append("each and who is nearest: " + ", ".join(told))
    return lines


def measure_distances(people: Sequence[Person]) -> np.ndarray:
    """Return (n, n) metres between the roots of people."""
    roots = np.stack([person.translation for person in people]).astype(np.float64)
    return np.linalg.norm(roots[:, None] - roots[None], axis=-1)


def list_nearest(people: Sequence[Person]) -> list[tuple[int, int, float]]:
    """Return (one, other, metres between their roots) of everybody and who is nearest.

    Each pair comes once, with the lower place in the list first.
    """
    if len(people) < 2:
        return []
    ways = measure_distances(people)
    nearest = (ways + np.diag([np.inf] * len(people))).argmin(1)
    pairs = sorted({(min(a, b), max(a, b)) for a, b in enumerate(nearest.tolist())})
    return [(a, b, float(ways[a, b])) for a, b in pairs]


def _stack(parts: Sequence[Image.Image], words: Sequence[str]) -> Image.Image:
    font: Any = ImageFont.load_default(15)
    lines = [line for text in words for line in _wrap(text, font)]
    height = sum(part.height + PAD for part in parts) + LINE * len(lines) + PAD
    out = Image.new("RGB", (WIDTH + 2 * PAD, height), "white")
    y = PAD
    for part in parts:
        out.paste(part, (PAD + (WIDTH - part.width) // 2, y))
        y += part.height + PAD
    for line in lines:
        ImageDraw.Draw(out).text((PAD + LEFT, y), line, INK, font)
        y += LINE
    return out


def _wrap(text: str, font: Any) -> list[str]:
    """Lines that fit; words are whole."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if font.getlength(joined) <= WIDTH - LEFT or not lines[-1]:
            lines[-1] = joined
        else:
            lines.append(word)
    return lines
