"""Fitting a body model's pose, translation and shape to points: Levenberg-Marquardt, batched.

The Jacobian of linear blend skinning is written down instead of differentiated: turning joint j by
a small rotation w moves a vertex by below[j] * w x (vertex - joint), where ``below`` is the share
of its skinning that hangs below the joint (data.conversion.rig). It is exact where one bone holds a
vertex and close elsewhere; residuals are always the model's own, so where a fit is exact, it is
found exactly.
"""

from dataclasses import dataclass

import torch

from data.bodies.base import BodyModel, BodyParameters
from data.conversion.rig import Rig
from engine.geometry import axis_angle_to_matrix, matrix_to_axis_angle

SHAPE_STEP = 1e-2  # of the differences that the shape's derivatives are taken by
DAMPING, DAMPING_MAX = 1e-4, 1e6
STILL = 1e-4  # a step that gains less, as a share of the cost, is the last


@dataclass(eq=False)
class Aim:
    """What B bodies are to reach.

    Attributes:
        vertices: (N,) int64 of the body model, which are to reach ``points``.
        points: (B, N, 3) metres.
        weights: (N,) of their squared distances.
        normals: (B, N, 3) of the surface there, or None: then all directions count alike.
        along: how much a distance along the surface counts, 1: as much as one across it.
        joints: (K,) int64 of the body model.  joint_points: (B, K, 3) metres.
        joint_weight: of the joints' squared distances.
    """

    vertices: torch.Tensor
    points: torch.Tensor
    weights: torch.Tensor
    normals: torch.Tensor | None = None
    along: float = 1.0
    joints: torch.Tensor | None = None
    joint_points: torch.Tensor | None = None
    joint_weight: float = 0.0


@dataclass
class Stiffness:
    """How hard a fit holds to what is usual, in metres of error that a unit costs.

    Attributes:
        pose: of a joint's rotation away from rest, metres a radian (the root's is free).
        shape: of a shape parameter away from the average, metres a unit.
    """

    pose: float = 1e-3
    shape: float = 1e-3


@torch.no_grad()
def align_parts(
    rig: Rig,
    shares: torch.Tensor,
    rest: torch.Tensor,
    points: torch.Tensor,
    hold: float,
    firm: torch.Tensor | None = None,
) -> torch.Tensor:
    """Returns (B, J, 3, 3) rotations relative to the parents that bring each part onto its points.

    Each joint's rotation is that of least squares between its own points at rest and where they are
    to be (Wahba's problem, by singular values), held to its parent's rotation by ``hold``: what its
    points do not say, such as the twist of a bone with two points, it takes from there.

    Args:
        shares: (J, N) how much each point belongs to each joint.
        rest, points: (B, N, 3) metres.
        hold: square metres.
        firm: (J,) how many times as hard each joint is held; see find_firmness.
    """
    holds = [hold] * len(rig.parents) if firm is None else (hold * firm.square()).tolist()
    total = shares.sum(1)
    safe = total.clamp_min(1e-9)[:, None]
    mean_rest = torch.einsum("jn,bnk->bjk", shares, rest) / safe
    mean_points = torch.einsum("jn,bnk->bjk", shares, points) / safe
    moment = torch.einsum("jn,bni,bnk->bjik", shares, points, rest)
    moment -= total[:, None, None] * mean_points[..., :, None] * mean_rest[..., None, :]
    eye = torch.eye(3, device=rest.device).expand(len(rest), 3, 3)
    turned: list[torch.Tensor] = []
    pose = []
    for joint, parent in enumerate(rig.parents):
        above = turned[parent] if parent >= 0 else eye
        held = moment[:, joint] + (holds[joint] if parent >= 0 else 1e-9) * above
        turned.append(nearest_rotation(held))
        pose.append(above.transpose(-1, -2) @ turned[-1])
    return torch.stack(pose, 1)


def nearest_rotation(matrix: torch.Tensor) -> torch.Tensor:
    """Returns the rotations (..., 3, 3) nearest to matrices (..., 3, 3), without reflection."""
    u, _, vh = torch.linalg.svd(matrix.double())
    sign = torch.ones_like(matrix[..., 0], dtype=torch.float64)
    sign[..., 2] = torch.where(torch.linalg.det(u @ vh) < 0, -1.0, 1.0)
    return ((u * sign[..., None, :]) @ vh).to(matrix.dtype)


def turn_all(rig: Rig, pose: torch.Tensor) -> torch.Tensor:
    """Returns (B, J, 3, 3) rotations of the joints in the frame of the whole."""
    turned: list[torch.Tensor] = []
    for joint, parent in enumerate(rig.parents):
        mine = pose[:, joint]
        turned.append(turned[parent] @ mine if parent >= 0 else mine)
    return torch.stack(turned, 1)


