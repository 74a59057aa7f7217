"""Warp functions of what is behind the person: a room or open air, and boxes, under the light."""

# In a Warp kernel float(0.0) declares a variable; a bare 0.0 is a constant that a loop cannot
# change.
# ruff: noqa: UP018, SIM102

import warp as wp

from data.people.kernels_cloth import grey, log2_above_1, ramp, texture
from data.people.kernels_light import lit
from data.people.warp_types import (
    PHOTO_LEVELS,
    PHOTO_SIDE,
    Box,
    Light,
    LightMaps,
    Scene,
    Textures,
)

wp.set_module_options({"enable_backward": False})


@wp.struct
class Hit:
    """Where a ray meets the scene; ``normal`` is 0 for the sky, which is not lit again."""

    colour: wp.vec3
    distance: float
    normal: wp.vec3


@wp.func
def walls(hit: Hit, eye: wp.vec3, d: wp.vec3, scene: Scene, bank: Textures, texels: float):
    """Return where a ray from inside a room meets its walls or ceiling.

    Distance in metres, colour, normal.
    """
    tx = float(1e9)
    ty = float(1e9)
    tz = float(1e9)
    if wp.abs(d[0]) > 1e-6:
        tx = (scene.centre_x + wp.sign(d[0]) * scene.half_x - eye[0]) / d[0]
    if wp.abs(d[1]) > 1e-6:
        ty = (scene.centre_y + wp.sign(d[1]) * scene.half_y - eye[1]) / d[1]
    if d[2] > 1e-6:
        tz = (scene.height - eye[2]) / d[2]
    if tz < tx and tz < ty:
        hit.distance = tz
        hit.colour = scene.ceiling
        hit.normal = wp.vec3(0.0, 0.0, -1.0)
        return hit
    t = wp.min(tx, ty)
    lod = log2_above_1(texels * t * scene.wall_scale)
    z = eye[2] + d[2] * t
    if tx < ty:
        y = eye[1] + d[1] * t
        paper = texture(
            bank.colour, scene.wall_texture, y * scene.wall_scale, z * scene.wall_scale, lod
        )
        hit.colour = wp.cw_mul(scene.wall_colour, paper)
        hit.normal = wp.vec3(-wp.sign(d[0]), 0.0, 0.0)
    else:
        x = eye[0] + d[0] * t
        paper = texture(
            bank.colour, scene.wall2_texture, x * scene.wall_scale, z * scene.wall_scale, lod
        )
        hit.colour = wp.cw_mul(scene.wall2_colour, paper)
        hit.normal = wp.vec3(0.0, -wp.sign(d[1]), 0.0)
    if z < 0.09:  # a skirting board
        hit.colour = hit.colour * 0.4 + wp.vec3(0.25, 0.25, 0.25)
    hit.distance = t
    return hit


@wp.func
def open_air(hit: Hit, d: wp.vec3, scene: Scene, bank: Textures):
    """What a ray that meets no ground sees out of doors: sky with clouds, or the skyline."""
    up = wp.max(d[2], 0.0)
    round_ = wp.atan2(d[1], d[0]) * 0.15915 + scene.rotation
    cloud = grey(bank.grey, 0, round_ * 2.0, up * 1.1, 0.0)
    white = ramp(0.30, 0.75, cloud) * 0.35
    hit.colour = wp.lerp(scene.haze, scene.zenith, wp.pow(up, 0.5)) + wp.vec3(white, white, white)
    skyline = (
        0.05
        + 0.16 * grey(bank.grey, 1, round_, 0.3, 0.0)
        + 0.05 * grey(bank.grey, 0, round_ * 5.0, 0.6, 0.0)
    )
    if d[2] < skyline:
        far = texture(bank.colour, scene.wall2_texture, round_ * 9.0, d[2] * 2.2, 1.0)
        hit.colour = wp.cw_mul(scene.wall2_colour, far) * 0.8
    hit.distance = 80.0
    hit.normal = wp.vec3(0.0, 0.0, 0.0)
    return hit


