"""Closest points on triangle meshes, in torch: which triangle, where on it, how far."""

from dataclasses import dataclass

import torch

CHUNK = 24_000_000  # distances at once: about 100 MB


@dataclass(eq=False)
class OnSurface:
    """Points on the triangles of a mesh.

    Attributes:
        triangle: (N,) int64.  weights: (N, 3) barycentric, of the triangle's corners.
        distance: (N,) metres from what they are closest to.
    """

    triangle: torch.Tensor
    weights: torch.Tensor
    distance: torch.Tensor


def find_normals(vertices: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
    """Returns (B, F, 3) unit normals of triangles; zero where a triangle has no area.

    Args:
        vertices: (B, V, 3).  faces: (F, 3).
    """
    a, b, c = (vertices[:, faces[:, corner]] for corner in range(3))
    return torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a, dim=-1), dim=-1)


def find_vertex_normals(vertices: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
    """Returns (B, V, 3) unit normals of vertices, by the area of their triangles."""
    a, b, c = (vertices[:, faces[:, corner]] for corner in range(3))
    across = torch.linalg.cross(b - a, c - a, dim=-1)
    total = torch.zeros_like(vertices)
    for corner in range(3):
        total.index_add_(1, faces[:, corner], across)
    return torch.nn.functional.normalize(total, dim=-1)


def list_candidates(
    points: torch.Tensor, vertices: torch.Tensor, faces: torch.Tensor, count: int
) -> torch.Tensor:
    """Returns (N, count) int64 the triangles whose centres are nearest to points.

    Args:
        points: (N, 3).  vertices: (V, 3).  faces: (F, 3).
    """
    centres = vertices[faces].mean(1)
    count = min(count, len(faces))
    rows = max(1, CHUNK // len(faces))
    parts = [
        torch.cdist(part, centres).topk(count, largest=False)[1] for part in points.split(rows)
    ]
    return torch.cat(parts)


def find_closest(
    points: torch.Tensor,
    vertices: torch.Tensor,
    faces: torch.Tensor,
    candidates: torch.Tensor,
    normals: torch.Tensor | None = None,
    least_cosine: float = 0.0,
) -> OnSurface:
    """Returns the closest point on one of each point's candidate triangles.

    Args:
        points: (N, 3).  vertices: (V, 3).  candidates: (N, C) int64 of triangles.
        normals: (N, 3) of the points: a triangle whose own normal is turned further than
            ``least_cosine`` away is taken only where there is no other.
    """
    corners = vertices[faces[candidates]]
    weights = _closest_weights(points[:, None], corners)
    closest = (weights[..., None] * corners).sum(-2)
    distance = (closest - points[:, None]).norm(dim=-1)
    cost = distance
    if normals is not None:
        turned = find_normals(vertices[None], faces)[0][candidates]
        away = (turned * normals[:, None]).sum(-1) < least_cosine
        cost = distance + away * 1e3
    best = cost.argmin(1)
    rows = torch.arange(len(points), device=points.device)
    return OnSurface(candidates[rows, best], weights[rows, best], cost[rows, best])


def _closest_weights(point: torch.Tensor, corners: torch.Tensor) -> torch.Tensor:
    """Barycentric weights (..., 3) of the point of triangles (..., 3, 3) closest to a point.

    The plane's own foot where it lies inside, else the best of the three edges'.
    """
    a, b, c = corners.unbind(-2)
    ab, ac, ap = b - a, c - a, point - a
    d00, d01, d11 = (ab * ab).sum(-1), (ab * ac).sum(-1), (ac * ac).sum(-1)
    d20, d21 = (ap * ab).sum(-1), (ap * ac).sum(-1)
    area = (d00 * d11 - d01 * d01).clamp_min(1e-20)
    v, w = (d11 * d20 - d01 * d21) / area, (d00 * d21 - d01 * d20) / area
    inside = (v >= 0) & (w >= 0) & (v + w <= 1)
    plane = torch.stack([1 - v - w, v, w], -1)
    zero = torch.zeros_like(v)
    t_ab = (d20 / d00.clamp_min(1e-20)).clamp(0, 1)
    t_ac = (d21 / d11.clamp_min(1e-20)).clamp(0, 1)
    bc = c - b
    t_bc = (((point - b) * bc).sum(-1) / (bc * bc).sum(-1).clamp_min(1e-20)).clamp(0, 1)
    edges = torch.stack(
        [
            torch.stack([1 - t_ab, t_ab, zero], -1),
            torch.stack([1 - t_ac, zero, t_ac], -1),
            torch.stack([zero, 1 - t_bc, t_bc], -1),
        ],
        -2,
    )
    feet = (edges[..., None] * corners[..., None, :, :]).sum(-2)
    best = (feet - point[..., None, :]).norm(dim=-1).argmin(-1)
    edge = edges.gather(-2, best[..., None, None].expand(*best.shape, 1, 3)).squeeze(-2)
    return torch.where(inside[..., None], plane, edge)
