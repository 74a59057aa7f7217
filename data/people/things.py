"""Things as small meshes that move rigidly with a part of the body: built, placed and stacked."""

from dataclasses import dataclass, field

import numpy as np

from data.people.warp_types import Part, Struct, fill_struct, vec3

SIDES = 12


@dataclass
class Mesh:
    """Triangles with normals and texture coordinates.

    Attributes:
        points, normals: (n, 3).  uv: (n, 2) metres on the surface.  faces: (m, 3) int32.
    """

    points: np.ndarray
    normals: np.ndarray
    uv: np.ndarray
    faces: np.ndarray

    def moved(self, axes: np.ndarray, origin: np.ndarray) -> "Mesh":
        """The mesh with its axes laid along the columns of ``axes`` (3, 3), then moved."""
        return Mesh(self.points @ axes.T + origin, self.normals @ axes.T, self.uv, self.faces)


@dataclass
class Thing:
    """A mesh in the frames that carry it, and its surface.

    Attributes:
        mesh: in the frames' coordinates.
        axes: (T, 3, 3) columns are the frame's axes in the world, perhaps scaled.
        origin: (T, 3) metres.
        colour: (3,) linear RGB.  texture: slot of the bank, 0 for none.  scale: tiles a metre.
        label: index into warp_types.MATERIALS, 0 for what is not the person.
    """

    mesh: Mesh
    axes: np.ndarray
    origin: np.ndarray
    colour: np.ndarray
    texture: int = 0
    scale: float = 3.0
    shine: float = 0.0
    label: int = 0

    def points(self) -> np.ndarray:
        """(T, n, 3) metres, world."""
        return self.mesh.points @ np.swapaxes(self.axes, 1, 2) + self.origin[:, None]

    def part(self) -> Struct:
        """The Part of its surface."""
        return fill_struct(
            Part,
            texture=self.texture,
            scale=self.scale,
            colour=vec3(self.colour),
            shine=self.shine,
            label=self.label,
        )


@dataclass
class Stack:
    """All things of a clip in one mesh of P points and F faces.

    Attributes:
        position, normal: (T, P, 3) float32.  uv: (P, 2) float32.  faces: (F, 3) int32.
        part: (F,) int32 index into ``parts``.
    """

    position: np.ndarray
    normal: np.ndarray
    uv: np.ndarray
    faces: np.ndarray
    part: np.ndarray
    parts: list[Struct] = field(default_factory=list)


def stack_things(things: list[Thing]) -> Stack:
    """The Stack of one thing or more."""
    normals = []
    for thing in things:
        turned = thing.mesh.normals @ np.swapaxes(thing.axes, 1, 2)
        normals.append(turned / np.linalg.norm(turned, axis=-1, keepdims=True))
    starts = np.cumsum([0] + [len(thing.mesh.points) for thing in things])
    counts = [len(thing.mesh.faces) for thing in things]
    return Stack(
        np.concatenate([thing.points() for thing in things], 1).astype(np.float32),
        np.concatenate(normals, 1).astype(np.float32),
        np.concatenate([thing.mesh.uv for thing in things]).astype(np.float32),
        np.concatenate([t.mesh.faces + s for t, s in zip(things, starts[:-1], strict=True)]).astype(
            np.int32
        ),
        np.repeat(np.arange(len(things)), counts).astype(np.int32),
        [thing.part() for thing in things],
    )


def join_meshes(meshes: list[Mesh]) -> Mesh:
    """One mesh of several."""
    starts = np.cumsum([0] + [len(mesh.points) for mesh in meshes])
    faces = [mesh.faces + start for mesh, start in zip(meshes, starts[:-1], strict=True)]
    return Mesh(
        np.concatenate([mesh.points for mesh in meshes]),
        np.concatenate([mesh.normals for mesh in meshes]),
        np.concatenate([mesh.uv for mesh in meshes]),
        np.concatenate(faces),
    )


def _grid_faces(rows: int, columns: int) -> np.ndarray:
    """(m, 3) triangles of a grid of points, row by row."""
    at = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = at[:-1, :-1], at[:-1, 1:], at[1:, 1:], at[1:, :-1]
    return np.concatenate(
        [np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)]
    ).astype(np.int32)


