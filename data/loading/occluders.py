"""Shapes over crops that hide a part of the person, never more than half."""

import math
from collections.abc import Iterator

import torch

from data.cropping.geometry import Size, find_longer, find_sides

SHAPES = 3  # at most, over a crop
PER_SHAPE = 9  # uniform numbers of one


def choose_rows(chosen: torch.Tensor) -> torch.Tensor:
    """Indices of the rows that are worked on for the sake of the chosen (B,) bool.

    On a CPU these alone. On a GPU all, for their count would have to be waited for; ``put_rows``
    then takes only the chosen.
    """
    if chosen.device.type == "cpu":
        return chosen.nonzero()[:, 0]
    return torch.arange(len(chosen), device=chosen.device)


def put_rows(
    images: torch.Tensor, rows: torch.Tensor, chosen: torch.Tensor, changed: torch.Tensor
) -> torch.Tensor:
    """Images of which the chosen rows are those of ``changed``; may overwrite ``images``.

    Args:
        images: (B, ...).  rows: (n,) of choose_rows.  chosen: (B,) bool.  changed: (n, ...).
    """
    if len(rows) < len(images) or chosen.device.type == "cpu":
        return images.index_copy_(0, rows, changed)
    return torch.where(chosen.reshape(-1, *[1] * (images.dim() - 1)), changed, images)


def hide_parts(
    images: torch.Tensor,
    u: torch.Tensor,
    chosen: torch.Tensor,
    donors: torch.Tensor,
    person: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(images with one to three shapes over the chosen, (B,) share of the person they hide).

    A shape that would bring what is hidden of the person above a half is left out.

    Args:
        images: (B, 3, H, W) in [0, 1]; overwritten.
        u: (B, 1 + SHAPES * PER_SHAPE) uniform numbers.
        chosen: (B,) bool.
        donors: (B,) indices of images: what the shapes show.
        person: (B, 1, H, W) in [0, 1], how far a pixel is the person.
    """
    rows = choose_rows(chosen)
    if not len(rows):
        return images, images.new_zeros(len(images))
    u, person, out = u[rows], person[rows], images[rows]
    textures = images[donors[rows]].flip(-1)
    free = torch.ones_like(person)
    for of_shape, shape, along, left in place_shapes(u, person):
        free = left
        out = torch.lerp(out, _colour(textures, of_shape, along), shape)
    hidden = find_hidden(person, free)
    covered = put_rows(images.new_zeros(len(images)), rows, chosen, hidden)
    return put_rows(images, rows, chosen, out), covered


def find_free(
    u: torch.Tensor, chosen: torch.Tensor, person: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """((B, 1, S, S) in [0, 1] how far ``hide_parts`` leaves each pixel, (B,) what it hides).

    Args:
        u, chosen, person: as ``hide_parts`` has them.
    """
    rows = choose_rows(chosen)
    free, hidden = torch.ones_like(person), person.new_zeros(len(person))
    if not len(rows):
        return free, hidden
    left = torch.ones_like(person[rows])
    for _, _, _, after in place_shapes(u[rows], person[rows]):
        left = after
    hidden = put_rows(hidden, rows, chosen, find_hidden(person[rows], left))
    return put_rows(free, rows, chosen, left), hidden


def find_hidden(person: torch.Tensor, free: torch.Tensor) -> torch.Tensor:
    """(B,) share of the person that is hidden where (B, 1, S, S) is below 1."""
    return 1 - (person * free).sum((1, 2, 3)) / person.sum((1, 2, 3)).clamp(min=1e-6)


def place_shapes(
    u: torch.Tensor, person: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Yield (its numbers, the shape, its shading, what all so far leave free) of each shape.

    Args:
        u, person: of the chosen rows, as ``hide_parts`` has them.
    """
    whole = person.sum((1, 2, 3)).clamp(min=1e-6)
    free = torch.ones_like(person)
    for number in range(SHAPES):
        of_shape = u[:, 1 + number * PER_SHAPE :][:, :PER_SHAPE]
        shape, along = draw_shape(of_shape, (person.shape[-2], person.shape[-1]))
        shape = shape * (u[:, 0] * SHAPES >= number)[:, None, None, None]
        left = free * (1 - shape)
        fits = ((person * left).sum((1, 2, 3)) >= 0.5 * whole)[:, None, None, None]
        free = torch.where(fits, left, free)
        yield of_shape, shape * fits, along, free


def draw_shape(u: torch.Tensor, size: Size) -> tuple[torch.Tensor, torch.Tensor]:
    """((n, 1, H, W) in [0, 1] rectangles, ellipses and limb-like bars, (n, 1, H, W) shading).

    The shading goes from -1 to 1 across a shape. Lengths are shares of the longer side. ``u``: (n,
    PER_SHAPE) uniform numbers.
    """
    (rows, columns), longer = find_sides(size), find_longer(size)
    down, across = (
        (torch.arange(length, device=u.device) + 0.5) / longer for length in (rows, columns)
    )
    angle = math.pi * u[:, 3, None, None]
    # Upright and level ones, as edges of furniture are, are the most frequent rectangles.
    straight = (u[:, 0] < 0.2)[:, None, None]
    angle = torch.where(straight, (angle * (2 / math.pi)).round() * (math.pi / 2), angle)
    bar = u[:, 0] > 0.65
    length = torch.where(bar, 0.2 + 0.4 * u[:, 4], 0.06 + 0.24 * u[:, 4] ** 1.5)
    width = torch.where(bar, 0.02 + 0.045 * u[:, 5], length * (0.35 + 0.65 * u[:, 5]))
    x = across[None, None] - (0.05 + 0.9 * u[:, 1, None, None]) * (columns / longer)
    y = down[None, :, None] - (0.05 + 0.9 * u[:, 2, None, None]) * (rows / longer)
    a = angle.cos() * x + angle.sin() * y
    b = angle.cos() * y - angle.sin() * x
    length, width = length[:, None, None], width[:, None, None]
    box = torch.maximum(a.abs() - length, b.abs() - width)
    round_ended = ((a.abs() - length).clamp(min=0).square() + b.square()).sqrt() - width
    oval = (((a / length).square() + (b / width).square()).sqrt() - 1) * width
    ellipse = ((u[:, 0] > 0.4) & ~bar)[:, None, None]
    outside = torch.where(bar[:, None, None], round_ended, torch.where(ellipse, oval, box))
    shape = (0.5 - outside * longer / 1.5).clamp(0, 1)[:, None]
    return shape, (b / width).clamp(-1, 1)[:, None]


def _colour(textures, u, along):
    """What a shape is made of: its texture, or nearly one colour; darker towards one side."""
    flat = textures.mean((2, 3), keepdim=True) * (0.5 + u[:, 6:9, None, None])
    plain = (u[:, 0] * 64 % 1)[:, None, None, None] * 0.9
    shade = 1 - 0.3 * (u[:, 5] * 64 % 1)[:, None, None, None] * along.abs()
    return (torch.lerp(textures, flat, plain) * shade).clamp(0, 1)
