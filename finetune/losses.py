"""What a prediction is compared with.

Rotations, shape, joints, vertices, projected keypoints, translation, and what a head adds.

Each is a mean over its own numbers for each crop, so that a weight means the same for bodies and
hands. What a head does not predict is left out.
"""

from collections.abc import Sequence
from operator import attrgetter
from typing import TYPE_CHECKING

import torch

from data.bodies.base import BodyParameters
from data.cropping.geometry import find_longer
from engine.errors import UserError
from engine.pose_metrics import mpjpe, pa_mpjpe
from finetune.crop_camera import lengths_of, to_image_translation
from finetune.given import compare_joints, compare_projected, tell_known
from finetune.heads.base import Head, ImagePrediction, Measure, Prediction, Term, Truth
from finetune.heads.confidence import CONFIDENCE
from finetune.heads.keypoint_maps import compare_maps

if TYPE_CHECKING:
    from finetune.config import FinetuneConfig

NEAREST_M = 0.1  # points that are nearer, or behind the camera, are projected as if they were here


def list_terms(head: Head) -> tuple[Term, ...]:
    """Returns the terms that a head's predictions have.

    Raises:
        ValueError: two have one name.
    """
    terms = OF_POINTS if head.has_mesh else ()
    terms = (*OF_PARAMETERS, *terms) if head.has_parameters else terms
    terms = (*terms, *head.list_own_terms())
    terms = (*terms, CONFIDENCE) if head.confident else terms
    names = [term.name for term in terms]
    if len(set(names)) < len(names) or "total" in names:
        raise ValueError(f"{type(head).__name__}: of its terms {names} two have one name")
    return terms


def list_measures(head: Head) -> tuple[Measure, ...]:
    """Returns what validation crops are judged by."""
    return (*(OF_MESHES if head.has_mesh else ()), *head.list_own_measures())


def compute_terms(
    terms: Sequence[Term], found: ImagePrediction, truth: Truth
) -> dict[str, torch.Tensor]:
    """Returns {term: (B,)} of predictions.

    rotation: squared Frobenius distance of rotation matrices, mean over joints; shape: squared
    distance; both of heads with parameters. joints (keypoints, in fact), vertices: metres, L1, both
    moved to their own root. keypoints_2d: L1 of projected keypoints over the image's side.
    translation: L1 of joint 0's offset in the image and of the log of its width. keypoint_maps:
    cross-entropy (heads.keypoint_maps.compare_maps). confidence: likelihood of errors
    (heads.confidence). 0 of a crop whose labels do not tell.

    Args:
        found, truth: of the same body model and vertices.
    """
    values = {term.name: term.compute(found, truth) for term in terms}
    if truth.given is None:
        return values
    for term in terms:
        known = tell_known(truth.given.present, term.needs)
        values[term.name] = torch.where(known, values[term.name], 0.0)
    return values


def weigh_terms(terms: Sequence[Term], config: "FinetuneConfig") -> dict[str, float]:
    """Returns {term: weight}.

    Raises:
        UserError: all are 0.
    """
    weights = {term.name: float(attrgetter(term.weight)(config)) for term in terms}
    if not any(weights.values()):
        names = ", ".join(term.weight for term in terms)
        raise UserError(f"head.name={config.head.name}: all weights of its losses are 0 ({names})")
    return weights


def _compare_rotations(found: Prediction, truth: Truth) -> torch.Tensor:
    a, b = _pair_parameters(found, truth)
    return (a.pose - b.pose).square().sum((2, 3)).mean(1)


def _compare_shapes(found: Prediction, truth: Truth) -> torch.Tensor:
    a, b = _pair_parameters(found, truth)
    return (a.shape - b.shape).square().mean(1)


def _pair_parameters(found: Prediction, truth: Truth) -> tuple[BodyParameters, BodyParameters]:
    a, b = found.parameters, truth.mesh.parameters
    if a is None or b is None or a.body != b.body:
        raise ValueError(f"parameters of {a and a.body} are compared with those of {b and b.body}")
    return a, b