def make_box(half: np.ndarray) -> Mesh:
    """A box of these half sides (3,) around the origin."""
    sides = []
    for axis in range(3):
        u, v = (axis + 1) % 3, (axis + 2) % 3
        for sign in (-1.0, 1.0):
            points, normals = np.zeros((4, 3)), np.zeros((4, 3))
            points[:, axis], normals[:, axis] = sign * half[axis], sign
            points[:, u] = half[u] * np.array([-1, 1, -1, 1])
            points[:, v] = half[v] * np.array([-1, -1, 1, 1])
            sides.append(Mesh(points, normals, points[:, [u, v]], _grid_faces(2, 2)))
    return join_meshes(sides)


def make_tube(spine: np.ndarray, radius: np.ndarray, flat: float = 1.0) -> Mesh:
    """A tube around a line.

    Args:
        spine: (n, 3) points.  radius: (n,) metres, 0 at an end to close it.
        flat: how wide it is across the second axis, over the first.
    """
    way = np.gradient(spine, axis=0)
    way /= np.linalg.norm(way, axis=1, keepdims=True)
    aside = np.array([0.0, 0.0, 1.0]) if abs(way[:, 2]).max() < 0.9 else np.array([1.0, 0.0, 0.0])
    first = np.cross(way, aside)
    first /= np.linalg.norm(first, axis=1, keepdims=True) + 1e-9
    second = np.cross(way, first) * flat
    angle = np.linspace(0, 2 * np.pi, SIDES + 1)
    ring = (
        np.cos(angle)[None, :, None] * first[:, None]
        + np.sin(angle)[None, :, None] * second[:, None]
    )
    points = spine[:, None] + ring * radius[:, None, None]
    slope = np.gradient(radius) / (np.linalg.norm(np.gradient(spine, axis=0), axis=1) + 1e-9)
    normals = ring - np.clip(slope, -3, 3)[:, None, None] * way[:, None]
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True) + 1e-9
    along = np.cumsum(np.linalg.norm(np.diff(spine, axis=0, prepend=spine[:1]), axis=1))
    u = np.broadcast_to(angle / (2 * np.pi) * 0.25, (len(spine), SIDES + 1))
    uv = np.stack([u, np.broadcast_to(along[:, None], u.shape)], -1)
    faces = _grid_faces(len(spine), SIDES + 1)
    return Mesh(points.reshape(-1, 3), normals.reshape(-1, 3), uv.reshape(-1, 2), faces)


def make_rod(length: float, start: float, end: float, begin: float = 0.0) -> Mesh:
    """A closed rod along x from ``begin``, of a radius at its start and another at its end."""
    x = begin + length * np.array([0, 0, 0.25, 0.5, 0.75, 1, 1])
    spine = np.stack([x + np.array([-1e-4, 0, 0, 0, 0, 0, 1e-4]), 0 * x, 0 * x], 1)
    radius = np.interp(x, [begin, begin + length], [start, end])
    radius[[0, -1]] = 0
    return make_tube(spine, radius)


def make_ball(radius: np.ndarray) -> Mesh:
    """An ellipsoid of these half axes (3,)."""
    down = np.linspace(0, np.pi, 9)
    angle = np.linspace(0, 2 * np.pi, SIDES + 1)
    normals = np.stack(
        [
            np.sin(down)[:, None] * np.cos(angle),
            np.sin(down)[:, None] * np.sin(angle),
            np.repeat(np.cos(down)[:, None], SIDES + 1, 1),
        ],
        -1,
    ).reshape(-1, 3)
    uv = np.stack(np.broadcast_arrays(angle[None] * 0.1, down[:, None] * 0.1), -1).reshape(-1, 2)
    return Mesh(normals * radius, normals / radius * radius.min(), uv, _grid_faces(9, SIDES + 1))


def make_disc(inner: np.ndarray, outer: np.ndarray) -> Mesh:
    """A surface between two closed lines (n, 3) each, as a brim is."""
    points = np.stack([inner, outer])
    across, along = outer - inner, np.gradient(outer, axis=0)  # the inner line may be a point
    normals = np.cross(along, across)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-9
    uv = np.stack([points[..., 0], points[..., 1]], -1).reshape(-1, 2)
    return Mesh(
        points.reshape(-1, 3), np.concatenate([normals, normals]), uv, _grid_faces(2, len(inner))
    )


def make_dome(radius: float, height: float) -> Mesh:
    """An open umbrella's cloth: a flat cone around x, its top at the origin, open towards -x."""
    share = np.linspace(0, 1, 6)
    spine = np.stack([-height * share**2, 0 * share, 0 * share], 1)
    return make_tube(spine - np.array([1e-4, 0, 0]) * np.arange(6)[:, None], radius * share)
