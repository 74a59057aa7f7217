"""From a few points of a body model to all its vertices and joints, by a fixed sparse matrix.

Each vertex and each joint is a weighted sum, with weights that sum to 1, of those control points
that lie nearest to it on the unposed body. The weights are fitted to randomly posed bodies by least
squares, drawn towards the inverse squared distances by a ridge: skinning is linear in a
neighbourhood, so few points near by say where a vertex is. (METRO and FastMETRO upsample by
learnt or graph-coarsened matrices to the same end: arXiv 2012.09760, 2207.13820.)
"""

from dataclasses import dataclass

import numpy as np
import torch

from data.bodies.base import BodyModel
from engine.geometry import axis_angle_to_matrix

NEAR = 16  # control points that a vertex is made of
FITTED, HELD_OUT = 160, 16  # random bodies
SPREAD = 0.35  # radians along each axis, of a random rotation of each joint
RIDGE = 1e-4  # square metres a fitted body, towards the weights by distance
CHUNK = 16  # bodies posed at once


@dataclass(eq=False)
class Upsampling:
    """N rows, each a weighted sum of control points.

    Attributes:
        rows: (C,) numbers of the vertices that are control points, after the K keypoints.
        index: (N, near) int64 control points.  weight: (N, near), rows sum to 1.
        error_m: mean distance over the rows on held-out random bodies.
        worst_m: 95th percentile of it.
    """

    rows: torch.Tensor
    index: torch.Tensor
    weight: torch.Tensor
    error_m: float
    worst_m: float


