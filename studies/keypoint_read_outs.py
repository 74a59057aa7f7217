"""Keypoints in the image read off frozen features, judged on real crops scene by scene.

A ridge regression takes the pooled features of the probe to keypoints in shares of the crop's side.
``real``: fitted to the row's labelled synthetic people. ``real_fitted``: fitted to the found
keypoints of all other scenes. ``real_later``: fitted to those of the same scene, each person and
camera, in the first part of the time, and judged on the last. Found keypoints are what the finder
says, no measurement.
"""

from collections.abc import Iterator

import numpy as np
import torch

from engine.distributed.process_group import Processes
from engine.errors import UserError
from pretrain import probe, ridge
from pretrain.encoders import Frozen
from pretrain.probe_split import Split
from studies.real_crops import PointSplit, read_made_points

MISSED = 0.2  # of the box's longer side: PCK@0.2 counts what is nearer
EARLY, LATE = 0.55, 0.65  # of the time: what comes before is fitted to, what comes after is judged
LEAST_ROWS = 10  # crops that a keypoint is fitted to; with fewer it is not judged

Found = dict[str, list[float] | float | dict[str, float]]


def measure_real(
    encoder: Frozen,
    features: torch.Tensor,
    fit: Split,
    real: PointSplit,
    processes: Processes,
) -> dict[str, Found]:
    """Return the read-outs of real crops.

    {"real", "real_fitted", "real_later": {"percent", "missed": [mean of each scene], "lambda",
    "constant": {"percent", "missed"}}}: mean distance of the found keypoints as a share of the
    person's box (its longer side), and how many of them are off by MISSED of it or more, both in
    percent. "constant": the mean place of each keypoint, the same for everybody. "lambda" of the
    last two is a list, one for each scene. "real_later" is left out where a scene is too short.

    Args:
        features: as probe.features gives them for the labelled Split ``fit``.
    """
    seen = probe.features(encoder, real.crops, "body", processes).double().cpu()
    made = features.double().cpu(), torch.from_numpy(read_made_points(fit))
    found = {
        "real": read_off_made(*made, torch.from_numpy(fit.part != 0), seen, real),
        "real_fitted": read_off_others(seen, real),
    }
    later = read_off_earlier(seen, real)
    return found if later is None else found | {"real_later": later}


def read_off_made(
    x: torch.Tensor,
    points: torch.Tensor,
    chosen_by: torch.Tensor,
    x_new: torch.Tensor,
    real: PointSplit,
) -> Found:
    """Return the read-out of real crops with features ``x_new``, fitted to synthetic people.

    Args:
        x: (n, D) float64 features.  points: (n, K, 2) keypoints.  chosen_by: (n,) bool: lambda is
            chosen by these, fitted to the others.
    """
    y, shape = points.flatten(1), points.shape[1:]

    def error(guess: torch.Tensor) -> float:
        return float((guess.unflatten(1, shape) - points[chosen_by]).norm(dim=2).mean())

    chosen = ridge.choose(x[~chosen_by], y[~chosen_by], x[chosen_by], error)
    guess = ridge.predict(x, y, x_new, chosen).unflatten(1, shape)
    still = points.mean(0).expand_as(guess)
    return _tell(guess, still, real) | {"lambda": chosen}


def read_off_others(x: torch.Tensor, real: PointSplit) -> Found:
    """Return the read-out of real crops with features ``x``, each scene fitted to all others."""
    guess, still, chosen = predict_from_others(x, real)
    return _tell(guess, still, real) | {"lambda": chosen}


def read_off_earlier(x: torch.Tensor, real: PointSplit) -> Found | None:
    """Return the read-out with features ``x`` of what is late in a scene, fitted to what is early.

    None where too few crops of a scene are early.
    """
    guess, still, chosen = predict_from_earlier(x, real)
    judged = np.isfinite(guess.numpy()).all(2) & real.known
    scenes = {int(scene) for scene in real.crops.clip[judged.any(1)]}
    if len(scenes) < len(real.scenes):
        return None
    return _tell(guess, still, real) | {"lambda": chosen}


def predict_from_earlier(
    x: torch.Tensor, real: PointSplit
) -> tuple[torch.Tensor, torch.Tensor, list[float]]:
    """As predict_from_others, of crops of which LATE of the time has passed, by the EARLY ones.

    NaN elsewhere. A scene's lambda is chosen likewise within its early part.
    """
    points = torch.from_numpy(real.points)
    scene, progress = torch.from_numpy(real.crops.clip), torch.from_numpy(real.progress)
    guess, still = torch.full_like(points, torch.nan), torch.full_like(points, torch.nan)
    chosen = []
    for number in range(len(real.scenes)):
        early = (scene == number) & (progress <= EARLY)
        late = (scene == number) & (progress >= LATE)
        chosen.append(_choose_by_time(x, real, early))
        guess[late], still[late] = _predict(x, real, early, late, chosen[-1])
    return guess, still, chosen


