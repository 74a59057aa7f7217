"""People who act: judged by the physics of joints and feet, at 200 Hz, on a body's own skeleton."""

from pathlib import Path

import numpy as np
import pytest
import torch

from data.people import motion, poses
from data.people.actions import embody as bodies
from data.people.actions.curves import GRAVITY, Curves, Heights, Hermite
from data.people.actions.embody import embody
from data.people.actions.names import ACTIONS, UPRIGHT_ACTIONS
from data.people.actions.sampling import sample_actions, sample_plan, sample_stretch
from data.people.config import Domain, PeopleConfig, population
from data.people.maker import ClipMaker
from engine.config.parser import parse
from engine.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
RECIPE = str(ROOT / "configs/data/people_body.yaml")
HZ = 200
SPAN_S = 3.0
# Of recipes that were there before people acted: what their people are called, and so who they are.
OLDER = {
    "people_body_studio": "made-b599d94ad248cd36-0",
    "people_body_elsewhere": "made-ee5f92eadd76fead-2000000",
    "people_body_easy": "made-5aabb044a47ed380-0",
    "people_hand_easy": "made-ed754821d432ce06-0",
}
FLYING = ("run", "jump", "jacks", "hop")


@pytest.fixture(scope="module")
def maker():
    return ClipMaker(PeopleConfig(out="none", size=64))


@pytest.fixture(scope="module")
def skeleton(maker):
    shape = np.full((1, 6), 0.5)
    shape[0, maker.body.shape_names.index("age")] = 0.75
    with torch.inference_mode():
        return maker.actor.find_skeleton(maker.body.rest(*maker._tensors(shape, np.zeros((1, 52)))))


@pytest.fixture(scope="module")
def acted(maker, skeleton):
    """{action: (plan, what becomes of it)}"""
    out = {}
    times_s = np.arange(0, SPAN_S, 1 / HZ)
    for number, name in enumerate(ACTIONS):
        rng = np.random.default_rng(number)
        plan = sample_plan(rng, SPAN_S, skeleton.leg_m, [name], walk_share=0)
        out[name] = plan, embody(plan, times_s, maker.rig, skeleton)
    return out


def legs_of(skeleton):
    return [bodies.Leg(skeleton, side) for side in range(2)]


@pytest.mark.parametrize("name", ACTIONS)
def test_angles_keep_their_limits_and_people_their_speeds(acted, skeleton, name):
    _, found = acted[name]
    assert (found.angles >= poses.LOW - 1e-9).all() and (found.angles <= poses.HIGH + 1e-9).all()
    hands = found.hands[..., 4:16]
    assert (hands >= -25).all() and (hands <= 105).all()
    joints, _ = skeleton.find_joints(found.rotations, found.root)
    some = [
        skeleton.index[bone] for bone in ("root", "head", "wrist.L", "wrist.R", "foot.L", "foot.R")
    ]
    velocity = np.diff(joints[:, some], axis=0) * HZ
    change = np.linalg.norm(np.diff(velocity, axis=0), axis=-1)
    # No joint jumps: within 5 ms no speed changes by what a limb takes a tenth of a second for.
    assert np.linalg.norm(velocity, axis=-1).max() < 13
    assert change.max() < 2
    turn = np.abs(np.diff(found.angles, axis=0)).max() * HZ
    assert 20 < turn < 1600


@pytest.mark.parametrize("name", ACTIONS)
def test_feet_that_carry_stand_still_on_the_floor(acted, skeleton, name):
    _, found = acted[name]
    joints, frames = skeleton.find_joints(found.rotations, found.root)
    for side, (letter, leg) in enumerate(zip("LR", legs_of(skeleton), strict=True)):
        bone = skeleton.index[f"foot.{letter}"]
        points = [joints[:, bone] + frames[:, bone] @ end for end in (leg.heel, leg.ball)]
        stands = found.contact[1:, side] & found.contact[:-1, side]
        moved = np.min([np.linalg.norm(np.diff(p, axis=0), axis=1) for p in points], 0)
        assert moved[stands].max(initial=0) < 0.001  # heel or ball, whichever it stands on
        assert np.median(moved[stands]) < 1e-4
        lowest = np.min([p[:, 2] for p in points], 0)
        assert np.abs(lowest[found.contact[:, side]]).max(initial=0) < 0.002
        assert lowest.min() > -0.005


@pytest.mark.parametrize("name", FLYING)
def test_bodies_in_the_air_fall(acted, skeleton, name):
    _, found = acted[name]
    joints, _ = skeleton.find_joints(found.rotations, found.root)
    mass = skeleton.find_mass_centre(joints)[:, 2]
    fall = np.diff(mass, 2) * HZ * HZ
    air = ~found.contact.any(1)
    inner = air[2:] & air[1:-1] & air[:-2]
    assert inner.sum() > 0.05 * HZ
    np.testing.assert_allclose(np.median(fall[inner]), -GRAVITY, atol=0.1)
    assert np.abs(fall[inner] + GRAVITY).max() < 4
    assert found.lift_m[air].max() > 0.01 and (found.lift_m[~air] == 0).all()


def test_a_plan_is_the_same_at_any_instants(maker, skeleton):
    """Sparse instants and dense ones agree, whatever lies between."""
    plan = sample_plan(np.random.default_rng(3), 9.0, skeleton.leg_m)
    dense = embody(plan, np.arange(0, 9, 0.05), maker.rig, skeleton)
    sparse = embody(plan, np.array([0.0, 2.5, 8.0]), maker.rig, skeleton)
    at = [0, 50, 160]
    np.testing.assert_allclose(dense.rotations[at], sparse.rotations, atol=1e-6)
    np.testing.assert_allclose(dense.root[at], sparse.root, atol=1e-6)
    one = embody(plan, np.array([2.5]), maker.rig, skeleton)
    np.testing.assert_allclose(one.root, sparse.root[1:2], atol=1e-6)


