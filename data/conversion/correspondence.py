"""Where each vertex of one body model lies on the surface of another: found once, in one pose.

The target is posed and shaped onto the source at rest, first by the joints that both name, then by
closest points whose normals agree; where it then lies is where it belongs in every other pose.
"""

from dataclasses import dataclass

import torch

from data.bodies.base import BodyModel, BodyParameters
from data.conversion import surface
from data.conversion.fit import Aim, Fitter, Stiffness, align_parts
from data.conversion.names import match_joints
from data.conversion.rig import Rig, choose_vertices, find_firmness
from engine.errors import UserError

SHAPES = 10  # numbers of the shape that are fitted; later ones are small
LEAST_JOINTS = 4  # in common, of models that are to be registered
SAMPLES = 1500  # vertices that are fitted
ROUNDS, STEPS = 10, 2  # of closest points, and of fitting between them
NEAR, MANY = 16, 32  # triangles that a closest point is looked for on
COSINE = 0.3  # of the normals of points that correspond, at least
FAR = {"body": 0.04, "hand": 0.01}  # metres: what lies farther off has no counterpart
HOLD = {"body": 1e-4, "hand": 1e-6}  # square metres, see align_parts
ALONG = 0.3  # how much a distance along the surface counts, where meshes differ
LEAST_SHARE = 0.5  # of the vertices, that must have a counterpart


