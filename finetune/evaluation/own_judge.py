"""Judging a run alone, by the image or with the true keypoints beside it."""

from collections.abc import Mapping

import torch

from data.bodies.base import BodyParameters
from engine.errors import UserError
from engine.geometry import axis_angle_to_matrix
from finetune.evaluation.judge import Judge
from finetune.heads.base import Prediction
from finetune.inference.predictor import Predictor
from finetune.prompts import tell_prompts
from finetune.views import View


class OwnJudge(Judge):
    """As evaluation's Judge, of the run's own row alone.

    Args:
        predictor: of the run.
        masks: whether images come with person masks.
        given: whether the run is given the true keypoints of each crop.
    """

    def __init__(self, predictor: Predictor, masks: bool, given: bool) -> None:
        super().__init__(predictor, None, masks)
        self.given = given

    def list_rows(self) -> list[str]:
        """Return the run's own row."""
        return ["model"]

    def answer(
        self, batch: Mapping[str, torch.Tensor], seen: View, target: BodyParameters
    ) -> dict[str, Prediction]:
        """Return {"model": Prediction} of full meshes; see Judge."""
        model, images, prompts = self.predictor.model, seen.require_images(), None
        if self.given:
            labels = {**batch, "pose": axis_angle_to_matrix(batch["pose"])}
            truth = self._true_meshes(labels, seen, target)
            prompts = tell_prompts(self.body, truth, seen.K, self.size)
        return {"model": model(images, seen.K, self.body, prompts)}


def refuse_keypoints(predictor: Predictor, given: bool) -> None:
    """Raise UserError where ``given`` keypoints are for a run that takes none."""
    if given and not predictor.config.head.prompts:
        raise UserError(
            f"given=true, but {predictor.checkpoint} takes no keypoints: its head.prompts is false"
        )
