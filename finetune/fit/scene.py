"""The energy of people's bodies before cameras: what keypoints, priors and physics say of them.

S people are fitted side by side, each over T instants, the shorter ones padded. A person's numbers
are one row: the shape's free numbers, and for each instant a turn and a shift of the whole from
where the fit began and the pose's whitened numbers (finetune.fit.prior). All are about one where
a body is one standard deviation off, so that steps are alike in all directions.

The energy is minus the log of a probability, so its terms add up without weights where their
deviations are true ones.
"""

from dataclasses import dataclass

import torch

from data.bodies.base import BodyModel, BodyParameters
from data.bodies.joint_maps import JointMap
from engine.geometry import axis_angle_to_matrix
from finetune.fit.minimise import Precondition
from finetune.fit.prior import Prior
from finetune.losses import NEAREST_M

TURN_RAD, SHIFT_M = 0.3, 0.1  # units of the whole body's turn and shift
LIMIT_RAD = 0.05  # deviation beyond a joint's limit
# Detectors mark the hips on the skin and ears and eyes by guess: such points are off by more.
LOOSE = {"left_hip": 2.0, "right_hip": 2.0, "left_ear": 1.5, "right_ear": 1.5}
STILL_M = 0.01  # how far a foot that stands may slide from an instant to the next
SINK_M = 0.01  # how far a foot may go below the floor
CHUNK = 256  # bodies posed at once
# How large people and hands are, that a share of their size in the image is a length.
TALL_M = {"body": 3.0, "hand": 0.3}


@dataclass(eq=False)
class Views:
    """N images of the people.

    Attributes:
        instant: (N,) int64, person * T + instant.
        K: (N, 3, 3).  Rt: (N, 3, 4).
        points: (N, P, 2) pixels.  weights: (N, P), 0 where not seen.
        size_px: (N,) of the person.
    """

    instant: torch.Tensor
    K: torch.Tensor
    Rt: torch.Tensor
    points: torch.Tensor
    weights: torch.Tensor
    size_px: torch.Tensor


@dataclass(eq=False)
class Start:
    """Where a fit begins, and what a network says.

    Attributes:
        root: (S, T, 3, 3) rotation of joint 0.  translation: (S, T, 3).
        pose: (S, T, J, 3) rotation vectors of all joints; that of joint 0 is not read.
        shape: (S, S') free numbers.
        told: (S, T, K, 3) the body's keypoints about the first, in the world's axes, as a network
            says they are.
        told_weights: (S, T), 0 where it says nothing.
    """

    root: torch.Tensor
    translation: torch.Tensor
    pose: torch.Tensor
    shape: torch.Tensor
    told: torch.Tensor
    told_weights: torch.Tensor


@dataclass(eq=False)
class Contacts:
    """What is known of feet and floor.

    Attributes:
        up: (3,) unit vector.  floor: (S,) metres along it.
        rows: (F,) int64 keypoints of the feet.
        still: (S, T - 1, F) 1 where a foot stands from an instant to the next.
    """

    up: torch.Tensor
    floor: torch.Tensor
    rows: torch.Tensor
    still: torch.Tensor


@dataclass
class Terms:
    """Weights of an energy; see FitKeys.

    Attributes:
        sigma: share of the person's size.  reach: of sigma, beyond which an error counts less.
        told_m: deviation of the keypoints that a network says.
        acceleration: m/s^2, 0: not smoothed.
    """

    sigma: float
    reach: float
    prior: float
    shape: float
    told: float
    acceleration: float
    told_m: float = 0.08
    moves_pose: bool = True
    moves_shape: bool = True


