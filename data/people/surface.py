"""Which part of the body each spot of a drawn shot shows, from the renderer's depth buffer."""

from typing import TYPE_CHECKING

import numpy as np

from data.format.surface import STEP_PX, SurfaceMaps

if TYPE_CHECKING:
    from data.people.template import Template

AT_ONCE = 500  # vertices whose distances to the body's are in memory
FACE_BITS = np.uint64(0xFFFFFFFF)  # of a sample's key, see data/raster/kernels.py


def find_body_vertices(template: "Template") -> np.ndarray:
    """(V,) int: for each vertex of the mesh, the number among the body's of the nearest of these.

    Near in template coordinates, so that cloth and hair lie over what they cover.
    """
    body, nearest = template.rest[template.body], np.zeros(len(template.rest), np.int64)
    nearest[template.body] = np.arange(len(template.body))
    others = np.setdiff1d(np.arange(len(nearest)), template.body)
    for some in np.array_split(others, max(1, len(others) // AT_ONCE)):
        # Squared distances but for the one's own length, which changes no choice.
        far = (body**2).sum(1) - 2 * template.rest[some] @ body.T
        nearest[some] = far.argmin(1)
    return nearest


def map_surface(
    keys: np.ndarray,
    points: np.ndarray,
    normals: np.ndarray,
    rotations: np.ndarray,
    seen: np.ndarray,
    faces: np.ndarray,
    body_vertices: np.ndarray,
    samples: int,
) -> SurfaceMaps:
    """The maps of N shots of S pixels a side.

    Args:
        keys: (N, S * samples, S * samples) uint64 depth buffer.
        points: (N, V, 3) vertices: x and y in samples, and inverse depth.
        normals: (N, V, 3) of the drawn mesh at each shot's instant, world.
        rotations: (N, 3, 3) world to camera.
        seen: (N, S, S) bool, where the person is seen at all, with all that hides it.
        faces: (F, 3) triangles.  body_vertices: (V,) as ``find_body_vertices`` gives them.
        samples: along a pixel's side.
    """
    spots = np.arange(STEP_PX // 2, seen.shape[1], STEP_PX)[: seen.shape[1] // STEP_PX]
    key = keys[:, spots[:, None] * samples, spots * samples]
    there = (key != 0) & seen[:, spots[:, None], spots]
    vertex = np.zeros(there.shape, np.uint16)
    normal = np.zeros((*there.shape, 3), np.int8)
    n, i, j = np.nonzero(there)
    corners = faces[(key[there] & FACE_BITS).astype(np.int64)]
    at = points[n[:, None], corners]
    middle = np.stack([spots[j], spots[i]], 1) * samples + 0.5
    weights = _weigh_corners(at, middle)
    vertex[there] = body_vertices[corners[np.arange(len(corners)), weights.argmax(1)]] + 1
    across = (weights[..., None] * normals[n[:, None], corners]).sum(1)
    across = np.einsum("nij,nj->ni", rotations[n], across)
    across /= np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-9)
    normal[there] = np.round(127 * across)
    return SurfaceMaps(vertex, normal)


def _weigh_corners(at, middle):
    """(P, 3) shares of a triangle's corners at points (P, 2) of the image, in space.

    Args:
        at: (P, 3 corners, 3) x, y and inverse depth.
    """
    edges = at[:, [2, 0, 1], :2] - at[:, [1, 2, 0], :2]
    towards = middle[:, None] - at[:, [1, 2, 0], :2]
    areas = edges[..., 0] * towards[..., 1] - edges[..., 1] * towards[..., 0]
    shares = areas / areas.sum(1, keepdims=True) * at[..., 2]
    return shares / shares.sum(1, keepdims=True)
