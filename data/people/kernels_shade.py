"""Warp kernels that colour pixels: the room or open air behind, the person in front, and the
camera's rendering of both."""

# In a Warp kernel float(0.0) declares a variable; a bare 0.0 is a constant that a loop cannot
# change.
# ruff: noqa: UP018, SIM102

import warp as wp

from data.people.kernels_cloth import Looks, albedo, grey, log2_above_1, material, ramp, texture
from data.people.kernels_light import lit
from data.people.warp_types import Box, Dressed, Light, LightMaps, Scene, Shot, Surface, Textures

wp.set_module_options({"enable_backward": False})

CURVE_STEPS = wp.constant(2048)  # of the display curve, over linear light in [0, 4]
NOISE_SIDE = wp.constant(256)


@wp.struct
class Hit:
    """Where a ray meets the scene; ``normal`` is 0 for the sky, which is not lit again."""

    colour: wp.vec3
    distance: float
    normal: wp.vec3


@wp.func
def walls(hit: Hit, eye: wp.vec3, d: wp.vec3, scene: Scene, bank: Textures, texels: float):
    """Where a ray from inside a room meets its walls or ceiling: distance in metres, colour,
    normal."""
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
    round_ = wp.atan2(d[1], d[0]) * 0.15915 + scene.turn
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
    """The first thing that the ray eye + t * d meets, unlit; ``spans`` are the boxes' rectangles in
    the image."""
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
    """Occlusion of the floor by the person in three of the sky's directions, five taps each, [0,
    9]."""
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
    if n[2] > 0.5 and wp.length(point - light.centre) < 1.9:
        e = e * (1.0 - 0.055 * contact_shadow(point, t, light, maps))
    facing = wp.max(0.0, wp.dot(n, light.direction))
    if facing > 0.0:
        e = e + light.colour * (facing * lit(point, light, t, maps.key, maps.blocks, 0.02))
    return wp.cw_mul(hit.colour, e)


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
def corner_weights(a: wp.vec3, b: wp.vec3, c: wp.vec3, x: float, y: float):
    """Perspective-correct barycentric weights at (x, y); clamped, as a pixel's centre may lie just
    off the triangle."""
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
    w = corner_weights(points[n, f[0]], points[n, f[1]], points[n, f[2]], x, y)
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


@wp.func
def sample_face(key: wp.uint64):
    return int(key & wp.uint64(0xFFFFFFFF))


@wp.func
def sample_depth(key: wp.uint64):
    """Inverse depth in 1/m, 0 where nothing was drawn."""
    return wp.cast(wp.uint32(key >> wp.uint64(32)), float)


@wp.func
def develop(
    linear: wp.vec3,
    n: int,
    x: int,
    y: int,
    size: int,
    shot: Shot,
    curve: wp.array(dtype=float),
    noise: wp.array(dtype=float),
    out: wp.array4d(dtype=wp.uint8),
):
    """Gain, vignette, display curve and sensor noise; writes one pixel."""
    vx = (float(x) / float(size) - 0.5) * 2.0
    vy = (float(y) / float(size) - 0.5) * 2.0
    fall = 1.0 - shot.vignette * (vx * vx + vy * vy)
    at = ((y + shot.noise_y) % NOISE_SIDE) * NOISE_SIDE + (x + shot.noise_x) % NOISE_SIDE
    for k in range(3):
        step = wp.clamp(int(linear[k] * shot.gain[k] * fall * 512.0), 0, CURVE_STEPS - 1)
        value = curve[step] + shot.noise * noise[at + k * NOISE_SIDE * NOISE_SIDE]
        out[n, y, x, k] = wp.uint8(wp.clamp(value, 0.0, 1.0) * 255.0 + 0.5)


@wp.func
def survey(
    n: int,
    x: int,
    y: int,
    size: int,
    samples: int,
    depth: wp.array2d(dtype=wp.uint64),
    layer: wp.array(dtype=int),
):
    """What a pixel's samples hold: (how many are empty, nearest inverse depth, 1 if all are of one
    surface, its triangle).

    Samples are of one surface if they are of one layer and within 1.2 % of the first one's depth.
    """
    side = size * samples
    first = depth[n, y * samples * side + x * samples]
    face0 = int(-1)
    layer0 = int(-2)
    z0 = sample_depth(first)
    if first != wp.uint64(0):
        face0 = sample_face(first)
        layer0 = layer[face0]
    empty = int(0)
    nearest = float(0.0)
    one_surface = int(1)
    for q in range(samples * samples):
        key = depth[n, (y * samples + q / samples) * side + x * samples + q % samples]
        if key == wp.uint64(0):
            empty += 1
        else:
            z = sample_depth(key)
            nearest = wp.max(nearest, z)
            if layer[sample_face(key)] != layer0 or wp.abs(z - z0) > 0.012 * z0:
                one_surface = 0
    return empty, nearest, one_surface, face0


