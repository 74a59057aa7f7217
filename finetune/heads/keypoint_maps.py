"""Where in the image each keypoint is: a map over cells finer than tokens, read off the tokens.

A map is a distribution over all cells of the image. Its mean and how sharp it is are what a head
can go on from; trained on the true keypoints in the image, it gives the encoder a direct signal of
which token shows which part (as heat maps do: Tompson et al., NeurIPS 2014; its mean: Sun et al.,
Integral Human Pose Regression, ECCV 2018).
"""

import torch
from torch import nn

SPREAD_CELLS = 1.0  # sigma of a true keypoint's bump


class KeypointMaps(nn.Module):
    """Tokens to a map of each of K keypoints.

    Args:
        width: channels of a token.  grid: (rows, columns) of tokens.
        cells: cells along a token's side.  count: K.
    """

    def __init__(self, width: int, grid: tuple[int, int], cells: int, count: int) -> None:
        super().__init__()
        self.grid, self.cells, self.count = grid, cells, count
        self.layer = nn.Linear(width, count * cells * cells)
        rows, columns = grid[0] * cells, grid[1] * cells
        most = max(rows, columns)
        across, down = _centres(columns) * (columns / most), _centres(rows) * (rows / most)
        y, x = torch.meshgrid(down, across, indexing="ij")
        self.register_buffer("_at", torch.stack([x, y], -1).flatten(0, 1), persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, N, C) tokens -> (B, K, rows, columns) logits of the maps."""
        rows, columns = self.grid
        maps = self.layer(tokens).float().unflatten(1, (rows, columns))
        maps = maps.unflatten(-1, (self.count, self.cells, self.cells))
        # b row column keypoint y x -> b keypoint (row y) (column x)
        return maps.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)

    def read(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, K, 3): mean x and y about the image's middle, over its side; the highest share.

        The side of a rectangular image is its longer one.
        """
        # bf16 would tell places to a hundredth of the image.
        with torch.autocast(maps.device.type, enabled=False):
            shares = maps.flatten(2).softmax(-1)
            return torch.cat([shares @ self._at, shares.amax(-1, keepdim=True)], -1)


def compare_maps(
    maps: torch.Tensor, points: torch.Tensor, known: torch.Tensor | None = None
) -> torch.Tensor:
    """(B,) cross-entropy of maps to bumps at the true keypoints, over that of an even map.

    A mean over the keypoints that lie in the image; 0 where none does.

    Args:
        maps: (B, K, rows, columns) logits.
        points: (B, K, 2) x, y over the image's width and height, from its corner.
        known: (B, K) bool, of those that are labelled; None: all.
    """
    rows, columns = maps.shape[2:]
    across = _bump(points[..., 0], columns)
    down = _bump(points[..., 1], rows)
    target = (down[..., :, None] * across[..., None, :]).flatten(2)
    entropy = -(target * maps.flatten(2).log_softmax(-1)).sum(-1)
    inside = ((points > 0) & (points < 1)).all(-1)
    inside = (inside if known is None else inside & known).float()
    even = torch.log(torch.tensor(float(rows * columns)))
    return (entropy * inside).sum(1) / inside.sum(1).clamp_min(1) / even


def _bump(at: torch.Tensor, cells: int) -> torch.Tensor:
    """(..., cells) shares of a Gaussian about ``at`` in [0, 1]; they sum to 1."""
    places = (_centres(cells).to(at) + 0.5) * cells
    away = (places - at[..., None].clamp(0, 1) * cells) / SPREAD_CELLS
    return (-0.5 * away.square()).softmax(-1)


def _centres(count: int) -> torch.Tensor:
    """(count,) middles of cells along a side from -0.5 to 0.5."""
    return (torch.arange(count) + 0.5) / count - 0.5