def apply_rows(points: torch.Tensor, index: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Returns (B, N, 3) weighted sums of (B, P, 3) points by (N, near) indices and weights."""
    count, near = index.shape
    taken = points[:, index.reshape(-1)].unflatten(1, (count, near))
    return (taken * weight[..., None]).sum(2)


def fit_upsampling(body: BodyModel, count: int) -> Upsampling:
    """Returns how all vertices, then all joints, follow from control points.

    Control points are the body's keypoints, then the vertices of ``list_rows``. On random numbers
    of its own: the same everywhere.

    Args:
        body: the full model.  count: as ``list_rows`` takes it.
    """
    fitted, off = _fit(body, list_rows(body, count))
    fitted.error_m, fitted.worst_m = float(off.mean()), float(_percentile(off, 95))
    return fitted


def list_rows(body: BodyModel, count: int) -> torch.Tensor:
    """Returns numbers of the vertices of ``body.coarse(count)`` in the full mesh.

    Farthest points are nested: those of a larger count hold them, so that training on a coarse mesh
    that is no smaller sees each of them itself.
    """
    places = torch.full((int(body.vertex_ids.max()) + 1,), -1, device=body.vertex_ids.device)
    places[body.vertex_ids] = torch.arange(len(body.vertex_ids), device=places.device)
    return places[body.coarse(count).vertex_ids.to(places.device)]


def _percentile(values: torch.Tensor, share: float) -> float:
    return float(np.percentile(values.cpu().numpy(), share))


def spread_vertices(points: torch.Tensor, weight: torch.Tensor, count: int) -> torch.Tensor:
    """(count,) ascending numbers by farthest-point sampling of weighted distances."""
    chosen = [int(weight.argmax())]
    apart = (points - points[chosen[0]]).square().sum(1)
    while len(chosen) < min(count, len(points)):
        chosen.append(int((apart * weight.square()).argmax()))
        apart = torch.minimum(apart, (points - points[chosen[-1]]).square().sum(1))
    return torch.tensor(sorted(chosen), device=points.device)


def _fit(body: BodyModel, rows: torch.Tensor) -> tuple[Upsampling, torch.Tensor]:
    """The Upsampling of control vertices, and (held-out bodies, N) distances that it is off."""
    generator, device = torch.Generator().manual_seed(0), body.vertex_ids.device
    rest = _pose(
        body,
        torch.zeros(1, len(body.joint_names), 3, device=device),
        _mean_shape(body, 1).to(device),
    )
    controls, targets = _split(body, rest, rows)
    apart = torch.cdist(targets[0], controls[0])
    near, index = apart.topk(min(NEAR, apart.shape[1]), dim=1, largest=False)
    prior = 1 / (near.square() + 1e-6)
    prior = prior / prior.sum(1, keepdim=True)
    rotations = SPREAD * torch.randn(
        FITTED + HELD_OUT, len(body.joint_names), 3, generator=generator
    )
    rotations[:, 0] = 0  # a rotation of the whole changes no weight
    rotations, shapes = (
        rotations.to(device),
        _random_shapes(body, len(rotations), generator).to(device),
    )
    weight = _fit_weights(body, rows, index, prior, (rotations[:FITTED], shapes[:FITTED]))
    posed = _pose(body, rotations[FITTED:], shapes[FITTED:])
    controls, targets = _split(body, posed, rows)
    off = torch.linalg.vector_norm(apply_rows(controls, index, weight) - targets, dim=-1)
    return Upsampling(rows, index, weight, 0.0, 0.0), off


def _fit_weights(
    body: BodyModel,
    rows: torch.Tensor,
    index: torch.Tensor,
    prior: torch.Tensor,
    people: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """(N, near) least squares with rows that sum to 1, about the prior.

    With d = weight - prior, which sums to 0: the constraint is one more equation (Lagrange).
    """
    count, near = index.shape
    normal = torch.zeros(count, near, near, dtype=torch.float64, device=index.device)
    right = torch.zeros(count, near, dtype=torch.float64, device=index.device)
    rotations, shapes = people
    for first in range(0, len(rotations), CHUNK):
        part = slice(first, first + CHUNK)
        controls, targets = _split(body, _pose(body, rotations[part], shapes[part]), rows)
        taken = controls[:, index.reshape(-1)].unflatten(1, (count, near))
        # About the vertex itself: the sums are then small numbers.
        apart = (taken - targets[:, :, None]).permute(1, 0, 3, 2).flatten(1, 2)
        normal += (apart.transpose(1, 2) @ apart).double()
        right -= (apart.transpose(1, 2) @ (apart @ prior[..., None]))[..., 0].double()
    ridge = RIDGE * len(rotations) * torch.eye(near, dtype=torch.float64, device=index.device)
    system = normal.new_zeros(count, near + 1, near + 1)
    system[:, :near, :near] = normal + ridge
    system[:, near, :near] = system[:, :near, near] = 1
    known = torch.cat([right, right.new_zeros(count, 1)], 1)
    return prior + torch.linalg.solve(system, known)[:, :near].float()


def _split(
    body: BodyModel, posed: tuple[torch.Tensor, torch.Tensor], rows: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Control points and what follows from them, of posed bodies."""
    vertices, joints = posed
    keypoints = body.keypoints(vertices, joints)
    return torch.cat([keypoints, vertices[:, rows]], 1), torch.cat([vertices, joints], 1)


@torch.no_grad()
def _pose(
    body: BodyModel, rotations: torch.Tensor, shapes: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    parts = []
    for first in range(0, len(rotations), CHUNK):
        part = slice(first, first + CHUNK)
        pose = axis_angle_to_matrix(rotations[part])
        parts.append(body(pose, pose.new_zeros(len(pose), 3), shapes[part]))
    vertices, joints = (torch.cat(values) for values in zip(*parts, strict=True))
    return vertices, joints


def _mean_shape(body: BodyModel, count: int) -> torch.Tensor:
    return torch.full((count, len(body.shape_space.names)), float(body.shape_space.mean))


def _random_shapes(body: BodyModel, count: int, generator: torch.Generator) -> torch.Tensor:
    """(count, S) shapes as free numbers have them, spread about the mean."""
    space = body.shape_space
    mean = space.to_free(_mean_shape(body, count))
    return space.to_parameters(mean + torch.randn(mean.shape, generator=generator))
