"""Which poses and shapes are likely: learnt from those of the generator of synthetic humans.

The poses are drawn as clips of ``data make`` draw them (data/people), and nothing is kept in a
file. A Gaussian over the rotation vectors of the joints that a fit moves says how likely a pose is.
A fit works in its whitened numbers y, pose = mean + basis @ y: there the prior is |y|^2 / 2, and a
step of one is as large for a stiff joint as for a loose one. What the poses reach and no farther
gives each joint its limits.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from data.bodies.anny_layout import ANNY
from data.bodies.base import BodyModel, BodyParameters
from data.bodies.models import open_model
from data.conversion.convert import CHUNK, Converter
from data.people.motion import even_times, sample_motion
from data.people.rig import Rig
from data.people.shapes import draw_phenotype
from engine.geometry import axis_angle_to_matrix, matrix_to_axis_angle

SOURCE = "anny"  # the body model of synthetic humans
SOURCE_HAND = "anny_hand"
SEED = 20
PEOPLE = 800
CONVERTED = 240  # of the poses, for a body model that they are converted to: 0.1 s each
GAP_S = 1.0  # between two poses of a person: they are hardly alike
FLOOR_RAD = 0.02  # standard deviation of what the generator never bends
SLACK_RAD = 0.15  # beyond the farthest of the poses
RIG_AGE = 2 / 3  # of the body whose bones' directions turn angles into rotations
CHILD_SHARE = 0.15
SHAPE_FLOOR = 0.2


@dataclass(eq=False)
class Prior:
    """A Gaussian over a body model's pose and shape.

    Attributes:
        joints: (F,) int64 joints that it is of, without joint 0.
        mean: (F * 3,) rotation vectors, relative to the parents.
        basis: (F * 3, F * 3): pose = mean + basis @ y with y of unit variance.
        low, high: (F * 3,) limits of the rotation vectors' numbers.
        rest: (J, 3) the mean of all joints, for those that are not fitted.
        shape_mean, shape_std: (S,) of the shape's free numbers (ShapeSpace.to_free).
    """

    joints: torch.Tensor
    mean: torch.Tensor
    basis: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    rest: torch.Tensor
    shape_mean: torch.Tensor
    shape_std: torch.Tensor

    def to_pose(self, y: torch.Tensor) -> torch.Tensor:
        """(..., F * 3) rotation vectors of whitened numbers (..., F * 3)."""
        return self.mean + y @ self.basis.T

    def to_whitened(self, pose: torch.Tensor) -> torch.Tensor:
        """(..., F * 3) whitened numbers of rotation vectors (..., F * 3)."""
        return torch.linalg.solve(self.basis, (pose - self.mean).unsqueeze(-1)).squeeze(-1)


@dataclass(eq=False)
class Sample:
    """Poses (N, J, 3) as rotation vectors, and shapes (N, S), of one body model."""

    pose: torch.Tensor
    shape: torch.Tensor


def sample_people(body: BodyModel, people: int = PEOPLE, seed: int = SEED) -> Sample:
    """Return poses and shapes of synthetic humans: two poses each, as anny has them.

    Args:
        body: anny, for its bones at rest.
    """
    rng = np.random.default_rng(seed)
    names = body.shape_space.names
    shape = torch.full((1, len(names)), body.shape_space.mean)
    shape[0, names.index("age")] = RIG_AGE
    still = torch.zeros(1, len(body.joint_names), 3)
    _, joints = body(still, still[:, 0], shape)
    rig = Rig(body.joint_names, joints[0].numpy())
    motions, shapes = [], []
    clock = even_times(2, GAP_S)
    for _ in range(people):
        motions.append(sample_motion(rng, clock))
        child, female = rng.random() < CHILD_SHARE, rng.random() < 0.5
        shapes += [draw_phenotype(rng, female, child, 1.0)] * 2
    angles, hands, root = (
        np.concatenate([getattr(motion, name) for motion in motions])
        for name in ("angles", "hands", "root")
    )
    pose = matrix_to_axis_angle(torch.from_numpy(rig.pose(angles, hands, root)[0]))
    return Sample(pose.float(), torch.from_numpy(np.stack(shapes)))


def sample_body(body: BodyModel, people: int = PEOPLE) -> Sample:
    """Return a Sample of any body model; anny's poses are converted to others."""
    if body.name == SOURCE:
        return sample_people(body, people)
    if body.name == SOURCE_HAND:
        return take_hands(sample_people(body.whole, people))
    if body.kind == "hand":
        source = open_model(SOURCE_HAND)
        given = take_hands(sample_people(source.whole, CONVERTED // 2))
    else:
        source = open_model(SOURCE)
        given = sample_people(source, CONVERTED // 2)
    converter = Converter(source, body)
    pose = axis_angle_to_matrix(given.pose)
    found = []
    for first in range(0, len(pose), CHUNK):
        rows = slice(first, first + CHUNK)
        # One shape for all: it is the poses that are wanted.
        shape = torch.full_like(given.shape[rows], source.shape_space.mean)
        part = BodyParameters(source.name, pose[rows], shape, torch.zeros(len(shape), 3))
        converted = converter(part)
        found.append(converted.parameters.select(slice(None)).pose[converted.reached])
    poses = matrix_to_axis_angle(torch.cat(found))
    # Numbers of SMPL's shapes have a mean of 0 and a deviation of 1 among people.
    signs = torch.tensor([-1.0, 1.0]).repeat(len(poses) // 2 + 1)[: len(poses), None]
    return Sample(poses, signs.expand(-1, len(body.shape_space.names)))


def take_hands(sample: Sample) -> Sample:
    """Return the right hands of a Sample of anny: a root and a wrist at rest, then the fingers."""
    fingers = ANNY.index_part("right_hand")[1:]
    pose = sample.pose[:, fingers]
    return Sample(torch.cat([torch.zeros_like(pose[:, :2]), pose], 1), sample.shape)


def learn_prior(body: BodyModel, sample: Sample, joints: Sequence[int]) -> Prior:
    """Return the Prior of some joints of a body model.

    Args:
        sample: of the body model.  joints: those that a fit moves, without joint 0.
    """
    chosen = torch.tensor(list(joints), dtype=torch.int64)
    pose = sample.pose[:, chosen].flatten(1).double()
    mean = pose.mean(0)
    centred = pose - mean
    covariance = centred.T @ centred / (len(pose) - 1)
    covariance += FLOOR_RAD**2 * torch.eye(len(mean), dtype=torch.float64)
    values, vectors = torch.linalg.eigh(covariance)
    basis = vectors * values.sqrt()
    free = body.shape_space.to_free(sample.shape)
    return Prior(
        chosen,
        mean.float(),
        basis.float(),
        (pose.amin(0) - SLACK_RAD).float(),
        (pose.amax(0) + SLACK_RAD).float(),
        sample.pose.mean(0),
        free.mean(0),
        free.std(0).clamp_min(SHAPE_FLOOR),
    )
