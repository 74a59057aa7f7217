"""Image files as pixels."""

import io

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

JPEG = b"\xff\xd8"


def decode_image(data: bytes) -> np.ndarray:
    """(H, W, 3) uint8 RGB of an image file's bytes, the pixels as they are stored.

    A tag that says how a photograph was held is not obeyed: labels are about the stored pixels.

    Raises:
        ValueError: they are not an image, or a broken one.
    """
    if data.startswith(JPEG):
        try:
            return simplejpeg.decode_jpeg(data, "RGB")
        except ValueError:
            pass  # such as four colours, which Pillow reads
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))
    except UnidentifiedImageError:
        raise ValueError("it is of no image format that is known") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"it does not decode: {' '.join(str(error).split())}") from None
