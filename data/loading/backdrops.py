"""Images of no person in particular, for behind people and for what stands before them.

A bank in memory: drawn ones, the same in every process, and photographs of a folder of the user's.
"""

import os
from collections.abc import Callable

import cv2
import numpy as np

from data.sources.images import read_image
from data.sources.photo_folder import list_photos
from engine.errors import UserError
from engine.logging.console import get_logger

SIDE = 160  # pixels of an image of the bank
DRAWN = 96  # drawn images
MOST_PHOTOS = 1500  # 115 MB
LEAST_SIDE = 64  # pixels of a photograph: what is smaller is an icon
SEED = 77

log = get_logger(__name__)


def draw_backdrops(count: int = DRAWN, side: int = SIDE) -> np.ndarray:
    """(count, side, side, 3) uint8 drawn images, always the same, of all kinds in turn."""
    random = np.random.default_rng(SEED)
    images = [KINDS[number % len(KINDS)](random, side) for number in range(count)]
    return np.stack([(image.clip(0, 1) * 255).round().astype(np.uint8) for image in images])


def read_photos(folder: str, most: int = MOST_PHOTOS, side: int = SIDE) -> np.ndarray:
    """(n, side, side, 3) uint8 middle squares of a folder's photographs, in the files' order.

    Of more than ``most``, that many are taken, spread evenly over the list. Those that cannot be
    read, and icons, are passed over with a warning.

    Raises:
        UserError: there is no such folder, no image in it, or none that can be read.
    """
    names = list_photos(folder, "data.augment.backgrounds")
    chosen = np.unique(np.linspace(0, len(names) - 1, min(most, len(names))).astype(int))
    found = []
    for number in chosen:
        path = os.path.join(folder, names[number])
        try:
            found.append(_cut_square(read_image(path), path, side))
        except UserError as error:
            log.warning(f"data.augment.backgrounds: {error}; passed over")
    if not found:
        raise UserError(f"data.augment.backgrounds={folder}: none of its images can be read")
    return np.stack(found)


def _cut_square(image, path, side):
    """The middle square of an image, scaled."""
    height, width = image.shape[:2]
    cut = min(height, width)
    if cut < LEAST_SIDE:
        raise UserError(f"image {path} is {width} x {height}, below {LEAST_SIDE} pixels")
    y, x = (height - cut) // 2, (width - cut) // 2
    square = image[y : y + cut, x : x + cut]
    how = cv2.INTER_AREA if cut > side else cv2.INTER_LINEAR
    return cv2.resize(square, (side, side), interpolation=how)


def _colour(random, count):
    """(count, 3) colours as surfaces have them: mostly dull, of all brightnesses."""
    value = random.uniform(0.08, 0.95, (count, 1))
    # Warm and cold, green and magenta: most surfaces differ along the first.
    warm = random.normal(0, 0.1, (count, 1)) * [1.0, 0.15, -1.0]
    green = random.normal(0, 0.05, (count, 1)) * [-0.6, 1.0, -0.5]
    strong = random.random((count, 1)) < 0.2
    return (value * (1 + (1 + 3 * strong) * (warm + green))).clip(0, 1)


def _fractal(random, side, power, stretch=1.0):
    """(side, side) 1/f^power noise of mean 0 and deviation 1; ``stretch`` is along x."""
    fy, fx = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None] * stretch
    strength = np.maximum(np.hypot(fy, fx), 1 / side) ** -power
    phases = random.uniform(0, 2 * np.pi, strength.shape)
    noise = np.fft.irfft2(strength * np.exp(1j * phases), (side, side))
    return (noise - noise.mean()) / max(noise.std(), 1e-9)


def _blend(weight, first, second):
    """(side, side, 3) between two colours, by a (side, side) weight."""
    return first + (second - first) * weight[..., None].clip(0, 1)


def _clouds(random, side):
    """Coloured noise, from soft to grainy."""
    a, b, c = _colour(random, 3)
    power = random.uniform(1.0, 2.2)
    image = _blend(0.5 + 0.35 * _fractal(random, side, power), a, b)
    return _blend(0.3 + 0.4 * _fractal(random, side, power), image, c)


def _foliage(random, side):
    """Layers of leaves, gravel or crowds: thresholded noise, the finer the nearer to the front."""
    colours = _colour(random, 5)
    if random.random() < 0.5:
        colours *= [0.75, 1.0, 0.5]  # green
    image = np.ones((side, side, 1)) * colours[0]
    for number, colour in enumerate(colours[1:]):
        noise = _fractal(random, side, 2.0 - 0.2 * number)
        shade = 0.8 + 0.2 * _fractal(random, side, 1.0)[..., None]
        image = np.where((noise > random.uniform(-0.2, 0.8))[..., None], colour * shade, image)
    return image


