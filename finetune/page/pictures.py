"""Pictures as text: JPEG in a data URI, so that the page needs no other file."""

import base64
import io

import numpy as np
from PIL import Image

from data.inspect import ShownPairs
from data.sheets import contact_sheet
from engine.errors import UserError

QUALITY = 80
WIDEST = 1400  # pixels; beyond that a page of many sheets grows past what one sends around
STEP_WIDTH = 800
MOST_STEPS = 6


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


def sheet_of(paths, rows, seed):
    """A contact sheet of shards: pairs of every kind of crop."""
    return inline(contact_sheet(paths, rows, seed, ShownPairs()))


def step_pictures(pictures):
    """Some of {step: path}, spread evenly, the first and the last among them.

    Returns:
        [{"step", "key": whether it is the first, the middle or the last shown, and what inline gives}, ...]
    """
    steps = list(pictures)
    chosen = sorted({round(i) for i in np.linspace(0, len(steps) - 1, min(len(steps), MOST_STEPS))})
    middle = len(chosen) // 2
    return [{"step": steps[i], "key": place in (0, middle, len(chosen) - 1), **inline_file(pictures[steps[i]], STEP_WIDTH)}
            for place, i in enumerate(chosen)]