@dataclass(eq=False)
class Correspondence:
    """Where the V vertices of a target lie on a source's surface.

    Attributes:
        same: whether the meshes are one: vertex i is vertex i.
        triangle: (V,) int64 of the source.  weights: (V, 3) barycentric.
        known: (V,) bool, whether there is a counterpart at all.
        candidates: (V, C) int64 triangles of the source that are near.
        registered: the target's parameters on the source at rest, in its average shape (1, ...).
        firm: (J,) how many times as hard each of the target's joints is held to rest.
    """

    same: bool
    triangle: torch.Tensor
    weights: torch.Tensor
    known: torch.Tensor
    candidates: torch.Tensor
    registered: BodyParameters
    firm: torch.Tensor

    def place(self, vertices: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
        """Returns (B, V, 3) where the source's posed vertices (B, W, 3) put the target's."""
        corners = vertices[:, faces[self.triangle]]
        return (corners * self.weights[..., None]).sum(2)


def require_faces(body: BodyModel) -> torch.Tensor:
    """Returns the faces of a full body model; UserError where it has none."""
    if body.faces is None:
        raise UserError(f"body model {body.name} has no faces, so nothing can be fitted to it")
    return body.faces


def count_shapes(body: BodyModel) -> int:
    """Returns how many of a body model's shape parameters are fitted: the first ten, at most."""
    return min(len(body.shape_space.names), SHAPES)


def rest_body(body: BodyModel, shape: torch.Tensor | None = None) -> BodyParameters:
    """Returns a body at rest at the origin, of average shape unless ``shape`` (B, S) says more."""
    if shape is None:
        shape = torch.full((1, count_shapes(body)), body.shape_space.mean)
    pose = torch.eye(3).expand(len(shape), len(body.joint_names), 3, 3).clone()
    return BodyParameters(body.name, pose, shape, torch.zeros(len(shape), 3))


def is_same_mesh(source: BodyModel, target: BodyModel) -> bool:
    """Whether two body models have one mesh, vertex for vertex."""
    mine, other = require_faces(source), require_faces(target)
    count = len(source.vertex_ids) == len(target.vertex_ids)
    return count and mine.shape == other.shape and bool(torch.equal(mine, other))


@torch.no_grad()
def find_correspondence(source: BodyModel, target: BodyModel, rig: Rig) -> Correspondence:
    """Returns the Correspondence of two body models.

    Args:
        rig: measured from the target.
    Raises:
        UserError: one is a hand and the other a body, or too little of them corresponds.
    """
    if source.kind != target.kind:
        raise UserError(
            f"{source.name} is a {source.kind} and {target.name} a {target.kind}: only models of "
            f"one kind can be converted"
        )
    faces = require_faces(source)
    vertices, joints = source(*_unpack(rest_body(source)))
    if is_same_mesh(source, target):
        return _pair_same(target, faces, vertices)
    named = [place for _, _, place in match_joints(source, target)]
    firm = find_firmness(source, target, named, rig)
    start = _register_joints(source, target, rig, joints, firm)
    found = _register_surfaces(target, rig, start, vertices, faces, firm)
    points, _ = target(*_unpack(found))
    candidates = surface.list_candidates(points[0], vertices[0], faces, MANY)
    normals = surface.find_vertex_normals(points, require_faces(target))[0]
    on = surface.find_closest(points[0], vertices[0], faces, candidates, normals, COSINE)
    known = on.distance < FAR[target.kind]
    if known.float().mean() < LEAST_SHARE:
        raise UserError(
            f"{known.float().mean():.0%} of the vertices of {target.name} find a counterpart on "
            f"{source.name}: the meshes are not of one kind of body"
        )
    candidates = torch.cat([on.triangle[:, None], candidates], 1)
    return Correspondence(False, on.triangle, on.weights, known, candidates, found, firm)


def _pair_same(target: BodyModel, faces: torch.Tensor, vertices: torch.Tensor) -> Correspondence:
    count = vertices.shape[1]
    triangle = torch.zeros(count, dtype=torch.int64)
    weights = torch.zeros(count, 3)
    for corner in range(3):
        triangle[faces[:, corner]] = torch.arange(len(faces))
    weights[faces[triangle] == torch.arange(count)[:, None]] = 1
    candidates = surface.list_candidates(vertices[0], vertices[0], faces, NEAR)
    candidates = torch.cat([triangle[:, None], candidates], 1)
    known = weights.sum(1) == 1  # a vertex of no triangle has no surface
    firm = torch.ones(len(target.joint_names))
    return Correspondence(True, triangle, weights, known, candidates, rest_body(target), firm)


def _unpack(found: BodyParameters) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return found.pose, found.translation, found.shape


def _register_joints(
    source: BodyModel, target: BodyModel, rig: Rig, joints: torch.Tensor, firm: torch.Tensor
) -> BodyParameters:
    """The target with its joints where the source's are that have their names."""
    pairs = match_joints(source, target)
    if len(pairs) < LEAST_JOINTS:
        raise UserError(
            f"{source.name} and {target.name} have {len(pairs)} joints in common by name, "
            f"{LEAST_JOINTS} are needed"
        )
    theirs = torch.tensor([place for _, place, _ in pairs])
    mine = torch.tensor([place for _, _, place in pairs])
    rest = rest_body(target)
    points, bones = target(*_unpack(rest))
    shares = _list_limbs(rig, mine.tolist())
    # Two points do not tell a bone's twist: without a hold above the rounding it would be any.
    hold = 0.1 * HOLD[target.kind]
    pose = align_parts(rig, shares, bones[:, mine], joints[:, theirs], hold)
    start = BodyParameters(target.name, pose, rest.shape, joints[:, theirs[:1]].clone()[:, 0])
    aim = Aim(
        torch.zeros(0, dtype=torch.int64),
        points[:, :0],
        torch.zeros(0),
        joints=mine,
        joint_points=joints[:, theirs],
        joint_weight=1.0,
    )
    fitter = Fitter(target, rig, Stiffness(1e-2, 1e-2), firm=firm)
    return fitter.refine(start, aim, 10, free_shape=True)


def _list_limbs(rig: Rig, named: list[int]) -> torch.Tensor:
    """(J, K) bool as numbers: of each named joint itself and the next named ones below it."""
    shares = torch.zeros(len(rig.parents), len(named))
    for column, joint in enumerate(named):
        parent = rig.parents[joint]
        while parent >= 0 and parent not in named:
            parent = rig.parents[parent]
        if parent >= 0:
            shares[parent, column] = 1
            shares[parent, named.index(parent)] = 1
    return shares


def _register_surfaces(
    target: BodyModel,
    rig: Rig,
    start: BodyParameters,
    vertices: torch.Tensor,
    faces: torch.Tensor,
    firm: torch.Tensor,
) -> BodyParameters:
    """The target on the source's surface, by closest points in turn with fitting."""
    found = start
    points, _ = target(*_unpack(rest_body(target)))
    chosen = choose_vertices(rig, points[0], SAMPLES)
    fitter = Fitter(target, rig, Stiffness(3e-3, 3e-3), firm=firm)
    for round_ in range(ROUNDS):
        points, _ = target(*_unpack(found))
        normals = surface.find_vertex_normals(points, require_faces(target))[0, chosen]
        mine = points[0, chosen]
        near = surface.list_candidates(mine, vertices[0], faces, NEAR)
        on = surface.find_closest(mine, vertices[0], faces, near, normals, COSINE)
        reach = FAR[target.kind] * (3 if round_ < ROUNDS // 2 else 1)
        aim = Aim(
            chosen,
            (vertices[0, faces[on.triangle]] * on.weights[..., None]).sum(1)[None],
            (on.distance < reach).float(),
            normals=surface.find_normals(vertices, faces)[:, on.triangle],
            along=ALONG,
        )
        found = fitter.refine(found, aim, STEPS, free_shape=True)
    return found
