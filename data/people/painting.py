"""Paints backgrounds that are as busy as photographs: rooms, streets, parks, and heaps of things.

Nothing is read from disk. What a network must learn to look past is not a single texture but edges,
shapes, colours and clutter of all sizes, in the statistics of the world: sizes that fall with a
power law, each thing before others (dead leaves: Lee, Mumford and Huang, "Occlusion models for
natural images", 2001), long straight edges, repeated parts, light that falls off, distance that
fades. An image takes about 30 ms.
"""

import colorsys
import functools
from collections.abc import Callable

import cv2
import numpy as np

from data.people.textures import any_colour, make_noise, natural_colour

Paint = Callable[[np.random.Generator, np.ndarray], None]
NOISES = 12


@functools.cache
def _noises() -> list[np.ndarray]:
    """(256, 256) float32 tiles in about -1 to 1, from coarse to fine."""
    rng = np.random.default_rng(11)
    tiles = []
    for slope in np.linspace(0.6, 2.8, NOISES):
        noise = make_noise(rng, float(slope))
        tiles.append(((noise - noise.mean()) / noise.std() / 2.5).astype(np.float32))
    return tiles


def paint_background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8 of display values, about three times as wide as high.

    The left edge continues the right one only roughly: it is to be seen in parts.
    """
    canvas = np.zeros((height, width, 3), np.float32)
    kinds = (_paint_room, _paint_street, _paint_park, _paint_heap)
    kinds[rng.choice(len(kinds), p=(0.4, 0.22, 0.22, 0.16))](rng, canvas)
    canvas *= 1 + 0.25 * rng.random() * _noise(rng, height, width, 2.0)[..., None]
    if rng.random() < 0.4:
        canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.5, 3.0) * height / 320)
    grain = rng.uniform(0, 0.03) * _noise(rng, height, width, 0.3)
    canvas = (canvas + grain[..., None]) * rng.uniform(0.75, 1.15)
    return (np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8)


def _noise(rng: np.random.Generator, height: int, width: int, scale: float) -> np.ndarray:
    """(height, width) noise; ``scale`` in multiples of its tile's size, smaller is finer."""
    tile = _noises()[rng.integers(NOISES)]
    tile = np.roll(tile, rng.integers(256, size=2).tolist(), (0, 1))
    if rng.random() < 0.5:
        tile = tile.T
    side = max(2, round(256 * scale))
    if side != 256:
        tile = cv2.resize(tile, (side, side), interpolation=cv2.INTER_LINEAR)
    down, across = -(-height // side), -(-width // side)
    return np.tile(tile, (down, across))[:height, :width]


def _gradient(size: int, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(size, 1, 3) from one colour to another."""
    share = np.linspace(0, 1, size)[:, None, None]
    return ((1 - share) * start + share * end).astype(np.float32)


def _colour(rng: np.random.Generator, natural: float = 0.7) -> np.ndarray:
    """(3,) a colour, muted with probability ``natural``."""
    if rng.random() < natural:
        hue = rng.uniform(0.03, 0.14) if rng.random() < 0.5 else rng.random()
        return natural_colour(rng, hue)
    return any_colour(rng)


def _fill(
    rng: np.random.Generator, canvas: np.ndarray, shape: np.ndarray, colour: np.ndarray
) -> None:
    """Fill a polygon (n, 2) with a colour that is shaded and perhaps grained or striped."""
    height, width = canvas.shape[:2]
    low = np.clip(np.floor(shape.min(0)).astype(int), 0, (width, height))
    high = np.clip(np.ceil(shape.max(0)).astype(int) + 1, 0, (width, height))
    if (high - low).min() < 1:
        return
    part = canvas[low[1] : high[1], low[0] : high[0]]
    mask = np.zeros(part.shape[:2], np.uint8)
    points = np.round((shape - low) * 16).astype(np.int32)
    cv2.fillPoly(mask, [points], 255, cv2.LINE_AA, 4)
    alpha = mask.astype(np.float32)[..., None] / 255
    paint = np.empty_like(part)
    paint[:] = _shade(rng, part.shape[0], part.shape[1], colour)
    part += alpha * (paint - part)


def _shade(rng: np.random.Generator, height: int, width: int, colour: np.ndarray) -> np.ndarray:
    """(height, width, 3) of a surface of one colour under some light."""
    slope = rng.normal(0, 0.15)
    out = _gradient(height, colour * (1 - slope), colour * (1 + slope))
    kind = rng.random()
    if kind < 0.45:
        grain = rng.uniform(0.05, 0.5) * _noise(rng, height, width, rng.uniform(0.1, 1.0))
        return out * (1 + grain[..., None])
    if kind < 0.6:
        period = max(2.0, rng.uniform(0.02, 0.3) * max(height, width))
        at = np.arange(width) if rng.random() < 0.5 else np.arange(height)[:, None]
        stripes = np.sin(2 * np.pi * at / period + rng.uniform(0, 6)) > rng.uniform(-0.8, 0.8)
        other = _colour(rng) if rng.random() < 0.4 else colour * rng.uniform(0.5, 1.4)
        stripes = np.broadcast_to(stripes, (height, width))
        return np.where(stripes[..., None], out, other.astype(np.float32))
    return np.broadcast_to(out, (height, width, 3))


def _rectangle(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float64)


def _blob(rng: np.random.Generator, x: float, y: float, radius: float) -> np.ndarray:
    """A rounded or ragged outline of about a radius."""
    count = int(rng.integers(3, 14))
    angle = np.sort(rng.uniform(0, 2 * np.pi, count))
    reach = radius * rng.uniform(0.55, 1.3, count)
    stretch = np.array([rng.uniform(0.5, 1.6), rng.uniform(0.5, 1.6)])
    return np.array([x, y]) + stretch * np.stack([reach * np.cos(angle), reach * np.sin(angle)], 1)


def _paint_heap(rng: np.random.Generator, canvas: np.ndarray) -> None:
    """Things before things, their sizes by a power law."""
    height, width = canvas.shape[:2]
    canvas[:] = _shade(rng, height, width, _colour(rng))
    count = int(rng.integers(60, 260))
    sizes = height * 0.5 * np.sort(rng.pareto(1.6, count) * 0.05 + 0.02)[::-1]
    for size in np.minimum(sizes, height * 0.7):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        if rng.random() < 0.4:
            wide, tall = size * rng.uniform(0.3, 1.5, 2)
            shape = _rectangle(x - wide, y - tall, x + wide, y + tall)
        else:
            shape = _blob(rng, x, y, float(size))
        _fill(rng, canvas, shape, _colour(rng, 0.6))


def _paint_room(rng: np.random.Generator, canvas: np.ndarray) -> None:
    """Walls with doors, windows, frames, shelves, curtains, furniture along the floor."""
    height, width = canvas.shape[:2]
    wall = _colour(rng, 0.85) * 0.6 + 0.35
    canvas[:] = _shade(rng, height, width, wall)
    floor = height * rng.uniform(0.72, 0.9)
    x = -rng.uniform(0, 0.5) * height
    while x < width:
        wide = height * rng.uniform(0.2, 1.0)
        shade = rng.uniform(0.75, 1.15)
        if rng.random() < 0.25:
            _fill(rng, canvas, _rectangle(x, 0, x + wide, floor), wall * shade)
        piece = rng.choice(7, p=(0.16, 0.16, 0.2, 0.14, 0.1, 0.12, 0.12))
        _ROOM[piece](rng, canvas, x, wide, floor)
        x += wide * rng.uniform(0.7, 1.3)
    _fill(rng, canvas, _rectangle(0, floor, width, height), _colour(rng, 0.9) * 0.8)
    for _ in range(int(rng.integers(2, 9))):
        _paint_furniture(rng, canvas, floor)


def _paint_window(
    rng: np.random.Generator, canvas: np.ndarray, x: float, wide: float, floor: float
) -> None:
    top, bottom = floor * rng.uniform(0.05, 0.3), floor * rng.uniform(0.5, 0.95)
    light = np.array([0.9, 0.95, 1.0]) * rng.uniform(0.5, 1.1)
    _fill(rng, canvas, _rectangle(x, top, x + wide, bottom), light)
    for _ in range(int(rng.integers(0, 8))):  # what is outside
        at = (rng.uniform(x, x + wide), rng.uniform((top + bottom) / 2, bottom))
        size = wide * rng.uniform(0.05, 0.25)
        _fill(rng, canvas, _blob(rng, *at, size), natural_colour(rng, 0.3))
    frame = _colour(rng) * 0.5 + 0.4
    bar = max(1.5, 0.03 * wide)
    for share in np.linspace(0, 1, int(rng.integers(2, 5))):
        at = x + share * wide
        _fill(rng, canvas, _rectangle(at - bar, top, at + bar, bottom), frame)
    for share in np.linspace(0, 1, int(rng.integers(2, 4))):
        at = top + share * (bottom - top)
        _fill(rng, canvas, _rectangle(x, at - bar, x + wide, at + bar), frame)


def _paint_frames(
    rng: np.random.Generator, canvas: np.ndarray, x: float, wide: float, floor: float
) -> None:
    """Pictures on the wall, each with a few shapes in it."""
    for _ in range(int(rng.integers(1, 4))):
        w, h = wide * rng.uniform(0.2, 0.6), floor * rng.uniform(0.1, 0.35)
        x0, y0 = x + rng.uniform(0, wide - w), floor * rng.uniform(0.1, 0.5)
        edge = max(1.0, 0.06 * w)
        _fill(rng, canvas, _rectangle(x0, y0, x0 + w, y0 + h), _colour(rng, 0.8) * 0.6)
        inner = _rectangle(x0 + edge, y0 + edge, x0 + w - edge, y0 + h - edge)
        _fill(rng, canvas, inner, _colour(rng, 0.3))
        for _ in range(int(rng.integers(0, 5))):
            at = (rng.uniform(x0 + edge, x0 + w - edge), rng.uniform(y0 + edge, y0 + h - edge))
            _fill(rng, canvas, _blob(rng, *at, 0.15 * min(w, h)), any_colour(rng))


def _paint_shelf(
    rng: np.random.Generator, canvas: np.ndarray, x: float, wide: float, floor: float
) -> None:
    """Boards with books and things in rows."""
    top = floor * rng.uniform(0.05, 0.5)
    wood = natural_colour(rng, 0.08) * 0.7
    _fill(rng, canvas, _rectangle(x, top, x + wide, floor), wood * rng.uniform(0.4, 0.9))
    rows = int(rng.integers(2, 6))
    tall = (floor - top) / rows
    for row in range(rows):
        base = top + (row + 1) * tall
        at = x + 0.03 * wide
        while at < x + 0.94 * wide:
            thick = tall * rng.uniform(0.06, 0.5)
            rise = tall * rng.uniform(0.3, 0.9)
            if rng.random() < 0.85:
                shape = _rectangle(at, base - rise, min(at + thick, x + 0.97 * wide), base)
                _fill(rng, canvas, shape, _colour(rng, 0.5))
            at += thick * rng.uniform(1.0, 1.4)
        _fill(rng, canvas, _rectangle(x, base - 0.05 * tall, x + wide, base), wood)


def _paint_door(
    rng: np.random.Generator, canvas: np.ndarray, x: float, wide: float, floor: float
) -> None:
    wide = min(wide, 0.42 * floor)
    top = floor * rng.uniform(0.08, 0.25)
    colour = _colour(rng, 0.85)
    edge = 0.06 * wide
    frame = _rectangle(x - edge, top - edge, x + wide + edge, floor)
    _fill(rng, canvas, frame, np.minimum(colour * 1.3, 1))
    _fill(rng, canvas, _rectangle(x, top, x + wide, floor), colour)
    for row in range(int(rng.integers(0, 4))):
        y0 = top + (0.1 + 0.3 * row) * (floor - top)
        panel = _rectangle(x + 0.15 * wide, y0, x + 0.85 * wide, y0 + 0.22 * (floor - top))
        _fill(rng, canvas, panel, colour * rng.uniform(0.75, 1.2))


def _paint_curtain(
    rng: np.random.Generator, canvas: np.ndarray, x: float, wide: float, floor: float
) -> None:
    colour = _colour(rng, 0.5)
    folds = int(rng.integers(6, 20))
    for fold in range(folds):
        x0, x1 = x + wide * fold / folds, x + wide * (fold + 1) / folds
        lean = rng.normal(0, 0.01) * floor
        shape = np.array([[x0, 0], [x1, 0], [x1 + lean, floor], [x0 + lean, floor]])
        _fill(rng, canvas, shape, colour * rng.uniform(0.6, 1.15))


def _paint_lamp(
    rng: np.random.Generator, canvas: np.ndarray, x: float, wide: float, floor: float
) -> None:
    """A lamp with its glow, and what stands below it."""
    y = floor * rng.uniform(0.1, 0.6)
    height, width = canvas.shape[:2]
    rows, columns = np.ogrid[:height, :width]
    glow = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (0.35 * floor) ** 2)
    warm = np.array([1.0, 0.85, 0.6], np.float32) * rng.uniform(0.1, 0.5)
    canvas += glow[..., None].astype(np.float32) * warm
    _fill(rng, canvas, _rectangle(x - 2, y, x + 2, floor), _colour(rng) * 0.4)
    shade = 0.08 * floor
    hood = np.array([[x - shade, y], [x - shade / 2, y - shade], [x + shade / 2, y - shade]])
    hood = np.concatenate([hood, [[x + shade, y]]])
    _fill(rng, canvas, hood, np.array([1.0, 0.92, 0.75]))


def _paint_plant(
    rng: np.random.Generator, canvas: np.ndarray, x: float, wide: float, floor: float
) -> None:
    size = floor * rng.uniform(0.1, 0.3)
    top = floor - size * rng.uniform(1.5, 4)
    _paint_leaves(rng, canvas, (x, top), size, int(rng.integers(60, 200)))
    pot = _rectangle(x - 0.3 * size, floor - 0.7 * size, x + 0.3 * size, floor)
    _fill(rng, canvas, pot, _colour(rng))


_ROOM = (
    _paint_window,
    _paint_frames,
    _paint_shelf,
    _paint_door,
    _paint_curtain,
    _paint_lamp,
    _paint_plant,
)


def _paint_furniture(rng: np.random.Generator, canvas: np.ndarray, floor: float) -> None:
    """A sofa, table, chair or box: a few blocks that share a colour."""
    height, width = canvas.shape[:2]
    x, wide = rng.uniform(-0.1, 1.0) * width, floor * rng.uniform(0.15, 0.7)
    base = rng.uniform(floor, height)
    tall = floor * rng.uniform(0.12, 0.4)
    colour = _colour(rng, 0.7)
    if rng.random() < 0.5:  # legs and a top
        leg = max(1.5, 0.04 * wide)
        for at in (x, x + wide - leg):
            _fill(rng, canvas, _rectangle(at, base - tall, at + leg, base), colour * 0.8)
        _fill(rng, canvas, _rectangle(x, base - tall, x + wide, base - 0.85 * tall), colour)
        for _ in range(int(rng.integers(0, 5))):
            at, size = x + rng.uniform(0, wide), tall * rng.uniform(0.05, 0.35)
            thing = _rectangle(at, base - tall - size, at + size * rng.uniform(0.3, 2), base - tall)
            _fill(rng, canvas, thing, _colour(rng, 0.4))
        return
    for _ in range(int(rng.integers(1, 4))):
        x0, x1 = np.sort(x + rng.uniform(0, wide, 2))
        block = _rectangle(x0, base - tall * rng.uniform(0.4, 1), x1, base)
        _fill(rng, canvas, block, colour * rng.uniform(0.7, 1.2))


def _paint_sky(rng: np.random.Generator, canvas: np.ndarray, horizon: float) -> None:
    height, width = canvas.shape[:2]
    rows = max(2, int(horizon))
    blue = np.array([0.35, 0.55, 0.9]) * rng.uniform(0.6, 1.1)
    grey = np.full(3, rng.uniform(0.55, 0.95))
    high = blue if rng.random() < 0.6 else grey
    canvas[:rows] = _gradient(rows, high, np.array([0.85, 0.88, 0.92]) * rng.uniform(0.8, 1.1))
    clouds = np.clip(_noise(rng, rows, width, rng.uniform(1.0, 3.0)) * 2, 0, 1)[..., None]
    canvas[:rows] += rng.uniform(0, 0.8) * clouds * (0.95 - canvas[:rows])


def _paint_ground(rng: np.random.Generator, canvas: np.ndarray, horizon: float) -> None:
    height, width = canvas.shape[:2]
    grass = np.array([0.3, 0.42, 0.16]) * rng.uniform(0.6, 1.3)
    base = grass if rng.random() < 0.45 else np.full(3, rng.uniform(0.25, 0.6))
    _fill(rng, canvas, _rectangle(0, horizon, width, height), base)
    for _ in range(int(rng.integers(0, 5))):  # paths, kerbs, shadows
        y = rng.uniform(horizon, height)
        lean, thick = rng.normal(0, 0.1) * height, rng.uniform(0.01, 0.1) * height
        shape = np.array([[0, y], [width, y + lean], [width, y + lean + thick], [0, y + thick]])
        _fill(rng, canvas, shape, base * rng.uniform(0.5, 1.6))


def _paint_leaves(
    rng: np.random.Generator,
    canvas: np.ndarray,
    at: tuple[float, float],
    size: float,
    count: int,
) -> None:
    """A crown of a tree or a bush."""
    hue = rng.uniform(0.18, 0.38) if rng.random() < 0.85 else rng.uniform(0.0, 0.15)
    for _ in range(count):
        x, y = np.array(at) + rng.normal(0, 0.45, 2) * size
        vivid = (hue + rng.normal(0, 0.02), rng.uniform(0.25, 0.75), rng.uniform(0.12, 0.65))
        leaf = np.array(colorsys.hsv_to_rgb(*vivid))
        radius = float(size * rng.uniform(0.03, 0.12))
        cv2.ellipse(
            canvas,
            (int(x), int(y)),
            (max(1, int(radius)), max(1, int(radius * rng.uniform(0.3, 1)))),
            rng.uniform(0, 180),
            0,
            360,
            leaf.tolist(),
            -1,
            cv2.LINE_AA,
        )


def _paint_tree(rng: np.random.Generator, canvas: np.ndarray, horizon: float) -> None:
    height, width = canvas.shape[:2]
    x, base = rng.uniform(0, width), rng.uniform(horizon, height)
    tall = height * rng.uniform(0.3, 1.0)
    trunk = max(1.5, tall * rng.uniform(0.02, 0.06))
    bark = natural_colour(rng, 0.08) * 0.5
    lean = rng.normal(0, 0.05) * tall
    top = (x + lean, base - tall)
    shape = np.array(
        [[x - trunk, base], [top[0] - trunk / 2, top[1]], [top[0] + trunk / 2, top[1]]]
    )
    _fill(rng, canvas, np.concatenate([shape, [[x + trunk, base]]]), bark)
    _paint_leaves(rng, canvas, top, 0.35 * tall, int(rng.integers(150, 600)))


def _paint_park(rng: np.random.Generator, canvas: np.ndarray) -> None:
    """Sky, a tree line, trees, bushes, grass or paths."""
    height, width = canvas.shape[:2]
    horizon = height * rng.uniform(0.45, 0.75)
    _paint_sky(rng, canvas, horizon)
    for _ in range(int(rng.integers(8, 40))):
        at = (rng.uniform(0, width), horizon - rng.uniform(0, 0.08) * height)
        _paint_leaves(rng, canvas, at, height * rng.uniform(0.05, 0.2), 40)
    _paint_ground(rng, canvas, horizon)
    for _ in range(int(rng.integers(1, 7))):
        _paint_tree(rng, canvas, horizon)
    if rng.random() < 0.4:
        _paint_fence(rng, canvas, horizon)


def _paint_fence(rng: np.random.Generator, canvas: np.ndarray, horizon: float) -> None:
    height, width = canvas.shape[:2]
    base, tall = horizon + 0.08 * height, height * rng.uniform(0.08, 0.3)
    colour = _colour(rng, 0.8)
    step = tall * rng.uniform(0.1, 0.5)
    for x in np.arange(0, width, step):
        post = _rectangle(x, base - tall, x + step * rng.uniform(0.15, 0.5), base)
        _fill(rng, canvas, post, colour)
    for share in (0.25, 0.8):
        y = base - share * tall
        _fill(rng, canvas, _rectangle(0, y, width, y + 0.06 * tall), colour * 0.9)


def _paint_street(rng: np.random.Generator, canvas: np.ndarray) -> None:
    """Houses with windows and doors, cars, signs, lamps, wires."""
    height, width = canvas.shape[:2]
    horizon = height * rng.uniform(0.6, 0.82)
    _paint_sky(rng, canvas, horizon)
    x = -rng.uniform(0, 0.5) * height
    while x < width:
        wide = height * rng.uniform(0.3, 1.2)
        top = horizon * rng.uniform(-0.2, 0.6)
        colour = _colour(rng, 0.85)
        _fill(rng, canvas, _rectangle(x, top, x + wide, horizon), colour)
        _paint_windows(rng, canvas, (x, top, x + wide, horizon))
        x += wide * rng.uniform(0.9, 1.3)
    _paint_ground(rng, canvas, horizon)
    for _ in range(int(rng.integers(0, 5))):
        _paint_car(rng, canvas, horizon)
    for _ in range(int(rng.integers(0, 4))):
        _paint_tree(rng, canvas, horizon)
    for _ in range(int(rng.integers(0, 6))):  # posts with signs
        at, top = rng.uniform(0, width), horizon * rng.uniform(0.1, 0.8)
        thick = max(1.0, 0.008 * height)
        _fill(rng, canvas, _rectangle(at, top, at + thick, horizon * 1.05), _colour(rng) * 0.5)
        sign = 0.04 * height * rng.uniform(0.5, 3)
        _fill(rng, canvas, _rectangle(at - sign, top, at + sign, top + sign), any_colour(rng))


def _paint_windows(
    rng: np.random.Generator, canvas: np.ndarray, wall: tuple[float, float, float, float]
) -> None:
    x0, y0, x1, y1 = wall
    columns, rows = int(rng.integers(2, 7)), int(rng.integers(1, 6))
    wide, tall = (x1 - x0) / columns, (y1 - y0) / rows
    inset = rng.uniform(0.12, 0.3, 2)
    glass = np.array([0.25, 0.32, 0.4])
    for row in range(rows):
        for column in range(columns):
            corner = (x0 + column * wide, y0 + row * tall)
            pane = _rectangle(
                corner[0] + inset[0] * wide,
                corner[1] + inset[1] * tall,
                corner[0] + (1 - inset[0]) * wide,
                corner[1] + (1 - inset[1]) * tall,
            )
            _fill(rng, canvas, pane, glass * rng.uniform(0.3, 2.2))


def _paint_car(rng: np.random.Generator, canvas: np.ndarray, horizon: float) -> None:
    height, width = canvas.shape[:2]
    x, base = rng.uniform(0, width), horizon + rng.uniform(0.02, 0.15) * height
    wide = height * rng.uniform(0.25, 0.6)
    tall = 0.22 * wide
    colour = _colour(rng, 0.3)
    _fill(rng, canvas, _rectangle(x, base - 1.5 * tall, x + wide, base - 0.3 * tall), colour)
    roof = np.array([[0.2, 1.4], [0.32, 2.3], [0.7, 2.3], [0.85, 1.4]]) * [wide, -tall]
    _fill(rng, canvas, roof + [x, base], colour * 0.9)
    glass = np.array([[0.25, 1.45], [0.34, 2.15], [0.68, 2.15], [0.8, 1.45]]) * [wide, -tall]
    _fill(rng, canvas, glass + [x, base], np.array([0.15, 0.2, 0.25]))
    for at in (0.2, 0.8):
        centre = (int(x + at * wide), int(base - 0.35 * tall))
        cv2.circle(canvas, centre, max(1, int(0.4 * tall)), (0.06, 0.06, 0.06), -1, cv2.LINE_AA)
