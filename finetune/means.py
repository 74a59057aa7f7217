"""The mean pose, shape and translation of the people that a run learns from.

What its answers start from.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from data.bodies.base import BodyParameters, ShapeSpace
from data.cropping.batch import mirror_cameras
from data.cropping.geometry import Size, find_longer, find_sides
from data.loading.crops import FLIP, TAGS
from engine.geometry import axis_angle_to_matrix, rotation_6d_to_matrix
from finetune.crop_camera import find_ray_rotation, to_image_translation, to_translation
from finetune.views import Targets, View


@dataclass(eq=False)
class Means:
    """A mean body.

    Attributes:
        pose: (J, 3, 3); joint 0's rotation is about the ray through the image's middle.
        shape: (S,).
        translation: (3,), an image translation (finetune/crop_camera.py).
    """

    pose: torch.Tensor
    shape: torch.Tensor
    translation: torch.Tensor


def compute_means(labels: Mapping[str, torch.Tensor], targets: Targets, size: Size) -> Means:
    """Returns the Means of labelled crops.

    Rotations are averaged as matrices and made orthonormal (the chordal mean; Hartley et al., IJCV
    2013).

    Args:
        labels: {name: tensor} of data.loading.crops.layout, whole crops.
        targets: of the run's body model.
        size: of the network's images; crops are scaled to it, to the longer side of rectangles.
    """
    labels = {**labels, "pose": axis_angle_to_matrix(labels["pose"])}
    seen = plain_view(labels, size)
    target = targets(labels, seen)
    local = target.pose.clone()
    local[:, 0] = find_ray_rotation(seen.K, size).transpose(1, 2) @ target.pose[:, 0]
    translation = to_image_translation(target.translation, seen.K, size).mean(0)
    return Means(average_rotations(local), target.shape.mean(0), translation)


def average_rotations(rotations: torch.Tensor) -> torch.Tensor:
    """Returns the (J, 3, 3) chordal mean of rotations (B, J, 3, 3)."""
    u, _, vh = torch.linalg.svd(rotations.double().mean(0))
    sign = torch.ones(len(u), 3, dtype=torch.float64, device=u.device)
    sign[:, 2] = torch.linalg.det(u @ vh)
    return ((u * sign[:, None]) @ vh).float()


def plain_view(labels: Mapping[str, torch.Tensor], size: Size) -> View:
    """Returns the View of whole crops, without images: scaled to ``size``, left hands mirrored."""
    sizes = labels["tags"][:, TAGS.index("size")].float()
    K = labels["K"].clone()
    (rows, columns), longer = find_sides(size), find_longer(size)
    K[:, :2] *= (longer / sizes)[:, None, None]
    if rows != columns:  # the middle of the square
        K[:, 0, 2] -= (longer - columns) / 2
        K[:, 1, 2] -= (longer - rows) / 2
    flip = labels["numbers"][:, FLIP] > 0.5
    rotation = torch.eye(3, device=K.device).expand(len(K), 3, 3)
    return View(None, mirror_cameras(K, flip, size), rotation, flip)


@dataclass(eq=False)
class Offsets:
    """What a network adds to the means.

    Attributes:
        pose: (B, J * 6) to the first two columns of each rotation.
        shape: (B, S) to the shape's free numbers (data.bodies.base.ShapeSpace).
        translation: (B, 3) to the image translation.
    """

    pose: torch.Tensor
    shape: torch.Tensor
    translation: torch.Tensor

    def detach(self) -> "Offsets":
        """Returns the same numbers without a gradient."""
        return Offsets(self.pose.detach(), self.shape.detach(), self.translation.detach())

    def add(self, other: "Offsets") -> "Offsets":
        """Returns the sum of both."""
        return Offsets(
            self.pose + other.pose,
            self.shape + other.shape,
            self.translation + other.translation,
        )


def flatten_columns(pose: torch.Tensor) -> torch.Tensor:
    """Returns (..., 6) the first two columns of rotations (..., 3, 3), one after the other."""
    return pose[..., :2].transpose(-1, -2).flatten(-2)


def add_offsets(
    means: Means, offsets: Offsets, K: torch.Tensor, size: Size, space: ShapeSpace, body: str
) -> BodyParameters:
    """Returns the bodies that offsets from the means stand for, in the camera's frame.

    Args:
        K: (B, 3, 3) intrinsics of images of ``size`` px.
        space: of the body model's shape.
        body: the body model's name.
    """
    mean_six = flatten_columns(means.pose)
    six = mean_six + offsets.pose.unflatten(-1, (len(means.pose), 6))
    rotation = rotation_6d_to_matrix(six)
    root = find_ray_rotation(K, size) @ rotation[:, 0]
    return BodyParameters(
        body,
        torch.cat([root[:, None], rotation[:, 1:]], 1),
        space.to_parameters(space.to_free(means.shape) + offsets.shape),
        to_translation(means.translation + offsets.translation, K, size),
    )


def place_means(
    means: Means, K: torch.Tensor, size: Size, space: ShapeSpace, body: str
) -> BodyParameters:
    """Return the mean body before each camera (B, 3, 3).

    The answer of a network that knows nothing; see add_offsets.
    """
    count = len(K)
    nothing = Offsets(
        means.pose.new_zeros(count, 6 * len(means.pose)),
        means.shape.new_zeros(count, len(means.shape)),
        means.translation.new_zeros(count, 3),
    )
    return add_offsets(means, nothing, K, size, space, body)
