"""What cameras and files do to images: blur, few pixels, noise, blocks; and other colours."""

import functools
import math

import torch
import torch.nn.functional as F

from data.loading.occluders import choose_rows, put_rows

FACTORS = (1.5, 2.0, 3.0, 4.0)  # by which an image is made smaller and again as large
KERNEL = 7  # pixels of a blur's side
CELL = 8  # pixels of a block's side
NOISE_SIDE = 512
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def degrade(images: torch.Tensor, u: torch.Tensor, share: float) -> torch.Tensor:
    """Blur, resample, add noise and blocks, each to a share of the images, in this order.

    Args:
        images: (B, 3, H, W) in [0, 1]; overwritten.  u: (B, 20) uniform numbers.
    """
    for number, change in enumerate((blur, resample, add_noise, add_blocks)):
        of_this = u[:, 5 * number : 5 * number + 5]
        chosen = of_this[:, 0] < share
        rows = choose_rows(chosen)
        if len(rows):
            images = put_rows(images, rows, chosen, change(images[rows], of_this[rows, 1:]))
    return images


def blur(images: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Blur of lenses and of motion: a Gaussian, for half of the images long in one direction.

    Args:
        images: (n, 3, H, W).  u: (n, 4) uniform numbers.
    """
    n = len(images)
    line = torch.arange(KERNEL, device=images.device) - KERNEL // 2
    x, y = line[None, None, :], line[None, :, None]
    cos, sin = (math.pi * u[:, 0, None, None]).cos(), (math.pi * u[:, 0, None, None]).sin()
    wide = 0.4 + 1.6 * u[:, 1, None, None]
    narrow = torch.where((u[:, 2] < 0.5)[:, None, None], wide, wide * u[:, 3, None, None] + 0.2)
    kernel = torch.exp(
        -0.5 * (((cos * x + sin * y) / wide) ** 2 + ((cos * y - sin * x) / narrow) ** 2)
    )
    kernel = kernel / kernel.sum((1, 2), keepdim=True)
    padded = F.pad(images, [KERNEL // 2] * 4, mode="replicate")
    return F.conv2d(padded.transpose(0, 1), kernel[:, None], groups=n).transpose(0, 1)


def resample(images: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Images made smaller, by one of FACTORS, and as large again.

    Args:
        images: (n, 3, H, W).  u: (n, 4) uniform numbers.
    """
    size = images.shape[-2:]
    which = (u[:, 0] * len(FACTORS)).long()
    for number, factor in enumerate(FACTORS):
        chosen = which == number
        rows = choose_rows(chosen)
        if not len(rows):
            continue
        few = [round(side / factor) for side in size]
        small = F.interpolate(images[rows], size=few, mode="area")
        images = put_rows(images, rows, chosen, F.interpolate(small, size=size, mode="bilinear"))
    return images


def add_noise(images: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Images with normal noise, grey and coloured, stronger where there is light.

    Args:
        images: (n, 3, H, W) in [0, 1].  u: (n, 4) uniform numbers.
    """
    bank = _draw_noise(images.device)
    y, x = (
        (u[:, i, None] * NOISE_SIDE).long() + torch.arange(size, device=images.device)
        for i, size in enumerate(images.shape[-2:])
    )
    found = bank[:, (y % NOISE_SIDE)[:, :, None], (x % NOISE_SIDE)[:, None, :]].transpose(0, 1)
    found = torch.lerp(found, found[:, :1], u[:, 2, None, None, None])
    strength = (0.01 + 0.06 * u[:, 3] ** 2)[:, None, None, None]
    return (images + strength * found * (0.5 + images)).clamp(0, 1)


def add_blocks(images: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Images whose cells of 8 x 8 pixels keep few steps of few frequencies, as JPEG leaves them.

    Quantised are their cosine transforms in luma and two differences of colour, the coarser the
    higher the frequency: ITU-T T.81 with tables that grow linearly.

    Args:
        images: (n, 3, H, W) in [0, 1].  u: (n, 4) uniform numbers.
    """
    high, wide = images.shape[-2:]
    waves, colours, back = _make_waves(images.device), *_make_colours(images.device)
    padded = F.pad(images, (0, -wide % CELL, 0, -high % CELL), mode="replicate")
    planes = F.conv2d(padded, colours[:, :, None, None]).flatten(0, 1)[:, None]
    found = F.conv2d(planes, waves, stride=CELL)
    luma = 0.02 + 0.12 * u[:, 0] ** 2
    steps = torch.stack([luma, 2 * luma, 2 * luma], 1).reshape(-1, 1, 1, 1) * _grow(images.device)
    found = (found / steps).round_().mul_(steps)
    planes = F.conv_transpose2d(found, waves, stride=CELL).reshape(padded.shape)
    out = F.conv2d(planes, back[:, :, None, None])
    return out[:, :, :high, :wide].clamp(0, 1)


def change_tone(
    images: torch.Tensor, u: torch.Tensor, tone: float, hue: float, grey: float
) -> torch.Tensor:
    """Images with other colours: of each channel, of hues, of mid-tones, or none.

    Args:
        images: (B, 3, H, W) in [0, 1].  u: (B, 8) uniform numbers.
        tone: factors of channels are 1 - tone to 1 + tone.  hue: largest rotation, radians.
        grey: share without colour.
    """
    gains = 1 + tone * (2 * u[:, :3] - 1)
    angle = (hue * (2 * u[:, 3] - 1))[:, None, None]
    # A rotation about the grey axis (Rodrigues).
    one, luma = torch.eye(3, device=u.device), _make_colours(u.device)[0][:1].expand(3, 3)
    third = torch.full_like(one, 1 / 3)
    cross = (one.roll(-1, 0) - one.roll(1, 0)).T / math.sqrt(3)
    turned = angle.cos() * one + (1 - angle.cos()) * third + angle.sin() * cross
    matrix = torch.where((u[:, 4] < grey)[:, None, None], luma, turned * gains[:, None])
    out = _mix_channels(images, matrix).clamp_(0, 1)
    # x + c x (1 - x): black and white stay.
    curve = (2 * tone * (2 * u[:, 5] - 1))[:, None, None, None]
    return out.mul_(torch.addcmul(1 + curve, out, -curve))


def _mix_channels(images, matrix):
    """(B, 3, H, W) channels mixed by (B, 3, 3); sums by hand, for BLAS is slow at such shapes."""
    out = torch.empty_like(images)
    parts = matrix[..., None, None]
    for number in range(3):
        channel = torch.mul(images[:, 0], parts[:, number, 0], out=out[:, number])
        channel.addcmul_(images[:, 1], parts[:, number, 1])
        channel.addcmul_(images[:, 2], parts[:, number, 2])
    return out


@functools.cache
def _draw_noise(device):
    """(3, NOISE_SIDE, NOISE_SIDE) normal numbers, always the same."""
    random = torch.Generator().manual_seed(77)
    return torch.randn((3, NOISE_SIDE, NOISE_SIDE), generator=random).to(device)


@functools.cache
def _make_waves(device):
    """(64, 1, 8, 8) orthonormal waves of the two-dimensional cosine transform."""
    place = torch.arange(CELL, dtype=torch.float64)
    waves = torch.cos(math.pi * place[:, None] * (2 * place + 1) / (2 * CELL)) * math.sqrt(2 / CELL)
    waves[0] /= math.sqrt(2)
    both = waves[:, None, :, None] * waves[None, :, None, :]
    return both.reshape(CELL * CELL, 1, CELL, CELL).float().to(device)


@functools.cache
def _grow(device):
    """(64, 1, 1) how much coarser each wave of _make_waves is quantised than the first."""
    place = torch.arange(CELL)
    return (1 + 0.6 * (place[:, None] + place)).reshape(-1, 1, 1).to(device)


@functools.cache
def _make_colours(device):
    """((3, 3) to luma and two differences, (3, 3) its inverse)."""
    red, green, blue = LUMA
    there = torch.tensor(
        [
            [red, green, blue],
            [-red / 1.772, -green / 1.772, 0.5],
            [0.5, -green / 1.402, -blue / 1.402],
        ]
    ).double()
    return there.float().to(device), there.inverse().float().to(device)