def _wall(random, side):
    """A wall in uneven light over a floor, with grain."""
    y, x = np.mgrid[:side, :side] / side
    a, b, c, d = _colour(random, 4)
    angle = random.uniform(-np.pi, np.pi)
    light = 0.5 + (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle)
    image = _blend(light, a, a * random.uniform(0.4, 1.2))
    edge = random.uniform(0.5, 1.1) + random.uniform(-0.2, 0.2) * (x - 0.5)
    floor = _blend(0.5 + 0.25 * _fractal(random, side, 1.0, random.uniform(0.3, 4)), c, d)
    image = np.where((y > edge)[..., None], floor, image)
    skirting = (np.abs(y - edge) < random.uniform(0.005, 0.03))[..., None]
    image = np.where(skirting, b, image)
    return image + random.uniform(0.005, 0.05) * _fractal(random, side, 0.6)[..., None]


def _furniture(random, side):
    """Boxes upon boxes, each with a shade of its own: shelves, houses, windows, cars."""
    image = _wall(random, side)
    y, x = np.mgrid[:side, :side]
    for colour in _colour(random, int(random.integers(8, 40))):
        size = side * random.uniform(0.03, 0.45, 2) ** random.uniform(1, 1.5)
        y0, x0 = random.uniform(-0.1, 1.0, 2) * side
        inside = (y > y0) & (y < y0 + size[0]) & (x > x0) & (x < x0 + size[1])
        slope = random.uniform(-0.5, 0.5, 2)
        shade = 1 + slope[0] * (y - y0) / size[0] + slope[1] * (x - x0) / size[1]
        image = np.where(inside[..., None], colour * shade.clip(0.3, 1.6)[..., None], image)
    return image + 0.03 * _fractal(random, side, 0.8)[..., None]


def _patches(random, side):
    """Cells of one colour each, as stones, fields or a crowd far away are."""
    count = int(random.integers(6, 60))
    spots, y, x = random.random((count, 2)) * side, *np.mgrid[:side, :side]
    bend = 0.05 * side * np.stack([_fractal(random, side, 2.2) for _ in range(2)])
    distance = np.hypot(
        y[..., None] + bend[0][..., None] - spots[:, 0],
        x[..., None] + bend[1][..., None] - spots[:, 1],
    )
    image = _colour(random, count)[distance.argmin(-1)]
    return image * (1 + random.uniform(0.03, 0.25) * _fractal(random, side, 1.0)[..., None])


def _stripes(random, side):
    """Planks, blinds, fences and bricks: a grating in perspective, with dirt."""
    y, x = np.mgrid[:side, :side] / side
    angle = random.choice([0, np.pi / 2, random.uniform(0, np.pi)])
    along = x * np.cos(angle) + y * np.sin(angle)
    across = y * np.cos(angle) - x * np.sin(angle)
    along = along / (1 + random.uniform(0, 1.5) * np.abs(across))
    wave = np.sin(2 * np.pi * along * random.uniform(3, 20)) + random.uniform(-0.9, 0.9)
    a, b, c = _colour(random, 3)
    image = _blend(0.5 + wave * random.uniform(1, 8), a, b * 0.5 + a * 0.5)
    return _blend(0.25 + 0.25 * _fractal(random, side, 1.2), image, c)


def _sprinkles(random, side):
    """Blobs and bars of all sizes and directions over one of the other kinds."""
    image = (_clouds if random.random() < 0.5 else _wall)(random, side)
    image = np.ascontiguousarray(image.clip(0, 1), np.float64)
    for colour in _colour(random, int(random.integers(10, 60))):
        centre = tuple((random.uniform(0, 1, 2) * side).astype(int).tolist())
        axes = tuple((side * random.uniform(0.01, 0.2, 2) ** 1.2).astype(int).tolist())
        angle = float(random.uniform(0, 360))
        cv2.ellipse(image, centre, axes, angle, 0, 360, colour.tolist(), -1, cv2.LINE_AA)
    return image * (1 + 0.1 * _fractal(random, side, 1.0)[..., None])


KINDS: tuple[Callable[[np.random.Generator, int], np.ndarray], ...] = (
    _clouds,
    _foliage,
    _wall,
    _furniture,
    _patches,
    _stripes,
    _sprinkles,
    _furniture,
)
