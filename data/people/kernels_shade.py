"""Warp kernels of the camera: what each pixel shows, and how the sensor renders it."""

# In a Warp kernel float(0.0) declares a variable; a bare 0.0 is a constant that a loop cannot
# change.
# ruff: noqa: UP018, SIM102

import warp as wp

from data.people.kernels_cloth import Looks
from data.people.kernels_person import shade_person
from data.people.kernels_scene import light_scene, meet_scene
from data.people.warp_types import (
    Box,
    Dressed,
    Layers,
    Light,
    LightMaps,
    Scene,
    Shot,
    Surface,
    Textures,
)
from data.raster.kernels import sample_face, sample_nearness

wp.set_module_options({"enable_backward": False})

CURVE_STEPS = wp.constant(2048)  # of the display curve, over linear light in [0, 4]
NOISE_SIDE = wp.constant(256)


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
    """Return what a pixel's samples hold.

    (How many are empty, nearest inverse depth, 1 if all are of one surface, its triangle).

    Samples are of one surface if they are of one layer and within 1.2 % of the first one's depth.
    """
    side = size * samples
    first = depth[n, y * samples * side + x * samples]
    face0 = int(-1)
    layer0 = int(-2)
    z0 = sample_nearness(first)
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
            z = sample_nearness(key)
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
    """(linear RGB, material) of a pixel on an edge, the mean of its samples.

    Each surface is shaded once, two are kept.
    """
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
            z = sample_nearness(key)
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


@wp.func
def see_behind(
    n: int,
    x: int,
    y: int,
    shot: Shot,
    empty: int,
    nearest: float,
    near: float,
    scene: Scene,
    boxes: wp.array(dtype=Box),
    spans: wp.array2d(dtype=wp.vec4),
    bank: Textures,
    light: Light,
    maps: LightMaps,
    layers: Layers,
):
    """What is behind the person at a pixel, or before it.

    (Its colour, 1 if the scene covers the person, how near a layer is that the scene leaves in
    sight).
    """
    pixel_angle = 1.0 / shot.focal
    behind = wp.vec3(0.0, 0.0, 0.0)
    covered = int(0)
    px = (float(x) + 0.5 - shot.cx) * pixel_angle
    py = (float(y) + 0.5 - shot.cy) * pixel_angle
    d = wp.transpose(shot.rotation) * wp.vec3(px, py, 1.0)
    hit = meet_scene(shot.eye, d, scene, boxes, spans, n, float(x), float(y), bank, pixel_angle)
    if nearest > 0.0 and hit.distance < 1.0 / nearest:
        covered = 1
    left = near
    if near > 0.0 and hit.distance < 1.0 / near:
        left = 0.0
    if empty > 0 or covered == 1:
        behind = light_scene(hit, shot.eye, d, shot.instant, light, maps)
        if left > 0.0:
            behind = layers.colour[n, y, x] + behind * (1.0 - layers.cover[n, y, x])
    return behind, covered, left


@wp.func
def label_layer(own: int, mine: int, far: float, before: bool, open_: bool):
    """(Label, depth of the person) of a pixel where a layer of the label ``own`` is seen.

    ``mine`` and ``far`` are the person's; ``before``: the layer hides it; ``open_``: it covers less
    than half.
    """
    if own == 0:
        if before:
            return 0, 0.0
    elif before or open_:
        return own, far
    return mine, far


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
    layers: Layers,
    image: wp.array4d(dtype=wp.uint8),
    label: wp.array3d(dtype=wp.uint8),
    seen_depth: wp.array3d(dtype=float),
):
    """Shade one pixel: its colour, its label and the person's depth.

    The label is an index into MATERIALS; the depth is in metres, 0 where none is seen.

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
    near = float(0.0)  # of a layer that the scene leaves in sight
    over = float(0.0)
    if layers.used == 1:
        near = layers.near[n, y, x]
        over = layers.cover[n, y, x]
    if empty > 0 or scene.boxes > 0 or near > 0.0:
        behind, covered, near = see_behind(
            n, x, y, shot, empty, nearest, near, scene, boxes, spans, bank, light, maps, layers
        )
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
    before = near > nearest and nearest > 0.0 and covered == 0
    if before:
        colour = layers.colour[n, y, x] + colour * (1.0 - over)
    develop(colour, n, x, y, size, shot, curve, noise, image)
    mine = int(0)
    if (count - empty) * 2 >= count and covered == 0:
        mine = wp.max(mat, 0) + 1
    far = float(0.0)
    if nearest > 0.0 and covered == 0:
        far = 1.0 / nearest
    if near > 0.0 and over >= 0.5:
        mine, far = label_layer(int(layers.label[n, y, x]), mine, far, before, empty * 2 > count)
    label[n, y, x] = wp.uint8(mine)
    seen_depth[n, y, x] = far
