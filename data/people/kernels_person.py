"""Warp functions of the person's colour at one sample: cloth, skin, light and shine."""

# In a Warp kernel float(0.0) declares a variable; a bare 0.0 is a constant that a loop cannot
# change.
# ruff: noqa: UP018, SIM102

import warp as wp

from data.people.kernels_cloth import Looks, albedo, log2_above_1, material, texture
from data.people.kernels_light import lit
from data.people.warp_types import Dressed, Light, LightMaps, Surface, Textures

wp.set_module_options({"enable_backward": False})


@wp.func
def finish(mat: int, oily: float):
    """(relief, specular strength, specular exponent) of a material."""
    relief = float(0.10)
    strength = float(0.03)
    exponent = float(24.0)
    if mat == 0:
        relief = 0.05
        strength = 0.05 + 0.10 * oily
        exponent = 22.0
    if mat == 1 or mat == 2:
        relief = 0.16
    if mat == 3:
        strength = 0.12
        exponent = 30.0
    if mat == 4:
        relief = 0.45
        strength = 0.10
        exponent = 18.0
    if mat == 5:
        strength = 0.55
        exponent = 220.0
    return wp.vec3(relief, strength, exponent)


@wp.func
def pixel_weights(a: wp.vec3, b: wp.vec3, c: wp.vec3, x: float, y: float):
    """Perspective-correct barycentric weights at (x, y).

    Clamped, as a pixel's centre may lie just off the triangle.
    """
    wa = ((b[0] - x) * (c[1] - y) - (c[0] - x) * (b[1] - y)) * a[2]
    wb = ((c[0] - x) * (a[1] - y) - (a[0] - x) * (c[1] - y)) * b[2]
    wc = ((a[0] - x) * (b[1] - y) - (b[0] - x) * (a[1] - y)) * c[2]
    r = 1.0 / (wa + wb + wc)
    wa = wp.clamp(wa * r, 0.0, 1.0)
    wb = wp.clamp(wb * r, 0.0, 1.0)
    wc = wp.clamp(wc * r, 0.0, 1.0)
    r = 1.0 / (wa + wb + wc)
    return wp.vec3(wa * r, wb * r, wc * r)


@wp.func
def shade_person(
    n: int,
    t: int,
    x: float,
    y: float,
    face: int,
    points: wp.array2d(dtype=wp.vec3),
    person: Dressed,
    surface: Surface,
    look: Looks,
    light: Light,
    maps: LightMaps,
    bank: Textures,
    eye: wp.vec3,
    pixel_angle: float,
):
    """(linear RGB, material) of triangle ``face`` at sample (x, y)."""
    f = surface.faces[face]
    layer = surface.layer[face]
    w = pixel_weights(points[n, f[0]], points[n, f[1]], points[n, f[2]], x, y)
    point = (
        w[0] * person.position[t, f[0]]
        + w[1] * person.position[t, f[1]]
        + w[2] * person.position[t, f[2]]
    )
    normal = wp.normalize(
        w[0] * person.normal[t, f[0]]
        + w[1] * person.normal[t, f[1]]
        + w[2] * person.normal[t, f[2]]
    )
    p = w[0] * surface.rest[f[0]] + w[1] * surface.rest[f[1]] + w[2] * surface.rest[f[2]]
    limb = w[0] * surface.limb[f[0]] + w[1] * surface.limb[f[1]] + w[2] * surface.limb[f[2]]
    detail = w[0] * surface.detail[f[0]] + w[1] * surface.detail[f[1]] + w[2] * surface.detail[f[2]]
    view = eye - point
    distance = wp.length(view)
    view = view / distance
    inside = float(1.0)
    if layer >= 2 and wp.dot(normal, view) < 0.0:
        corner = person.position[t, f[0]]
        flat = wp.cross(person.position[t, f[1]] - corner, person.position[t, f[2]] - corner)
        if wp.dot(flat, view) < 0.0:  # the inner side of a sleeve or hem: dark
            normal = -normal
            inside = 0.45
    lod = log2_above_1(pixel_angle * distance * 1024.0)
    mat = material(layer, p, limb, detail, look)
    if mat < 0:
        mat = 1
    colour = albedo(mat, layer, p, limb, detail, lod, look, bank)
    shine = finish(mat, look[0].oily)
    grain = texture(bank.colour, 2, p[0] * 11.0 + p[1] * 8.0, p[2] * 12.0, lod) - wp.vec3(
        0.3, 0.3, 0.3
    )
    normal = wp.normalize(normal + grain * shine[0])
    facing = wp.dot(normal, light.direction)
    sun = float(0.0)
    if facing > -0.3:
        sun = lit(point, light, t, maps.key, maps.blocks, 0.012)
    # Skin lets red light through around the terminator.
    wrap = wp.vec3(0.0, 0.0, 0.0)
    if mat == 0:
        wrap = wp.vec3(0.28, 0.10, 0.06)
    diffuse = wp.vec3(
        wp.max(0.0, (facing + wrap[0]) / (1.0 + wrap[0])),
        wp.max(0.0, (facing + wrap[1]) / (1.0 + wrap[1])),
        wp.max(0.0, (facing + wrap[2]) / (1.0 + wrap[2])),
    )
    sky = (
        w[0] * person.ambient[t, f[0]]
        + w[1] * person.ambient[t, f[1]]
        + w[2] * person.ambient[t, f[2]]
    )
    e = (
        sky * (1.0 + shine[0] * 3.0 * (grain[0] + grain[2]))
        + wp.cw_mul(light.colour, diffuse) * sun
    )
    spark = float(0.0)
    if sun > 0.0 and facing > 0.0:
        half = wp.normalize(light.direction + view)
        spark = (
            wp.exp(shine[2] * (wp.dot(normal, half) - 1.0))
            * shine[1]
            * (shine[2] + 8.0)
            * 0.06
            * sun
        )
    rim = 1.0 - wp.max(0.0, wp.dot(normal, view))
    rim = rim * rim
    rim = rim * rim * (0.04 + shine[1] * 0.5)
    return wp.cw_mul(colour, e) * inside + light.colour * spark + light.sky * rim, mat
