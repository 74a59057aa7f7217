"""Meshes into pixels, with Warp, on a CPU or a CUDA device, without a display.

A depth buffer holds, per sample, the nearness' bits above the triangle's index, so that one atomic
maximum keeps the nearest triangle and the result does not depend on the order. It is the made
people's idea (data/people/kernels_mesh.py) for plain meshes: any camera and image, both sides of
a triangle, cut at a near plane.

Frames: metres in the camera's frame (x right, y down, z forward); the first pixel's centre is at
(0.5, 0.5).
"""

# In a Warp kernel float(0.0) declares a variable; a bare 0.0 is a constant that a loop cannot
# change.
# ruff: noqa: UP018

import functools
from dataclasses import dataclass

import numpy as np
import warp as wp

from data.bodies.warp_init import start_warp, told_of_the_cache
from engine.errors import UserError
from finetune.person import vertex_normals

wp.set_module_options({"enable_backward": False})

NEAR_M = 0.01  # what is nearer to a perspective camera is cut off
FAR_M = wp.constant(100.0)  # an orthographic camera sees depths of -100 to 100 m, to 8 um
# A rounded weight just below 0 still covers: no pinholes along the edge that two triangles share.
COVERED = wp.constant(-1e-6)
TAPS = wp.constant(
    40
)  # points around a pixel for its occlusion; with half of them the steps between them show
BATCH_SAMPLES = 4 << 20  # 32 MB of depth buffer: images of one launch


@dataclass
class Layers:
    """What a camera sees of meshes, for each of (H, W) samples.

    Attributes:
        depth: float32 metres along the optical axis, 0 where nothing is.
        mesh: int32 which mesh, -1 where nothing is.
        normals: (H, W, 3) float32 interpolated unit normals in the camera's frame, of the side that
            is seen.
        back: bool, the side that is seen is the mesh's inner one.
    """

    depth: np.ndarray
    mesh: np.ndarray
    normals: np.ndarray
    back: np.ndarray


