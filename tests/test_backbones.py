"""Encoders by timm's names: sizes, weights from a file, the same features, what is refused."""

import dataclasses
import re

import pytest
import timm
import torch
from safetensors.torch import save_file

from data.bodies.models import open_model
from engine.errors import UserError
from finetune.config import FinetuneConfig
from pretrain import header
from pretrain.backbones import read_backbone
from pretrain.config import ModelConfig, VisionConfig


def test_sizes_are_timms():
    found = read_backbone("timm:vit_small_patch14_reg4_dinov2")
    assert found == {
        "patch": 14,
        "position": "learnt",
        "position_span": 0.0,
        "mlp_ratio": 4.0,
        "encoder.width": 384,
        "encoder.depth": 12,
        "encoder.heads": 6,
        "encoder.prefix": 5,
        "encoder.epsilon": 1e-6,
    }
    assert read_backbone("timm:vit_base_patch16_224")["encoder.prefix"] == 1


def test_a_network_has_timms_features_and_is_known_by_its_header(tmp_path):
    torch.manual_seed(0)
    name = "vit_tiny_patch16_224"
    theirs = timm.create_model(name, num_classes=0, dynamic_img_size=True, img_size=64).eval()
    torch.nn.init.normal_(theirs.pos_embed, std=0.5)
    save_file(theirs.state_dict(), tmp_path / "vit.safetensors")
    config = VisionConfig(image_size=64, backbone=f"timm:{name}")
    config.check()
    tree = dataclasses.asdict(config)
    assert header.read_config(tree, "file", VisionConfig) == config
    train = FinetuneConfig(model=config, body="anny_hand")
    mine = train.make_network(open_model("anny_hand")).eval()
    mine.take_pretrained(str(tmp_path / "vit.safetensors"))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        wanted = theirs.forward_features(images)[:, 1:]
        found = mine.encoder(images, mine._table)
    assert (found - wanted).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("timm:vit_smal_patch16_224", "near it are vit_small_patch16_224"),
        ("timm:resnet50", "is a ResNet, not a plain vision transformer"),
        ("timm:vit_giant_patch14_dinov2", "another MLP than two layers and GELU"),
        ("timm:vit_base_patch16_clip_224", "a norm before its blocks (CLIP)"),
        ("timm:swin_tiny_patch4_window7_224", "is a SwinTransformer"),
        ("vit_small_patch16_224", "write timm:NAME"),
    ],
)
def test_what_is_not_there_or_another_network_is_refused_by_name(name, said):
    with pytest.raises(UserError, match=re.escape(said)):
        read_backbone(name)


def test_keys_that_disagree_with_the_name_are_told_with_both_values():
    with pytest.raises(UserError, match=r"model\.encoder\.depth=7, and .*tiny.* has 12"):
        VisionConfig(
            backbone="timm:vit_tiny_patch16_224",
            encoder=dataclasses.replace(ModelConfig().encoder, depth=7),
        ).check()
