"""The network for two views: encoder and decoder of pre-training, and a head.

    first  ---all tokens--->  encoder  --+--------------------+
                                         +-->  decoder  ------+-->  head  -->  mesh in first camera
    second ---all tokens--->  encoder  --+

The decoder runs as in pre-training, with nothing masked: tokens of the first image attend to each
other and to the second image. The head gets both, the encoder's token and the decoder's, side by
side. Where the second image is missing, the decoder attends to its own mask token in its place.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from data.bodies.base import BodyModel
from data.cropping.geometry import find_size
from data.sampling.seen import Seen
from engine.errors import UserError
from finetune.heads.base import Prediction
from finetune.model import Recovery
from finetune.two_views.cameras import NUMBERS, CameraPose, describe_pose, unknown_cameras
from finetune.two_views.late import fuse
from pretrain import weights
from pretrain.config import ModelConfig, VisionConfig
from pretrain.model import CrossCompletion, initialise, table

if TYPE_CHECKING:
    from finetune.two_views.config import TwoViewsConfig


@dataclass(eq=False)
class ImagePair:
    """Two images of each of B people.

    Attributes:
        images: the first ones and the second ones, (B, 3, S, S) normalised by ImageNet's
            statistics.
        K: of both, (B, 3, 3) intrinsics in their pixels.
        pose: of their cameras.
        given: (B,) bool, false where the second image is to be left out; None: all are there.
    """

    images: tuple[torch.Tensor, torch.Tensor]
    K: tuple[torch.Tensor, torch.Tensor]
    pose: CameraPose
    given: torch.Tensor | None = None

    def swap(self) -> "ImagePair":
        """Return the pair with the roles of its images exchanged."""
        return ImagePair(self.images[::-1], self.K[::-1], self.pose.invert(), self.given)


class TwoViewRecovery(Recovery):
    """Recovers people's meshes from two images of each, or from one as any Recovery does.

    Args:
        config: of the run.  body: the full body model.
    """

    # Narrower than the Recovery's, and set once, by the constructor.
    config: ModelConfig  # pyrefly: ignore - see above

    def __init__(self, config: "TwoViewsConfig", body: BodyModel) -> None:
        super().__init__(config.model, config.head, body, config.task)
        if self.head.layers or not self.head.has_mesh:
            raise UserError(
                f"head.name={config.head.name}: task=two_views wants a head that predicts a mesh "
                "from tokens of the last layer alone"
            )
        model, part = config.model, config.model.decoder
        self.fusion, self.init_decoder = config.two_views.fusion, config.two_views.init_decoder
        self.decoder = CrossCompletion(model).decoder
        # No pixels are predicted, so there is no layer for them.
        self.decoder.head = nn.Identity()  # pyrefly: ignore - see above
        self.register_buffer("_decoder_table", table(model, part, model.grid()), persistent=False)
        self.tells_cameras = self.fusion == "cross" and config.two_views.cameras == "known"
        if self.tells_cameras:
            last = nn.Linear(part.width, 2 * part.width)
            self.camera = nn.Sequential(nn.Linear(NUMBERS, part.width), nn.GELU(), last)
            self.camera.apply(initialise)
            nn.init.zeros_(last.weight)  # at first the decoder is the one of pre-training

    def describe_tokens(self, config: VisionConfig) -> VisionConfig:
        """Return the config of an encoder as wide as encoder and decoder together."""
        assert isinstance(config, ModelConfig)
        width = config.encoder.width + config.decoder.width
        return replace(config, encoder=replace(config.encoder, width=width))

    def take_pretrained(self, init: str) -> Seen:
        """Fill encoder and decoder from weights at a path; see finetune.model.Recovery."""
        if not self.init_decoder:
            return super().take_pretrained(init)
        with torch.random.fork_rng(devices=[]):
            network = CrossCompletion(self.config)
        # Weights without a decoder leave it as it is here.
        network.decoder.load_state_dict(self.decoder.state_dict(), strict=False)
        seen = weights.init_from(network, init)
        self.encoder.load_state_dict(network.encoder.state_dict())
        taken = {
            name: value
            for name, value in network.decoder.state_dict().items()
            if not name.startswith("head.")
        }
        self.decoder.load_state_dict(taken)
        return seen

    def make_tokens(self, images: torch.Tensor, K: torch.Tensor) -> torch.Tensor:
        """(B, N, C) tokens of single images; see finetune.model.Recovery."""
        features = self.encoder(images, self._table)
        unknown = unknown_cameras(len(images), images.device)
        alone = ImagePair((images, images), (K, K), unknown, unknown.known)
        return self.join_tokens(features, features, alone)

    def recover(self, pair: ImagePair, body: BodyModel) -> Prediction:
        """Predict the people of pairs of images, in the first camera.

        Args:
            body: the body model whose points are wanted, coarse or full.
        """
        return self.recover_both(pair, body, both=False)[0]

    def recover_both(self, pair: ImagePair, body: BodyModel, both: bool = True) -> list[Prediction]:
        """Return what is predicted in the first camera and, with ``both``, in the second."""
        one = self.encoder(pair.images[0], self._table)
        other = one if self.fusion == "none" and not both else None
        if other is None:
            other = self.encoder(pair.images[1], self._table)
        found = [self._answer(one, other, pair, body)]
        swapped = pair.swap()
        if both or self.fusion == "late":
            found.append(self._answer(other, one, swapped, body))
        if self.fusion == "late":
            with torch.autocast(one.device.type, enabled=False):
                fused = fuse(found[0], found[1], pair.pose, body)
                found = [fused, *([fuse(found[1], found[0], swapped.pose, body)] if both else [])]
        return found

    def _answer(
        self, one: torch.Tensor, other: torch.Tensor, pair: ImagePair, body: BodyModel
    ) -> Prediction:
        """The head's answer by features of the first image, and of the second in cross fusion."""
        features = self.join_tokens(one, other, pair)
        size = find_size(pair.images[0])
        found = self.head(features, pair.K[0], size, self.means, body)
        told = self._add_confidence(features, found, pair.K[0], size, body)
        assert isinstance(told, Prediction)  # the constructor takes heads with a mesh alone
        return told

    def join_tokens(self, one: torch.Tensor, other: torch.Tensor, pair: ImagePair) -> torch.Tensor:
        """(B, N, C) the encoder's tokens of first images and the decoder's, side by side."""
        return torch.cat([one, self.look(one, other, pair).to(one.dtype)], -1)

    def look(self, one: torch.Tensor, other: torch.Tensor, pair: ImagePair) -> torch.Tensor:
        """(B, N, decoder width) tokens of first images that have looked at the second ones.

        Args:
            one, other: (B, N, C) of the encoder.
        """
        decoder, places = self.decoder, self._decoder_table
        kind = decoder.mask_token.dtype
        x, y = decoder.embed(one).to(kind), decoder.embed(other).to(kind)
        if self.tells_cameras:
            with torch.autocast(one.device.type, enabled=False):
                told = describe_pose(pair.pose, *pair.K, find_size(pair.images[0]))
            told = self.camera(torch.where(pair.pose.known[:, None], told, 0.0))
            told = torch.where(pair.pose.known[:, None], told, 0.0).to(kind)[:, None]
            x, y = x + told[..., : x.shape[-1]], y + told[..., x.shape[-1] :]
        given = pair.given
        if self.fusion != "cross":
            given = torch.zeros_like(pair.pose.known)
        if given is not None:
            y = torch.where(given[:, None, None], y, decoder.mask_token)
        rope = places if decoder.rotary else None
        if not decoder.rotary:
            x, y = x + places, y + places
        for block in decoder.blocks:
            x = block(x, y, rope, rope)
        return decoder.norm(x)
