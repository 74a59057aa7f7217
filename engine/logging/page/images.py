"""Images as text: JPEG in a data URI, so that a page needs no other file."""

import base64
import io
from pathlib import Path
from typing import TypedDict

from PIL import Image

from engine.errors import UserError

QUALITY = 80
WIDEST = 1400  # pixels; beyond that a page of many sheets grows past what one sends around


class InlineImage(TypedDict):
    """What an <img> needs: a data URI and the size in pixels."""

    src: str
    width: int
    height: int


def inline(image: Image.Image, widest: int = WIDEST) -> InlineImage:
    """Return an image as text, made smaller where it is wider than ``widest`` pixels."""
    if image.width > widest:
        height = round(image.height * widest / image.width)
        image = image.resize((widest, height), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    # Without chroma subsampling, which smears thin coloured lines and small text.
    image.convert("RGB").save(data, "JPEG", quality=QUALITY, optimize=True, subsampling=0)
    text = base64.b64encode(data.getvalue()).decode("ascii")
    return {
        "src": f"data:image/jpeg;base64,{text}",
        "width": image.width,
        "height": image.height,
    }


def inline_file(path: str | Path, widest: int = WIDEST) -> InlineImage:
    """Return an image's file as text, as ``inline`` does.

    Raises:
        UserError: it is not an image.
    """
    try:
        with Image.open(path) as image:
            return inline(image, widest)
    except (OSError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is not an image that can be read: {error}") from None
