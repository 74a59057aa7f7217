"""Warp kernels that draw plain meshes: any camera, both sides of a triangle, a near plane.

Frames: metres in the camera's frame (x right, y down, z forward); the first pixel's centre is at
(0.5, 0.5). Depth buffers are those of data/raster/kernels.py.
"""

# In a Warp kernel float(0.0) declares a variable; a bare 0.0 is a constant that a loop cannot
# change.
# ruff: noqa: UP018

import warp as wp

from data.raster.kernels import (
    corner_weights,
    keep_nearest,
    prepare_edges,
    sample_face,
    sample_nearness,
    screen_area,
)

wp.set_module_options({"enable_backward": False})

FAR_M = wp.constant(100.0)  # an orthographic camera sees depths of -100 to 100 m, to 8 um
# A rounded weight just below 0 still covers: no pinholes along the edge that two triangles share.
COVERED = wp.constant(-1e-6)


@wp.func
def to_screen(p: wp.vec3, camera: wp.mat33):
    """Return x and y in pixels and the nearness, 1 / z, of a point before a perspective camera."""
    w = 1.0 / p[2]
    return wp.vec3(
        (camera[0, 0] * p[0] + camera[0, 1] * p[1]) * w + camera[0, 2],
        camera[1, 1] * p[1] * w + camera[1, 2],
        w,
    )


@wp.kernel
def project_vertices(
    vertices: wp.array2d(dtype=wp.vec3),
    cameras: wp.array(dtype=wp.mat33),
    perspective: int,
    near: float,
    out: wp.array2d(dtype=wp.vec3),
):
    """(N, V): x and y in pixels, and the nearness, which is linear in the image.

    0 before the near plane.
    """
    n, i = wp.tid()
    p = vertices[n, i]
    camera = cameras[n]
    if perspective == 0:
        x = camera[0, 0] * p[0] + camera[0, 1] * p[1] + camera[0, 2]
        out[n, i] = wp.vec3(x, camera[1, 1] * p[1] + camera[1, 2], wp.max(FAR_M - p[2], 0.0))
    elif p[2] >= near:
        out[n, i] = to_screen(p, camera)
    else:
        out[n, i] = wp.vec3(0.0, 0.0, 0.0)


@wp.func
def fill_triangle(
    a: wp.vec3,
    b: wp.vec3,
    c: wp.vec3,
    n: int,
    t: int,
    width: int,
    height: int,
    nearness: wp.array2d(dtype=wp.uint64),
):
    """Triangle t of image n, with corners from ``to_screen``, into the buffer."""
    area = screen_area(a, b, c)
    if area == 0.0:
        return
    e = prepare_edges(a, b, c, area, width, height)
    for y in range(e.y0, e.y1 + 1):
        for x in range(e.x0, e.x1 + 1):
            w = corner_weights(e, x, y)
            if w[0] >= COVERED and w[1] >= COVERED and w[2] >= COVERED:
                near = w[0] * a[2] + w[1] * b[2] + w[2] * c[2]
                keep_nearest(nearness, n, y * width + x, near, t)


@wp.func
def cut_edge(a: wp.vec3, b: wp.vec3, near: float, camera: wp.mat33):
    """Where the line from a to b meets the near plane, on the screen."""
    s = (near - a[2]) / (b[2] - a[2])
    return to_screen(wp.vec3(a[0] + s * (b[0] - a[0]), a[1] + s * (b[1] - a[1]), near), camera)


