"""What a body model's joints move, measured from the model itself.

Rotating one joint by a small angle and looking at what moves gives the skinning weights of any
body model behind data.bodies.base.BodyModel, whatever its files call them.
"""

from dataclasses import dataclass

import torch

from data.bodies.base import BodyModel
from data.bodies.sampling import spread_points

STEP_RAD = 0.02
BATCH = 5  # joints at once
LEAST_ARM_M = 1e-4  # what lies nearer to a joint tells nothing of its rotation


@dataclass(eq=False)
class Rig:
    """Which share of each vertex's motion is due to which joint.

    Attributes:
        below: (J, V) share that moves with a joint or with any joint below it, 0 to 1.
        own: (J, V) share that moves with the joint alone: its skinning weight.
        above: (J, J) bool, [a, j]: whether joint a is j or an ancestor of it.
        parents: of the J joints, -1 for joint 0.
    """

    below: torch.Tensor
    own: torch.Tensor
    above: torch.Tensor
    parents: list[int]

    @property
    def rotated(self) -> torch.Tensor:
        """(J,) bool, whether a joint's rotation moves any vertex."""
        return self.below.amax(1) > 0.01


@torch.no_grad()
def measure_rig(body: BodyModel) -> Rig:
    """Returns the Rig of a body model in its average shape.

    A vertex at offset r from joint j moves by w (e x r) per radian about an axis e, where w is the
    share of its weights that hang below j (linear blend skinning); the three axes together give w
    by least squares. Offsets that depend on the pose (SMPL's) add a little noise.
    """
    count = len(body.joint_names)
    device = body.vertex_ids.device
    shape = torch.full((1, len(body.shape_space.names)), body.shape_space.mean, device=device)
    still = torch.zeros(1, count, 3, device=device)
    origin = torch.zeros(1, 3, device=device)
    vertices, joints = body(still, origin, shape)
    below = torch.zeros(count, vertices.shape[1], device=device)
    for first in range(0, count, BATCH):
        some = list(range(first, min(first + BATCH, count)))
        pose = still.repeat(3 * len(some), 1, 1)
        for row, joint in enumerate(some):
            pose[3 * row : 3 * row + 3, joint] = STEP_RAD * torch.eye(3, device=device)
        moved, _ = body(pose, origin.expand(len(pose), 3), shape)
        moved = ((moved - vertices) / STEP_RAD).unflatten(0, (len(some), 3))
        for row, joint in enumerate(some):
            below[joint] = _share(moved[row], vertices[0] - joints[0, joint])
    own = below.clone()
    for joint, parent in enumerate(body.parents):
        if parent >= 0:
            own[parent] -= below[joint]
    return Rig(below, own.clamp(0, 1), list_above(body.parents), list(body.parents))


def _share(moved: torch.Tensor, arm: torch.Tensor) -> torch.Tensor:
    """(V,) shares of motions (3, V, 3) about the three axes, of what is at arms (V, 3)."""
    about_x, about_y, about_z = moved.unbind(0)
    x, y, z = arm.unbind(-1)
    along = x * (about_y[:, 2].neg() + about_z[:, 1])
    along += y * (about_x[:, 2] - about_z[:, 0])
    along += z * (about_y[:, 0] - about_x[:, 1])
    return (along / (2 * (x * x + y * y + z * z)).clamp_min(LEAST_ARM_M**2)).clamp(0, 1)


def list_above(parents: list[int]) -> torch.Tensor:
    """Returns (J, J) bool, [a, j]: whether joint a is j or an ancestor of it."""
    above = torch.eye(len(parents), dtype=torch.bool)
    for joint, parent in enumerate(parents):
        if parent >= 0:
            above[:, joint] |= above[:, parent]
    return above


def choose_vertices(rig: Rig, points: torch.Tensor, count: int) -> torch.Tensor:
    """Returns sorted vertices, at least ``count`` if there are as many, spread over all joints.

    Each joint gives as many of those that are mostly its own, far apart: so a finger weighs as much
    as a thigh, whose surface is twenty times as large.

    Args:
        points: (V, 3) metres, of the body at rest.
    """
    owner = rig.own.argmax(0)
    each = -(-count // len(rig.parents))
    chosen = []
    for joint in range(len(rig.parents)):
        mine = torch.where(owner == joint)[0]
        if len(mine):
            chosen.append(mine[spread_points(points[mine], each)])
    return torch.cat(chosen).unique()


FIRM_END, FIRM_BETWEEN = 100.0, {"body": 10.0, "hand": 1.0}


def find_firmness(source: BodyModel, target: BodyModel, named: list[int], rig: Rig) -> torch.Tensor:
    """Returns (J,) how many times as hard as others each of the target's joints is held to rest.

    Where the target has more joints than the source, points do not tell the rotations of all: SMPL
    moves no finger, and a limb of anny has several bones that can twist against each other. Joints
    beyond the last one that both name stay at rest, those between two of them nearly so.

    Args:
        named: the target's joints that the source has too.
    """
    firm = torch.ones(len(rig.parents))
    if len(target.joint_names) <= len(source.joint_names):
        return firm
    for joint in range(1, len(firm)):
        if joint not in named:
            is_end = not bool(rig.above[joint, named].any())
            firm[joint] = FIRM_END if is_end else FIRM_BETWEEN[target.kind]
    return firm
