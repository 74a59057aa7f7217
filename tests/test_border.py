"""One rule for what an image shows beyond its edges, for whoever cuts a square out of it:
black."""

import cv2
import numpy as np
import pytest
import torch

from data.loading.augment import augment, crop, crop_masks, denormalise
from data.sources.cameras import cut as write_cut
from finetune.predict import cut as predict_cut

SIZE = 64


@pytest.fixture(scope="module")
def image():
    """(96, 96, 3) uint8, nowhere dark and smooth enough for any interpolation."""
    coarse = np.random.default_rng(0).integers(120, 256, (12, 12, 3)).astype(np.uint8)
    return cv2.resize(coarse, (96, 96), interpolation=cv2.INTER_CUBIC).clip(110)


def training_cut(image, box, size, angle=None):
    """The square as augmentation cuts it, as (size, size, 3) of 0 to 255."""
    side = box[2] - box[0]
    boxes = torch.tensor(
        [[(box[0] + box[2]) / 2, (box[1] + box[3]) / 2, side]], dtype=torch.float32
    )
    angle = None if angle is None else torch.tensor([angle])
    return (
        crop(torch.from_numpy(image).permute(2, 0, 1)[None].float(), boxes, size, angle)[0]
        .permute(1, 2, 0)
        .numpy()
    )


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
def test_shards_training_and_prediction_show_the_same_beyond_the_edge(image, box):
    found = {
        "shards": write_cut(image, box, SIZE),
        "training": training_cut(image, box, SIZE),
        "prediction": predict_cut(image, box, SIZE),
    }
    wanted, scale = by_hand(image, box, SIZE), (box[2] - box[0]) / SIZE
    if scale > 2:
        del found["training"]
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
        assert np.abs(pixels.astype(float) - found["shards"]).max() <= 1, (
            name
        )  # and all three do alike


@pytest.mark.parametrize("angle_deg", [-40, 15])
def test_a_turned_crop_ends_in_black(image, angle_deg):
    """Against OpenCV's warp with a constant border, the corners and the sides beyond the
    image."""
    angle, box = np.radians(angle_deg), [-6, 4, 98, 108]
    found = training_cut(image, box, 104, float(angle))
    c, s = np.cos(angle), np.sin(angle)
    middle = np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])
    turn = np.array([[c, -s], [s, c]])
    shift = middle - 0.5 - turn @ [51.5, 51.5]
    wanted = cv2.warpAffine(
        image,
        np.column_stack([turn, shift]),
        (104, 104),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=0,
    )
    assert (wanted == 0).all(2).mean() > 0.05
    assert np.abs(found - wanted).max() < 6 and not found[(wanted == 0).all(2)].max() > 6


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
