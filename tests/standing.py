"""Made people who stand on a floor before a tilted camera, for tests of scenes."""

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from data.bodies.base import BodyParameters
from finetune.heads.base import pose_body
from finetune.people import make_people

SIZE = 640, 480
K = np.array([[560.0, 0, 320], [0, 560, 240], [0, 0, 1]])
HEIGHT_M = 1.5  # of the camera


def tilt(pitch_deg, roll_deg):
    """(3, 3) from level axes (x right, y down, z forward) to those of a camera that looks down."""
    return Rotation.from_euler("xz", [pitch_deg, roll_deg], degrees=True).as_matrix()


def stand(body, places, camera, seed=0, lean_deg=0.0, yaws_deg=None):
    """People of a body model in its rest pose, the lowest point of each on the floor.

    ``places``: (n, 2) metres right and forward of the camera.  ``camera``: (3, 3) of ``tilt``.
    ``lean_deg``: how far each leans, in a direction of its own.  ``yaws_deg``: which way each
    faces, 0 to the camera; None: anywhere.
    """
    random, count = np.random.default_rng(seed), len(places)
    yaws = random.uniform(0, 360, count) if yaws_deg is None else np.asarray(yaws_deg, float)
    upright = Rotation.from_euler("x", 90, degrees=True)  # the model's up is z
    ways = random.uniform(0, 2 * np.pi, count)
    axes = np.stack([np.cos(ways), np.zeros(count), np.sin(ways)], 1)
    roots = Rotation.from_rotvec(np.deg2rad(lean_deg) * axes)
    roots = roots * Rotation.from_euler("y", yaws[:, None], degrees=True) * upright
    pose = torch.eye(3).repeat(count, len(body.joint_names), 1, 1)
    pose[:, 0] = torch.tensor(camera @ roots.as_matrix(), dtype=torch.float32)
    space = body.shape_space
    free = torch.tensor(random.normal(0, 0.4, (count, len(space.names))), dtype=torch.float32)
    shape = space.to_parameters(free)
    nowhere = torch.zeros(count, 3)
    level = (
        pose_body(body, BodyParameters(body.name, pose, shape, nowhere)).vertices.numpy() @ camera
    )
    lowest = level[..., 1].max(1)
    x, z = np.asarray(places, float).T
    roots_at = np.stack([x, HEIGHT_M - lowest, z], 1) @ camera.T
    place = torch.tensor(roots_at, dtype=torch.float32)
    posed = pose_body(body, BodyParameters(body.name, pose, shape, place))
    cameras = torch.tensor(K).float().expand(count, 3, 3)
    flat = posed.vertices / posed.vertices[..., 2:].clamp_min(0.05) @ cameras.transpose(1, 2)
    boxes = torch.cat([flat[..., :2].amin(1), flat[..., :2].amax(1)], 1).numpy()
    nobody = torch.zeros(count, dtype=torch.bool)
    return make_people(posed, nobody, body, cameras, boxes, ["body"] * count)