class Raster:
    """Draws meshes on one device and keeps its buffers from call to call; not for two threads at
    once.

    Args:
        device: "cpu", "cuda" or "cuda:N".
    """

    def __init__(self, device="cpu"):
        start_warp()
        with told_of_the_cache():
            wp.load_module(__name__, device=device)
        self.device, self._buffers = device, {}

    def layers(self, meshes, K, size, perspective=True):
        """The Layers of meshes that hide each other.

        Args:
            meshes: at least one (vertices (V, 3), faces (F, 3)); outward normals come by the
                right-hand rule.
            K: (3, 3) [[fx, skew, cx], [0, fy, cy], [0, 0, 1]] in pixels; in pixels a metre for an
                orthographic camera.
            size: (width, height) in pixels.
        Raises:
            UserError: as in ``silhouettes``.
        """
        meshes = [_checked(np.asarray(v)[None], f) for v, f in meshes]
        starts = np.cumsum([0] + [vertices.shape[1] for vertices, _ in meshes])
        vertices = np.concatenate([v for v, _ in meshes], 1)
        faces = np.concatenate(
            [f + start for (_, f), start in zip(meshes, starts[:-1], strict=True)]
        )
        normals = np.concatenate([vertex_normals(v[0], f) for v, f in meshes])
        owner = np.repeat(np.arange(len(meshes), dtype=np.int32), [len(f) for _, f in meshes])
        space, camera = self._array(vertices, wp.vec3), _camera(K)
        corners = self._array(faces, wp.vec3i)
        nearness = self._cover(space, corners, self._array(camera, wp.mat33), size, perspective)
        width, height = size
        depth, mesh = (
            self._buffer("depth", (height, width), float),
            self._buffer("mesh", (height, width), int),
        )
        seen, back = (
            self._buffer("normals", (height, width), wp.vec3),
            self._buffer("back", (height, width), wp.uint8),
        )
        wp.launch(
            _resolve,
            (height, width),
            [
                nearness,
                space,
                corners,
                self._array(normals, wp.vec3),
                self._array(owner, int),
                wp.mat33(*camera[0].ravel().tolist()),
                int(perspective),
                depth,
                mesh,
                seen,
                back,
            ],
            device=self.device,
        )
        return Layers(
            depth.numpy().copy(), mesh.numpy().copy(), seen.numpy().copy(), back.numpy() > 0
        )

    def silhouettes(self, vertices, faces, K, size):
        """Where each of N meshes with the same triangles is seen.

        Args:
            vertices: (N, V, 3) metres.  faces: (F, 3).  K: (N, 3, 3), or (3, 3) for all.  size:
                (width, height) pixels.
        Returns:
            (N, height, width) bool: the pixel's centre is covered.
        Raises:
            UserError: vertices that are not finite, triangles of other vertices, K without positive
                focal lengths.
        """
        vertices, faces = _checked(vertices, faces)
        cameras = _camera(K)
        if len(cameras) not in (1, len(vertices)):
            raise UserError(
                f"{len(vertices)} meshes and {len(cameras)} intrinsics; give one, or one a mesh"
            )
        cameras = np.broadcast_to(cameras, (len(vertices), 3, 3))
        out = np.empty((len(vertices), size[1], size[0]), bool)
        corners, step = self._array(faces, wp.vec3i), max(1, BATCH_SAMPLES // (size[0] * size[1]))
        for i in range(0, len(vertices), step):
            part = self._array(vertices[i : i + step], wp.vec3)
            covered = self._cover(
                part, corners, self._array(cameras[i : i + step], wp.mat33), size, True
            )
            out[i : i + step] = (covered.numpy() > 0).reshape(-1, size[1], size[0])
        return out

    def occlusion(self, depth, drawn, scale, radius):
        """How much of what surrounds each pixel lies before it, 0 to 1: creases and the
        surroundings of what is near.

        Args:
            depth: (H, W) float32 metres.  drawn: (H, W) bool, where anything is.  scale: (H, W)
                pixels a metre, there.
            radius: pixels that are looked at around each.
        Returns:
            (H, W) float32; 0 where nothing is.
        """
        out = self._buffer("occlusion", depth.shape, float)
        wp.launch(
            _occlude,
            depth.shape,
            [
                self._array(depth, float),
                self._array(drawn, wp.uint8),
                self._array(scale, float),
                radius,
                out,
            ],
            device=self.device,
        )
        return out.numpy().copy()

    def _cover(self, vertices, faces, cameras, size, perspective):
        """(N, H * W) nearness and triangle of each sample, 0 where nothing is."""
        count, width, height = vertices.shape[0], *size
        points = self._buffer("points", vertices.shape, wp.vec3)
        nearness = self._buffer("nearness", (count, width * height), wp.uint64)
        nearness.zero_()
        wp.launch(
            _project,
            vertices.shape,
            [vertices, cameras, int(perspective), NEAR_M, points],
            device=self.device,
        )
        wp.launch(
            _rasterise,
            (count, len(faces)),
            [vertices, points, faces, cameras, int(perspective), NEAR_M, width, height, nearness],
            device=self.device,
        )
        return nearness

    def _array(self, values, kind):
        return wp.array(np.ascontiguousarray(values), dtype=kind, device=self.device)

    def _buffer(self, name, shape, kind):
        """A buffer that is kept from call to call; its content is the last call's."""
        found = self._buffers.get(name)
        if found is None or found.shape != tuple(shape):
            found = self._buffers[name] = wp.empty(shape, dtype=kind, device=self.device)
        return found


@functools.lru_cache(maxsize=2)
def shared_raster(device="cpu"):
    """The process's Raster of a device."""
    return Raster(device)


def silhouette(vertices, faces, K, size):
    """(height, width) bool of one mesh; see ``Raster.silhouettes``, which draws many at once.

    Args:
        vertices: (V, 3) metres.  faces: (F, 3).  K: (3, 3).  size: (width, height) pixels.
    """
    return shared_raster().silhouettes(np.asarray(vertices)[None], faces, K, size)[0]


def _checked(vertices, faces):
    """(N, V, 3) float32 and (F, 3) int32, of which a kernel that reads past an array need not be
    afraid."""
    vertices, faces = np.asarray(vertices, np.float32), np.asarray(faces, np.int32)
    if vertices.ndim != 3 or vertices.shape[2] != 3 or faces.ndim != 2 or faces.shape[1] != 3:
        raise UserError(
            f"a mesh has vertices of shape {vertices.shape[1:]} and faces of shape {faces.shape}, "
            "not (V, 3) and (F, 3)"
        )
    if not np.isfinite(vertices).all():
        raise UserError("a mesh has vertices that are not finite")
    if faces.size and not (faces.min() >= 0 and faces.max() < vertices.shape[1]):
        raise UserError(
            f"a mesh of {vertices.shape[1]} vertices has triangles of vertices {faces.min()} to "
            f"{faces.max()}"
        )
    return vertices, faces


def _camera(K):
    """(N, 3, 3) float32 intrinsics with a last row of 0, 0, 1."""
    K = np.asarray(K, np.float64).reshape(-1, 3, 3)
    if not (
        np.isfinite(K).all()
        and (K[:, [0, 1], [0, 1]] > 0).all()
        and (K[:, [1, 2, 2], [0, 0, 1]] == 0).all()
        and (K[:, 2, 2] == 1).all()
    ):
        raise UserError(
            f"intrinsics {K[0].tolist()}: not [[fx, skew, cx], [0, fy, cy], [0, 0, 1]] with "
            f"positive fx and fy"
        )
    return K.astype(np.float32)


@wp.func
def _screen(p: wp.vec3, camera: wp.mat33):
    """x and y in pixels and the nearness, 1 / z, of a point before a perspective camera."""
    w = 1.0 / p[2]
    return wp.vec3(
        (camera[0, 0] * p[0] + camera[0, 1] * p[1]) * w + camera[0, 2],
        camera[1, 1] * p[1] * w + camera[1, 2],
        w,
    )


@wp.kernel
def _project(
    vertices: wp.array2d(dtype=wp.vec3),
    cameras: wp.array(dtype=wp.mat33),
    perspective: int,
    near: float,
    out: wp.array2d(dtype=wp.vec3),
):
    """(N, V): x and y in pixels, and the nearness, which is linear in the image; 0 before the
    near plane."""
    n, i = wp.tid()
    p = vertices[n, i]
    camera = cameras[n]
    if perspective == 0:
        x = camera[0, 0] * p[0] + camera[0, 1] * p[1] + camera[0, 2]
        out[n, i] = wp.vec3(x, camera[1, 1] * p[1] + camera[1, 2], wp.max(FAR_M - p[2], 0.0))
    elif p[2] >= near:
        out[n, i] = _screen(p, camera)
    else:
        out[n, i] = wp.vec3(0.0, 0.0, 0.0)


@wp.func
def _fill(
    a: wp.vec3,
    b: wp.vec3,
    c: wp.vec3,
    n: int,
    t: int,
    width: int,
    height: int,
    nearness: wp.array2d(dtype=wp.uint64),
):
    """Triangle t of image n, with corners from ``_screen``, into the buffer."""
    area = (b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1])
    if area == 0.0:
        return
    # Bounded as floats: a corner far outside is no int32.
    x0 = int(wp.ceil(wp.max(wp.min(a[0], wp.min(b[0], c[0])), 0.5) - 0.5))
    x1 = int(wp.floor(wp.min(wp.max(a[0], wp.max(b[0], c[0])), float(width) - 0.5) - 0.5))
    y0 = int(wp.ceil(wp.max(wp.min(a[1], wp.min(b[1], c[1])), 0.5) - 0.5))
    y1 = int(wp.floor(wp.min(wp.max(a[1], wp.max(b[1], c[1])), float(height) - 0.5) - 0.5))
    inverse = 1.0 / area
    ax = (b[1] - c[1]) * inverse
    bx = (c[1] - a[1]) * inverse
    ay = (c[0] - b[0]) * inverse
    by = (a[0] - c[0]) * inverse
    for y in range(y0, y1 + 1):
        dy = float(y) + 0.5 - c[1]
        for x in range(x0, x1 + 1):
            dx = float(x) + 0.5 - c[0]
            wa = ax * dx + ay * dy
            wb = bx * dx + by * dy
            wc = 1.0 - wa - wb
            if wa >= COVERED and wb >= COVERED and wc >= COVERED:
                near = wa * a[2] + wb * b[2] + wc * c[2]
                bits = wp.uint64(wp.cast(near, wp.uint32)) << wp.uint64(32)
                wp.atomic_max(nearness, n, y * width + x, bits | wp.uint64(t))


