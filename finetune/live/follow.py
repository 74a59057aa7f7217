"""Who is where in the next frame: by the last meshes, set right by each search.

A search says how the box of somebody lies about their mesh in a frame; until the next one, the box
goes with the mesh. It also finds who is new, and who is not found twice is gone. Where it is of the
very frame that is asked about next, its boxes and keypoints are taken as they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from data.find.assignment import assign_rows
from data.find.tracking import iou, middle_of
from engine.geometry import project
from finetune.inference.search import Region
from finetune.person import Person

LEAST_OVERLAP = 0.2  # of a searched box with that of somebody in the same frame
TWINS = 0.75  # two who overlap so are one
MISSES = 2  # searches in a row without somebody, and they are gone
HISTORY = 64  # boxes of processed frames that are kept of each, for searches that come late
PROMPT_S = 0.75  # how old a search's keypoints may be, to be moved with the box and given on
RATIOS = 0.5, 2.0  # of a searched box to a mesh's


@dataclass(eq=False)
class Followed:
    """Somebody, or one hand.

    Attributes:
        number: their own, of a body or a hand that was seen first as such.
        kind: "body" or "hand".
        region: where they are expected in the next frame.
        score: of the last search that found them.
        seen_s: when the frame of that search was taken.
        boxes: {number of a frame: (4,) their box in it}, of processed frames.
        meshes: {number of a frame: (4,) box around their mesh in it}.
        searched: (number of a frame, (4,) box in it) of the last search that found them.
        ratio, offset: (2,) of the searched box to the mesh's: size, and way of the middle in sizes.
        misses: searches in a row that did not find them.
    """

    number: int
    kind: str
    region: Region
    score: float
    seen_s: float
    searched: tuple[int, np.ndarray]
    boxes: dict[int, np.ndarray] = field(default_factory=dict)
    meshes: dict[int, np.ndarray] = field(default_factory=dict)
    ratio: np.ndarray = field(default_factory=lambda: np.ones(2))
    offset: np.ndarray = field(default_factory=lambda: np.zeros(2))
    misses: int = 0


class Follower:
    """Keeps who is there; not for two threads at once."""

    def __init__(self) -> None:
        self.people: list[Followed] = []
        self._count = 0

    def list_people(self, kind: str, time_s: float) -> list[Followed]:
        """Return those of a kind, with keypoints as far as they are new enough."""
        mine = [one for one in self.people if one.kind == kind]
        for one in mine:
            if time_s - one.seen_s > PROMPT_S:
                one.region = Region(one.region.box, one.region.side)
        return mine

    def move(self, frame: int, asked: Sequence[Followed], found: Sequence[Person]) -> None:
        """Take the meshes of a frame.

        Args:
            asked: who was asked about.  found: their Persons, in order.
        """
        for one, person in zip(asked, found, strict=True):
            mesh = surround_mesh(person)
            one.boxes[frame], one.meshes[frame] = one.region.box, mesh
            for kept in (one.boxes, one.meshes):
                while len(kept) > HISTORY:
                    del kept[next(iter(kept))]
            if one.searched[0] == frame:
                _measure_box(one, mesh)
            one.region = _move_region(one.region, _place_box(one, mesh))
        self._drop_twins()

    def drop(self, gone: Sequence[Followed]) -> None:
        """Forget people, such as those who left the image."""
        self.people = [one for one in self.people if one not in gone]

    def correct(
        self, frame: int, time_s: float, found: Mapping[str, Sequence[tuple[Region, float]]]
    ) -> None:
        """Take what a search found in a frame.

        Args:
            frame, time_s: of the frame that was searched.
            found: {kind: (where, how sure) of each}.
        """
        for kind, regions in found.items():
            known = [one for one in self.people if one.kind == kind]
            before = [_box_at(one, frame) for one in known]
            cost = np.array([[1 - iou(box, region.box) for region, _ in regions] for box in before])
            for row, one in enumerate(known):
                for column, (region, _) in enumerate(regions):
                    if kind == "hand" and region.side != one.region.side:
                        cost[row, column] = np.inf
            pairs = dict(assign_rows(cost.reshape(len(known), len(regions)), 1 - LEAST_OVERLAP))
            for row, one in enumerate(known):
                if row in pairs:
                    region, one.score = regions[pairs[row]]
                    _set_right(one, frame, time_s, region)
                elif one.seen_s < time_s:
                    one.misses += 1
            for column, (region, score) in enumerate(regions):
                if column not in pairs.values():
                    seen = (frame, region.box)
                    self.people.append(Followed(self._count, kind, region, score, time_s, seen))
                    self._count += 1
        self.people = [one for one in self.people if one.misses < MISSES]
        self._drop_twins()

    def _drop_twins(self) -> None:
        """Of two of a kind at one place the one that is known longer stays."""
        kept: list[Followed] = []
        for one in self.people:
            same = [other for other in kept if other.kind == one.kind]
            if all(iou(one.region.box, other.region.box) < TWINS for other in same):
                kept.append(one)
        self.people = kept


def surround_mesh(person: Person) -> np.ndarray:
    """Return the (4,) box in pixels around a mesh, of what lies before the camera."""
    flat, depth = project(person.vertices, person.intrinsics, np.eye(3, 4))
    seen = flat[depth > 0]
    if not len(seen):
        return person.box.astype(np.float64)
    return np.concatenate([seen.min(0), seen.max(0)]).astype(np.float64)


def _box_at(one: Followed, frame: int) -> np.ndarray:
    """Their box in a frame, or in the processed one before it."""
    before = [number for number in one.boxes if number <= frame]
    return one.boxes[before[-1]] if before else one.region.box


def _set_right(one: Followed, frame: int, time_s: float, region: Region) -> None:
    """Take what a search says of somebody, and carry it to now."""
    one.seen_s, one.misses, one.searched = time_s, 0, (frame, region.box)
    newest = next(reversed(one.meshes), -1)
    if frame > newest:
        one.region = region  # of a frame that comes next
    elif frame in one.meshes:
        _measure_box(one, one.meshes[frame])
        one.region = _move_region(region, _place_box(one, one.meshes[newest]))


def _measure_box(one: Followed, mesh: np.ndarray) -> None:
    """How the box of the last search lies about the mesh of its frame."""
    box = one.searched[1]
    one.ratio = np.clip(_size(box) / _size(mesh), *RATIOS)
    one.offset = (middle_of(box) - middle_of(mesh)) / _size(mesh)


def _place_box(one: Followed, mesh: np.ndarray) -> np.ndarray:
    """The box that belongs to a mesh's, as the last search has it."""
    middle, half = middle_of(mesh) + one.offset * _size(mesh), one.ratio * _size(mesh) / 2
    return np.concatenate([middle - half, middle + half])


def _move_region(region: Region, box: np.ndarray) -> Region:
    """The region at another box, with its keypoints."""
    points = region.keypoints
    if points is not None:
        scale = _size(box) / _size(region.box)
        flat = (points[:, :2] - region.box[:2]) * scale + box[:2]
        points = np.concatenate([flat, points[:, 2:]], 1)
    return Region(box, region.side, points)


def _size(box: np.ndarray) -> np.ndarray:
    return np.maximum(box[2:] - box[:2], 1.0)
