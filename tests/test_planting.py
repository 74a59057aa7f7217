"""Feet that stand still, bodies that would not fall: judged by joints of the body model itself."""

import numpy as np
import pytest
import torch

from data.people import degrade, motion, planting
from data.people.config import Domain, PeopleConfig
from data.people.maker import ClipMaker
from data.people.painting import paint_background
from data.people.skeleton import Skeleton
from engine.geometry import axis_angle_to_matrix

NAMES = (
    "root",
    *(f"{bone}.{side}" for side in "LR" for bone in ("upperleg01", "lowerleg01", "foot")),
)
PARENTS = [-1, 0, 1, 2, 0, 4, 5]
HEADS = np.array(
    [[0, 0, 1], [0.1, 0, 0.9], [0.1, -0.02, 0.5], [0.1, 0.02, 0.1]]
    + [[-0.1, 0, 0.9], [-0.1, -0.02, 0.5], [-0.1, 0.02, 0.1]]
)
SOLES = np.array([[[x, 0.07, 0], [x, -0.15, 0]] for x in (0.1, -0.1)])


@pytest.fixture(scope="module")
def motions():
    """{planted: [(person, skeleton, angles)]} of the same 40 people."""
    out = {}
    for planted in (False, True):
        config = PeopleConfig(out="none", seed=5, size=64, domain=Domain(planted=planted))
        maker = ClipMaker(config)
        out[planted] = [draw_person(maker, i) for i in range(40)]
    return out


def draw_person(maker, index):
    """A person, the skeleton of its shape, and the angles as written."""
    seen = {}
    plant = maker.actor._plant

    def remember(moves, angles, rotations, translation, rest):
        seen["angles"], seen["skeleton"] = angles, maker.actor.find_skeleton(rest)
        if not planted:
            return rotations, translation
        return plant(moves, angles, rotations, translation, rest)

    planted = maker.config.domain.planted
    maker.actor._plant = remember
    maker.config.domain.planted = True
    person = maker.make_person(maker.random(index))
    maker.actor._plant, maker.config.domain.planted = plant, planted
    return person, seen["skeleton"], seen["angles"]


def measure(people):
    """(metres by which mass centres lie outside what the feet span, metres that feet slide)."""
    outside, slides = [], []
    for person, skeleton, angles in people:
        rotations = axis_angle_to_matrix(torch.from_numpy(person.pose)).double().numpy()
        joints, frames = skeleton.find_joints(rotations, person.root.astype(float))
        used = skeleton.used
        np.testing.assert_allclose(joints[:, used], person.joints[:, used], atol=1e-4)
        soles = skeleton.find_soles(joints, frames)
        stance = planting.find_stance(skeleton, angles, joints, soles)
        mass = skeleton.find_mass_centre(person.joints.astype(float))[:, :2]
        for t in np.flatnonzero(stance.upright):
            feet = soles[t][stance.contact[t]].reshape(-1, 3)[:, :2]
            nearest = planting.nearest_in_hull(mass[t], feet, 0.0)
            outside.append(np.linalg.norm(nearest - mass[t]))
        for side, name in enumerate("LR"):
            if stance.upright.all() and stance.contact[:, side].all():
                feet = person.joints[:, skeleton.index[f"foot.{name}"], :2]
                slides.append(np.linalg.norm(feet[1] - feet[0]))
    return np.array(outside), np.array(slides)


def test_planted_people_keep_their_balance_and_their_feet(motions):
    before, after = measure(motions[False]), measure(motions[True])
    assert len(after[0]) > 40 and len(after[1]) > 30
    assert (before[0] > 0.1).mean() > 0.25  # what is mended
    assert (after[0] > 0.1).mean() < 0.05
    assert np.median(before[1]) > 0.05
    assert np.median(after[1]) < 0.005


def test_hands_and_faces_of_planted_people_are_as_before(motions):
    for (loose, skeleton, _), (planted, _, _) in zip(motions[False], motions[True], strict=True):
        same = [
            i for n, i in skeleton.index.items() if n.startswith(("finger", "head", "lowerarm"))
        ]
        np.testing.assert_allclose(loose.pose[:, same], planted.pose[:, same], atol=1e-5)
        np.testing.assert_array_equal(loose.phenotype, planted.phenotype)


