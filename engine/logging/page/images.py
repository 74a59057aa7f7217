"""Images as text: JPEG in a data URI, so that a page needs no other file."""

import base64
import io

from PIL import Image

from engine.errors import UserError

QUALITY = 80
WIDEST = 1400  # pixels; beyond that a page of many sheets grows past what one sends around


def inline(image, widest=WIDEST):
    """A PIL image as {"src": data URI, "width", "height"}, made smaller where it is wider than
    ``widest`` pixels."""
    if image.width > widest:
        image = image.resize((widest, round(image.height * widest / image.width)), Image.LANCZOS)
    data = io.BytesIO()
    # Without chroma subsampling, which smears thin coloured lines and small text.
    image.convert("RGB").save(data, "JPEG", quality=QUALITY, optimize=True, subsampling=0)
    text = base64.b64encode(data.getvalue()).decode("ascii")
    return {
        "src": f"data:image/jpeg;base64,{text}",
        "width": image.width,
        "height": image.height,
    }


def inline_file(path, widest=WIDEST):
    """The same of an image's file.

    Raises:
        UserError: it is no image.
    """
    try:
        with Image.open(path) as image:
            return inline(image, widest)
    except (OSError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is no image that can be read: {error}") from None
