"""Fits stretches of people: from keypoints and guesses to bodies, with an error for each view."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from data.bodies.base import BodyModel, BodyParameters
from data.bodies.joint_maps import JointMap
from engine.errors import UserError
from engine.geometry import matrix_to_axis_angle
from finetune.fit.answers import LEFT, Answer, mirror_camera
from finetune.fit.config import FitKeys
from finetune.fit.contacts import find_contacts
from finetune.fit.minimise import minimise
from finetune.fit.observed import Stretch, View
from finetune.fit.prior import Prior, Sample, learn_prior
from finetune.fit.scene import Scene, Start, Terms, Views
from finetune.fit.start import Guess, Guesser, start_pose

WIDE, NARROW = 30.0, 4.0  # reach of an error in sigmas, at first and at last
LONGEST, BESIDE = 240, 4  # instants that are fitted at once; of them beside a part, each side
NEIGHBOURS_S = 0.5  # a network's answer serves as a guess for instants so near
LIKE_ROOT = 0.9  # of a hand's points that a joint moves, to count as its root
MOVED_SHARE = 2e-3  # a joint is fitted if a radian of it moves a point so far, over their spread


@dataclass(eq=False)
class Fitted:
    """A stretch with its bodies.

    Attributes:
        stretch: the one that was fitted.
        parameters: of its T instants, in the world's axes; a left hand's in a mirror.
        instant: (N,) of each view.
        errors: (N,) mean distance of each view's keypoints, as a share of the person's size.
        errors_px: (N,) the same in pixels of the crop.
        energy: of the bodies, without what a network says of them: of two fits of a stretch the
            better one has less.
    """

    stretch: Stretch
    parameters: BodyParameters
    instant: np.ndarray
    errors: np.ndarray
    errors_px: np.ndarray
    energy: float

    def find_instants(self, most: float) -> np.ndarray:
        """(T,) bool, which instants fit: whose views' mean error is at most that."""
        count = len(self.parameters.pose)
        total = np.bincount(self.instant, self.errors, count)
        return total / np.bincount(self.instant, minlength=count) <= most


