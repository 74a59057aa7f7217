"""Heads that mend their answers, and people of whom keypoints alone are known."""

import dataclasses
import math

import pytest
import torch

from data.bodies.base import BodyParameters
from data.bodies.models import open_model
from data.loading import appearance_keys as columns
from data.loading.crops import CropAugmentConfig
from engine.errors import UserError
from engine.geometry import axis_angle_to_matrix
from finetune import lifting as lifting_module
from finetune.heads.keys import ModelBasedConfig
from finetune.heads.mending import Mending
from finetune.lifting import Lifting
from finetune.losses import TERMS, compute_terms, project_points
from finetune.model import Recovery
from finetune.prompts import PROMPTED
from pretrain.config import VisionConfig

SIZE = 112
BODY = open_model("anny")
COARSE = BODY.coarse(64)


def make_labels(count):
    """Labels of upright people four metres before a level camera."""
    draw = torch.Generator().manual_seed(3)
    ahead = torch.tensor([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 4]])
    K = torch.tensor([[300.0, 0, 80], [0, 300, 80], [0, 0, 1]])
    joints = len(BODY.joint_names)
    return {
        "pose": torch.randn(count, joints, 3, generator=draw) * 0.1,
        "root": torch.zeros(count, 3),
        "shape": torch.rand(count, 6, generator=draw),
        "joints": torch.zeros(count, joints, 3),
        "K": K.repeat(count, 1, 1),
        "Rt": ahead.repeat(count, 1, 1),
        "numbers": torch.zeros(count, 8),
    }


def draw_people(count, seed=0, **changes):
    draw = torch.Generator().manual_seed(seed)
    u = torch.rand(count, columns.LIFT_DRAWS, generator=draw)
    for column, value in changes.items():
        u[:, getattr(lifting_module, column)] = value
    lifting = Lifting(make_labels(20), CropAugmentConfig(), COARSE, SIZE, 1.35)
    return lifting(u)


def make_network(**head):
    torch.manual_seed(0)
    config = VisionConfig(image_size=SIZE, patch=16)
    config.encoder.width, config.encoder.depth, config.encoder.heads = 32, 1, 2
    keys = {"width": 64, "depth": 1, "heads": 2, "token_proj_dim": 4, "prompts": True} | head
    model = Recovery(config, ModelBasedConfig(**keys), BODY, "mesh")
    model.mean_place[2] = 0.8
    facing = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    model.mean_pose[0] = facing
    return model


def test_whole_people_fill_their_squares():
    people = draw_people(200, CUT=1.0)
    flat = project_points(people.truth.mesh.vertices, people.truth.K) / SIZE
    box = (flat.amax(1) - flat.amin(1)).amax(1)
    wanted = 1 / 1.35
    assert (box > wanted / 1.1 - 0.01).all() and (box < wanted / 0.85 + 0.01).all()
    middle = (flat.amax(1) + flat.amin(1)) / 2
    assert ((middle - 0.5).abs() < 0.06 + 1e-3).all()


def test_people_are_seen_from_all_sides_and_tilted_little():
    people = draw_people(400, ROLL=0.5)
    axes = people.truth.mesh.parameters.pose[:, 0]
    # Their axis up, in cameras whose y points down: 25 degrees of tilt and a few of the pose.
    up = -(axes @ torch.tensor([0.0, 0, 1]))[:, 1]
    assert up.min() > math.cos(math.radians(25 + 25))
    ahead = axes @ torch.tensor([0.0, -1, 0])
    angle = torch.atan2(ahead[:, 0], -ahead[:, 2])
    for low in (-math.pi, -math.pi / 2, 0, math.pi / 2):
        share = ((angle >= low) & (angle < low + math.pi / 2)).float().mean()
        assert 0.17 < share < 0.33


def test_what_is_beyond_an_edge_is_not_given_and_fills_no_square():
    # Cut from below by half of 65 % of their height.
    people = draw_people(100, CUT=0.0, CUT_AT=0.0, CUT_BY=0.5, ROLL=0.5)
    flat = project_points(people.truth.mesh.vertices, people.truth.K) / SIZE - 0.5
    assert (flat[..., 1].amax(1) > 0.5).float().mean() > 0.8
    legs = [PROMPTED["body"].index(name) for name in ("left_ankle", "right_ankle")]
    assert people.prompts[:, legs, 2].sum() == 0
    shoulders = PROMPTED["body"].index("left_shoulder")
    assert people.prompts[:, shoulders, 2].mean() > 0.75


def test_equal_numbers_give_equal_people():
    one, again = draw_people(8, seed=5), draw_people(8, seed=5)
    assert torch.equal(one.prompts, again.prompts) and torch.equal(one.truth.K, again.truth.K)
    assert torch.equal(one.truth.mesh.vertices, again.truth.mesh.vertices)


def test_a_network_goes_on_with_rounds_as_the_one_that_it_was():
    before, after = make_network(), make_network(rounds=2)
    after.load_state_dict(before.state_dict(), strict=False)
    K = torch.tensor([[110.0, 0, 56], [0, 110, 56], [0, 0, 1]]).repeat(2, 1, 1)
    images = torch.randn(2, 3, SIZE, SIZE)
    one, two = before(images, K, COARSE).keypoints, after(images, K, COARSE).keypoints
    assert torch.allclose(one, two, atol=1e-4)


