"""Which direction of the camera each token sees, as numbers that a network reads."""

import torch

from finetune.crop_camera import find_ray

OCTAVES = 4
NUMBERS = 2 + 4 * OCTAVES  # of ``describe_rays``


def describe_rays(K: torch.Tensor, grid: tuple[int, int], patch: int) -> torch.Tensor:
    """Return (B, N, NUMBERS) of the rays through the middles of tokens.

    x and y at unit depth, and their sines and cosines at frequencies 1, 2, 4, ... (Fourier
    features, Tancik et al., NeurIPS 2020).

    Args:
        K: (B, 3, 3) of the images.  grid: (rows, columns) of tokens.
    """
    rows, columns = grid
    y, x = torch.meshgrid(
        (torch.arange(rows, device=K.device) + 0.5) * patch,
        (torch.arange(columns, device=K.device) + 0.5) * patch,
        indexing="ij",
    )
    pixels = torch.stack([x, y], -1).flatten(0, 1)
    count = len(pixels)
    rays = find_ray(K.repeat_interleave(count, 0), pixels.repeat(len(K), 1))[:, :2]
    angles = rays[:, None] * 2.0 ** torch.arange(OCTAVES, device=K.device)[:, None]
    waves = torch.cat([angles.sin(), angles.cos()], -1).flatten(1)
    return torch.cat([rays, waves], 1).unflatten(0, (len(K), count))
