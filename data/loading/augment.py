"""Crops and colour on the device, a whole batch at once, from numbers drawn on the host."""

import functools
from collections.abc import Callable

import torch

from data.cropping.batch import crop_padded, crop_squares
from data.cropping.geometry import Size

# ImageNet's statistics, which timm's weights and CroCo's expect.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def normalise(images: torch.Tensor) -> torch.Tensor:
    """(..., 3, H, W) in [0, 1] -> zero mean, unit standard deviation by ImageNet's statistics."""
    return (images - _column(MEAN, images.device)) / _column(STD, images.device)


def denormalise(images: torch.Tensor) -> torch.Tensor:
    """The inverse of normalise, clipped to [0, 1]."""
    return (images * _column(STD, images.device) + _column(MEAN, images.device)).clamp(0, 1)


def augment(
    pixels: torch.Tensor,
    numbers: torch.Tensor,
    size: Size,
    change: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """Random crop and colour jitter of a batch, normalised.

    Args:
        pixels: (B, P, P, 3) uint8, each image in the top left corner.
        numbers: (B, 6) float32: crop centre x, y and side in pixels; brightness, contrast,
            saturation factors.
        size: side S of the result in pixels, or its (rows, columns): the middle of the square.
        change: what is done to the crops in [0, 1] before the jitter.
    Returns:
        (B, 3, S, S) or (B, 3, rows, columns) float32.
    """
    images = crop_squares(pixels.permute(0, 3, 1, 2).float().div_(255), numbers[:, :3], size)
    images = images if change is None else change(images)
    return normalise(jitter(images, numbers[:, 3:]))


def unpack_masks(bits: torch.Tensor) -> torch.Tensor:
    """(B, 1, 64, 64) float, 0 or 1, of person masks (B, 512) uint8."""
    shifts = torch.arange(7, -1, -1, device=bits.device, dtype=torch.uint8)
    return (bits[:, :, None] >> shifts & 1).reshape(len(bits), 1, 64, 64).float()


def crop_masks(
    bits: torch.Tensor, numbers: torch.Tensor, sizes: torch.Tensor, size: Size
) -> torch.Tensor:
    """Person masks under the same crop.

    Args:
        bits: (B, 512) uint8, 64 x 64 bits each.  numbers: (B, 6) as in augment.
        sizes: (B,) pixels of each image's side, which its mask covers.
        size: side S of the result, or its (rows, columns).
    Returns:
        (B, S, S) or (B, rows, columns) float in [0, 1].
    """
    masks = unpack_masks(bits)
    boxes = numbers[:, :3] * (64 / sizes)[:, None]
    # No crop of pre-training reaches beyond its image. A cell is a share of an area, of which the
    # outermost half says as much as the rest; and a mask that nobody knows is all ones, to its
    # edge.
    return crop_padded(masks, boxes, size, "border")[:, 0]


def jitter(images: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Brightness, contrast and saturation of each image, in this order, each clipped to [0, 1].

    Args:
        images: (B, 3, H, W) in [0, 1].  factors: (B, 3), 1 leaves an image as it is.
    """
    brightness, contrast, saturation = factors[:, :, None, None, None].unbind(1)
    images = (images * brightness).clamp(0, 1)
    images = torch.lerp(_grey(images).mean((2, 3), keepdim=True), images, contrast).clamp(0, 1)
    return torch.lerp(_grey(images), images, saturation).clamp(0, 1)


def _grey(images):
    """Luma of ITU-R BT.601."""
    return (images * _column((0.299, 0.587, 0.114), images.device)).sum(1, keepdim=True)


@functools.cache
def _column(values, device):
    """Return (3, 1, 1) float32, kept on the device.

    To bring them there anew would make every step wait for it.
    """
    return torch.tensor(values, device=device)[:, None, None]
