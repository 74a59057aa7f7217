"""The mean pose, shape and place of the people that a run learns from: what its answers start
from."""

import torch

from data.loading.crops import FLIP, TAGS
from engine.geometry import axis_angle_to_matrix
from finetune.model import place_of, ray_rotation
from finetune.views import View, mirrored_camera


def means(labels, targets, size):
    """(mean_pose (J, 3, 3), mean_shape (S,), mean_place (3,)) of labelled crops; see
    finetune.model.Recovery.

    Rotations are averaged as matrices and made orthonormal (the chordal mean; Hartley et al., IJCV
    2013).

    Args:
        labels: {name: tensor} of data.loading.crops.layout, whole crops.  targets:
            finetune.views.Targets.
        size: side of the network's images; crops are scaled to it.
    """
    labels = {**labels, "pose": axis_angle_to_matrix(labels["pose"])}
    seen = plain_view(labels, size)
    target = targets(labels, seen)
    local = target.pose.clone()
    local[:, 0] = ray_rotation(seen.K, size).transpose(1, 2) @ target.pose[:, 0]
    u, _, vh = torch.linalg.svd(local.double().mean(0))
    sign = torch.ones(len(u), 3, dtype=torch.float64, device=u.device)
    sign[:, 2] = torch.linalg.det(u @ vh)
    pose = (u * sign[:, None]) @ vh
    return pose.float(), target.shape.mean(0), place_of(target.root, seen.K, size).mean(0)


def plain_view(labels, size):
    """The View of whole crops, without images: scaled to ``size``, left hands mirrored."""
    sizes = labels["tags"][:, TAGS.index("size")].float()
    K = labels["K"].clone()
    K[:, :2] *= (size / sizes)[:, None, None]
    flip = labels["numbers"][:, FLIP] > 0.5
    turn = torch.eye(3, device=K.device).expand(len(K), 3, 3)
    return View(None, mirrored_camera(K, flip, size), turn, flip)
