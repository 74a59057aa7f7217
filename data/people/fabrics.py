"""A larger bank of textures: the small one's ten kinds, cloth in 16 and other surfaces in 9.

There are ten of each kind. Each is drawn from its own number alone, so that a texture is the same
whichever others are in a bank: that of training and that of tests have none in common (split.py).
"""

import functools
from collections.abc import Callable

import cv2
import numpy as np

from data.people import textures
from data.people.textures import SIDE, any_colour, natural_colour

Paint = Callable[[np.random.Generator, np.ndarray], np.ndarray]
PER_KIND = 10
_SEED = 23
_DEEPER = 1.6  # the values are linear light: colours as drawn come out pale
_SLOPES = tuple(0.2 * step for step in range(1, 17))
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_FONTS = (
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
    cv2.FONT_HERSHEY_COMPLEX,
    cv2.FONT_HERSHEY_SCRIPT_COMPLEX,
)


def paint_texture(number: int) -> np.ndarray:
    """(256, 256, 3) of values in [0, 1]: texture ``number`` of ``COUNT``, tileable."""
    rng = np.random.default_rng([_SEED, number])
    kind = KINDS[number // PER_KIND]
    if kind < 10:
        image = textures.paint_kind(rng, kind, number % PER_KIND)
    else:
        colours = _draw_colours(rng, 5)
        image = np.clip(_PAINT[kind](rng, colours), 0, 1) ** _DEEPER
    return np.clip(image, 0, 1)


def kind_of(number: int) -> int:
    """What texture ``number`` shows, one of ``KINDS``."""
    return KINDS[number // PER_KIND]


@functools.cache
def _noises() -> dict[float, np.ndarray]:
    """(256, 256) tiles in [0, 1] by the slope of their spectrum."""
    rng = np.random.default_rng(_SEED)
    return {slope: textures.make_noise(rng, slope) for slope in _SLOPES}


def make_noise(rng: np.random.Generator, slope: float) -> np.ndarray:
    """(256, 256) tileable noise in [0, 1] of about this slope: one of 16 tiles, moved."""
    nearest = min(_SLOPES, key=lambda known: abs(known - slope))
    tile = np.roll(_noises()[nearest], rng.integers(SIDE, size=2).tolist(), (0, 1))
    return tile if rng.random() < 0.5 else tile[:, ::-1].T


def _draw_colours(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 3) colours that go together: of one or two hues, from dark to light, or anything."""
    way = rng.random()
    hue = rng.random()
    if way < 0.4:
        colours = [natural_colour(rng, hue) for _ in range(count)]
    elif way < 0.7:
        other = (hue + rng.choice([0.1, 0.5, 0.33])) % 1
        colours = [natural_colour(rng, hue if rng.random() < 0.5 else other) for _ in range(count)]
    else:
        colours = [any_colour(rng) for _ in range(count)]
    colours[int(rng.integers(count))] = np.full(3, rng.choice([0.04, 0.5, 0.92]))
    return np.array(colours)


def _grid() -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    return x, y


def _grained(rng: np.random.Generator, image: np.ndarray, strength: float = 0.3) -> np.ndarray:
    return image * (1 - strength / 2 + strength * make_noise(rng, 1.2)[..., None])


def _bands(rng: np.random.Generator, colours: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Bands of random widths across ``at`` in [0, 1), which close up at its ends."""
    edges = np.sort(rng.random(int(rng.integers(3, 12))))
    return colours[rng.integers(0, len(colours), len(edges) + 1)][
        np.searchsorted(edges, at) % len(edges)
    ]


def _scatter(
    rng: np.random.Generator, image: np.ndarray, points: np.ndarray, colour: np.ndarray
) -> None:
    """Fill a polygon (n, 2) in pixels, continued over the edges of the tile."""
    for dx in (-SIDE, 0, SIDE):
        for dy in (-SIDE, 0, SIDE):
            moved = points + [dx, dy]
            low, high = moved.min(0), moved.max(0)
            if (high >= 0).all() and (low < SIDE).all():
                shape = np.round(moved * 16).astype(np.int32)
                cv2.fillPoly(image, [shape], colour.tolist(), cv2.LINE_AA, 4)


def _paint_stripes(rng: np.random.Generator, colours: np.ndarray) -> np.ndarray:
    x, y = _grid()
    at = y if rng.random() < 0.5 else (x + y * rng.integers(-2, 3)) % 1
    return _grained(rng, _bands(rng, colours, at))


def _paint_plaid(rng: np.random.Generator, colours: np.ndarray) -> np.ndarray:
    x, y = _grid()
    count = rng.integers(1, 4)
    state = rng.bit_generator.state
    across = _bands(rng, colours, (x * count) % 1)
    rng.bit_generator.state = state  # warp and weft are alike
    down = _bands(rng, colours, (y * count) % 1)
    twill = ((x + y) * 64 % 1 < 0.5)[..., None]
    return _grained(rng, 0.4 * across + 0.4 * down + 0.2 * np.where(twill, across, down))


def _paint_gingham(rng: np.random.Generator, colours: np.ndarray) -> np.ndarray:
    x, y = _grid()
    count = int(rng.integers(2, 12))
    share = ((x * count) % 1 < 0.5).astype(float) + ((y * count) % 1 < 0.5)
    return _grained(rng, colours[0] + (colours[1] - colours[0]) * share[..., None] / 2)


def _paint_dots(rng: np.random.Generator, colours: np.ndarray) -> np.ndarray:
    x, y = _grid()
    count = int(rng.integers(2, 10))
    u, v = x * count, y * count * 2
    u = u + 0.5 * (v.astype(int) % 2)
    far = np.hypot(u % 1 - 0.5, (v % 1 - 0.5) / 2)
    dots = far < rng.uniform(0.1, 0.24)
    which = (u.astype(int) % count * 7 + v.astype(int) * 3) % rng.integers(1, 4)
    return _grained(rng, np.where(dots[..., None], colours[1 + which], colours[0]), 0.2)


def _petals(x: float, y: float, size: float, count: int, turn: float, slim: float) -> np.ndarray:
    """The outline (96, 2) of a flower or a star."""
    angle = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    reach = size * (1 - slim + slim * np.abs(np.cos(angle * count / 2)))
    return np.stack([x + reach * np.cos(angle + turn), y + reach * np.sin(angle + turn)], 1)


def _paint_florals(rng: np.random.Generator, colours: np.ndarray) -> np.ndarray:
    image = np.empty((SIDE, SIDE, 3))
    image[:] = colours[0]
    leaf = natural_colour(rng, 0.3)
    for _ in range(int(rng.integers(15, 70))):
        x, y, size = rng.uniform(0, SIDE), rng.uniform(0, SIDE), rng.uniform(5, 30)
        _scatter(rng, image, _petals(x + size, y, size, 2, rng.uniform(0, 6), 0.9), leaf)
        petals = _petals(x, y, size, int(rng.integers(3, 8)), rng.uniform(0, 6), 0.6)
        _scatter(rng, image, petals, colours[rng.integers(1, 5)])
        _scatter(rng, image, _petals(x, y, size * 0.25, 4, 0, 0.1), colours[rng.integers(1, 5)])
    return _grained(rng, image, 0.15)


def _paint_camouflage(rng: np.random.Generator, colours: np.ndarray) -> np.ndarray:
    image = np.empty((SIDE, SIDE, 3))
    image[:] = colours[0]
    slope, step = rng.uniform(1.8, 3.0), int(rng.choice([1, 1, 4, 8]))
    for colour in colours[1:4]:
        noise = make_noise(rng, slope)[::step, ::step]
        noise = np.repeat(np.repeat(noise, step, 0), step, 1)
        image[noise > rng.uniform(0.4, 0.55)] = colour
    return _grained(rng, image, 0.2)


def _paint_denim(rng: np.random.Generator, colours: np.ndarray) -> np.ndarray:
    x, y = _grid()
    dye = np.array([0.10, 0.16, 0.32]) * rng.uniform(0.5, 2.2) if rng.random() < 0.6 else colours[0]
    twill = 0.75 + 0.35 * (((x + y * 2) * int(rng.integers(20, 50))) % 1)
    worn = 0.6 + 1.1 * make_noise(rng, rng.uniform(1.5, 2.8))
    return dye * (twill * worn)[..., None] + 0.1 * make_noise(rng, 0.2)[..., None]


def _paint_knit(rng: np.random.Generator, colours: np.ndarray) -> np.ndarray:
    x, y = _grid()
    count = int(rng.integers(10, 34))
    row = y * count - 0.5 * np.abs((x * count) % 1 - 0.5) * 2
    stitch = 0.55 + 0.45 * np.abs(np.sin(np.pi * row)) * np.abs(np.sin(2 * np.pi * x * count))
    rows = colours[:2][(np.floor(row) % count // rng.integers(2, 9) % 2).astype(int)]
    cable = 1 + 0.3 * np.sin(2 * np.pi * (x * rng.integers(0, 8) + 0.1 * np.sin(y * 25.133)))
    return rows * (stitch * cable)[..., None]


def _put_text(
    rng: np.random.Generator, image: np.ndarray, colour: np.ndarray, size: float, at: np.ndarray
) -> None:
    letters = [_LETTERS[i] for i in rng.integers(0, len(_LETTERS), rng.integers(1, 8))]
    font = _FONTS[int(rng.integers(len(_FONTS)))]
    thick = max(1, round(size * rng.uniform(0.8, 3)))
    place = (int(at[0]), int(at[1]))
    ink = np.zeros((SIDE, SIDE), np.uint8)
    cv2.putText(ink, "".join(letters), place, font, size, (255,), thick, cv2.LINE_AA)
    image += (ink / 255.0)[..., None] * (colour - image)


def _paint_letters(rng: np.random.Generator, colours: np.ndarray) -> np.ndarray:
    image = np.empty((SIDE, SIDE, 3))
    image[:] = colours[0]
    lines = int(rng.integers(1, 6))
    for line in range(lines):
        size = rng.uniform(1.0, 7.0) / lines
        base = SIDE * (line + rng.uniform(0.6, 0.95)) / lines
        _put_text(
            rng, image, colours[rng.integers(1, 5)], size, np.array([rng.uniform(0, 60), base])
        )
    return _grained(rng, image, 0.1)


def _paint_emblem(rng: np.random.Generator, colours: np.ndarray) -> np.ndarray:
    image = np.empty((SIDE, SIDE, 3))
    image[:] = colours[0]
    for step, size in enumerate((0.46, 0.38, 0.3)):
        if rng.random() < 0.75:
            turn, count = rng.uniform(0, 6), int(rng.integers(2, 12))
            shape = _petals(128, 128, size * SIDE, count, turn, rng.choice([0.0, 0.1, 0.5]))
            _scatter(rng, image, shape, colours[1 + step])
    _put_text(rng, image, colours[4], rng.uniform(1.5, 4), np.array([rng.uniform(30, 90), 150]))
    return image


def _paint_spots(rng: np.random.Generator, colours: np.ndarray) -> np.ndarray:
    """An animal's coat: rings or bars."""
    which, edge = textures.find_cells(rng, int(rng.integers(20, 60)))
    base = colours[0] + 0.15 * make_noise(rng, 2.0)[..., None]
    if rng.random() < 0.5:
        ring = (edge > 4) & (edge < rng.uniform(8, 14)) & (make_noise(rng, 1.6) > 0.3)
        return np.where(ring[..., None], colours[1] * 0.3, base)
    x, y = _grid()
    phase = x * rng.integers(2, 7) + 1.6 * make_noise(rng, 2.6)
    return np.where((np.sin(2 * np.pi * phase) > 0.2)[..., None], colours[1] * 0.4, base)


def _paint_argyle(rng: np.random.Generator, colours: np.ndarray) -> np.ndarray:
    x, y = _grid()
    count = int(rng.integers(1, 5))
    p, q = (x + y) * count, (x - y) * count
    diamond = (np.floor(p) + np.floor(q)).astype(int) % 2
    line = np.minimum(np.abs((p + 0.5) % 1 - 0.5), np.abs((q + 0.5) % 1 - 0.5)) < 0.04
    image = np.where(line[..., None], colours[2], colours[:2][diamond])
    return _grained(rng, image)


def _paint_zigzag(rng: np.random.Generator, colours: np.ndarray) -> np.ndarray:
    x, y = _grid()
    count, fold = int(rng.integers(3, 20)), int(rng.integers(1, 8))
    at = y * count + rng.uniform(0.5, 3) * np.abs((x * fold) % 1 - 0.5) * 2
    return _grained(rng, colours[(np.floor(at) % count).astype(int) % rng.integers(2, 5)])


def _paint_dye(rng: np.random.Generator, colours: np.ndarray) -> np.ndarray:
    """Rings and rays that run into each other."""
    x, y = _grid()
    x, y = np.minimum(x, 1 - x), np.minimum(y, 1 - y)
    far = np.hypot(x, y) * rng.uniform(2, 6) + 1.5 * make_noise(rng, rng.uniform(1.6, 2.6))
    share = (far % 1)[..., None] * 4
    step = np.floor(share[..., 0]).astype(int) % 5
    return colours[step] + (colours[(step + 1) % 5] - colours[step]) * (share % 1)


def _paint_leaves(rng: np.random.Generator, colours: np.ndarray) -> np.ndarray:
    image = np.empty((SIDE, SIDE, 3))
    image[:] = colours[0] * 0.4
    for _ in range(int(rng.integers(60, 220))):
        x, y, size = rng.uniform(0, SIDE), rng.uniform(0, SIDE), rng.uniform(6, 34)
        shade = colours[rng.integers(0, 5)] * rng.uniform(0.5, 1.3)
        _scatter(rng, image, _petals(x, y, size, 2, rng.uniform(0, 6), 0.85), shade)
    return image


def _paint_fleece(rng: np.random.Generator, colours: np.ndarray) -> np.ndarray:
    curl = make_noise(rng, rng.uniform(0.2, 1.6))
    return colours[0] * (0.4 + 1.3 * curl[..., None])


def _paint_parquet(rng: np.random.Generator, colours: np.ndarray) -> np.ndarray:
    x, y = _grid()
    count, strips = int(rng.integers(2, 7)), int(rng.integers(2, 6))
    turned = (np.floor(x * count) + np.floor(y * count)).astype(int) % 2 == 0
    along = np.where(turned, x, y) * count * strips
    cell = np.floor(along) * 13 + np.floor(x * count) * 7 + np.floor(y * count) * 29
    shade = 0.75 + 0.5 * rng.random(97)[cell.astype(int) % 97]
    wood = np.array([0.52, 0.36, 0.2]) * rng.uniform(0.4, 1.5)
    gap = np.abs(along % 1 - 0.5) > 0.46
    return _grained(rng, wood * (shade * np.where(gap, 0.5, 1))[..., None], 0.5)


def _paint_tiles(rng: np.random.Generator, colours: np.ndarray) -> np.ndarray:
    x, y = _grid()
    count = int(rng.integers(1, 9))
    u, v = x * count, y * count * int(rng.choice([1, 2]))
    cell = (np.floor(u) * 5 + np.floor(v) * 11).astype(int) % 31
    shade = 0.85 + 0.3 * rng.random(31)[cell]
    image = colours[:2][(rng.random(31) < 0.2).astype(int)[cell]] * shade[..., None]
    joint = np.minimum(np.abs(u % 1 - 0.5), 1) > 0.485
    joint |= np.abs(v % 1 - 0.5) > 0.485
    return _grained(rng, np.where(joint[..., None], colours[2], image), 0.25)


def _paint_concrete(rng: np.random.Generator, colours: np.ndarray) -> np.ndarray:
    grey = np.full(3, rng.uniform(0.25, 0.7)) * (1 + rng.normal(0, 0.05, 3))
    stain = make_noise(rng, 2.4) + 0.5 * make_noise(rng, 1.0)
    x, y = _grid()
    joint = (np.abs((y * rng.integers(1, 3)) % 1 - 0.5) > 0.49)[..., None]
    return grey * (0.6 + 0.8 * stain[..., None]) * np.where(joint, 0.6, 1)


def _paint_wallpaper(rng: np.random.Generator, colours: np.ndarray) -> np.ndarray:
    pale = colours[0] * 0.5 + 0.4
    image = np.empty((SIDE, SIDE, 3))
    image[:] = pale
    count, petals = int(rng.integers(2, 7)), int(rng.integers(2, 9))
    slim, size = rng.uniform(0, 0.9), rng.uniform(0.15, 0.45) * SIDE / count
    second = pale * 0.6 + colours[1] * 0.4
    for row in range(count * 2):
        for column in range(count):
            x = (column + 0.5 * (row % 2)) * SIDE / count
            _scatter(rng, image, _petals(x, row * SIDE / count / 2, size, petals, 0, slim), second)
    return _grained(rng, image, 0.1)


def _paint_panels(rng: np.random.Generator, colours: np.ndarray) -> np.ndarray:
    """Doors of a cupboard with frames and knobs."""
    x, y = _grid()
    across, down = int(rng.integers(1, 5)), int(rng.integers(1, 5))
    u, v = (x * across) % 1, (y * down) % 1
    edge = np.minimum(np.minimum(u, 1 - u) / across, np.minimum(v, 1 - v) / down)
    frame = rng.uniform(0.02, 0.06)
    image = np.where((edge < frame)[..., None], colours[0], colours[0] * rng.uniform(0.75, 1.1))
    image = np.where((edge < 0.006)[..., None], colours[0] * 0.3, image)
    knob = np.hypot((u - 0.9) / across, (v - 0.5) / down) < 0.012
    return _grained(rng, np.where(knob[..., None], colours[1], image), 0.2)


def _paint_books(rng: np.random.Generator, colours: np.ndarray) -> np.ndarray:
    image = np.empty((SIDE, SIDE, 3))
    image[:] = colours[0] * 0.2
    rows = int(rng.integers(2, 6))
    tall = SIDE // rows
    for row in range(rows):
        x = 0
        while x < SIDE:
            wide, top = int(rng.integers(3, 22)), int(tall * rng.uniform(0.1, 0.5))
            image[row * tall + top : (row + 1) * tall - 5, x : x + wide - 1] = any_colour(rng)
            x += wide
        image[(row + 1) * tall - 5 : (row + 1) * tall] = natural_colour(rng, 0.08)
    return image


def _paint_metal(rng: np.random.Generator, colours: np.ndarray) -> np.ndarray:
    """Corrugated sheet, shutters, blinds."""
    x, y = _grid()
    count = int(rng.integers(6, 30))
    at = (x if rng.random() < 0.5 else y) * count
    shade = 0.55 + 0.5 * np.abs(np.sin(np.pi * at)) ** rng.uniform(0.3, 2)
    rust = np.clip(make_noise(rng, 2.2) - 0.45, 0, 1)[..., None] * rng.choice([0, 3])
    return colours[0] * shade[..., None] * (1 - rust) + rust * np.array([0.4, 0.2, 0.1])


def _paint_carton(rng: np.random.Generator, colours: np.ndarray) -> np.ndarray:
    image = np.empty((SIDE, SIDE, 3))
    image[:] = np.array([0.68, 0.5, 0.33]) * rng.uniform(0.6, 1.2)
    tape = int(rng.integers(90, 150))
    image[:, tape : tape + int(rng.integers(12, 40))] *= rng.uniform(0.7, 1.3)
    for _ in range(int(rng.integers(1, 5))):
        at = rng.uniform(20, 220, 2)
        _put_text(rng, image, colours[0] * 0.5, rng.uniform(0.5, 2.0), at)
    x, y, size = *rng.uniform(0, 200, 2), rng.uniform(20, 60)
    image[int(y) : int(y + size * 0.6), int(x) : int(x + size)] = 0.9
    return _grained(rng, image, 0.2)


def _paint_rug(rng: np.random.Generator, colours: np.ndarray) -> np.ndarray:
    """Nested borders around a field of small motifs."""
    x, y = _grid()
    edge = np.minimum(np.minimum(x, 1 - x), np.minimum(y, 1 - y))
    image = _bands(rng, colours, edge * 1.999)
    count = int(rng.integers(6, 20))
    motif = np.abs((x * count) % 1 - 0.5) + np.abs((y * count) % 1 - 0.5) < rng.uniform(0.2, 0.5)
    return _grained(rng, np.where(motif[..., None], image[::-1, ::-1] * 0.7, image), 0.4)


# Kinds from 10 on; those below are of the small bank (textures.py).
STRIPES, PLAID, GINGHAM, DOTS, FLORALS, CAMOUFLAGE, DENIM, KNIT = range(10, 18)
LETTERS, EMBLEM, SPOTS, ARGYLE, ZIGZAG, DYE, LEAVES, FLEECE = range(18, 26)
PARQUET, TILES, CONCRETE, WALLPAPER, PANELS, BOOKS, METAL, CARTON, RUG = range(26, 35)
CLOTH = (*range(10, 26), textures.CLOUDY, textures.WAVES)
PRINTS = (LETTERS, EMBLEM, FLORALS, LEAVES, DYE, textures.SHAPES)
KINDS = tuple(range(35))  # ten numbers each
COUNT = PER_KIND * len(KINDS)
_PAINT: dict[int, Paint] = {
    STRIPES: _paint_stripes,
    PLAID: _paint_plaid,
    GINGHAM: _paint_gingham,
    DOTS: _paint_dots,
    FLORALS: _paint_florals,
    CAMOUFLAGE: _paint_camouflage,
    DENIM: _paint_denim,
    KNIT: _paint_knit,
    LETTERS: _paint_letters,
    EMBLEM: _paint_emblem,
    SPOTS: _paint_spots,
    ARGYLE: _paint_argyle,
    ZIGZAG: _paint_zigzag,
    DYE: _paint_dye,
    LEAVES: _paint_leaves,
    FLEECE: _paint_fleece,
    PARQUET: _paint_parquet,
    TILES: _paint_tiles,
    CONCRETE: _paint_concrete,
    WALLPAPER: _paint_wallpaper,
    PANELS: _paint_panels,
    BOOKS: _paint_books,
    METAL: _paint_metal,
    CARTON: _paint_carton,
    RUG: _paint_rug,
}