def test_steps_alone_bring_a_body_to_its_keypoints():
    model = make_network(prompt_face=True, rounds=8)
    for layer in (*model.head.answers.values(), *model.head.mended.values()):
        torch.nn.init.zeros_(layer.weight)
    people = draw_people(40, CUT=1.0, ROLL=0.5)
    errors = []
    model.eval()
    for rounds in (0, 2, 8):
        model.head.answer_rounds = rounds
        with torch.no_grad():
            found = model.lift(people.truth.K, SIZE, COARSE, people.prompts)
        terms = compute_terms(TERMS, found, people.truth)
        errors.append(terms["keypoints_2d"].median().item())
    assert errors[1] < 0.8 * errors[0] and errors[2] < 0.5 * errors[0]


def test_mending_says_which_way_each_joint_would_turn():
    """Against the numerical gradient of the squared distances in the image."""
    count = 4
    mending = Mending(BODY, 16, [3], 17, maps=False)
    draw = torch.Generator().manual_seed(2)
    pose = axis_angle_to_matrix(torch.randn(count, len(BODY.joint_names), 3, generator=draw) * 0.3)
    # Far away all depths are alike, so distances in the image are those across the rays.
    at = torch.tensor([[0.3, -0.2, 90.0]]).repeat(count, 1)
    K = torch.tensor([[4000.0, 0, 56], [0, 4000, 56], [0, 0, 1]]).repeat(count, 1, 1)
    shape = torch.full((count, 6), 0.5)
    points = BODY.lean(1)
    names = [BODY.landmark_names.index(name) for name in PROMPTED["body"]]

    def project(posed):
        landmarks = points.landmarks(*points(posed, at, shape))[:, names]
        return (project_points(landmarks, K) / SIZE - 0.5).double()

    wanted = project(pose) + torch.randn(count, 17, 2, generator=draw) * 0.02
    prompts = torch.cat([wanted.float(), torch.ones(count, 17, 1)], -1)
    found = BodyParameters("anny", pose, shape, at)
    _, [compared], _ = mending.compare(found, K, SIZE, [prompts, None])
    for joint in ("root", "upperarm01.L", "upperleg01.R", "neck01", "lowerarm01.R"):
        index = BODY.joint_names.index(joint)
        numeric = torch.zeros(count, 3)
        for axis in range(3):
            small = torch.zeros(3)
            small[axis] = 1e-3
            costs = []
            for sign in (1, -1):
                moved = pose.clone()
                moved[:, index] = axis_angle_to_matrix(sign * small) @ pose[:, index]
                costs.append((project(moved) - wanted).square().sum((1, 2)))
            numeric[:, axis] = (costs[1] - costs[0]).float()
        ours = compared.turn[:, mending.turned.index(index)]
        assert (torch.cosine_similarity(ours, numeric) > 0.99).all(), joint


def test_each_round_answers_and_the_last_one_is_given():
    model = make_network(rounds=2)
    people = draw_people(5)
    answers = [
        model.lift(people.truth.K, SIZE, COARSE, people.prompts, torch.full((5,), judged)).vertices
        for judged in (0.1, 0.3, 0.9)
    ]
    last = model.lift(people.truth.K, SIZE, COARSE, people.prompts).vertices
    assert torch.equal(answers[2], last)
    assert not torch.equal(answers[0], answers[1]) and not torch.equal(answers[1], last)


def test_keypoints_alone_teach_a_head_where_limbs_are():
    model = make_network(prompt_face=True, rounds=1)
    optimizer = torch.optim.AdamW(model.head.parameters(), 2e-3)
    errors = []
    for step in range(60):
        people = draw_people(64, seed=step, CUT=1.0)
        found = model.lift(people.truth.K, SIZE, COARSE, people.prompts, people.judged)
        terms = compute_terms(TERMS, found, people.truth)
        errors.append(terms["keypoints_2d"].mean().item())
        optimizer.zero_grad()
        (5 * terms["keypoints_2d"] + terms["joints"] + terms["translation"]).mean().backward()
        optimizer.step()
    first, last = sum(errors[:5]) / 5, sum(errors[-5:]) / 5
    assert last < 0.6 * first


def test_rounds_and_faces_need_keypoints():
    with pytest.raises(UserError, match="head.rounds=1"):
        ModelBasedConfig(rounds=1).check()
    with pytest.raises(UserError, match="head.answer_rounds=9"):
        ModelBasedConfig(answer_rounds=9).check()
    with pytest.raises(UserError, match="head.prompt_face"):
        ModelBasedConfig(prompt_face=True).check()
    with pytest.raises(UserError, match="lifted=3"):
        CropAugmentConfig(lifted=3).check()
    assert dataclasses.replace(CropAugmentConfig(), lifted=3, prompt_share=0.5).draws == (
        columns.PROMPT.stop + 3 * columns.LIFT_DRAWS
    )
