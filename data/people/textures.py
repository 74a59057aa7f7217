"""Tileable textures made from noise, for clothes, walls, floors and things: the small bank's 56.

All are drawn once per process from a fixed seed (0.8 s); nothing is read from disk. The larger
bank's are in fabrics.py.
"""

import colorsys

import numpy as np

SIDE = 256
COUNT = 56
LEVELS = 5
FIRST_COLOUR = 4  # before it: blotches, slow noise, three-channel grain, hair
# What texture number n >= 4 shows is n % 10.
CLOUDY, PLANKS, BRICKS, CHECKER, STONES, GROUND, WAVES, SHAPES, FACADE, PLASTER = range(10)
_HAND_GROUND = ((0.22, 0.30, 0.11), (0.42, 0.40, 0.37), (0.46, 0.36, 0.24))  # grass, gravel, earth


def make_noises(rng: np.random.Generator) -> list[np.ndarray]:
    """The first textures of every bank, (256, 256, 3) in [0, 1], of which kernels make relief."""
    return [
        _grey(make_noise(rng, 1.6)),
        _grey(make_noise(rng, 2.6)),
        np.stack([make_noise(rng, 0.6, 4) for _ in range(3)], -1) * 0.75,
        _grey(_streaks(rng, 5.0, 0.22, 0.45)),
    ]


def make_noise(rng: np.random.Generator, slope: float, above: float = 0) -> np.ndarray:
    """Return (256, 256) tileable noise in [0, 1] whose power falls as frequency^-slope.

    Without frequencies up to ``above``.
    """
    frequency = np.fft.fftfreq(SIDE) * SIDE
    k = np.hypot(frequency[:, None], frequency[None])
    amplitude = np.where(k > above, 1 / np.maximum(k, 1) ** (slope / 2 + 0.5), 0)
    z = np.fft.ifft2(amplitude * np.exp(2j * np.pi * rng.random((SIDE, SIDE)))).real
    return np.clip(0.38 + 0.17 * (z - z.mean()) / z.std(), 0, 1)


def any_colour(rng: np.random.Generator, low: float = 0.08, high: float = 0.95) -> np.ndarray:
    """(3,) a colour of any hue, more often pale than vivid."""
    return np.array(colorsys.hsv_to_rgb(rng.random(), rng.beta(1.3, 2.2), rng.uniform(low, high)))


def natural_colour(rng: np.random.Generator, hue: float) -> np.ndarray:
    """(3,) a muted colour near a hue."""
    return np.array(
        colorsys.hsv_to_rgb(
            (hue + rng.normal(0, 0.03)) % 1, rng.beta(1.5, 5) * 0.7, rng.uniform(0.2, 0.92)
        )
    )


def _grey(z):
    return np.repeat(z[..., None], 3, -1)


def _blur_rows(z, width):
    spectrum = np.fft.fft2(z) * np.exp(-((np.fft.fftfreq(SIDE) * SIDE / width) ** 2))[:, None]
    return np.fft.ifft2(spectrum).real


def _streaks(rng, width, spread, middle):
    z = _blur_rows(make_noise(rng, 0.7, 6), width)
    return np.clip(middle + spread * (z - z.mean()) / z.std(), 0, 1)


def _between(z, colours):
    at = np.linspace(0, 1, len(colours))
    return np.stack([np.interp(z, at, [c[i] for c in colours]) for i in range(3)], -1)


