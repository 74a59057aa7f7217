"""Mesh recovery from two images of a person, with the decoder of pre-training."""

import torch

from data.bodies.base import BodyModel, BodyParameters
from data.loading.appearance import open_appearance
from data.loading.build import open_crop_pair_loader, open_crop_pair_order, val_crop_pairs
from data.loading.loader import Loader
from data.sampling.order import Order
from engine.distributed import process_group
from engine.distributed.process_group import Processes
from engine.logging.metric_registry import Metric, MetricBook
from engine.pose_metrics import mpjpe, pa_mpjpe
from engine.training.shares import Shares
from engine.training.task import Arrays, Batch
from finetune.config import FinetuneConfig
from finetune.heads.base import Prediction, pose_body
from finetune.tasks import TASKS
from finetune.tasks.mesh import METRICS, MeshTask
from finetune.two_views.config import TwoViewsConfig
from finetune.two_views.network import TwoViewRecovery
from finetune.two_views.step import RecoveringPair
from finetune.views import View
from pretrain.blocks import prepare


@TASKS.register("two_views")
class TwoViewsTask(MeshTask):
    """A head on encoder and decoder that learns from pairs of crops of one person."""

    schema = TwoViewsConfig
    unit = "pairs"
    metrics = METRICS.extend(
        MetricBook(
            metrics=(
                Metric("mpjpe_one_view", "MPJPE, first view alone", "mm", lower_is_better=True),
                Metric(
                    "pa_mpjpe_one_view", "PA-MPJPE, first view alone", "mm", lower_is_better=True
                ),
            )
        )
    )

    # Narrower than the mesh task's.
    config: TwoViewsConfig  # pyrefly: ignore - see above
    model: TwoViewRecovery  # pyrefly: ignore - see above
    step_module: RecoveringPair  # pyrefly: ignore - see above

    def __init__(self, config: TwoViewsConfig, processes: Processes) -> None:
        super().__init__(config, processes)
        prepare(self.model.decoder.blocks, config, processes.device)

    @staticmethod
    def open_order(config: FinetuneConfig) -> Order:
        """Return the Order of the run."""
        assert isinstance(config, TwoViewsConfig)
        return open_crop_pair_order(config.data, config.batch, config.seed)

    def make_step_module(self) -> RecoveringPair:
        """Return what goes from the loader's arrays to losses."""
        config, device = self.config, self.processes.device
        module = RecoveringPair(
            self.model,
            self.body.coarse(config.coarse_vertices).to(device),
            config.model.image_size,
            self.bf16,
            open_appearance(config.data.augment, device),
        )
        module.keys = config.two_views
        return module

    def open_loader(self) -> Loader:
        """Return the loader of this rank."""
        return open_crop_pair_loader(
            self.order,
            self.config.data,
            self.processes.rank,
            self.processes.world,
            process_group.loader_workers(self.config.data.workers),
            self.skip,
        )

    def read_val(self) -> Arrays | None:
        """Return the validation pairs, or None where there are none."""
        return val_crop_pairs(self.order, self.config.data, self.config.log.val_clips, self.skip)

    def answer(self, batch: Batch, body: BodyModel) -> tuple[View, BodyParameters, Prediction]:
        """Return how first crops are seen, what is true, and what is found by both."""
        seen = self.step_module.seen_pair(batch)
        return seen.first, seen.target, self.step_module.recover_pair(seen.pair, body)[0]

    @torch.no_grad()
    def evaluate(self, shares: Shares) -> dict[str, float]:
        """Errors in mm over the fixed pairs, in the first camera; each rank takes its share.

        {"val/mpjpe", "val/pa_mpjpe"} by both views, and the same with "_one_view" by the first.
        """
        total = torch.zeros(5, dtype=torch.float64, device=self.device)
        body, val = self.step_module.body, self.require_val()
        self.model.eval()
        for rows in shares.rows(len(val["tags"])):
            batch = self.to_device({k: v[rows] for k, v in val.items()})
            seen, target, both = self.answer(batch, body)
            alone = self.step_module.recover(seen.require_images(), seen.K, body)
            true = pose_body(body, target).keypoints
            errors = [
                error.sum()
                for points in (both.keypoints, alone.keypoints)
                for error in (mpjpe(points, true, 0), pa_mpjpe(points, true))
            ]
            total += torch.stack([*errors, errors[0].new_tensor(len(true))])
        self.model.train()
        *sums, count = shares.total(total)
        names = ("mpjpe", "pa_mpjpe", "mpjpe_one_view", "pa_mpjpe_one_view")
        return {f"val/{name}": value / count for name, value in zip(names, sums, strict=True)}
