"""Hands that say or hold something: within what joints reach, coupled as tendons couple, and absent
where the recipe does not ask for them."""

import numpy as np
import pytest

from data.people import poses
from data.people.config import Domain, PeopleConfig, hash_recipe
from data.people.gestures import LONG_FINGERS, RAISED, SHAPES, add_gestures
from data.people.motion import Motion, even_times, sample_motion
from data.people.poses import HIGH, INDEX, LOW

COUNT = 300
ARMS = [INDEX[f"{name}_{side}"] for name in RAISED for side in ("left", "right")]


def moves_of(seed: int) -> Motion:
    return sample_motion(np.random.default_rng(seed), even_times(3, 0.35))


def gestured(domain: Domain) -> list[tuple[Motion, Motion]]:
    plain = [moves_of(seed) for seed in range(COUNT)]
    return [
        (one, add_gestures(np.random.default_rng(1000 + seed), one, domain))
        for seed, one in enumerate(plain)
    ]


@pytest.fixture(scope="module")
def wide() -> list[tuple[Motion, Motion]]:
    return gestured(Domain(finger_share=1.0, gesture_share=1.0))


def test_recipes_without_the_keys_stay_as_they_are():
    for before, after in gestured(Domain())[:20]:
        assert np.array_equal(before.hands, after.hands)
        assert np.array_equal(before.angles, after.angles)
    plain = PeopleConfig(out="x", kind="hand")
    assert hash_recipe(plain) == hash_recipe(
        PeopleConfig(out="x", kind="hand", domain=Domain(finger_share=0.0, gesture_share=0.0))
    )
    assert hash_recipe(plain) != hash_recipe(
        PeopleConfig(out="x", kind="hand", domain=Domain(finger_share=0.5))
    )


def test_a_share_is_a_share():
    pairs = gestured(Domain(finger_share=0.5, gesture_share=0.25))
    hands = np.mean([(a.hands != b.hands).any((0, 2)) for a, b in pairs])
    arms = np.mean([(a.angles != b.angles).any() for a, b in pairs])
    assert 0.42 < hands < 0.58 and 0.17 < arms < 0.33


def test_joints_stay_within_what_people_reach(wide):
    hands = np.concatenate([after.hands for _, after in wide]).reshape(-1, 17)
    fingers = hands[:, LONG_FINGERS]
    assert fingers.min() >= poses.FINGER_LOW - 1e-6 and fingers.max() < poses.FINGER_HIGH + 1e-6
    assert fingers[..., 1].min() > -5 - 1e-6 and fingers[..., 2].max() < 75 + 1e-6
    for before, after in wide:
        assert (after.angles > LOW - 1e-6).all() and (after.angles < HIGH + 1e-6).all()
        rest = np.setdiff1d(np.arange(len(LOW)), ARMS)
        assert np.array_equal(before.angles[:, rest], after.angles[:, rest])


def test_end_joints_follow_their_middle_joints(wide):
    fingers = np.concatenate([after.hands for _, after in wide])[..., LONG_FINGERS]
    middle, end = fingers[..., 1].ravel(), fingers[..., 2].ravel()
    assert np.corrcoef(middle, end)[0, 1] > 0.85
    slope = np.polyfit(middle, end, 1)[0]
    assert 0.5 < slope < 0.75  # about two thirds, as anatomy has it


def test_fingers_move_apart_and_arms_turn_every_way(wide):
    def bent(which):
        return np.stack([moves.hands[0, 0, LONG_FINGERS[:, 1]] for moves in which]) > 50

    patterns = [np.unique(bent(which), axis=0) for which in zip(*wide, strict=True)]
    assert len(patterns[1]) == 16  # each way in which four fingers are bent or straight
    pronate = np.array([after.angles[0, INDEX["pronate_left"]] for _, after in wide])
    assert (np.histogram(pronate, np.linspace(-80, 80, 5))[0] > 0.15 * COUNT).all()


def test_written_shapes_differ(wide):
    table = np.stack([*poses.HANDS.values(), *SHAPES.values()])
    apart = np.abs(table[:, None] - table).max(-1) + 1e3 * np.eye(len(table))
    assert len(table) >= 48 and apart.min() >= 5


def test_moves_are_smooth(wide):
    # Within 0.35 s no joint of a hand turns by more than its whole range.
    steps = np.concatenate([np.abs(np.diff(after.hands, axis=0)) for _, after in wide])
    assert steps.max() < 110 and np.median(steps) > 0.1
