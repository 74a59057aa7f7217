"""What lenses, motion, small sensors and codecs do to an image, for synthetic ones.

The renderer's images are as sharp as its pixels. Photographs of people are not: out of focus, moved
during the exposure, enlarged from a few pixels, compressed more than once. All cameras of a clip
share nothing here, as rigs of unlike cameras do; instants of one camera share its sensor and codec.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import simplejpeg

LEAST_SIDE_PX = 64  # of the sensor under a crop
WORST_QUALITY = 25


@dataclass
class Degradation:
    """What one camera does to its images.

    Attributes:
        scale: share of the crop's pixels that the sensor had, 1: all.
        defocus: radius of the disc of a point, as a share of the crop's side.
        moved: (2,) by which points move during the exposure, as shares of the crop's side.
        quality: of a JPEG that the image went through, 0: none.
        offset, gain: of display values, clipped at black and white.
        grey: whether it has no colour.
    """

    scale: float = 1.0
    defocus: float = 0.0
    moved: tuple[float, float] = (0.0, 0.0)
    quality: int = 0
    offset: float = 0.0
    gain: float = 1.0
    grey: bool = False


def sample_degradation(rng: np.random.Generator, share: float) -> Degradation:
    """The Degradation of one camera.

    Args:
        share: of cameras that have each kind, at most; 0: none has any.
    """
    out = Degradation()
    drawn = rng.random(6) < np.array([0.5, 0.3, 0.25, 0.5, 0.4, 0.04]) * share
    scale = rng.uniform(0.25, 0.9)
    radius = 0.012 * rng.beta(1.2, 3)
    way, length = rng.uniform(0, 2 * np.pi), 0.03 * rng.beta(1.2, 3)
    quality = int(rng.integers(WORST_QUALITY, 85))
    offset, gain = rng.normal(0, 0.06), np.exp(rng.normal(0, 0.22))
    if drawn[0]:
        out.scale = scale
    if drawn[1]:
        out.defocus = radius
    if drawn[2]:
        out.moved = (length * np.cos(way), length * np.sin(way))
    if drawn[3]:
        out.quality = quality
    if drawn[4]:
        out.offset, out.gain = offset, gain
    out.grey = bool(drawn[5])
    return out


def degrade_image(image: np.ndarray, degradation: Degradation) -> np.ndarray:
    """The image as that camera gives it; (H, W, 3) uint8. Shares are those of the longer side."""
    high, wide = image.shape[:2]
    size = max(high, wide)
    if degradation.defocus * size > 0.5:
        image = cv2.filter2D(image, -1, _disc(degradation.defocus * size))
    way = np.hypot(*degradation.moved) * size
    if way > 1:
        image = cv2.filter2D(image, -1, _streak(degradation.moved[0], degradation.moved[1], size))
    side = max(min(size, LEAST_SIDE_PX), round(size * degradation.scale))
    if side < size:
        small = (max(1, round(wide * side / size)), max(1, round(high * side / size)))
        image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
    if degradation.gain != 1 or degradation.offset:
        values = image.astype(np.float32) * degradation.gain + 255 * degradation.offset
        image = np.clip(values + 0.5, 0, 255).astype(np.uint8)
    if degradation.grey:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if degradation.quality:
        data = simplejpeg.encode_jpeg(
            np.ascontiguousarray(image),
            quality=degradation.quality,
            colorspace="RGB",
            colorsubsampling="420",
        )
        image = simplejpeg.decode_jpeg(data)
    if side < size:
        image = cv2.resize(image, (wide, high), interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(image)


def _disc(radius: float) -> np.ndarray:
    """A kernel of that radius in pixels, its rim smooth."""
    half = int(np.ceil(radius))
    at = np.hypot(*np.mgrid[-half : half + 1, -half : half + 1])
    kernel = np.clip(radius + 0.5 - at, 0, 1)
    return (kernel / kernel.sum()).astype(np.float32)


def _streak(across: float, down: float, size: int) -> np.ndarray:
    """A kernel along a way, both parts of it in shares of ``size``."""
    half = int(np.ceil(max(abs(across), abs(down)) * size / 2)) + 1
    side = 2 * half + 1
    kernel = np.zeros((side, side), np.float32)
    middle = half * 16 + 8
    start = (int(middle - across * size * 8), int(middle - down * size * 8))
    end = (int(middle + across * size * 8), int(middle + down * size * 8))
    cv2.line(kernel, start, end, 1.0, 1, cv2.LINE_AA, 4)
    return kernel / kernel.sum()
