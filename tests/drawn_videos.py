"""Videos whose every frame carries its number and shows which side is up, for tests of reading."""

import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from data.sources.frame_index import FrameIndex
from data.sources.frames import Frames
from data.sources.upright import Upright

SIDE = 64
CORNERS = {
    (0, 0): (220, 30, 30),
    (0, 1): (30, 190, 30),
    (1, 0): (40, 40, 220),
    (1, 1): (210, 210, 40),
}
LONG_TICK = 1000  # ticks a second of a video with times of its own


def draw(number: int) -> np.ndarray:
    """(64, 64, 3) uint8: eight cells of black and white in the middle, a colour in each corner."""
    image = np.full((SIDE, SIDE, 3), 128, np.uint8)
    for (row, column), colour in CORNERS.items():
        image[48 * row : 48 * row + 16, 32 * column : 32 * column + 32] = colour
    for bit in range(8):
        y, x = 16 + 16 * (bit // 4), 16 * (bit % 4)
        image[y : y + 16, x : x + 16] = 240 if number >> bit & 1 else 12
    return image


def read_number(image: np.ndarray) -> int:
    """The number in an upright drawn image."""
    number = 0
    for bit in range(8):
        y, x = 16 + 16 * (bit // 4), 16 * (bit % 4)
        number |= int(image[y + 4 : y + 12, x + 4 : x + 12].mean() > 126) << bit
    return number


def is_upright(image: np.ndarray) -> bool:
    """Whether all corners have their colours."""
    return all(
        np.abs(image[48 * row + 8, 32 * column + 16].astype(int) - colour).max() < 70
        for (row, column), colour in CORNERS.items()
    )


def write(
    path: Path,
    count: int = 50,
    codec: str = "libx264",
    rate: int = 25,
    gop: int = 12,
    between: int = 0,
    at: Callable[[int], int] | None = None,
    first: int = 0,
    pixels: str = "yuv420p",
    **options: str,
) -> Path:
    """A video of the frames ``first``, ``first`` + 1, ...

    Args:
        gop: frames from one key frame to the next.  between: B-frames in a row.
        at: the millisecond at which frame i is shown; even steps without it.
        pixels: their format.  options: of the encoder.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={"bf": str(between), **options})
        stream.width = stream.height = SIDE
        stream.pix_fmt, stream.bit_rate = pixels, 0 if "crf" in options else 2_000_000
        stream.codec_context.gop_size = gop
        tick = Fraction(1, LONG_TICK if at else rate)
        stream.time_base = stream.codec_context.time_base = tick
        for i in range(count):
            frame = av.VideoFrame.from_ndarray(draw(first + i), format="rgb24")
            frame.pts, frame.time_base = (at(i) if at else i), tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def trim(path: Path, frames: int, rate: int = 25) -> Path:
    """Patch an mp4's edit list, so that its first ``frames`` frames are not shown."""
    data = bytearray(path.read_bytes())
    mdhd, mvhd, elst = (data.find(name) + 4 for name in (b"mdhd", b"mvhd", b"elst"))
    assert min(mdhd, mvhd, elst) > 3 and data[elst] == data[mdhd] == data[mvhd] == 0
    media, movie = (struct.unpack_from(">I", data, at + 12)[0] for at in (mdhd, mvhd))
    length, start = struct.unpack_from(">Ii", data, elst + 8)
    length, start = length - frames * movie // rate, start + frames * media // rate
    struct.pack_into(">Ii", data, elst + 8, length, start)
    path.write_bytes(data)
    return path


def turn(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Write the display matrix (a, b, c, d) of whole numbers into an mp4's track header."""
    data = bytearray(path.read_bytes())
    at = data.find(b"tkhd") + 4 + 40
    a, b, c, d = (value << 16 for value in matrix)
    struct.pack_into(">9i", data, at, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def named_frames(path: str, count: int, size: tuple[int, int], rate: float = 25.0) -> Frames:
    """What is known of a video that nobody wrote, for tests that read none of its images.

    Args:
        size: (width, height) in pixels.
    """
    index = FrameIndex(
        times=np.arange(count) / rate,
        start_s=0.0,
        pts=np.arange(count),
        marks=np.zeros(count, np.uint32),
        keys=np.zeros(1, np.int64),
        width=size[0],
        height=size[1],
        upright=Upright(),
        said=(),
    )
    return Frames(path, index)