@wp.func
def shade_edge(
    n: int,
    x: int,
    y: int,
    size: int,
    samples: int,
    depth: wp.array2d(dtype=wp.uint64),
    behind: wp.vec3,
    t: int,
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
    """(linear RGB, material) of a pixel on an edge, the mean of its samples; each surface is shaded
    once, two are kept."""
    side = size * samples
    total = wp.vec3(0.0, 0.0, 0.0)
    mat = int(-1)
    c0 = wp.vec3(0.0, 0.0, 0.0)
    c1 = wp.vec3(0.0, 0.0, 0.0)
    layer0 = int(-9)
    layer1 = int(-9)
    z0 = float(0.0)
    z1 = float(0.0)
    for q in range(samples * samples):
        row = y * samples + q / samples
        column = x * samples + q % samples
        key = depth[n, row * side + column]
        if key == wp.uint64(0):
            total += behind
        else:
            face = sample_face(key)
            layer = surface.layer[face]
            z = sample_depth(key)
            if layer == layer0 and wp.abs(z - z0) < 0.012 * z0:
                total += c0
            elif layer == layer1 and wp.abs(z - z1) < 0.012 * z1:
                total += c1
            else:
                c, m = shade_person(
                    n,
                    t,
                    float(column) + 0.5,
                    float(row) + 0.5,
                    face,
                    points,
                    person,
                    surface,
                    look,
                    light,
                    maps,
                    bank,
                    eye,
                    pixel_angle,
                )
                total += c
                mat = wp.max(mat, m)
                if layer0 == -9:
                    c0 = c
                    layer0 = layer
                    z0 = z
                else:
                    c1 = c
                    layer1 = layer
                    z1 = z
    return total / float(samples * samples), mat


@wp.kernel
def shade(
    points: wp.array2d(dtype=wp.vec3),
    person: Dressed,
    surface: Surface,
    look: Looks,
    light: Light,
    maps: LightMaps,
    bank: Textures,
    scene: Scene,
    boxes: wp.array(dtype=Box),
    spans: wp.array2d(dtype=wp.vec4),
    shots: wp.array(dtype=Shot),
    depth: wp.array2d(dtype=wp.uint64),
    size: int,
    samples: int,
    noise: wp.array(dtype=float),
    curve: wp.array(dtype=float),
    image: wp.array4d(dtype=wp.uint8),
    label: wp.array3d(dtype=wp.uint8),
    seen_depth: wp.array3d(dtype=float),
):
    """One pixel: its colour, its label (index into MATERIALS) and the person's depth in metres (0:
    none seen).

    A pixel inside one surface is shaded once, with the colour at its middle.
    """
    n, y, x = wp.tid()
    shot = shots[n]
    t = shot.instant
    count = samples * samples
    pixel_angle = 1.0 / shot.focal
    empty, nearest, one_surface, face = survey(n, x, y, size, samples, depth, surface.layer)
    behind = wp.vec3(0.0, 0.0, 0.0)
    covered = int(0)
    if empty > 0 or scene.boxes > 0:
        px = (float(x) + 0.5 - shot.cx) * pixel_angle
        py = (float(y) + 0.5 - shot.cy) * pixel_angle
        d = wp.transpose(shot.rotation) * wp.vec3(px, py, 1.0)
        hit = meet_scene(shot.eye, d, scene, boxes, spans, n, float(x), float(y), bank, pixel_angle)
        if nearest > 0.0 and hit.distance < 1.0 / nearest:
            covered = 1
        if empty > 0 or covered == 1:
            behind = light_scene(hit, shot.eye, d, t, light, maps)
    colour = behind
    mat = int(-1)
    if empty < count and covered == 0:
        if empty == 0 and one_surface == 1:
            middle = 0.5 * float(samples)
            colour, mat = shade_person(
                n,
                t,
                float(x * samples) + middle,
                float(y * samples) + middle,
                face,
                points,
                person,
                surface,
                look,
                light,
                maps,
                bank,
                shot.eye,
                pixel_angle,
            )
        else:
            colour, mat = shade_edge(
                n,
                x,
                y,
                size,
                samples,
                depth,
                behind,
                t,
                points,
                person,
                surface,
                look,
                light,
                maps,
                bank,
                shot.eye,
                pixel_angle,
            )
    develop(colour, n, x, y, size, shot, curve, noise, image)
    label[n, y, x] = wp.uint8(0)
    if (count - empty) * 2 >= count and covered == 0:
        label[n, y, x] = wp.uint8(wp.max(mat, 0) + 1)
    seen_depth[n, y, x] = 0.0
    if nearest > 0.0 and covered == 0:
        seen_depth[n, y, x] = 1.0 / nearest
