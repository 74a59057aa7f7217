"""Mesh recovery from two images of a person, with the decoder of pre-training."""

from data.bodies.base import BodyModel, BodyParameters
from data.loading.appearance import open_appearance
from data.loading.build import open_crop_pair_loader, open_crop_pair_order
from data.loading.loader import Loader
from data.loading.validation import val_crop_pairs
from data.sampling.order import Order
from engine.distributed import process_group
from engine.distributed.process_group import Processes
from engine.logging.metric_registry import Metric, MetricBook
from engine.training.shares import Shares
from engine.training.task import Arrays, Batch
from finetune.config import FinetuneConfig
from finetune.heads.base import ImagePrediction
from finetune.tasks import TASKS
from finetune.tasks.mesh import MeshTask
from finetune.two_views.config import TwoViewsConfig
from finetune.two_views.network import TwoViewRecovery
from finetune.two_views.step import RecoveringPair
from finetune.views import View
from pretrain.blocks import prepare

ONE_VIEW = "_one_view"  # after the name of a measure: of the first view alone


@TASKS.register("two_views")
class TwoViewsTask(MeshTask):
    """A head on encoder and decoder that learns from pairs of crops of one person."""

    schema = TwoViewsConfig
    unit = "pairs"
    entries = ("recover_both",)

    # Narrower than the mesh task's.
    config: TwoViewsConfig  # pyrefly: ignore - see above
    model: TwoViewRecovery  # pyrefly: ignore - see above
    step_module: RecoveringPair  # pyrefly: ignore - see above

    def __init__(self, config: TwoViewsConfig, processes: Processes) -> None:
        super().__init__(config, processes)
        prepare(self.model.decoder.blocks, config, processes.device)
        alone = tuple(
            Metric(
                f"{measure.name}{ONE_VIEW}",
                f"{measure.title}, first view alone",
                measure.unit,
                measure.lower_is_better,
            )
            for measure in self.measures
        )
        self.metrics = self.metrics.extend(MetricBook(metrics=alone))

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
            config.model.size,
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
            self.body.label_choice,
        )

    def read_val(self) -> Arrays | None:
        """Return the validation pairs, or None where there are none."""
        config = self.config
        choice = self.body.label_choice
        return val_crop_pairs(self.order, config.data, config.log.val_clips, self.skip, choice)

    def answer(self, batch: Batch, body: BodyModel) -> tuple[View, BodyParameters, ImagePrediction]:
        """Return how first crops are seen, what is true, and what is found by both."""
        seen = self.step_module.seen_pair(batch)
        return seen.first, seen.target, self.step_module.recover_pair(seen.pair, body)[0]

    def evaluate(self, shares: Shares) -> dict[str, float]:
        """Errors over the fixed pairs, in the first camera; each rank takes its share.

        {"val/MEASURE"} by both views, {"val/MEASURE_one_view"} by the first alone.
        """
        alone = self.measure(shares, super().answer)
        both = self.measure(shares, self.answer)
        return both | {f"{name}{ONE_VIEW}": value for name, value in alone.items()}
