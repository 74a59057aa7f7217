"""Where a fit begins: of several guesses for each instant the one that the keypoints fit best.

Guesses are a network's answer to each camera's image, the mean pose turned onto what calibrated
cameras triangulate, and the mean pose facing all ways. Each is moved to where its points fit
the keypoints of all cameras, by linear least squares, and then judged by all of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from data.bodies.base import BodyModel
from data.bodies.joint_maps import JointMap
from data.sources.multicam.rays import triangulate_many
from engine.geometry import matrix_to_axis_angle, project
from finetune.fit.answers import Answer
from finetune.fit.observed import View
from finetune.fit.prior import Prior

WAYS = 8  # directions that the mean pose is turned to
REACH = 0.15  # of the person's size: a keypoint that is off by more costs no more
LEAST_TRIANGULATED = 5
LEAST_PLACED = 4  # keypoints; with fewer a network that says where somebody is knows better
BEHIND = 1e6  # cost of a guess behind a camera


@dataclass(eq=False)
class Guess:
    """Where a body may be at an instant.

    Attributes:
        root: (3, 3) rotation of joint 0.
        points: (P, 3) of the joint set about joint 0, in the world's axes; NaN where none.
        answer: the network's that it is made of, or None.
        translation: (3,).  cost: of the distances in the images.
    """

    root: np.ndarray
    points: np.ndarray
    answer: Answer | None = None
    translation: np.ndarray | None = None
    cost: float = float("inf")

    @property
    def place(self) -> np.ndarray:
        """(3,) its translation, which it has once it was moved to keypoints."""
        assert self.translation is not None
        return self.translation


class Guesser:
    """Makes guesses for one body model and joint set.

    Args:
        body: coarse.  points: of the joint set.  prior: whose mean is guessed.
        network_body: name of the body model that answers are of.
    """

    def __init__(
        self, body: BodyModel, points: JointMap, prior: Prior, network_body: str = ""
    ) -> None:
        self.body, self.prior = body, prior
        self.is_same = network_body == body.name
        rest = prior.rest[None].clone()
        rest[:, 0] = 0
        shape = body.shape_space.to_parameters(prior.shape_mean[None])
        with torch.no_grad():
            vertices, joints = body(rest, torch.zeros(1, 3), shape)
            placed = points(vertices, joints)[0] - joints[0, 0]
            keypoints = body.keypoints(vertices, joints)[0] - joints[0, 0]
        self.rest_points = np.where(points.given[:, None], placed.double().numpy(), np.nan)
        self.rest_keypoints = keypoints.double().numpy()

    def choose(
        self, views: Sequence[View], answers: Mapping[int, Answer], more: Sequence[Answer]
    ) -> Guess:
        """Return the best Guess of an instant.

        Args:
            views: of the instant.  answers: by id of a view.  more: of instants beside it.
        """
        told = [answers[id(view)] for view in views if id(view) in answers]
        guesses = [self._take(answer) for answer in (*told, *more)]
        guesses += self._triangulate(views)
        if not guesses:
            guesses = self._look_around(views)
        for guess in guesses:
            _place(guess, views)
        return min(guesses, key=lambda guess: guess.cost)

    def _take(self, answer: Answer) -> Guess:
        if self.is_same and answer.pose is not None:
            root = answer.pose[0].double().numpy()
        else:
            root = find_rotation(self.rest_keypoints, answer.keypoints)
        points = np.where(np.isnan(self.rest_points), np.nan, answer.points)
        return Guess(root, points, answer)

    def _triangulate(self, views: Sequence[View]) -> list[Guess]:
        """The mean pose turned onto triangulated points."""
        if len(views) < 2:
            return []
        found = triangulate_many(
            np.stack([view.points for view in views]),
            np.stack([view.weights for view in views]),
            np.stack([view.K for view in views]),
            np.stack([view.Rt for view in views]),
        )
        known = np.isfinite(found).all(1) & np.isfinite(self.rest_points).all(1)
        if known.sum() < LEAST_TRIANGULATED:
            return []
        root = find_rotation(self.rest_points[known], found[known])
        return [Guess(root, self.rest_points @ root.T)]

    def _look_around(self, views: Sequence[View]) -> list[Guess]:
        """The mean pose, upright in the first view, facing all ways."""
        turn = views[0].Rt[:, :3].T
        # Body models stand along z (anny) or y (SMPL's family) at rest.
        tall = self.rest_points[np.isfinite(self.rest_points).all(1)]
        axis = int(np.ptp(tall, 0)[1:].argmax()) + 1
        upright = np.diag([1.0, -1.0, -1.0])
        if axis == 2:
            upright = upright @ np.array([[1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]])
        guesses = []
        for way in range(WAYS):
            angle = 2 * np.pi * way / WAYS
            cos, sin = np.cos(angle), np.sin(angle)
            about = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
            root = turn @ about @ upright
            guesses.append(Guess(root, self.rest_points @ root.T))
        return guesses


def _place(guess: Guess, views: Sequence[View]) -> None:
    """Set where a guess is, and its cost there."""
    rows, right = [], []
    for view in views:
        ray = (view.points - view.K[:2, 2]) @ np.linalg.inv(view.K[:2, :2]).T
        weight = view.weights * view.K[0, 0] / view.size_px
        known = (weight > 0) & np.isfinite(guess.points).all(1)
        R, t = view.Rt[:, :3], view.Rt[:, 3]
        # (R (X + T) + t) x the ray = 0, of which two rows count.
        seen = guess.points[known] @ R.T + t
        for axis in (0, 1):
            row = R[axis] - ray[known, axis, None] * R[2]
            rows.append(row * weight[known, None])
            right.append((ray[known, axis] * seen[:, 2] - seen[:, axis]) * weight[known])
    matrix, target = np.concatenate(rows), np.concatenate(right)
    known_place = None if guess.answer is None else guess.answer.place
    if len(matrix) < 2 * LEAST_PLACED and known_place is not None:
        guess.translation, guess.cost = known_place, 0.0
        return
    if len(matrix) < 4:
        return
    guess.translation = np.linalg.lstsq(matrix, target, rcond=None)[0]
    guess.cost = sum(_judge(guess, view) for view in views)


def _judge(guess: Guess, view: View) -> float:
    pixels, depth = project(guess.points + guess.place, view.K, view.Rt)
    known = (view.weights > 0) & np.isfinite(guess.points).all(1)
    if (depth[known] <= 0).any():
        return BEHIND
    apart = np.linalg.norm(pixels[known] - view.points[known], axis=1) / view.size_px
    squared = (apart / REACH) ** 2
    return float((view.weights[known] * squared / (1 + squared)).sum())


def find_rotation(rest: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(3, 3) rotation that takes points (N, 3) at rest onto others best, whatever their shift.

    Wahba's problem, by singular values.
    """
    moment = (points - points.mean(0)).T @ (rest - rest.mean(0))
    u, _, vh = np.linalg.svd(moment)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vh))])
    return (u * sign) @ vh


def start_pose(guess: Guess, prior: Prior, is_same: bool) -> torch.Tensor:
    """(J, 3) rotation vectors that a fit begins with."""
    if is_same and guess.answer is not None and guess.answer.pose is not None:
        return matrix_to_axis_angle(guess.answer.pose)
    return prior.rest
