"""Meshes into pixels, with Warp, on a CPU or a CUDA device, without a display.

The depth buffer and the arithmetic of a triangle are those that synthetic humans are drawn with
(data/raster/kernels.py); the loops over triangles are for plain meshes: any camera and image, both
sides of a triangle, cut at a near plane.

Frames: metres in the camera's frame (x right, y down, z forward); the first pixel's centre is at
(0.5, 0.5).
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import warp as wp

from data.bodies.warp_init import report_cache_errors, start_warp
from engine.errors import UserError
from finetune.person import vertex_normals
from finetune.viz import raster_kernels as kernels

NEAR_M = 0.01  # what is nearer to a perspective camera is cut off
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
    """Draws meshes on one device and keeps its buffers from call to call.

    Not for two threads at once.

    Args:
        device: "cpu", "cuda" or "cuda:N".
    """

    def __init__(self, device: str = "cpu") -> None:
        start_warp()
        with report_cache_errors():
            wp.load_module(kernels.__name__, device=device)
        self.device, self._buffers = device, {}

    def layers(
        self,
        meshes: Sequence[tuple[npt.ArrayLike, npt.ArrayLike]],
        K: npt.ArrayLike,
        size: tuple[int, int],
        perspective: bool = True,
        owners: np.ndarray | None = None,
    ) -> Layers:
        """The Layers of meshes that hide each other.

        Args:
            meshes: at least one (vertices (V, 3), faces (F, 3)); outward normals come by the
                right-hand rule.
            K: (3, 3) [[fx, skew, cx], [0, fy, cy], [0, 0, 1]] in pixels; in pixels a metre for an
                orthographic camera.
            size: (width, height) in pixels.
            owners: (all F,) what Layers.mesh says of each triangle; None: its mesh's number.
        Raises:
            UserError: as in ``silhouettes``.
        """
        checked = [_checked(np.asarray(v)[None], f) for v, f in meshes]
        starts = np.cumsum([0] + [v.shape[1] for v, _ in checked])
        vertices = np.concatenate([v for v, _ in checked], 1)
        moved = [f + start for (_, f), start in zip(checked, starts[:-1], strict=True)]
        faces = np.concatenate(moved)
        normals = np.concatenate([vertex_normals(v[0], f) for v, f in checked])
        owner = owners
        if owner is None:
            owner = np.repeat(np.arange(len(checked)), [len(f) for _, f in checked])
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
            kernels.resolve_layers,
            (height, width),
            [
                nearness,
                space,
                corners,
                self._array(normals, wp.vec3),
                self._array(owner.astype(np.int32), int),
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

    def silhouettes(
        self, vertices: npt.ArrayLike, faces: npt.ArrayLike, K: npt.ArrayLike, size: tuple[int, int]
    ) -> np.ndarray:
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

    def occlusion(
        self, depth: np.ndarray, drawn: np.ndarray, scale: np.ndarray, radius: float
    ) -> np.ndarray:
        """Return how much of what surrounds each pixel lies before it, 0 to 1.

        Creases and the surroundings of what is near.

        Args:
            depth: (H, W) float32 metres.  drawn: (H, W) bool, where anything is.  scale: (H, W)
                pixels a metre, there.
            radius: pixels around each that count.
        Returns:
            (H, W) float32; 0 where nothing is.
        """
        out = self._buffer("occlusion", depth.shape, float)
        wp.launch(
            kernels.occlude,
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
            kernels.project_vertices,
            vertices.shape,
            [vertices, cameras, int(perspective), NEAR_M, points],
            device=self.device,
        )
        wp.launch(
            kernels.rasterise_triangles,
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
def shared_raster(device: str = "cpu") -> Raster:
    """The process's Raster of a device."""
    return Raster(device)


def silhouette(
    vertices: npt.ArrayLike, faces: npt.ArrayLike, K: npt.ArrayLike, size: tuple[int, int]
) -> np.ndarray:
    """(height, width) bool of one mesh; see ``Raster.silhouettes``, which draws many at once.

    Args:
        vertices: (V, 3) metres.  faces: (F, 3).  K: (3, 3).  size: (width, height) pixels.
    """
    return shared_raster().silhouettes(np.asarray(vertices)[None], faces, K, size)[0]


def _checked(vertices, faces):
    """Return (N, V, 3) float32 and (F, 3) int32, checked.

    A kernel that reads past an array need not be afraid of them.
    """
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
