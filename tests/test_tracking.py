"""Tracks of people beside trajectories that are known: who is who is told by the truth's own
numbers, which the tracker never sees."""

import itertools

import cv2
import numpy as np
import pytest

from data.find.appearance import compare_clothes, describe_clothes, measure_sharpness
from data.find.assignment import assign_edges, assign_rows
from data.find.detection import Detection
from data.find.joining import join_tracks
from data.find.shots import ShotWatcher
from data.find.tracking import Tracker

RATE_HZ = 10
# The joints of a standing person in shares of the box: nose, eyes, ears, shoulders, ... ankles.
BODY = np.array(
    [
        [0.5, 0.07],
        [0.47, 0.05],
        [0.53, 0.05],
        [0.44, 0.06],
        [0.56, 0.06],
        [0.3, 0.2],
        [0.7, 0.2],
        [0.22, 0.35],
        [0.78, 0.35],
        [0.2, 0.48],
        [0.8, 0.48],
        [0.38, 0.5],
        [0.62, 0.5],
        [0.37, 0.73],
        [0.63, 0.73],
        [0.36, 0.96],
        [0.64, 0.96],
    ]
)


class World:
    """People who walk by known paths in front of a camera; the nearer one hides who is behind.

    Args:
        paths: per person a function of seconds to (x, y, height) of the box's middle, or to None
            where they are not there; earlier ones are nearer.
        colours: per person the bin of their clothes; equal ones look alike.
    """

    def __init__(self, paths, colours=None, seed=0, noise=0.01, miss=0.0):
        self.paths, self.colours = paths, colours or list(range(len(paths)))
        self.random = np.random.default_rng(seed)
        self.noise, self.miss = noise, miss

    def look(self, time_s):
        """(detections, clothes, numbers of the people) at an instant, in random order."""
        boxes = {}
        for number, path in enumerate(self.paths):
            if (at := path(time_s)) is not None:
                x, y, tall = at
                box = np.array([x - 0.2 * tall, y - tall / 2, x + 0.2 * tall, y + tall / 2])
                boxes[number] = box + self.random.normal(0, self.noise * tall, 4)
        seen = []
        for number, box in boxes.items():
            front = [boxes[n] for n in boxes if n < number]
            covered = max([_covered(box, other) for other in front], default=0.0)
            if covered < 0.7 and self.random.random() >= self.miss:
                seen.append((self._detect(box), self._dress(number, covered, boxes), number))
        order = self.random.permutation(len(seen))
        return [seen[i][0] for i in order], [seen[i][1] for i in order], [seen[i][2] for i in order]

    def _detect(self, box):
        size = box[2:] - box[:2]
        points = box[:2] + BODY * size + self.random.normal(0, self.noise * size[1], (17, 2))
        return Detection(box, 0.8, np.column_stack([points, np.full(17, 0.9)]))

    def _dress(self, number, covered, boxes):
        clothes = np.full((2, 768), 0.05 / 768)
        clothes[:, 10 * self.colours[number]] += 1 - covered
        nearest = min((n for n in boxes if n < number), default=number)
        clothes[:, 10 * self.colours[nearest]] += covered
        clothes += self.random.random((2, 768)) * 0.02 / 768
        return clothes / clothes.sum(1, keepdims=True)


def _covered(box, other):
    shared = np.maximum(0, np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])).prod()
    return shared / (box[2:] - box[:2]).prod()


def _walk(x, speed, start=0.0, end=99.0, tall=200.0, y=200.0):
    return lambda t: (x + speed * t, y, tall) if start <= t < end else None


def _track(world, seconds, lost_s=1.5, still=()):
    """({track number: [the truth's numbers, in order]}, how many people were detected)."""
    tracker, truth, count = Tracker(lost_s), {}, 0
    for frame in range(int(seconds * RATE_HZ)):
        time_s = frame / RATE_HZ
        if frame in still:
            tracker.skip(time_s)
            continue
        people, clothes, who = world.look(time_s)
        truth |= {id(person): number for person, number in zip(people, who, strict=True)}
        count += len(people)
        world.kept = [*getattr(world, "kept", []), people]  # ids stay theirs
        tracker.update(frame, time_s, people, clothes)
    tracks = join_tracks(tracker.finish(), 2 * lost_s)
    found = {n: [truth[id(s.detection)] for s in t.sightings] for n, t in enumerate(tracks)}
    return found, count


