"""Hostile still images give the right pixels, or one sentence."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.format.images import decode_image
from data.sources.images import read_image
from engine.errors import UserError

RAMP = np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6)
GREY = np.repeat(RAMP[..., None], 3, 2)
RNG = np.random.default_rng(5)
COLOUR = RNG.integers(0, 256, (4, 6, 3)).astype(np.uint8)


def save(path: Path, image: Image.Image | np.ndarray, **options) -> Path:
    """The file, in which Pillow wrote an image."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(path, **options)
    return path


def write_png(path: Path, kind: int, depth: int, rows: list[bytes]) -> Path:
    """A PNG written by hand after the standard: 6 x 4 pixels of a colour type and bit depth."""

    def chunk(name, data):
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 6, 4, depth, kind, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )
    return path


def test_greys_of_sixteen_bits_keep_their_upper_eight(tmp_path):
    rows = [b"".join(struct.pack(">H", 256 * int(v) + 99) for v in row) for row in RAMP]
    assert np.array_equal(read_image(write_png(tmp_path / "a.png", 0, 16, rows)), GREY)
    wide = RAMP.astype(np.int32) * 256 + 7
    assert np.array_equal(read_image(save(tmp_path / "a.tif", wide)), GREY)


def test_colours_of_sixteen_bits_keep_their_upper_eight(tmp_path):
    rows = [b"".join(struct.pack(">H", 256 * int(v) + 9) for v in row.ravel()) for row in COLOUR]
    assert np.array_equal(read_image(write_png(tmp_path / "a.png", 2, 16, rows)), COLOUR)


@pytest.mark.parametrize("kind", [np.int32, np.uint16])
def test_eight_bits_in_a_wider_file_are_not_black(tmp_path, kind):
    path = save(tmp_path / "a.tif", RAMP.astype(kind))
    assert np.array_equal(read_image(path), GREY)
    assert np.array_equal(decode_image(path.read_bytes()), GREY)


def test_four_colours_become_three(tmp_path):
    flat = Image.new("RGB", (16, 16), (200, 100, 40))
    image = read_image(save(tmp_path / "a.jpg", flat.convert("CMYK"), quality=100))
    assert np.abs(image.astype(int) - (200, 100, 40)).max() <= 6


def test_what_is_transparent_is_white(tmp_path):
    clear = np.dstack([COLOUR, np.full((4, 6), 255, np.uint8)])
    clear[1, 2, 3], clear[2, 3, 3] = 0, 51
    image = read_image(save(tmp_path / "a.png", clear))
    assert image[1, 2].tolist() == [255, 255, 255]
    mixed = 0.2 * COLOUR[2, 3] + 0.8 * 255
    assert np.abs(image[2, 3] - mixed).max() <= 1
    image[1, 2], image[2, 3] = COLOUR[1, 2], COLOUR[2, 3]
    assert np.array_equal(image, COLOUR)
    palette = Image.fromarray(RAMP // 10, "P")
    palette.putpalette([v for n in range(24) for v in (n, 2 * n, 3 * n)])
    image = read_image(save(tmp_path / "p.png", palette, transparency=3))
    assert image[0, 3].tolist() == [255, 255, 255] and image[0, 4].tolist() == [4, 8, 12]


def test_a_photograph_comes_upright_and_its_labels_as_stored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # hold it turned by a quarter clockwise
    path = save(tmp_path / "a.png", COLOUR, exif=exif)
    assert np.array_equal(read_image(path), np.rot90(COLOUR, -1))
    assert np.array_equal(decode_image(path.read_bytes()), COLOUR)


def test_an_animation_gives_its_first_image(tmp_path):
    images = [Image.fromarray(np.full((4, 6), v, np.uint8)) for v in (10, 200)]
    path = save(tmp_path / "a.gif", images[0], save_all=True, append_images=images[1:])
    assert np.array_equal(read_image(path), np.full((4, 6, 3), 10))


HOSTILE = [
    ("a.png", b"", "it is empty: 0 bytes"),
    ("a.jpg", b"no image at all", "of no image format that is known"),
    ("a.svg", b'<?xml version="1.0"?><svg width="9"/>', "SVG"),
    ("a.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
    ("a.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
    ("a.jpg", b"%PDF-1.7\n", "PDF"),
    ("a.ppm", b"P6 40000 40000 255\n" + bytes(99), "178 million pixels"),
]


@pytest.mark.parametrize(("name", "data", "words"), HOSTILE)
def test_what_is_no_image_is_told_in_one_line(tmp_path, name, data, words):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(UserError, match=words) as error:
        read_image(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(ValueError, match=words):
        decode_image(data)


def test_a_huge_jpeg_is_refused_by_its_header(tmp_path):
    data = bytearray(save(tmp_path / "a.jpg", COLOUR).read_bytes())
    at = data.find(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 60000, 60000)
    with pytest.raises(ValueError, match="178 million pixels"):
        decode_image(bytes(data))


def test_pixels_of_unknown_white_are_refused(tmp_path):
    (tmp_path / "cut.png").write_bytes(save(tmp_path / "a.png", COLOUR).read_bytes()[:60])
    for path, words in (
        (save(tmp_path / "f.tif", RAMP.astype(np.float32) / 255), "floating-point"),
        (save(tmp_path / "t.tif", RAMP.astype(np.uint16) * 16), "10 or 12 bits"),
        (save(tmp_path / "d.tif", RAMP.astype(np.int32) * 70000), "at most 16 bits"),
        (save(tmp_path / "n.tif", RAMP.astype(np.int32) - 9), "-9"),
        (tmp_path / "cut.png", "truncated|Truncated|broken"),
        (tmp_path / "gone.png", "does not exist"),
        (tmp_path, "is a folder"),
    ):
        with pytest.raises(UserError, match=words) as error:
            read_image(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)
