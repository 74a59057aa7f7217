"""Crops of a whole batch with torch, on its device, and the cameras that see them."""

import torch
import torch.nn.functional as F

from data.cropping.border import BLACK, PADDING
from data.cropping.geometry import scaled_rotation


def crop_squares(
    images: torch.Tensor, squares: torch.Tensor, size: int, angle: torch.Tensor | None = None
) -> torch.Tensor:
    """Return squares of images, bilinear, averaged first where they shrink to half or less.

    What lies outside an image is black, see data/cropping/border.py.

    Args:
        images: (B, C, P, P) float.
        squares: (B, 3) centre x, y and side in pixels of the images.
        size: the crops' side S in pixels.
        angle: (B,) radians, see data/cropping/geometry.py; None: no square is rotated.

    Returns:
        (B, C, S, S).
    """
    return crop_padded(images, squares, size, PADDING, angle)


def crop_padded(
    images: torch.Tensor,
    squares: torch.Tensor,
    size: int,
    padding: str,
    angle: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return what ``crop_squares`` does, with another border, for what is not an image.

    Args:
        padding: what the outside is, in grid_sample's words.
    """
    side = images.shape[-1]
    whole = _sample(images, squares, size, padding, angle)
    factor = side // size
    if factor < 2:
        return whole
    if padding == PADDING and side % factor:  # blocks that lie across the edge are partly black
        images = F.pad(images, (0, -side % factor, 0, -side % factor), value=BLACK)
    blocks = F.avg_pool2d(images, factor, ceil_mode=True)
    pooled = _sample(blocks, squares / factor, size, padding, angle)
    # Both are made and one is taken row by row, so that no shape depends on the data.
    shrinks = squares[:, 2] >= 0.75 * factor * size
    return torch.where(shrinks[:, None, None, None], pooled, whole)


def _sample(
    images: torch.Tensor,
    squares: torch.Tensor,
    size: int,
    padding: str,
    angle: torch.Tensor | None,
) -> torch.Tensor:
    """Bilinear samples of the squares."""
    side = images.shape[-1]
    # grid_sample without align_corners has pixel centres at +0.5, as we do: x_grid = 2 x / P - 1.
    scale, shift = squares[:, 2] / side, 2 * squares[:, :2] / side - 1
    if angle is None:
        cos, sin = torch.ones_like(scale), torch.zeros_like(scale)
    else:
        cos, sin = angle.cos(), angle.sin()
    (a, b), (c, d) = scaled_rotation(scale, cos, sin)
    rows = [torch.stack([a, b, shift[:, 0]], 1), torch.stack([c, d, shift[:, 1]], 1)]
    shape = [len(images), images.shape[1], size, size]
    grid = F.affine_grid(torch.stack(rows, 1), shape, align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode=padding, align_corners=False)


def crop_cameras(
    K: torch.Tensor, squares: torch.Tensor, angle: torch.Tensor, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return intrinsics and rotation of the cameras that take these crops.

    The 2 x 2 part of the map from image to crop, times that of K, is split by an RQ decomposition
    into new intrinsics (upper triangular) and a rotation about the optical axis.

    Args:
        K: (B, 3, 3) of the images.
        squares: (B, 3) centre x, y and side in pixels of the images.
        angle: (B,) radians, as for ``crop_squares``.
        size: the crops' side S in pixels.

    Returns:
        (B, 3, 3) intrinsics in the crop's pixels, (B, 3, 3) rotation from the image's camera.
    """
    scale = size / squares[:, 2]
    (a, b), (c, d) = scaled_rotation(scale, angle.cos(), -angle.sin())
    part = torch.stack([torch.stack([a, b], -1), torch.stack([c, d], -1)], 1)
    m = part @ K[:, :2, :2]
    length = m[:, 1].norm(dim=-1)
    sin, cos = m[:, 1, 0] / length, m[:, 1, 1] / length
    zero, one = torch.zeros_like(sin), torch.ones_like(sin)
    rows = [
        torch.stack([cos, -sin, zero], -1),
        torch.stack([sin, cos, zero], -1),
        torch.stack([zero, zero, one], -1),
    ]
    rotation = torch.stack(rows, 1)
    out = torch.eye(3, device=K.device).repeat(len(K), 1, 1)
    out[:, 0, :2] = (m[:, :1] @ rotation[:, :2, :2].transpose(1, 2))[:, 0]
    # And 0 before it, exactly: whoever draws with these intrinsics asks for that.
    out[:, 1, 1] = length
    out[:, :2, 2] = (part @ (K[:, :2, 2] - squares[:, :2])[..., None])[..., 0] + size / 2
    return out, rotation


def mirror_cameras(K: torch.Tensor, flip: torch.Tensor, size: int) -> torch.Tensor:
    """Return intrinsics of images of which some are mirrored left to right.

    Args:
        K: (B, 3, 3).
        flip: (B,) bool, which are.
        size: the images' side in pixels.
    """
    other = K.clone()
    other[:, 0, 1] = -K[:, 0, 1]
    other[:, 0, 2] = size - K[:, 0, 2]
    return torch.where(flip[:, None, None], other, K)
