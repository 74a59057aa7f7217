"""What the numbers of fine-tuning are, for its report."""

from collections.abc import Sequence

from data.loading.clip_task import DATA_METRICS
from engine.logging.metric_registry import Companion, Group, Metric, MetricBook
from finetune.heads.base import Measure

METRICS = DATA_METRICS.extend(
    MetricBook(
        groups=(
            Group(
                "evaluation",
                "Evaluation",
                "Of checkpoints, in processes or jobs of their own beside the training.",
                companions=(Companion("_constant", "mean pose", colour="#9aa3b0"),),
                position=60,
            ),
            Group("fits", "Fits in training", position=74),
        ),
        metrics=(
            Metric("mpjpe", "MPJPE", "mm", lower_is_better=True),
            Metric("pa_mpjpe", "PA-MPJPE", "mm", lower_is_better=True),
            Metric("pve", "PVE", "mm", lower_is_better=True),
            Metric("pa_pve", "PA-PVE", "mm", lower_is_better=True),
            Metric("pve_plain", "PVE, plain mean", "mm", lower_is_better=True),
            Metric("pa_pve_plain", "PA-PVE, plain mean", "mm", lower_is_better=True),
            Metric("f5", "F@5", lower_is_better=False),
            Metric("f15", "F@15", lower_is_better=False),
            Metric("iou", "IoU", lower_is_better=False),
            Metric("fits/share", "people with a fit", lower_is_better=False),
            Metric("fits/error", "keypoints from the fits, of the person", lower_is_better=True),
        ),
        images={"step": "Overlays"},
    )
)


def describe_measures(measures: Sequence[Measure]) -> tuple[Metric, ...]:
    """Return what the report says of validation's numbers."""
    return tuple(
        Metric(f"val/{one.name}", one.title, one.unit, lower_is_better=one.lower_is_better)
        for one in measures
    )
