"""Posed meshes of a batch into maps, on the batch's own device: tensors in, tensors out.

The same Warp kernels run on a CPU and on a GPU, in torch's current stream there.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import warp as wp

from data.bodies.warp_init import report_cache_errors, start_warp
from data.cropping.geometry import Size, find_sides
from finetune.maps import kernels
from finetune.maps.surface import Surface
from finetune.viz import raster_kernels
from finetune.viz.raster import NEAR_M


@dataclass(eq=False)
class Samples:
    """What (B, rows, columns) samples of images show of one mesh each; zeros where nothing is.

    Attributes:
        points: (B, rows, columns, 3) metres in the camera's frame.
        normals: (B, rows, columns, 3) unit normals of the side that is seen, camera's frame.
        surface: (B, rows, columns, 3) metres, Surface.canonical.
        parts: (B, rows, columns) int32, 0 where nothing is.
    """

    points: torch.Tensor
    normals: torch.Tensor
    surface: torch.Tensor
    parts: torch.Tensor

    @property
    def drawn(self) -> torch.Tensor:
        """(B, rows, columns) bool, where the mesh is."""
        return self.parts > 0


def draw_samples(vertices: torch.Tensor, surface: Surface, K: torch.Tensor, size: Size) -> Samples:
    """Returns the Samples of posed meshes.

    Args:
        vertices: (B, V, 3) metres in each camera's frame.
        K: (B, 3, 3) intrinsics in pixels of maps of ``size`` px.
    """
    device = vertices.device
    rows, columns = find_sides(size)
    count, places = len(vertices), rows * columns
    points = vertices.detach().float().contiguous()
    cameras = K.detach().float().contiguous()
    floats = [points.new_empty(count, places, 3) for _ in range(3)]
    parts = torch.empty(count, places, dtype=torch.int32, device=device)
    with _same_stream(device) as name:
        mesh = wp.from_torch(points, dtype=wp.vec3)
        lenses = wp.from_torch(cameras, dtype=wp.mat33)
        faces = wp.from_torch(surface.faces, dtype=wp.vec3i)
        flat = wp.empty((count, points.shape[1]), dtype=wp.vec3, device=name)
        normals = wp.empty((count, points.shape[1]), dtype=wp.vec3, device=name)
        nearness = wp.zeros((count, places), dtype=wp.uint64, device=name)
        wp.launch(
            raster_kernels.project_vertices,
            (count, points.shape[1]),
            [mesh, lenses, 1, NEAR_M, flat],
            device=name,
        )
        wp.launch(
            raster_kernels.rasterise_triangles,
            (count, len(surface.faces)),
            [mesh, flat, faces, lenses, 1, NEAR_M, columns, rows, nearness],
            device=name,
        )
        owners = [wp.from_torch(surface.starts), wp.from_torch(surface.owners)]
        wp.launch(
            kernels.add_normals,
            (count, points.shape[1]),
            [mesh, faces, *owners, normals],
            device=name,
        )
        wp.launch(
            kernels.resolve_samples,
            (count, places),
            [
                nearness,
                mesh,
                faces,
                lenses,
                normals,
                wp.from_torch(surface.canonical, dtype=wp.vec3),
                wp.from_torch(surface.parts),
                columns,
                *(wp.from_torch(values, dtype=wp.vec3) for values in floats),
                wp.from_torch(parts),
            ],
            device=name,
        )
    point, normal, place = (values.unflatten(1, (rows, columns)) for values in floats)
    return Samples(point, normal, place, parts.unflatten(1, (rows, columns)))


@contextlib.contextmanager
def _same_stream(device: torch.device) -> Iterator[str]:
    """Warp's name of a torch device, whose launches go into torch's current stream."""
    start_warp()
    name = "cpu" if device.type == "cpu" else f"cuda:{device.index or 0}"
    with report_cache_errors():
        for module in (raster_kernels, kernels):
            wp.load_module(module.__name__, device=name)
    if device.type == "cpu":
        yield name
        return
    stream = wp.stream_from_torch(torch.cuda.current_stream(device))
    with wp.ScopedStream(stream, sync_enter=False):
        yield name
