"""From the loader's pairs to the losses of each: everything that happens on the device."""

from dataclasses import dataclass

import torch

from data.bodies.base import BodyModel, BodyParameters
from data.loading.crop_pairs import CHANCES, split_pair
from engine.training.task import Batch
from finetune import losses
from finetune.heads.base import Prediction, Truth, pose_body
from finetune.tasks.mesh import Recovering
from finetune.two_views.config import TwoViewsKeys
from finetune.two_views.network import ImagePair, TwoViewRecovery
from finetune.two_views.pairs import pair_views
from finetune.views import View


@dataclass(eq=False)
class SeenPair:
    """A batch of pairs as the network sees it, and what is true of it.

    Attributes:
        first, second: how the images show the crops.
        target, second_target: parameters in the first and in the second cameras' frames.
        pair: of images and cameras.
    """

    first: View
    second: View
    target: BodyParameters
    second_target: BodyParameters
    pair: ImagePair


class RecoveringPair(Recovering):
    """As Recovering, of pairs: each image is answered with the other's help.

    Attributes:
        keys: of ``two_views.``; set by the task.
    """

    # Narrower than Recovering's, and set once, by the constructor.
    model: TwoViewRecovery  # pyrefly: ignore - see above
    keys: TwoViewsKeys

    def seen_pair(self, batch: Batch) -> SeenPair:
        """Return how a batch of data.loading.crop_pairs arrays is seen, and its truth."""
        first, second = split_pair(batch)
        (seen, target), (other, second_target) = self.seen(first), self.seen(second)
        pair = pair_views(first, second, (seen, other), self.keys)
        return SeenPair(seen, other, target, second_target, pair)

    def recover_pair(
        self, pair: ImagePair, body: BodyModel, both: bool = False
    ) -> list[Prediction]:
        """Return what the network finds in the first camera, and with ``both`` in the second."""
        with torch.autocast(pair.images[0].device.type, torch.bfloat16, enabled=self.bf16):
            return self.model.recover_both(pair, body, both)

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """{term: (B,)} of finetune.losses, the mean over both orders of each pair."""
        seen = self.seen_pair(batch)
        dropped, hidden = batch[CHANCES].unbind(1)
        seen.pair.given = dropped >= self.keys.second_drop
        seen.pair.pose = seen.pair.pose.keep(hidden >= self.keys.camera_drop)
        views = (seen.first, seen.target), (seen.second, seen.second_target)
        with torch.no_grad():
            truths = [
                Truth(pose_body(self.body, target), view.K, self.size, view, part)
                for (view, target), part in zip(views, split_pair(batch), strict=True)
            ]
        found = self.recover_pair(seen.pair, self.body, both=True)
        terms = [
            losses.compute_terms(self.terms, mine, truth)
            for mine, truth in zip(found, truths, strict=True)
        ]
        return {name: (terms[0][name] + terms[1][name]) / 2 for name in terms[0]}
