"""Draws all shots of a clip on one device, CPU or CUDA, with the same kernels."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import warp as wp

from data.format.surface import SurfaceMaps, join_maps
from data.people import kernels_layers, kernels_light, kernels_mesh, kernels_shade, textures
from data.people.bank import Bank
from data.people.shots import Photography, box_spans
from data.people.stopwatch import Stopwatch
from data.people.surface import find_body_vertices, map_surface
from data.people.template import Template
from data.people.things import Stack
from data.people.warp_types import (
    SKY_DIRECTIONS,
    Box,
    Dressed,
    Layers,
    Light,
    LightMaps,
    Look,
    Part,
    Shot,
    Struct,
    Surface,
    Textures,
    Things,
)

if TYPE_CHECKING:
    import torch

# How far behind the drawn surface a vertex of the body may lie and still count as seen: cloth hangs
# up to 6 cm off the body, but fingers lie closer to each other than that and wear nothing.
CLOTHED_M, BARE_M = 0.06, 0.015
NO_PHOTO = np.zeros((1, 3), np.uint8)


@dataclass
class Other:
    """Another person: vertices as those of a World, and a Look.

    ``label`` is what its pixels have in the label image; 0: as where nobody is.
    """

    vertices: "torch.Tensor"
    look: Struct
    label: int = 0


@dataclass
class World:
    """Everything a clip's images are drawn from.

    Attributes:
        vertices: (T, V, 3) float32 torch tensor on the renderer's device, metres.
        look: Look.  light: Light.  sky_axes, sky_colours: see scene.sample_light.  scene: Scene,
            boxes: list of Box.
        photography: shots.Photography.  shots: list of N Shot.
        photo: texels of a backgrounds.Photo where the scene shows one.
        placed: how many boxes, from the first on, are not clutter: seats, things in the way.
        others: further people, who are no part of the labels.  things: see things.py.
    """

    vertices: "torch.Tensor"
    look: Struct
    light: Struct
    sky_axes: np.ndarray
    sky_colours: np.ndarray
    scene: Struct
    boxes: list[Struct]
    photography: Photography
    shots: list[Struct]
    photo: np.ndarray | None = None
    placed: int = 0
    others: list["Other"] = field(default_factory=list)
    things: Stack | None = None


@dataclass
class Images:
    """N drawn shots of one size.

    Attributes:
        rgb: (N, size, size, 3) uint8.  label: (N, size, size) uint8, index into
            warp_types.MATERIALS.
        depth: (N, size, size) float32 metres to the person along the optical axis, 0 where it is
            not seen.
        seen: (N, 13718) bool, which vertices of the undressed body are seen.
        surface: SurfaceMaps, where the renderer maps surfaces.
    """

    rgb: np.ndarray
    label: np.ndarray
    depth: np.ndarray
    seen: np.ndarray
    surface: SurfaceMaps | None = None


@dataclass
class Extras:
    """Others and things on the device.

    Attributes:
        people: (Dressed, array of one Look, (V,) what is worn) of each other person.
        labels: of each of them, see Other.
        things: Things.  parts: array of their Part, None where there are none.
    """

    people: list[tuple[Struct, wp.array, wp.array]]
    labels: list[int]
    things: Struct
    parts: wp.array | None


class Renderer:
    """Holds the mesh, the textures and reusable buffers on a device.

    Args:
        template: template.Template.  bank: bank.Bank.  size: pixels.
        antialias: samples along a pixel's side.  device: "cpu" or "cuda".
        surface: have images come with what of the body they show.

    Attributes:
        stopwatch: where the time went.
    """

    def __init__(
        self,
        template: Template,
        bank: Bank,
        size: int,
        antialias: int,
        device: str,
        surface: bool = False,
    ) -> None:
        self.size, self.antialias, self.device = size, antialias, device
        self.window = (size, size)  # rows and columns that are drawn, from the top left corner
        self.vertex_count, self.face_count = len(template.rest), len(template.faces)
        self.body = template.body
        self.stopwatch, self._buffers = Stopwatch(device), {}
        self._body_vertices = find_body_vertices(template) if surface else None
        self._faces = template.faces
        self.surface = Surface()
        self.surface.faces = self._array(template.faces, wp.vec3i)
        self.surface.layer = self._array(template.layer, int)
        self.surface.kind = self._array(template.kind, int)
        self.surface.rest = self._array(template.rest, wp.vec3)
        self.surface.limb = self._array(template.limb, wp.vec4)
        self.surface.detail = self._array(template.detail, wp.vec4)
        self.bank = Textures()
        self.bank.colour = self._array(bank.texels, wp.vec3ub)
        # Only the noises before the first colour texture are read as grey.
        grey = bank.texels.reshape(len(bank.kinds), -1, 3)[: textures.FIRST_COLOUR, :, 0]
        self.bank.grey = self._array(grey.reshape(-1), wp.uint8)
        self._around = self._array(template.around, int)
        self._around_start = self._array(template.around_start, int)
        self._body = self._array(template.body, int)
        tolerance = np.full(self.vertex_count, CLOTHED_M, np.float32)
        tolerance[template.body[template.hands.any(0)]] = BARE_M
        self._tolerance = self._array(tolerance, float)
        noise = np.random.default_rng(1).normal(0, 1, 3 * 65536)
        self._noise = self._array(noise.astype(np.float32), float)

    def draw(self, world: World) -> Images:
        """The Images of a World."""
        vertices = self._vertices(world.vertices)
        look = self._array([world.look], Look)
        person, naked_normals, is_worn = self._dress(vertices, look, "")
        extras = self._dress_extras(world)
        maps = self._light(world, person, look, is_worn, extras)
        boxes = self._array(world.boxes or [Box()], Box)
        all_shots = self._array(world.shots, Shot)
        all_spans = self._array(box_spans(world.shots, world.boxes), wp.vec4)
        world.scene.boxes = len(world.boxes)
        self.bank.photo = self._array(NO_PHOTO if world.photo is None else world.photo, wp.vec3ub)
        curve = self._array(world.photography.curve, float)
        parts: list[list[np.ndarray]] = []
        maps_of: list[SurfaceMaps] = []
        # One image at a time stays in a core's cache; a GPU is only full with all of them.
        step = 1 if self.device == "cpu" else len(world.shots)
        for i in range(0, len(world.shots), step):
            shots, spans = all_shots[i : i + step], all_spans[i : i + step]
            layers = self._lay(shots, extras, world, maps)
            points, depth = self._rasterise(shots, person, look, is_worn)
            size, count = self.size, len(shots)
            rgb = self._buffer("rgb", (count, size, size, 3), wp.uint8)
            label = self._buffer("label", (count, size, size), wp.uint8)
            far = self._buffer("far", (count, size, size), float)
            self._launch(
                kernels_shade.shade,
                (count, size, size),
                [
                    points,
                    person,
                    self.surface,
                    look,
                    world.light,
                    maps,
                    self.bank,
                    world.scene,
                    boxes,
                    spans,
                    shots,
                    depth,
                    size,
                    self.antialias,
                    self._noise,
                    curve,
                    layers,
                    rgb,
                    label,
                    far,
                ],
            )
            self._lap("shade")
            seen = self._buffer("seen", (count, self.vertex_count), wp.uint8)
            self._launch(
                kernels_mesh.see_vertices,
                (count, self.vertex_count),
                [
                    vertices,
                    naked_normals,
                    self._tolerance,
                    shots,
                    depth,
                    far,
                    size,
                    self.antialias,
                    seen,
                ],
            )
            parts.append(
                [
                    rgb.numpy().copy(),
                    label.numpy().copy(),
                    far.numpy().copy(),
                    seen.numpy()[:, self.body] > 0,
                ]
            )
            self._lap("visibility")
            if self._body_vertices is not None:
                some = world.shots[i : i + step]
                drawn = (points, depth, person, some, far)
                maps_of.append(self._map_surface(*drawn, self._body_vertices))
                self._lap("surface")
        rgb, label, far, seen = (np.concatenate(p) for p in zip(*parts, strict=True))
        return Images(rgb, label, far, seen, join_maps(maps_of) if maps_of else None)

    def _map_surface(self, points, depth, person, shots, far, body_vertices):
        """SurfaceMaps of some shots, whose buffers are full."""
        side = self.size * self.antialias
        instants = [shot.instant for shot in shots]
        return map_surface(
            depth.numpy().reshape(len(shots), side, side),
            points.numpy(),
            person.normal.numpy()[instants],
            np.array([shot.rotation for shot in shots], np.float64).reshape(-1, 3, 3),
            far.numpy() > 0,
            self._faces,
            body_vertices,
            self.antialias,
        )

    def _dress(self, vertices, look, name):
        """The person with its clothes on, the normals of the body below, and (V,) what is worn.

        Buffers are those of this name.
        """
        count = vertices.shape[0]
        naked = self._normals(vertices, "naked" + name)
        person = Dressed()
        person.position = self._buffer("position" + name, (count, self.vertex_count), wp.vec3)
        self._launch(
            kernels_mesh.dress,
            (count, self.vertex_count),
            [vertices, naked, self.surface, look, self.bank, person.position],
        )
        person.normal = self._normals(person.position, "dressed" + name)
        is_worn = self._buffer("worn" + name, (self.vertex_count,), int)
        self._launch(kernels_mesh.mark_worn, self.vertex_count, [self.surface, look, is_worn])
        self._lap("dress")
        return person, naked, is_worn

    def _dress_extras(self, world: World) -> "Extras":
        """The other people, dressed, and the things of a World, as kernels read them."""
        people = []
        for number, other in enumerate(world.others):
            look = self._array([other.look], Look)
            dressed, _, is_worn = self._dress(self._vertices(other.vertices), look, f" {number}")
            people.append((dressed, look, is_worn))
        labels = [other.label for other in world.others]
        stack, things = world.things, Things()
        if stack is None:
            return Extras(people, labels, things, None)
        things.position = self._array(stack.position, wp.vec3)
        things.normal = self._array(stack.normal, wp.vec3)
        things.uv = self._array(stack.uv, wp.vec2)
        things.faces = self._array(stack.faces, wp.vec3i)
        things.part = self._array(stack.part, int)
        return Extras(people, labels, things, self._array(stack.parts, Part))

    def _shade_light(self, light: Light, extras: "Extras", maps: LightMaps, depth):
        """Put others and things into the key light's depth map, and others into the sky's."""
        side, count = light.shadow_side, depth.shape[0]
        for dressed, look, is_worn in extras.people:
            points = self._buffer("light points", (count, self.vertex_count), wp.vec3)
            self._launch(kernels_mesh.to_light, points.shape, [dressed.position, light, points])
            self._launch(
                kernels_mesh.rasterise,
                (count, self.face_count),
                [points, self.surface, look, is_worn, side, 0, depth],
            )
            self._launch(
                kernels_light.splat_sky,
                (count, SKY_DIRECTIONS, len(self.body)),
                [dressed.position, maps.sky_axes, light, self._body, maps.sky],
            )
        if extras.parts is not None:
            things = extras.things
            points = wp.zeros(things.position.shape, dtype=wp.vec3, device=self.device)
            self._launch(kernels_mesh.to_light, points.shape, [things.position, light, points])
            self._launch(
                kernels_layers.rasterise_things,
                (count, len(things.faces)),
                [points, things.faces, side, depth],
            )

    def _lay(self, shots, extras: "Extras", world: World, maps: LightMaps) -> Layers:
        """The Layers of some shots."""
        layers, size, count = Layers(), self.size, len(shots)
        if not extras.people and extras.parts is None:
            return layers
        shape = (count, *self.window)
        layers.used = 1
        layers.colour = self._buffer("layer colour", shape, wp.vec3)
        layers.cover = self._buffer("layer cover", shape, float)
        layers.near = self._buffer("layer near", shape, float)
        layers.label = self._buffer("layer label", shape, wp.uint8)
        for array in (layers.colour, layers.cover, layers.near, layers.label):
            array.zero_()
        camera = [shots, None, size, self.antialias, layers]
        for (dressed, look, is_worn), label in zip(extras.people, extras.labels, strict=True):
            points, camera[1] = self._rasterise(shots, dressed, look, is_worn)
            lit = [world.light, maps, self.bank]
            self._launch(
                kernels_layers.lay_person,
                shape,
                [points, dressed, self.surface, look, *lit, *camera, label],
            )
        if extras.parts is not None:
            things, side = extras.things, size * self.antialias
            points = wp.zeros((count, things.position.shape[1]), dtype=wp.vec3, device=self.device)
            camera[1] = self._buffer("depth", (count, side * side), wp.uint64)
            camera[1].zero_()
            self._launch(
                kernels_mesh.to_shots,
                points.shape,
                [things.position, shots, float(self.antialias), points],
            )
            self._launch(
                kernels_layers.rasterise_things,
                (count, len(things.faces)),
                [points, things.faces, side, camera[1]],
            )
            lit = [world.light, maps, self.bank]
            self._launch(
                kernels_layers.lay_things, shape, [points, things, extras.parts, *lit, *camera]
            )
        self._lap("others and things")
        return layers

    def _light(self, world, person, look, is_worn, extras):
        """Shadow map of the key light, occlusion of the sky; fills the people's ambient light."""
        count, light = person.position.shape[0], world.light
        side, sky_side = light.shadow_side, light.sky_side
        points = self._buffer("light points", (count, self.vertex_count), wp.vec3)
        depth = self._buffer("light depth", (count, side * side), wp.uint64)
        depth.zero_()
        self._launch(
            kernels_mesh.to_light, (count, self.vertex_count), [person.position, light, points]
        )
        self._launch(
            kernels_mesh.rasterise,
            (count, self.face_count),
            [points, self.surface, look, is_worn, side, 0, depth],
        )
        maps = LightMaps()
        maps.sky_axes = self._array(world.sky_axes, wp.mat33)
        maps.sky_colour = self._array(world.sky_colours, wp.vec3)
        maps.sky = self._buffer("sky", (count, SKY_DIRECTIONS, sky_side * sky_side), float)
        maps.sky.zero_()
        self._launch(
            kernels_light.splat_sky,
            (count, SKY_DIRECTIONS, len(self.body)),
            [person.position, maps.sky_axes, light, self._body, maps.sky],
        )
        self._shade_light(light, extras, maps, depth)
        maps.key = self._buffer("key", (count, side, side), float)
        maps.blocks = self._buffer("blocks", (count, side // 8, side // 8), wp.vec2)
        self._launch(
            kernels_light.split_shadow_map,
            (count, side // 8, side // 8),
            [depth, side, maps.key, maps.blocks],
        )
        dressed_people = [person, *(other for other, _, _ in extras.people)]
        for number, dressed in enumerate(dressed_people):
            name = f"ambient {number}"
            dressed.ambient = self._buffer(name, (count, self.vertex_count), wp.vec3)
            self._launch(
                kernels_light.gather_sky,
                (count, self.vertex_count),
                [dressed.position, dressed.normal, light, maps, dressed.ambient],
            )
        self._lap("light")
        return maps

    def _rasterise(self, shots, person, look, is_worn):
        """Vertices in the shots' samples, and the depth buffer of all samples."""
        side = self.size * self.antialias
        points = self._buffer("points", (len(shots), self.vertex_count), wp.vec3)
        depth = self._buffer("depth", (len(shots), side * side), wp.uint64)
        depth.zero_()
        self._launch(
            kernels_mesh.to_shots,
            (len(shots), self.vertex_count),
            [person.position, shots, float(self.antialias), points],
        )
        self._launch(
            kernels_mesh.rasterise,
            (len(shots), self.face_count),
            [points, self.surface, look, is_worn, side, 1, depth],
        )
        self._lap("rasterise")
        return points, depth

    def _normals(self, vertices, name):
        count = vertices.shape[0]
        across = self._buffer("across", (count, self.face_count), wp.vec3)
        out = self._buffer(name, (count, self.vertex_count), wp.vec3)
        self._launch(
            kernels_mesh.face_normals,
            (count, self.face_count),
            [vertices, self.surface.faces, across],
        )
        self._launch(
            kernels_mesh.vertex_normals,
            (count, self.vertex_count),
            [across, self._around_start, self._around, out],
        )
        return out

    def _vertices(self, tensor):
        if self.device == "cpu":
            return wp.array(tensor.numpy(), dtype=wp.vec3, device="cpu", copy=False)
        import torch

        torch.cuda.synchronize()  # Warp launches on a stream of its own
        return wp.from_torch(tensor.contiguous(), dtype=wp.vec3)

    def _array(self, values, kind):
        values = np.ascontiguousarray(values) if isinstance(values, np.ndarray) else values
        return wp.array(values, dtype=kind, device=self.device)

    def _buffer(self, name, shape, kind):
        """A buffer that is kept from clip to clip; its content is the last clip's."""
        found = self._buffers.get(name)
        if found is None or found.shape != shape:
            found = self._buffers[name] = wp.zeros(shape, dtype=kind, device=self.device)
        return found

    def _launch(self, kernel, size, inputs):
        wp.launch(kernel, size, inputs, device=self.device)

    def _lap(self, stage):
        if self.device != "cpu":
            wp.synchronize()
        self.stopwatch.lap(stage)