def find_cells(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The nearest of ``count`` random points on the torus for each texel.

    Its number, and how much nearer it is than the second.
    """
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    first = np.full((SIDE, SIDE), 1e9)
    second, which = first.copy(), np.zeros((SIDE, SIDE), int)
    for i, (a, b) in enumerate(rng.random((count, 2)) * SIDE):
        dx, dy = np.abs(x - a), np.abs(y - b)
        square = np.minimum(dx, SIDE - dx) ** 2 + np.minimum(dy, SIDE - dy) ** 2
        nearer = square < first
        second = np.where(nearer, first, np.minimum(second, square))
        first, which = np.where(nearer, square, first), np.where(nearer, i, which)
    return which, np.sqrt(second) - np.sqrt(first)


def paint_kind(rng: np.random.Generator, kind: int, choice: int) -> np.ndarray:
    """(256, 256, 3) of one of the ten kinds; ``choice`` of 0 to 2 is a ground of its own colour."""
    natural = rng.random() < 0.7
    hue = rng.uniform(0.03, 0.14) if rng.random() < 0.6 else rng.random()
    colours = [natural_colour(rng, hue) if natural else any_colour(rng) for _ in range(4)]
    if kind == CLOUDY:
        return _between(make_noise(rng, rng.uniform(1, 2.6)), colours)
    if kind == GROUND:
        base = np.array(_HAND_GROUND[choice]) if choice < 3 else natural_colour(rng, 0.1)
        return base * (
            0.35 + make_noise(rng, 0.3, 8)[..., None] + 0.5 * make_noise(rng, 1.8)[..., None]
        )
    if kind == PLASTER:
        return _between(make_noise(rng, 3.0), [c * 0.5 + 0.4 for c in colours])
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    painters = {
        PLANKS: _planks,
        BRICKS: _bricks,
        CHECKER: _checker,
        STONES: _stones,
        WAVES: _waves,
        SHAPES: _shapes,
        FACADE: _facade,
    }
    return painters[kind](rng, x, y, colours)


def _planks(rng, x, y, colours):
    count = rng.integers(4, 9)
    grain = _blur_rows(make_noise(rng, 1.2), 4.0)
    grain = (grain - grain.min()) / np.ptp(grain)
    wood = np.array([0.50, 0.34, 0.20]) * rng.uniform(0.5, 1.5)
    out = (
        wood
        * (0.6 + 0.6 * grain[..., None])
        * (0.8 + 0.4 * rng.random(count)[(x * count).astype(int)][..., None])
    )
    return out * np.where(np.abs((x * count) % 1 - 0.5) > 0.485, 0.4, 1)[..., None]


def _bricks(rng, x, y, colours):
    count, wide = rng.integers(3, 9), rng.integers(1, 3)
    row = (y * count * wide).astype(int)
    across = x * count + 0.5 * (row % 2) * (wide - 1)
    shade = rng.random(97) * 0.35 + 0.8
    out = colours[0] * shade[(across.astype(int) % count + row * 17) % 97][..., None]
    out = out * (0.8 + 0.4 * make_noise(rng, 1.8)[..., None])
    down = (y * count * wide) % 1
    edge = np.minimum(np.minimum(across % 1, 1 - across % 1) / wide, np.minimum(down, 1 - down))
    return np.where((edge < 0.05)[..., None], np.clip(colours[1] * 0.8, 0, 1), out)


def _checker(rng, x, y, colours):
    even = ((x * 8).astype(int) + (y * 8).astype(int))[..., None] % 2 == 0
    return np.where(even, colours[0], colours[1]) * (0.85 + 0.3 * make_noise(rng, 1.8)[..., None])


def _stones(rng, x, y, colours):
    which, edge = find_cells(rng, rng.integers(12, 70))
    shades = np.stack([colours[j % 4] * rng.uniform(0.6, 1.2) for j in range(80)])
    out = shades[which] * (0.8 + 0.4 * make_noise(rng, 1.8)[..., None])
    return np.where((edge < rng.choice([0, 2, 4]))[..., None], colours[3] * 0.3, out)


def _waves(rng, x, y, colours):
    phase = x * rng.integers(1, 5) + y * rng.integers(0, 4) + 1.2 * make_noise(rng, 2.4)
    return _between(np.clip(0.5 + 0.5 * np.sin(2 * np.pi * phase), 0, 1), colours)


def _shapes(rng, x, y, colours):
    out = np.tile(colours[0], (SIDE, SIDE, 1))
    for _ in range(rng.integers(4, 16)):
        cx, cy, r = rng.random(3) * [1, 1, 0.25]
        dx, dy = (x - cx + 0.5) % 1 - 0.5, (y - cy + 0.5) % 1 - 0.5
        disc = rng.random() < 0.5
        inside = (
            dx**2 + dy**2 < r * r
            if disc
            else (np.abs(dx) < r) & (np.abs(dy) < r * rng.uniform(0.2, 1))
        )
        out[inside] = any_colour(rng)
    return out


def _facade(rng, x, y, colours):
    count = rng.integers(3, 7)
    window = (np.abs((x * count) % 1 - 0.5) < 0.28) & (np.abs((y * count) % 1 - 0.5) < 0.33)
    pane = ((x * count).astype(int) * 7 + (y * count).astype(int) * 13) % 11
    out = np.tile(colours[0] * 0.9, (SIDE, SIDE, 1)) * (
        0.85 + 0.3 * make_noise(rng, 1.8)[..., None]
    )
    out[window] = (np.array([0.18, 0.24, 0.30]) * (0.4 + 1.6 * rng.random(11)[pane][..., None]))[
        window
    ]
    return out


def stack_levels(image: np.ndarray) -> np.ndarray:
    """(87296, 3) uint8 roots of an image in [0, 1], at 256^2 texels, then 128^2, ... 16^2."""
    levels = []
    for level in range(LEVELS):
        side = SIDE >> level
        small = image.reshape(side, SIDE // side, side, SIDE // side, 3).mean((1, 3))
        levels.append((np.sqrt(small.reshape(-1, 3)) * 255 + 0.5).astype(np.uint8))
    return np.concatenate(levels)
