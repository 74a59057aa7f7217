"""A body model as what other programs know: a mesh at rest, a skeleton, and how it turns.

Every file of animation holds the same: joints at rest without rotations of their own, each vertex's
shares in them, and for each frame the rotation of each joint against its parent. A body at rest
stands upright here (y up, it faces z, its left is x), whatever the axes of its model; the world is
the camera's, turned so that y is up: x right, y up, z towards the viewer, metres.
"""

from dataclasses import dataclass

import numpy as np
import torch

from data.bodies.base import BodyModel, mirrored_rotation
from finetune.animation.track import CHUNK, Track

# From the camera's frame (y down, z forward) to y up: a rotation by 180 degrees about x.
TO_WORLD = np.diag([1.0, -1.0, -1.0])


@dataclass(eq=False)
class Rig:
    """A skinned mesh at rest, upright, metres.

    Attributes:
        joint_names: of the J joints.  parents: -1 for joint 0.
        vertices: (V, 3) and joints: (J, 3) float64, joint 0 at the origin.
        weights: (V, J) float64 share of each joint in each vertex, summing to 1.
        faces: (F, 3) int32, outward by the right-hand rule.
    """

    joint_names: list[str]
    parents: list[int]
    vertices: np.ndarray
    joints: np.ndarray
    weights: np.ndarray
    faces: np.ndarray

    @property
    def offsets(self) -> np.ndarray:
        """(J, 3) of each joint from its parent at rest; of joint 0 the origin."""
        out = self.joints.copy()
        out[1:] -= self.joints[self.parents[1:]]
        return out

    def list_influences(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (V, n) int64 joints of each vertex and (V, n) shares, the largest first.

        n is the most joints that a vertex hangs on; a vertex of fewer has joint 0 with a share of
        0 for the others.
        """
        count = int((self.weights > 0).sum(1).max())
        order = np.argsort(-self.weights, axis=1, kind="stable")[:, :count]
        shares = np.take_along_axis(self.weights, order, 1)
        return np.where(shares > 0, order, 0), shares


@dataclass(eq=False)
class Motion:
    """How a Rig moves: T frames.

    Attributes:
        turns: (T, J, 3, 3) rotation of each joint against its parent; of joint 0 in the world.
        places: (T, 3) metres, joint 0 in the world.
    """

    turns: np.ndarray
    places: np.ndarray

    def find_world_turns(self, parents: list[int]) -> np.ndarray:
        """Return (T, J, 3, 3) the joints' rotations in the world."""
        out = [self.turns[:, 0]]
        for joint, parent in enumerate(parents[1:], 1):
            out.append(out[parent] @ self.turns[:, joint])
        return np.stack(out, 1)


@torch.no_grad()
def make_rig(track: Track) -> Rig:
    """Return the Rig of a track's person, of their own shape.

    Raises:
        UserError: the body model is no skinned mesh.
    """
    body = track.body
    device = body.vertex_ids.device
    shape = torch.from_numpy(track.shape).float().to(device)[None]
    vertices, joints = body.read_rest(shape)
    stand = find_upright(body, shape)
    flip = np.array([-1.0, 1.0, 1.0]) if track.is_left_hand else np.ones(3)
    points = [one[0].double().cpu().numpy() * flip for one in (vertices, joints)]
    weights = body.read_skin().double().cpu().numpy()
    return Rig(
        joint_names=_name_joints(track),
        parents=list(body.parents),
        vertices=points[0] @ stand.T,
        joints=points[1] @ stand.T,
        weights=weights / weights.sum(1, keepdims=True),
        faces=track.faces,
    )


def _name_joints(track: Track) -> list[str]:
    """The joints' names; a left hand's are those of its mirror image, with the side changed."""
    names = list(track.body.joint_names)
    if track.is_left_hand:
        names = [f"{name[:-2]}.L" if name.endswith(".R") else name for name in names]
    return names


@torch.no_grad()
def make_motion(track: Track) -> Motion:
    """Return how the Rig of a track's person moves, a row a frame of the track."""
    body = track.body
    device = body.vertex_ids.device
    shape = torch.from_numpy(track.shape).float().to(device)[None]
    stand = find_upright(body, shape)
    world = []
    for first in range(0, len(track), CHUNK):
        pose = torch.from_numpy(track.pose[first : first + CHUNK]).float().to(device)
        turned = body.turn_joints(mirrored_rotation(pose) if track.is_left_hand else pose, shape)
        turned = mirrored_rotation(turned) if track.is_left_hand else turned
        world.append(turned.double().cpu().numpy())
    turned = TO_WORLD @ np.concatenate(world) @ stand.T
    turns = turned.copy()
    parents = list(body.parents)
    turns[:, 1:] = turned[:, parents[1:]].swapaxes(-1, -2) @ turned[:, 1:]
    return Motion(turns, track.translation.astype(np.float64) @ TO_WORLD.T)


@torch.no_grad()
def find_upright(body: BodyModel, shape: torch.Tensor) -> np.ndarray:
    """Return the (3, 3) rotation that makes a body at rest stand with y up, facing z.

    It is told by where head, ankles and hips are, to the nearest axis; of a hand that of the body
    that it is a part of, or none.

    Args:
        shape: (1, S) of this body model, for its size alone.
    """
    whole = body.whole
    if whole.kind != "body":
        return np.eye(3)
    if whole is not body:
        shape = shape.new_full((1, len(whole.shape_space.names)), whole.shape_space.mean)
    vertices, joints = whole.read_rest(shape)
    points = whole.keypoints(vertices, joints)[0].double().cpu().numpy()
    at = dict(zip(whole.keypoint_names, points, strict=True))
    up = _nearest_axis(at["neck"] - (at["left_ankle"] + at["right_ankle"]) / 2)
    left = _nearest_axis(at["left_hip"] - at["right_hip"])
    return np.stack([left, up, np.cross(left, up)])


def _nearest_axis(direction: np.ndarray) -> np.ndarray:
    """The axis, with its sign, that a direction lies closest to."""
    axis = int(np.abs(direction).argmax())
    out = np.zeros(3)
    out[axis] = np.sign(direction[axis])
    return out


def skin(rig: Rig, motion: Motion, row: int) -> np.ndarray:
    """Return (V, 3) float64 vertices of a frame in the world by linear blend skinning.

    Of models with correctives of the pose (SMPL's family) it lacks these, as every file of
    animation does.
    """
    turned = Motion(motion.turns[row : row + 1], motion.places[row : row + 1])
    world = turned.find_world_turns(rig.parents)[0]
    places = [motion.places[row]]
    for joint, parent in enumerate(rig.parents[1:], 1):
        places.append(places[parent] + world[parent] @ rig.offsets[joint])
    shifts = np.stack(places) - np.einsum("jrc,jc->jr", world, rig.joints)
    blended = np.einsum("vj,jrc->vrc", rig.weights, world)
    return np.einsum("vrc,vc->vr", blended, rig.vertices) + rig.weights @ shifts
