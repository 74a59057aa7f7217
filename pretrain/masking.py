"""Who gets masked: patches on the person a little more than the rest, and always equally many."""

import torch
from einops import rearrange

from engine.errors import UserError

# From this share on a patch counts as "on the person" where a number of such patches is promised.
ON_PERSON = 0.5


def person_share(masks: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Return the share of each patch that the person covers.

    Exact also where patches cut through the mask's cells.

    Args:
        masks: (B, S, S) bool or float, 1 on the person.  grid: (rows, columns) of patches.
    Returns:
        (B, rows * columns) float32 in [0, 1].
    """
    rows = _coverage(grid[0], masks.shape[1], masks.device)
    columns = _coverage(grid[1], masks.shape[2], masks.device)
    return (rows @ masks.float() @ columns.T).flatten(1)


def choose_blocks(
    noise: torch.Tensor,
    person: torch.Tensor,
    grid: tuple[int, int],
    block: int,
    ratio: float,
    person_bonus: float,
    min_visible_person: int = 8,
    bonus: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``choose`` for whole blocks of patches.

    What neighbours give away about a patch that is masked by itself, they cannot about a block.

    A block's noise is that of its first patch, its share of person the mean of its patches'; as
    many blocks stay visible as it takes to promise ``min_visible_person`` patches.

    Args:
        noise, person: (B, N), N = rows * columns, as in ``choose``.
        grid: (rows, columns) of patches, multiples of ``block``.
        block: side of a block in patches; 1 is ``choose``.
        ratio: of blocks to mask.  person_bonus, min_visible_person: as in ``choose``.
        bonus: (B, N) added to the noise, so that where it is high patches are masked first; of a
            block the mean of its patches'.
    Returns:
        keep (B, V), masked (B, M): long, ascending patches.
    """
    if block == 1:
        noise = noise if bonus is None else noise + bonus
        return choose(noise, person, ratio, person_bonus, min_visible_person)
    rows, columns = grid[0] // block, grid[1] // block
    patches = torch.arange(grid[0] * grid[1], device=noise.device)
    # (blocks, block * block): the patches of each block.
    members = rearrange(patches, "(r p c q) -> (r c) (p q)", r=rows, p=block, c=columns, q=block)
    promised, of_first = -(-min_visible_person // block**2), noise[:, members[:, 0]]
    if bonus is not None:
        of_first = of_first + bonus[:, members].mean(2)
    of_blocks = choose(of_first, person[:, members].mean(2), ratio, person_bonus, promised)
    keep, masked = (members[blocks].flatten(1).sort(1).values for blocks in of_blocks)
    return keep, masked


def choose(
    noise: torch.Tensor,
    person: torch.Tensor,
    ratio: float,
    person_bonus: float,
    min_visible_person: int = 8,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose which patches stay and which are masked.

    A pure function of its arguments, on their device, of fixed shapes.

    M = int(ratio * N) patches are masked. Patches are ranked by noise + person_bonus * person and
    the highest are masked; but of the V = N - M visible ones at least min(min_visible_person,
    person patches // 4, V) lie on the person, so that something of the person can be seen. (HAP,
    NeurIPS 2023, ranks alike, without the promise.)

    Args:
        noise: (B, N) uniform in [0, 1).  person: (B, N) share of each patch on the person.
        ratio: of patches to mask.  person_bonus: 0 ignores the person; 1 masks all of the person
            before any background.
    Returns:
        keep (B, V), masked (B, M): long, ascending.
    Raises:
        UserError: the ratio leaves nothing to see or nothing to paint.
    """
    count = noise.shape[1]
    masked = int(ratio * count)
    visible = count - masked
    if not 0 < masked < count:
        raise UserError(
            f"masking.ratio={ratio} of {count} patches masks {masked}; at least 1 must be masked "
            f"and 1 visible"
        )
    on_person = person >= ON_PERSON
    promised = torch.clamp(
        on_person.sum(1, keepdim=True) // 4, max=min(min_visible_person, visible)
    )
    score = noise + person_bonus * person
    # Rank among the person's patches alone: the others go behind them.
    rank = (
        torch.where(on_person, score, torch.inf)
        .argsort(dim=1, stable=True)
        .argsort(dim=1, stable=True)
    )
    score = torch.where(on_person & (rank < promised), -torch.inf, score)
    order = score.argsort(dim=1, stable=True)
    return order[:, :visible].sort(1).values, order[:, visible:].sort(1).values


def choose_reference(
    noise: torch.Tensor, person: torch.Tensor, ratio: float, bonus: float
) -> torch.Tensor:
    """Choose which patches of the references are attended to.

    All but int(ratio * N), background being left out first.

    Args:
        noise, person: (R, N) as in ``choose``.  ratio: of patches to leave out.
        bonus: 0 leaves out any; 1 leaves out patches without person before those that the person
            fills.
    Returns:
        (R, V) long, ascending.
    """
    left = noise.shape[1] - int(ratio * noise.shape[1])
    order = (noise - bonus * person).argsort(dim=1, stable=True)
    return order[:, :left].sort(1).values


def _coverage(patches, cells, device):
    """(patches, cells) share of each patch that lies in each cell, along one axis.

    Rows sum to 1.
    """
    edge = torch.arange(patches + 1, device=device) * (cells / patches)
    low = torch.arange(cells, device=device)
    overlap = torch.minimum(edge[1:, None], low + 1) - torch.maximum(edge[:-1, None], low)
    return overlap.clamp(min=0) * (patches / cells)
