"""Meshes as lit clay: what covers a pixel, and its colour.

Only where a mesh may be seen are samples lit, and nothing is kept of them but a pixel's mean.
"""

import functools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import warp as wp

from engine.geometry import crop_intrinsics
from finetune.viz import clay_kernels as kernels
from finetune.viz.raster import Raster, check_camera, shared_raster

# Samples along a pixel's side; fewer in an image so large that nobody views its pixels.
SAMPLES, FEWER_SAMPLES, LARGE_PIXELS = 3, 2, 2 << 20
BAND_SAMPLES = 8 << 20  # of one band of rows, so that an image of 4000 px needs no gigabytes
# Direction to each light (camera's frame), its strength, and how far it reaches around the body (0:
# Lambert's law).
LIGHTS = (((-0.5, -0.75, -0.55), 1.0, 0.25), ((0.85, -0.1, -0.5), 0.27, 0.5))
# Radius within which a surface darkens what lies behind it, as a share of the root of a mesh's
# area.
CREASE = 0.12
TAPS = 40  # points around a pixel for that; with half of them the steps between them show


def draw_clay(
    meshes: Sequence[tuple[npt.ArrayLike, npt.ArrayLike]],
    colours: Sequence[tuple[int, int, int]],
    K: npt.ArrayLike,
    size: tuple[int, int],
    perspective: bool = True,
    owners: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return ((H, W, 3) float32 in 0 to 255, (H, W) float32 how much of a pixel is covered).

    Args:
        meshes, K, size, perspective: as finetune.viz.raster.Raster.layers takes them.
        colours: sRGB in 0 to 255 of each mesh, or of each number in ``owners``.
    Raises:
        UserError: as Raster.layers.
    """
    raster, (width, height) = shared_raster(), size
    scene = raster.open_scene(meshes, owners)
    colour = raster.buffer("colour", (height, width), wp.vec3)
    depth = raster.buffer("depth", (height, width), float)
    cover = raster.buffer("cover", (height, width), float)
    for pixels in (colour, depth, cover):
        pixels.zero_()
    albedo = raster.array((np.array(colours, np.float32) / 255) ** 2, wp.vec3)
    samples = SAMPLES if width * height <= LARGE_PIXELS else FEWER_SAMPLES
    tile = kernels.TILE
    rows = max(1, BAND_SAMPLES // (width * samples * samples) // tile) * tile
    lit: list[np.ndarray] = []
    for top in range(0, height, rows):
        count = min(rows, height - top)
        fine = width * samples, count * samples
        camera = check_camera(crop_intrinsics(K, (0, top, width, top + count), fine))
        nearness, points = raster.cover_scene(scene, camera, fine, perspective)
        tiles = _find_tiles(raster, points, scene.faces, (width, count), samples, tile)
        if not len(tiles):
            continue
        wp.launch(
            kernels.shade_pixels,
            (len(tiles), tile, tile),
            [
                nearness,
                scene.vertices,
                scene.faces,
                scene.normals,
                scene.owner,
                albedo,
                *_list_lights(raster),
                wp.mat33(*camera[0].ravel().tolist()),
                int(perspective),
                samples,
                raster.array(tiles, wp.vec2i),
                top,
                count,
                colour,
                depth,
                cover,
            ],
            device=raster.device,
        )
        lit.append(tiles + [0, top // tile])
    covered = cover.numpy().copy()
    if lit:
        radius = max(1.0, CREASE * float(np.sqrt(covered.sum() / max(1, len(meshes)))))
        tiles = raster.array(np.concatenate(lit).astype(np.int32), wp.vec2i)
        focal = float(np.asarray(K)[0, 0])
        wp.launch(
            kernels.darken_creases,
            (len(tiles), tile, tile),
            [tiles, depth, focal, int(perspective), radius, *_list_taps(raster, radius)] + [colour],
            device=raster.device,
        )
    return colour.numpy().copy(), covered


def _find_tiles(
    raster: Raster,
    points: wp.array,
    faces: wp.array,
    size: tuple[int, int],
    samples: int,
    tile: int,
) -> np.ndarray:
    """(n, 2) int32 x and y of the tiles of an image that a triangle may reach."""
    across, down = (-(-length // tile) for length in size)
    marks = raster.buffer("tiles", (down, across), wp.uint8)
    marks.zero_()
    wp.launch(kernels.mark_tiles, len(faces), [points, faces, samples, marks], device=raster.device)
    y, x = np.nonzero(marks.numpy())
    return np.stack([x, y], 1).astype(np.int32)


def _list_lights(raster: Raster) -> tuple[wp.array, wp.array]:
    """Directions to the lights, and how strong and how wide each is."""
    towards = np.array([direction for direction, _, _ in LIGHTS], np.float32)
    towards /= np.linalg.norm(towards, axis=1, keepdims=True)
    lamps = np.array([(strength, wrap) for _, strength, wrap in LIGHTS], np.float32)
    return raster.array(towards, wp.vec3), raster.array(lamps, wp.vec2)


def _list_taps(raster: Raster, radius: float) -> tuple[wp.array, wp.array]:
    """Pixels on a spiral around one, and how much each counts: less the farther it is."""
    share, angle = _make_spiral()
    reach = np.stack([np.cos(angle), np.sin(angle)], 1) * (share * radius)[:, None]
    return raster.array(np.round(reach).astype(np.int32), wp.vec2i), raster.array(1 - share, float)


@functools.cache
def _make_spiral() -> tuple[np.ndarray, np.ndarray]:
    """(TAPS,) float32 share of the radius, and angle."""
    number = np.arange(TAPS, dtype=np.float32)
    # The golden angle: no two points in one direction.
    return np.sqrt((number + np.float32(0.5)) / np.float32(TAPS)), number * np.float32(2.39996)
