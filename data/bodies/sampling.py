"""Points spread evenly over a surface."""

import torch


def spread_points(points: torch.Tensor, count: int) -> torch.Tensor:
    """Returns (count,) indices of points (N, 3), by farthest-point sampling from the first one."""
    count = min(count, len(points))
    chosen, distance = [0], points.new_full((len(points),), float("inf"))
    while len(chosen) < count:
        distance = torch.minimum(distance, (points - points[chosen[-1]]).square().sum(1))
        chosen.append(int(distance.argmax()))
    return torch.tensor(chosen, device=points.device)
