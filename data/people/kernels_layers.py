"""Warp kernels of what is drawn apart from the person.

Other people, things, and hair that is a mesh of its own are drawn into layers: a colour, how much
of a pixel it covers, how near it is. kernels_shade puts them before or behind the person.
"""

# In a Warp kernel float(0.0) declares a variable; a bare 0.0 is a constant that a loop cannot
# change.
# ruff: noqa: UP018, SIM102

import warp as wp

from data.people.kernels_cloth import Looks, log2_above_1, texture
from data.people.kernels_light import lit
from data.people.kernels_person import pixel_weights
from data.people.kernels_shade import shade_edge, survey
from data.people.warp_types import (
    Dressed,
    Layers,
    Light,
    LightMaps,
    Part,
    Shot,
    Surface,
    Textures,
    Things,
)
from data.raster.kernels import (
    corner_weights,
    keep_nearest,
    prepare_edges,
    sample_face,
    sample_nearness,
    screen_area,
)

wp.set_module_options({"enable_backward": False})


@wp.func
def put_layer(
    layers: Layers, n: int, y: int, x: int, colour: wp.vec3, cover: float, near: float, label: int
):
    """Put a colour, of which ``cover`` is a part already, over or under what a pixel has."""
    old = layers.colour[n, y, x]
    old_cover = layers.cover[n, y, x]
    if near > layers.near[n, y, x]:
        layers.colour[n, y, x] = colour + old * (1.0 - cover)
        layers.near[n, y, x] = near
        layers.label[n, y, x] = wp.uint8(label)
    else:
        layers.colour[n, y, x] = old + colour * (1.0 - old_cover)
    layers.cover[n, y, x] = 1.0 - (1.0 - cover) * (1.0 - old_cover)


@wp.kernel
def lay_person(
    points: wp.array2d(dtype=wp.vec3),
    person: Dressed,
    surface: Surface,
    look: Looks,
    light: Light,
    maps: LightMaps,
    bank: Textures,
    shots: wp.array(dtype=Shot),
    depth: wp.array2d(dtype=wp.uint64),
    size: int,
    samples: int,
    layers: Layers,
    label: int,
):
    """(N, rows, columns): another person, with this label."""
    n, y, x = wp.tid()
    count = samples * samples
    empty, nearest, one_surface, face = survey(n, x, y, size, samples, depth, surface.layer)
    if empty == count:
        return
    shot = shots[n]
    none = wp.vec3(0.0, 0.0, 0.0)
    colour, mat = shade_edge(
        n,
        x,
        y,
        size,
        samples,
        depth,
        none,
        shot.instant,
        points,
        person,
        surface,
        look,
        light,
        maps,
        bank,
        shot.eye,
        1.0 / shot.focal,
    )
    put_layer(layers, n, y, x, colour, float(count - empty) / float(count), nearest, label)


@wp.kernel
def rasterise_things(
    points: wp.array2d(dtype=wp.vec3),
    faces: wp.array(dtype=wp.vec3i),
    side: int,
    depth: wp.array2d(dtype=wp.uint64),
):
    """One triangle of a thing into (N, side^2), seen from either side."""
    n, t = wp.tid()
    f = faces[t]
    a = points[n, f[0]]
    b = points[n, f[1]]
    c = points[n, f[2]]
    if a[2] <= 0.0 or b[2] <= 0.0 or c[2] <= 0.0:
        return
    area = screen_area(a, b, c)
    if area == 0.0:
        return
    e = prepare_edges(a, b, c, area, side, side)
    for y in range(e.y0, e.y1 + 1):
        for x in range(e.x0, e.x1 + 1):
            w = corner_weights(e, x, y)
            if w[0] >= 0.0 and w[1] >= 0.0 and w[2] >= 0.0:
                keep_nearest(depth, n, y * side + x, w[0] * a[2] + w[1] * b[2] + w[2] * c[2], t)


@wp.func
def part_colour(part: Part, uv: wp.vec2, lod: float, bank: Textures):
    """Linear RGB of a thing's surface."""
    if part.texture == 0:
        return part.colour
    paint = texture(bank.colour, part.texture, uv[0] * part.scale, uv[1] * part.scale, lod)
    return wp.cw_mul(part.colour, paint)


@wp.kernel
def lay_things(
    points: wp.array2d(dtype=wp.vec3),
    things: Things,
    parts: wp.array(dtype=Part),
    light: Light,
    maps: LightMaps,
    bank: Textures,
    shots: wp.array(dtype=Shot),
    depth: wp.array2d(dtype=wp.uint64),
    size: int,
    samples: int,
    layers: Layers,
):
    """(N, size, size): all things of a clip, shaded once a pixel by the nearest sample's face."""
    n, y, x = wp.tid()
    side = size * samples
    hits = int(0)
    nearest = wp.uint64(0)
    for q in range(samples * samples):
        key = depth[n, (y * samples + q / samples) * side + x * samples + q % samples]
        if key != wp.uint64(0):
            hits += 1
            nearest = wp.max(nearest, key)
    if hits == 0:
        return
    shot = shots[n]
    t = shot.instant
    i = sample_face(nearest)
    f = things.faces[i]
    part = parts[things.part[i]]
    middle = 0.5 * float(samples)
    px = float(x * samples) + middle
    py = float(y * samples) + middle
    w = pixel_weights(points[n, f[0]], points[n, f[1]], points[n, f[2]], px, py)
    a = things.position[t, f[0]]
    b = things.position[t, f[1]]
    c = things.position[t, f[2]]
    point = w[0] * a + w[1] * b + w[2] * c
    normal = wp.normalize(
        w[0] * things.normal[t, f[0]]
        + w[1] * things.normal[t, f[1]]
        + w[2] * things.normal[t, f[2]]
    )
    uv = w[0] * things.uv[f[0]] + w[1] * things.uv[f[1]] + w[2] * things.uv[f[2]]
    view = shot.eye - point
    distance = wp.length(view)
    if wp.dot(normal, view) < 0.0:
        normal = -normal
    lod = log2_above_1(distance / shot.focal * 256.0 * part.scale)
    colour = part_colour(part, uv, lod, bank)
    e = light.ground * (0.3 - 0.2 * normal[2])
    e += (light.sky * 0.35 + light.horizon * 0.65) * (0.55 + 0.4 * normal[2])
    facing = wp.dot(normal, light.direction)
    shine = float(0.0)
    if facing > 0.0:
        sun = lit(point, light, t, maps.key, maps.blocks, 0.02)
        e += light.colour * (facing * sun)
        half = wp.normalize(light.direction + view / distance)
        shine = sun * part.shine * wp.exp(40.0 * (wp.dot(normal, half) - 1.0))
    colour = wp.cw_mul(colour, e) + light.colour * shine
    cover = float(hits) / float(samples * samples)
    put_layer(layers, n, y, x, colour * cover, cover, sample_nearness(nearest), part.label)