@wp.func
def meet_box(hit: Hit, eye: wp.vec3, d: wp.vec3, box: Box, bank: Textures, texels: float):
    """The box's nearest face, if it lies in front of ``hit`` (slab test in the box's own axes)."""
    q = eye - box.centre
    ox = q[0] * box.cos + q[1] * box.sin
    oy = -q[0] * box.sin + q[1] * box.cos
    dx = d[0] * box.cos + d[1] * box.sin
    dy = -d[0] * box.sin + d[1] * box.cos
    ix = 1.0 / (dx + wp.sign(dx) * 1e-9)
    iy = 1.0 / (dy + wp.sign(dy) * 1e-9)
    iz = 1.0 / (d[2] + wp.sign(d[2]) * 1e-9)
    x1 = (-box.half[0] - ox) * ix
    x2 = (box.half[0] - ox) * ix
    y1 = (-box.half[1] - oy) * iy
    y2 = (box.half[1] - oy) * iy
    z1 = (-box.half[2] - q[2]) * iz
    z2 = (box.half[2] - q[2]) * iz
    near_x = wp.min(x1, x2)
    near_y = wp.min(y1, y2)
    near = wp.max(near_x, wp.max(near_y, wp.min(z1, z2)))
    far = wp.min(wp.max(x1, x2), wp.min(wp.max(y1, y2), wp.max(z1, z2)))
    if near < far and near > 0.05 and near < hit.distance:
        x = ox + dx * near
        y = oy + dy * near
        z = q[2] + d[2] * near
        u = x
        v = y
        if near == near_x:
            u = y
            v = z
            s = -wp.sign(dx)
            hit.normal = wp.vec3(s * box.cos, s * box.sin, 0.0)
        elif near == near_y:
            v = z
            s = -wp.sign(dy)
            hit.normal = wp.vec3(-s * box.sin, s * box.cos, 0.0)
        else:
            hit.normal = wp.vec3(0.0, 0.0, -wp.sign(d[2]))
        hit.distance = near
        lod = log2_above_1(texels * near * box.scale)
        hit.colour = wp.cw_mul(
            box.colour, texture(bank.colour, box.texture, u * box.scale, v * box.scale, lod)
        )
    return hit


@wp.func
def photo_colour(bank: wp.array(dtype=wp.vec3ub), u: float, v: float, lod: float):
    """Linear RGB of the photograph, bilinear in the nearest mip level; mirrored beyond [0, 1]."""
    level = wp.clamp(int(lod + 0.5), 0, PHOTO_LEVELS - 1)
    side = PHOTO_SIDE >> level
    start = int(0)
    for k in range(level):
        start += (PHOTO_SIDE >> k) * (PHOTO_SIDE >> k)
    mu = u - 2.0 * wp.floor(u * 0.5)
    if mu > 1.0:
        mu = 2.0 - mu
    mv = wp.clamp(v, 0.0, 1.0)
    x = wp.clamp(mu * float(side) - 0.5, 0.0, float(side - 1))
    y = wp.clamp(mv * float(side) - 0.5, 0.0, float(side - 1))
    x0 = int(x)
    y0 = int(y)
    x1 = wp.min(x0 + 1, side - 1)
    y1 = wp.min(y0 + 1, side - 1)
    dx = x - float(x0)
    dy = y - float(y0)
    out = wp.vec3(0.0, 0.0, 0.0)
    for c in range(3):
        top = float(bank[start + y0 * side + x0][c]) * (1.0 - dx)
        top += float(bank[start + y0 * side + x1][c]) * dx
        low = float(bank[start + y1 * side + x0][c]) * (1.0 - dx)
        low += float(bank[start + y1 * side + x1][c]) * dx
        value = (top * (1.0 - dy) + low * dy) / 255.0
        out[c] = value * value
    return out


@wp.func
def meet_photo(hit: Hit, eye: wp.vec3, d: wp.vec3, scene: Scene, bank: Textures, angle: float):
    """Where a ray meets the dome that shows a photograph, if nothing was met before it.

    ``angle`` is that of a pixel.
    """
    q = eye - scene.photo_centre
    a = wp.dot(d, d)
    b = wp.dot(q, d)
    c = wp.dot(q, q) - scene.photo_radius * scene.photo_radius
    t = (wp.sqrt(wp.max(b * b - a * c, 0.0)) - b) / a
    if t < hit.distance:
        p = q + d * t
        u = (wp.atan2(p[1], p[0]) * 0.15915494 + scene.rotation) * 4.0
        up = wp.atan2(p[2], wp.sqrt(p[0] * p[0] + p[1] * p[1]))
        w = (up - scene.photo_middle) * scene.photo_scale
        # Towards straight up, the rest of the photograph is stretched over what is left.
        if w > 0.3:
            w = 0.3 + 0.2 * (1.0 - wp.exp((0.3 - w) * 5.0))
        lod = log2_above_1(angle * t / scene.photo_radius * float(PHOTO_SIDE) * 0.6366)
        hit.colour = wp.cw_mul(scene.photo_colour, photo_colour(bank.photo, u, 0.5 - w, lod))
        hit.distance = t
        hit.normal = wp.vec3(0.0, 0.0, 0.0)
    return hit


