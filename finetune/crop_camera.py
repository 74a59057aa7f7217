"""The camera of a crop, as the network answers by it: relative to the ray through its middle.

Equal crops ask for equal answers, wherever in an image they were cut out: orientations are about
the ray through the crop's middle, and translations are given in the image. The true intrinsics
convert these into the camera's frame.

An *image translation* (B, 3) is where a point lies: its offset x and y from the image's middle over
the image's side, and the log of the scene's width in metres there.
"""

import torch
from torch.nn.functional import normalize

NEAREST_M = 1e-3  # depths below are taken for this, for a point behind the camera has no log


def describe_camera(K: torch.Tensor, size: int) -> torch.Tensor:
    """Return (B, 3) what a head knows of the camera.

    The middle's ray (x, y at unit depth) and the log of its field of view.

    Args:
        K: (B, 3, 3) intrinsics.
        size: side of the images, in their pixels.
    """
    middle = find_middle_ray(K, size)
    return torch.cat([middle[:, :2], torch.log(size / focal_length(K))[:, None]], 1)


def focal_length(K: torch.Tensor) -> torch.Tensor:
    """Returns the (B,) focal length in pixels, the geometric mean of both axes."""
    return (K[:, 0, 0] * K[:, 1, 1]).sqrt()


def find_middle_ray(K: torch.Tensor, size: int) -> torch.Tensor:
    """Returns the (B, 3) direction at unit depth through the middle of an image of ``size`` px."""
    return find_ray(K, torch.full_like(K[:, 0, :2], size / 2))


def find_ray(K: torch.Tensor, pixel: torch.Tensor) -> torch.Tensor:
    """Returns the (B, 3) direction at unit depth through pixels (B, 2).

    By K's own triangle: a solver would wait for the device.
    """
    y = (pixel[:, 1] - K[:, 1, 2]) / K[:, 1, 1]
    x = (pixel[:, 0] - K[:, 0, 2] - K[:, 0, 1] * y) / K[:, 0, 0]
    return torch.stack([x, y, torch.ones_like(x)], 1)


def find_ray_rotation(K: torch.Tensor, size: int) -> torch.Tensor:
    """Returns the (B, 3, 3) smallest rotation that takes the optical axis to the middle's ray.

    Rodrigues' formula with axis (-y, x, 0) and cosine z: R = z I + [v]x + v v^T / (1 + z). The
    image's middle is always in front (z > 0).
    """
    x, y, z = normalize(find_middle_ray(K, size), dim=-1).unbind(-1)
    zero, h = torch.zeros_like(x), 1 / (1 + z)
    rows = (
        torch.stack([z + y * y * h, -x * y * h, x], -1),
        torch.stack([-x * y * h, z + x * x * h, y], -1),
        torch.stack([-x, -y, z + zero], -1),
    )
    return torch.stack(rows, 1)


def to_translation(image_translation: torch.Tensor, K: torch.Tensor, size: int) -> torch.Tensor:
    """Returns (B, 3) metres in the camera's frame of an image translation (B, 3)."""
    depth = image_translation[:, 2].exp() * focal_length(K) / size
    return find_ray(K, (image_translation[:, :2] + 0.5) * size) * depth[:, None]


def to_image_translation(translation: torch.Tensor, K: torch.Tensor, size: int) -> torch.Tensor:
    """Return the (B, 3) image translation of a point (B, 3) in front of the camera, metres.

    The inverse of to_translation.
    """
    depth = translation[:, 2].clamp_min(NEAREST_M)
    pixel = (K @ translation[..., None])[..., 0] / depth[:, None]
    width = depth * size / focal_length(K)
    return torch.cat([pixel[:, :2] / size - 0.5, width.log()[:, None]], 1)
