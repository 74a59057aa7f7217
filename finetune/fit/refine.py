"""What a network says of people before one camera, moved onto the keypoints that were found.

The fit is that of ``counterpose fit`` (finetune/fit/fitter.py): the same energy, priors and
minimiser, begun at the network's answers. The network's word stands where the fit is no nearer to
the keypoints.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from data.bodies.base import BodyModel, mirrored, mirrored_rotation
from engine.geometry import project
from finetune.fit.answers import LEFT, Answer
from finetune.fit.config import FitKeys
from finetune.fit.fitter import Fitted, Fitter, choose_model
from finetune.fit.observed import CROP_DIGITS, Stretch, View
from finetune.fit.prior import sample_body

# Whose points are in the order of finetune.prompts.PROMPTED.
JOINT_SETS = {"body": "coco17", "hand": "hand21"}
SIZE_FLOOR = 0.25  # of the box's longer side: a person of three keypoints is no smaller than that
CARRIED_S = 0.35  # as long, between frames that fit, the fit stands without keypoints of its own
TOGETHER = 96  # instants that are fitted at once
# Unlike people whose fits become labels, who is filmed may move fast, and a rough fit is of use: of
# fists, keypoints are off by 6 % of the hand.
QUICK_MPS2, NOBODYS = 30.0, 0.08


def make_keys() -> FitKeys:
    """Return the keys of a fit that refines what a network says."""
    return FitKeys(acceleration=QUICK_MPS2, max_error=NOBODYS)


@dataclass(eq=False)
class Bodies:
    """T bodies of one shape, as a Person has its parameters.

    Attributes:
        pose: (T, J, 3, 3).  shape: (S,).  translation: (T, 3) metres.
    """

    pose: np.ndarray
    shape: np.ndarray
    translation: np.ndarray


@dataclass(eq=False)
class Seen:
    """One person, or hand, over T instants of one camera.

    Attributes:
        kind: out of data.format.clip.KINDS.
        times_s: (T,).  K: (3, 3) of the images.
        bodies: as a network sees them.
        points: (T, P, 3) x, y in pixels and confidence, in the order of finetune.prompts.PROMPTED.
        box: (T, 4) x0, y0, x1, y1 in pixels.
        slipped: (T,) bool, instants whose keypoints nobody believes (finetune.fit.jumps), nor what
            a network says that was given them; None: all are believed.
    """

    kind: str
    times_s: np.ndarray
    K: np.ndarray
    bodies: Bodies
    points: np.ndarray
    box: np.ndarray
    slipped: np.ndarray | None = None


@dataclass(eq=False)
class Asked:
    """A Seen as the fit takes it; see finetune.fit.observed and finetune.fit.answers."""

    stretch: Stretch
    answers: Mapping[int, Answer]

    @property
    def count(self) -> int:
        """How many instants there are."""
        return len(self.stretch.times_s)


class Judge:
    """Says how far bodies of one model are from keypoints that were found.

    Args:
        body: the full one.
        keys: which keypoints count.
    """

    def __init__(self, body: BodyModel, keys: FitKeys) -> None:
        self.keys = keys
        self.joint_set = JOINT_SETS[body.kind]
        self.lean, self.points = choose_model(body, self.joint_set)

    def weigh(self, seen: Seen) -> np.ndarray:
        """Return (T, P) float64 confidence of the keypoints that count, 0 of others."""
        confidence = seen.points[..., 2]
        counts = (confidence >= self.keys.confidence_min) & self.points.given.numpy()
        if seen.slipped is not None:
            counts &= ~seen.slipped[:, None]
        return np.where(counts, confidence, 0.0).astype(np.float64)

    def measure(self, seen: Seen, bodies: Bodies) -> np.ndarray:
        """Return (T,) pixels, how far bodies are from the keypoints of ``seen`` on average.

        NaN where fewer than ``fit.min_points`` of them count.
        """
        weights = self.weigh(seen)
        apart = np.linalg.norm(self._project(seen, bodies) - seen.points[..., :2], axis=-1)
        mean = (apart * weights).sum(1) / np.maximum(weights.sum(1), 1e-9)
        return np.where((weights > 0).sum(1) >= self.keys.min_points, mean, np.nan)

    def measure_people(self, seen: Seen) -> np.ndarray:
        """Return (T,) pixels, the longer side of the box of a person's keypoints."""
        known = self.weigh(seen)[..., None] > 0
        flat = seen.points[..., :2]
        high = np.where(known, flat, -np.inf).max(1)
        low = np.where(known, flat, np.inf).min(1)
        extent = np.where(np.isfinite(high), high - low, 0.0).max(1)
        longer = (seen.box[:, 2:] - seen.box[:, :2]).max(1)
        return np.maximum(extent, SIZE_FLOOR * longer).astype(np.float64)

    @torch.no_grad()
    def _project(self, seen: Seen, bodies: Bodies) -> np.ndarray:
        """(T, P, 2) pixels of the bodies' points; of those that they do not have, any."""
        pose, place = unmirror_left(seen.kind, bodies)
        shape = torch.from_numpy(bodies.shape).float()[None]
        placed = self.points(*self.lean(pose, place, shape))
        if seen.kind == LEFT:
            placed = mirrored(placed)
        placed = torch.where(self.points.given[:, None], placed, placed.new_tensor([0.0, 0.0, 1.0]))
        flat, _ = project(placed.double().numpy().reshape(-1, 3), seen.K, np.eye(3, 4))
        return flat.reshape(*placed.shape[:2], 2)


