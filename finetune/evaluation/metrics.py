"""How far predicted meshes are from the true ones, crop by crop, and what many crops say together.

Errors of keypoints, ``mpjpe`` and ``pa_mpjpe``, are in engine/pose_metrics.py, which pre-training's
probe uses too.

Points are (B, N, 3) tensors in metres, of any float type; errors come out as (B,) float64 in
millimetres. All is computed in float64: a person 1000 m away in float32 would cost 0.06 mm. Nothing
is reduced over the batch.

What degenerate points give:
    prediction in one point: the alignment only shifts it; the error is the true points' distance
        from their mean
    truth in one point: the alignment shrinks the prediction onto it: 0
    points on a line: many rotations are equally good; the distances are the same for all of them
    mirrored prediction: no reflection is allowed, so the error stays (but a plane's mirror image is
        a rotation of it)
    NaN or Inf: UserError, since a mean that leaves such a crop out would be too good
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from engine.errors import Failure, UserError
from engine.geometry import similarity_align
from engine.pose_metrics import MM, checked, mean_distance_mm, pa_mpjpe

# 8 MB of float64: 16 times as many distances at once took 1.6 times as long on a CPU.
NUMBERS_AT_ONCE = 2**20
Interval = dict[str, float | None]  # {"mean", "low", "high"}; no bounds where they are not defined
DRAWS, INTERVAL = 2000, (2.5, 97.5)
# Key: name, unit, which is better. F-scores are of hands alone, as is usual.
METRICS = {
    "mpjpe": ("MPJPE", "mm", "lower"),
    "pa_mpjpe": ("PA-MPJPE", "mm", "lower"),
    "pve": ("PVE", "mm", "lower"),
    "pve_plain": ("PVE, plain mean", "mm", "lower"),
    "pa_pve": ("PA-PVE", "mm", "lower"),
    "pa_pve_plain": ("PA-PVE, plain mean", "mm", "lower"),
    "f5": ("F@5 mm", "", "higher"),
    "f15": ("F@15 mm", "", "higher"),
    "iou": ("IoU", "", "higher"),
}
ROWS = {
    "model": "this run",
    "scratch": "without pre-training",
    "attacked": "this run, images attacked",
    "keypoints": "this run, given true keypoints",
    "spoiled": "this run, given keypoints with a finder's faults",
    "mask": "this run, given the true outline",
    "spoiled_mask": "this run, given an outline with a finder's faults",
    "both": "this run, given true keypoints and outline",
    "spoiled_both": "this run, given keypoints and an outline with a finder's faults",
    "one_view": "this run, first view alone",
    "late": "this run, answers to each view averaged",
    "beside": "another network",
    "turned": "mean pose, rotated",
    "mean": "mean pose",
}


def vertex_areas(vertices: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
    """Return what of a surface belongs to each vertex.

    A third of the area of each of its triangles.

    A mean over vertices with these weights is the mean over the surface, to the fineness of the
    mesh. Without them it is one over wherever the mesh is fine: hands are 23 % of anny's vertices
    and less than 5 % of its area.

    Args:
        vertices: (B, V, 3), metres.  faces: (F, 3) int64.
    Returns:
        (B, V) float64, square metres; 0 for a vertex of no triangle.
    """
    corners = vertices.double()[:, faces]
    across = torch.linalg.cross(
        corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0]
    )
    thirds = torch.linalg.vector_norm(across, dim=-1) / 6
    areas = thirds.new_zeros(vertices.shape[:2])
    for corner in faces.unbind(1):
        areas.index_add_(1, corner, thirds)
    return areas


def pve(
    predicted: torch.Tensor,
    true: torch.Tensor,
    predicted_root: torch.Tensor,
    true_root: torch.Tensor,
    areas: torch.Tensor,
) -> torch.Tensor:
    """Return the mean error of the surface after the shift of MPJPE.

    Each mesh's own root keypoint is put at the origin.

    Args:
        predicted, true: (B, V, 3) vertices, metres.  predicted_root, true_root: (B, 3) root
            keypoints, metres.
        areas: (B, V) weights of the vertices, of vertex_areas of the *true* mesh: that of a
            template would weigh a child's head, or a stretched skin, by somebody else's, and the
            predicted one would let a prediction choose what counts.
    Returns:
        (B,) float64, mm.
    Raises:
        UserError: a point is not finite, or a true mesh has no area.
    """
    return _surface_mean_mm(*_rooted(predicted, true, predicted_root, true_root), areas)


def pve_plain(
    predicted: torch.Tensor,
    true: torch.Tensor,
    predicted_root: torch.Tensor,
    true_root: torch.Tensor,
) -> torch.Tensor:
    """Returns as pve, but all vertices count alike, as in protocols on one mesh.

    Comparable on that mesh alone.
    """
    return mean_distance_mm(*_rooted(predicted, true, predicted_root, true_root))


def pa_pve(predicted: torch.Tensor, true: torch.Tensor, areas: torch.Tensor) -> torch.Tensor:
    """Return the mean error of the surface after the best shift, rotation and scale.

    These are of the surface itself (not of the keypoints).

    Args:
        predicted, true: (B, V, 3) vertices, metres.  areas: as for pve; squared distances are
            weighted by them too.
    Returns:
        (B,) float64, mm.
    Raises:
        UserError: a point is not finite, or a true mesh has no area.
    """
    predicted, true = checked(predicted, true)
    return _surface_mean_mm(similarity_align(predicted, true, weights=areas), true, areas)


def pa_pve_plain(predicted: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Return as pa_pve, but all vertices count alike.

    In the alignment and in the mean, as is usual for hands.
    """
    return pa_mpjpe(predicted, true)


