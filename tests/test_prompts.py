"""Keypoints given to a head: how training spoils them, where predict puts them, what they do."""

import numpy as np
import torch

from data.bodies.models import open_model
from data.loading import appearance_keys as columns
from finetune.heads.base import Prediction
from finetune.heads.keys import ModelBasedConfig
from finetune.losses import project_points
from finetune.model import Recovery
from finetune.prompts import (
    FACE,
    PROMPTED,
    make_prompts,
    mirror_prompts,
    place_keypoints,
    spoil_keypoints,
)
from finetune.referee.truth import JUDGED
from pretrain.config import VisionConfig

BODY = PROMPTED["body"]
DRAWS = columns.PROMPT.stop - columns.PROMPT.start


def draw(count, seed=0):
    return torch.rand(count, DRAWS, generator=torch.Generator().manual_seed(seed))


def test_what_the_finder_finds_is_in_the_order_of_prompts():
    assert BODY[FACE:] == JUDGED


def test_keypoints_are_spoiled_as_often_as_is_said():
    points = torch.rand(4000, 17, 2, generator=torch.Generator().manual_seed(1)) * 0.6 - 0.3
    found = spoil_keypoints(points, draw(4000), 0.5)
    prompted = (found[..., 2] > 0).any(1)
    assert abs(prompted.float().mean() - 0.5) < 0.03
    given = found[prompted][..., 2] > 0
    # One in eight is missing, and of one in twenty people the legs, six of seventeen.
    assert abs(given.float().mean() - 0.88 * (1 - 0.05 * 6 / 17)) < 0.01
    assert (found[~prompted] == 0).all()
    away = (found[..., :2] - points).norm(dim=-1)[prompted][given]
    # Most are off by the spread of a finder, few are strays or swapped.
    assert 0.005 < away.median() < 0.02 and 0.02 < (away > 0.1).float().mean() < 0.12
    again = spoil_keypoints(points, draw(4000), 0.5)
    assert torch.equal(found, again)


def test_keypoints_outside_of_the_image_are_not_given():
    points = torch.full((50, 17, 2), 0.7)
    assert (spoil_keypoints(points, draw(50), 1.0)[..., 2] == 0).float().mean() > 0.9


def test_left_and_right_are_swapped_together():
    points = torch.arange(34.0).view(1, 17, 2).expand(3000, 17, 2) / 100
    u = draw(3000)
    u[:, 1] = 0  # the least spread
    found = spoil_keypoints(points, u, 1.0)
    left, right = found[:, 1], found[:, 2]
    both = (left[:, 2] > 0) & (right[:, 2] > 0)
    swapped = (left[both, 0] - points[0, 2, 0]).abs() < 0.01
    assert abs(swapped.float().mean() - 0.03) < 0.01
    assert ((right[both, 0] - points[0, 1, 0]).abs() < 0.01)[swapped].float().mean() > 0.75


def test_pixels_become_shares_of_the_crop():
    found = np.zeros((17, 3))
    found[0] = [150, 260, 0.9]
    found[1] = [150, 260, 0.1]  # not sure enough
    found[2] = [900, 260, 0.9]  # outside of the crop
    placed = place_keypoints([found, None], np.array([[100, 200, 300, 400]] * 2), "body")
    assert placed.shape == (2, 17, 3) and not placed[1].any()
    assert np.allclose(placed[0, 0], [-0.25, -0.2, 1]) and not placed[0, 1:].any()
    mirrored = mirror_prompts(torch.from_numpy(placed), torch.tensor([True, False]))
    assert np.allclose(mirrored[0, 0].numpy(), [0.25, -0.2, 1])


def test_a_head_reads_prompts_and_is_the_same_without_at_first():
    torch.manual_seed(0)
    body = open_model("anny")
    config = VisionConfig(image_size=32, patch=16)
    config.encoder.width, config.encoder.depth, config.encoder.heads = 32, 1, 2
    head = ModelBasedConfig(width=32, depth=1, heads=2, token_proj_dim=4, prompts=True)
    model, coarse = Recovery(config, head, body, "mesh"), body.coarse(32)
    K = torch.tensor([[60.0, 0, 16], [0, 60, 16], [0, 0, 1]]).repeat(2, 1, 1)
    images = torch.randn(2, 3, 32, 32)
    prompts = torch.rand(2, 17, 3)
    without = model(images, K, coarse).keypoints
    assert torch.equal(without, model(images, K, coarse, prompts).keypoints)
    model(images, K, coarse, prompts).keypoints.sum().backward()
    assert model.head.read_prompts[2].weight.grad.abs().sum() > 0
    torch.nn.init.normal_(model.head.read_prompts[2].weight)
    assert not torch.equal(without, model(images, K, coarse, prompts).keypoints)