@wp.func
def _cut(a: wp.vec3, b: wp.vec3, near: float, camera: wp.mat33):
    """Where the line from a to b meets the near plane, on the screen."""
    s = (near - a[2]) / (b[2] - a[2])
    return _screen(wp.vec3(a[0] + s * (b[0] - a[0]), a[1] + s * (b[1] - a[1]), near), camera)


@wp.kernel
def _rasterise(
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
        _fill(a, b, c, n, t, width, height, nearness)
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
        left = _cut(vertices[n, i], vertices[n, j], near, cameras[n])
        right = _cut(vertices[n, i], vertices[n, k], near, cameras[n])
        if hidden == 2:
            _fill(points[n, i], left, right, n, t, width, height, nearness)
        else:
            _fill(left, points[n, j], points[n, k], n, t, width, height, nearness)
            _fill(left, points[n, k], right, n, t, width, height, nearness)


@wp.kernel
def _resolve(
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
    t = int(key & wp.uint64(0xFFFFFFFF))
    near = wp.cast(wp.uint32(key >> wp.uint64(32)), float)
    # The sample's ray; its point on the triangle follows from the depth, also where the triangle
    # was cut.
    v = (float(y) + 0.5 - camera[1, 2]) / camera[1, 1]
    u = (float(x) + 0.5 - camera[0, 2] - camera[0, 1] * v) / camera[0, 0]
    z = FAR_M - near
    ray = wp.vec3(0.0, 0.0, 1.0)
    p = wp.vec3(u, v, z)
    if perspective == 1:
        z = 1.0 / near
        ray = wp.vec3(u, v, 1.0)
        p = ray * z
    f = faces[t]
    a = vertices[0, f[0]] - p
    b = vertices[0, f[1]] - p
    c = vertices[0, f[2]] - p
    across = wp.cross(b - a, c - a)
    wa = wp.dot(wp.cross(b, c), across)
    wb = wp.dot(wp.cross(c, a), across)
    wc = wp.dot(wp.cross(a, b), across)
    normal = wp.normalize(wa * normals[f[0]] + wb * normals[f[1]] + wc * normals[f[2]])
    if wp.dot(across, ray) > 0.0:
        normal = -normal
        back[y, x] = wp.uint8(1)
    depth[y, x] = z
    mesh[y, x] = owner[t]
    seen[y, x] = normal


@wp.kernel
def _occlude(
    depth: wp.array2d(dtype=float),
    drawn: wp.array2d(dtype=wp.uint8),
    scale: wp.array2d(dtype=float),
    radius: float,
    out: wp.array2d(dtype=float),
):
    """(H, W): the share of points on a spiral that lie before the pixel, less for those far before
    it."""
    y, x = wp.tid()
    total = float(0.0)
    weights = float(0.0)
    if drawn[y, x] > wp.uint8(0):
        for k in range(TAPS):
            share = wp.sqrt((float(k) + 0.5) / float(TAPS))
            angle = float(k) * 2.39996  # the golden angle: no two points in one direction
            i = y + int(wp.round(share * radius * wp.sin(angle)))
            j = x + int(wp.round(share * radius * wp.cos(angle)))
            weights += 1.0 - share
            if (
                i >= 0
                and j >= 0
                and i < depth.shape[0]
                and j < depth.shape[1]
                and drawn[i, j] > wp.uint8(0)
            ):
                before = (depth[y, x] - depth[i, j]) * scale[y, x] / radius
                if before > 0.0:
                    total += (1.0 - share) * wp.min(before, 1.0) / wp.max(1.0, 0.3 * before)
        total = total / weights
    out[y, x] = total