@wp.kernel
def rasterise_triangles(
    vertices: wp.array2d(dtype=wp.vec3),
    points: wp.array2d(dtype=wp.vec3),
    faces: wp.array(dtype=wp.vec3i),
    cameras: wp.array(dtype=wp.mat33),
    perspective: int,
    near: float,
    width: int,
    height: int,
    nearness: wp.array2d(dtype=wp.uint64),
):
    """One triangle of one image; what lies before the near plane is cut off."""
    n, t = wp.tid()
    f = faces[t]
    a = points[n, f[0]]
    b = points[n, f[1]]
    c = points[n, f[2]]
    hidden = int(a[2] <= 0.0) + int(b[2] <= 0.0) + int(c[2] <= 0.0)
    if hidden == 0:
        fill_triangle(a, b, c, n, t, width, height, nearness)
    elif hidden < 3 and perspective == 1:
        # Turn the triangle until its first corner is the one that is alone on its side of the
        # plane.
        turn = int(0)
        if (a[2] <= 0.0) == (c[2] <= 0.0):
            turn = 1
        elif (a[2] <= 0.0) == (b[2] <= 0.0):
            turn = 2
        i = f[turn]
        j = f[(turn + 1) % 3]
        k = f[(turn + 2) % 3]
        left = cut_edge(vertices[n, i], vertices[n, j], near, cameras[n])
        right = cut_edge(vertices[n, i], vertices[n, k], near, cameras[n])
        if hidden == 2:
            fill_triangle(points[n, i], left, right, n, t, width, height, nearness)
        else:
            fill_triangle(left, points[n, j], points[n, k], n, t, width, height, nearness)
            fill_triangle(left, points[n, k], right, n, t, width, height, nearness)


@wp.struct
class Surface:
    """What a sample sees: metres of depth, unit normal of the side that is seen, 1 if inside."""

    depth: float
    normal: wp.vec3
    back: int


@wp.func
def find_surface(
    key: wp.uint64,
    x: int,
    y: int,
    vertices: wp.array2d(dtype=wp.vec3),
    faces: wp.array(dtype=wp.vec3i),
    normals: wp.array(dtype=wp.vec3),
    camera: wp.mat33,
    perspective: int,
):
    """The Surface of a sample of image 0 in which something was drawn."""
    near = sample_nearness(key)
    # The sample's ray; its point on the triangle follows from the depth, also where the triangle
    # was cut.
    v = (float(y) + 0.5 - camera[1, 2]) / camera[1, 1]
    u = (float(x) + 0.5 - camera[0, 2] - camera[0, 1] * v) / camera[0, 0]
    s = Surface()
    s.depth = FAR_M - near
    ray = wp.vec3(0.0, 0.0, 1.0)
    p = wp.vec3(u, v, s.depth)
    if perspective == 1:
        s.depth = 1.0 / near
        ray = wp.vec3(u, v, 1.0)
        p = ray * s.depth
    f = faces[sample_face(key)]
    a = vertices[0, f[0]] - p
    b = vertices[0, f[1]] - p
    c = vertices[0, f[2]] - p
    across = wp.cross(b - a, c - a)
    wa = wp.dot(wp.cross(b, c), across)
    wb = wp.dot(wp.cross(c, a), across)
    wc = wp.dot(wp.cross(a, b), across)
    s.normal = wp.normalize(wa * normals[f[0]] + wb * normals[f[1]] + wc * normals[f[2]])
    s.back = 0
    if wp.dot(across, ray) > 0.0:
        s.normal = -s.normal
        s.back = 1
    return s


@wp.kernel
def resolve_layers(
    nearness: wp.array2d(dtype=wp.uint64),
    vertices: wp.array2d(dtype=wp.vec3),
    faces: wp.array(dtype=wp.vec3i),
    normals: wp.array(dtype=wp.vec3),
    owner: wp.array(dtype=int),
    camera: wp.mat33,
    perspective: int,
    depth: wp.array2d(dtype=float),
    mesh: wp.array2d(dtype=int),
    seen: wp.array2d(dtype=wp.vec3),
    back: wp.array2d(dtype=wp.uint8),
):
    """(H, W): the Layers of image 0."""
    y, x = wp.tid()
    key = nearness[0, y * depth.shape[1] + x]
    depth[y, x] = 0.0
    mesh[y, x] = -1
    seen[y, x] = wp.vec3(0.0, 0.0, 0.0)
    back[y, x] = wp.uint8(0)
    if key == wp.uint64(0):
        return
    s = find_surface(key, x, y, vertices, faces, normals, camera, perspective)
    depth[y, x] = s.depth
    mesh[y, x] = owner[sample_face(key)]
    seen[y, x] = s.normal
    back[y, x] = wp.uint8(s.back)
