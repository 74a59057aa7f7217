"""From the network's predictions to people.

Full meshes in the camera of the image that somebody gave.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from data.bodies.base import BodyModel, BodyParameters, mirrored, mirrored_rotation
from data.format.clip import KINDS
from data.loading.crops import TAGS
from engine.geometry import project
from finetune.heads.base import Prediction, pose_body
from finetune.losses import project_points
from finetune.person import Person
from finetune.views import View


@torch.no_grad()
def unmirror(found: Prediction, flip: torch.Tensor, body: BodyModel) -> Prediction:
    """Returns a Prediction in the unmirrored cameras' frames.

    A mirrored body is another body: a person that was mirrored for the network is mirrored back,
    left and right swapped. Points keep the numbers that they have in the mirror.

    Args:
        flip: (B,) bool, true where the image was mirrored.
        body: the body model of the prediction.
    """
    vertices, joints, keypoints = (
        torch.where(flip[:, None, None], mirrored(points), points)
        for points in (found.vertices, found.joints, found.keypoints)
    )
    parameters = found.parameters
    if parameters is not None:
        parameters = body.mirror_parameters(parameters, flip)
    return Prediction(
        vertices, joints, keypoints, parameters, found.uncertainty, found.vertex_uncertainty
    )


def list_kinds(tags: torch.Tensor) -> list[str]:
    """Returns what each crop shows, out of data.format.clip.KINDS, by its tags."""
    return [KINDS[part] for part in tags[:, TAGS.index("part")].tolist()]


def crop_people(
    found: Prediction, seen: View, body: BodyModel, batch: Mapping[str, torch.Tensor]
) -> list[Person]:
    """Returns the Persons of whole, unrotated crops in the crops' own cameras.

    Args:
        found: with full meshes, under the View ``seen``.
        body: the full body model.
        batch: data.loading.crops arrays as tensors.
    """
    sizes = batch["tags"][:, TAGS.index("size")].tolist()
    boxes = np.array([[0, 0, size, size] for size in sizes], np.float32)
    return make_people(found, seen.flip, body, batch["K"], boxes, list_kinds(batch["tags"]))


@torch.no_grad()
def repose_person(
    person: Person, body: BodyModel, pose: np.ndarray, shape: np.ndarray, translation: np.ndarray
) -> Person:
    """Return a person with other parameters, posed by them.

    Args:
        body: the full body model.
        pose, shape, translation: as Person has them; a left hand's are its own.
    """
    device = body.vertex_ids.device
    turns, place, numbers = (
        torch.from_numpy(np.ascontiguousarray(one, np.float32))[None].to(device)
        for one in (pose, translation, shape)
    )
    is_left = person.kind == "left_hand"
    if is_left:
        turns, place = mirrored_rotation(turns), mirrored(place)
    posed = pose_body(body, BodyParameters(body.name, turns, numbers, place))
    vertices, joints, keypoints = (
        (mirrored(points) if is_left else points)[0].cpu().numpy()
        for points in (posed.vertices, posed.joints, posed.keypoints)
    )
    return replace(
        person,
        pose=pose,
        shape=shape,
        translation=translation,
        vertices=vertices,
        joints=joints,
        keypoints=keypoints,
        keypoints_2d=project(keypoints, person.intrinsics, np.eye(3, 4))[0],
    )


def make_people(
    found: Prediction,
    flip: torch.Tensor,
    body: BodyModel,
    K: torch.Tensor,
    boxes: np.ndarray | Sequence[np.ndarray],
    kinds: Sequence[str],
) -> list[Person]:
    """Returns the Persons found in one or several images.

    Args:
        found, flip, body: as for ``unmirror``, with full meshes.
        K: (B, 3, 3) of the images that the boxes (B, 4) are in.
        kinds: B of data.format.clip.KINDS.
    """
    if body.faces is None:
        raise ValueError(f"a coarse {body.name} has no faces: people need the full one")
    found = unmirror(found, flip, body)
    flat = project_points(found.keypoints, K).cpu().numpy()
    vertices, joints, keypoints, translation = (
        points.cpu().numpy()
        for points in (found.vertices, found.joints, found.keypoints, found.translation)
    )
    pose = shape = [None] * len(kinds)
    if found.parameters is not None:
        pose = found.parameters.pose.cpu().numpy()
        shape = found.parameters.shape.cpu().numpy()
    unsure, unsure_surface = (
        [None] * len(kinds) if values is None else values.cpu().numpy()
        for values in (found.uncertainty, found.vertex_uncertainty)
    )
    faces = body.faces.cpu().numpy()
    intrinsics, flipped = K.cpu().numpy(), flip.cpu().numpy()
    people = []
    for i, kind in enumerate(kinds):
        person = Person(
            kind=kind,
            box=boxes[i],
            vertices=vertices[i],
            faces=faces[:, ::-1] if flipped[i] else faces,
            joints=joints[i],
            keypoints=keypoints[i],
            keypoints_2d=flat[i],
            pose=pose[i],
            shape=shape[i],
            translation=translation[i],
            intrinsics=intrinsics[i],
            uncertainty=unsure[i],
            vertex_uncertainty=unsure_surface[i],
        )
        people.append(person)
    return people
