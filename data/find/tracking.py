"""The same person from frame to frame, by motion, pose and clothes.

Ours, because no kept one fits: norfair and motpy need filterpy and an old rich, the trackers of
roboflow bring a second OpenCV, boxmot is AGPL.

Each frame's detections are given to the tracks by an assignment of least total cost. A track
expects its person where the last motion leads, moved as the camera turned; who is hidden waits for
``lost_s``. ``data.find.joining`` then looks at whole tracks. Deterministic: equal detections give
equal tracks.
"""

from dataclasses import dataclass, field

import numpy as np

from data.find.appearance import compare_clothes, part_boxes
from data.find.assignment import assign_rows
from data.find.detection import Detection

SURE = 0.2  # least confidence of a keypoint that counts
LIMIT = 0.48  # cost of a pair that is not one
TWIN_IOU = 0.75  # two detections of one frame that overlap so are one person
HIDDEN = 0.3  # share of a torso that lies in another's box from which on its clothes may be theirs
SPEED_HEIGHTS = 1.6  # fastest motion that is believed, in heights a second
LEARNING = 0.4  # share of the newest step in a track's speed
CLOTHES_LEARNING = 0.15


@dataclass
class Sighting:
    """One person in one frame.

    Attributes:
        frame, time_s: when.
        detection: where.
        clothes: see data.find.appearance.describe_clothes, or None.
        met: whether somebody else's box covered the torso, so that the clothes may be theirs.
        origin: (2,) pixels by which the scene has moved since the shot's start.
    """

    frame: int
    time_s: float
    detection: Detection
    clothes: np.ndarray | None = None
    met: bool = False
    origin: np.ndarray = field(default_factory=lambda: np.zeros(2))

    @property
    def box(self) -> np.ndarray:
        """(4,) x0, y0, x1, y1 in pixels."""
        return self.detection.box

    @property
    def place(self) -> np.ndarray:
        """(2,) the box's middle, as if the camera had not turned."""
        return middle_of(self.box) - self.origin


@dataclass
class Track:
    """The sightings of one person within one shot, in order of time.

    Attributes:
        shot: number of the shot.
        speed: (2,) pixels a second of the box's middle, beside the scene.
        clothes: their running mean, or None.
    """

    shot: int
    sightings: list[Sighting]
    speed: np.ndarray = field(default_factory=lambda: np.zeros(2))
    clothes: np.ndarray | None = None

    @property
    def last(self) -> Sighting:
        """The newest sighting."""
        return self.sightings[-1]

    def expect(self, time_s: float, origin: np.ndarray) -> np.ndarray:
        """Return the (4,) box that motion leads to; who is long unseen is expected to slow down."""
        gap = time_s - self.last.time_s
        moved = self.speed * min(gap, 0.3 + 0.3 * gap) + origin - self.last.origin
        return self.last.box + np.tile(moved, 2)

    def add(self, seen: Sighting) -> None:
        """Take the newest sighting."""
        gap = max(seen.time_s - self.last.time_s, 1e-3)
        step = (seen.place - self.last.place) / gap
        fastest = SPEED_HEIGHTS * longer_side(seen.box)
        step *= min(1.0, fastest / max(float(np.linalg.norm(step)), 1e-9))
        if not seen.met:  # half-hidden boxes jump
            share = 1.0 if len(self.sightings) == 1 else LEARNING
            self.speed = (1 - share) * self.speed + share * step
        self.sightings.append(seen)
        if seen.clothes is not None and not seen.met:
            self.clothes = blend(self.clothes, seen.clothes)


class Tracker:
    """Takes the frames of one video in order and keeps its people apart.

    Args:
        lost_s: longest time that a person may be unseen.
    """

    def __init__(self, lost_s: float) -> None:
        self._lost_s = lost_s
        self._live: list[Track] = []
        self._ended: list[Track] = []
        self._shot = 0
        self._origin = np.zeros(2)
        self._unseen_s = 0.0
        self._last_s: float | None = None

    def cut(self) -> None:
        """End all tracks: another shot begins."""
        self._ended += self._live
        self._live = []
        self._shot += 1
        self._origin = np.zeros(2)

    def skip(self, time_s: float) -> None:
        """Pass over a still frame: nobody moves in it and nobody gets lost."""
        if self._last_s is not None:
            self._unseen_s += time_s - self._last_s
        self._last_s = time_s

    def update(
        self,
        frame: int,
        time_s: float,
        people: list[Detection],
        clothes: list[np.ndarray] | None = None,
        shift: np.ndarray | None = None,
    ) -> None:
        """Take one frame.

        Args:
            people: found in it.
            clothes: of each of them, or None where nobody looked.
            shift: (2,) pixels by which the camera's turning moved the scene since the last frame.
        """
        self._last_s = time_s
        if shift is not None:
            self._origin = self._origin + shift
        time_s -= self._unseen_s
        seen = self._see(frame, time_s, people, clothes)
        self._retire(time_s)
        cost = np.full((len(self._live), len(seen)), np.inf)
        for row, track in enumerate(self._live):
            expected = track.expect(time_s, self._origin)
            for column, one in enumerate(seen):
                cost[row, column] = cost_of(track, expected, one, self._lost_s)
        pairs = assign_rows(cost, LIMIT)
        for row, column in pairs:
            self._live[row].add(seen[column])
        taken = {column for _, column in pairs}
        for column, one in enumerate(seen):
            if column not in taken:
                self._live.append(Track(self._shot, [one], clothes=one.clothes))

    def finish(self) -> list[Track]:
        """Return all tracks, in order of their first frame and then from left to right."""
        self.cut()
        return sorted(self._ended, key=lambda t: (t.sightings[0].frame, t.sightings[0].box[0]))

    def _see(self, frame, time_s, people, clothes):
        kept = drop_twins(people)
        boxes = [person.box for person in people]
        torsos = [part_boxes(person)[0] for person in people]
        return [
            Sighting(
                frame,
                time_s,
                people[i],
                None if clothes is None else clothes[i],
                any(share_of(torsos[i], boxes[j]) > HIDDEN for j in kept if j != i),
                self._origin,
            )
            for i in kept
        ]

    def _retire(self, time_s):
        lost = [t for t in self._live if time_s - t.last.time_s > self._lost_s]
        self._ended += lost
        self._live = [t for t in self._live if time_s - t.last.time_s <= self._lost_s]


