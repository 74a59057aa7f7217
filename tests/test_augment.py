"""Augmentation against plain numpy and Pillow."""

import numpy as np
import torch
from PIL import Image, ImageEnhance

from data.cropping.batch import crop_squares
from data.loading.augment import augment, crop_masks, denormalise, jitter, normalise


def images(count=3, side=64, seed=0):
    noise = np.random.default_rng(seed).integers(
        0, 256, (count, side // 8, side // 8, 3), dtype=np.uint8
    )
    return np.stack(
        [np.asarray(Image.fromarray(p).resize((side, side), Image.BICUBIC)) for p in noise]
    )


def numbers(boxes, factors=(1, 1, 1)):
    return torch.tensor([[*box, *factors] for box in boxes], dtype=torch.float32)


def test_a_crop_of_the_target_size_is_a_copy():
    pixels = images()
    out = augment(torch.from_numpy(pixels), numbers([(28, 30, 56), (36, 36, 56), (28, 28, 56)]), 56)
    back = denormalise(out).mul(255).round().byte().permute(0, 2, 3, 1).numpy()
    for i, (x, y) in enumerate([(0, 2), (8, 8), (0, 0)]):
        assert np.array_equal(back[i], pixels[i, y : y + 56, x : x + 56])


def test_a_crop_at_half_size_is_the_mean_of_four_pixels():
    pixels = images(side=128)
    out = crop_squares(
        torch.from_numpy(pixels).permute(0, 3, 1, 2).float(),
        numbers([(56, 56, 112)] * 3)[:, :3],
        56,
    )
    mean = pixels[:, :112, :112].reshape(3, 56, 2, 56, 2, 3).mean((2, 4)).transpose(0, 3, 1, 2)
    assert np.abs(out.numpy() - mean).max() < 1e-2


def test_colour_agrees_with_pillow():
    """Pillow's enhancers, one after the other; its contrast rounds the mean grey, its steps round
    to whole values."""
    pixels = images()
    for factors in [(0.7, 1, 1), (1, 1.4, 1), (1, 1, 0.6), (1.3, 0.8, 1.2)]:
        ours = jitter(
            torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255, torch.tensor([factors] * 3)
        ).permute(0, 2, 3, 1)
        for image, mine in zip(pixels, ours.mul(255).numpy(), strict=True):
            theirs = Image.fromarray(image)
            steps = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
            for enhance, factor in zip(steps, factors, strict=True):
                theirs = enhance(theirs).enhance(factor)
            assert np.abs(mine - np.asarray(theirs, float)).max() < 3.5


def test_masks_follow_the_crop():
    masks = np.zeros((1, 64, 64), bool)
    masks[0, 16:48, 24:40] = True
    bits = torch.from_numpy(np.packbits(masks.reshape(1, -1), axis=1))
    # An image of 128 px whose mask has 64 cells: the crop from (32, 16) of side 64 holds cells
    # 16..48 x 8..40.
    out = crop_masks(bits, numbers([(64, 48, 64)]), torch.tensor([128]), 32)[0].numpy()
    assert np.array_equal(out > 0.5, masks[0, 8:40, 16:48])


def test_normalise_and_back():
    x = torch.rand(2, 3, 5, 5)
    assert torch.allclose(denormalise(normalise(x)), x, atol=1e-6)
