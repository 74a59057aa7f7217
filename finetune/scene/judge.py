"""How well validation frames are answered: who is found, and how far off those are."""

from dataclasses import dataclass

import torch

from data.bodies.base import BodyModel
from engine.logging.metric_registry import Metric, MetricBook
from engine.pose_metrics import MM, mpjpe, pa_mpjpe
from finetune.crop_camera import focal_length
from finetune.heads.base import pose_body
from finetune.losses import project_points
from finetune.scene.find import FoundPeople
from finetune.scene.truth import SceneTruth

NEAR_M = 0.3  # an anchor is found where the same joint of an answer is so near in the image
NAMES = ("found", "answers", "people", "bodies", "mpjpe", "pa_mpjpe", "translation", "depth")


METRICS = MetricBook(
    metrics=(
        Metric("val/f1", "F1 of people", lower_is_better=False),
        Metric("val/precision", "precision of people", lower_is_better=False),
        Metric("val/recall", "recall of people", lower_is_better=False),
        Metric("val/mpjpe", "MPJPE of people found", "mm", lower_is_better=True),
        Metric("val/pa_mpjpe", "PA-MPJPE of people found", "mm", lower_is_better=True),
        Metric("val/translation", "error of the root", "mm", lower_is_better=True),
        Metric("val/depth", "error of the root's depth over it", lower_is_better=True),
    ),
    images={"step": "Overlays"},
)


@dataclass(eq=False)
class Matched:
    """Which people of the labels are found: (n,) numbers of answers, images and places there."""

    found: torch.Tensor
    image: torch.Tensor
    place: torch.Tensor


def match_anchors(found: FoundPeople, truth: SceneTruth, patch: int) -> Matched:
    """Return who is found, the nearest pairs first.

    A pair is near where the answer's joint that is the true anchor lies within a token or NEAR_M of
    it in the image.
    """
    pairs = []
    anchors = truth.anchors
    flat = project_points(found.bodies.joints, truth.K[found.image])
    # NEAR_M at the people's depths, in tokens.
    near_by = NEAR_M * focal_length(truth.K)[:, None] / truth.depth.clamp_min(0.05) / patch
    for image, place in anchors.there.nonzero().tolist():
        for row in (found.image == image).nonzero()[:, 0].tolist():
            at = flat[row, anchors.joint[image, place]]
            apart = float((at - anchors.pixel[image, place]).norm()) / patch
            near = float(near_by[image, place]) if truth.bodies[image, place] else 1.0
            if apart <= max(1.0, near):
                pairs.append((apart, row, image, place))
    used: set[tuple[str, int, int]] = set()
    out = []
    for _, row, image, place in sorted(pairs):
        mine, theirs = ("row", row, 0), ("person", image, place)
        if mine in used or theirs in used:
            continue
        used |= {mine, theirs}
        out.append((row, image, place))
    columns = torch.tensor(out, dtype=torch.long, device=found.image.device).reshape(-1, 3)
    return Matched(*columns.unbind(1))


def count_answers(found: FoundPeople, matched: Matched, truth: SceneTruth, patch: int) -> int:
    """Return how many answers count: not those where there may be people whom nobody labelled."""
    rows, columns = (side // patch for side in truth.frames.images.shape[-2:])
    cell = (found.pixel / patch).floor().long()
    column, row = cell[:, 0].clamp(0, columns - 1), cell[:, 1].clamp(0, rows - 1)
    told = truth.counts[found.image, row * columns + column].clone()
    told[matched.found] = True
    return int(told.sum())


def sum_errors(found: FoundPeople, truth: SceneTruth, body: BodyModel, patch: int) -> torch.Tensor:
    """Return the (8,) float64 sums of NAMES over a batch.  ``body``: that of the answers."""
    matched = match_anchors(found, truth, patch)
    known = truth.bodies[matched.image, matched.place].nonzero()[:, 0]
    rows, image, place = (x[known] for x in (matched.found, matched.image, matched.place))
    answers = count_answers(found, matched, truth, patch)
    counts = [len(matched.found), answers, int(truth.anchors.there.sum()), len(rows)]
    errors = torch.zeros(4, dtype=torch.float64)
    if len(rows):
        true = pose_body(body, truth.take_parameters(body, image, place))
        here, there = found.bodies.keypoints[rows], true.keypoints
        at, wanted = found.bodies.translation[rows].double(), true.translation.double()
        depth = ((at - wanted)[:, 2] / wanted[:, 2].clamp_min(0.3)).abs()
        values = (
            mpjpe(here, there, 0),
            pa_mpjpe(here, there),
            (at - wanted).norm(dim=1) * MM,
            depth,
        )
        errors = torch.stack([value.sum() for value in values]).cpu()
    return torch.cat([torch.tensor(counts, dtype=torch.float64), errors])


def name_measures(sums: list[float]) -> dict[str, float]:
    """{"val/MEASURE"} of sums; what nobody was found for is left out."""
    total = dict(zip(NAMES, sums, strict=True))
    out = {}
    if total["people"]:
        out["val/recall"] = total["found"] / total["people"]
        out["val/f1"] = 2 * total["found"] / (total["people"] + total["answers"])
    if total["answers"]:
        out["val/precision"] = total["found"] / total["answers"]
    if total["bodies"]:
        for name in ("mpjpe", "pa_mpjpe", "translation", "depth"):
            out[f"val/{name}"] = total[name] / total["bodies"]
    return out