def _rooted(
    predicted: torch.Tensor,
    true: torch.Tensor,
    predicted_root: torch.Tensor,
    true_root: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    predicted, true = checked(
        torch.cat([predicted_root[:, None], predicted], 1), torch.cat([true_root[:, None], true], 1)
    )
    return predicted[:, 1:] - predicted[:, :1], true[:, 1:] - true[:, :1]


def _surface_mean_mm(a: torch.Tensor, b: torch.Tensor, areas: torch.Tensor) -> torch.Tensor:
    whole = areas.sum(1)
    if not (whole > 0).all():
        raise UserError(
            f"{int((~(whole > 0)).sum())} of {len(whole)} true meshes of a batch have no area"
        )
    return (torch.linalg.vector_norm(a - b, dim=-1) * areas).sum(1) / whole * MM


def f_score(
    predicted: torch.Tensor, true: torch.Tensor, threshold_m: float | Sequence[float]
) -> torch.Tensor:
    """Return the harmonic mean of precision and recall of vertices within a distance.

    After alignment as in ``pa_pve``.

    Precision: share of predicted vertices nearer than the threshold to some true vertex; recall:
        the other way round.
    Where both are 0 the score is 0. Source: Knapitsch et al., Tanks and Temples, 2017; for hands at
    5 and 15 mm, between vertices and after alignment: Zimmermann et al., FreiHAND, ICCV 2019.
    FreiHAND's own alignment may reflect, this one may not.

    Args:
        predicted, true: (B, V, 3) vertices, metres.  threshold_m: a number, or T of them, which
            share the distances.
    Returns:
        (B,) or (T, B) float64 in [0, 1].
    Raises:
        UserError: a point is not finite.
    """
    predicted, true = checked(predicted, true)
    threshold = torch.as_tensor(threshold_m, dtype=torch.float64, device=true.device)[
        ..., None, None
    ]
    precision, recall = (
        (d < threshold).double().mean(-1) for d in _nearest(similarity_align(predicted, true), true)
    )
    return 2 * precision * recall / (precision + recall).clamp_min(1e-12)


def iou(mask_a: torch.Tensor, mask_b: torch.Tensor) -> torch.Tensor:
    """Returns the intersection over union of two masks.

    Two empty masks give 0: every crop holds a person, so an empty one is a fault, which must not
    raise a mean.

    Args:
        mask_a, mask_b: (B, H, W) bool.
    Returns:
        (B,) float64 in [0, 1].
    Raises:
        ValueError: shapes differ, or a mask is not bool.
    """
    if (
        mask_a.shape != mask_b.shape
        or mask_a.ndim != 3
        or mask_a.dtype != torch.bool
        or mask_b.dtype != torch.bool
    ):
        raise ValueError(
            f"masks are (B, H, W) bool: {tuple(mask_a.shape)} {mask_a.dtype} and "
            f"{tuple(mask_b.shape)} "
            f"{mask_b.dtype}"
        )
    both, either = (mask_a & mask_b).sum((1, 2)), (mask_a | mask_b).sum((1, 2))
    return both.double() / either.clamp_min(1)


def bootstrap(
    values: np.ndarray, groups: np.ndarray, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float, float]:
    """Returns the mean and its 95 % percentile interval, by resampling whole groups.

    Crops of one clip show one person at about one instant: drawn one by one they would make the
    interval too narrow. The mean is over crops, in the data and in each draw, so a large group
    weighs more. For paired differences, pass them as ``values``. Source: Efron and Tibshirani, An
    Introduction to the Bootstrap, 1993, chapter 13; on resampling groups: Cameron, Gelbach and
    Miller, 2008. With few groups it is too narrow: with skewed values (a gamma distribution of
    shape 4) it held the truth in 81, 89, 93 and 95 % of cases for 5, 10, 20 and 100 groups.

    Args:
        values: (n,).  groups: (n,) the group of each, numbers or text.  draws: resamplings.  seed:
            of the resampling.
    Returns:
        mean, low, high: floats; the bounds are NaN where there is one group, which has nothing to
            be resampled against.
    Raises:
        UserError: there are no values, or one is not finite.
        ValueError: there are not as many groups as values.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or values.shape != np.shape(groups):
        raise ValueError(f"values of shape {values.shape} in groups of shape {np.shape(groups)}")
    if not len(values) or not np.isfinite(values).all():
        raise UserError(
            f"no mean of {len(values)} values of which {(~np.isfinite(values)).sum()} are not "
            f"finite"
        )
    names, member = np.unique(groups, return_inverse=True)
    if len(names) == 1:
        return float(values.mean()), float("nan"), float("nan")
    sums, counts = np.bincount(member, values), np.bincount(member)
    random, means = np.random.default_rng(seed), []
    at_once = max(1, NUMBERS_AT_ONCE // len(names))
    for start in range(0, draws, at_once):
        drawn = random.integers(len(names), size=(min(at_once, draws - start), len(names)))
        means.append(sums[drawn].sum(1) / counts[drawn].sum(1))
    low, high = np.percentile(np.concatenate(means), INTERVAL)
    return float(values.mean()), float(low), float(high)


def columns(kind: str) -> list[dict[str, str]]:
    """Return the ``metrics`` of evaluation.json for "body" or "hand".

    Key, name, unit and which is better, in order.
    """
    return [
        {"key": key, "name": name, "unit": unit, "better": better}
        for key, (name, unit, better) in METRICS.items()
        if kind == "hand" or key not in ("f5", "f15")
    ]


def summarise(
    per_crop: Mapping[str, Mapping[str, np.ndarray]], clips: np.ndarray
) -> tuple[list[dict], dict[str, Interval]]:
    """Returns rows and paired differences as evaluation.json holds them.

    Args:
        per_crop: {row: {metric: (n,)}}, rows out of ROWS, metrics out of METRICS.  clips: (n,) the
            clip of each crop.
    Returns:
        rows: [{"key", "name", "values": {metric: {"mean", "low", "high"}}}] in the order of ROWS;
            bounds are None where
        they are not defined.
        differences: {metric: {"mean", "low", "high"}}, "model" minus "scratch" crop by crop; empty
            without both rows.
    Raises:
        UserError: a value is not finite; the message names row and metric.
        ValueError: an unknown row or metric, or another number of values than of clips.
    """
    unknown = sorted(set(per_crop) - set(ROWS)) + sorted(
        {m for row in per_crop.values() for m in row} - set(METRICS)
    )
    if unknown:
        raise ValueError(
            f"{', '.join(unknown)}: rows are {', '.join(ROWS)}; metrics are {', '.join(METRICS)}"
        )
    values = {
        row: {
            metric: measure_interval(per_crop[row][metric], clips, f"{row}/{metric}")
            for metric in METRICS
            if metric in per_crop[row]
        }
        for row in ROWS
        if row in per_crop
    }
    model, scratch = per_crop.get("model", {}), per_crop.get("scratch", {})
    differences = {
        metric: measure_interval(
            np.asarray(model[metric]) - np.asarray(scratch[metric]), clips, f"difference/{metric}"
        )
        for metric in METRICS
        if metric in model and metric in scratch
    }
    return [
        {"key": row, "name": ROWS[row], "values": found} for row, found in values.items()
    ], differences


def compare_rows(
    per_crop: Mapping[str, Mapping[str, np.ndarray]], clips: np.ndarray, rows: Sequence[str]
) -> dict[str, dict[str, Interval]]:
    """Return {row: {metric: {"mean", "low", "high"}}}, "model" minus each row, crop by crop.

    Args:
        per_crop, clips: as for ``summarise``.  rows: of ``per_crop``.
    """
    model = per_crop["model"]
    return {
        row: {
            metric: measure_interval(
                np.asarray(model[metric]) - np.asarray(values), clips, f"difference to {row}"
            )
            for metric, values in per_crop[row].items()
        }
        for row in rows
    }


def measure_interval(values: np.ndarray, clips: np.ndarray, name: str) -> Interval:
    """Return the mean of values (n,) and its bounds, None where they are not defined.

    Args:
        clips: (n,) the clip of each.  name: of the values, for messages.
    """
    try:
        mean, low, high = bootstrap(values, clips)
    except (Failure, ValueError) as error:
        raise type(error)(f"{name}: {error}") from None
    return {
        "mean": mean,
        "low": None if np.isnan(low) else low,
        "high": None if np.isnan(high) else high,
    }


def _nearest(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (B, N) distance of each point of a to the nearest of b, metres.

    And (B, M) the other way round.
    """
    rows = max(1, NUMBERS_AT_ONCE // max(1, len(b) * b.shape[1]))
    from_a, from_b = [], b.new_full(b.shape[:2], float("inf"))
    for part in a.split(rows, 1):
        # By matrix product the distance of equal points comes out as 1e-8 and not as 0.
        distance = torch.cdist(part, b, compute_mode="donot_use_mm_for_euclid_dist")
        from_a.append(distance.amin(2))
        from_b = torch.minimum(from_b, distance.amin(1))
    return torch.cat(from_a, 1), from_b
