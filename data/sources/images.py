"""Reading still images of any sort that people have, with the errors that they can act upon."""

import os

import numpy as np
from PIL import Image, ImageOps

from data.format.images import BROKEN, explain_broken, open_image, to_rgb
from engine.errors import UserError


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """(H, W, 3) uint8 RGB of an image file, upright by its orientation tag; see ``to_rgb``.

    Raises:
        UserError: the file is missing, broken, or of a kind that is not read, naming it.
    """
    path = os.fspath(path)
    try:
        with open_image(path) as opened:
            return convert_upright(opened)
    except FileNotFoundError:
        raise UserError(f"image {path} does not exist") from None
    except IsADirectoryError:
        raise UserError(f"image {path} is a folder: name the images in it") from None
    except BROKEN as error:
        raise UserError(f"image {path} cannot be read: {explain_broken(error)}") from None


def convert_upright(image: Image.Image) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a Pillow image, turned as its orientation tag says.

    Raises:
        one of BROKEN: its bytes are broken, or its pixels of a kind that is not read.
    """
    return np.ascontiguousarray(to_rgb(ImageOps.exif_transpose(image)))
