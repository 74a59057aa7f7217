"""Where the people of a scene stand and sit: in the frame or at its border, touching nobody."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from data.people import scene as scenes
from data.people.bank import Bank
from data.people.company import STRIDE, is_clear
from data.people.framing import FARTHEST_INSIDE_M, FARTHEST_M, NEAREST_M, View
from data.people.maker import Person
from data.people.rng import pick_one
from data.people.warp_types import Struct

TRIES, STEPS, STEP_M = 8, 10, 0.12
BOX_M = 0.04  # between a person's points and a box
MOST_COVERED = 0.3  # of a frame by one box that is neither a seat nor a wall
MOST_SEATS = 5  # of the boxes that a scene can have
COMPANION_SHARE = 0.35  # of people who stand beside, before or behind somebody who is there


@dataclass
class Standing:
    """Somebody who has a place.

    Attributes:
        which: as in maker.ClipMaker.make_person.  person: moved to the place.
        seat: what is under the person, or None.
    """

    which: int
    person: Person
    seat: Struct | None


@dataclass
class Stage:
    """Who is there already.

    Attributes:
        view: of the frame.  outdoors: whether there are no walls.
        rotation: (3, 3) of the camera, world to camera.
        people: in the order in which they came.
        boxes: seats and things in the way.
    """

    view: View
    outdoors: bool
    rotation: np.ndarray
    people: list[Standing] = field(default_factory=list)
    boxes: list[Struct] = field(default_factory=list)

    @property
    def axis(self) -> np.ndarray:
        """(3,) the camera's optical axis."""
        return self.rotation[2]

    def cover(self, box: Struct) -> float:
        """Share of the frame that a box covers, at most: of the rectangle around its corners."""
        signs = np.array([[i, j, k] for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)])
        along, across, up = (signs * np.array([*box.half])).T
        turned = np.stack(
            [along * box.cos - across * box.sin, along * box.sin + across * box.cos, up], 1
        )
        seen = (turned + np.array([*box.centre]) - self.view.eye) @ self.rotation.T
        if seen[:, 2].max() < 0.05:
            return 0.0
        size = np.array([self.view.width, self.view.height])
        xy = seen[:, :2] / np.maximum(seen[:, 2:], 0.05) * self.view.focal + size / 2
        low, high = np.clip(xy.min(0), 0, size), np.clip(xy.max(0), 0, size)
        return float(np.prod((high - low) / size))

    def fits(self, points: np.ndarray) -> bool:
        """Whether a body's points (T, n, 3) are clear of everybody, of boxes and the camera."""
        depth = (points - self.view.eye) @ self.axis
        if depth.min() < self.view.nearest_m:
            return False
        if any(holds_point(box, points, BOX_M) for box in self.boxes):
            return False
        few = points[:, ::STRIDE]
        low, high = points.min((0, 1)), points.max((0, 1))
        for standing in self.people:
            other = standing.person.points
            if (other.min((0, 1)) > high + 0.1).any() or (other.max((0, 1)) < low - 0.1).any():
                continue
            if not is_clear(other[:, ::STRIDE], few):
                return False
        return True

    def fits_seat(self, seat: Struct) -> bool:
        """Whether a seat is clear of everybody and of other boxes."""
        if sum(standing.seat is not None for standing in self.people) >= MOST_SEATS:
            return False
        place, radius, _ = scenes.find_footprint(seat)
        if np.linalg.norm(self.view.eye[:2] - place) < radius + 0.3:
            return False
        for box in self.boxes:
            other, size, _ = scenes.find_footprint(box)
            if np.linalg.norm(other - place) < radius + size:
                return False
        return not any(holds_point(seat, one.person.points, BOX_M) for one in self.people)


def holds_point(box: Struct, points: np.ndarray, margin_m: float) -> bool:
    """Whether one of the points (..., 3) is in a box that is larger by a margin on all sides."""
    off = points.reshape(-1, 3) - np.array([*box.centre])
    along = off[:, 0] * box.cos + off[:, 1] * box.sin
    across = -off[:, 0] * box.sin + off[:, 1] * box.cos
    local = np.abs(np.stack([along, across, off[:, 2]], 1))
    return bool((local < np.array([*box.half]) + margin_m).all(1).any())


def move_person(person: Person, step: np.ndarray) -> Person:
    """The person, moved along the floor by (2,) metres."""
    whole = np.array([*step, 0.0], np.float32)
    return replace(
        person,
        root=person.root + whole,
        joints=person.joints + whole,
        points=person.points + whole,
        hand_points=[points + whole for points in person.hand_points],
        vertices=person.vertices + torch.from_numpy(whole).to(person.vertices.device),
    )


