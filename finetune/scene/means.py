"""The mean person of whole frames, whom answers start from."""

from collections.abc import Sequence

import torch

from data.bodies.base import BodyModel
from engine.errors import UserError
from engine.training.task import Batch
from finetune.means import average_rotations
from finetune.scene.decode import to_span, turn_to_ray
from finetune.scene.step import SceneStep


def compute_means(
    step: SceneStep, batches: Sequence[tuple[tuple[int, int], Batch]], body: BodyModel
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the mean pose (J, 3, 3), its root about the anchor's ray, shape (S,) and span ().

    Args:
        batches: (size, whole frames of data.loading.frames as tensors).
    Raises:
        UserError: nobody's body is labelled.
    """
    poses, shapes, spans = [], [], []
    for size, batch in batches:
        step.size = size
        truth = step.tell(batch)
        image, place = truth.number_bodies()
        found = truth.take_parameters(body, image, place)
        K, pixel = truth.K[image], truth.anchors.pixel[image, place]
        root = turn_to_ray(found.pose[:, 0], K, pixel)
        poses.append(torch.cat([root[:, None], found.pose[:, 1:]], 1))
        shapes.append(found.shape)
        spans.append(to_span(truth.depth[image, place], K, step.model.patch))
    if not sum(map(len, poses)):
        raise UserError(
            "data.shards: nobody in the frames that were tried has labels of a body; "
            "docs/scenes.md says what they are"
        )
    return average_rotations(torch.cat(poses)), torch.cat(shapes).mean(0), torch.cat(spans).mean()
