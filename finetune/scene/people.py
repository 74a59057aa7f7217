"""From the network's answers about images to people with full meshes."""

import numpy as np
import torch

from data.bodies.base import BodyModel
from finetune.people import make_people
from finetune.scene.find import find_people
from finetune.scene.found import FoundPerson
from finetune.scene.network import SceneAnswer

NEAREST_M = 0.1  # vertices that are nearer do not tell where in the image a person is


@torch.no_grad()
def make_scene(
    answer: SceneAnswer, K: torch.Tensor, body: BodyModel, patch: int, threshold: float
) -> list[list[FoundPerson]]:
    """Return everybody who is found in each of B images, the surest first.

    Args:
        K: (B, 3, 3) of the images.  body: the full body model.  threshold: least score.
    """
    found = find_people(answer, K, body, patch, threshold)
    cameras = K[found.image]
    vertices = found.bodies.vertices
    boxes = find_boxes(vertices, cameras).cpu().numpy()
    flip = torch.zeros_like(found.image, dtype=torch.bool)
    kinds = ["body"] * len(found.image)
    people = make_people(found.bodies, flip, body, cameras, boxes, kinds) if kinds else []
    scores, embeddings = found.score.tolist(), found.embedding.cpu().numpy()
    out: list[list[FoundPerson]] = [[] for _ in range(len(K))]
    for row, image in enumerate(found.image.tolist()):
        embedding = np.ascontiguousarray(embeddings[row], np.float32)
        out[image].append(FoundPerson(people[row], scores[row], embedding))
    return out


def find_boxes(vertices: torch.Tensor, K: torch.Tensor) -> torch.Tensor:
    """Return (n, 4) x0, y0, x1, y1 around where meshes (n, V, 3) are in images, in pixels."""
    depth = vertices[..., 2:].clamp_min(NEAREST_M)
    at = (vertices / depth) @ K.transpose(1, 2)
    behind = vertices[..., 2:] < NEAREST_M
    low = at[..., :2].masked_fill(behind, torch.inf).amin(1)
    high = at[..., :2].masked_fill(behind, -torch.inf).amax(1)
    return torch.cat([low, high], 1).nan_to_num(0.0, 0.0, 0.0)