def cost_of(track: Track, expected: np.ndarray, seen: Sighting, lost_s: float) -> float:
    """Return how unlikely a sighting is of a track, about 0 to 1; inf where it cannot be.

    Args:
        expected: (4,) box that the track's motion leads to.
    """
    gap = seen.time_s - track.last.time_s
    size = (longer_side(expected) + longer_side(seen.box)) / 2
    away = float(np.linalg.norm(middle_of(seen.box) - middle_of(expected))) / size
    reach = min(0.35 + SPEED_HEIGHTS * gap, 2.0)
    larger = abs(np.log(longer_side(seen.box) / longer_side(expected)))
    if away > reach or larger > np.log(2.0):
        return np.inf
    fresh = max(0.0, 1 - gap / max(lost_s, 1e-6))  # where it was counts less, the longer ago
    overlap = 1 - iou(expected, seen.box)
    pose = compare_poses(track.last, seen, expected)
    where = 0.35 * overlap + 0.3 * away / reach + 0.2 * larger / np.log(2.0) + 0.15 * pose
    if track.clothes is None or seen.clothes is None:
        return where * (0.6 + 0.4 * fresh)
    clothes = compare_clothes(track.clothes, seen.clothes)
    share = 0.4 + 0.3 * (1 - fresh)
    return (1 - share) * where + share * clothes


def compare_poses(last: Sighting, seen: Sighting, expected: np.ndarray) -> float:
    """Return the mean distance of the keypoints that both have, in tenths of a height, up to 1.

    The last pose is moved to where its box is expected. 0.5 where too few are known.
    """
    a, b = last.detection.keypoints, seen.detection.keypoints
    if a is None or b is None or last.detection.joint_set != seen.detection.joint_set:
        return 0.5
    both = (a[:, 2] >= SURE) & (b[:, 2] >= SURE)
    if both.sum() < 4:
        return 0.5
    moved = a[both, :2] + middle_of(expected) - middle_of(last.box)
    apart = np.linalg.norm(moved - b[both, :2], axis=1).mean()
    return float(min(1.0, 10 * apart / longer_side(seen.box) / 2))


def drop_twins(people: list[Detection]) -> list[int]:
    """Return which detections of a frame are of different people; of twins the surer one stays."""
    kept: list[int] = []
    for i in sorted(range(len(people)), key=lambda i: (-people[i].score, i)):
        if all(iou(people[i].box, people[j].box) < TWIN_IOU for j in kept):
            kept.append(i)
    return sorted(kept)


def blend(mean: np.ndarray | None, new: np.ndarray) -> np.ndarray:
    """Return the running mean of clothes; a part that was never seen is taken as it comes."""
    if mean is None:
        return new.copy()
    known, fresh = mean.sum(1, keepdims=True) > 0, new.sum(1, keepdims=True) > 0
    mixed = np.where(known, (1 - CLOTHES_LEARNING) * mean + CLOTHES_LEARNING * new, new)
    return np.where(fresh, mixed, mean)


def middle_of(box: np.ndarray) -> np.ndarray:
    """Return the (2,) middle of a box."""
    return (box[:2] + box[2:]) / 2


def longer_side(box: np.ndarray) -> float:
    """Return the longer side of a box in pixels, at least 1."""
    return float(max(1.0, *(box[2:] - box[:2])))


def share_of(box: np.ndarray, other: np.ndarray) -> float:
    """Return the share of a box's area that lies in another."""
    shared = np.maximum(0.0, np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])).prod()
    return float(shared / max((box[2:] - box[:2]).prod(), 1e-9))


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Return the area that two boxes share over the area that they cover."""
    shared = np.maximum(0.0, np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])).prod()
    covered = (a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - shared
    return float(shared / covered) if covered > 0 else 0.0
