"""Things in and about hands: where hands are, never over a camera, never before all of a hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from data.people.bank import make_bank
from data.people.config import PeopleConfig
from data.people.hand_things import MOST_HIDDEN, make_thing, measure_hidden
from data.people.held import Plan
from data.people.maker import ClipMaker

COUNT = 200
BANK = make_bank()


def hand(bend_deg):
    """Bones of a hand that points along x with its palm down, fingers bent; points about them."""
    joints = {"wrist": np.array([0.0, 0.0, 1.0])}
    for k, finger in enumerate("12345"):
        place, turned = np.array([0.09, 0.02 * (k - 2), 1.0]), 0.0
        for joint, length in zip("123", (0.04, 0.025, 0.0), strict=True):
            joints[f"finger{finger}-{joint}"] = place
            place = place + length * np.array([np.cos(turned), 0, -np.sin(turned)])
            turned += np.deg2rad(bend_deg)
    ways = np.random.default_rng(0).normal(0, 0.006, (20, 3))
    points = np.concatenate([place + ways for place in joints.values()])
    return points, joints


def things(bend_deg, eyes):
    points, joints = hand(bend_deg)
    made = [make_thing(np.random.default_rng(s), points, joints, eyes, BANK) for s in range(COUNT)]
    return points, [one for one in made if one is not None]


def test_things_are_at_the_hand_and_leave_it_to_be_seen():
    eyes = np.array([[0.1, -0.9, 1.2], [1.0, 0.3, 0.8], [0.2, 0.5, 1.9]])
    for bend_deg in (5.0, 80.0):
        points, made = things(bend_deg, eyes)
        assert len(made) > 0.35 * COUNT
        for one in made:
            place, half = np.array([*one.centre]), np.array([*one.half])
            way = np.arctan2(one.sin, one.cos)
            reach = np.linalg.norm(half) + 0.35
            assert np.linalg.norm(place - points.mean(0)) < reach
            for eye in eyes:
                assert measure_hidden(eye, points, place, half, way) <= MOST_HIDDEN


def test_poles_are_for_hands_that_grip():
    eyes = np.array([[0.1, -0.9, 1.2]])

    def poles(bend_deg):
        _, made = things(bend_deg, eyes)
        return sum(max(one.half[0], one.half[1]) < 0.023 and one.half[2] > 0.05 for one in made)

    assert poles(80.0) > 0.3 * COUNT and poles(5.0) < 0.05 * COUNT


def test_a_hand_that_holds_something_gets_nothing_more(maker, monkeypatch):
    """By domain.held_share; the other hand may."""
    monkeypatch.setattr(maker.config.domain, "things_share", 1.0)
    monkeypatch.setattr("data.people.hand_things.make_thing", lambda *_: "thing")
    person = maker.make_person(maker.random(0), 0)
    for plan, got in (
        (None, ["thing"]),
        (Plan("stick", 0, False), ["thing"]),
        (Plan("stick", 1, False), []),
        (Plan("stick", 0, True), []),
    ):
        monkeypatch.setattr(maker, "plan_held", lambda index, plan=plan: plan)
        world = SimpleNamespace(boxes=[], placed=0, shots=[SimpleNamespace(eye=(0, 0, 0))])
        maker._put_thing(0, world, person, "right_hand")
        assert world.boxes == got


def test_hidden_shares_by_hand():
    eye, half = np.array([-1.0, 0, 0]), np.array([0.1, 0.1, 0.1])
    points = np.array([[1.0, 0, 0], [1.0, 0.5, 0], [-0.5, 0, 0], [1.0, 0, 0.15]])
    # Behind it; beside it; before it; and behind, where the line passes at half the height.
    found = [measure_hidden(eye, points[k : k + 1], np.zeros(3), half, 0.0) for k in range(4)]
    assert found == [1, 0, 0, 1]
    # Turned by 90 degrees, a plate along y is one along x, which the second line still misses.
    plate = np.array([0.01, 0.3, 0.1])
    assert measure_hidden(eye, points[1:2], np.zeros(3), plate, 0.0) == 1
    assert measure_hidden(eye, points[1:2], np.zeros(3), plate, np.pi / 2) == 0


@pytest.fixture(scope="module")
def maker():
    return ClipMaker(PeopleConfig(out="none", kind="hand", size=96, seed=8, cameras=2))


def test_a_clip_with_a_thing_shows_the_same_person(maker):
    plain = [maker.clip(i) for i in range(3)]
    recipe = maker.random
    # The recipe's hash would change all; its numbers are kept to compare what is drawn.
    numbers = {(i, p): recipe(i, p).bit_generator.state for i in range(3) for p in range(40)}
    maker.config.domain.things_share = 1.0

    def kept(index, purpose=0):
        generator = np.random.Generator(np.random.Philox())
        generator.bit_generator.state = numbers[index, purpose]
        return generator

    maker.random = kept
    try:
        other = [maker.clip(i) for i in range(3)]
    finally:
        maker.random, maker.config.domain.things_share = recipe, 0.0
    for a, b in zip(plain, other, strict=True):
        assert np.array_equal(a.labels["pose"], b.labels["pose"])
        assert (b.labels["visible"] <= a.labels["visible"] + 1e-6).all()
        assert [crop.K for crop in a.crops] == [crop.K for crop in b.crops]
    assert any(a.jpegs != b.jpegs for a, b in zip(plain, other, strict=True))
    assert [clip.jpegs for clip in plain] == [maker.clip(i).jpegs for i in range(3)]
