"""Reading images of any sort that people have, with the errors that they can act upon."""

import os
import struct

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from engine.errors import UserError

# What may stand for an image: an array, a PIL image, or the path of a file.
ImageLike = np.ndarray | Image.Image | str | os.PathLike[str]
# What Pillow raises for files that are broken, depending on their format.
BROKEN = (
    OSError,
    ValueError,
    SyntaxError,
    RuntimeError,
    EOFError,
    IndexError,
    TypeError,
    MemoryError,
    struct.error,
    Image.DecompressionBombError,
)


def read_image(image: ImageLike) -> np.ndarray:
    """Return (H, W, 3) uint8 RGB of an array, a PIL image or a path.

    A photograph's orientation tag is obeyed.

    Raises:
        UserError: the file is missing or broken; pixels that are not bytes.
    """
    if isinstance(image, (str, os.PathLike)):
        pixels = _read_file(image)
    elif isinstance(image, Image.Image):
        pixels = _read_pillow(image, "the image")
    else:
        pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise UserError(
            f"an image is (H, W, 3) uint8 RGB, this one is {pixels.shape} {pixels.dtype}"
        )
    return np.ascontiguousarray(pixels)


def _read_file(path: str | os.PathLike[str]) -> np.ndarray:
    name = f"image {path}"
    try:
        with Image.open(path) as opened:
            return _read_pillow(opened, name)
    except FileNotFoundError:
        raise UserError(f"{name} does not exist") from None
    except UnidentifiedImageError:
        raise UserError(f"{name} is of no format that is known") from None
    except BROKEN as error:
        raise _unreadable(name, error) from None


def _read_pillow(image: Image.Image, name: str) -> np.ndarray:
    """(H, W, 3) uint8 of a PIL image, upright; UserError where its bytes are broken."""
    try:
        return _convert_to_rgb(image)
    except BROKEN as error:
        raise _unreadable(name, error) from None


def _unreadable(name: str, error: BaseException) -> UserError:
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    return UserError(f"{name} cannot be read: {reason or type(error).__name__}")


def _convert_to_rgb(image: Image.Image) -> np.ndarray:
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError(
            "its pixels are floating-point numbers, whose white nobody knows; save it with 8 or 16 "
            "bits"
        )
    if not image.mode.startswith("I"):
        return np.asarray(image.convert("RGB"))
    # 16 bits of grey: Pillow would clip them at 255.
    grey = np.asarray(image)
    if grey.min() < 0 or grey.max() > 65535:
        raise ValueError(f"its greys span {grey.min()} to {grey.max()}; at most 16 bits are read")
    return np.repeat((grey >> 8).astype(np.uint8)[..., None], 3, 2)
