"""Crops and colour on the device, a whole batch at once, from numbers drawn on the host."""

import functools

import torch
import torch.nn.functional as F

from data.loading.border import BLACK, PADDING

# ImageNet's statistics, which timm's weights and the parents' expect.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def normalise(images):
    """(..., 3, H, W) in [0, 1] -> zero mean, unit deviation by ImageNet's statistics."""
    return (images - _column(MEAN, images.device)) / _column(STD, images.device)


def denormalise(images):
    """The inverse of normalise, cut to [0, 1]."""
    return (images * _column(STD, images.device) + _column(MEAN, images.device)).clamp(0, 1)


def augment(pixels, numbers, size):
    """Random crop and colour jitter of a batch, normalised.

    Args:
        pixels: (B, P, P, 3) uint8, each image in the top left corner.
        numbers: (B, 6) float32: crop centre x, y and side in pixels; brightness, contrast,
            saturation factors.
        size: side of the result in pixels.
    Returns:
        (B, 3, size, size) float32.
    """
    images = crop(pixels.permute(0, 3, 1, 2).float().div_(255), numbers[:, :3], size)
    return normalise(jitter(images, numbers[:, 3:]))


def crop(images, boxes, size, angle=None):
    """Cut and scale squares, bilinear, averaged first where they shrink to half or less; outside it
    is black.

    Args:
        images: (B, C, P, P) float.  boxes: (B, 3) centre x, y, side in pixels.  size: side of the
            result.
        angle: (B,) radians by which each square is turned about its centre, from x towards y; None:
            none is.
    """
    return _cut(images, boxes, size, PADDING, angle)


def _cut(images, boxes, size, padding, angle=None):
    """As crop; ``padding``: what the outside is, in grid_sample's words."""
    side = images.shape[-1]
    whole = _sample(images, boxes, size, padding, angle)
    factor = side // size
    if factor < 2:
        return whole
    if padding == PADDING and side % factor:  # blocks that lie across the edge are partly black
        images = F.pad(images, (0, -side % factor, 0, -side % factor), value=BLACK)
    pooled = _sample(
        F.avg_pool2d(images, factor, ceil_mode=True), boxes / factor, size, padding, angle
    )
    # Both are made and one is taken row by row, so that no shape depends on the data.
    return torch.where((boxes[:, 2] >= 0.75 * factor * size)[:, None, None, None], pooled, whole)


def _sample(images, boxes, size, padding, angle):
    """Bilinear samples of squares (B, 3) = centre x, y, side in pixels, turned by (B,) radians or
    None."""
    side = images.shape[-1]
    # grid_sample without align_corners has pixel centres at +0.5, as we do: x_grid = 2 x / P - 1.
    scale, shift = boxes[:, 2] / side, 2 * boxes[:, :2] / side - 1
    across, along = (
        (torch.zeros_like(scale), scale)
        if angle is None
        else (scale * angle.sin(), scale * angle.cos())
    )
    theta = torch.stack(
        [
            torch.stack([along, -across, shift[:, 0]], 1),
            torch.stack([across, along, shift[:, 1]], 1),
        ],
        1,
    )
    grid = F.affine_grid(theta, (len(images), images.shape[1], size, size), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode=padding, align_corners=False)


def crop_masks(bits, numbers, sizes, size):
    """Person masks under the same crop.

    Args:
        bits: (B, 512) uint8, 64 x 64 bits each.  numbers: (B, 6) as in augment.
        sizes: (B,) pixels of each image's side, which its mask covers.  size: side of the result.
    Returns:
        (B, size, size) float in [0, 1].
    """
    shifts = torch.arange(7, -1, -1, device=bits.device, dtype=torch.uint8)
    masks = (bits[:, :, None] >> shifts & 1).reshape(len(bits), 1, 64, 64).float()
    boxes = numbers[:, :3] * (64 / sizes)[:, None]
    # No crop of pre-training reaches beyond its image. A cell is a share of an area, of which the
    # outermost half says as much as the rest; and a mask that nobody knows is all ones, to its
    # edge.
    return _cut(masks, boxes, size, "border")[:, 0]


def jitter(images, factors):
    """Brightness, contrast and saturation of each image, in this order, each cut to [0, 1].

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
    """(3, 1, 1) float32, kept on the device: to bring them there anew would make every step wait
    for it."""
    return torch.tensor(values, device=device)[:, None, None]