def place_person(
    rng: np.random.Generator,
    stage: Stage,
    person: Person,
    which: int,
    make_seat: Callable[[Person], Struct | None] | None,
) -> bool:
    """Put a person where there is room; whether there was.

    Args:
        make_seat: of what is under a person who sits; None: nothing is.
    """
    own = person.points.mean((0, 1))[:2].astype(np.float64)
    needs_seat = make_seat is not None and bool(person.sits.any())
    for _ in range(TRIES):
        target = _draw_place(rng, stage)
        way = rng.uniform(0, 2 * np.pi)
        step = STEP_M * np.array([np.cos(way), np.sin(way)])
        # From an own place outwards, so that people come as near to each other as they can.
        for k in range(STEPS):
            moved = move_person(person, target + k * step - own)
            if stage.fits(moved.points):
                break
        else:
            continue
        seat = make_seat(moved) if needs_seat and make_seat is not None else None
        if needs_seat and (seat is None or not stage.fits_seat(seat)):
            continue
        stage.people.append(Standing(which, moved, seat))
        if seat is not None:
            stage.boxes.append(seat)
        return True
    return False


def _draw_place(rng: np.random.Generator, stage: Stage) -> np.ndarray:
    """(2,) metres on the floor where somebody would be in the frame, or cut by its border."""
    view = stage.view
    if not stage.people:
        return view.place(view.distance_m, 0.5)
    if rng.random() < COMPANION_SHARE:
        other = pick_one(rng, stage.people).person.points.mean((0, 1))[:2]
        way = rng.uniform(0, 2 * np.pi)
        return other + rng.uniform(0.3, 0.7) * np.array([np.cos(way), np.sin(way)])
    most = FARTHEST_M if stage.outdoors else FARTHEST_INSIDE_M
    near, far = {
        "group": (0.75, 1.5),
        "crowd": (0.5, 4.0),
        "close": (0.9, 6.0),
    }[view.kind]
    distance = view.distance_m * np.exp(rng.uniform(np.log(near), np.log(far)))
    return view.place(float(np.clip(distance, NEAREST_M, most)), rng.uniform(-0.06, 1.06))


def fit_room(rng: np.random.Generator, scene: Struct, stage: Stage) -> None:
    """Let a room hold everybody and the camera; the open air stays as it is."""
    if scene.outdoors:
        return
    points = np.concatenate([one.person.points.reshape(-1, 3) for one in stage.people])
    places = [points[:, :2], stage.view.eye[None, :2]]
    places += [np.array([[*box.centre]])[:, :2] for box in stage.boxes]
    every = np.concatenate(places)
    low = every.min(0) - rng.uniform(0.5, 2.5, 2)
    high = every.max(0) + rng.uniform(0.5, 2.5, 2)
    scene.centre_x, scene.centre_y = ((low + high) / 2).tolist()
    scene.half_x, scene.half_y = ((high - low) / 2).tolist()
    tallest = max(float(points[:, 2].max()), float(stage.view.eye[2]))
    scene.height = float(max(scene.height, tallest + 0.3))


def place_clutter(stage: Stage, boxes: list[Struct], most: int) -> list[Struct]:
    """Those of the boxes that stand in nobody, in no seat and not at or right before the camera."""
    kept = []
    for box in boxes:
        place, radius, _ = scenes.find_footprint(box)
        if np.linalg.norm(stage.view.eye[:2] - place) < radius + 1.0:
            continue
        if stage.cover(box) > MOST_COVERED:
            continue
        others = [scenes.find_footprint(other) for other in stage.boxes]
        if any(np.linalg.norm(at - place) < radius + size for at, size, _ in others):
            continue
        if not any(holds_point(box, one.person.points, BOX_M) for one in stage.people):
            kept.append(box)
    return kept[: max(0, most)]


def make_barrier(rng: np.random.Generator, stage: Stage, bank: Bank) -> Struct | None:
    """Something between the camera and somebody, or None where there is no room for it."""
    person = pick_one(rng, stage.people).person
    eye = stage.view.eye
    points = person.points.reshape(-1, 3).astype(np.float64)
    box = scenes.make_occluder(rng, eye, points, eye[None], bank)
    if box is None or any(holds_point(box, one.person.points, BOX_M) for one in stage.people):
        return None
    if stage.cover(box) > MOST_COVERED:
        return None
    return box