def _choose_by_time(x: torch.Tensor, real: PointSplit, early: torch.Tensor) -> float:
    """The best of ridge.LAMBDAS over the last of some rows, predicted from the first of them."""
    points, known = torch.from_numpy(real.points), torch.from_numpy(real.known)
    progress, side = torch.from_numpy(real.progress), torch.from_numpy(real.side)
    first, last = early & (progress <= EARLY**2), early & (progress >= EARLY * LATE)
    errors = np.zeros(len(ridge.LAMBDAS))
    for rows, which in _group_known(known, first):
        y, true = points[rows][:, which], points[last][:, which]
        there = known[last][:, which]
        for place, guess in enumerate(ridge.predict_each(x[rows], y.flatten(1), x[last])):
            off = (guess.unflatten(1, y.shape[1:]) - true).norm(dim=2) / side[last, None]
            errors[place] += float(off[there].sum())
    return ridge.find_least(errors.tolist())


def predict_from_others(
    x: torch.Tensor, real: PointSplit
) -> tuple[torch.Tensor, torch.Tensor, list[float]]:
    """Return keypoints (n, K, 2) of each scene by all others, their means there, and lambdas.

    NaN where too few of the others have a keypoint. A scene's lambda, one for all keypoints, is the
    one with the least mean distance, as a share of the box, over the fitting scenes, each predicted
    from the rest of them: the judged scene takes no part.
    """
    points, scene = torch.from_numpy(real.points), torch.from_numpy(real.crops.clip)
    guess, still = torch.full_like(points, torch.nan), torch.full_like(points, torch.nan)
    chosen = []
    for judged in range(len(real.scenes)):
        others, mine = scene != judged, scene == judged
        chosen.append(_choose_by_scenes(x, real, others))
        guess[mine], still[mine] = _predict(x, real, others, mine, chosen[-1])
    return guess, still, chosen


def _predict(
    x: torch.Tensor,
    real: PointSplit,
    fitting: torch.Tensor,
    judged: torch.Tensor,
    chosen: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keypoints (m, K, 2) of the m judged rows by the fitting ones, and their means there."""
    points, known = torch.from_numpy(real.points), torch.from_numpy(real.known)
    guess = torch.full_like(points[judged], torch.nan)
    still = guess.clone()
    for rows, which in _group_known(known, fitting):
        y = points[rows][:, which]
        found = ridge.predict(x[rows], y.flatten(1), x[judged], chosen)
        guess[:, which], still[:, which] = found.unflatten(1, y.shape[1:]), y.mean(0)
    return guess, still


def _choose_by_scenes(x: torch.Tensor, real: PointSplit, fitting: torch.Tensor) -> float:
    """The best of ridge.LAMBDAS over the scenes of some rows, each predicted from the rest."""
    points, known = torch.from_numpy(real.points), torch.from_numpy(real.known)
    scene, side = torch.from_numpy(real.crops.clip), torch.from_numpy(real.side)
    errors = np.zeros(len(ridge.LAMBDAS))
    for held in scene[fitting].unique():
        by = fitting & (scene == held)
        away = torch.full((len(ridge.LAMBDAS), int(by.sum()), points.shape[1]), torch.nan)
        for rows, which in _group_known(known, fitting & (scene != held)):
            y, true = points[rows][:, which], points[by][:, which]
            each = ridge.predict_each(x[rows], y.flatten(1), x[by])
            for number, guess in enumerate(each):
                off = (guess.unflatten(1, y.shape[1:]) - true).norm(dim=2)
                away[number][:, which] = (off / side[by, None]).float()
        away[:, ~known[by]] = torch.nan
        if away.isfinite().any():
            errors += away.flatten(1).nanmean(1).numpy()
    return ridge.find_least(errors.tolist())


def _group_known(
    known: torch.Tensor, wanted: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield (rows, keypoints) that are fitted at once: keypoints known in the very same rows.

    Of the wanted rows. A keypoint that fewer than LEAST_ROWS know is left out.
    """
    there = known & wanted[:, None]
    patterns, group = there.unique(dim=1, return_inverse=True)
    for number, pattern in enumerate(patterns.T):
        if pattern.sum() >= LEAST_ROWS:
            yield pattern.nonzero()[:, 0], (group == number).nonzero()[:, 0]


def _tell(guess: torch.Tensor, still: torch.Tensor, real: PointSplit) -> Found:
    """The errors of a prediction (n, K, 2) by scene, and those of one that no image changes."""
    constant = {
        name: round(float(np.mean(values)), 3) for name, values in tell_errors(still, real).items()
    }
    return {**tell_errors(guess, real), "constant": constant}


def tell_errors(guess: torch.Tensor, real: PointSplit) -> dict[str, list[float]]:
    """Return {"percent", "missed": [mean over known keypoints of each scene]}; see measure_real.

    Args:
        guess: (n, K, 2) shares of the crop's side, NaN where nothing was read off.
    """
    away = np.linalg.norm(guess.numpy() - real.points, axis=2) / real.side[:, None]
    known = real.known & np.isfinite(away)
    out: dict[str, list[float]] = {"percent": [], "missed": []}
    for scene, name in enumerate(real.scenes):
        here = away[(real.crops.clip == scene)[:, None] & known]
        if not len(here):
            raise UserError(
                f"real.shards: scene {name} has keypoints that fewer than {LEAST_ROWS} crops of "
                f"all other scenes have; give more scenes, or leave it out"
            )
        out["percent"].append(round(100 * float(here.mean()), 3))
        out["missed"].append(round(100 * float((here >= MISSED).mean()), 3))
    return out
