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


@dataclass(frozen=True)
class Scene:
    """Meshes as one, on a device.

    Attributes:
        vertices: (1, V) vec3.  faces: (F,) vec3i.  normals: (V,) vec3, unit.
        owner: (F,) int, whose each triangle is.
    """

    vertices: wp.array
    faces: wp.array
    normals: wp.array
    owner: wp.array


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
        scene, camera = self.open_scene(meshes, owners), check_camera(K)
        nearness = self._cover(
            scene.vertices, scene.faces, self.array(camera, wp.mat33), size, perspective
        )
        width, height = size
        depth, mesh = (
            self.buffer("depth", (height, width), float),
            self.buffer("mesh", (height, width), int),
        )
        seen, back = (
            self.buffer("normals", (height, width), wp.vec3),
            self.buffer("back", (height, width), wp.uint8),
        )
        wp.launch(
            kernels.resolve_layers,
            (height, width),
            [
                nearness,
                scene.vertices,
                scene.faces,
                scene.normals,
                scene.owner,
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

    def open_scene(
        self,
        meshes: Sequence[tuple[npt.ArrayLike, npt.ArrayLike]],
        owners: np.ndarray | None = None,
    ) -> "Scene":
        """Return meshes as one on the device; see ``layers``."""
        checked = [_checked(np.asarray(v)[None], f) for v, f in meshes]
        starts = np.cumsum([0] + [v.shape[1] for v, _ in checked])
        moved = [f + start for (_, f), start in zip(checked, starts[:-1], strict=True)]
        if owners is None:
            owners = np.repeat(np.arange(len(checked)), [len(f) for _, f in checked])
        return Scene(
            self.array(np.concatenate([v for v, _ in checked], 1), wp.vec3),
            self.array(np.concatenate(moved), wp.vec3i),
            self.array(np.concatenate([vertex_normals(v[0], f) for v, f in checked]), wp.vec3),
            self.array(owners.astype(np.int32), int),
        )

    def cover_scene(
        self, scene: "Scene", camera: np.ndarray, size: tuple[int, int], perspective: bool
    ) -> tuple[wp.array, wp.array]:
        """Return ((1, H * W) nearness and triangle of each sample, (1, V) projected vertices).

        Both are the next call's too. What they hold: finetune.viz.raster_kernels.

        Args:
            camera: (1, 3, 3) of ``check_camera``.
        """
        matrix = self.array(camera, wp.mat33)
        nearness = self._cover(scene.vertices, scene.faces, matrix, size, perspective)
        return nearness, self._buffers["points"]

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
        cameras = check_camera(K)
        if len(cameras) not in (1, len(vertices)):
            raise UserError(
                f"{len(vertices)} meshes and {len(cameras)} intrinsics; give one, or one a mesh"
            )
        cameras = np.broadcast_to(cameras, (len(vertices), 3, 3))
        out = np.empty((len(vertices), size[1], size[0]), bool)
        corners, step = self.array(faces, wp.vec3i), max(1, BATCH_SAMPLES // (size[0] * size[1]))
        for i in range(0, len(vertices), step):
            part = self.array(vertices[i : i + step], wp.vec3)
            covered = self._cover(
                part, corners, self.array(cameras[i : i + step], wp.mat33), size, True
            )
            out[i : i + step] = (covered.numpy() > 0).reshape(-1, size[1], size[0])
        return out

    def _cover(self, vertices, faces, cameras, size, perspective):
        """(N, H * W) nearness and triangle of each sample, 0 where nothing is."""
        count, width, height = vertices.shape[0], *size
        points = self.buffer("points", vertices.shape, wp.vec3)
        nearness = self.buffer("nearness", (count, width * height), wp.uint64)
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

    def array(self, values: np.ndarray, kind: type) -> wp.array:
        """Return values on the device."""
        return wp.array(np.ascontiguousarray(values), dtype=kind, device=self.device)

    def buffer(self, name: str, shape: tuple[int, ...], kind: type) -> wp.array:
        """Return a buffer that is kept from call to call; its content is the last call's."""
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


def check_camera(K: npt.ArrayLike) -> np.ndarray:
    """Return (N, 3, 3) float32 intrinsics with a last row of 0, 0, 1.

    Raises:
        UserError: they are none.
    """
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
