"""All people of an image on one scale: on the image, from the side and from above, in metres.

What an overlay hides is how far away each is: whoever is drawn too large at twice the distance
covers the same pixels. Both views share the axis that points away from the camera, a metre has as
many pixels in both, and the camera and what it sees are drawn too.
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
        axes: (3, 3), see SIDE.  low: (2,) metres right and down of its corner.
        scale: pixels a metre.  size: width and height of it in pixels.
    """

    axes: np.ndarray
    low: np.ndarray
    scale: float
    size: tuple[int, int]

    def place(self, points: np.ndarray) -> np.ndarray:
        """(n, 2) pixels of points (n, 3) in the camera's frame."""
        return ((points @ self.axes.T)[:, :2] - self.low) * self.scale


def draw_scene(image: np.ndarray, people: Sequence[Person], words: str = "") -> Image.Image:
    """Draw the people of an image on it, from the side and from above.

    Args:
        image: (H, W, 3) uint8.  people: with the intrinsics of this image, at least one.
        words: a line on the camera, below.
    """
    points = np.concatenate([person.vertices for person in people]).astype(np.float64)
    low, high = points.min(0), points.max(0)
    low, high = low - 0.15, high + 0.15
    room = max(high - low)
    first = low[2] if low[2] > CUT * room else min(0.0, low[2])
    space = WIDTH - LEFT - PAD
    scale = space / (high[2] - first)
    scale = min(scale, *(MOST_HIGH / (high[axis] - low[axis]) for axis in (0, 1)))
    views = []
    for axes, axis in ((SIDE, 1), (ABOVE, 0)):
        tall = max(40, round((high[axis] - low[axis]) * scale))
        views.append(_View(axes, np.array([first, low[axis]]), scale, (space, tall)))
    parts = [_fit(overlay(image, people))]
    for view, name in zip(views, ("from the side", "from above"), strict=True):
        parts.append(_draw_view(view, name, people, image.shape))
    return _stack(parts, [*_list_depths(people), *([words] if words else [])])


def _fit(image: np.ndarray) -> Image.Image:
    """The image as large as the sheet has room for."""
    factor = min(WIDTH / image.shape[1], MOST_HIGH / image.shape[0])
    size = max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor))
    return Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)


def _draw_view(
    view: _View, name: str, people: Sequence[Person], shape: tuple[int, ...]
) -> Image.Image:
    """One view with its grid, numbers and the people's own numbers."""
    width, height = view.size
    page = Image.new("RGB", (width, height), "white")
    step = next((one for one in STEPS_M if one * view.scale >= LEAST_STEP_PX), STEPS_M[-1])
    lines = [_list_lines(view, axis, step) for axis in (0, 1)]
    draw = ImageDraw.Draw(page)
    for at, _ in lines[0]:
        draw.line([(at, 0), (at, height)], GRID)
    for at, _ in lines[1]:
        draw.line([(0, at), (width, at)], GRID)
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
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(15)
    for number, person in enumerate(people, 1):
        x, y = view.place(person.vertices[person.vertices[:, 1].argmin()][None])[0].tolist()
        draw.text(
            (x, max(y - 3, 14)), str(number), INK, font, "mb", stroke_width=2, stroke_fill="white"
        )
    return _frame(page, name, lines)


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
    axis = int(np.abs(view.axes[1]).argmax())
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
    ways = measure_distances(people)
    if len(people) == 2:
        lines[0] += f"; 1 and 2 are {ways[0, 1]:.2f} m apart"
    elif len(people) > 2:
        near = ways + np.diag([np.inf] * len(people))
        told = [f"{a + 1} - {b + 1} {near[a, b]:.2f} m" for a, b in enumerate(near.argmin(1))]
        lines.append("each and who is nearest: " + ", ".join(told))
    return lines


def measure_distances(people: Sequence[Person]) -> np.ndarray:
    """Return (n, n) metres between the roots of people."""
    roots = np.stack([person.translation for person in people]).astype(np.float64)
    return np.linalg.norm(roots[:, None] - roots[None], axis=-1)


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
