"""Judging a run on two views: beside the first view alone, and two answers averaged."""

from collections.abc import Mapping

import torch

from data.bodies.base import BodyParameters
from data.loading.crop_pairs import split_pair
from finetune.evaluation.judge import Judge
from finetune.heads.base import Prediction
from finetune.inference.predictor import Predictor
from finetune.two_views.config import TwoViewsConfig
from finetune.two_views.late import fuse
from finetune.two_views.network import ImagePair, TwoViewRecovery
from finetune.two_views.pairs import pair_views
from finetune.views import View, view

ONE_VIEW, LATE = "one_view", "late"


class PairJudge(Judge):
    """As Judge, of pairs: errors are those of the first crops.

    The run, and the one without pre-training, answer by both views. ``one_view`` is the same
    network on the first view alone, ``late`` the average of its answers to either. Rows that are
    the run's own are left out.
    """

    def list_rows(self) -> list[str]:
        """Return the rows of the table."""
        fusion = _config_of(self.predictor).two_views.fusion
        equal = {"none": ONE_VIEW, "late": LATE}.get(fusion)
        return [*super().list_rows(), *(row for row in (ONE_VIEW, LATE) if row != equal)]

    def list_compared(self) -> list[str]:
        """Return the rows that the run is compared with crop by crop."""
        return [row for row in self.values if row in (ONE_VIEW, LATE)]

    def answer(
        self, batch: Mapping[str, torch.Tensor], seen: View, target: BodyParameters
    ) -> dict[str, Prediction]:
        """Return {row: Prediction} of full meshes."""
        found = super().answer(batch, seen, target)
        first, second = split_pair(batch)
        views = seen, view(second, self.size)
        keys = _config_of(self.predictor).two_views
        pair = pair_views(first, second, views, keys)
        alone = found["model"]
        other = self.predictor.model(pair.images[1], pair.K[1], self.body)
        found[ONE_VIEW], found[LATE] = alone, fuse(alone, other, pair.pose, self.body)
        found["model"] = _recover(self.predictor, pair, self)
        if self.plain:
            found["scratch"] = _recover(self.plain, pair, self)
        return {row: found[row] for row in self.values if row in found}


def _recover(predictor: Predictor, pair: ImagePair, judge: Judge) -> Prediction:
    model = predictor.model
    assert isinstance(model, TwoViewRecovery)
    return model.recover(pair, judge.body)


def _config_of(predictor: Predictor) -> TwoViewsConfig:
    assert isinstance(predictor.config, TwoViewsConfig)
    return predictor.config