class Fitter:
    """Fits one body model.

    Args:
        body: the full one.  sample: of its poses, for the prior.
        keys: how it is fitted.
        network_body: name of the body model that answers are of, or "".
        up: axis of the world that points up, such as "z"; "": nobody knows.
        longest: instants that are fitted at once, at most.
    """

    def __init__(
        self,
        body: BodyModel,
        sample: Sample,
        keys: FitKeys,
        network_body: str = "",
        up: str = "",
        longest: int = LONGEST,
    ) -> None:
        self.body, self.sample, self.keys = body, sample, keys
        self.network_body, self.up, self.longest = network_body, up, longest
        self._tools: dict[str, tuple[BodyModel, JointMap, Prior, Guesser]] = {}

    def fit(self, stretches: Sequence[Stretch], answers: Mapping[int, Answer]) -> list[Fitted]:
        """Return stretches of one joint set with their bodies.

        Args:
            answers: by id of a view.
        """
        out = []
        # A frozen person's views are fitted together, however many there are.
        longest = float("inf") if self.keys.frozen else self.longest
        short = [one for one in stretches if len(one.times_s) <= longest]
        fitted = iter(self._fit_together(short, answers) if short else ())
        for one in stretches:
            is_long = len(one.times_s) > longest
            out.append(self._fit_long(one, answers) if is_long else next(fitted))
        return out

    def _fit_long(self, stretch: Stretch, answers: Mapping[int, Answer]) -> Fitted:
        """A stretch in parts of one shape."""
        shape = self.fit_shape(stretch, answers)
        parts = [
            self.fit_part(stretch, answers, own, shape)
            for own in self.list_parts(len(stretch.times_s))
        ]
        pose, shapes, translation = (
            torch.cat([getattr(part.parameters, name) for part in parts])
            for name in ("pose", "shape", "translation")
        )
        bodies = BodyParameters(self.body.name, pose, shapes, translation)
        return _join_parts(stretch, bodies, parts)

    def list_parts(self, count: int) -> list[range]:
        """Return the instants of each part that a stretch of so many is fitted in."""
        length = self.longest - 2 * BESIDE
        return [range(first, min(first + length, count)) for first in range(0, count, length)]

    def fit_shape(self, stretch: Stretch, answers: Mapping[int, Answer]) -> torch.Tensor:
        """Return (S,) free numbers of a stretch's shape, by instants spread over all of it."""
        times = stretch.times_s
        spread = np.unique(np.linspace(0, len(times) - 1, self.longest // 2).astype(int))
        some = self._fit_together([_cut_stretch(stretch, [times[i] for i in spread])], answers)[0]
        return self.body.shape_space.to_free(some.parameters.shape[0])

    def fit_part(
        self, stretch: Stretch, answers: Mapping[int, Answer], own: range, shape: torch.Tensor
    ) -> Fitted:
        """Return some instants of a stretch, with their bodies, of a given shape.

        Args:
            own: the instants.  shape: (S,) free numbers.
        """
        begin, whole = _surround(stretch, own)
        found = self._fit_together([whole], answers, shape)[0]
        return _cut_fitted(found, range(own.start - begin, own.stop - begin))

    def weigh(self, stretch: Stretch, bodies: BodyParameters) -> Fitted:
        """Return a stretch with bodies that are there already, and their errors and energy.

        Args:
            bodies: of its T instants, in the world's axes; a left hand's in a mirror.
        """
        times = stretch.times_s
        if len(times) <= self.longest:
            return self._weigh_together(stretch, bodies)
        parts = []
        for own in self.list_parts(len(times)):
            begin, whole = _surround(stretch, own)
            some = bodies.select(slice(begin, begin + len(whole.times_s)))
            found = self._weigh_together(whole, some)
            parts.append(_cut_fitted(found, range(own.start - begin, own.stop - begin)))
        return _join_parts(stretch, bodies, parts)

    def _weigh_together(self, stretch: Stretch, bodies: BodyParameters) -> Fitted:
        body, points, prior, guesser = self.find_tools(stretch.joint_set)
        known, seconds, rows, views = _lay_out([stretch])
        root = bodies.pose[:, 0]
        told = torch.from_numpy(guesser.rest_keypoints).float().expand(len(root), -1, -1)
        start = Start(
            root[None],
            bodies.translation[None],
            matrix_to_axis_angle(bodies.pose)[None],
            self.body.shape_space.to_free(bodies.shape[:1]),
            told[None],
            root.new_zeros(1, len(root)),
        )
        scene = Scene(body, points, prior, views, known, seconds, start, self.keys.frozen)
        return self._sort(scene, scene.begin(limit=float("inf")), [stretch], rows)[0]

    def _fit_together(
        self,
        stretches: Sequence[Stretch],
        answers: Mapping[int, Answer],
        shape: torch.Tensor | None = None,
    ) -> list[Fitted]:
        """Fit stretches side by side; with ``shape`` (S,), free numbers, that one is kept."""
        body = self.find_tools(stretches[0].joint_set)[0]
        scene, rows = self._make_scene(stretches, answers)
        if shape is not None:
            scene.start.shape = shape.expand(len(stretches), -1)
        keys = self.keys
        wide = Terms(keys.sigma, WIDE, keys.prior, keys.shape, keys.start, keys.acceleration)
        wide.moves_shape = shape is None
        narrow = replace(wide, reach=NARROW)
        whole = replace(wide, moves_pose=False, moves_shape=False, told=0.0)
        third = max(1, keys.steps // 3)
        numbers = _minimise(scene, scene.begin(), whole, third // 2)
        numbers = _minimise(scene, numbers, wide, third)
        numbers = _minimise(scene, numbers, narrow, keys.steps - third - third // 2)
        if self.up and body.kind == "body" and not keys.frozen:
            with torch.no_grad():
                _, keypoints = scene.place(scene.pose(numbers))
            scene.contacts = find_contacts(body, keypoints, scene.known, scene.seconds, self.up)
            numbers = _minimise(scene, numbers, narrow, third)
        return self._sort(scene, numbers, stretches, rows)

    def find_tools(self, joint_set: str) -> tuple[BodyModel, JointMap, Prior, Guesser]:
        """Return the lean body model, its points, the prior and the Guesser of a joint set."""
        if joint_set not in self._tools:
            body, points = choose_model(self.body, joint_set)
            joints = list_moved_joints(body, points)
            prior = learn_prior(self.body, self.sample, joints)
            guesser = Guesser(body, points, prior, self.network_body)
            self._tools[joint_set] = body, points, prior, guesser
        return self._tools[joint_set]

    def _make_scene(
        self, stretches: Sequence[Stretch], answers: Mapping[int, Answer]
    ) -> tuple[Scene, list[np.ndarray]]:
        """The Scene of stretches, and for each the instant of its views."""
        body, points, prior, guesser = self.find_tools(stretches[0].joint_set)
        known, seconds, rows, views = _lay_out(stretches)
        starts = []
        for stretch, instant in zip(stretches, rows, strict=True):
            seen = _see(stretch)
            own = {
                id(one): answers[id(view)]
                for one, view in zip(seen, stretch.views, strict=True)
                if id(view) in answers
            }
            guesses = _guess_all(guesser, seen, instant, stretch.times_s, own)
            starts.append(self._begin(guesser, guesses, seen, instant, known.shape[1]))
        start = Start(*(torch.stack(parts) for parts in zip(*starts, strict=True)))
        return Scene(body, points, prior, views, known, seconds, start, self.keys.frozen), rows

    def _begin(
        self,
        guesser: Guesser,
        guesses: Sequence[Guess],
        views: Sequence[View],
        instant: np.ndarray,
        longest: int,
    ) -> tuple[torch.Tensor, ...]:
        """The parts of a Start of one stretch, padded with its last instant."""
        prior = guesser.prior
        padded = [*guesses, *[guesses[-1]] * (longest - len(guesses))]
        root = np.stack([guess.root for guess in padded])
        translation = np.stack([guess.place for guess in padded])
        pose = torch.stack([start_pose(guess, prior, guesser.is_same) for guess in padded])
        shapes = [
            guess.answer.shape
            for guess in guesses
            if guesser.is_same and guess.answer is not None and guess.answer.shape is not None
        ]
        shape = prior.shape_mean
        if shapes:
            free = self.body.shape_space.to_free(torch.stack(shapes))
            shape = free.median(0).values
        keypoints = guesser.rest_keypoints
        told, weights = [], []
        seen = np.bincount(instant, minlength=len(guesses))
        for number, guess in enumerate(padded):
            answer = guess.answer
            there = answer is not None and answer.keypoints.shape == keypoints.shape
            if answer is not None and there:
                told.append(answer.keypoints)
            else:
                told.append(keypoints @ guess.root.T)
            # Several cameras tell more than a network does of one image.
            alone = number < len(guesses) and seen[number] == 1
            weights.append(float(there and alone))
        return (
            torch.from_numpy(root).float(),
            torch.from_numpy(translation).float(),
            pose,
            shape,
            torch.from_numpy(np.stack(told)).float(),
            torch.tensor(weights),
        )

    def _sort(
        self,
        scene: Scene,
        numbers: torch.Tensor,
        stretches: Sequence[Stretch],
        rows: Sequence[np.ndarray],
    ) -> list[Fitted]:
        """The Fitted of each stretch."""
        with torch.no_grad():
            found = scene.pose(numbers)
            points, _ = scene.place(found)
            apart = scene.measure(points)
            weights = scene.views.weights * scene.points.given
            errors = (apart * weights).sum(1) / weights.sum(1).clamp_min(1e-9)
            keys = self.keys
            terms = Terms(keys.sigma, NARROW, keys.prior, keys.shape, 0.0, keys.acceleration)
            energies = scene.energy(numbers, terms)
        out, first = [], 0
        for number, (stretch, instant) in enumerate(zip(stretches, rows, strict=True)):
            part = slice(first, first + len(instant))
            first += len(instant)
            begin = number * scene.instants
            own = found.select(slice(begin, begin + len(stretch.times_s)))
            share = errors[part].numpy()
            sizes = scene.views.size_px[part].numpy()
            out.append(Fitted(stretch, own, instant, share, share * sizes, float(energies[number])))
        return out


def choose_model(body: BodyModel, joint_set: str) -> tuple[BodyModel, JointMap]:
    """Return the leanest model of a body that has the points of a joint set, and the points.

    Raises:
        UserError: it has none of them.
    """
    lean, coarse = body.lean(1), body.coarse(1)
    wanted = JointMap(coarse, joint_set)
    # A lean model has no fingers: their places are those of the wrist.
    still = any("thumb" in name or "index" in name for name in wanted.names)
    chosen = coarse if still or body.kind == "hand" else lean
    points = JointMap(chosen, joint_set)
    if not points.given.any():
        raise UserError(f"{body.name} has no point of joint set {joint_set}")
    return chosen, points


def _see(stretch: Stretch) -> list[View]:
    """A stretch's views; those of a left hand in a mirror."""
    return [_mirror(view) if stretch.kind == LEFT else view for view in stretch.views]


def _lay_out(
    stretches: Sequence[Stretch],
) -> tuple[torch.Tensor, torch.Tensor, list[np.ndarray], Views]:
    """((S, T) instants that are there, (S, T) seconds, instants of each one's views, Views)."""
    longest = max(len(stretch.times_s) for stretch in stretches)
    known = torch.zeros(len(stretches), longest, dtype=torch.bool)
    seconds = torch.zeros(len(stretches), longest)
    rows, flat, every = [], [], []
    for number, stretch in enumerate(stretches):
        times = stretch.times_s
        known[number, : len(times)] = True
        seconds[number, : len(times)] = torch.tensor(times, dtype=torch.float64) - times[0]
        instant = np.array([times.index(view.time_s) for view in stretch.views])
        rows.append(instant)
        flat.append(instant + number * longest)
        every += _see(stretch)
    views = Views(
        torch.from_numpy(np.concatenate(flat)),
        *(
            torch.from_numpy(np.stack([getattr(view, name) for view in every])).float()
            for name in ("K", "Rt", "points", "weights", "size_px")
        ),
    )
    return known, seconds, rows, views


def _surround(stretch: Stretch, own: range) -> tuple[int, Stretch]:
    """(first instant, stretch) of some instants and those beside them.

    These make the fit smooth where it meets the next part, and are fitted there.
    """
    begin = max(0, own.start - BESIDE)
    return begin, _cut_stretch(stretch, stretch.times_s[begin : own.stop + BESIDE])


def _cut_fitted(found: Fitted, own: range) -> Fitted:
    """The Fitted of some instants, with the energy of all."""
    inside = (found.instant >= own.start) & (found.instant < own.stop)
    views = [one for one, is_own in zip(found.stretch.views, inside, strict=True) if is_own]
    return replace(
        found,
        stretch=replace(found.stretch, views=views),
        parameters=found.parameters.select(slice(own.start, own.stop)),
        instant=found.instant[inside] - own.start,
        errors=found.errors[inside],
        errors_px=found.errors_px[inside],
    )


def _join_parts(stretch: Stretch, bodies: BodyParameters, parts: Sequence[Fitted]) -> Fitted:
    """The Fitted of a stretch by those of its parts."""
    errors: dict[int, tuple[float, float]] = {}
    for part in parts:
        for view, error, px in zip(part.stretch.views, part.errors, part.errors_px, strict=True):
            errors[id(view)] = float(error), float(px)
    times = stretch.times_s
    return Fitted(
        stretch,
        bodies,
        np.array([times.index(view.time_s) for view in stretch.views]),
        np.array([errors[id(view)][0] for view in stretch.views]),
        np.array([errors[id(view)][1] for view in stretch.views]),
        sum(part.energy for part in parts),
    )


def _cut_stretch(stretch: Stretch, times_s: Sequence[float]) -> Stretch:
    """The stretch at some of its instants."""
    wanted = set(times_s)
    views = [view for view in stretch.views if view.time_s in wanted]
    return replace(stretch, views=views)


def _minimise(scene: Scene, numbers: torch.Tensor, terms: Terms, steps: int) -> torch.Tensor:
    """(S, D) numbers with less energy by these terms."""
    return minimise(lambda x: scene.energy(x, terms), numbers, steps, scene.precondition(terms))


def _mirror(view: View) -> View:
    """The view in a mirror: of a left hand, which is fitted as the right one that it looks like."""
    K, Rt = mirror_camera(view)
    points = view.points * np.array([-1.0, 1.0])
    return replace(view, K=K, Rt=Rt, points=points)


def _guess_all(
    guesser: Guesser,
    views: Sequence[View],
    instant: np.ndarray,
    times: Sequence[float],
    answers: Mapping[int, Answer],
) -> list[Guess]:
    """The best guess of each instant; a network's answers serve the instants beside theirs."""
    by_instant = [
        [view for view, at in zip(views, instant, strict=True) if at == number]
        for number in range(len(times))
    ]
    guesses = []
    for number, own in enumerate(by_instant):
        more = []
        for beside in (number - 1, number + 1):
            if 0 <= beside < len(times) and abs(times[beside] - times[number]) <= NEIGHBOURS_S:
                near = by_instant[beside]
                more += [answers[id(view)] for view in near if id(view) in answers]
        guesses.append(guesser.choose(own, answers, more))
    return guesses


@torch.no_grad()
def list_moved_joints(body: BodyModel, points: JointMap) -> list[int]:
    """Joints but the first whose rotation moves a point of a joint set."""
    count, space = len(body.joint_names), body.shape_space
    pose = torch.zeros(count + 1, count, 3)
    # About an axis that no bone lies along.
    pose[torch.arange(count), torch.arange(count)] = torch.tensor([0.5, 0.6, 0.7])
    shape = torch.full((1, len(space.names)), float(space.mean))
    vertices, joints = body(pose, torch.zeros(count + 1, 3), shape)
    placed = points(vertices, joints)[:, points.given]
    spread = (placed[-1] - placed[-1].mean(0)).norm(dim=-1).mean()
    moved = (placed[:-1] - placed[-1]).norm(dim=-1) > MOVED_SHARE * spread
    # A joint of a hand that turns nearly all of it, as a wrist does, is one with its root.
    alike = moved.float().mean(1) > LIKE_ROOT if body.kind == "hand" else moved.new_zeros(count)
    return [joint for joint in range(1, count) if moved[joint].any() and not alike[joint]]
