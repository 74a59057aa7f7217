"""Warp kernels and functions of light.

The key light's soft shadow and the sky's, gathered from depth maps.
"""

# In a Warp kernel float(0.0) declares a variable; a bare 0.0 is a constant that a loop cannot
# change.
# ruff: noqa: UP018, SIM102

import warp as wp

from data.people.warp_types import SKY_DIRECTIONS, Light, LightMaps
from data.raster.kernels import sample_nearness

wp.set_module_options({"enable_backward": False})

BLOCK = wp.constant(8)


@wp.kernel
def splat_sky(
    vertices: wp.array2d(dtype=wp.vec3),
    axes: wp.array(dtype=wp.mat33),
    light: Light,
    body: wp.array(dtype=int),
    out: wp.array3d(dtype=float),
):
    """Draw depth maps (T, SKY_DIRECTIONS, side^2) from the body's vertices as points.

    These close up at 96 texels a person.
    """
    t, d, k = wp.tid()
    p = axes[d] * (vertices[t, body[k]] - light.centre)
    half = float(light.sky_side) * 0.5
    x = int(p[0] * light.sky_scale + half)
    y = int(p[1] * light.sky_scale + half)
    if x >= 0 and y >= 0 and x < light.sky_side and y < light.sky_side:
        wp.atomic_max(out, t, d, y * light.sky_side + x, 10.0 - p[2])


@wp.kernel
def gather_sky(
    vertices: wp.array2d(dtype=wp.vec3),
    normals: wp.array2d(dtype=wp.vec3),
    light: Light,
    maps: LightMaps,
    out: wp.array2d(dtype=wp.vec3),
):
    """(T, V): light from the sky's directions and from the ground.

    A hidden direction counts 0.22 (light bounces).
    """
    t, i = wp.tid()
    point = vertices[t, i]
    normal = normals[t, i]
    half = float(light.sky_side) * 0.5
    total = light.ground * (0.5 - 0.5 * normal[2]) * wp.clamp(0.35 + point[2] * 0.6, 0.35, 1.0)
    for d in range(SKY_DIRECTIONS):
        axes = maps.sky_axes[d]
        facing = -(axes[2, 0] * normal[0] + axes[2, 1] * normal[1] + axes[2, 2] * normal[2])
        if facing > 0.0:
            p = axes * (point + normal * 0.03 - light.centre)
            x = int(p[0] * light.sky_scale + half)
            y = int(p[1] * light.sky_scale + half)
            open_ = float(1.0)
            if x >= 0 and y >= 0 and x < light.sky_side and y < light.sky_side:
                if maps.sky[t, d, y * light.sky_side + x] > 10.0 - p[2] + 0.035:
                    open_ = 0.22
            total += maps.sky_colour[d] * (facing * open_)
    out[t, i] = total


@wp.kernel
def split_shadow_map(
    depth: wp.array2d(dtype=wp.uint64),
    side: int,
    out: wp.array3d(dtype=float),
    blocks: wp.array3d(dtype=wp.vec2),
):
    """Write the shadow map as floats, and the range of values of each block.

    A block is 8 x 8 grown by 3 texels; its range is the least and the greatest value.

    Most points are clearly lit or clearly not: the block says so without the nine taps.
    """
    t, by, bx = wp.tid()
    low = float(1e9)
    high = float(0.0)
    for y in range(by * BLOCK - 3, by * BLOCK + BLOCK + 3):
        for x in range(bx * BLOCK - 3, bx * BLOCK + BLOCK + 3):
            if x >= 0 and y >= 0 and x < side and y < side:
                value = sample_nearness(depth[t, y * side + x])
                low = wp.min(low, value)
                high = wp.max(high, value)
                if x / BLOCK == bx and y / BLOCK == by:
                    out[t, y, x] = value
    blocks[t, by, bx] = wp.vec2(low, high)


@wp.func
def lit(
    point: wp.vec3,
    light: Light,
    t: int,
    key: wp.array3d(dtype=float),
    blocks: wp.array3d(dtype=wp.vec2),
    bias: float,
):
    """Return the share of the key light that reaches a point, [0, 1].

    3 x 3 taps with weights that slide with the point.
    """
    p = light.axes * (point - light.centre)
    half = float(light.shadow_side) * 0.5
    x = p[0] * light.shadow_scale + half
    y = p[1] * light.shadow_scale + half
    z = 10.0 - p[2] + bias
    ix = int(wp.floor(x))
    iy = int(wp.floor(y))
    if ix < 2 or iy < 2 or ix > light.shadow_side - 3 or iy > light.shadow_side - 3:
        return float(1.0)
    span = blocks[t, iy / BLOCK, ix / BLOCK]
    if z >= span[1]:
        return float(1.0)
    if z < span[0]:
        return float(0.0)
    x -= 0.5
    y -= 0.5
    ix = int(wp.floor(x))
    iy = int(wp.floor(y))
    fx = x - float(ix)
    fy = y - float(iy)
    total = float(0.0)
    for j in range(3):
        wy = float(1.0)
        if j == 0:
            wy = 1.0 - fy
        if j == 2:
            wy = fy
        for i in range(3):
            wx = float(1.0)
            if i == 0:
                wx = 1.0 - fx
            if i == 2:
                wx = fx
            if key[t, iy - 1 + j, ix - 1 + i] < z:
                total += wx * wy
    return total * 0.25
