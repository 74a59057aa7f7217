"""Warp kernels over the mesh: normals, dressing, projection, rasterising, visibility of vertices.

Shapes: T instants, N shots, V vertices, F triangles. Depth buffers are those of
data/raster/kernels.py.
"""

# In a Warp kernel float(0.0) declares a variable; a bare 0.0 is a constant that a loop cannot
# change.
# ruff: noqa: UP018, SIM102

import warp as wp

from data.people.kernels_cloth import Looks, above_hairline, grey, in_top, ramp, worn
from data.people.warp_types import Light, Shot, Surface, Textures
from data.raster.kernels import (
    corner_weights,
    keep_nearest,
    prepare_edges,
    sample_nearness,
    screen_area,
)

wp.set_module_options({"enable_backward": False})


@wp.kernel
def face_normals(
    vertices: wp.array2d(dtype=wp.vec3),
    faces: wp.array(dtype=wp.vec3i),
    out: wp.array2d(dtype=wp.vec3),
):
    """(T, F): twice the area times the unit normal."""
    t, i = wp.tid()
    f = faces[i]
    a = vertices[t, f[0]]
    out[t, i] = wp.cross(vertices[t, f[1]] - a, vertices[t, f[2]] - a)


@wp.kernel
def vertex_normals(
    across: wp.array2d(dtype=wp.vec3),
    start: wp.array(dtype=int),
    around: wp.array(dtype=int),
    out: wp.array2d(dtype=wp.vec3),
):
    """(T, V) unit normals."""
    t, i = wp.tid()
    total = wp.vec3(0.0, 0.0, 0.0)
    for k in range(start[i], start[i + 1]):
        total += across[t, around[k]]
    out[t, i] = wp.normalize(total)


@wp.func
def cloth_offset(t: int, p: wp.vec3, arm: float, leg: float, look: Looks, bank: Textures):
    """Return the metres between skin and cloth.

    Thickness, looseness towards the hem, and folds that drift with the instant.
    """
    seed = look[0].seed
    now = float(t)
    wide = (
        grey(bank.grey, 0, p[0] * 3.3 + p[1] * 2.1 + seed + 0.13 * now, p[2] * 1.6 + arm * 0.8, 0.0)
        - 0.35
    )
    fine = (
        grey(bank.grey, 0, p[0] * 1.2 - p[1] * 3.0 + seed * 2.0, p[2] * 4.6 + 0.07 * now, 0.0)
        - 0.35
    )
    folds = look[0].fold * (wide + 0.6 * fine)
    d = float(0.0)
    if in_top(p, arm, look) and (look[0].tucked == 0 or p[2] > look[0].waist):
        d = look[0].top_thickness + folds
        if arm < 0.05:
            d += look[0].loose * ramp(1.36, 1.05, p[2])
        else:
            d += look[0].loose * 0.6 * ramp(0.05, 0.3, arm)
            if look[0].cuff > 0.0:
                d = wp.lerp(d, look[0].cuff_gap, look[0].cuff * ramp(0.74, 0.94, arm))
    else:
        d = look[0].bottom_thickness + folds * 0.8 + look[0].flare * ramp(0.1, 0.95, leg)
    return wp.max(d, 0.002)


@wp.kernel
def dress(
    body: wp.array2d(dtype=wp.vec3),
    normal: wp.array2d(dtype=wp.vec3),
    surface: Surface,
    look: Looks,
    bank: Textures,
    out: wp.array2d(dtype=wp.vec3),
):
    """(T, V): the mesh pushed out along its normals by hair, shoes and cloth."""
    t, i = wp.tid()
    p = surface.rest[i]
    arm = surface.limb[i][0]
    leg = surface.limb[i][1]
    kind = surface.kind[i]
    seed = look[0].seed
    d = float(0.0)
    if kind == 0:
        if arm < -0.5 and p[2] > 1.55:
            if (look[0].hair_on > 0 or look[0].hat > 0) and surface.detail[i][2] < 0.75:
                tuft = 0.75 + 0.5 * grey(
                    bank.grey, 0, p[0] * 6.0 + seed, p[2] * 5.0 + p[1] * 4.0, 0.0
                )
                d = (
                    look[0].hair_thickness
                    * ramp(-0.004, 0.03, above_hairline(p, look[0].hairline_shift))
                    * tuft
                )
        elif leg > look[0].shoe - 0.03:
            d = 0.007 * ramp(look[0].shoe - 0.02, look[0].shoe + 0.02, leg) + 0.004 * ramp(
                0.03, 0.01, p[2]
            )
    elif kind == 2:
        d = cloth_offset(t, p, arm, leg, look, bank)
    elif kind == 3:
        pleat = grey(bank.grey, 0, wp.atan2(p[0], -p[1]) * 0.9 + seed, p[2] * 0.35, 0.0) - 0.3
        d = 0.004 + look[0].fold * 1.2 * pleat * ramp(1.0, 0.6, p[2])
    out[t, i] = body[t, i] + normal[t, i] * d


@wp.kernel
def mark_worn(surface: Surface, look: Looks, out: wp.array(dtype=int)):
    """(V,): 1 where the mesh exists under this look."""
    i = wp.tid()
    kind = surface.kind[i]
    out[i] = 1
    if kind >= 2 and not worn(kind, surface.rest[i], surface.limb[i], look):
        out[i] = 0


