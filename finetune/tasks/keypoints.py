"""Joints in the image learnt from labelled points: photographs with keypoints, synthetic humans.

What is learnt, and how it is judged, is the head's (finetune/heads/keypoints.py); this task reads
crops of which only joints in the image need be known, of any joint set and without a camera or a
body model (data/loading/points.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from data.bodies.base import BodyModel, BodyParameters
from data.cropping.geometry import Size
from data.format.joint_sets import find_joint_set
from data.loading.appearance import open_appearance
from data.loading.loader import Loader
from data.loading.point_build import open_point_loader, val_points
from engine.config.parser import key, section
from engine.distributed import process_group
from engine.errors import UserError
from engine.training.task import Arrays, Batch
from finetune.config import FinetuneConfig
from finetune.heads.base import ImagePrediction, Prediction, Truth
from finetune.heads.keypoints import KeypointsConfig
from finetune.tasks import TASKS
from finetune.tasks.mesh import Answer, MeshTask, Recovering
from finetune.views import View, view

HEAD = "keypoints"


@dataclass
class KeypointTaskConfig(FinetuneConfig):
    """Holds the keys of ``task=keypoints``."""

    task: str = key("keypoints", "what is learnt: a module of finetune/tasks")
    head: KeypointsConfig = section(KeypointsConfig)  # pyrefly: ignore - narrower than every task's

    def check(self) -> None:
        """Raise UserError where the head is another, or of no joint set."""
        super().check()
        if self.head.name != HEAD:
            raise UserError(f"task=keypoints learns head.name={HEAD}, not {self.head.name}")
        if not self.head.joints:
            raise UserError(
                "task=keypoints and head.joints is not set: name a joint set, such as coco17"
            )

    @property
    def names(self) -> Sequence[str]:
        """Of the joints that are learnt."""
        return find_joint_set(self.head.joints).joints


class PointRecovering(Recovering):
    """From the loader's arrays to losses, without a body model."""

    @torch.no_grad()
    def tell_truth(self, batch: Batch) -> Truth:
        """What a batch's crops show: no mesh, but where joints are in the image."""
        seen = view(batch, self.size, self.appearance)
        return tell_points(batch, seen, self.size)


def tell_points(batch: Batch, seen: View, size: Size) -> Truth:
    """Returns the Truth of crops of which joints in the image alone are known; its mesh is empty.

    Args:
        batch: data.loading.points arrays as tensors.  size: side of the images, pixels.
    """
    none = seen.K.new_zeros(len(seen.K), 0, 3)
    return Truth(Prediction(none, none, none), seen.K, size, seen, batch)


@TASKS.register("keypoints")
class KeypointTask(MeshTask):
    """A head of joints on an encoder that learns from labelled points."""

    schema = KeypointTaskConfig
    config: KeypointTaskConfig  # pyrefly: ignore - narrower than every task's

    def make_step_module(self) -> Recovering:
        """Return what goes from the loader's arrays to losses."""
        config, device = self.config, self.processes.device
        return PointRecovering(
            self.model,
            self.body.coarse(config.coarse_vertices).to(device),
            config.model.size,
            self.bf16,
            open_appearance(config.data.augment, device),
        )

    def open_loader(self) -> Loader:
        """Return the loader of this rank."""
        return open_point_loader(
            self.order,
            self.config.data,
            self.config.names,
            self.processes.rank,
            self.processes.world,
            process_group.loader_workers(self.config.data.workers),
            self.skip,
        )

    def read_val(self) -> Arrays | None:
        """Return the validation rows, or None where there are none."""
        config = self.config
        return val_points(self.order, config.data, config.names, config.log.val_clips, self.skip)

    def answer(self, batch: Batch, body: BodyModel) -> tuple[View, BodyParameters, ImagePrediction]:
        """Return how rows are seen, an empty body, and what the network finds in them."""
        seen = view(batch, self.step_module.size)
        none = seen.K.new_zeros(len(seen.K), 0, 3, 3)
        nobody = BodyParameters(body.name, none, none[:, :, 0, 0], none[:, :, 0, 0])
        return seen, nobody, self.step_module.recover(seen.require_images(), seen.K, body)

    def judge(self, batch: Batch, body: BodyModel, answer: Answer) -> tuple[ImagePrediction, Truth]:
        """Return what the network finds in rows, and what is true of them."""
        seen, _, found = answer(batch, body)
        return found, tell_points(batch, seen, self.step_module.size)
