"""Image files as pixels: what is in them, in eight bits of red, green and blue."""

import io
import struct

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

JPEG = b"\xff\xd8"
# What Pillow may try to read. Others start programs (EPS, WMF), or are no photographs.
FORMATS = (
    *("AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "QOI"),
    *("SGI", "TGA", "TIFF", "WEBP"),
)
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
_MOST_PIXELS = 178_956_970  # Pillow's own limit, for which it raises DecompressionBombError
_DEEP = {"I", "I;16", "I;16B", "I;16L", "I;16N"}
_SIGNS = (
    (b"<svg", "it is a drawing (SVG), not pixels; save it as PNG"),
    (b"%PDF", "it is a PDF; save its image as PNG"),
    (b"%!PS", "it is PostScript, which would have to be run; save it as PNG"),
)
_HEIC = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")


def decode_image(data: bytes) -> np.ndarray:
    """(H, W, 3) uint8 RGB of an image file's bytes, the pixels as they are stored.

    A tag that says how a photograph was held is not obeyed: labels are about the stored pixels.

    Raises:
        ValueError: they are not an image, or a broken one.
    """
    if data.startswith(JPEG):
        try:
            height, width = (int(side) for side in simplejpeg.decode_jpeg_header(data)[:2])
            if height * width <= _MOST_PIXELS:
                return simplejpeg.decode_jpeg(data, "RGB")
        except ValueError:
            pass  # such as four colours, which Pillow reads
    try:
        with open_image(io.BytesIO(data)) as image:
            return to_rgb(image)
    except BROKEN as error:
        raise ValueError(f"it does not decode: {explain_broken(error)}") from None


def open_image(source: str | io.BytesIO) -> Image.Image:
    """A file opened by Pillow, if it is of a format that holds photographs; runs nothing.

    Raises:
        ValueError: it is empty, or of no such format, in words.
        one of BROKEN: Pillow's own errors.
    """
    Image.init()
    try:
        return Image.open(source, formats=[name for name in FORMATS if name in Image.OPEN])
    except UnidentifiedImageError:
        raise ValueError(_name_format(_read_start(source))) from None


def to_rgb(image: Image.Image) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a Pillow image; of an animation, the image that it stands at.

    What is transparent is laid over white, as viewers show it. Greys of more than eight bits keep
    their upper eight of sixteen, unless none is above 255: those are eight bits in a wider file.
    Four colours become three by Pillow's plain formula; colour profiles are not applied.

    Raises:
        ValueError: pixels whose white nobody knows: floating point, 10 or 12 bits.
        one of BROKEN: Pillow's own errors.
    """
    if image.mode == "F":
        raise ValueError(
            "its pixels are floating-point numbers, whose white nobody knows; save it with 8 or 16 "
            "bits"
        )
    if image.mode in _DEEP:
        return _reduce_greys(np.asarray(image))
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        shown = image.convert("RGBA")
        white = Image.new("RGBA", shown.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, shown)
    return np.array(image.convert("RGB"))


def explain_broken(error: BaseException) -> str:
    """What one of BROKEN says, in one line."""
    if isinstance(error, Image.DecompressionBombError):
        return f"it is larger than {_MOST_PIXELS // 10**6} million pixels"
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    return reason or type(error).__name__


def _reduce_greys(grey):
    """(H, W, 3) uint8 of greys of up to 16 bits, in integers of any width."""
    least, most = int(grey.min()), int(grey.max())
    if least < 0 or most > 65535:
        raise ValueError(f"its greys span {least} to {most}; at most 16 bits are read")
    if 255 < most < 4096:
        raise ValueError(
            f"its greys reach {most} of 65535, as those of 10 or 12 bits do, whose white nobody "
            f"knows; save it with 8 or 16 bits"
        )
    plain = grey if most <= 255 else grey >> 8
    return np.repeat(plain.astype(np.uint8)[..., None], 3, 2)


def _read_start(source):
    if isinstance(source, io.BytesIO):
        return source.getvalue()[:1024]
    with open(source, "rb") as file:
        return file.read(1024)


def _name_format(start):
    """Why nothing reads a file that starts like this."""
    if not start:
        return "it is empty: 0 bytes"
    if start[4:8] == b"ftyp" and start[8:12] in _HEIC:
        return "it is HEIC, which is not read; save it as JPEG or PNG"
    for sign, words in _SIGNS:
        if sign in start:
            return words
    return "it is of no image format that is known"