def _assert_each_is_one(found, people):
    assert all(len(set(who)) == 1 for who in found.values()), found
    assert sorted(who[0] for who in found.values()) == list(range(people))


@pytest.mark.parametrize("seed", range(5))
def test_people_who_cross_keep_their_names(seed):
    world = World([_walk(100, 120), _walk(900, -120)], seed=seed)
    found, count = _track(world, 6)
    _assert_each_is_one(found, 2)
    assert sum(map(len, found.values())) == count


@pytest.mark.parametrize("seed", range(5))
def test_people_in_equal_clothes_cross_by_their_motion(seed):
    found, _ = _track(World([_walk(100, 120), _walk(900, -140)], [0, 0], seed=seed), 6)
    _assert_each_is_one(found, 2)


def test_people_who_meet_and_turn_back_keep_their_names():
    def turn(x, side):
        return lambda t: (x + side * 120 * min(t, 6.6 - t), 200, 200)

    found, _ = _track(World([turn(100, 1), turn(850, -1)]), 6.5)
    _assert_each_is_one(found, 2)


def test_hidden_for_a_second_and_the_same_again():
    pillar = _walk(400, 0)  # a person who stands; the other walks past behind

    def walker(t):
        return None if 2.0 < t < 3.0 else (100 + 120 * t, 190, 190)

    found, _ = _track(World([pillar, walker]), 6)
    _assert_each_is_one(found, 2)


def test_another_person_at_the_same_place_is_another():
    first, second = _walk(300, 10, end=2.0), _walk(310, 10, start=2.6)
    found, _ = _track(World([first, second]), 5)
    _assert_each_is_one(found, 2)


def test_who_leaves_for_long_is_given_another_name():
    def leaves(t):
        return (100 + 50 * t, 200, 200) if t < 2 or t > 9 else None

    found, _ = _track(World([leaves]), 12)
    assert [len(who) for who in found.values()] == [20, 29]


def test_missed_detections_split_nobody():
    crowd = [_walk(150 * n, 5 * (-1) ** n, tall=150 + 10 * n) for n in range(6)]
    found, count = _track(World(crowd, miss=0.3, noise=0.02), 8)
    _assert_each_is_one(found, 6)
    assert sum(map(len, found.values())) == count


def test_a_cut_ends_all_tracks():
    tracker, world = Tracker(1.5), World([_walk(300, 0)])
    for frame in range(20):
        if frame == 10:
            tracker.cut()
        people, clothes, _ = world.look(frame / 10)
        tracker.update(frame, frame / 10, people, clothes)
    tracks = join_tracks(tracker.finish(), 3.0)
    assert [[s.frame for s in t.sightings] for t in tracks] == [[*range(10)], [*range(10, 20)]]


def test_a_turning_camera_moves_everybody():
    """Jumps of a third of a height between frames, said by the camera's shift."""
    tracker, world = Tracker(1.5), World([_walk(300, 10), _walk(480, -5)], [0, 0])
    for frame in range(30):
        people, clothes, _ = world.look(frame / 10)
        for person in people:
            person.box[[0, 2]] += 170 * frame
            person.keypoints[:, 0] += 170 * frame
        tracker.update(frame, frame / 10, people, clothes, np.array([170.0, 0.0]))
    assert sorted(len(t.sightings) for t in tracker.finish()) == [30, 30]


def test_a_frozen_image_loses_nobody():
    frozen = World([lambda t: (100 + 50 * min(t, max(2.0, t - 4)), 200, 200)])
    found, _ = _track(frozen, 8, still=range(20, 60))
    assert [len(who) for who in found.values()] == [40]


def test_equal_detections_give_equal_tracks():
    worlds = [World([_walk(100, 90), _walk(800, -90), _walk(450, 3)], miss=0.2) for _ in range(2)]
    assert _track(worlds[0], 6) == _track(worlds[1], 6)


