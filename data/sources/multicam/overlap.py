"""How much of the surface that one crop shows another shows too, from masks where there is no mesh.

At one instant, the space that all masks agree on is a hull of the body (Laurentini, The visual hull
concept for silhouette-based image understanding, PAMI 1994). A crop shows those parts of its
surface that face the camera and that nothing of it hides. The hull of few cameras is too thick and
has edges that the body has not; its sides lie along the cameras' rays, so that which side faces
whom is not told by them. So the surface is taken to face away from the mass around it, nearer mass
counting more, which rounds the edges. docs/multicam.md has the errors against synthetic humans.
"""

from collections.abc import Sequence

import numpy as np

from data.format.clip import MASK_SIDE
from engine.geometry import camera_centre, point_nearest_lines, project

LEAST_CAMERAS = 4  # with fewer the hull tells no more than the angle between two cameras
_CELLS = 48  # along an edge of the cube that holds the body
_MARGIN = 1.15
_DEPTH_CELLS = 2  # by which a part of the surface may lie behind what a mask's cell shows
_STEEPEST = 4.0  # tangent of the steepest slant that is allowed for
# The pull of mass at a distance of r cells: the gradient of 1 / (r^2 + 1).
_SOFTENING = 1.0


def estimate_overlap(
    masks: np.ndarray,
    Ks: Sequence[np.ndarray],
    Rts: Sequence[np.ndarray],
    instants: Sequence[float],
    size: int,
) -> np.ndarray | None:
    """Return (N, N) shares as ``Clip.overlap`` has them, NaN between crops of different instants.

    NaN too where fewer than LEAST_CAMERAS crops of an instant have a mask. None where nothing is
    known.

    Args:
        masks: (N, 64, 64) bool, true on the person.  Ks: N of (3, 3), the crops' own.  Rts: N of
            (3, 4).  instants: N; equal ones are one instant.  size: side of a crop in pixels.
    """
    count = len(masks)
    out = np.full((count, count), np.nan)
    for instant in sorted(set(instants)):
        group = [n for n in range(count) if instants[n] == instant and masks[n].any()]
        if len(group) < LEAST_CAMERAS:
            continue
        found = _overlap_at_once(
            masks[group],
            [np.asarray(Ks[n]) for n in group],
            [np.asarray(Rts[n]) for n in group],
            size,
        )
        if found is not None:
            out[np.ix_(group, group)] = found
    if np.isnan(out).all():
        return None
    np.fill_diagonal(out, 1.0)
    return out


def _overlap_at_once(masks, Ks, Rts, size):
    """(n, n) shares of crops of one instant; None where their masks share no space."""
    points, cell_m = _span_grid(masks, Ks, Rts, size)
    body = carve_hull(points, masks, Ks, Rts, size)
    edge = body & ~_inner(body)
    if not edge.any():
        return None
    where, outward = points[edge], _outward(body)[edge]
    cameras = zip(Ks, Rts, strict=True)
    shown = np.stack([_shows(where, outward, K, Rt, size, cell_m) for K, Rt in cameras])
    shown = shown.astype(np.float64)
    total = shown.sum(1)
    if (total == 0).any():
        return None
    return shown @ shown.T / total[:, None]


def _span_grid(masks, Ks, Rts, size):
    """(n, n, n, 3) centres of cells of a cube around the person, and a cell's edge in metres."""
    middles, sides = [], []
    for mask in masks:
        rows, columns = np.nonzero(mask)
        scale = size / MASK_SIDE
        middles.append([(columns.mean() + 0.5) * scale, (rows.mean() + 0.5) * scale, 1.0])
        sides.append((max(np.ptp(columns), np.ptp(rows)) + 1) * scale)
    rays = [np.linalg.solve(K, m) @ Rt[:, :3] for K, m, Rt in zip(Ks, middles, Rts, strict=True)]
    centre = point_nearest_lines([camera_centre(Rt) for Rt in Rts], rays)
    depths = [project(centre, K, Rt)[1] for K, Rt in zip(Ks, Rts, strict=True)]
    reach = max(s * d / K[0, 0] for s, d, K in zip(sides, depths, Ks, strict=True)) / 2
    half = _MARGIN * abs(reach)
    line = ((np.arange(_CELLS) + 0.5) / _CELLS * 2 - 1) * half
    grid = np.stack(np.meshgrid(line, line, line, indexing="ij"), -1)
    return grid + centre, 2 * half / _CELLS


