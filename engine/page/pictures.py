"""Pictures as text: JPEG in a data URI, so that a page needs no other file."""

import base64
import io

from PIL import Image

from engine.errors import UserError

QUALITY = 80
WIDEST = 1400  # pixels; beyond that a page of many sheets grows past what one sends around


def inline(picture, widest=WIDEST):
    """A PIL image as {"src": data URI, "width", "height"}, made smaller where it is wider than ``widest`` pixels."""
    if picture.width > widest:
        picture = picture.resize((widest, round(picture.height * widest / picture.width)), Image.LANCZOS)
    data = io.BytesIO()
    # Without chroma subsampling, which smears thin coloured lines and small text.
    picture.convert("RGB").save(data, "JPEG", quality=QUALITY, optimize=True, subsampling=0)
    text = base64.b64encode(data.getvalue()).decode("ascii")
    return {"src": f"data:image/jpeg;base64,{text}", "width": picture.width, "height": picture.height}


def inline_file(path, widest=WIDEST):
    """The same of a picture's file.

    Raises:
        UserError: it is no picture.
    """
    try:
        with Image.open(path) as picture:
            return inline(picture, widest)
    except (OSError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is no picture that can be read: {error}") from None
