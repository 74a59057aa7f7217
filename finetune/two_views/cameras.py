"""How the cameras of two images of one person stand to each other, as the network is told.

Relative to the rays through the images' middles, as answers are (finetune/crop_camera.py): what is
told does not depend on where in its camera's image the person was.
"""

from dataclasses import dataclass

import torch

from data.cropping.geometry import Size
from finetune.crop_camera import find_ray_rotation

NUMBERS = 10  # of ``describe_pose``
NEAREST_M = 1e-3


@dataclass(eq=False)
class CameraPose:
    """Where points of the second camera's frame are in the first's, for B pairs.

    x_first = rotation @ x_second + translation.

    Attributes:
        rotation: (B, 3, 3).
        translation: (B, 3) metres, where the second camera is.
        known: (B,) bool, false where nobody knows: its numbers then mean nothing.
    """

    rotation: torch.Tensor
    translation: torch.Tensor
    known: torch.Tensor

    def invert(self) -> "CameraPose":
        """Return the first camera as the second has it."""
        back = self.rotation.transpose(1, 2)
        # No matrix product: under autocast it would be one of bf16.
        return CameraPose(back, -(back * self.translation[:, None]).sum(-1), self.known)

    def keep(self, kept: torch.Tensor) -> "CameraPose":
        """Return it with the pairs that are not ``kept`` (B,) unknown."""
        return CameraPose(self.rotation, self.translation, self.known & kept)


def relate_cameras(first: torch.Tensor, second: torch.Tensor) -> CameraPose:
    """Return the CameraPose of two cameras, world to camera (B, 3, 4) each."""
    rotation = first[:, :, :3] @ second[:, :, :3].transpose(1, 2)
    translation = first[:, :, 3] - (rotation @ second[:, :, 3:])[..., 0]
    known = torch.ones(len(first), dtype=torch.bool, device=first.device)
    return CameraPose(rotation, translation, known)


def unknown_cameras(count: int, device: torch.device) -> CameraPose:
    """Return the CameraPose of ``count`` pairs of which nothing is known."""
    rotation = torch.eye(3, device=device).expand(count, 3, 3)
    known = torch.zeros(count, dtype=torch.bool, device=device)
    return CameraPose(rotation, torch.zeros(count, 3, device=device), known)


def describe_pose(
    pose: CameraPose, K: torch.Tensor, second_K: torch.Tensor, size: Size
) -> torch.Tensor:
    """(B, NUMBERS) what the network is told, about the rays through the images' middles.

    The rotation's first two columns, the direction to the second camera and the log of its
    distance in metres.

    Args:
        K, second_K: (B, 3, 3) intrinsics of images of ``size`` px.
    """
    ray = find_ray_rotation(K, size).transpose(1, 2)
    rotation = ray @ pose.rotation @ find_ray_rotation(second_K, size)
    translation = (ray @ pose.translation[..., None])[..., 0]
    distance = translation.norm(dim=-1, keepdim=True).clamp_min(NEAREST_M)
    six = rotation[:, :, :2].transpose(1, 2).flatten(1)
    return torch.cat([six, translation / distance, distance.log()], 1)
