"""The focal length that a photograph's EXIF tells (CIPA DC-008, Exif 3.0).

It is that of the image that the camera wrote. A file that was cropped or resized since has another
one, or may have: it is believed only where the tags of the image's size
(PixelXDimension, PixelYDimension) are those of the file.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass

from data.format.images import BROKEN, open_image

FILM_DIAGONAL_MM = 43.27  # of 36 mm x 24 mm, by which cameras tell equivalents (CIPA DCG-001)
MM_OF_UNIT = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}  # FocalPlaneResolutionUnit
LEAST, MOST = 0.2, 100.0  # diagonals: lenses of 9 mm to 4.3 m on film; others are no lens
_ORIENTATION, _EXIF = 0x0112, 0x8769
_FOCAL_MM, _FOCAL_35MM, _ZOOM = 0x920A, 0xA405, 0xA404
_WIDTH, _HEIGHT = 0xA002, 0xA003
_DENSITY_X, _DENSITY_Y, _UNIT = 0xA20E, 0xA20F, 0xA210
_ON_ITS_SIDE = (5, 6, 7, 8)


@dataclass(frozen=True)
class ExifFocal:
    """What EXIF says of a focal length.

    Attributes:
        focal_px: (fx, fy) of the upright image in pixels, or None where it is not known.
        words: where the numbers come from; of None why what is there is not believed, "" where
            nothing is.
    """

    focal_px: tuple[float, float] | None
    words: str


NOTHING = ExifFocal(None, "")


def read_exif_focal(path: str | os.PathLike[str]) -> ExifFocal:
    """The focal length of a photograph, by its file's header alone.

    FocalLengthIn35mmFilm comes first: it is a whole number of mm, so a lens of 28 mm is known to
    1.8 %. Else FocalLength with FocalPlaneXResolution, FocalPlaneYResolution and their unit.
    """
    try:
        with open_image(os.fspath(path)) as image:
            exif = image.getexif()
            return _find_focal(exif.get_ifd(_EXIF), image.size, exif.get(_ORIENTATION, 1))
    except BROKEN:  # pixels may be whole where the header's tags are not
        return NOTHING


def _find_focal(tags: Mapping[int, object], size: tuple[int, int], orientation: object):
    film_mm, lens_mm = _number(tags, _FOCAL_35MM), _number(tags, _FOCAL_MM)
    if film_mm is None and lens_mm is None:
        return NOTHING
    written = _pair(tags, _WIDTH, _HEIGHT)
    if written is None:
        return ExifFocal(None, "EXIF tells a focal length, but not of which size of the image")
    # Who turns pixels upright leaves these as they were: the lens is the same.
    if sorted(written) != sorted(size):
        told = f"{written[0]:g} x {written[1]:g}"
        return ExifFocal(
            None,
            f"EXIF's focal length is of an image of {told}, this one has {size[0]} x {size[1]}",
        )
    zoom = _number(tags, _ZOOM)
    if zoom is not None and zoom != 1:
        # Cameras differ in whether their focal lengths count it.
        return ExifFocal(None, f"EXIF's focal length is one with a digital zoom of {zoom:g}")
    diagonal = math.hypot(*size)
    if film_mm is not None:
        focal = film_mm / FILM_DIAGONAL_MM * diagonal
        return _believe((focal, focal), diagonal, f"EXIF: {film_mm:g} mm on 35 mm film")
    density, unit = _pair(tags, _DENSITY_X, _DENSITY_Y), tags.get(_UNIT, 2)
    unit_mm = MM_OF_UNIT.get(unit) if isinstance(unit, int) else None
    if unit_mm is None or density is None or lens_mm is None:
        return ExifFocal(None, f"EXIF tells {lens_mm:g} mm, but not how large the sensor is")
    fx, fy = (lens_mm * count / unit_mm for count in density)
    turned = (orientation in _ON_ITS_SIDE) != (written != tuple(size))
    words = f"EXIF: {lens_mm:g} mm, {density[0] / unit_mm:.4g} pixels a mm of the sensor"
    return _believe((fy, fx) if turned else (fx, fy), diagonal, words)


def _believe(focal: tuple[float, float], diagonal: float, words: str) -> ExifFocal:
    if all(LEAST <= value / diagonal <= MOST for value in focal):
        return ExifFocal(focal, words)
    return ExifFocal(None, f"{words}, which is no lens of {focal[0]:.4g} px in {diagonal:.0f}")


def _pair(tags: Mapping[int, object], one: int, other: int) -> tuple[float, float] | None:
    """Two tags' numbers; None where either is not known."""
    first, second = _number(tags, one), _number(tags, other)
    return None if first is None or second is None else (first, second)


def _number(tags: Mapping[int, object], tag: int) -> float | None:
    """A tag's number; None where it is not there, 0, which stands for unknown, or not a number."""
    try:
        value = float(tags[tag])  # pyrefly: ignore[bad-argument-type]
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return value if math.isfinite(value) and value > 0 else None
