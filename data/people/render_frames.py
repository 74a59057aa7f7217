"""Draws whole frames with several people, and tells who is seen where."""

from dataclasses import dataclass

import numpy as np
import warp as wp

from data.people import kernels_mesh, kernels_shade
from data.people.render import NO_PHOTO, Extras, Renderer, World
from data.people.shots import box_spans
from data.people.warp_types import Box, Look, Shot, Struct, fill_struct

ALONE_PX = 256  # side of the image in which a person is drawn alone
ALONE_MARGIN = 1.04
NEAR_M = 0.1  # along the optical axis: what is nearer does not say how large that image is


@dataclass
class FrameImages:
    """N drawn frames of P people.

    Attributes:
        rgb: (N, rows, columns, 3) uint8.
        ids: (N, rows, columns) uint8, the label of who is seen, 0 for nobody.
        depth: (N, rows, columns) float32 metres along the optical axis to who is seen, else 0.
        faces_camera: (P, N, 13718) bool, which vertices of each undressed body the camera would
            see if the person were alone and the frame had no border; in the order of the World's
            others.
    """

    rgb: np.ndarray
    ids: np.ndarray
    depth: np.ndarray
    faces_camera: np.ndarray


class FrameRenderer(Renderer):
    """A Renderer of frames of any shape, whose longer side is ``size``."""

    def draw_frames(self, world: World, width: int, height: int) -> FrameImages:
        """The FrameImages of a World whose people are all among ``others``; it has one at least.

        ``world.look`` and ``world.vertices`` are not read.
        """
        extras = self._dress_extras(world)
        first, others = extras.people[0], extras.people[1:]
        rest = Extras(others, extras.labels[1:], extras.things, extras.parts)
        maps = self._light(world, *first, rest)
        self.window = (height, width)
        world.scene.boxes = len(world.boxes)
        boxes = self._array(world.boxes or [Box()], Box)
        self.bank.photo = self._array(NO_PHOTO if world.photo is None else world.photo, wp.vec3ub)
        curve = self._array(world.photography.curve, float)
        parts = []
        for shot in world.shots:
            shots = self._array([shot], Shot)
            spans = self._array(box_spans([shot], world.boxes), wp.vec4)
            layers = self._lay(shots, extras, world, maps)
            # Everybody is a layer; the person whom shade draws into the middle is nobody.
            nobody = self._buffer("nobody", (1, (self.size * self.antialias) ** 2), wp.uint64)
            outputs = (
                self._buffer("rgb", (1, height, width, 3), wp.uint8),
                self._buffer("label", (1, height, width), wp.uint8),
                self._buffer("far", (1, height, width), float),
            )
            points = self._buffer("points", (1, self.vertex_count), wp.vec3)
            look = self._array([world.others[0].look], Look)
            scene = [world.light, maps, self.bank, world.scene, boxes, spans, shots, nobody]
            film = [self.size, self.antialias, self._noise, curve, layers]
            self._launch(
                kernels_shade.shade,
                (1, height, width),
                [points, first[0], self.surface, look, *scene, *film, *outputs],
            )
            rgb, ids = (array.numpy()[0].copy() for array in outputs[:2])
            near = layers.near.numpy()[0]
            depth = np.where((ids > 0) & (near > 0), 1 / np.maximum(near, 1e-9), 0)
            parts.append((rgb, ids, depth.astype(np.float32)))
            self._lap("shade")
        alone = [self._face_camera(world, extras, number) for number in range(len(extras.people))]
        self._lap("visibility")
        rgb, ids, depth = (np.stack(part) for part in zip(*parts, strict=True))
        return FrameImages(rgb, ids, depth, np.stack(alone))

    def _face_camera(self, world: World, extras: Extras, number: int) -> np.ndarray:
        """(N, 13718) bool of one person, drawn alone into images that hold all of the body."""
        vertices, (dressed, look, is_worn) = world.others[number].vertices, extras.people[number]
        body = vertices[:, self.body].cpu().numpy()
        alone = [self._frame_alone(shot, body[shot.instant]) for shot in world.shots]
        shots, count = self._array(alone, Shot), len(alone)
        points = self._buffer("alone points", (count, self.vertex_count), wp.vec3)
        depth = self._buffer("alone depth", (count, ALONE_PX**2), wp.uint64)
        depth.zero_()
        self._launch(kernels_mesh.to_shots, points.shape, [dressed.position, shots, 1.0, points])
        self._launch(
            kernels_mesh.rasterise,
            (count, self.face_count),
            [points, self.surface, look, is_worn, ALONE_PX, 1, depth],
        )
        shown = self._buffer("alone shown", (count, ALONE_PX, ALONE_PX), float)
        shown.fill_(1.0)  # no scenery hides anything
        seen = self._buffer("alone seen", (count, self.vertex_count), wp.uint8)
        normals = self._buffer(f"naked {number}", dressed.position.shape, wp.vec3)
        own = [self._vertices(vertices), normals, self._tolerance]
        self._launch(
            kernels_mesh.see_vertices, seen.shape, [*own, shots, depth, shown, ALONE_PX, 1, seen]
        )
        return seen.numpy()[:, self.body] > 0

    def _frame_alone(self, shot: Struct, points: np.ndarray) -> Struct:
        """The Shot of the same camera whose square image holds all ``points`` (n, 3)."""
        seen = points @ np.array(shot.rotation).reshape(3, 3).T + np.array([*shot.translation])
        seen = seen[seen[:, 2] > NEAR_M]
        image = seen[:, :2] / seen[:, 2:]
        low, high = image.min(0), image.max(0)
        focal = ALONE_PX / (float((high - low).max()) * ALONE_MARGIN)
        cx, cy = ALONE_PX / 2 - focal * (low + high) / 2
        same = {name: getattr(shot, name) for name in ("instant", "rotation", "translation", "eye")}
        return fill_struct(Shot, **same, focal=focal, cx=cx, cy=cy)
