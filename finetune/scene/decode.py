"""From what is said of a query to a body before the camera, and back.

The anchor's pixel is its token's middle and an offset; its depth is how many metres a token spans
there, times the focal length in tokens. There the posed body's anchor is put. The body turns with
the ray through the anchor: equal looks ask for equal answers, wherever in the image.
"""

from dataclasses import replace

import torch

from data.bodies.base import BodyModel, BodyParameters
from engine.geometry import rotation_6d_to_matrix
from finetune.crop_camera import find_ray, focal_length, rotate_to_ray
from finetune.heads.base import Prediction, pose_body
from finetune.scene.network import SceneAnswer

NEAREST_M = 0.05  # depths of anchors below are taken for this


def find_pixels(answer: SceneAnswer, patch: int) -> torch.Tensor:
    """Return the (..., 2) pixels of anchors."""
    return answer.centre + answer.offset * patch


def to_span(depth: torch.Tensor, K: torch.Tensor, patch: int) -> torch.Tensor:
    """Return the (n,) log of how many metres a token spans at a depth (n,), metres."""
    return (depth.clamp_min(NEAREST_M) * patch / focal_length(K)).log()


def to_depth(span: torch.Tensor, K: torch.Tensor, patch: int) -> torch.Tensor:
    """Return the (n,) depth of which ``to_span`` gives the span (n,)."""
    return span.exp() * focal_length(K) / patch


def decode_people(
    answer: SceneAnswer, K: torch.Tensor, joint: torch.Tensor, body: BodyModel, patch: int
) -> Prediction:
    """Return the Prediction of n queries, in the cameras of their images.

    Args:
        answer: of n queries, as SceneAnswer.select gives it.
        K: (n, 3, 3) of their images.
        joint: (n,) which joint the anchor is; the true one in training.
        body: the body model whose points are wanted, coarse or full.
    """
    ray = find_ray(K, find_pixels(answer, patch))
    rotation = rotation_6d_to_matrix(answer.pose)
    root = rotate_to_ray(ray) @ rotation[:, 0]
    pose = torch.cat([root[:, None], rotation[:, 1:]], 1)
    parameters = BodyParameters(
        body.name, pose, body.shape_space.to_parameters(answer.shape), torch.zeros_like(ray)
    )
    posed = pose_body(body, parameters)
    anchor = posed.joints[torch.arange(len(joint), device=joint.device), joint]
    place = ray * to_depth(answer.span, K, patch)[:, None] - anchor
    return move_prediction(posed, parameters, place)


def move_prediction(
    posed: Prediction, parameters: BodyParameters, place: torch.Tensor
) -> Prediction:
    """Return a Prediction whose bodies are moved by ``place`` (n, 3)."""
    shift = place[:, None]
    return replace(
        posed,
        vertices=posed.vertices + shift,
        joints=posed.joints + shift,
        keypoints=posed.keypoints + shift,
        parameters=replace(parameters, translation=parameters.translation + place),
    )


def turn_to_ray(rotation: torch.Tensor, K: torch.Tensor, pixel: torch.Tensor) -> torch.Tensor:
    """Return roots' rotations (n, 3, 3) as they are about the rays through pixels (n, 2)."""
    return rotate_to_ray(find_ray(K, pixel)).transpose(1, 2) @ rotation
