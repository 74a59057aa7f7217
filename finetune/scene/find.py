"""From what is said of an image's places to the people who are in it."""

from dataclasses import dataclass

import torch

from data.bodies.base import BodyModel
from finetune.heads.base import Prediction
from finetune.scene.decode import decode_people, find_pixels
from finetune.scene.network import SceneAnswer

# Least score of those who are told of: where F1 on validation frames was best, early in a training
# (at 0.5 only a third of the people were found, nine of ten rightly).
THRESHOLD = 0.35
SAME_M = 0.12  # mean distance of keypoints, both bodies at one depth, within which two are one
SAME_TOKENS = 1.5  # and of anchors in the image


@dataclass(eq=False)
class FoundPeople:
    """The n people who are found in B images.

    Attributes:
        image: (n,) long, in which; equal ones follow each other, the surest first.
        score: (n,) in [0, 1].
        bodies: of the n, in the cameras of the images.
        face: (n, F).  embedding: (n, E).  pixel: (n, 2) of the anchors.
    """

    image: torch.Tensor
    score: torch.Tensor
    bodies: Prediction
    face: torch.Tensor
    embedding: torch.Tensor
    pixel: torch.Tensor


def find_people(
    answer: SceneAnswer, K: torch.Tensor, body: BodyModel, patch: int, threshold: float
) -> FoundPeople:
    """Return who is found.

    Args:
        K: (B, 3, 3) of the images.  body: whose points are wanted, coarse or full.
        threshold: least score.
    """
    scores = answer.confidence.sigmoid()
    image, query = choose_queries(scores, threshold)
    picked = answer.select(image, query)
    bodies = decode_people(picked, K[image], picked.anchor.argmax(1), body, patch)
    pixel = find_pixels(picked, patch)
    kept = drop_twice(image, pixel / patch, bodies.keypoints)
    rows = bodies.parameters
    assert rows is not None
    return FoundPeople(
        image[kept],
        scores[image, query][kept],
        Prediction(
            bodies.vertices[kept],
            bodies.joints[kept],
            bodies.keypoints[kept],
            rows.select(kept),
        ),
        picked.face[kept],
        picked.embedding[kept],
        pixel[kept],
    )


def choose_queries(scores: torch.Tensor, threshold: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ((n,) images, (n,) queries) of scores (B, Q) that reach it, the surest first."""
    image, query = (scores >= threshold).nonzero().unbind(1)
    order = scores[image, query].argsort(descending=True, stable=True)
    order = order[image[order].argsort(stable=True)]
    return image[order], query[order]


def drop_twice(image: torch.Tensor, at: torch.Tensor, keypoints: torch.Tensor) -> torch.Tensor:
    """Return the (m,) numbers of people who are no second answer about a surer one.

    That is one whose anchor is near the other's and whose body lies on the other's in the image,
    as large: somebody who stands behind somebody else looks smaller.

    Args:
        image: (n,) sorted by sureness within each.  at: (n, 2) anchors in tokens.
        keypoints: (n, K, 3) metres.
    """
    depth = keypoints[..., 2].mean(1).clamp_min(0.1)
    flat = keypoints / depth[:, None, None]
    apart = (flat[:, None] - flat[None]).norm(dim=-1).mean(-1) * (depth[:, None] + depth) / 2
    same = (apart < SAME_M) & (torch.cdist(at, at) < SAME_TOKENS)
    same &= image[:, None] == image
    kept: list[int] = []
    near = same.tolist()
    for row in range(len(image)):
        if not any(near[row][other] for other in kept):
            kept.append(row)
    return torch.tensor(kept, dtype=torch.long, device=image.device)
