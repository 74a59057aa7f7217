"""The network: an encoder, a head, a body model; from an image and its camera to a posed body in
metres.

The head answers relative to its image, so that equal images ask for equal answers: the
orientation about the ray through the image's middle, the place as an offset in the image and as
the width of the scene there. The true intrinsics turn these into the camera's frame.
"""

from dataclasses import dataclass

import torch
from torch import nn

from engine.geometry import rotation_6d_to_matrix
from finetune.heads.model_based import ModelBasedHead
from pretrain.model import Encoder, initialise, table


@dataclass
class Body:
    """B bodies, or right hands, in the cameras of their images; as finetune.views.Target.

    Attributes:
        pose: (B, J, 3, 3).  root: (B, 3) metres.  shape: (B, S) in (0, 1).
        place: (B, 3) what the head said of the place: offset x and y over the image's side, log
            of the scene's width in metres there.
    """

    pose: torch.Tensor
    root: torch.Tensor
    shape: torch.Tensor
    place: torch.Tensor


class Recovery(nn.Module):
    """Recovers a body model's parameters from images.

    Args:
        config: pretrain.config.VisionConfig.  head: finetune.config.HeadConfig.  joints, shapes: J
            and S of the body model.

    Attributes:
        mean_pose (J, 3, 3), mean_shape (S,), mean_place (3,): what the head's answers start from;
        joint 0's rotation is
            about the ray through the image's middle.  Buffers, saved with the weights; set by
            ``set_means``.
    """

    def __init__(self, config, head, joints, shapes):
        super().__init__()
        self.config, self.joints = config, joints
        self.encoder = Encoder(config)
        self.register_buffer(
            "_table", table(config, config.encoder, config.grid()), persistent=False
        )
        self.head = ModelBasedHead(config, head, {"pose": joints * 6, "shape": shapes, "place": 3})
        self.encoder.apply(initialise)
        nn.init.xavier_uniform_(self.encoder.patch_embed.proj.weight.view(config.encoder.width, -1))
        self.register_buffer("mean_pose", torch.eye(3).repeat(joints, 1, 1))
        self.register_buffer("mean_shape", torch.full((shapes,), 0.5))
        self.register_buffer("mean_place", torch.zeros(3))

    def set_means(self, pose, shape, place):
        self.mean_pose.copy_(pose)
        self.mean_shape.copy_(shape)
        self.mean_place.copy_(place)

    def forward(self, images, K):
        """The Bodies in images.

        Args:
            images: (B, 3, S, S) normalised by ImageNet's statistics.  K: (B, 3, 3) intrinsics in
                their pixels.
        """
        size = images.shape[-1]
        features = self.encoder(images, self._table)
        answer = self.head(features, camera_words(K, size))
        with torch.autocast(
            images.device.type, enabled=False
        ):  # bf16 would turn a body by a quarter of a degree
            return self.compose(
                *(answer[name].float() for name in ("pose", "shape", "place")), K, size
            )

    def compose(self, pose, shape, place, K, size):
        """The Bodies that offsets from the means stand for: pose (B, J * 6), shape (B, S), place
        (B, 3)."""
        six = self.mean_pose[..., :2].transpose(-1, -2).flatten(-2) + pose.unflatten(
            -1, (self.joints, 6)
        )
        rotation = rotation_6d_to_matrix(six)
        whole = ray_rotation(K, size) @ rotation[:, 0]
        shape = torch.sigmoid(torch.logit(self.mean_shape, 1e-3) + shape)
        place = self.mean_place + place
        return Body(
            torch.cat([whole[:, None], rotation[:, 1:]], 1), unproject(place, K, size), shape, place
        )


def camera_words(K, size):
    """(B, 3) what the head is told of the camera: the middle's ray (x, y at unit depth) and the log
    of its field of view."""
    middle = middle_ray(K, size)
    return torch.cat([middle[:, :2], torch.log(size / focal(K))[:, None]], 1)


def focal(K):
    """(B,) focal length in pixels."""
    return (K[:, 0, 0] * K[:, 1, 1]).sqrt()


def middle_ray(K, size):
    """(B, 3) direction at unit depth through the middle of an image of ``size`` px."""
    return ray(K, torch.full_like(K[:, 0, :2], size / 2))


def ray(K, pixel):
    """(B, 3) direction at unit depth through pixels (B, 2), by K's own triangle: a solver would
    wait for the device."""
    y = (pixel[:, 1] - K[:, 1, 2]) / K[:, 1, 1]
    x = (pixel[:, 0] - K[:, 0, 2] - K[:, 0, 1] * y) / K[:, 0, 0]
    return torch.stack([x, y, torch.ones_like(x)], 1)


def ray_rotation(K, size):
    """(B, 3, 3) the smallest rotation that takes the optical axis to the middle's ray (Rodrigues'
    formula)."""
    x, y, z = nn.functional.normalize(middle_ray(K, size), dim=-1).unbind(-1)
    # Axis (-y, x, 0), cosine z: R = z I + [v]x + v v^T / (1 + z), and the image's middle is
    # always in front (z > 0).
    zero, h = torch.zeros_like(x), 1 / (1 + z)
    return torch.stack(
        [
            torch.stack([z + y * y * h, -x * y * h, x], -1),
            torch.stack([-x * y * h, z + x * x * h, y], -1),
            torch.stack([-x, -y, z + zero], -1),
        ],
        1,
    )


def unproject(place, K, size):
    """(B, 3) metres of a ``place`` (see Body)."""
    depth = place[:, 2].exp() * focal(K) / size
    return ray(K, (place[:, :2] + 0.5) * size) * depth[:, None]


def place_of(root, K, size):
    """The inverse of unproject: (B, 3) of a point (B, 3) metres in front of the camera."""
    pixel = (K @ root[..., None])[..., 0] / root[:, 2:].clamp_min(1e-3)
    width = root[:, 2].clamp_min(1e-3) * size / focal(K)
    return torch.cat([pixel[:, :2] / size - 0.5, width.log()[:, None]], 1)