class Fitter:
    """Fits one body model to aims.

    Args:
        body: with the vertices that aims name.  rig: measured from it.
        stiffness: how hard it holds to what is usual.
        usual: (1, J, 3, 3) rotations that it holds to, or None: those of the body at rest.
        firm: (J,) how many times as hard each joint is held to them, or None: all alike.
    """

    def __init__(
        self,
        body: BodyModel,
        rig: Rig,
        stiffness: Stiffness,
        usual: torch.Tensor | None = None,
        firm: torch.Tensor | None = None,
    ) -> None:
        self.body, self.rig, self.stiffness = body, rig, stiffness
        firm = torch.ones(len(rig.parents)) if firm is None else firm
        self._held = (stiffness.pose * firm[1:]).square()  # square metres a square radian
        self._usual = torch.eye(3) if usual is None else usual[:, 1:]

    @torch.no_grad()
    def refine(
        self, start: BodyParameters, aim: Aim, steps: int, free_shape: bool = False
    ) -> BodyParameters:
        """Returns parameters after so many steps, none of which made a body's cost larger.

        Args:
            start: B bodies.  free_shape: whether their shapes are fitted too.
        """
        found = start
        damping = torch.full((len(start.pose), 1), DAMPING, device=start.pose.device)
        cost, vertices, joints = self._measure(found, aim)
        for _ in range(steps):
            step = self._solve(found, aim, vertices, joints, damping, free_shape)
            tried = self._move(found, step)
            new, moved, moved_joints = self._measure(tried, aim)
            better = new < cost
            # A step that was refused is tried again, shorter.
            gain = torch.where(better, cost - new, cost)
            found = _choose(better, tried, found)
            cost = torch.where(better, new, cost)
            vertices = torch.where(better[:, None, None], moved, vertices)
            joints = torch.where(better[:, None, None], moved_joints, joints)
            damping = torch.where(better[:, None], damping / 5, damping * 10)
            damping = damping.clamp(1e-9, DAMPING_MAX)
            if not (gain > STILL * cost).any():
                break
        return found

    def _measure(
        self, found: BodyParameters, aim: Aim
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(B,) cost, (B, N, 3) the aim's vertices, (B, J, 3) joints of bodies."""
        vertices, joints = self.body(found.pose, found.translation, found.shape)
        vertices = vertices[:, aim.vertices]
        error = vertices - aim.points
        squared = error.square().sum(-1)
        if aim.normals is not None:
            across = (error * aim.normals).sum(-1).square()
            squared = aim.along**2 * squared + (1 - aim.along**2) * across
        cost = (squared * aim.weights).sum(1)
        if aim.joints is not None and aim.joint_points is not None:
            apart = joints[:, aim.joints] - aim.joint_points
            cost = cost + aim.joint_weight * apart.square().sum((1, 2))
        angles = (self._away(found.pose).square().sum(2) * self._held).sum(1)
        odd = (found.shape - self.body.shape_space.mean).square().sum(1)
        cost = cost + angles + self.stiffness.shape**2 * odd
        return cost, vertices, joints

    def _solve(
        self,
        found: BodyParameters,
        aim: Aim,
        vertices: torch.Tensor,
        joints: torch.Tensor,
        damping: torch.Tensor,
        free_shape: bool,
    ) -> torch.Tensor:
        """(B, P) the step: turns of the joints, a shift, and changes of the shape."""
        rows = self._jacobian(found, aim.vertices, vertices, joints, free_shape)
        error = vertices - aim.points
        if aim.normals is not None:
            rows = _stretch(rows, aim.normals, aim.along)
            error = _stretch(error[..., None], aim.normals, aim.along)[..., 0]
        scale = aim.weights.sqrt()[:, None]
        normal, right = _square(rows * scale[..., None], error * scale)
        if aim.joints is not None and aim.joint_points is not None:
            rows = self._joint_jacobian(found, aim.joints, joints, free_shape)
            apart = joints[:, aim.joints] - aim.joint_points
            more, more_right = _square(rows, apart)
            normal, right = normal + aim.joint_weight * more, right + aim.joint_weight * more_right
        self._hold(found, normal, right, free_shape)
        diagonal = normal.diagonal(dim1=1, dim2=2)
        diagonal += damping * diagonal + 1e-12
        return -torch.linalg.solve(normal, right[..., None])[..., 0]

    def _jacobian(
        self,
        found: BodyParameters,
        chosen: torch.Tensor,
        vertices: torch.Tensor,
        joints: torch.Tensor,
        free_shape: bool,
    ) -> torch.Tensor:
        """(B, N, 3, P) derivatives of vertices."""
        shares = self.rig.below[:, chosen]
        arms = (vertices[:, :, None] - joints[:, None]) * shares.T[..., None]
        return self._assemble(arms, found, chosen, None, free_shape)

    def _joint_jacobian(
        self, found: BodyParameters, chosen: torch.Tensor, joints: torch.Tensor, free_shape: bool
    ) -> torch.Tensor:
        """(B, K, 3, P) derivatives of joints."""
        above = self.rig.above[:, chosen].to(joints.device)
        arms = (joints[:, chosen][:, :, None] - joints[:, None]) * above.T[..., None]
        return self._assemble(arms, found, None, chosen, free_shape)

    def _assemble(
        self,
        arms: torch.Tensor,
        found: BodyParameters,
        vertices: torch.Tensor | None,
        joints: torch.Tensor | None,
        free_shape: bool,
    ) -> torch.Tensor:
        """(B, N, 3, P) of arms (B, N, J, 3) from the joints: w x arm, a shift, the shape's own."""
        x, y, z = arms.unbind(-1)
        zero = torch.zeros_like(x)
        turns = torch.stack(
            [
                torch.stack([zero, z, -y], -1),
                torch.stack([-z, zero, x], -1),
                torch.stack([y, -x, zero], -1),
            ],
            2,
        )
        eye = torch.eye(3, device=arms.device).expand(*arms.shape[:2], 3, 3)
        parts = [turns.flatten(-2), eye]
        if free_shape:
            parts.append(self._shape_jacobian(found, vertices, joints))
        return torch.cat(parts, -1)

    def _shape_jacobian(
        self, found: BodyParameters, vertices: torch.Tensor | None, joints: torch.Tensor | None
    ) -> torch.Tensor:
        """(B, N, 3, S) derivatives by the shape, by differences within its bounds."""
        count, bounds = found.shape.shape[1], self.body.shape_space
        step = torch.where(found.shape + SHAPE_STEP > bounds.high, -SHAPE_STEP, SHAPE_STEP)
        moved = found.shape[:, None] + torch.diag_embed(step)
        # All bodies as they are, and with each number changed, at once.
        shapes = torch.cat([found.shape[:, None], moved], 1).flatten(0, 1)
        repeat = 1 + count
        points, bones = self.body(
            found.pose.repeat_interleave(repeat, 0),
            found.translation.repeat_interleave(repeat, 0),
            shapes,
        )
        points = points[:, vertices] if joints is None else bones[:, joints]
        points = points.unflatten(0, (-1, repeat))
        change = (points[:, 1:] - points[:, :1]) / step[..., None, None]
        return change.permute(0, 2, 3, 1)

    def _hold(
        self, found: BodyParameters, normal: torch.Tensor, right: torch.Tensor, free_shape: bool
    ) -> None:
        """Add what holds to rest and to the average shape."""
        count = found.pose.shape[1]
        turned = turn_all(self.rig, found.pose)
        # A turn w in the frame of the whole changes the rotation vector by as much, in the
        # parent's axes.
        parents = torch.tensor(self.rig.parents[1:], device=normal.device)
        away = turned[:, parents] @ self._away(found.pose)[..., None]
        held = self._held[:, None]
        right[:, 3 : 3 * count] += (held * away[..., 0]).flatten(1)
        diagonal = normal.diagonal(dim1=1, dim2=2)
        diagonal[:, 3 : 3 * count] += held.expand(-1, 3).flatten()
        if free_shape:
            stiff = self.stiffness.shape**2
            right[:, 3 * count + 3 :] += stiff * (found.shape - self.body.shape_space.mean)
            diagonal[:, 3 * count + 3 :] += stiff

    def _away(self, pose: torch.Tensor) -> torch.Tensor:
        """(B, J - 1, 3) rotation vectors from the usual pose, in the parents' axes."""
        return matrix_to_axis_angle(pose[:, 1:] @ self._usual.transpose(-1, -2))

    def _move(self, found: BodyParameters, step: torch.Tensor) -> BodyParameters:
        count, space = found.pose.shape[1], self.body.shape_space
        turned = turn_all(self.rig, found.pose)
        turns = step[:, : 3 * count].unflatten(1, (count, 3))
        # A step of over a radian leaves where the Jacobian means anything.
        length = turns.norm(dim=-1, keepdim=True).clamp_min(1e-9)
        turns = turns * (length.clamp_max(1.0) / length)
        parents = torch.tensor(self.rig.parents[1:], device=step.device)
        local = (turned[:, parents].transpose(-1, -2) @ turns[:, 1:, :, None])[..., 0]
        turns = torch.cat([turns[:, :1], local], 1)
        pose = nearest_rotation(axis_angle_to_matrix(turns) @ found.pose)
        shape = found.shape
        if step.shape[1] > 3 * count + 3:
            shape = (shape + step[:, 3 * count + 3 :]).clamp(space.low, space.high)
        translation = found.translation + step[:, 3 * count : 3 * count + 3]
        return BodyParameters(found.body, pose, shape, translation)


def _stretch(rows: torch.Tensor, normals: torch.Tensor, along: float) -> torch.Tensor:
    """Rows (B, N, 3, P) with their part along the surface scaled by ``along``."""
    across = normals[..., None] * (normals[..., None] * rows).sum(2, keepdim=True)
    return along * rows + (1 - along) * across


def _square(rows: torch.Tensor, error: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, P, P) and (B, P): the normal equations of rows (B, N, 3, P) and errors (B, N, 3)."""
    flat = rows.flatten(1, 2)
    return flat.transpose(1, 2) @ flat, (flat.transpose(1, 2) @ error.flatten(1)[..., None])[..., 0]


def _choose(better: torch.Tensor, tried: BodyParameters, before: BodyParameters) -> BodyParameters:
    def pick(new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
        return torch.where(better.view(-1, *[1] * (new.ndim - 1)), new, old)

    return BodyParameters(
        before.body,
        pick(tried.pose, before.pose),
        pick(tried.shape, before.shape),
        pick(tried.translation, before.translation),
    )
