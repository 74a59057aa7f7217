"""From the network's answers to people: full meshes in the camera of the image that somebody
gave."""

import numpy as np
import torch

from data.bodies.models import mirrored, mirrored_rotation
from data.format.clip import KINDS
from data.loading.crops import TAGS
from finetune.losses import pixels
from finetune.person import Person

CHUNK = 16  # full meshes posed at once: 16 bodies take 60 MB


@torch.no_grad()
def meshes(found, flip, body):
    """Vertices (B, V, 3), joints (B, J, 3) and keypoints (B, K, 3) of bodies, in metres in the
    unmirrored camera's frame.

    Args:
        found: finetune.model.Body or finetune.views.Target.  flip: (B,) bool, true where its
            image was mirrored.
        body: data.bodies.models.BodyModel with its full mesh.
    """
    parts = [
        body(found.pose[i : i + CHUNK], found.root[i : i + CHUNK], found.shape[i : i + CHUNK])
        for i in range(0, len(found.pose), CHUNK)
    ]
    vertices, joints = (torch.cat(values) for values in zip(*parts, strict=True))
    points = vertices, joints, body.keypoints(vertices, joints)
    return [torch.where(flip[:, None, None], mirrored(values), values) for values in points]


def crop_people(found, seen, body, batch):
    """The Persons of whole, unturned crops in the crops' own cameras.

    Args:
        found: finetune.model.Body, or a Target, under the finetune.views.View ``seen``.  body:
            BodyModel, full.
        batch: data.loading.crops arrays as tensors.
    """
    kinds = [KINDS[part] for part in batch["tags"][:, TAGS.index("part")].tolist()]
    sizes = batch["tags"][:, TAGS.index("size")].tolist()
    boxes = np.array([[0, 0, size, size] for size in sizes], np.float32)
    return people(found, seen.flip, body, batch["K"], boxes, kinds)


def people(found, flip, body, K, boxes, kinds):
    """The Persons of bodies found in one or several images.

    Args:
        found, flip, body: as for ``meshes``.  K: (B, 3, 3) of the images that the boxes (B, 4)
            are in.  kinds: B of KINDS.
    """
    points = meshes(found, flip, body)
    flat = pixels(points[2], K).cpu().numpy()
    vertices, joints, keypoints = (values.cpu().numpy() for values in points)
    turn = flip[:, None, None, None]
    # A mirrored body is another body: a person that was mirrored for the network is mirrored back,
    # left and right swapped.
    pose = (
        torch.where(turn, mirrored_rotation(found.pose[:, body.mirror]), found.pose).cpu().numpy()
    )
    root = torch.where(flip[:, None], mirrored(found.root), found.root).cpu().numpy()
    shape, faces = found.shape.cpu().numpy(), body.faces.cpu().numpy()
    K, flipped = K.cpu().numpy(), flip.cpu().numpy()
    return [
        Person(
            kinds[i],
            boxes[i],
            vertices[i],
            faces[:, ::-1] if flipped[i] else faces,
            joints[i],
            keypoints[i],
            flat[i],
            pose[i],
            shape[i],
            root[i],
            K[i],
        )
        for i in range(len(kinds))
    ]