def test_assignment_is_the_best_of_all():
    random = np.random.default_rng(0)
    for trial in range(200):
        cost = random.random(random.integers(1, 6, 2))
        if trial % 3 == 0:
            cost[random.random(cost.shape) < 0.3] = np.inf
        limit = [0.5, 0.9, 2.0][trial % 3]
        pairs = assign_rows(cost, limit)
        side = max(cost.shape)
        gain = np.zeros((side, side))
        gain[: cost.shape[0], : cost.shape[1]] = np.minimum(cost, limit) - limit
        least = min(gain[range(side), list(p)].sum() for p in itertools.permutations(range(side)))
        assert sum(cost[i, j] - limit for i, j in pairs) == pytest.approx(least)
        edges = {tuple(p): cost[tuple(p)] for p in np.argwhere(np.isfinite(cost)).tolist()}
        sparse = assign_edges(edges, limit)
        assert sum(cost[i, j] - limit for i, j in sparse) == pytest.approx(least)
    assert assign_rows(np.zeros((0, 3)), 1.0) == []
    many = {(i, i + k): 0.1 + k for i in range(3000) for k in range(2)}
    assert assign_edges(many, 1.0) == [(i, i) for i in range(3000)]


def _scene(seed, shift=0):
    """A random image, or the part of it a little to the right."""
    random = np.random.default_rng(seed)
    image = np.zeros((180, 480, 3))
    for rows, share in ((8, 0.6), (40, 0.4)):
        noise = random.integers(0, 255, (rows, 2 * rows, 3)).astype(np.uint8)
        image += share * cv2.resize(noise, (480, 180), interpolation=cv2.INTER_CUBIC)
    return image.astype(np.uint8)[:, shift : shift + 320]


def _look(images):
    watcher = ShotWatcher()
    return [watcher.look(image) for image in images]


def test_cuts_fades_and_pans():
    a, b = _scene(1), _scene(2)
    cut = [step.cut for step in _look([a, a // 2 + 30, b, b, a])]
    assert cut == [False, False, True, False, True]
    fade = [cv2.addWeighted(a, 1 - t, b, t, 0) for t in np.linspace(0, 1, 11)]
    assert not any(step.cut for step in _look(fade))
    dark = [cv2.convertScaleAbs(a, alpha=t) for t in (1, 0.7, 0.4, 0.1, 0, 0.2, 0.6, 1)]
    assert not any(step.cut for step in _look(dark))
    pan = _look([_scene(3, 12 * i) for i in range(10)])
    assert not any(step.cut for step in pan)
    np.testing.assert_allclose([step.shift for step in pan[1:]], [[-12, 0]] * 9, atol=2.5)


def test_still_frames_are_told_from_slow_ones():
    a = _scene(4)
    noisy = [np.clip(a + np.int16(i % 2), 0, 255).astype(np.uint8) for i in range(5)]
    assert [step.still for step in _look(noisy)] == [False, True, True, True, True]
    slow = []
    for i in range(8):
        image = a.copy()
        image[80:110, 100 + i : 120 + i] = 255
        slow.append(image)
    assert sum(step.still for step in _look(slow)) <= 3


def test_clothes_and_sharpness():
    image = np.full((200, 200, 3), 128, np.uint8)
    image[20:180, 20:60], image[20:180, 120:160] = (200, 30, 30), (30, 30, 200)
    left, right = Detection(np.array([20, 20, 60, 180.0])), Detection(np.array([120, 20, 160, 180]))
    darker = (image * 0.85).astype(np.uint8)
    red, blue = describe_clothes(image, left), describe_clothes(image, right)
    assert compare_clothes(red, blue) > 0.9
    assert compare_clothes(red, describe_clothes(darker, left)) < 0.35
    assert compare_clothes(red, np.zeros_like(red)) == 0.5
    sharp = _scene(5)
    sharp[::4] = 0
    box = np.array([20, 20, 120, 160.0])
    assert measure_sharpness(cv2.GaussianBlur(sharp, (0, 0), 4), box) < 0.3 * measure_sharpness(
        sharp, box
    )
