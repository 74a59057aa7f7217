"""L-BFGS over many separate problems at once: each with its own steps, whoever is beside it.

torch.optim.LBFGS treats a batch as one problem: one length of the step for all, so that what a
person's fit becomes would depend on the others of the batch.
"""

from collections.abc import Callable

import torch

HISTORY = 12
ARMIJO = 1e-4
SHRINK = 0.35
TRIES = 7
STILL = 1e-5  # a step that gains less, as a share of the energy, several times over, is the last
PATIENCE = 3
FIRST_STEP = 0.3  # length of the first step, in units of the whitened numbers

Energy = Callable[[torch.Tensor], torch.Tensor]
Precondition = Callable[[torch.Tensor], torch.Tensor]


def minimise(
    energy: Energy, start: torch.Tensor, steps: int, precondition: Precondition | None = None
) -> torch.Tensor:
    """Return (B, D) numbers with less energy than those of ``start``.

    Two-loop recursion (Nocedal and Wright, Numerical Optimization, 7.4) with backtracking; a pair
    without curvature is not kept. No step makes an energy larger.

    Args:
        energy: (B, D) to (B,); row b depends on row b alone.
        start: (B, D).  steps: at most.
        precondition: (B, D) to (B, D), linear, symmetric and positive: a guess of the inverse
            Hessian, row by row. None: the numbers are alike.
    """
    here = start.detach()
    value, slope = _evaluate(energy, here)
    moves: list[torch.Tensor] = []
    changes: list[torch.Tensor] = []
    curvatures: list[torch.Tensor] = []
    waited = torch.zeros(len(here), dtype=torch.int64, device=here.device)
    for _ in range(steps):
        direction = -_apply_inverse(slope, moves, changes, curvatures, precondition)
        descent = (direction * slope).sum(1)
        # What rounding turned uphill goes straight down instead.
        uphill = descent >= 0
        direction = torch.where(uphill[:, None], -slope, direction)
        descent = torch.where(uphill, -slope.square().sum(1), descent)
        length = torch.ones_like(value)
        if not moves:
            length = FIRST_STEP / direction.norm(dim=1).clamp_min(1e-9)
            length = length.clamp_max(1.0)
        new, new_value, new_slope, moved = _search(
            energy, (here, value, slope), direction, descent, length, waited < PATIENCE
        )
        gain = (value - new_value) / value.abs().clamp_min(1e-12)
        waited = torch.where(moved & (gain > STILL), 0, waited + 1)
        _remember(moves, changes, curvatures, new - here, new_slope - slope)
        here, value, slope = new, new_value, new_slope
        if (waited >= PATIENCE).all():
            break
    return here


def _evaluate(energy: Energy, at: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.enable_grad():
        point = at.detach().requires_grad_(True)
        value = energy(point)
        (slope,) = torch.autograd.grad(value.sum(), point)
    return value.detach(), slope


def _search(
    energy: Energy,
    before: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    direction: torch.Tensor,
    descent: torch.Tensor,
    length: torch.Tensor,
    active: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(numbers, energies, slopes, (B,) whether moved) after shortening steps until all gain."""
    here, value, slope = before
    best, best_value, best_slope = here, value, slope
    moved = torch.zeros_like(active)
    open_ = active.clone()
    for _ in range(TRIES):
        tried = here + (length * open_)[:, None] * direction
        tried_value, tried_slope = _evaluate(energy, tried)
        good = open_ & (tried_value <= value + ARMIJO * length * descent)
        best = torch.where(good[:, None], tried, best)
        best_value = torch.where(good, tried_value, best_value)
        best_slope = torch.where(good[:, None], tried_slope, best_slope)
        moved |= good
        open_ &= ~good
        if not open_.any():
            break
        length = torch.where(open_, length * SHRINK, length)
    return best, best_value, best_slope, moved


def _remember(
    moves: list[torch.Tensor],
    changes: list[torch.Tensor],
    curvatures: list[torch.Tensor],
    move: torch.Tensor,
    change: torch.Tensor,
) -> None:
    """Keep a pair; rows without curvature as a pair of nothing."""
    product = (move * change).sum(1)
    good = product > 1e-8 * move.norm(dim=1) * change.norm(dim=1)
    good &= product > 0
    moves.append(move * good[:, None])
    changes.append(change * good[:, None])
    curvatures.append(torch.where(good, product, torch.ones_like(product)))
    if len(moves) > HISTORY:
        del moves[0], changes[0], curvatures[0]


def _apply_inverse(
    slope: torch.Tensor,
    moves: list[torch.Tensor],
    changes: list[torch.Tensor],
    curvatures: list[torch.Tensor],
    precondition: Precondition | None,
) -> torch.Tensor:
    """(B, D) the inverse Hessian, as the pairs tell it, times slopes."""
    out = slope
    shares = []
    for move, change, curvature in zip(
        reversed(moves), reversed(changes), reversed(curvatures), strict=True
    ):
        share = (move * out).sum(1) / curvature
        shares.append(share)
        out = out - share[:, None] * change
    apply = precondition or (lambda numbers: numbers)
    scale = torch.ones_like(slope[:, 0])
    # Of all pairs the last one that has curvature.
    for move, change in zip(moves, changes, strict=True):
        size = (change * apply(change)).sum(1)
        scale = torch.where(size > 0, (move * change).sum(1) / size.clamp_min(1e-30), scale)
    out = apply(out) * scale[:, None]
    for move, change, curvature, share in zip(
        moves, changes, curvatures, reversed(shares), strict=True
    ):
        back = (change * out).sum(1) / curvature
        out = out + (share - back)[:, None] * move
    return out
