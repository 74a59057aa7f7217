"""Warp kernels that light meshes as clay: samples to pixels, and the dark in creases.

An image is gone through in squares of TILE pixels, of which most show nothing.
"""

# In a Warp kernel float(0.0) declares a variable; a bare 0.0 is a constant that a loop cannot
# change.
# ruff: noqa: UP018

import warp as wp

from data.raster.kernels import sample_face
from finetune.viz.raster_kernels import find_surface

wp.set_module_options({"enable_backward": False})

TILE = wp.constant(16)
AMBIENT = wp.constant(0.2)
RIM = wp.constant(0.16)
INSIDE = wp.constant(0.45)  # of its light, on a mesh's inner side
CREASE_DARK = wp.constant(0.55)  # by how much a crease is darkened at most


@wp.kernel
def mark_tiles(
    points: wp.array2d(dtype=wp.vec3),
    faces: wp.array(dtype=wp.vec3i),
    samples: int,
    tiles: wp.array2d(dtype=wp.uint8),
):
    """Mark with 1 each tile that a triangle of image 0 may reach; all where one passes the camera.

    Args:
        points: x and y in samples and the nearness, 0 before the near plane.
        samples: along a pixel's side.
    """
    f = faces[wp.tid()]
    a = points[0, f[0]]
    b = points[0, f[1]]
    c = points[0, f[2]]
    last_y = tiles.shape[0] - 1
    last_x = tiles.shape[1] - 1
    x0 = int(0)
    y0 = int(0)
    x1 = last_x
    y1 = last_y
    shown = int(a[2] > 0.0) + int(b[2] > 0.0) + int(c[2] > 0.0)
    if shown == 0:
        return
    if shown == 3:
        side = float(samples * TILE)
        # Bounded as floats: a corner far outside is not an int32.
        low_x = wp.min(a[0], wp.min(b[0], c[0])) / side
        low_y = wp.min(a[1], wp.min(b[1], c[1])) / side
        high_x = wp.max(a[0], wp.max(b[0], c[0])) / side
        high_y = wp.max(a[1], wp.max(b[1], c[1])) / side
        x0 = int(wp.clamp(wp.floor(low_x), 0.0, float(last_x + 1)))
        y0 = int(wp.clamp(wp.floor(low_y), 0.0, float(last_y + 1)))
        x1 = int(wp.clamp(wp.floor(high_x), -1.0, float(last_x)))
        y1 = int(wp.clamp(wp.floor(high_y), -1.0, float(last_y)))
    for y in range(y0, y1 + 1):
        for x in range(x0, x1 + 1):
            tiles[y, x] = wp.uint8(1)


@wp.func
def light_surface(
    normal: wp.vec3,
    back: int,
    albedo: wp.vec3,
    towards: wp.array(dtype=wp.vec3),
    lamps: wp.array(dtype=wp.vec2),
):
    """Return sRGB in 0 to 255 of clay under some lights, with a rim.

    Linear light is taken as the square of sRGB: near enough to 2.2, and a tenth of the time.
    """
    light = AMBIENT
    for k in range(towards.shape[0]):
        wrap = lamps[k][1]
        light += lamps[k][0] * wp.max((wp.dot(normal, towards[k]) + wrap) / (1.0 + wrap), 0.0)
    grazing = 1.0 - wp.clamp(-normal[2], 0.0, 1.0)
    rim = RIM * grazing * grazing * grazing * wp.clamp(0.5 - 0.5 * normal[1], 0.0, 1.0)
    if back == 1:
        light *= INSIDE
    return 255.0 * wp.vec3(
        wp.sqrt(wp.clamp(albedo[0] * light + rim, 0.0, 1.0)),
        wp.sqrt(wp.clamp(albedo[1] * light + rim, 0.0, 1.0)),
        wp.sqrt(wp.clamp(albedo[2] * light + rim, 0.0, 1.0)),
    )


@wp.kernel
def shade_pixels(
    nearness: wp.array2d(dtype=wp.uint64),
    vertices: wp.array2d(dtype=wp.vec3),
    faces: wp.array(dtype=wp.vec3i),
    normals: wp.array(dtype=wp.vec3),
    owner: wp.array(dtype=int),
    albedo: wp.array(dtype=wp.vec3),
    towards: wp.array(dtype=wp.vec3),
    lamps: wp.array(dtype=wp.vec2),
    camera: wp.mat33,
    perspective: int,
    samples: int,
    tiles: wp.array(dtype=wp.vec2i),
    top: int,
    rows: int,
    colour: wp.array2d(dtype=wp.vec3),
    depth: wp.array2d(dtype=float),
    cover: wp.array2d(dtype=float),
):
    """(tiles, TILE, TILE): the means of the samples of a pixel that show something.

    Args:
        nearness: of a band of rows of pixels, samples * samples for each of them.
        tiles: (x, y) in the band, in tiles.  top, rows: of the band, in the image.
        colour, depth: of the image.  cover: share of the samples that show something.
    """
    n, j, i = wp.tid()
    x = tiles[n][0] * TILE + i
    y = tiles[n][1] * TILE + j
    width = colour.shape[1]
    if x >= width or y >= rows:
        return
    total = wp.vec3(0.0, 0.0, 0.0)
    far = float(0.0)
    count = float(0.0)
    for v in range(samples):
        for u in range(samples):
            fine_x = x * samples + u
            fine_y = y * samples + v
            key = nearness[0, fine_y * width * samples + fine_x]
            if key != wp.uint64(0):
                s = find_surface(key, fine_x, fine_y, vertices, faces, normals, camera, perspective)
                clay = albedo[owner[sample_face(key)]]
                total += light_surface(s.normal, s.back, clay, towards, lamps)
                far += s.depth
                count += 1.0
    if count > 0.0:
        colour[top + y, x] = total / count
        depth[top + y, x] = far / count
        cover[top + y, x] = count / float(samples * samples)


@wp.kernel
def darken_creases(
    tiles: wp.array(dtype=wp.vec2i),
    depth: wp.array2d(dtype=float),
    focal: float,
    perspective: int,
    radius: float,
    taps: wp.array(dtype=wp.vec2i),
    weights: wp.array(dtype=float),
    colour: wp.array2d(dtype=wp.vec3),
):
    """(tiles, TILE, TILE): darken pixels by the share of their surroundings that lies before them.

    It is less for what lies far before them.

    Args:
        focal: pixels, or pixels a metre without perspective.  radius: in pixels.
        taps: (x, y) of the surroundings, in pixels.  weights: how much each counts.
    """
    n, j, i = wp.tid()
    x = tiles[n][0] * TILE + i
    y = tiles[n][1] * TILE + j
    width = depth.shape[1]
    height = depth.shape[0]
    if x >= width or y >= height:
        return
    mine = depth[y, x]
    if mine == 0.0:
        return
    reach = focal / radius  # radii a metre
    if perspective == 1:
        reach = reach / wp.max(mine, 1e-6)
    total = float(0.0)
    most = float(0.0)
    for k in range(taps.shape[0]):
        most += weights[k]
        tap_x = x + taps[k][0]
        tap_y = y + taps[k][1]
        if tap_x >= 0 and tap_y >= 0 and tap_x < width and tap_y < height:
            far = depth[tap_y, tap_x]  # 0 where nothing is
            before = (mine - far) * reach
            if far != 0.0 and before > 0.0:
                total += weights[k] * wp.min(before, 1.0) / wp.max(1.0, 0.3 * before)
    colour[y, x] = colour[y, x] * (1.0 - CREASE_DARK * total / most)
