"""Joint angles of a body as biomechanics counts them, by the names of OpenSim's models.

Segments have axes as the ISB recommends (Wu et al., J. Biomech. 2002 and 2005): x forward, y up
along the segment towards the body's middle, z to the right. A segment's axes are placed on the body
at rest: y through the joints' centres, z as near to the right as that allows (the foot: level, as
it stands; pelvis and torso: upright). Angles are those of the child's axes in the parent's, about
z, then x, then y, as in the models gait2392 and Rajagopal2016 (Rajagopal et al., TBME 2016), whose
names and signs these are: flexion, adduction and internal rotation are positive on both sides, and
so are dorsiflexion, extension of the back, its bending and turning to the right and left. The knee
is Rajagopal's, flexion positive; gait2392 has the other sign.

What the joints of a body model cannot tell is left out: the subtalar joint and the toes, the turn
of the forearm, and the wrist.
"""

from dataclasses import dataclass

import numpy as np
import torch

from data.bodies.base import BodyModel
from engine.errors import UserError
from finetune.animation.rig import Rig, make_motion, make_rig
from finetune.animation.track import Track
from finetune.animation.turning import to_zxy_angles, unwrap_rows

# Columns x, y, z of a segment's axes on a body that stands upright (its left is x, it faces z).
STANDING = np.array([[0.0, 0.0, -1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
SIDES = {"left": ("l", -1.0), "right": ("r", 1.0)}


@dataclass(frozen=True)
class Segment:
    """A stiff part of the body.

    Attributes:
        joint: whose turn from rest is the segment's.
        axes: (3, 3) columns x, y, z at rest, upright.
    """

    joint: int
    axes: np.ndarray


def measure_angles(track: Track) -> dict[str, np.ndarray]:
    """Return {coordinate: (T,)} radians, and metres of pelvis_tx, pelvis_ty and pelvis_tz.

    The ground is the world of finetune.animation.rig: x to the camera's right, y up, z towards it.
    Angles do not jump by whole turns within a track.

    Raises:
        UserError: it is no body, or its model lacks a joint that is wanted.
    """
    if track.kind != "body":
        raise UserError(f"track {track.name}: joint angles are of bodies, this is a {track.kind}")
    rig, motion = make_rig(track), make_motion(track)
    segments = place_segments(track.body, rig)
    turned = motion.find_world_turns(rig.parents)
    axes = {name: turned[:, one.joint] @ one.axes for name, one in segments.items()}
    out = _name_three(axes["pelvis"], ("pelvis_tilt", "pelvis_list", "pelvis_rotation"), 1.0)
    for axis, name in enumerate(("pelvis_tx", "pelvis_ty", "pelvis_tz")):
        out[name] = motion.places[:, axis]
    torso = _relate(axes["pelvis"], axes["torso"])
    names = ("lumbar_extension", "lumbar_bending", "lumbar_rotation")
    legs, arms = {}, {}
    for side, (letter, sign) in SIDES.items():
        thigh, shank, foot = (axes[f"{side}_{part}"] for part in ("thigh", "shank", "foot"))
        hip = [f"hip_{part}_{letter}" for part in ("flexion", "adduction", "rotation")]
        legs |= _name_three(_relate(axes["pelvis"], thigh), hip, sign)
        legs[f"knee_angle_{letter}"] = -_first_angle(_relate(thigh, shank))
        legs[f"ankle_angle_{letter}"] = _first_angle(_relate(shank, foot))
        upper, lower = axes[f"{side}_upper_arm"], axes[f"{side}_lower_arm"]
        arm = [f"arm_{part}_{letter}" for part in ("flex", "add", "rot")]
        arms |= _name_three(_relate(axes["torso"], upper), arm, sign)
        # A hinge whose axis the rest pose does not show: the angle between the two bones.
        cosine = (upper[..., 1] * lower[..., 1]).sum(-1)
        arms[f"elbow_flex_{letter}"] = np.arccos(np.clip(cosine, -1, 1))
    return out | legs | _name_three(torso, names, 1.0) | arms


def _relate(parent: np.ndarray, child: np.ndarray) -> np.ndarray:
    """(T, 3, 3) the child's axes in the parent's."""
    return parent.swapaxes(-1, -2) @ child


def _name_three(turns: np.ndarray, names: tuple[str, ...] | list[str], sign: float) -> dict:
    """The angles about z, x and y; the last two are mirrored on the left side."""
    angles = unwrap_rows(to_zxy_angles(turns))
    return {name: angles[:, n] * (sign if n else 1.0) for n, name in enumerate(names)}


def _first_angle(turns: np.ndarray) -> np.ndarray:
    return unwrap_rows(to_zxy_angles(turns)[..., 0])


def place_segments(body: BodyModel, rig: Rig) -> dict[str, Segment]:
    """Return the segments of a body by name, placed on it at rest.

    Raises:
        UserError: the body model lacks a joint.
    """
    at = find_joints(body)
    joints, parents = rig.joints, rig.parents
    # The spine ends where the collars hang on it.
    torso = parents[at["left_collar"]] if "left_collar" in at else at["chest"]
    out = {"pelvis": Segment(0, STANDING), "torso": Segment(torso, STANDING)}
    limbs = {
        "thigh": ("hip", "knee"),
        "shank": ("knee", "ankle"),
        "upper_arm": ("shoulder", "elbow"),
        "lower_arm": ("elbow", "wrist"),
    }
    for side in SIDES:
        for name, ends in limbs.items():
            first, last = (at[f"{side}_{end}"] for end in ends)
            # What is just above the far joint turns with the whole bone: some models twist it.
            axes = align_axes(joints[first] - joints[last])
            out[f"{side}_{name}"] = Segment(parents[last], axes)
        out[f"{side}_foot"] = Segment(at[f"{side}_ankle"], STANDING)
    return out


def align_axes(up: np.ndarray) -> np.ndarray:
    """Return (3, 3) columns x, y, z, y along ``up``: upright axes turned the short way."""
    y = up / np.linalg.norm(up)
    axis = np.cross(STANDING[:, 1], y)
    cosine = float(STANDING[:, 1] @ y)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    turn = np.eye(3) + cross + cross @ cross / (1 + cosine)
    return turn @ STANDING


@torch.no_grad()
def find_joints(body: BodyModel) -> dict[str, int]:
    """Return {keypoint: the joint that it is, or the nearest one}, at rest.

    Raises:
        UserError: the body model lacks a keypoint that angles need.
    """
    shape = torch.full((1, len(body.shape_space.names)), body.shape_space.mean)
    vertices, joints = body.read_rest(shape.to(body.vertex_ids.device))
    keypoints = body.keypoints(vertices, joints)[0]
    nearest = torch.cdist(keypoints, joints[0]).argmin(1).tolist()
    out = dict(zip(body.keypoint_names, nearest, strict=True))
    names = [f"{side}_{part}" for side in SIDES for part in ("hip", "knee", "ankle")]
    names += [f"{side}_{part}" for side in SIDES for part in ("shoulder", "elbow", "wrist")]
    for name in [*names, "chest"]:
        if name not in out:
            raise UserError(f"body={body.name} has no {name}, which joint angles need")
    return out
