"""One body model's parameters to another's, with the error of each frame.

The target is fitted to the surface that the source is posed to. A person's shape is found once,
on the body at rest; each frame's pose begins with the rotation of each part that brings it onto its
points, and Levenberg-Marquardt does the rest.
"""

from dataclasses import dataclass

import torch

from data.bodies.base import BodyModel, BodyParameters
from data.conversion import surface
from data.conversion.correspondence import (
    ALONG,
    HOLD,
    find_correspondence,
    require_faces,
    rest_body,
)
from data.conversion.fit import Aim, Fitter, Stiffness, align_parts
from data.conversion.names import match_joints
from data.conversion.rig import choose_vertices, measure_rig

CHUNK = 8  # frames that are fitted at once
SAMPLES = 2000  # vertices that are fitted
SHAPE_STEPS, POSE_STEPS = 15, 20  # at most
HELD = 0.05  # metres a radian, see Stiffness
MM = 1e3
REACHED_MM = {"body": 20.0, "hand": 6.0}  # mean distance above which a frame is not reached


@dataclass(eq=False)
class Converted:
    """B bodies of the target model and how well they fit.

    Attributes:
        parameters: of the target.
        error_mm: (B, 3) mean, 95th percentile and largest distance of the target's vertices from
            the source's surface, millimetres; vertices without a counterpart there are left out.
        joints_mm: (B,) mean distance of joints of one name, millimetres. Models put them at other
            places, so it is seldom 0.
        reached: (B,) bool, whether the target can take the pose at all.
    """

    parameters: BodyParameters
    error_mm: torch.Tensor
    joints_mm: torch.Tensor
    reached: torch.Tensor


class Converter:
    """From parameters of one body model to those of another.

    Args:
        source, target: full body models of one kind.

    Attributes:
        matched: share of the target's vertices that have a counterpart.
        names: of the joints that both have.
        nearest_joints: (J,) int64 for each of the target's joints the source's that is nearest on
            the body at rest.
    Raises:
        UserError: they are of different kinds, or too little of them corresponds.
    """

    def __init__(self, source: BodyModel, target: BodyModel) -> None:
        self.source, self.target = source, target
        self._faces = require_faces(source)
        rig = measure_rig(target)
        self._map = find_correspondence(source, target, rig)
        self._rig = rig
        firm = self._map.firm
        self._fitter = Fitter(target, rig, Stiffness(), firm=firm)
        # A shape is found first with the pose held, lest bent joints make up for it.
        held = self._map.registered.pose
        self._shaper = Fitter(target, rig, Stiffness(HELD), held, firm)
        self._shapes: dict[bytes, torch.Tensor] = {}
        points, _ = target(*_unpack(rest_body(target)))
        chosen = choose_vertices(rig, points[0], SAMPLES)
        self._chosen = chosen[self._map.known[chosen]]
        self.matched = float(self._map.known.float().mean())
        _, theirs = source(*_unpack(rest_body(source)))
        _, mine = target(*_unpack(self._map.registered))
        self.nearest_joints = torch.cdist(mine[0], theirs[0]).argmin(1)
        pairs = match_joints(source, target)
        self.names = [name for name, _, _ in pairs]
        self._theirs = torch.tensor([place for _, place, _ in pairs], dtype=torch.int64)
        self._mine = torch.tensor([place for _, _, place in pairs], dtype=torch.int64)

    def describe(self) -> str:
        """Returns how much of the two models corresponds, in a line."""
        return (
            f"{self.source.name} -> {self.target.name}: {len(self.names)} joints in common, "
            f"{self.matched:.0%} of {len(self.target.vertex_ids)} vertices have a counterpart"
        )

    @torch.no_grad()
    def __call__(self, given: BodyParameters, person: torch.Tensor | None = None) -> Converted:
        """Return the target's parameters for B bodies of the source.

        Args:
            person: (1, S) the source's shape to which the shape of all of them is fitted; None:
                each has its own.
        """
        vertices, joints = self.source(*_unpack(given))
        if person is None:
            shape = torch.cat([self._fit_shape(one) for one in given.shape.split(1)])
        else:
            shape = self._fit_shape(person).expand(len(given.shape), -1)
        aim = self._aim(vertices)
        start = self._begin(aim, shape)
        found = self._fitter.refine(start, aim, POSE_STEPS)
        return self._judge(found, vertices, joints)

    def _aim(self, vertices: torch.Tensor) -> Aim:
        chosen, there = self._chosen, self._map
        points = there.place(vertices, self._faces)[:, chosen]
        if there.same:
            return Aim(chosen, points, torch.ones(len(chosen)))
        normals = surface.find_normals(vertices, self._faces)[:, there.triangle[chosen]]
        return Aim(chosen, points, torch.ones(len(chosen)), normals=normals, along=ALONG)

    def _fit_shape(self, shape: torch.Tensor) -> torch.Tensor:
        """(1, S) the target's shape for one (1, S) of the source, found at rest."""
        known = shape.numpy().tobytes()
        if known not in self._shapes:
            vertices, _ = self.source(*_unpack(rest_body(self.source, shape)))
            aim = self._aim(vertices)
            start = self._map.registered
            if self.source.shape_space.names == self.target.shape_space.names:
                start = BodyParameters(start.body, start.pose, shape, start.translation)
            held = self._shaper.refine(start, aim, SHAPE_STEPS, free_shape=True)
            found = self._fitter.refine(held, aim, SHAPE_STEPS, free_shape=True)
            self._shapes[known] = found.shape
        return self._shapes[known]

    def _begin(self, aim: Aim, shape: torch.Tensor) -> BodyParameters:
        """Each part rotated onto its points, and the whole put where the points are."""
        rest, _ = self.target(*_unpack(rest_body(self.target, shape)))
        shares = self._rig.own[:, aim.vertices]
        hold = HOLD[self.target.kind]
        bodies, firm = rest[:, aim.vertices], self._map.firm
        pose = align_parts(self._rig, shares, bodies, aim.points, hold, firm)
        start = BodyParameters(self.target.name, pose, shape, torch.zeros(len(shape), 3))
        posed, _ = self.target(*_unpack(start))
        start.translation = (aim.points - posed[:, aim.vertices]).mean(1)
        return start

    def _judge(
        self, found: BodyParameters, vertices: torch.Tensor, joints: torch.Tensor
    ) -> Converted:
        mine, bones = self.target(*_unpack(found))
        known, errors = self._map.known, []
        for row in range(len(mine)):
            on = surface.find_closest(
                mine[row, known], vertices[row], self._faces, self._map.candidates[known]
            )
            far = on.distance * MM
            errors.append(torch.stack([far.mean(), far.quantile(0.95), far.max()]))
        error_mm = torch.stack(errors)
        apart = bones[:, self._mine] - joints[:, self._theirs]
        joints_mm = apart.norm(dim=-1).mean(1) * MM
        reached = error_mm[:, 0] < REACHED_MM[self.target.kind]
        return Converted(found, error_mm, joints_mm, reached)


def _unpack(found: BodyParameters) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return found.pose, found.translation, found.shape
