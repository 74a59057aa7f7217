"""Warp kernels of maps: normals of vertices, and what each sample of a depth buffer shows.

Frames: metres in the camera's frame (x right, y down, z forward); the first pixel's centre is at
(0.5, 0.5). Depth buffers are those of data/raster/kernels.py, filled by
finetune/viz/raster_kernels.py.
"""

import warp as wp

from data.raster.kernels import sample_face, sample_nearness

wp.set_module_options({"enable_backward": False})


@wp.kernel
def add_normals(
    vertices: wp.array2d(dtype=wp.vec3),
    faces: wp.array(dtype=wp.vec3i),
    starts: wp.array(dtype=int),
    owners: wp.array(dtype=int),
    out: wp.array2d(dtype=wp.vec3),
):
    """(N, V): the mean normal of the triangles that meet in a vertex, by area; in a fixed order."""
    n, i = wp.tid()
    total = wp.vec3(0.0, 0.0, 0.0)
    for k in range(starts[i], starts[i + 1]):
        f = faces[owners[k]]
        a = vertices[n, f[0]]
        total += wp.cross(vertices[n, f[1]] - a, vertices[n, f[2]] - a)
    out[n, i] = wp.normalize(total)


@wp.kernel
def resolve_samples(
    nearness: wp.array2d(dtype=wp.uint64),
    vertices: wp.array2d(dtype=wp.vec3),
    faces: wp.array(dtype=wp.vec3i),
    cameras: wp.array(dtype=wp.mat33),
    normals: wp.array2d(dtype=wp.vec3),
    canonical: wp.array(dtype=wp.vec3),
    parts: wp.array(dtype=int),
    width: int,
    point: wp.array2d(dtype=wp.vec3),
    normal: wp.array2d(dtype=wp.vec3),
    surface: wp.array2d(dtype=wp.vec3),
    part: wp.array2d(dtype=int),
):
    """(N, H * W): the point that a sample shows, its normal, canonical position and part.

    Zeros where nothing is, and where the mesh shows its inside, as a hand that ends at the wrist
    does: the image shows something else there.
    """
    n, i = wp.tid()
    key = nearness[n, i]
    point[n, i] = wp.vec3(0.0, 0.0, 0.0)
    normal[n, i] = wp.vec3(0.0, 0.0, 0.0)
    surface[n, i] = wp.vec3(0.0, 0.0, 0.0)
    part[n, i] = 0
    if key == wp.uint64(0):
        return
    camera = cameras[n]
    v = (float(i / width) + 0.5 - camera[1, 2]) / camera[1, 1]
    u = (float(i % width) + 0.5 - camera[0, 2] - camera[0, 1] * v) / camera[0, 0]
    p = wp.vec3(u, v, 1.0) / sample_nearness(key)
    f = faces[sample_face(key)]
    a = vertices[n, f[0]] - p
    b = vertices[n, f[1]] - p
    c = vertices[n, f[2]] - p
    across = wp.cross(b - a, c - a)
    area = wp.max(wp.dot(across, across), 1.0e-20)
    wa = wp.clamp(wp.dot(wp.cross(b, c), across) / area, 0.0, 1.0)
    wb = wp.clamp(wp.dot(wp.cross(c, a), across) / area, 0.0, 1.0 - wa)
    wc = 1.0 - wa - wb
    if wp.dot(across, p) > 0.0:
        return
    point[n, i] = p
    normal[n, i] = wp.normalize(
        wa * normals[n, f[0]] + wb * normals[n, f[1]] + wc * normals[n, f[2]]
    )
    surface[n, i] = wa * canonical[f[0]] + wb * canonical[f[1]] + wc * canonical[f[2]]
    nearest = f[0]
    if wb > wa and wb >= wc:
        nearest = f[1]
    elif wc > wa and wc > wb:
        nearest = f[2]
    part[n, i] = parts[nearest]