@wp.func
def meet_scene(
    eye: wp.vec3,
    d: wp.vec3,
    scene: Scene,
    boxes: wp.array(dtype=Box),
    spans: wp.array2d(dtype=wp.vec4),
    n: int,
    px: float,
    py: float,
    bank: Textures,
    pixel_angle: float,
):
    """The first thing that the ray eye + t * d meets, unlit.

    ``spans`` are the boxes' rectangles in the image.
    """
    hit = Hit()
    hit.distance = float(1e9)
    hit.colour = wp.vec3(0.0, 0.0, 0.0)
    hit.normal = wp.vec3(0.0, 0.0, 1.0)
    texels = pixel_angle * 256.0
    if d[2] < -1e-5:
        t = -eye[2] / d[2]
        x = eye[0] + d[0] * t
        y = eye[1] + d[1] * t
        in_room = (
            wp.abs(x - scene.centre_x) <= scene.half_x
            and wp.abs(y - scene.centre_y) <= scene.half_y
        )
        if scene.outdoors == 1 or in_room:
            lod = log2_above_1(texels * t * scene.ground_scale / wp.max(0.12, -d[2]))
            floor_ = texture(
                bank.colour,
                scene.ground_texture,
                x * scene.ground_scale,
                y * scene.ground_scale,
                lod,
            )
            hit.distance = t
            hit.colour = wp.cw_mul(scene.ground_colour, floor_)
            if scene.outdoors == 1:
                hit.colour = wp.lerp(
                    hit.colour, scene.ground_colour * 0.30 + scene.haze * 0.20, ramp(10.0, 60.0, t)
                )
    if scene.photo == 1:
        hit = meet_photo(hit, eye, d, scene, bank, pixel_angle)
    if hit.distance > 1e8:
        if scene.outdoors == 0:
            hit = walls(hit, eye, d, scene, bank, texels)
        else:
            hit = open_air(hit, d, scene, bank)
    for k in range(scene.boxes):
        span = spans[n, k]
        if px >= span[0] and px <= span[2] and py >= span[1] and py <= span[3]:
            hit = meet_box(hit, eye, d, boxes[k], bank, texels)
    return hit


@wp.func
def contact_shadow(point: wp.vec3, t: int, light: Light, maps: LightMaps):
    """Return the occlusion of the floor by the person, [0, 9].

    In three of the sky's directions, five taps each.
    """
    total = float(0.0)
    side = light.sky_side
    half = float(side) * 0.5
    for k in range(3):
        d = 4 + k * 2 + k / 2
        p = maps.sky_axes[d] * (point - light.centre)
        x = int(p[0] * light.sky_scale + half)
        y = int(p[1] * light.sky_scale + half)
        if x >= 1 and y >= 1 and x < side - 1 and y < side - 1:
            z = 10.0 - p[2] + 0.03
            i = y * side + x
            near = wp.step(z - maps.sky[t, d, i - 1]) + wp.step(z - maps.sky[t, d, i + 1])
            near += wp.step(z - maps.sky[t, d, i - side]) + wp.step(z - maps.sky[t, d, i + side])
            total += wp.step(z - maps.sky[t, d, i]) + 0.5 * near
    return total


@wp.func
def light_scene(hit: Hit, eye: wp.vec3, d: wp.vec3, t: int, light: Light, maps: LightMaps):
    """The scene's colour under the light, with the person's shadow on it."""
    n = hit.normal
    if n[0] == 0.0 and n[1] == 0.0 and n[2] == 0.0:
        return hit.colour
    point = eye + d * hit.distance
    e = light.ground * 0.25 + (light.sky * 0.35 + light.horizon * 0.65) * (0.55 + 0.45 * n[2])
    if n[2] > 0.5 and wp.length(point - light.centre) < light.contact:
        e = e * (1.0 - 0.055 * contact_shadow(point, t, light, maps))
    facing = wp.max(0.0, wp.dot(n, light.direction))
    if facing > 0.0:
        e = e + light.colour * (facing * lit(point, light, t, maps.key, maps.blocks, 0.02))
    return wp.cw_mul(hit.colour, e)
