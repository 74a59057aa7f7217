"""From the network's answers about images to people with full meshes."""

from dataclasses import replace

import numpy as np
import torch

from data.bodies.base import BodyModel
from finetune.heads.base import Prediction
from finetune.people import make_people
from finetune.scene.find import FoundPeople
from finetune.scene.found import FoundPerson

NEAREST_M = 0.1  # vertices that are nearer do not tell where in the image a person is


@torch.no_grad()
def make_found(found: FoundPeople, K: torch.Tensor, body: BodyModel) -> list[list[FoundPerson]]:
    """Return everybody who is found in each of B images, the surest first.

    Args:
        found: with coarse meshes or full ones.
        K: (B, 3, 3) of the images that the people are to be in: those of the network, or what these
            were cut from without rotation.
        body: the full body model.
    """
    out: list[list[FoundPerson]] = [[] for _ in range(len(K))]
    if not len(found.image):
        return out
    cameras, bodies = K[found.image], show_faces(found.bodies, found.face, body)
    boxes = find_boxes(bodies.vertices, cameras).cpu().numpy()
    flip = torch.zeros_like(found.image, dtype=torch.bool)
    people = make_people(bodies, flip, body, cameras, boxes, ["body"] * len(flip))
    scores, embeddings = found.score.tolist(), found.embedding.cpu().numpy()
    for row, image in enumerate(found.image.tolist()):
        embedding = np.ascontiguousarray(embeddings[row], np.float32)
        out[image].append(FoundPerson(people[row], scores[row], embedding))
    return out


def show_faces(bodies: Prediction, face: torch.Tensor, body: BodyModel) -> Prediction:
    """Return bodies (n) with facial actions (n, F)."""
    rows = bodies.parameters
    assert rows is not None
    vertices, joints = body(rows.pose, rows.translation, rows.shape, face)
    return replace(
        bodies, vertices=vertices, joints=joints, keypoints=body.keypoints(vertices, joints)
    )


def find_boxes(vertices: torch.Tensor, K: torch.Tensor) -> torch.Tensor:
    """Return (n, 4) x0, y0, x1, y1 around where meshes (n, V, 3) are in images, in pixels."""
    depth = vertices[..., 2:].clamp_min(NEAREST_M)
    at = ((vertices / depth) @ K.transpose(1, 2))[..., :2]
    behind = vertices[..., 2:] < NEAREST_M
    low = at.masked_fill(behind, torch.inf).amin(1)
    high = at.masked_fill(behind, -torch.inf).amax(1)
    return torch.cat([low, high], 1).nan_to_num(0.0, 0.0, 0.0)
