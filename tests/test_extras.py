"""Other people, things in hands, hair: where they are, and that labels stay the person's."""

import numpy as np
import pytest

from data.people import company, held, worn
from data.people import maker as makers
from data.people.config import Domain, PeopleConfig, hash_recipe
from data.people.things import (
    Thing,
    make_ball,
    make_box,
    make_disc,
    make_rod,
    make_tube,
    stack_things,
)


@pytest.fixture(scope="module")
def maker():
    config = PeopleConfig(out="none", seed=8, size=64, domain=Domain(held_share=1.0))
    return makers.ClipMaker(config)


@pytest.mark.parametrize(
    "mesh",
    [make_box(np.array([0.1, 0.2, 0.3])), make_ball(np.full(3, 0.2)), make_rod(1.0, 0.1, 0.2)],
)
def test_normals_of_meshes_point_outwards(mesh):
    assert np.allclose(np.linalg.norm(mesh.normals, axis=1), 1, atol=1e-6)
    middle = mesh.points.mean(0)
    outwards = ((mesh.points - middle) * mesh.normals).sum(1)
    assert (outwards > -0.02).all() and outwards.max() > 0.05
    a, b, c = (mesh.points[mesh.faces[:, k]] for k in range(3))
    across = np.cross(b - a, c - a)
    large = np.linalg.norm(across, axis=1) > 1e-3  # not what is folded onto a tip
    alike = (across * mesh.normals[mesh.faces].mean(1))[large].sum(1)
    alike /= np.linalg.norm(across[large], axis=1)
    assert large.sum() > 10 and np.abs(alike).min() > 0.5


def test_a_disc_without_a_hole_faces_one_way():
    angle = np.linspace(0, 2 * np.pi, 25)
    ring = np.stack([np.cos(angle), np.sin(angle), 0 * angle], 1)
    normals = make_disc(0 * ring, ring).normals
    np.testing.assert_allclose(np.abs(normals[:, 2]), 1, atol=1e-6)


def test_things_are_stacked_in_the_world():
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    axes, origin = np.stack([np.eye(3), turn]), np.array([[0.0, 0, 0], [1, 2, 3]])
    thing = Thing(make_box(np.array([0.1, 0.2, 0.3])), axes, origin, np.ones(3))
    stack = stack_things([thing, thing])
    count = len(thing.mesh.points)
    assert stack.position.shape == (2, 2 * count, 3) and stack.faces.max() == 2 * count - 1
    np.testing.assert_allclose(stack.position[1, :count], thing.mesh.points @ turn.T + [1, 2, 3])
    assert set(stack.part[-len(thing.mesh.faces) :]) == {1}


def test_a_frame_is_found_again():
    rng = np.random.default_rng(0)
    rest = rng.normal(size=(30, 3))
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    axes, origin = worn.fit_frames(rest, (1.3 * rest @ turn.T + [1, 2, 3])[None])
    np.testing.assert_allclose(axes[0], 1.3 * turn, atol=1e-9)
    np.testing.assert_allclose(origin[0], [1, 2, 3], atol=1e-9)


def column(x, y):
    """(1, n, 3) points of a cylinder of .2 m at a place."""
    angle = np.linspace(0, 2 * np.pi, 30)
    rings = [
        np.stack([x + 0.2 * np.cos(angle), y + 0.2 * np.sin(angle), 0 * angle + z], 1)
        for z in np.linspace(0, 1.7, 20)
    ]
    return np.concatenate(rings)[None]


def test_others_touch_nobody_and_leave_the_person_in_sight():
    rng = np.random.default_rng(1)
    person, eyes = column(0, 0), np.array([[0, -3.0, 1.4], [3.0, 0, 1.4]])
    placed = 0
    for _ in range(60):
        moved = company.place_other(rng, person, person, column(1, 5), eyes, 0.5)
        if moved is None:
            continue
        placed += 1
        other = column(1 + moved[0], 5 + moved[1])
        assert np.linalg.norm(moved + [1, 5]) > 0.45
        assert max(company.hidden_share(eye, person, other) for eye in eyes) <= 0.5
    assert placed > 30
    assert company.hidden_share(eyes[0], person, column(0, -1)) == pytest.approx(1.0)
    assert company.hidden_share(eyes[0], person, column(0, 2)) == 0.0


def test_what_is_held_is_at_the_palm_and_not_in_the_body(maker):
    count = 0
    for index in range(12):
        person = maker.make_person(maker.random(index), index)
        palms = held.find_palms(person.joints, maker.index)
        rng = maker.random(index, 62)
        plan = held.draw_plan(rng, 1.0)
        assert plan is not None
        things = held.make_held(rng, plan, palms, person.points.astype(float), maker.bank)
        for thing in things:
            count += 1
            points = thing.points()
            assert points[..., 2].min() >= 0
            away = points[:, :, None] - palms.origin.swapaxes(0, 1)[:, None]
            assert np.linalg.norm(away, axis=-1).min() < 0.25
    assert count >= 6


def test_labels_are_the_persons_alone(monkeypatch):
    """The same clip with and without others: less is seen of the person, and nothing new."""
    monkeypatch.setattr(makers, "hash_recipe", lambda config: 5)  # of which random numbers are
    plain = makers.ClipMaker(PeopleConfig(out="none", seed=8, size=64))
    clips = []
    for share in (0.0, 1.0):
        plain.config.domain.others_share = share
        clips.append([plain.clip(index) for index in range(6)])
    changed = 0
    for before, after in zip(*clips, strict=True):
        np.testing.assert_array_equal(before.labels["joints"], after.labels["joints"])
        assert (after.labels["visible"] <= before.labels["visible"] + 1e-6).all()
        assert not (np.asarray(after.masks) & ~np.asarray(before.masks)).any()
        changed += sum(a != b for a, b in zip(before.jpegs, after.jpegs, strict=True))
    assert changed > 8


def test_keys_that_are_off_leave_the_recipe():
    domains = [
        Domain(),
        Domain(others_share=0.1),
        Domain(held_share=0.1),
        Domain(hair_share=0.1),
    ]
    hashes = [hash_recipe(PeopleConfig(domain=domain)) for domain in domains]
    assert len(set(hashes)) == 4
    assert hashes[0] == hash_recipe(PeopleConfig())


def test_a_tube_that_hangs_is_sound():
    spine = np.array([[0, 0, 0.0], [0, 0, -0.1], [0, 0, -0.2]])
    tube = make_tube(spine, np.array([0, 0.02, 0]))
    assert np.isfinite(tube.normals).all()
    assert np.abs(tube.points[:, :2]).max() == pytest.approx(0.02)
