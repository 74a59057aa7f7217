"""Parts of a body, as maps show them: the head, the torso, and three of each limb."""

import torch

from data.bodies.base import BodyModel

SAME_M = 0.01  # a joint that near to a keypoint is the keypoint's own
# Parts of bodies, by the keypoint at whose joint they begin; of hands each joint begins a part.
BODY_PARTS = {
    "torso": ("pelvis", "spine", "chest", "left_collar", "right_collar"),
    "head": ("neck", "head"),
    "left_upper_arm": ("left_shoulder",),
    "right_upper_arm": ("right_shoulder",),
    "left_lower_arm": ("left_elbow",),
    "right_lower_arm": ("right_elbow",),
    "left_hand": ("left_wrist",),
    "right_hand": ("right_wrist",),
    "left_upper_leg": ("left_hip",),
    "right_upper_leg": ("right_hip",),
    "left_lower_leg": ("left_knee",),
    "right_lower_leg": ("right_knee",),
    "left_foot": ("left_ankle", "left_toes"),
    "right_foot": ("right_ankle", "right_toes"),
}
PARTS = tuple(BODY_PARTS)
PART_OF = {name: part for part, names in BODY_PARTS.items() for name in names}


def pose_at_rest(body: BodyModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns vertices (V, 3) and joints (J, 3) of the mean shape at rest, metres."""
    device = body.vertex_ids.device
    pose = torch.zeros(1, len(body.joint_names), 3, device=device)
    shape = torch.full((1, len(body.shape_space.names)), body.shape_space.mean, device=device)
    vertices, joints = body(pose, torch.zeros(1, 3, device=device), shape)
    return vertices[0], joints[0]


def name_parts(body: BodyModel) -> tuple[torch.Tensor, tuple[str, ...]]:
    """Returns ((J,) int64 part of each joint, names of the parts).

    A joint belongs to the nearest of its ancestors, itself included, that is a keypoint.
    """
    rest, joints = pose_at_rest(body)
    keypoints = body.keypoints(rest[None], joints[None])[0]
    apart = torch.cdist(keypoints, joints).cpu()
    found: dict[int, str] = {}
    for name, distances in zip(body.keypoint_names, apart, strict=True):
        joint = int(distances.argmin())
        if distances[joint] < SAME_M:
            part = PART_OF.get(name, name) if body.kind == "body" else name
            found.setdefault(joint, "palm" if part == "wrist" else part)
    found.setdefault(0, next(iter(found.values())))
    of_joint = []
    for joint, parent in enumerate(body.parents):
        of_joint.append(found[joint] if joint in found else of_joint[parent])
    names = tuple(dict.fromkeys(of_joint))
    return torch.tensor([names.index(part) for part in of_joint]), names