@pytest.mark.parametrize("reach", [(0.1, 0.02, 0.1), (0.25, -0.2, 0.3), (0.0, 0.3, 0.25)])
def test_a_leg_is_bent_until_its_ankle_is_where_it_should_be(reach):
    skeleton = Skeleton(NAMES, PARENTS, HEADS, SOLES)
    rotations = np.tile(np.eye(3), (1, 7, 1, 1))
    root = HEADS[:1].copy()
    turned = planting._about_x(0.1)
    target = planting.Target(np.array(reach), turned, np.zeros(3), np.zeros((2, 3)))
    planting._bend_leg(skeleton, rotations, root, 0, target)
    joints, frames = skeleton.find_joints(rotations, root)
    np.testing.assert_allclose(joints[0, 3], reach, atol=1e-9)
    np.testing.assert_allclose(frames[0, 3], turned, atol=1e-9)
    np.testing.assert_allclose(joints[0, 6], HEADS[6], atol=1e-12)  # the other leg
    thigh, shin = joints[0, 2] - joints[0, 1], joints[0, 3] - joints[0, 2]
    assert np.isclose(np.linalg.norm(thigh), np.linalg.norm(HEADS[2] - HEADS[1]))
    knee = np.cross(thigh, shin) @ frames[0, 1][:, 0]
    assert knee >= -1e-9  # it bends backwards, as knees do


def test_the_foot_that_carries_a_walker_does_not_slide():
    """Legs that swing as pendulums, half a period apart: the path is what the lower foot takes."""
    skeleton = Skeleton(NAMES, PARENTS, HEADS, SOLES)
    swing = 0.4 * np.sin(np.linspace(0, np.pi, 30))
    rotations = np.tile(np.eye(3), (30, 7, 1, 1))
    for step, angle in enumerate(swing):
        rotations[step, 1] = planting._about_x(angle)
        rotations[step, 5] = planting._about_x(0.8)  # the right foot is off the floor
    path = planting.walk_path(skeleton, rotations)
    root = np.concatenate([path, np.zeros((30, 1))], 1)
    joints, frames = skeleton.find_joints(rotations, root)
    soles = skeleton.find_soles(joints, frames)[:, 0].mean(1)
    assert np.ptp(soles[:, :2], 0).max() < 1e-9
    assert np.ptp(path[:, 1]) > 0.2


@pytest.mark.parametrize(
    ("point", "nearest"),
    [((0.5, 0.5), (0.5, 0.5)), ((2, 0.5), (1, 0.5)), ((-1, -1), (0, 0)), ((0.5, 3), (0.5, 1))],
)
def test_the_nearest_point_of_a_square(point, nearest):
    corners = np.array([[0.0, 0], [1, 1], [1, 0], [0, 1]])
    found = planting.nearest_in_hull(np.array(point, float), corners, 0.0)
    np.testing.assert_allclose(found, nearest, atol=1e-12)
    inwards = planting.nearest_in_hull(np.array(point, float), corners, 0.1)
    assert ((inwards >= 0) & (inwards <= 1)).all()


def test_walks_keep_their_old_path_where_nobody_is_planted():
    rng = np.random.default_rng(3)
    moves = motion.sample_motion(rng, motion.even_times(3, 0.35), walk_share=1.0)
    assert moves.gait is not None and len(moves.gait.at) == 3
    np.testing.assert_array_equal(moves.gait.angles[moves.gait.at], moves.angles)
    steps = np.linalg.norm(np.diff(moves.root[:, 1:], axis=0), axis=1) / 0.35
    assert np.allclose(steps, steps[0]) and 0.3 <= steps[0] <= 1.5


def test_a_camera_s_faults_are_what_they_say():
    image = np.zeros((128, 128, 3), np.uint8)
    image[64, 64] = 255
    assert (degrade.degrade_image(image, degrade.Degradation()) == image).all()
    blurred = degrade.degrade_image(image, degrade.Degradation(defocus=3 / 128))
    assert (blurred[..., 0] > 0).sum() == pytest.approx(np.pi * 3.5**2, rel=0.2)
    moved = degrade.degrade_image(image, degrade.Degradation(moved=(10 / 128, 0.0)))
    rows, columns = np.nonzero(moved[..., 0])
    assert set(rows) <= {63, 64, 65} and 9 <= np.ptp(columns) <= 13
    grey = degrade.degrade_image(image + np.uint8([0, 50, 0]), degrade.Degradation(grey=True))
    assert (grey[..., 0] == grey[..., 1]).all()
    stripes = np.zeros((128, 128, 3), np.uint8)
    stripes[:, ::2] = 200
    small = degrade.degrade_image(stripes, degrade.Degradation(scale=0.5))
    assert small.std() < 0.2 * stripes.std()
    none = [degrade.sample_degradation(np.random.default_rng(i), 0.0) for i in range(20)]
    assert all(one == degrade.Degradation() for one in none)


def test_paintings_differ_by_seed_alone():
    first, second = (paint_background(np.random.default_rng(s), 96, 128) for s in (1, 2))
    again = paint_background(np.random.default_rng(1), 96, 128)
    assert first.shape == (96, 128, 3) and first.dtype == np.uint8
    assert (first == again).all() and (first != second).mean() > 0.5
    # As busy as photographs: hardly a cell of eight pixels of any is of one colour.
    for seed in range(12):
        image = paint_background(np.random.default_rng(seed), 96, 128)
        cells = image.reshape(12, 8, 16, 8, 3).astype(float)
        assert (cells.std((1, 3)).max(-1) > 1).mean() > 0.4
