"""The network: an encoder, a head, a body model.

It goes from an image and its camera to a posed body in metres.

The head answers relative to its image, so that equal images ask for equal answers; see
finetune/crop_camera.py.
"""

import torch
from torch import nn

from data.bodies.base import BodyModel, BodyParameters
from data.cropping.geometry import Size, find_size
from data.sampling.seen import Seen
from engine.errors import UserError
from finetune.heads.base import HEADS, ImagePrediction, Prediction
from finetune.heads.confidence import Confidence
from finetune.heads.keys import HeadConfig
from finetune.means import Means, place_means
from pretrain import weights
from pretrain.config import VisionConfig
from pretrain.header import Roles
from pretrain.model import Encoder, initialise, table


class Recovery(nn.Module):
    """Recovers people's meshes from images.

    Args:
        config: of the encoder.
        head: which head, and its sizes.
        body: the body model, whose tables do not become part of the network.
        task: the name of the task that trains it, for the header of its weights.

    Attributes:
        mean_pose (J, 3, 3), mean_shape (S,), mean_place (3,): the Means that answers start from.
            Buffers, saved with the weights; set by ``set_means``.
    """

    def __init__(self, config: VisionConfig, head: HeadConfig, body: BodyModel, task: str) -> None:
        super().__init__()
        self.task = task
        self.config = config
        self.head_name, self.body_name, self.shape_space = head.name, body.name, body.shape_space
        self.encoder = Encoder(config)
        self.register_buffer(
            "_table", table(config, config.encoder, config.grid()), persistent=False
        )
        self.head = HEADS.find(head.name)(self.describe_tokens(config), head, body)
        self.encoder.apply(initialise)
        nn.init.xavier_uniform_(self.encoder.patch_embed.proj.weight.view(config.encoder.width, -1))
        shapes = len(body.shape_space.names)
        self.register_buffer("mean_pose", torch.eye(3).repeat(len(body.joint_names), 1, 1))
        self.register_buffer("mean_shape", torch.full((shapes,), body.shape_space.mean))
        self.register_buffer("mean_place", torch.zeros(3))
        # Last, so that the rest has the random first weights that it has without.
        self.confidence = self._open_confidence(config, head, body) if head.confidence else None

    def _open_confidence(
        self, config: VisionConfig, head: HeadConfig, body: BodyModel
    ) -> Confidence:
        if not self.head.has_mesh:
            raise UserError(
                f"head.confidence=true and head.name={head.name}, which predicts no mesh"
            )
        self.head.confident = True
        return Confidence(self.describe_tokens(config), body)

    def describe_tokens(self, config: VisionConfig) -> VisionConfig:
        """Return the config of an encoder whose tokens are as wide as those that the head gets."""
        return config

    def take_pretrained(self, init: str) -> Seen:
        """Fill what pre-training gives from weights at a path, as ``init=`` names them.

        Returns:
            what these weights have seen.
        Raises:
            UserError: as pretrain.weights.init_encoder.
        """
        return weights.init_encoder(self.encoder, self.config, init)

    @property
    def roles(self) -> Roles:
        """What the header of its weights says that it is for."""
        return Roles(self.task, self.head_name, self.body_name)

    @property
    def means(self) -> Means:
        """What answers start from."""
        return Means(self.mean_pose, self.mean_shape, self.mean_place)

    def set_means(self, means: Means) -> None:
        """Take over the Means of labels."""
        self.mean_pose.copy_(means.pose)
        self.mean_shape.copy_(means.shape)
        self.mean_place.copy_(means.translation)

    def forward(
        self,
        images: torch.Tensor,
        K: torch.Tensor,
        body: BodyModel,
        prompts: torch.Tensor | None = None,
        judged: torch.Tensor | None = None,
        masks: torch.Tensor | None = None,
    ) -> ImagePrediction:
        """Predict the people of images: a Prediction, of heads without a mesh another.

        Args:
            images: (B, 3, S, S) normalised by ImageNet's statistics, or (B, 3, rows, columns).
            K: (B, 3, 3) intrinsics in their pixels.
            body: the body model whose points are wanted, coarse or full.
            prompts: of finetune.prompts, read by heads that take them; None: nothing was found.
            judged: (B,) of heads with rounds, which one's answer is given; None: the last one's.
            masks: of finetune.masks, read by heads that take them; None: nothing was found.
        """
        more: dict[str, object] = {"prompts": prompts} if self.head.takes_prompts else {}
        if judged is not None and self.head.rounds:
            more["judged"] = judged
        if masks is not None and self.head.takes_masks:
            more["masks"] = masks
        if self.head.layers:
            features, more["layers"] = self.encoder.read_layers(
                images, self._table, self.head.layers
            )
        else:
            features = self.make_tokens(images, K)
        size = find_size(images)
        found = self.head(features, K, size, self.means, body, **more)
        return self._add_confidence(features, found, K, size, body)

    def make_tokens(self, images: torch.Tensor, K: torch.Tensor) -> torch.Tensor:
        """(B, N, C) tokens of images and their cameras, as the head gets them."""
        return self.encoder(images, self._table)

    def lift(
        self,
        K: torch.Tensor,
        size: Size,
        body: BodyModel,
        prompts: torch.Tensor,
        judged: torch.Tensor | None = None,
    ) -> ImagePrediction:
        """Predict people of whom keypoints alone are known; see ``forward``."""
        more = {} if judged is None or not self.head.rounds else {"judged": judged}
        found = self.head(None, K, size, self.means, body, prompts=prompts, **more)
        return self._add_confidence(None, found, K, size, body)

    def _add_confidence(
        self,
        features: torch.Tensor | None,
        found: ImagePrediction,
        K: torch.Tensor,
        size: Size,
        body: BodyModel,
    ) -> ImagePrediction:
        if self.confidence is None or not isinstance(found, Prediction):
            return found
        return self.confidence(features, found, K, size, body)

    def place_means(self, K: torch.Tensor, size: Size) -> BodyParameters:
        """Return the mean body at the mean translation before cameras (B, 3, 3).

        Answers start from it.
        """
        return place_means(self.means, K, size, self.shape_space, self.body_name)
