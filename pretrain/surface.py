"""What of the body a patch shows, and how much of that the other image of its pair shows too.

From the maps of synthetic humans (data/format/surface.py), so this is supervision that costs
nothing and that real clips do not have: without a map nothing is known of any patch. Spots are
compared by regions of the body's surface, and those beside one another count as one: two images
hardly sample the same vertex.
"""

import functools

import numpy as np
import torch
from einops import rearrange

from data.cropping.geometry import Size, find_longer, find_sides
from data.format.surface import STEP_PX, VERTICES
from data.people.template import Template, load_template

POINTS = 4  # along the side of a patch, at which maps are read
REGIONS = 1024  # of the body, some 4 cm across
# Regions whose middles are nearer than this on the resting body, and which face the same way, are
# one: spots of a small person lie so far apart.
BESIDE_M = 0.06


def find_regions(points: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Divide points among ``count`` of them, each the farthest from those before it.

    Args:
        points: (V, D).
    Returns:
        (V,) int, the number of the nearest of them; (count,) int, which they are.
    """
    region, middles = np.zeros(len(points), np.int64), [0]
    far = ((points - points[0]) ** 2).sum(1)
    for number in range(1, count):
        middles.append(int(far.argmax()))
        new = ((points - points[middles[-1]]) ** 2).sum(1)
        region[new < far] = number
        far = np.minimum(far, new)
    return region, np.array(middles)


def _find_normals(template: Template) -> np.ndarray:
    """(13718, 3) outward unit normals of the resting body."""
    faces = template.faces[: template.body_faces].astype(np.int64)
    a, b, c = (template.rest[faces[:, k]].astype(np.float64) for k in range(3))
    normals = np.zeros((len(template.rest), 3))
    for k in range(3):
        np.add.at(normals, faces[:, k], np.cross(b - a, c - a))
    normals = normals[template.body]
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)


@functools.cache
def read_regions() -> tuple[torch.Tensor, torch.Tensor]:
    """Return the regions of the body's vertices, and which regions count as one.

    Returns:
        (VERTICES + 1,) int64, by what maps hold: REGIONS at 0, where nothing is seen;
        (REGIONS, REGIONS) float32, 1 where two count as one.
    """
    template = load_template()
    points = template.rest[template.body].astype(np.float64)
    region, middles = find_regions(points, REGIONS)
    apart = np.linalg.norm(points[middles, None] - points[middles], axis=2)
    normals = _find_normals(template)[middles]
    beside = (apart < BESIDE_M) & (normals @ normals.T > 0) | np.eye(REGIONS, dtype=bool)
    of_vertex = np.full(VERTICES + 1, REGIONS)
    of_vertex[1:] = region
    return torch.from_numpy(of_vertex), torch.from_numpy(beside.astype(np.float32))


def crop_maps(
    maps: torch.Tensor, numbers: torch.Tensor, sizes: torch.Tensor, size: Size
) -> torch.Tensor:
    """Spots of maps under the crops of images: the nearest, as vertices have no means.

    Args:
        maps: (B, G, G, ...) with spots STEP_PX apart.  numbers: (B, 6) as in
            data.loading.augment.augment.  sizes: (B,) pixels of each image's side.
        size: side of the result, or (rows, columns): the middle of the square.
    Returns:
        (B, rows, columns, ...), 0 beyond the image.
    """
    (rows, columns), longer = find_sides(size), find_longer(size)
    step = numbers[:, 2, None] / longer
    places = []
    for count, middle in ((rows, numbers[:, 1, None]), (columns, numbers[:, 0, None])):
        along = torch.arange(count, device=maps.device) + (0.5 - count / 2)
        places.append(((middle + step * along) / STEP_PX).floor().long())
    inside = [(place >= 0) & (place * STEP_PX < sizes[:, None]) for place in places]
    y, x = (place.clamp(0, maps.shape[1] - 1) for place in places)
    batch = torch.arange(len(maps), device=maps.device)[:, None, None]
    found = maps[batch, y[:, :, None], x[:, None]]
    within = inside[0][:, :, None] & inside[1][:, None]
    return found * within.reshape(*within.shape, *[1] * (found.ndim - 3)).to(found.dtype)


def split_patches(spots: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """(B, rows * POINTS, columns * POINTS, ...) spots as (B, N, POINTS ** 2, ...) of patches."""
    return rearrange(
        spots.reshape(*spots.shape[:3], -1),
        "b (rows p) (columns q) c -> b (rows columns) (p q) c",
        rows=grid[0],
        columns=grid[1],
    ).reshape(len(spots), grid[0] * grid[1], POINTS**2, *spots.shape[3:])


def share_seen(
    of_a: torch.Tensor, of_b: torch.Tensor, of_vertex: torch.Tensor, beside: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """How much of the person in each patch of a the image b shows.

    Args:
        of_a: (B, N, P) what maps hold at the points of patches.
        of_b: (R, N, P) of the references, B = R * K: rows i*K to i*K + K-1 share reference i.
        of_vertex, beside: see ``read_regions``.
    Returns:
        (B, N) share of a patch's points on the person, 0 where there are none; (B, N) bool, where
        there are some.
    """
    regions, seen = of_vertex[of_a.long()], of_vertex[of_b.long()].flatten(1)
    shown = torch.zeros(len(of_b), REGIONS + 1, device=of_b.device)
    shown.scatter_(1, seen, 1.0)
    shown = (shown[:, :REGIONS] @ beside > 0).float()
    shown = torch.cat([shown, torch.zeros_like(shown[:, :1])], 1)
    shown = shown.repeat_interleave(len(of_a) // len(of_b), 0)
    hits = shown.gather(1, regions.flatten(1)).view(regions.shape)
    count = (regions < REGIONS).sum(2)
    return hits.sum(2) / count.clamp(min=1), count > 0