def test_stretches_are_those_of_their_seeds_and_differ(maker, skeleton):
    times_s = 5 + np.arange(32) / 30
    first, again, other = (
        sample_stretch(np.random.default_rng(seed), times_s, maker.rig, skeleton)
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.rotations, again.rotations)
    np.testing.assert_array_equal(first.hands, again.hands)
    assert np.abs(first.angles - other.angles).max() > 5
    many = sample_stretch(np.random.default_rng(1), np.arange(3000) / 30, maker.rig, skeleton)
    assert np.isfinite(many.root).all() and len(many.root) == 3000
    for wrong in ([], [1.0, 0.5], [0.0, np.nan]):
        with pytest.raises(ValueError, match="at least one is needed, each after the last"):
            sample_stretch(np.random.default_rng(1), np.array(wrong), maker.rig, skeleton)


def test_people_act_by_the_share(maker, monkeypatch):
    """Without it they are drawn as ever; with it, by random numbers of their own."""
    from data.people import maker as module

    called = []

    def count(*arguments):
        called.append(arguments)
        return sample_actions(*arguments)

    monkeypatch.setattr(module, "sample_actions", count)
    monkeypatch.setattr(maker, "config", PeopleConfig(out="none", size=64))
    maker.make_person(maker.random(0), 0)
    assert not called
    acting = PeopleConfig(out="none", size=64, domain=Domain(actions_share=0.5, actions=["sit"]))
    monkeypatch.setattr(maker, "config", acting)
    people = [maker.make_person(maker.random(i), i) for i in range(8)]
    assert 0 < len(called) < 8 and all(call[3] == ["sit"] for call in called)
    again = maker.make_person(maker.random(7), 7)
    np.testing.assert_array_equal(people[7].pose, again.pose)


def test_older_recipes_show_whom_they_did():
    for name, people in OLDER.items():
        path = ROOT / f"configs/data/{name}.yaml"
        config = parse(PeopleConfig, [str(path), "out=none"], command="data make")
        assert config.domain.actions_share == 0 and population(config) == people
    for name in ("people_body", "people_hand"):
        path = ROOT / f"configs/data/{name}.yaml"
        assert parse(
            PeopleConfig, [str(path), "out=none"], command="data make"
        ).domain.actions_share


def test_names_are_checked():
    for keys, words in (
        (["domain.actions=walk,fly"], "domain.actions: 'fly' is none of walk, run, stand"),
        (["domain.upright=true", "domain.actions=jump"], "none of them is done upright"),
    ):
        with pytest.raises(UserError, match=words):
            parse(PeopleConfig, [RECIPE, "out=none", *keys], command="data make")
    upright = Domain(upright=True, actions=["jump", "wave"])
    assert upright.action_names() == ["wave"] and set(UPRIGHT_ACTIONS) < set(ACTIONS)


def test_gaps_that_vary_keep_walkers_near():
    rng = np.random.default_rng(0)
    clock = motion.vary_times(np.full(8, 4.0))
    found = [sample_actions(rng, clock, names=["walk"], roam_m=1.5) for _ in range(5)]
    for moves in found:
        path = moves.plan.find_path(moves.plan.begin_s + moves.times_s)
        assert np.linalg.norm(path[:, None] - path[None], axis=-1).max() < 1.8
        assert 0 < moves.times_s[-1] < 32


def test_curves_are_smooth_where_moves_overlap():
    curves = Curves(["a"], np.zeros(1))
    curves.move("a", 10, 0.0, 1.0)
    curves.move("a", -5, 0.4, 1.0)
    values = curves.read(np.arange(-0.1, 1.6, 1e-3))[:, 0]
    assert values[0] == 0 and abs(values[-1] + 5) < 1e-9
    assert np.abs(np.diff(values, 3)).max() < 1e-5  # no jump in acceleration
    assert values.max() <= 10


def test_polynomials_meet_their_ends():
    start, end = np.array([0.1, -1.0, 4.0]), np.array([0.5, 2.0, -9.81])
    piece = Hermite(start, end, 0.4)
    times = np.array([0, 1e-4, 2e-4, 0.4 - 2e-4, 0.4 - 1e-4, 0.4])
    values = piece.read(times)
    for three, (value, speed, acceleration), at in ((values[:3], start, 0), (values[3:], end, 2)):
        assert abs(three[at] - value) < 1e-12
        assert abs((three[2] - three[0]) / 2e-4 - speed) < 2e-2
        assert abs((three[2] - 2 * three[1] + three[0]) / 1e-8 - acceleration) < 0.1


def test_runs_rise_and_fall_by_their_weight():
    heights = Heights()
    heights.add_run(1.0, 0.25, 0.36, 5)
    times = np.arange(0.5, 3.4, 1e-3)
    acceleration = np.diff(heights.read(times), 2) * 1e6
    assert np.abs(np.diff(acceleration)).max() < 1.0
    off, landed = heights.flights[2]
    inside = (times[1:-1] > off + 2e-3) & (times[1:-1] < landed - 2e-3)
    np.testing.assert_allclose(acceleration[inside], -GRAVITY, atol=1e-6)