class Scene:
    """S people over T instants before cameras.

    Args:
        body: coarse, with the points of ``points`` and its keypoints.
        points: gives the joint set of the views.
        prior: of the body model.
        views: of all people.
        known: (S, T) bool, whether an instant is one or pads.  seconds: (S, T).
        start: where the fit begins.
        frozen: a person has one pose at all instants, and only where it is differs: how a camera
            stands that nobody knows.
    """

    def __init__(
        self,
        body: BodyModel,
        points: JointMap,
        prior: Prior,
        views: Views,
        known: torch.Tensor,
        seconds: torch.Tensor,
        start: Start,
        frozen: bool = False,
    ) -> None:
        self.body, self.points, self.prior = body, points, prior
        self.views, self.known, self.start = views, known, start
        self.frozen = frozen
        if frozen:
            start.pose = start.pose[:, :1].expand_as(start.pose)
        self.people, self.instants = known.shape
        self.shapes = start.shape.shape[1]
        self.contacts: Contacts | None = None
        names = points.names
        slack = torch.tensor([LOOSE.get(name, 1.0) for name in names])
        self._slack = slack.to(views.points)
        self._weights = views.weights * points.given
        self._person = views.instant // self.instants
        # What a detector puts wrongly it puts wrongly in all images of a person, so that more of
        # them do not outweigh what is known of shapes.
        self._counted = torch.bincount(self._person, minlength=self.people).to(views.points)
        # How often an instant's pose counts by the prior: a frozen person's pose counts once.
        counts = known.sum(1, keepdim=True) if frozen else 1
        self._poses = known / counts
        self.seconds = seconds
        self._set_gaps(seconds)

    def _set_gaps(self, seconds: torch.Tensor) -> None:
        """How three instants that follow each other make an acceleration."""
        gaps = (seconds[:, 1:] - seconds[:, :-1]).clamp_min(1e-3)
        both = self.known[:, 1:] & self.known[:, :-1]
        self._gaps = gaps
        self._pairs = both
        self._triples = both[:, 1:] & both[:, :-1]

    def precondition(self, terms: Terms) -> Precondition | None:
        """Return a guess of the energy's inverse Hessian: smoothness along time, the rest alike.

        At many frames a second an acceleration is many times stiffer than a keypoint: without it
        steps are as short as the stiffest change asks for.
        """
        if self.frozen or not terms.acceleration or self.instants < 3:
            return None
        gaps = self._gaps.double()
        rows = torch.zeros(self.people, self.instants - 2, self.instants, dtype=torch.float64)
        at = torch.arange(self.instants - 2)
        whole = gaps[:, 1:] + gaps[:, :-1]
        rows[:, at, at] = 2 / (whole * gaps[:, :-1])
        rows[:, at, at + 2] = 2 / (whole * gaps[:, 1:])
        rows[:, at, at + 1] = -2 / (gaps[:, 1:] * gaps[:, :-1])
        stiffness = terms.sigma * TALL_M[self.body.kind] / terms.acceleration
        rows = rows * self._triples[..., None] * stiffness
        stiff = rows.transpose(1, 2) @ rows
        inverse = torch.linalg.inv(stiff + torch.eye(self.instants, dtype=torch.float64)).float()

        def apply(numbers: torch.Tensor) -> torch.Tensor:
            free, where, y = self._split(numbers)
            return self._join(free, inverse @ where, inverse @ y)

        return apply

    def begin(self, limit: float = 3.0) -> torch.Tensor:
        """(S, D) the numbers of the start; the pose's are at most ``limit`` deviations off."""
        count = self.people, self.instants
        fitted = self.start.pose[:, :, self.prior.joints].flatten(2)
        y = self.prior.to_whitened(fitted).clamp(-limit, limit)
        return self._join(self.start.shape, fitted.new_zeros(*count, 6), y)

    def _split(self, numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """((S, S') shape, (S, T, 6) turn and shift, (S, T, F * 3) pose) of numbers (S, D)."""
        free, moves = numbers.split((self.shapes, numbers.shape[1] - self.shapes), 1)
        if not self.frozen:
            moves = moves.unflatten(1, (self.instants, -1))
            return free, moves[..., :6], moves[..., 6:]
        where, y = moves.split((6 * self.instants, len(self.prior.mean)), 1)
        return (
            free,
            where.unflatten(1, (self.instants, 6)),
            y[:, None].expand(-1, self.instants, -1),
        )

    def _join(self, free: torch.Tensor, where: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """(S, D) numbers, of which a frozen person's pose is once: the first instant's."""
        if self.frozen:
            return torch.cat([free, where.flatten(1), y[:, 0]], 1)
        return torch.cat([free, torch.cat([where, y], -1).flatten(1)], 1)

    def pose(self, numbers: torch.Tensor) -> BodyParameters:
        """The S * T bodies that numbers (S, D) stand for."""
        free, where, y = self._split(numbers)
        turn, shift = where.split(3, -1)
        root = axis_angle_to_matrix(turn * TURN_RAD) @ self.start.root
        translation = self.start.translation + shift * SHIFT_M
        fitted = self.prior.to_pose(y).unflatten(-1, (-1, 3))
        vectors = self.start.pose.clone()
        vectors[:, :, self.prior.joints] = fitted
        pose = axis_angle_to_matrix(vectors)
        pose = torch.cat([root[:, :, None], pose[:, :, 1:]], 2)
        shape = self.body.shape_space.to_parameters(free)
        shape = shape[:, None].expand(-1, self.instants, -1)
        return BodyParameters(
            self.body.name, pose.flatten(0, 1), shape.flatten(0, 1), translation.flatten(0, 1)
        )

    def place(self, found: BodyParameters) -> tuple[torch.Tensor, torch.Tensor]:
        """((S * T, P, 3) points of the joint set, (S, T, K, 3) keypoints) of bodies, metres."""
        shape = found.shape
        if self.people == 1:
            shape = shape[:1]
        points, keypoints = [], []
        for first in range(0, len(found.pose), CHUNK):
            rows = slice(first, first + CHUNK)
            own = shape if len(shape) == 1 else shape[rows]
            vertices, joints = self.body(found.pose[rows], found.translation[rows], own)
            points.append(self.points(vertices, joints))
            keypoints.append(self.body.keypoints(vertices, joints))
        placed = torch.cat(keypoints).unflatten(0, (self.people, self.instants))
        return torch.cat(points), placed

    def project(self, points: torch.Tensor) -> torch.Tensor:
        """(N, P, 2) pixels of (S * T, P, 3) points in the views."""
        views = self.views
        own = points[views.instant]
        seen = own @ views.Rt[:, :, :3].transpose(1, 2) + views.Rt[:, None, :, 3]
        depth = seen[..., 2:].clamp_min(NEAREST_M)
        rays = torch.cat([seen[..., :2] / depth, torch.ones_like(depth)], -1)
        return (rays @ views.K.transpose(1, 2))[..., :2]

    def energy(self, numbers: torch.Tensor, terms: Terms) -> torch.Tensor:
        """(S,) of numbers (S, D)."""
        free, where, y = self._split(numbers)
        free = free if terms.moves_shape else free.detach()
        y = y if terms.moves_pose else y.detach()
        numbers = self._join(free, where, y)
        found = self.pose(numbers)
        points, keypoints = self.place(found)
        total = self._sum_people(self._compare_pixels(points, terms))
        likely = 0.5 * terms.prior * y.square().sum(-1)
        beyond = self.prior.to_pose(y)
        beyond = (beyond - self.prior.high).relu() + (self.prior.low - beyond).relu()
        likely = likely + 0.5 * (beyond / LIMIT_RAD).square().sum(-1)
        total = total + (likely * self._poses).sum(1)
        if terms.told:
            total = total + (self._compare_told(keypoints, terms) * self.known).sum(1)
        free = (free - self.prior.shape_mean) / self.prior.shape_std
        total = total + 0.5 * terms.shape * self._counted * free.square().sum(1)
        if not self.frozen and terms.acceleration and self.instants > 2:
            total = total + self._weigh_acceleration(keypoints, terms.acceleration)
        if self.contacts is not None:
            total = total + self._weigh_contacts(keypoints, self.contacts)
        return total

    def measure(self, points: torch.Tensor) -> torch.Tensor:
        """(N, P) how far points are from the keypoints, as shares of the person's size."""
        apart = self.project(points) - self.views.points
        # The derivative of a root at zero is none.
        return apart.square().sum(-1).clamp_min(1e-12).sqrt() / self.views.size_px[:, None]

    def _compare_pixels(self, points: torch.Tensor, terms: Terms) -> torch.Tensor:
        """(N,) Geman and McClure's robust cost of the distances (Statistical Methods, 1987)."""
        squared = (self.measure(points) / (terms.sigma * self._slack)).square()
        cost = squared / (1 + squared / terms.reach**2)
        return 0.5 * (cost * self._weights).sum(1)

    def _sum_people(self, values: torch.Tensor) -> torch.Tensor:
        return values.new_zeros(self.people).index_add(0, self._person, values)

    def _compare_told(self, keypoints: torch.Tensor, terms: Terms) -> torch.Tensor:
        """(S, T) how far keypoints about the root are from what the network says."""
        about = keypoints - keypoints[:, :, :1]
        squared = ((about - self.start.told) / terms.told_m).square().sum(-1)
        cost = squared / (1 + squared / 9)
        return 0.5 * terms.told * cost.sum(-1) * self.start.told_weights

    def _weigh_acceleration(self, keypoints: torch.Tensor, usual: float) -> torch.Tensor:
        """(S,) by divided differences, for instants need not be even."""
        gaps = self._gaps[..., None, None]
        speed = (keypoints[:, 1:] - keypoints[:, :-1]) / gaps
        change = 2 * (speed[:, 1:] - speed[:, :-1]) / (gaps[:, 1:] + gaps[:, :-1])
        cost = (change / usual).square().sum((2, 3))
        return 0.5 * (cost * self._triples).sum(1)

    def _weigh_contacts(self, keypoints: torch.Tensor, contacts: Contacts) -> torch.Tensor:
        feet = keypoints[:, :, contacts.rows]
        slid = (feet[:, 1:] - feet[:, :-1]) / STILL_M
        squared = slid.square().sum(-1)
        cost = (squared / (1 + squared / 25) * contacts.still).sum((1, 2))
        height = feet @ contacts.up - contacts.floor[:, None, None]
        sunk = ((-height).relu() / SINK_M).square() * self.known[..., None]
        return 0.5 * (cost + sunk.sum((1, 2)))
