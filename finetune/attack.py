"""Images that are changed against the network by one step with noise: N-FGSM.

After de Jorge et al., Make Some Noise: Reliable and Efficient Single-Step Adversarial Training,
NeurIPS 2022: noise of twice the radius, then a step of one radius along the sign of the gradient of
the loss at the noisy image, held inside of the range of images and not inside of the radius. It
costs one more pass forward and backward of the crops that are changed.

Noise is a function of the run's seed, of the crop and of its place in the image, so it is the same
however a batch is spread.
"""

from collections.abc import Callable

import torch

from data.loading.augment import MEAN, STD
from data.loading.crops import TAGS

NOISE = 2.0  # radii of uniform noise before the step
IDENTITY = ("source", "epoch", "shard", "index", "crop")  # tags that tell a crop from others
LEVELS = 255.0  # what the radius is given in
# Weyl's step and the two factors of Steele et al., Fast Splittable Pseudorandom Number Generators,
# 2014, as signed numbers.
GOLDEN, FIRST, SECOND = -7046029254386353131, -4658895280553007687, -7723592293110705685


class Attack:
    """Changes images by N-FGSM.

    Args:
        radius: of a step, in levels of 0 to 255.
        share: of the crops that are changed.
        seed: of the noise and of which crops.
    """

    def __init__(self, radius: float, share: float = 1.0, seed: int = 0) -> None:
        self.radius, self.share, self.seed = radius, share, seed

    def choose(self, tags: torch.Tensor) -> torch.Tensor:
        """Returns (n,) int64, the rows of a batch that are changed.

        Args:
            tags: (B, ...) as data.loading.crops.TAGS names them.
        """
        names = name_crops(tags, self.seed)
        return (draw_uniform(names, 1)[:, 0] < self.share).nonzero()[:, 0]

    def move(
        self,
        images: torch.Tensor,
        tags: torch.Tensor,
        loss_of: Callable[[torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        """Returns the images (n, 3, H, W), normalised as before, moved up the loss.

        Args:
            tags: (n, ...).  loss_of: from images to a loss that is a sum over them.
        """
        mean, std = (images.new_tensor(values)[:, None, None] for values in (MEAN, STD))
        low, high, step = -mean / std, (1 - mean) / std, self.radius / LEVELS / std
        count = images[0].numel() if len(images) else 0
        names = name_crops(tags, self.seed)
        noise = draw_uniform(names, 1 + count)[:, 1:].view_as(images)
        start = images.detach() + NOISE * step * (2 * noise.to(images) - 1)
        start = torch.minimum(torch.maximum(start, low), high).requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(loss_of(start), start)
        moved = start.detach() + step * gradient.sign()
        return torch.minimum(torch.maximum(moved, low), high)


def name_crops(tags: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Returns (B,) int64, a number for each crop, for ``draw_uniform``.

    Args:
        tags: (B, ...) as data.loading.crops.TAGS names them.
    """
    name = torch.full_like(tags[:, 0], seed, dtype=torch.int64)
    for column in IDENTITY:
        name = _mix(name + GOLDEN) ^ tags[:, TAGS.index(column)].long()
    return _mix(name + GOLDEN)


def draw_uniform(names: torch.Tensor, count: int) -> torch.Tensor:
    """Returns (B, count) float64 uniform in [0, 1), the same of equal numbers (B,) everywhere."""
    places = torch.arange(1, count + 1, device=names.device)
    return _shift(_mix(names[:, None] + GOLDEN * places), 11).double() / 2**53


def _mix(value: torch.Tensor) -> torch.Tensor:
    """SplitMix64's mixing of int64, which overflow as unsigned numbers do."""
    value = (value ^ _shift(value, 30)) * FIRST
    value = (value ^ _shift(value, 27)) * SECOND
    return value ^ _shift(value, 31)


def _shift(value: torch.Tensor, bits: int) -> torch.Tensor:
    """A logical shift to the right of int64."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)
