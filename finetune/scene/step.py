"""From the loader's arrays of whole frames to losses: everything that happens on the device."""

import torch
from torch import nn

from data.bodies.base import BodyModel
from data.loading.frame_batch import FrameBatch, prepare_frames
from data.loading.frames import CAMERA, FrameAugmentConfig
from engine.training.task import Batch
from finetune.scene.losses import compare_scene
from finetune.scene.network import SceneAnswer, SceneNetwork
from finetune.scene.truth import SceneTruth, tell_truth


class SceneStep(nn.Module):
    """Holds the network; only the network itself runs in bf16.

    Args:
        body: the coarse body model.  bf16: whether the network runs under bf16 autocast.
        augment: how images are spoilt in training.  unknown_share: of images whose camera is
            withheld there.

    Attributes:
        size: (rows, columns) of the images of the step; set before each, for all its rows are of
            one aspect.
    """

    def __init__(
        self,
        model: SceneNetwork,
        body: BodyModel,
        bf16: bool,
        augment: FrameAugmentConfig,
        unknown_share: float,
    ) -> None:
        super().__init__()
        self.model, self.bf16, self.augment = model, bf16, augment
        self.unknown_share = unknown_share
        # In a list: the mesh is no part of the module, its tables are not synchronised or saved.
        self._body = [body]
        self.size = (0, 0)

    @property
    def body(self) -> BodyModel:
        """The coarse body model."""
        return self._body[0]

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """{term: (B,)} of finetune.scene.losses.compare_scene."""
        frames = self.prepare(batch, self.augment)
        truth = tell_truth(frames, self.size, self.model.patch)
        told = frames.camera_known & (batch["look"][:, CAMERA] >= self.unknown_share)
        with torch.autocast(frames.images.device.type, torch.bfloat16, enabled=self.bf16):
            answer = self.model(frames.images, truth.K, told, truth.anchors)
        return compare_scene(answer, truth, self.body, self.model.patch)

    @torch.no_grad()
    def prepare(self, batch: Batch, augment: FrameAugmentConfig | None = None) -> FrameBatch:
        """Return how rows are seen at the step's size; ``augment``: in training."""
        return prepare_frames(batch, self.size, self.body.expression_names, augment)

    @torch.no_grad()
    def tell(self, batch: Batch) -> SceneTruth:
        """Return what is true of whole frames."""
        return tell_truth(self.prepare(batch), self.size, self.model.patch)

    @torch.no_grad()
    def look(self, batch: Batch) -> tuple[SceneAnswer, SceneTruth]:
        """Return what the network finds by itself in whole frames, and what is true of them."""
        truth = self.tell(batch)
        frames = truth.frames
        with torch.autocast(frames.images.device.type, torch.bfloat16, enabled=self.bf16):
            answer = self.model(frames.images, truth.K, frames.camera_known)
        return answer, truth
