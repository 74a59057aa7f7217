"""What contours a patch holds: histograms of the directions of its gradients.

HOG (Dalal and Triggs, CVPR 2005) as a target of masked patches (MaskFeat, arXiv 2112.09133): it
tells shape from light and colour, which pixels do not.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange

CELL_PX = 8
FLOOR = 1e-6  # under the root of a patch's energy: a patch of one colour has no contours


def count_values(patch: int, bins: int) -> int:
    """Values of a patch: those of each bin, of each cell of about 8 pixels, of each channel."""
    return 3 * bins * _cells(patch) ** 2


def histograms(images: torch.Tensor, patch: int, bins: int) -> torch.Tensor:
    """Histograms of the directions of gradients, in float32.

    Gradients are central differences; directions count without their sign, so from 0 to pi; each
    pixel's magnitude is shared by the two nearest bins. A patch's values have a mean square of 1,
    as those of a normalised patch have, or of less where there is hardly a contour.

    Args:
        images: (B, 3, H, W) normalised.  patch: side of a patch.  bins: directions.
    Returns:
        (B, N, count_values(patch, bins)); patches row by row.
    """
    padded = F.pad(images.float(), (1, 1, 1, 1), mode="replicate")
    across = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]
    down = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    magnitude = torch.hypot(across, down)
    place = torch.atan2(down, across).remainder(math.pi) * (bins / math.pi)
    cells = _cells(patch)
    pooled = []
    for number in range(bins):
        away = (place - number).abs()
        away = torch.minimum(away, bins - away)  # the last direction is beside the first
        share = (1 - away).clamp(min=0)
        pooled.append(F.avg_pool2d(magnitude * share, patch // cells))
    values = rearrange(
        torch.stack(pooled, 2),
        "b c k (rows i) (columns j) -> b (rows columns) (i j c k)",
        i=cells,
        j=cells,
    )
    return values / (values.square().mean(2, keepdim=True) + FLOOR).sqrt()


def _cells(patch: int) -> int:
    """Cells along a patch's side: as many as are at least 8 pixels wide and divide it."""
    most = max(1, patch // CELL_PX)
    return max(cells for cells in range(1, most + 1) if patch % cells == 0)
