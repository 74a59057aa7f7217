"""What a recovered body is compared with: rotations, shape, joints, vertices, projected joints,
place.

Each is a mean over its own numbers for each crop, so that a weight means the same for bodies and
hands.
"""

import torch

TERMS = ("rotation", "shape", "joints", "vertices", "keypoints_2d", "translation")


def terms(body, found, target, K, size, place):
    """{term: (B,)} of found bodies.

    Args:
        body: data.bodies.models.BodyModel, coarse where that is enough.  found:
            finetune.model.Body.
        target: finetune.views.Target.  K: (B, 3, 3), size: of the images.  place: (B, 3) of the
            true root, see Body.
    Returns:
        rotation: squared Frobenius distance of rotation matrices, mean over joints.  shape: squared
            distance.
        joints, vertices: metres, L1, both moved to their own root.  keypoints_2d: L1 of keypoints
            over the image's side.
        translation: L1 of offset and log width.
    """
    vertices, joints = body(found.pose, found.root, found.shape)
    with torch.no_grad():
        true_vertices, true_joints = body(target.pose, target.root, target.shape)
    points, true_points = (
        body.keypoints(vertices, joints),
        body.keypoints(true_vertices, true_joints),
    )
    root, true_root = points[:, :1], true_points[:, :1]
    return {
        "rotation": (found.pose - target.pose).square().sum((2, 3)).mean(1),
        "shape": (found.shape - target.shape).square().mean(1),
        "joints": ((points - root) - (true_points - true_root)).abs().mean((1, 2)),
        "vertices": ((vertices - root) - (true_vertices - true_root)).abs().mean((1, 2)),
        "keypoints_2d": ((pixels(points, K) - pixels(true_points, K)) / size).abs().mean((1, 2)),
        "translation": (found.place - place).abs().mean(1),
    }


def pixels(points, K):
    """(B, N, 2) of points (B, N, 3) in the camera's frame; those behind it are held at 0.1 m before
    it."""
    depth = points[..., 2:].clamp_min(0.1)
    return (torch.cat([points[..., :2] / depth, torch.ones_like(depth)], -1) @ K.transpose(1, 2))[
        ..., :2
    ]