def _compare_joints(found: Prediction, truth: Truth) -> torch.Tensor:
    if truth.given is not None:
        return compare_joints(found.keypoints, truth.given)
    here, there = about_root(found, found.keypoints), about_root(truth.mesh, truth.mesh.keypoints)
    return (here - there).abs().mean((1, 2))


def _compare_vertices(found: Prediction, truth: Truth) -> torch.Tensor:
    here, there = about_root(found, found.vertices), about_root(truth.mesh, truth.mesh.vertices)
    return (here - there).abs().mean((1, 2))


def _compare_projected(found: Prediction, truth: Truth) -> torch.Tensor:
    here = project_points(found.keypoints, truth.K) / find_longer(truth.size)
    if truth.given is not None:
        return compare_projected(here, truth.given, find_longer(truth.size))
    return (here - place_keypoints(truth)).abs().mean((1, 2))


def _compare_translations(found: Prediction, truth: Truth) -> torch.Tensor:
    here = to_image_translation(found.translation, truth.K, truth.size)
    there = to_image_translation(truth.mesh.translation, truth.K, truth.size)
    return (here - there).abs().mean(1)


def _compare_keypoint_maps(found: ImagePrediction, truth: Truth) -> torch.Tensor:
    if found.maps is None:
        raise ValueError("the prediction has no maps of keypoints")
    pixels = project_points(truth.mesh.keypoints, truth.K)
    return compare_maps(found.maps, pixels / lengths_of(truth.size, pixels))


def about_root(mesh: Prediction, points: torch.Tensor) -> torch.Tensor:
    """Returns (B, N, 3) points of a mesh about its first keypoint."""
    return points - mesh.keypoints[:, :1]


def place_keypoints(truth: Truth) -> torch.Tensor:
    """Returns (B, K, 2) true keypoints, x and y over the image's longer side from its corner.

    Those that are not labelled lie outside of it.
    """
    if truth.given is not None:
        return truth.given.points_2d / find_longer(truth.size)
    return project_points(truth.mesh.keypoints, truth.K) / find_longer(truth.size)


def project_points(points: torch.Tensor, K: torch.Tensor) -> torch.Tensor:
    """Returns (B, N, 2) pixels of points (B, N, 3) in the camera's frame.

    Those behind it are held 0.1 m before it.
    """
    depth = points[..., 2:].clamp_min(NEAREST_M)
    rays = torch.cat([points[..., :2] / depth, torch.ones_like(depth)], -1)
    return (rays @ K.transpose(1, 2))[..., :2]


def _measure_mpjpe(found: Prediction, truth: Truth) -> torch.Tensor:
    return mpjpe(found.keypoints, truth.mesh.keypoints, 0)


def _measure_pa_mpjpe(found: Prediction, truth: Truth) -> torch.Tensor:
    return pa_mpjpe(found.keypoints, truth.mesh.keypoints)


IN_THE_IMAGE = ("mesh", "keypoints")  # what tells where in the image keypoints are
OF_PARAMETERS = (
    Term("rotation", "loss.rotation", _compare_rotations),
    Term("shape", "loss.shape", _compare_shapes),
)
OF_POINTS = (
    Term("joints", "loss.joints", _compare_joints, ("mesh", "joints")),
    Term("vertices", "loss.vertices", _compare_vertices),
    Term("keypoints_2d", "loss.keypoints_2d", _compare_projected, IN_THE_IMAGE),
    Term("translation", "loss.translation", _compare_translations),
)
# Of heads that say where in the image keypoints are: a head lists it among its own terms.
KEYPOINT_MAPS = Term("keypoint_maps", "loss.keypoint_maps", _compare_keypoint_maps, IN_THE_IMAGE)
TERMS = (*OF_PARAMETERS, *OF_POINTS)
OF_MESHES = (
    Measure("mpjpe", "MPJPE", "mm", _measure_mpjpe),
    Measure("pa_mpjpe", "PA-MPJPE", "mm", _measure_pa_mpjpe),
)