class Refiner:
    """Moves bodies of one model onto keypoints.

    Args:
        body: the full one.  keys: of the fit.
    """

    def __init__(self, body: BodyModel, keys: FitKeys) -> None:
        # Many small steps: a device would wait for them.
        on_cpu = body.vertex_ids.device.type == "cpu"
        self.body = body if on_cpu else copy.deepcopy(body).cpu()
        self.keys = keys
        self.judge = Judge(self.body, keys)

    @cached_property
    def fitter(self) -> Fitter:
        """Its priors take seconds to learn: who finds all done does not wait for them."""
        sample = sample_body(self.body)
        return Fitter(self.body, sample, self.keys, self.body.name, longest=TOGETHER)

    @torch.no_grad()
    def ask(self, seen: Seen) -> Asked:
        """Return what the fit is asked of somebody."""
        judge = self.judge
        pose, place = unmirror_left(seen.kind, seen.bodies)
        shape = torch.from_numpy(seen.bodies.shape).float()
        vertices, joints = judge.lean(pose, torch.zeros(len(pose), 3), shape[None])
        placed, keypoints = judge.points(vertices, joints), judge.lean.keypoints(vertices, joints)
        about, told = ((one - joints[:, :1]).double().numpy() for one in (placed, keypoints))
        stretch, answers = Stretch("", seen.kind, judge.joint_set), {}
        weights, sizes = judge.weigh(seen), judge.measure_people(seen)
        unasked = _have_neighbours(seen.slipped, len(seen.times_s))
        for row, time_s in enumerate(seen.times_s):
            view = View(
                "",
                round(float(time_s), CROP_DIGITS),
                seen.K,
                np.eye(3, 4),
                seen.points[row, :, :2].astype(np.float64),
                weights[row],
                float(sizes[row]),
                [],
            )
            stretch.views.append(view)
            own = place[row].double().numpy()
            if not unasked[row]:
                answers[id(view)] = Answer(about[row], told[row], pose[row], shape, own)
        return Asked(stretch, answers)

    def is_short(self, asked: Asked) -> bool:
        """Whether somebody is fitted at once, by ``fit``."""
        return asked.count <= self.fitter.longest

    def fit(self, people: Sequence[Asked]) -> list[Bodies]:
        """Return the bodies of people of short stretches, each fitted by itself."""
        answers = {number: one for asked in people for number, one in asked.answers.items()}
        found = self.fitter.fit([asked.stretch for asked in people], answers)
        return [self._read(one, one.parameters.shape[0].numpy()) for one in found]

    def fit_shape(self, asked: Asked) -> np.ndarray:
        """Return (S,) the shape of somebody with more instants, found on some of them."""
        free = self.fitter.fit_shape(asked.stretch, asked.answers)
        return self.body.shape_space.to_parameters(free).numpy()

    def fit_part(self, asked: Asked, own: range, shape: np.ndarray) -> Bodies:
        """Return the bodies of some instants, view by view, of a shape (S,) that is kept."""
        free = self.body.shape_space.to_free(torch.from_numpy(shape))
        return self._read(self.fitter.fit_part(asked.stretch, asked.answers, own, free), shape)

    def list_parts(self, asked: Asked) -> list[range]:
        """Return the instants of each part that somebody with more instants is fitted in."""
        return self.fitter.list_parts(asked.count)

    def _read(self, found: Fitted, shape: np.ndarray) -> Bodies:
        rows = torch.from_numpy(found.instant)
        pose, place = found.parameters.pose[rows], found.parameters.translation[rows]
        if found.stretch.kind == LEFT:
            pose, place = mirrored_rotation(pose), mirrored(place)
        return Bodies(pose.numpy(), shape, place.numpy())

    def choose(self, seen: Seen, fitted: Bodies) -> np.ndarray:
        """Return (T,) bool, in which instants a fit is taken.

        It is where it is nearer to the keypoints than what it began with, or as near as keypoints
        tell (``fit.sigma``), and near enough for them to be a person's (``fit.max_error``). Where
        there are none, or only such that neither is near, the instants before and after tell, if
        they are not far.
        """
        before, after = self.judge.measure(seen, seen.bodies), self.judge.measure(seen, fitted)
        sizes = self.judge.measure_people(seen)
        most = self.keys.max_error * sizes
        taken = (after <= most) & (after <= np.fmax(before, self.keys.sigma * sizes))
        telling = taken | (before <= most)
        sure = np.flatnonzero(telling)
        for row in np.flatnonzero(~telling):
            last, following = sure[sure < row][-1:], sure[sure > row][:1]
            if len(last) and len(following):
                apart_s = float(seen.times_s[following[0]] - seen.times_s[last[0]])
                taken[row] = apart_s <= CARRIED_S and taken[last[0]] and taken[following[0]]
        return taken


def _have_neighbours(slipped: np.ndarray | None, count: int) -> np.ndarray:
    """Return (T,) bool, which instants slipped beside one that did not: its answer serves both."""
    if slipped is None:
        return np.zeros(count, bool)
    beside = np.convolve(~slipped, [1, 0, 1], "same") > 0
    return slipped & beside


def unmirror_left(kind: str, bodies: Bodies) -> tuple[torch.Tensor, torch.Tensor]:
    """Return pose and place as the body model takes them: a left hand's in a mirror."""
    pose = torch.from_numpy(bodies.pose).float()
    place = torch.from_numpy(bodies.translation).float()
    return (mirrored_rotation(pose), mirrored(place)) if kind == LEFT else (pose, place)
