"""The camera of a crop, as the network answers by it: relative to the ray through its middle.

Equal crops ask for equal answers, wherever in an image they were cut out: orientations are about
the ray through the crop's middle, and translations are given in the image. The true intrinsics
convert these into the camera's frame.

An *image translation* (B, 3) is where a point lies: its offset x and y from the image's middle over
the image's side, and the log of the scene's width in metres there. The side of a rectangular image
is its longer one, for both.
"""

import torch
from torch.nn.functional import normalize

from data.cropping.geometry import Size, find_longer, find_sides

NEAREST_M = 1e-3  # depths below are taken for this, for a point behind the camera has no log


def describe_camera(K: torch.Tensor, size: Size) -> torch.Tensor:
    """Return (B, 3) what a head knows of the camera.

    The middle's ray (x, y at unit depth) and the log of its field of view.

    Args:
        K: (B, 3, 3) intrinsics.
        size: side of the images, in their pixels, or (rows, columns).
    """
    middle = find_middle_ray(K, size)
    return torch.cat([middle[:, :2], torch.log(find_longer(size) / focal_length(K))[:, None]], 1)


def focal_length(K: torch.Tensor) -> torch.Tensor:
    """Returns the (B,) focal length in pixels, the geometric mean of both axes."""
    return (K[:, 0, 0] * K[:, 1, 1]).sqrt()


def find_middle_ray(K: torch.Tensor, size: Size) -> torch.Tensor:
    """Returns the (B, 3) direction at unit depth through the middle of an image of ``size`` px."""
    rows, columns = find_sides(size)
    middle = torch.full_like(K[:, 0, :2], columns / 2)
    middle[:, 1] = rows / 2
    return find_ray(K, middle)


def to_shares(pixels: torch.Tensor, size: Size) -> torch.Tensor:
    """Returns (..., 2) pixels of images as offsets from their middle over the side."""
    return pixels / find_longer(size) - find_middle(size, pixels)


def lengths_of(size: Size, like: torch.Tensor) -> torch.Tensor | int:
    """Returns the (2,) width and height of images in pixels, or the side of square ones."""
    rows, columns = find_sides(size)
    if rows == columns:
        return columns
    lengths = torch.full_like(like.flatten()[:2], columns)
    lengths[1] = rows
    return lengths


def find_middle(size: Size, like: torch.Tensor) -> torch.Tensor | float:
    """Returns the middle of images over their side, x and y."""
    (rows, columns), longer = find_sides(size), find_longer(size)
    if rows == columns:
        return 0.5
    # Without a copy from the host, which a device would wait for.
    middle = torch.full_like(like[..., :2], columns / (2 * longer))
    middle[..., 1] = rows / (2 * longer)
    return middle


def find_ray(K: torch.Tensor, pixel: torch.Tensor) -> torch.Tensor:
    """Returns the (B, 3) direction at unit depth through pixels (B, 2).

    By K's own triangle: a solver would wait for the device.
    """
    y = (pixel[:, 1] - K[:, 1, 2]) / K[:, 1, 1]
    x = (pixel[:, 0] - K[:, 0, 2] - K[:, 0, 1] * y) / K[:, 0, 0]
    return torch.stack([x, y, torch.ones_like(x)], 1)


def find_ray_rotation(K: torch.Tensor, size: Size) -> torch.Tensor:
    """Returns the (B, 3, 3) smallest rotation that takes the optical axis to the middle's ray."""
    return rotate_to_ray(find_middle_ray(K, size))


def rotate_to_ray(ray: torch.Tensor) -> torch.Tensor:
    """Returns the (B, 3, 3) smallest rotation that takes the optical axis to rays (B, 3).

    Rodrigues' formula with axis (-y, x, 0) and cosine z: R = z I + [v]x + v v^T / (1 + z). What an
    image shows is always in front (z > 0).
    """
    x, y, z = normalize(ray, dim=-1).unbind(-1)
    zero, h = torch.zeros_like(x), 1 / (1 + z)
    rows = (
        torch.stack([z + y * y * h, -x * y * h, x], -1),
        torch.stack([-x * y * h, z + x * x * h, y], -1),
        torch.stack([-x, -y, z + zero], -1),
    )
    return torch.stack(rows, 1)


def to_translation(image_translation: torch.Tensor, K: torch.Tensor, size: Size) -> torch.Tensor:
    """Returns (B, 3) metres in the camera's frame of an image translation (B, 3)."""
    longer = find_longer(size)
    depth = image_translation[:, 2].exp() * focal_length(K) / longer
    middle = find_middle(size, image_translation)
    return find_ray(K, (image_translation[:, :2] + middle) * longer) * depth[:, None]


def to_image_translation(translation: torch.Tensor, K: torch.Tensor, size: Size) -> torch.Tensor:
    """Return the (B, 3) image translation of a point (B, 3) in front of the camera, metres.

    The inverse of to_translation.
    """
    depth = translation[:, 2].clamp_min(NEAREST_M)
    pixel = (K @ translation[..., None])[..., 0] / depth[:, None]
    width = depth * find_longer(size) / focal_length(K)
    return torch.cat([to_shares(pixel[:, :2], size), width.log()[:, None]], 1)
