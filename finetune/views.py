"""What the network sees of a crop and where its camera then is: the device half of augmentation.

An image that is cut, scaled and turned is the image of another camera: same place, other
intrinsics, turned about its optical axis. So labels follow exactly, whatever the crop. A mirrored
image is that of a mirrored person.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from data.bodies.base import BodyModel, BodyParameters
from data.loading.augment import crop, jitter, normalise
from data.loading.crops import CENTRE_X, FLIP, SIDE, TURN


@dataclass
class View:
    """B images for the network and their cameras.

    Attributes:
        images: (B, 3, S, S) normalised, or None where the camera alone is wanted.  K: (B, 3, 3) intrinsics in their pixels.
        turn: (B, 3, 3) rotation from the crop's camera to the image's.  flip: (B,) bool, mirrored
            after that.
    """

    images: torch.Tensor | None
    K: torch.Tensor
    turn: torch.Tensor
    flip: torch.Tensor


def view(batch: Mapping[str, torch.Tensor], size: int) -> View:
    """Returns the View of a batch of data.loading.crops arrays as tensors; ``size``: side S in pixels."""
    numbers = batch["numbers"]
    boxes, angle, flip = numbers[:, CENTRE_X : SIDE + 1], numbers[:, TURN], numbers[:, FLIP] > 0.5
    images = crop(batch["pixels"].permute(0, 3, 1, 2).float().div_(255), boxes, size, angle)
    images = normalise(jitter(images, numbers[:, FLIP + 1 :]))
    images = torch.where(flip[:, None, None, None], images.flip(-1), images)
    K, turn = turned_camera(batch["K"], boxes, angle, size)
    return View(images, mirrored_camera(K, flip, size), turn, flip)


def turned_camera(
    K: torch.Tensor, boxes: torch.Tensor, angle: torch.Tensor, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns intrinsics and rotation of the camera that takes a rotated crop.

    A pixel u of the source shows at s Rot(-angle) (u - c) + S/2, with s = S / side. Its 2 x 2 part
    times K's is split by an RQ decomposition into new intrinsics (upper triangular) and a rotation
    about the optical axis.

    Args:
        K: (B, 3, 3).  boxes: (B, 3) centre x, y and side in source pixels.  angle: (B,) radians.
            size: S.
    Returns:
        (B, 3, 3) intrinsics in the crop's pixels, (B, 3, 3) rotation from the source's camera.
    """
    scale = size / boxes[:, 2]
    cos, sin = angle.cos() * scale, angle.sin() * scale
    part = torch.stack([torch.stack([cos, sin], -1), torch.stack([-sin, cos], -1)], 1)
    m = part @ K[:, :2, :2]
    length = m[:, 1].norm(dim=-1)
    s, c = m[:, 1, 0] / length, m[:, 1, 1] / length
    zero, one = torch.zeros_like(s), torch.ones_like(s)
    turn = torch.stack(
        [
            torch.stack([c, -s, zero], -1),
            torch.stack([s, c, zero], -1),
            torch.stack([zero, zero, one], -1),
        ],
        1,
    )
    out = torch.eye(3, device=K.device).repeat(len(K), 1, 1)
    out[:, 0, :2] = (m[:, :1] @ turn[:, :2, :2].transpose(1, 2))[:, 0]
    # And 0 before it, exactly: whoever draws with these intrinsics asks for that.
    out[:, 1, 1] = length
    out[:, :2, 2] = (part @ (K[:, :2, 2] - boxes[:, :2])[..., None])[..., 0] + size / 2
    return out, turn


def mirrored_camera(K: torch.Tensor, flip: torch.Tensor, size: int) -> torch.Tensor:
    """Returns the intrinsics of images of ``size`` px of which those in ``flip`` (B,) are mirrored left to
    right."""
    other = K.clone()
    other[:, 0, 1] = -K[:, 0, 1]
    other[:, 0, 2] = size - K[:, 0, 2]
    return torch.where(flip[:, None, None], other, K)


class Targets:
    """Turns labels into what is to be recovered: a body model's parameters in the images' cameras.

    Args:
        body: the run's body model, coarse or full.
    """

    def __init__(self, body: BodyModel) -> None:
        # In a list, so that a module which holds this does not take the mesh for its own part.
        self._body = [body]

    def __call__(self, labels: Mapping[str, torch.Tensor], seen: View) -> BodyParameters:
        """Returns the parameters, in the frame of each image's camera.

        Args:
            labels: data.loading.crops arrays as tensors; ``pose`` as (B, 104, 3, 3) matrices.
            seen: how the images show the crops.
        """
        (body,) = self._body
        found = body.read_labels(labels, seen.flip)
        camera = seen.turn @ labels["Rt"][:, :, :3]
        offset = (seen.turn @ labels["Rt"][:, :, 3:])[..., 0]
        root = camera @ found.pose[:, 0]
        in_camera = BodyParameters(
            found.body,
            torch.cat([root[:, None], found.pose[:, 1:]], 1),
            found.shape,
            (camera @ found.translation[..., None])[..., 0] + offset,
        )
        return body.mirror_parameters(in_camera, seen.flip)
