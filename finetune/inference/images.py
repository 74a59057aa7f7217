"""What may stand for an image in prediction: an array, a PIL image, or the path of a file."""

import os

import numpy as np
from PIL import Image

from data.format.images import BROKEN, explain_broken
from data.sources import images
from engine.errors import UserError

ImageLike = np.ndarray | Image.Image | str | os.PathLike[str]


def read_image(image: ImageLike) -> np.ndarray:
    """Return (H, W, 3) uint8 RGB of an array, a PIL image or a path.

    A photograph's orientation tag is obeyed.

    Raises:
        UserError: the file is missing or broken; pixels that are not bytes.
    """
    if isinstance(image, (str, os.PathLike)):
        pixels = images.read_image(image)
    elif isinstance(image, Image.Image):
        pixels = _read_pillow(image)
    else:
        pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise UserError(
            f"an image is (H, W, 3) uint8 RGB, this one is {pixels.shape} {pixels.dtype}"
        )
    return np.ascontiguousarray(pixels)


def _read_pillow(image: Image.Image) -> np.ndarray:
    """(H, W, 3) uint8 of a PIL image, upright; UserError where its bytes are broken."""
    try:
        return images.convert_upright(image)
    except BROKEN as error:
        raise UserError(f"the image cannot be read: {explain_broken(error)}") from None
