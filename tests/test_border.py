"""One rule for what an image shows beyond its edges, for whoever cuts a square out of it:
black."""

import cv2
import numpy as np
import pytest
import torch

from data.cropping.batch import crop_squares
from data.cropping.border import BORDER, check_border
from data.cropping.geometry import Square, image_to_crop, square_of_box
from data.cropping.host import cut_square
from data.loading.augment import augment, crop_masks, denormalise
from engine.errors import UserError

SIZE = 64


@pytest.fixture(scope="module")
def image():
    """(96, 96, 3) uint8, nowhere dark and smooth enough for any interpolation."""
    coarse = np.random.default_rng(0).integers(120, 256, (12, 12, 3)).astype(np.uint8)
    return cv2.resize(coarse, (96, 96), interpolation=cv2.INTER_CUBIC).clip(110)


def cut_on_device(image, square, size):
    """The square as training cuts it, as (size, size, 3) of 0 to 255."""
    squares = torch.tensor([[square.x, square.y, square.side]], dtype=torch.float32)
    angle = torch.tensor([square.angle]) if square.angle else None
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    return crop_squares(pixels, squares, size, angle)[0].permute(1, 2, 0).numpy()


def by_hand(image, box, size):
    """The square of the image in a wide black frame: bilinear, and the mean of 8 x 8 samples a
    pixel where it shrinks."""
    frame, fine = 200, 8 if box[2] - box[0] > size else 1
    wide = np.zeros((96 + 2 * frame, 96 + 2 * frame, 3), np.float32)
    wide[frame:-frame, frame:-frame] = image
    at = [
        low + frame + (np.arange(fine * size) + 0.5) * (high - low) / (fine * size) - 0.5
        for low, high in ((box[0], box[2]), (box[1], box[3]))
    ]
    x, y = np.meshgrid(*(values.astype(np.float32) for values in at))
    return cv2.remap(wide, x, y, cv2.INTER_LINEAR).reshape(size, fine, size, fine, 3).mean((1, 3))


# Beyond the left edge, beyond a corner by fractions, larger than the image all round, shown at
# twice and at a fifth of its size, which no augmentation does.
BOXES = [
    [-20, 10, 44, 74],
    [-9.5, 40.25, 54.5, 104.25],
    [-16, -16, 112, 112],
    [80.3, 70.1, 112.3, 102.1],
    [-112, -112, 208, 208],
]


@pytest.mark.parametrize("box", BOXES)
def test_host_and_device_show_the_same_beyond_the_edge(image, box):
    square = square_of_box(box)
    found = {"host": cut_square(image, square, SIZE), "device": cut_on_device(image, square, SIZE)}
    wanted, scale = by_hand(image, box, SIZE), square.side / SIZE
    if scale > 2:
        del found["device"]
    at = [low + (np.arange(SIZE) + 0.5) * scale for low in box[:2]]
    reach = max(scale, 1)  # a pixel of the crop, or of the image where that is the larger
    outside = [(values < -reach) | (values > 96 + reach) for values in at]
    black = outside[1][:, None] | outside[0]
    near_edge = [np.minimum(abs(values), abs(values - 96)) <= 1.5 * reach for values in at]
    edge = near_edge[1][:, None] | near_edge[0]
    assert black.any() and (~black).any()
    for name, pixels in found.items():
        assert not pixels[black].any(), name  # exactly
        assert pixels[~black & ~edge].min() > 80, name
        difference = np.abs(pixels.astype(float) - wanted)
        # Where it shrinks, half a pixel of the image is averaged more or less at the edge.
        assert difference[~edge].max() < (1 if scale <= 1 else 3), name
        assert difference[edge].max() < (1 if scale <= 1 else 35), name
        assert np.abs(pixels.astype(float) - found["host"]).max() <= 1, name


# Levels of 255. Enlarged, the two differ by the host's rounding alone. Shrunk, the host averages
# where the device still interpolates: a little within the image, more across its edge.
ENLARGED, SHRUNK, SHRUNK_MEAN = 0.51, 6, 3


@pytest.mark.parametrize("angle_deg", [0, 15, -40, 170])
def test_host_and_device_agree_on_the_same_squares(image, angle_deg):
    """Squares of every size and angle, inside the image, across its edges and around all of it."""
    random = np.random.default_rng(angle_deg + 180)
    for _ in range(100):
        x, y, side = random.uniform(-20, 116), random.uniform(-20, 116), random.uniform(20, 128)
        square = Square(x, y, side, float(np.radians(angle_deg)))
        found, wanted = cut_square(image, square, SIZE), cut_on_device(image, square, SIZE)
        difference = np.abs(found.astype(float) - wanted)
        if side <= SIZE:
            assert difference.max() < ENLARGED
            continue
        rows, columns = np.mgrid[:SIZE, :SIZE] + 0.5
        pixels = np.stack([columns, rows, np.ones_like(rows)], -1)
        at = (pixels @ np.linalg.inv(image_to_crop(square, SIZE)).T)[..., :2]
        from_edge = np.minimum(np.abs(at), np.abs(at - 96)).min(-1)
        assert difference[from_edge > 2].max(initial=0) < SHRUNK
        assert difference.mean() < SHRUNK_MEAN


def test_a_huge_square_is_cut_in_bands_with_equal_pixels(image, monkeypatch):
    square = Square(60.5, 40.25, 130.0, 0.3)
    whole = cut_square(image, square, 32)
    monkeypatch.setattr("data.cropping.host.BAND_POSITIONS", 5000)
    assert np.array_equal(cut_square(image, square, 32), whole)
    assert not cut_square(image, Square(-900.0, 40.0, 500.0), 32).any()


def test_another_border_rule_is_refused_in_one_sentence():
    check_border(BORDER, "a.tar:clip")
    with pytest.raises(UserError, match="a.tar:clip: .*border=repeat.*black"):
        check_border("repeat", "a.tar:clip")


def test_black_is_black_for_the_network(image):
    """After normalisation: as a black pixel of the image, not as zero."""
    numbers = torch.tensor([[0.0, 48, 64, 1, 1, 1]])
    out = denormalise(augment(torch.from_numpy(image)[None], numbers, SIZE))
    assert out[0, :, :, :31].max() < 1e-6 and out[0, :, :, 33:].min() > 0.4


def test_a_mask_that_nobody_knows_is_all_ones_to_its_edge():
    bits = torch.full((1, 512), 255, dtype=torch.uint8)
    for side in (64.0, 56.0, 20.0):
        out = crop_masks(
            bits, torch.tensor([[side / 2, side / 2, side, 1, 1, 1]]), torch.tensor([64]), 48
        )
        assert (out == 1).all()
