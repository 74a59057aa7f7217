"""Crops of a whole batch with torch, on its device, and the cameras that see them."""

import torch
import torch.nn.functional as F

from data.cropping.border import BLACK, PADDING
from data.cropping.geometry import Size, find_longer, find_sides, scaled_rotation


def crop_squares(
    images: torch.Tensor, squares: torch.Tensor, size: Size, angle: torch.Tensor | None = None
) -> torch.Tensor:
    """Return squares of images, bilinear, averaged first where they shrink to half or less.

    Of a rectangular size the middles of these squares.

    What lies outside an image is black, see data/cropping/border.py.

    Args:
        images: (B, C, P, P) float, or rectangular ones.
        squares: (B, 3) centre x, y and side in pixels of the images.
        size: the crops' side S in pixels, or (rows, columns).
        angle: (B,) radians, see data/cropping/geometry.py; None: no square is rotated.

    Returns:
        (B, C, S, S) or (B, C, rows, columns).
    """
    return crop_padded(images, squares, size, PADDING, angle)


def crop_padded(
    images: torch.Tensor,
    squares: torch.Tensor,
    size: Size,
    padding: str,
    angle: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return what ``crop_squares`` does, with another border, for what is not an image.

    Args:
        padding: what the outside is, in grid_sample's words.
    """
    high, wide = images.shape[-2:]
    longer = find_longer(size)
    whole = _sample(images, squares, size, padding, angle)
    factor = max(high, wide) // longer
    if factor < 2:
        return whole
    # Blocks that lie across the edge are partly black.
    if padding == PADDING and (high % factor or wide % factor):
        images = F.pad(images, (0, -wide % factor, 0, -high % factor), value=BLACK)
    blocks = F.avg_pool2d(images, factor, ceil_mode=True)
    pooled = _sample(blocks, squares / factor, size, padding, angle)
    # Both are made and one is taken row by row, so that no shape depends on the data.
    shrinks = squares[:, 2] >= 0.75 * factor * longer
    return torch.where(shrinks[:, None, None, None], pooled, whole)


def _sample(
    images: torch.Tensor,
    squares: torch.Tensor,
    size: Size,
    padding: str,
    angle: torch.Tensor | None,
) -> torch.Tensor:
    """Bilinear samples of the squares."""
    (rows, columns), longer = find_sides(size), find_longer(size)
    high, wide = images.shape[-2:]
    # grid_sample without align_corners has pixel centres at +0.5, as we do: x_grid = 2 x / P - 1.
    side, x, y = squares[:, 2], 2 * squares[:, 0] / wide - 1, 2 * squares[:, 1] / high - 1
    if angle is None:
        cos, sin = torch.ones_like(side), torch.zeros_like(side)
    else:
        cos, sin = angle.cos(), angle.sin()
    (a, b), _ = scaled_rotation(side / wide, cos, sin)
    _, (c, d) = scaled_rotation(side / high, cos, sin)
    # The crop's own corners are at 1 and -1 too: of a rectangle less than the square's.
    along, down = columns / longer, rows / longer
    lines = [torch.stack([a * along, b * down, x], 1), torch.stack([c * along, d * down, y], 1)]
    shape = [len(images), images.shape[1], rows, columns]
    grid = F.affine_grid(torch.stack(lines, 1), shape, align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode=padding, align_corners=False)


def crop_cameras(
    K: torch.Tensor, squares: torch.Tensor, angle: torch.Tensor, size: Size
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return intrinsics and rotation of the cameras that take these crops.

    The 2 x 2 part of the map from image to crop, times that of K, is split by an RQ decomposition
    into new intrinsics (upper triangular) and a rotation about the optical axis.

    Args:
        K: (B, 3, 3) of the images.
        squares: (B, 3) centre x, y and side in pixels of the images.
        angle: (B,) radians, as for ``crop_squares``.
        size: the crops' side S in pixels, or (rows, columns).

    Returns:
        (B, 3, 3) intrinsics in the crop's pixels, (B, 3, 3) rotation from the image's camera.
    """
    scale = find_longer(size) / squares[:, 2]
    (a, b), (c, d) = scaled_rotation(scale, angle.cos(), -angle.sin())
    part = torch.stack([torch.stack([a, b], -1), torch.stack([c, d], -1)], 1)
    m = part @ K[:, :2, :2]
    length = m[:, 1].norm(dim=-1)
    sin, cos = m[:, 1, 0] / length, m[:, 1, 1] / length
    zero, one = torch.zeros_like(sin), torch.ones_like(sin)
    lines = [
        torch.stack([cos, -sin, zero], -1),
        torch.stack([sin, cos, zero], -1),
        torch.stack([zero, zero, one], -1),
    ]
    rotation = torch.stack(lines, 1)
    out = torch.eye(3, device=K.device).repeat(len(K), 1, 1)
    out[:, 0, :2] = (m[:, :1] @ rotation[:, :2, :2].transpose(1, 2))[:, 0]
    # And 0 before it, exactly: whoever draws with these intrinsics asks for that.
    out[:, 1, 1] = length
    middle = (part @ (K[:, :2, 2] - squares[:, :2])[..., None])[..., 0]
    rows, columns = find_sides(size)
    out[:, 0, 2], out[:, 1, 2] = middle[:, 0] + columns / 2, middle[:, 1] + rows / 2
    return out, rotation


def mirror_cameras(K: torch.Tensor, flip: torch.Tensor, size: Size) -> torch.Tensor:
    """Return intrinsics of images of which some are mirrored left to right.

    Args:
        K: (B, 3, 3).
        flip: (B,) bool, which are.
        size: the images' side in pixels, or (rows, columns).
    """
    other = K.clone()
    other[:, 0, 1] = -K[:, 0, 1]
    other[:, 0, 2] = find_sides(size)[1] - K[:, 0, 2]
    return torch.where(flip[:, None, None], other, K)


def fit_rectangles(squares: torch.Tensor, person: torch.Tensor, size: Size) -> torch.Tensor:
    """Return squares that are so much larger that a rectangle in their middle shows as much.

    As ``square_around`` makes them for boxes: by how much wider a person's box is than the
    rectangle, where the square was cut around its longer side. Squares of square crops stay.

    Args:
        squares: (B, 3) centre x, y and side.
        person: (B, R, R) above 0 where the person is; of one that is nowhere or everywhere the
            whole square is shown.
        size: of the crop that is cut.
    """
    (rows, columns), longer = find_sides(size), find_longer(size)
    if rows == columns:
        return squares
    seen = person > 0
    wide, high = (_find_extent(seen.any(axis)) for axis in (1, 2))
    most = torch.maximum(wide, high).clamp_min(1)
    grown = torch.maximum(wide * (longer / columns), high * (longer / rows)) / most
    whole = longer / min(rows, columns)
    grown = torch.where((wide > 0) & (high > 0), grown, whole)
    return torch.cat([squares[:, :2], squares[:, 2:] * grown[:, None]], 1)


def _find_extent(seen: torch.Tensor) -> torch.Tensor:
    """(B,) float cells from the first to the last that is true, of (B, R) bool."""
    place = torch.arange(seen.shape[1], device=seen.device)
    last = torch.where(seen, place, -1).amax(1)
    first = torch.where(seen, place, seen.shape[1]).amin(1)
    return (last - first + 1).clamp_min(0).float()