def carve_hull(
    points: np.ndarray,
    masks: np.ndarray,
    Ks: Sequence[np.ndarray],
    Rts: Sequence[np.ndarray],
    size: int,
) -> np.ndarray:
    """Return (...) bool, whether points are on the person in every crop.

    Beyond a border that the mask touches the person goes on, so nothing is said there.

    Args:
        points: (..., 3) metres.
    """
    inside = np.ones(points.shape[:-1], bool)
    for mask, K, Rt in zip(masks, Ks, Rts, strict=True):
        at, depth = project(points[inside], K, Rt)
        cell = np.floor(at * (MASK_SIDE / size)).astype(np.int64)
        on = mask[tuple(np.clip(cell[:, ::-1], 0, MASK_SIDE - 1).T)]
        within = ((cell >= 0) & (cell < MASK_SIDE)).all(1)
        open_sides = (
            ((cell[:, 0] < 0) & mask[:, 0].any())
            | ((cell[:, 0] >= MASK_SIDE) & mask[:, -1].any())
            | ((cell[:, 1] < 0) & mask[0].any())
            | ((cell[:, 1] >= MASK_SIDE) & mask[-1].any())
        )
        inside[inside] = (depth > 0) & np.where(within, on, open_sides)
    return inside


def _inner(body):
    """Cells all six of whose neighbours are of the body."""
    padded = np.pad(body, 1)
    inner = body.copy()
    for axis in range(3):
        for step in (-1, 1):
            inner &= np.roll(padded, step, axis)[1:-1, 1:-1, 1:-1]
    return inner


def _outward(body):
    """(n, n, n, 3) direction away from the mass around each cell; its length means nothing."""
    cells = body.shape[0]
    padded = (2 * cells,) * 3
    line = np.minimum(np.arange(2 * cells), 2 * cells - np.arange(2 * cells)).astype(np.float64)
    squares = line[:, None, None] ** 2 + line[None, :, None] ** 2 + line[None, None, :] ** 2
    kernel = 1 / (squares + _SOFTENING)
    axes = (0, 1, 2)
    spectrum = np.fft.rfftn(body.astype(np.float64), padded, axes) * np.fft.rfftn(kernel)
    potential = np.fft.irfftn(spectrum, padded, axes)[:cells, :cells, :cells]
    return -np.stack(np.gradient(potential), -1)


def _shows(where, outward, K, Rt, size, cell_m):
    """(n,) whether a crop shows parts of the surface: in it, facing the camera, in front."""
    at, depth = project(where, K, Rt)
    cell = np.floor(at * (MASK_SIDE / size)).astype(np.int64)
    within = ((cell >= 0) & (cell < MASK_SIDE)).all(1) & (depth > 0)
    nearest = np.full((MASK_SIDE, MASK_SIDE), np.inf)
    rows, columns = cell[within, 1], cell[within, 0]
    np.minimum.at(nearest, (rows, columns), depth[within])
    to_camera = camera_centre(Rt) - where
    scale = np.linalg.norm(to_camera, axis=1) * np.linalg.norm(outward, axis=1)
    cosine = (to_camera * outward).sum(1) / np.maximum(scale, 1e-12)
    # A surface seen at a slant spans a depth of its tangent times what a mask's cell covers.
    slope = np.sqrt(np.maximum(0, 1 - cosine**2)) / np.maximum(cosine, 1 / _STEEPEST)
    covered_m = size / MASK_SIDE / K[0, 0] * depth
    slack_m = _DEPTH_CELLS * cell_m + covered_m * slope
    in_front = np.zeros(len(where), bool)
    in_front[within] = depth[within] < nearest[rows, columns] + slack_m[within]
    return in_front & (cosine > 0)
