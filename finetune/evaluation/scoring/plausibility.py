"""Plausibility of meshes: parts of a body in each other, feet in the ground or above it.

These need no truth but the ground, so they are what a paper reports beside a protocol's numbers.
Meshes are closed surfaces with outward triangles; metres.
"""

import numpy as np

PROBES = 500  # vertices of a mesh that are tested
NUMBERS_AT_ONCE = 2**20
INSIDE = 1.0  # a vertex's winding number by its own part of a surface lies below it
TOUCH_M = 0.005  # how near to the ground a foot touches it


def winding_numbers(points: np.ndarray, vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Return how often a surface winds around each point.

    1 inside a closed surface, 0 outside, and between 0 and 1 on it; where a part of the surface
    lies inside another, one more. Triangles that have the point as a corner are seen under no
    angle. Source: van Oosterom and Strackee, IEEE TBME 1983; Jacobson et al., SIGGRAPH 2013.

    Args:
        points: (P, 3).  vertices: (V, 3).  faces: (F, 3).
    Returns:
        (P,) float64.
    """
    corners = np.asarray(vertices, np.float64)[faces]
    out = np.zeros(len(points))
    rows = max(1, NUMBERS_AT_ONCE // max(1, len(faces)))
    for start in range(0, len(points), rows):
        part = np.asarray(points[start : start + rows], np.float64)
        a, b, c = (corners[None, :, i] - part[:, None] for i in range(3))
        la, lb, lc = (np.sqrt((one**2).sum(-1)) for one in (a, b, c))
        volume = (a * np.cross(b, c)).sum(-1)
        below = la * lb * lc + (a * b).sum(-1) * lc + (b * c).sum(-1) * la + (c * a).sum(-1) * lb
        out[start : start + rows] = np.arctan2(volume, below).sum(1) / (2 * np.pi)
    return out


def largest_part(faces: np.ndarray, count: int) -> np.ndarray:
    """Return the (F',) rows of the faces of the largest connected part of a mesh.

    Eyeballs, teeth and the like are parts of their own that lie inside a body by design.

    Args:
        faces: (F, 3).  count: of vertices.
    """
    labels = np.arange(count)
    while True:
        least = labels[faces].min(1)
        new = labels.copy()
        np.minimum.at(new, faces.ravel(), np.repeat(least, 3))
        new = new[new]  # a vertex's label is a vertex of its part, whose label may be less
        if (new == labels).all():
            break
        labels = new
    parts = labels[faces[:, 0]]
    values, sizes = np.unique(parts, return_counts=True)
    return np.flatnonzero(parts == values[sizes.argmax()])


def self_penetration(vertices: np.ndarray, faces: np.ndarray, probes: int = PROBES) -> np.ndarray:
    """Return the share of each mesh's vertices that lie inside another part of it.

    Args:
        vertices: (N, V, 3).  faces: (F, 3) of one closed surface (``largest_part``).
        probes: at most so many vertices, evenly taken, are tested.
    Returns:
        (N,) in [0, 1].
    """
    used = np.unique(faces)
    chosen = used[np.linspace(0, len(used) - 1, min(probes, len(used))).astype(int)]
    # A thousandth above 1 is rounding: a vertex at a sharp tip is wound around almost once.
    limit = INSIDE + 1e-3
    return np.array(
        [(winding_numbers(mesh[chosen], mesh, faces) > limit).mean() for mesh in vertices]
    )


def ground_heights(vertices: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Return the (N,) height of each mesh's lowest vertex along ``up``, metres.

    Args:
        vertices: (N, V, 3) in a frame that stands still.  up: (3,) unit vector.
    """
    return (vertices @ np.asarray(up, np.float64)).min(1)


def ground_errors(heights: np.ndarray, ground: np.ndarray) -> tuple[float, float, float]:
    """Return mean penetration and mean floating in metres, and the share of frames that touch.

    Args:
        heights: (N,) of lowest vertices.  ground: (N,) height of the ground there.
    """
    gaps = heights - ground
    penetration = float(np.maximum(-gaps, 0).mean())
    floating = float(np.maximum(gaps, 0).mean())
    return penetration, floating, float((np.abs(gaps) <= TOUCH_M).mean())