def test_a_face_that_looks_away_is_mostly_not_found():
    body = open_model("anny").coarse(64)
    count = 600
    # At rest anny looks along -y: before a camera that looks along y it shows its face.
    turned = torch.eye(3).repeat(count, len(body.joint_names), 1, 1)
    facing = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    behind = facing @ torch.diag(torch.tensor([-1.0, -1, 1]))
    turned[: count // 2, 0], turned[count // 2 :, 0] = facing, behind
    shape = torch.full((count, 6), 0.5)
    vertices, joints = body(turned, torch.tensor([0.0, 0, 4]).repeat(count, 1), shape)
    K = torch.tensor([[110.0, 0, 56], [0, 110, 56], [0, 0, 1]]).repeat(count, 1, 1)
    true = Prediction(vertices, joints, body.keypoints(vertices, joints))
    prompts = make_prompts(body, true, K, 112, draw(count), 1.0)
    nose = prompts[:, 0, 2]
    assert nose[: count // 2].mean() > 0.8
    assert 0.15 < nose[count // 2 :].mean() < 0.4
    # Ears stay, and the limbs are where the body model has them.
    assert prompts[count // 2 :, 3, 2].mean() > 0.8
    wrist = BODY.index("left_wrist")
    at = project_points(joints[:, [body.joint_names.index("wrist.L")]], K)[:, 0] / 112 - 0.5
    given = prompts[:, wrist, 2] > 0
    assert (prompts[given, wrist, :2] - at[given]).norm(dim=1).median() < 0.02


def test_the_face_lies_where_a_face_is():
    body = open_model("anny")
    rest = torch.zeros(1, len(body.joint_names), 3)
    vertices, joints = body(rest, torch.zeros(1, 3), torch.full((1, 6), 0.5))
    at = dict(zip(body.landmark_names, body.landmarks(vertices, joints)[0], strict=True))
    # x to the person's own left, looking along -y, z up.
    assert at["left_eye"][0] > 0.02 and at["right_eye"][0] < -0.02
    assert at["left_ear"][0] > 0.07 and at["right_ear"][0] < -0.07
    assert abs(at["nose"][0]) < 0.005 and at["nose"][1] < at["left_eye"][1] - 0.03
    assert at["nose"][2] < at["left_eye"][2]
    coarse = body.coarse(64)
    found = coarse.landmarks(*coarse(rest, torch.zeros(1, 3), torch.full((1, 6), 0.5)))
    assert torch.allclose(found[0], torch.stack(list(at.values())), atol=1e-6)


def test_points_that_a_body_model_has_not_are_not_looked_at():
    class Faceless(type(open_model("anny"))):
        """Anny without landmarks on its face."""

        landmark_names = property(lambda self: self.keypoint_names)

        def landmarks(self, vertices, joints):
            return self.keypoints(vertices, joints)

        def lean(self, count):
            found = self.coarse(count)
            found.__class__ = Faceless
            return found

    body = open_model("anny")
    body.__class__ = Faceless
    config = VisionConfig(image_size=32, patch=16)
    config.encoder.width, config.encoder.depth, config.encoder.heads = 32, 1, 2
    keys = {"width": 32, "depth": 1, "heads": 2, "token_proj_dim": 4}
    head = ModelBasedConfig(**keys, prompts=True, prompt_face=True, rounds=1)
    torch.manual_seed(0)
    model = Recovery(config, head, body, "mesh").eval()
    torch.nn.init.normal_(model.head.read_prompts[2].weight)
    K = torch.tensor([[60.0, 0, 16], [0, 60, 16], [0, 0, 1]])[None]
    images, prompts = torch.randn(1, 3, 32, 32), torch.rand(1, 17, 3)
    coarse, other = body.coarse(32), prompts.clone()
    other[:, :FACE] += 0.2
    one = model(images, K, coarse, prompts).keypoints
    assert torch.equal(one, model(images, K, coarse, other).keypoints)
    other[:, FACE:] += 0.2
    assert not torch.equal(one, model(images, K, coarse, other).keypoints)
