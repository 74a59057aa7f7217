"""Features that a head reads where its mesh lies in the image."""

import pytest
import torch
import torch.nn.functional as F

from data.bodies.models import open_model
from engine.errors import UserError
from finetune.heads.aligned import sample_places
from finetune.heads.keys import ModelBasedConfig
from finetune.losses import project_points
from finetune.model import Recovery
from pretrain.config import VisionConfig

SIZE = 64
BODY = open_model("anny")
COARSE = BODY.coarse(64)
K = torch.tensor([[64.0, 0, 32], [0, 64, 32], [0, 0, 1]])


def make_network(**head):
    torch.manual_seed(0)
    config = VisionConfig(image_size=SIZE, patch=16)
    config.encoder.width, config.encoder.depth, config.encoder.heads = 32, 1, 2
    keys = {"width": 32, "depth": 1, "heads": 2, "token_proj_dim": 4} | head
    model = Recovery(config, ModelBasedConfig(**keys), BODY, "mesh")
    model.mean_place[2] = 0.8
    return model.eval()


@pytest.mark.parametrize(("rows", "columns"), [(12, 12), (12, 8), (8, 12)])
def test_features_are_those_of_torchs_own_sampling(rows, columns):
    draw = torch.Generator().manual_seed(1)
    fine = torch.randn(3, rows, columns, 5, generator=draw)
    longer = max(rows, columns)
    half = torch.tensor([columns, rows]) / longer / 2
    places = (torch.rand(3, 20, 2, generator=draw) * 2 - 1) * half
    theirs = F.grid_sample(
        fine.permute(0, 3, 1, 2),
        (places / half)[:, :, None],
        align_corners=False,
        padding_mode="border",
    )
    ours = sample_places(fine, places)
    assert torch.allclose(ours, theirs[..., 0].transpose(1, 2), atol=1e-5)
    assert (sample_places(fine, places + 1.01) == 0).all()


def test_a_network_goes_on_with_it_as_the_one_that_it_was():
    before = make_network(rounds=2, map_cells=2)
    after = make_network(rounds=2, map_cells=2, aligned_points=40)
    after.load_state_dict(before.state_dict(), strict=False)
    images = torch.randn(2, 3, SIZE, SIZE)
    cameras = K.repeat(2, 1, 1)
    for model in (before, after):
        for layer in model.head.mended.values():
            torch.nn.init.normal_(layer.weight, std=0.1, generator=torch.Generator().manual_seed(3))
    one, two = before(images, cameras, COARSE), after(images, cameras, COARSE)
    # The lean bodies differ in which vertices they carry, their landmarks to rounding.
    assert torch.allclose(one.keypoints, two.keypoints, atol=1e-4)


def test_only_features_about_the_body_change_the_answer():
    """Its small body lies in the image's middle; features elsewhere are not read."""
    model = make_network(rounds=1, aligned_points=40)
    torch.nn.init.normal_(model.head.aligned.last.weight, std=0.3)
    torch.nn.init.normal_(model.head.mended["pose"].weight, std=0.3)
    model.mean_place[2] = 2.0  # 7.4 m across the image
    refine = model.head.aligned.refine
    images, cameras = torch.randn(1, 3, SIZE, SIZE), K[None]
    with torch.no_grad():
        found = model(images, cameras, BODY)
        flat = project_points(found.vertices, cameras) / SIZE - 0.5
        assert flat.abs().amax() < 0.3
        changed = {}
        for name in ("corner", "middle"):

            def spoil(tokens, name=name):
                fine = refine(tokens).clone()
                if name == "corner":
                    fine[:, :2, :2] += 10
                else:
                    fine[:, 6:10, 6:10] += 10
                return fine

            model.head.aligned.refine = spoil
            changed[name] = model(images, cameras, BODY).keypoints
    assert torch.equal(changed["corner"], found.keypoints)
    assert (changed["middle"] - found.keypoints).abs().max() > 1e-3


def test_keys_that_do_not_fit_are_told():
    with pytest.raises(UserError, match=r"aligned_points=64 and head\.rounds=0"):
        ModelBasedConfig(aligned_points=64).check()
    with pytest.raises(UserError, match=r"rounds=2 .* head\.aligned_points"):
        ModelBasedConfig(rounds=2).check()
    ModelBasedConfig(rounds=2, aligned_points=64).check()
