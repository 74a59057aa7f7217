"""What is drawn of a body model: triangles for few vertices, parts, and a canonical surface.

All of it follows from the interface of a body model alone, so every body model has maps. Skinning
weights are read off the model itself: a joint that is rotated by a small angle moves each vertex by
the share that the joint and its descendants have in it.
"""

import heapq
from dataclasses import dataclass

import numpy as np
import torch

from data.bodies.base import BodyModel
from data.bodies.parts import name_parts, pose_at_rest

ANGLE = 0.05  # radians that joints are rotated by; pose correctives grow with it
CHUNK = 16  # posed bodies at once


@dataclass(eq=False)
class Surface:
    """A mesh that is drawn, and what is painted on it.

    Attributes:
        faces: (F, 3) int32, outward by the right-hand rule.
        parts: (V,) int32, 1 to P: index into ``part_names`` plus 1.
        part_names: of the P parts.
        canonical: (V, 3) float32 metres, each vertex on the body at rest in its mean shape, about
            the middle of that body's box.
        starts: (V + 1,) and owners: (3 F,) int32: triangles owners[starts[i]:starts[i + 1]] meet
            in vertex i.
    """

    faces: torch.Tensor
    parts: torch.Tensor
    part_names: tuple[str, ...]
    canonical: torch.Tensor
    starts: torch.Tensor
    owners: torch.Tensor

    def to(self, device: torch.device) -> "Surface":
        """The same on a device."""
        return Surface(
            self.faces.to(device),
            self.parts.to(device),
            self.part_names,
            self.canonical.to(device),
            self.starts.to(device),
            self.owners.to(device),
        )


@torch.no_grad()
def describe_surface(body: BodyModel, drawn: BodyModel) -> Surface:
    """Returns the Surface of the model that is drawn.

    Args:
        body: the full model.  drawn: the same, or a coarse one of it.
    Raises:
        ValueError: the full model has no triangles.
    """
    if body.faces is None:
        raise ValueError(f"{body.name} has no triangles to draw")
    rest, _ = pose_at_rest(body)
    full_faces = body.faces.cpu().numpy()
    numbers = {int(vertex): row for row, vertex in enumerate(body.vertex_ids)}
    rows = np.array([numbers[int(vertex)] for vertex in drawn.vertex_ids])
    if drawn.faces is not None:
        faces = drawn.faces.cpu().numpy()
    else:
        faces = join_vertices(rest.cpu().numpy(), full_faces, rows)
    joint_parts, names = name_parts(body)
    owner = read_skinning(drawn).argmax(1).cpu()
    middle = (rest.amin(0) + rest.amax(0)) / 2
    starts, owners = list_owners(faces, len(rows))
    return Surface(
        torch.from_numpy(faces.astype(np.int32)),
        (joint_parts[owner] + 1).int(),
        names,
        (rest - middle).cpu()[rows].float(),
        torch.from_numpy(starts),
        torch.from_numpy(owners),
    ).to(body.vertex_ids.device)


def read_skinning(body: BodyModel) -> torch.Tensor:
    """Returns (V, J) share of each joint in each vertex, read off posed bodies.

    Rotating joint j by R moves vertex v by w (R - I)(v - p_j), w the share of j and all below it;
    what its children do not account for is its own. Two axes, so that no vertex lies on both.
    """
    rest, joints = pose_at_rest(body)
    count, device = len(body.joint_names), rest.device
    shape = torch.full((1, len(body.shape_space.names)), body.shape_space.mean, device=device)
    dot = rest.new_zeros(count, len(rest))
    square = rest.new_zeros(count, len(rest))
    for axis in (0, 1):
        turn = rest.new_zeros(3)
        turn[axis] = ANGLE
        # Rows v: v R^T - v, of a rotation by ANGLE about the axis.
        along = torch.linalg.cross(turn.expand(count, len(rest), 3), rest - joints[:, None])
        for first in range(0, count, CHUNK):
            chosen = torch.arange(first, min(first + CHUNK, count), device=device)
            pose = rest.new_zeros(len(chosen), count, 3)
            pose[torch.arange(len(chosen)), chosen, axis] = ANGLE
            moved, _ = body(pose, rest.new_zeros(len(chosen), 3), shape.expand(len(chosen), -1))
            dot[chosen] += ((moved - rest) * along[chosen]).sum(-1)
            square[chosen] += along[chosen].square().sum(-1)
    below = (dot / square.clamp_min(1e-12)).clamp(0, 1)
    own = below.clone()
    for joint, parent in enumerate(body.parents):
        if parent >= 0:
            own[parent] -= below[joint]
    return own.clamp_min(0).T


def join_vertices(points: np.ndarray, faces: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Returns (F', 3) triangles that join some vertices of a mesh as the mesh itself does.

    Each vertex of the mesh goes to the nearest chosen one along the edges; a triangle whose corners
    went to three joins these three (the dual of a Voronoi diagram on the surface).

    Args:
        points: (V, 3).  faces: (F, 3).  chosen: (n,) indices of vertices.
    """
    nearest = _spread_labels(points, faces, chosen)
    corners = nearest[faces]
    apart = (corners >= 0).all(1)
    for one, other in ((0, 1), (1, 2), (2, 0)):
        apart &= corners[:, one] != corners[:, other]
    corners = corners[apart]
    # The same three may meet in several triangles: one of each way round is enough.
    first = corners.argmin(1)
    rolled = np.stack([corners[np.arange(len(corners)), (first + i) % 3] for i in range(3)], 1)
    return np.unique(rolled, axis=0)


def _spread_labels(points: np.ndarray, faces: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """(V,) index into ``chosen`` of the one nearest along edges, -1 where none is joined.

    Dijkstra's algorithm from all of them at once.
    """
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    edges = np.unique(np.sort(edges, 1), axis=0)
    lengths = np.linalg.norm(points[edges[:, 0]] - points[edges[:, 1]], axis=1)
    near: list[list[tuple[int, float]]] = [[] for _ in range(len(points))]
    for (one, other), length in zip(edges.tolist(), lengths.tolist(), strict=True):
        near[one].append((other, length))
        near[other].append((one, length))
    labels = np.full(len(points), -1)
    waiting = [(0.0, vertex, label) for label, vertex in enumerate(chosen.tolist())]
    while waiting:
        distance, vertex, label = heapq.heappop(waiting)
        if labels[vertex] >= 0:
            continue
        labels[vertex] = label
        for other, length in near[vertex]:
            if labels[other] < 0:
                heapq.heappush(waiting, (distance + length, other, label))
    return labels


def list_owners(faces: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (starts (count + 1,), owners (3 F,)) int32: which triangles meet in each vertex."""
    corners = faces.ravel()
    order = np.argsort(corners, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(corners, minlength=count))])
    return starts.astype(np.int32), (order // 3).astype(np.int32)