@wp.kernel
def to_shots(
    vertices: wp.array2d(dtype=wp.vec3),
    shots: wp.array(dtype=Shot),
    samples: float,
    out: wp.array2d(dtype=wp.vec3),
):
    """Project vertices, (N, V): x and y in samples, and inverse depth.

    ``samples`` of them are a pixel's side; the depth is 0 behind the camera.
    """
    n, i = wp.tid()
    shot = shots[n]
    p = shot.rotation * vertices[shot.instant, i] + shot.translation
    w = float(0.0)
    if p[2] > 0.05:
        w = 1.0 / p[2]
    out[n, i] = wp.vec3(
        (shot.focal * p[0] * w + shot.cx) * samples, (shot.focal * p[1] * w + shot.cy) * samples, w
    )


@wp.kernel
def to_light(vertices: wp.array2d(dtype=wp.vec3), light: Light, out: wp.array2d(dtype=wp.vec3)):
    """Project vertices, (T, V): texels of the key light's shadow map and nearness.

    That is 10 m less the depth, so that larger is nearer as in a shot.
    """
    t, i = wp.tid()
    p = light.axes * (vertices[t, i] - light.centre)
    half = float(light.shadow_side) * 0.5
    out[t, i] = wp.vec3(
        p[0] * light.shadow_scale + half, p[1] * light.shadow_scale + half, 10.0 - p[2]
    )


@wp.kernel
def rasterise(
    points: wp.array2d(dtype=wp.vec3),
    surface: Surface,
    look: Looks,
    is_worn: wp.array(dtype=int),
    side: int,
    perspective: int,
    depth: wp.array2d(dtype=wp.uint64),
):
    """One triangle into (N, side^2); what a garment's edge cuts off is decided at each sample.

    Perspective shots drop triangles of the closed body that face away; garments and hair are open
    sheets with two sides.
    """
    n, t = wp.tid()
    f = surface.faces[t]
    layer = surface.layer[t]
    cut = int(0)
    if layer >= 2:
        corners = is_worn[f[0]] + is_worn[f[1]] + is_worn[f[2]]
        if corners == 0:
            return
        if corners < 3:
            cut = 1
    a = points[n, f[0]]
    b = points[n, f[1]]
    c = points[n, f[2]]
    if a[2] <= 0.0 or b[2] <= 0.0 or c[2] <= 0.0:
        return
    area = screen_area(a, b, c)
    if area == 0.0 or (perspective == 1 and layer < 2 and area > 0.0):
        return
    e = prepare_edges(a, b, c, area, side, side)
    for y in range(e.y0, e.y1 + 1):
        for x in range(e.x0, e.x1 + 1):
            w = corner_weights(e, x, y)
            # Exactly 0, without the tolerance of finetune.viz.raster: a pinhole between two
            # triangles is one sample of a pixel's, and clips stay as they always were.
            if w[0] >= 0.0 and w[1] >= 0.0 and w[2] >= 0.0:
                z = w[0] * a[2] + w[1] * b[2] + w[2] * c[2]
                shows = int(1)
                if cut == 1:
                    ua = w[0]
                    ub = w[1]
                    uc = w[2]
                    if perspective == 1:
                        ua = w[0] * a[2] / z
                        ub = w[1] * b[2] / z
                        uc = w[2] * c[2] / z
                    p = ua * surface.rest[f[0]] + ub * surface.rest[f[1]] + uc * surface.rest[f[2]]
                    limb = (
                        ua * surface.limb[f[0]] + ub * surface.limb[f[1]] + uc * surface.limb[f[2]]
                    )
                    if not worn(layer, p, limb, look):
                        shows = 0
                if shows == 1:
                    keep_nearest(depth, n, y * side + x, z, t)


@wp.kernel
def see_vertices(
    body: wp.array2d(dtype=wp.vec3),
    normal: wp.array2d(dtype=wp.vec3),
    tolerance: wp.array(dtype=float),
    shots: wp.array(dtype=Shot),
    depth: wp.array2d(dtype=wp.uint64),
    seen_depth: wp.array3d(dtype=float),
    size: int,
    samples: int,
    out: wp.array2d(dtype=wp.uint8),
):
    """(N, V): 1 where a vertex of the undressed body is seen.

    That is: inside the image, facing the camera, not hidden by scenery, and at most ``tolerance``
    metres behind the drawn surface, which a garment or hair lifts off the body.
    """
    n, i = wp.tid()
    shot = shots[n]
    point = body[shot.instant, i]
    p = shot.rotation * point + shot.translation
    seen = int(0)
    side = size * samples
    if p[2] > 0.05:
        x = int(wp.floor((shot.focal * p[0] / p[2] + shot.cx) * float(samples)))
        y = int(wp.floor((shot.focal * p[1] / p[2] + shot.cy) * float(samples)))
        if (
            x >= 0
            and y >= 0
            and x < side
            and y < side
            and wp.dot(normal[shot.instant, i], shot.eye - point) > 0.0
        ):
            key = depth[n, y * side + x]
            if key != wp.uint64(0) and seen_depth[n, y / samples, x / samples] > 0.0:
                if p[2] < 1.0 / sample_nearness(key) + tolerance[i]:
                    seen = 1
    out[n, i] = wp.uint8(seen)
