"""From two labelled crops of a person to the pair of images that the network sees."""

from collections.abc import Mapping

import torch

from finetune.two_views.cameras import relate_cameras
from finetune.two_views.config import TwoViewsKeys
from finetune.two_views.network import ImagePair
from finetune.views import View


def place_camera(batch: Mapping[str, torch.Tensor], seen: View) -> torch.Tensor:
    """(B, 3, 4) world to the camera of each image.

    The world is mirrored with a mirrored image: the person in it is then a mirrored one.
    """
    sign = torch.where(seen.flip[:, None], batch["Rt"].new_tensor([-1.0, 1.0, 1.0]), 1.0)
    camera = seen.rotation @ batch["Rt"]
    rotation = sign[:, :, None] * camera[:, :, :3] * sign[:, None]
    return torch.cat([rotation, sign[:, :, None] * camera[:, :, 3:]], 2)


def pair_views(
    first: Mapping[str, torch.Tensor],
    second: Mapping[str, torch.Tensor],
    seen: tuple[View, View],
    keys: TwoViewsKeys,
) -> ImagePair:
    """Return the images of first and second crops, with what the network is told of cameras."""
    pose = relate_cameras(place_camera(first, seen[0]), place_camera(second, seen[1]))
    if keys.cameras == "unknown":
        pose = pose.keep(torch.zeros_like(pose.known))
    images = seen[0].require_images(), seen[1].require_images()
    return ImagePair(images, (seen[0].K, seen[1].K), pose)
