"""Maps of keypoints: layout, reading, loss, and a head that is started by them."""

import numpy as np
import pytest
import torch

from data.bodies.models import open_model
from engine.errors import UserError
from finetune.config import LossConfig
from finetune.heads.base import Truth
from finetune.heads.keypoint_maps import KeypointMaps, compare_maps
from finetune.heads.keys import ModelBasedConfig
from finetune.losses import compute_terms, list_terms
from finetune.model import Recovery
from pretrain.config import VisionConfig


def test_each_token_fills_its_own_cells():
    maps = KeypointMaps(5, (2, 3), 2, 4)
    tokens = torch.randn(1, 6, 5)
    found = maps(tokens)
    assert found.shape == (1, 4, 4, 6)
    own = maps.layer(tokens)[0].view(2, 3, 4, 2, 2)
    for row in range(4):
        for column in range(6):
            token = own[row // 2, column // 2, :, row % 2, column % 2]
            assert torch.equal(found[0, :, row, column], token)


def test_a_sharp_map_is_read_where_it_is():
    maps = KeypointMaps(5, (2, 4), 4, 1)
    logits = torch.full((1, 1, 8, 16), -50.0)
    logits[0, 0, 6, 3] = 50
    x, y, share = maps.read(logits)[0, 0].tolist()
    # Both over the longer side.
    assert np.allclose([x, y, share], [(3.5 - 8) / 16, (6.5 - 4) / 16, 1.0], atol=1e-6)


def test_the_loss_is_the_cross_entropy_to_a_bump_at_the_keypoint():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(1, 2, 6, 6))
    point = np.array([0.3, 0.8])
    centres = (np.arange(6) + 0.5) / 6
    away = ((centres[None, :] - point[0]) ** 2 + (centres[:, None] - point[1]) ** 2) * 36
    target = np.exp(-away / 2) / np.exp(-away / 2).sum()
    log_shares = logits[0, 0] - np.log(np.exp(logits[0, 0]).sum())
    wanted = -(target * log_shares).sum() / np.log(36)
    # The second keypoint lies outside of the image and does not count.
    points = torch.tensor([[point.tolist(), [1.2, 0.5]]])
    found = compare_maps(torch.from_numpy(logits), points)
    assert np.allclose(found.numpy(), [wanted], atol=1e-6)
    even = compare_maps(torch.zeros(1, 2, 6, 6), points)
    assert np.allclose(even.numpy(), [1.0], atol=1e-6)
    assert compare_maps(torch.zeros(1, 1, 6, 6), torch.full((1, 1, 2), -1.0)).item() == 0


def test_a_head_with_maps_learns_them_and_starts_from_them():
    torch.manual_seed(0)
    body = open_model("anny")
    config = VisionConfig(image_size=32, patch=16)
    config.encoder.width, config.encoder.depth, config.encoder.heads = 32, 1, 2
    head = ModelBasedConfig(width=32, depth=1, heads=2, token_proj_dim=4, map_cells=2)
    model = Recovery(config, head, body, "mesh")
    coarse = body.coarse(32)
    K = torch.tensor([[60.0, 0, 16], [0, 60, 16], [0, 0, 1]]).repeat(2, 1, 1)
    images = torch.randn(2, 3, 32, 32)
    found = model(images, K, coarse)
    assert found.maps is not None and found.maps.shape == (2, len(body.keypoint_names), 4, 4)
    truth = Truth(model(images.flip(0), K, coarse), K, 32)
    terms = compute_terms(list_terms(model.head), found, truth)
    assert "keypoint_maps" in terms and "joints" in terms
    (terms["joints"].sum() + terms["keypoint_maps"].sum()).backward()
    reading = [p.grad for p in model.head.read_maps.parameters()]
    assert all(grad is not None and grad.abs().sum() > 0 for grad in reading)


def test_maps_alone_recover_nothing():
    others = ("rotation", "shape", "joints", "vertices", "keypoints_2d", "translation")
    with pytest.raises(UserError, match="but keypoint_maps are 0"):
        LossConfig(**dict.fromkeys(others, 0.0)).check()
    LossConfig(**dict.fromkeys(others[1:], 0.0)).check()
