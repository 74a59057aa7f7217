"""What a head is: from an encoder's tokens to a prediction of people's meshes.

A new one is a subclass of ``Head`` in finetune/heads/NAME.py, found by ``head.name=NAME``:

    @HEADS.register("my_head")
    class MyHead(Head): ...
"""

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from data.bodies.base import BodyModel, BodyParameters
from engine.registry import Registry
from finetune.means import Means
from pretrain.config import VisionConfig

if TYPE_CHECKING:
    from finetune.config import HeadConfig

CHUNK = 16  # full meshes posed at once: 16 bodies take 60 MB
# What is registered takes the encoder's config, the keys of ``head.``, and the full body model.
HEADS: Registry[Callable[[VisionConfig, "HeadConfig", BodyModel], "Head"]] = Registry(
    "head.name", "finetune.heads"
)


@dataclass(eq=False)
class Prediction:
    """B people in the cameras of their images: metres, OpenCV axes.

    Attributes:
        vertices: (B, V, 3) of the body model that was asked for, coarse or full.
        joints: (B, J, 3).
        keypoints: (B, K, 3).
        parameters: that give them, or None from a head that predicts points alone.
        uncertainty: (B, K) metres, standard deviation of each keypoint, or None.
        maps: (B, K, rows, columns) logits of where in the image each keypoint is, or None.
    """

    vertices: torch.Tensor
    joints: torch.Tensor
    keypoints: torch.Tensor
    parameters: BodyParameters | None = None
    uncertainty: torch.Tensor | None = None
    maps: torch.Tensor | None = None

    @property
    def translation(self) -> torch.Tensor:
        """(B, 3) metres, where joint 0 is."""
        return self.joints[:, 0] if self.parameters is None else self.parameters.translation


class Head(nn.Module, abc.ABC):
    """Tokens to a Prediction.

    A subclass is built from the encoder's config, the keys of ``head.``, of which it reads those
    that it needs, and the full body model, whose tables are not to become part of it.

    Attributes:
        has_parameters: whether its predictions hold parameters of the body model, which are then
            trained too (loss.rotation, loss.shape).
        takes_prompts: whether ``forward`` takes ``prompts`` too, (B, K, 3) of finetune.prompts, or
            None where nothing was found.
        has_maps: whether they hold maps of keypoints, which are then too (loss.keypoint_maps).
    """

    has_parameters: ClassVar[bool]
    has_maps: bool = False
    takes_prompts: bool = False

    @abc.abstractmethod
    def forward(
        self, features: torch.Tensor, K: torch.Tensor, size: int, means: Means, body: BodyModel
    ) -> Prediction:
        """Predict the people of images.

        Args:
            features: (B, N, C) of the encoder.
            K: (B, 3, 3) intrinsics of the images, in their pixels.
            size: side of the images.
            means: of the people that the run learns from.
            body: the body model whose points are wanted: coarse in training, else full.
        """


def pose_body(body: BodyModel, parameters: BodyParameters) -> Prediction:
    """Returns the Prediction that parameters of a body model stand for.

    Without gradients a few full meshes are posed at a time.
    """
    count = len(parameters.pose)
    step = max(count, 1) if torch.is_grad_enabled() else CHUNK
    parts = []
    for first in range(0, max(count, 1), step):
        part = parameters.select(slice(first, first + step))
        parts.append(body(part.pose, part.translation, part.shape))
    vertices, joints = (torch.cat(values) for values in zip(*parts, strict=True))
    return Prediction(vertices, joints, body.keypoints(vertices, joints), parameters)
