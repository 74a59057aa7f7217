"""Encoders in files as others write them: each computes here what timm computes with it."""

import argparse
import json
import math
import re

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed

import pretrain
from data.cropping.geometry import find_sides
from engine.errors import UserError
from pretrain import timm_models, weights
from pretrain.config import EncoderConfig, VisionConfig
from pretrain.model import Encoder, table

SIDE, WIDTH, DEPTH, HEADS = 64, 48, 2, 3
SIZES = {"img_size": SIDE, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS}
SPAN = 12.566370614359172


def images(size=SIDE):
    sides = find_sides(size)
    return torch.randn(2, 3, *sides, generator=torch.Generator().manual_seed(1))


def theirs(name, **more):
    """A tiny network of timm, none of whose weights is at its first value."""
    torch.manual_seed(0)
    model = timm.create_model(name, **{**SIZES, "num_classes": 0, **more}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def features(model, x):
    """What timm gives for the patches, after the last norm."""
    with torch.no_grad():
        found = model.forward_features(x)
        return model.fc_norm(found[:, model.num_prefix_tokens :])


def ours(path, side=SIDE, heads=HEADS, prefix=0, epsilon=1e-6, position="learnt", **vision):
    """Patch features of the encoder that a run with these keys makes of a file."""
    part = EncoderConfig(WIDTH, DEPTH, heads, prefix, epsilon)
    sides = side if isinstance(side, int) else list(side)
    config = VisionConfig(image_size=sides, position=position, encoder=part, **vision)
    encoder = Encoder(config).eval()
    weights.init_encoder(encoder, config, path)
    with torch.no_grad():
        return encoder(images(side), table(config, part, config.grid()))


def assert_same(found, wanted):
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_dinos_teacher_with_class_token_and_learnt_positions(tmp_path, capsys):
    model, other = theirs("vit_small_patch16_224"), theirs("vit_small_patch16_224", depth=1)
    teacher = {f"module.backbone.{k}": v for k, v in model.state_dict().items()}
    teacher["module.head.mlp.0.weight"] = torch.zeros(3, WIDTH)
    student = {f"module.backbone.{k}": v for k, v in other.state_dict().items()}
    args = argparse.Namespace(arch="vit_small", epochs=3)
    path = tmp_path / "checkpoint.pth"
    torch.save({"student": student, "teacher": teacher, "optimizer": {}, "args": args}, path)
    assert_same(ours(path, prefix=1), features(model, images()))
    said = capsys.readouterr().err
    assert "read from its 'teacher'" in said and "does not say its heads" in said
    torch.save({"student": teacher, "epoch": 1}, path)
    assert_same(ours(path, prefix=1), features(model, images()))


def test_moco_v3_gives_its_base_encoder(tmp_path):
    model, other = theirs("vit_small_patch16_224"), theirs("vit_small_patch16_224", depth=1)
    tensors = {f"module.base_encoder.{k}": v for k, v in model.state_dict().items()}
    tensors["module.base_encoder.head.0.weight"] = torch.zeros(5, WIDTH)
    tensors |= {f"module.momentum_encoder.{k}": v for k, v in other.state_dict().items()}
    tensors["module.predictor.0.weight"] = torch.zeros(5, 5)
    torch.save({"arch": "vit_small", "state_dict": tensors}, tmp_path / "moco.pth.tar")
    assert_same(ours(tmp_path / "moco.pth.tar", prefix=1), features(model, images()))


@pytest.mark.parametrize("name", ["vit_small_patch16_dinov3", "vit_small_patch16_dinov3_qkvb"])
@pytest.mark.parametrize("names", ["timm", "meta", "huggingface"])
@pytest.mark.parametrize("side", [64, (96, 48)])
def test_dinov3(name, names, side, tmp_path):
    """Its registers, layer scales, biases that are missing, and positions across the image."""
    model = theirs(name)
    tensors = dict(model.state_dict())
    if names == "meta":
        tensors = to_meta(tensors)
    if names == "huggingface":
        tensors = to_huggingface_dinov3(tensors)
    save_file({k: v.contiguous() for k, v in tensors.items()}, tmp_path / "a.safetensors")
    keys = {"prefix": 5, "epsilon": 1e-5, "position": "rope", "position_span": SPAN}
    assert_same(ours(tmp_path / "a.safetensors", side, **keys), features(model, images(side)))
    with pytest.raises(UserError, match=r"model.position_span=0; keys that take.* as it is: ") as e:
        ours(tmp_path / "a.safetensors", **keys | {"position_span": 0.0})
    assert "model.encoder.prefix=5 model.encoder.epsilon=1e-5 model.patch=16" in str(e.value)


def test_dinov3s_norms_are_told_where_a_run_has_others(tmp_path, capsys):
    model = theirs("vit_small_patch16_dinov3")
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    keys = {"prefix": 5, "position": "rope", "position_span": SPAN}
    ours(tmp_path / "a.safetensors", **keys)
    assert "norms add 1e-05 to variances, here they add 1e-06" in capsys.readouterr().err
    ours(tmp_path / "a.safetensors", **keys, epsilon=1e-5)
    assert "to variances" not in capsys.readouterr().err


def to_meta(tensors):
    """As in github.com/facebookresearch/dinov3: biases of keys are masked."""
    out = {"storage_tokens": tensors.pop("reg_token"), "mask_token": torch.zeros(1, WIDTH)}
    out["rope_embed.periods"] = torch.ones(WIDTH // HEADS // 4)
    for i in range(DEPTH):
        start = f"blocks.{i}."
        for kind in "12":
            out[f"{start}ls{kind}.gamma"] = tensors.pop(f"{start}gamma_{kind}")
        q = tensors.pop(f"{start}attn.q_bias", torch.zeros(WIDTH))
        v = tensors.pop(f"{start}attn.v_bias", torch.zeros(WIDTH))
        out[f"{start}attn.qkv.bias"] = torch.cat([q, torch.full((WIDTH,), 9.0), v])
        mask = torch.ones(3 * WIDTH)
        mask[WIDTH : 2 * WIDTH] = 0
        out[f"{start}attn.qkv.bias_mask"] = mask
    return out | tensors


def to_huggingface_dinov3(tensors):
    """As transformers' DINOv3ViTModel names them; keys have no bias."""
    out = {
        "embeddings.cls_token": tensors["cls_token"],
        "embeddings.register_tokens": tensors["reg_token"],
        "embeddings.mask_token": torch.zeros(1, 1, WIDTH),
        "embeddings.patch_embeddings.weight": tensors["patch_embed.proj.weight"],
        "embeddings.patch_embeddings.bias": tensors["patch_embed.proj.bias"],
        "norm.weight": tensors["norm.weight"],
        "norm.bias": tensors["norm.bias"],
    }
    for i in range(DEPTH):
        old, new = f"blocks.{i}.", f"layer.{i}."
        for name, rows in zip("qkv", tensors[f"{old}attn.qkv.weight"].chunk(3), strict=True):
            out[f"{new}attention.{name}_proj.weight"] = rows
            if f"{old}attn.{name}_bias" in tensors:
                out[f"{new}attention.{name}_proj.bias"] = tensors[f"{old}attn.{name}_bias"]
        for a, b in (
            ("attn.proj", "attention.o_proj"),
            ("norm1", "norm1"),
            ("norm2", "norm2"),
            ("mlp.fc1", "mlp.up_proj"),
            ("mlp.fc2", "mlp.down_proj"),
        ):
            for kind in ("weight", "bias"):
                out[f"{new}{b}.{kind}"] = tensors[f"{old}{a}.{kind}"]
        for kind in "12":
            out[f"{new}layer_scale{kind}.lambda1"] = tensors[f"{old}gamma_{kind}"]
    return out


@pytest.mark.parametrize("names", ["timm", "meta"])
def test_dinov2_with_registers(names, tmp_path):
    model = theirs("vit_small_patch14_reg4_dinov2", img_size=56)
    tensors = dict(model.state_dict())
    if names == "meta":
        # Positions cover the class token and not the registers; blocks come in chunks.
        place = torch.randn(1, 1, WIDTH)
        tensors["register_tokens"] = tensors.pop("reg_token")
        tensors["pos_embed"] = torch.cat([place, tensors["pos_embed"]], 1)
        tensors["cls_token"] = tensors["cls_token"] - place
        tensors["mask_token"] = torch.zeros(1, WIDTH)
        tensors = {re.sub(r"^blocks\.", "blocks.0.", k): v for k, v in tensors.items()}
    torch.save({"model": tensors, "optimizer": {"state": {}}, "iteration": 3}, tmp_path / "a.pth")
    assert_same(ours(tmp_path / "a.pth", 56, prefix=5, patch=14), features(model, images(56)))


def test_mae_with_its_optimiser_beside_keeps_cosine_positions(tmp_path, capsys):
    model = theirs("vit_base_patch16_224")
    config = VisionConfig(image_size=SIDE, encoder=EncoderConfig(WIDTH, DEPTH, HEADS))
    cosine = table(config, config.encoder, config.grid())
    with torch.no_grad():
        model.pos_embed.copy_(torch.cat([torch.zeros(1, WIDTH), cosine])[None])
    tensors = model.state_dict() | {
        "mask_token": torch.zeros(1, 1, 32),
        "decoder_embed.weight": torch.zeros(32, WIDTH),
        "decoder_pos_embed": torch.zeros(1, 17, 32),
        "decoder_blocks.0.norm1.weight": torch.zeros(32),
    }
    args = argparse.Namespace(model="mae_vit_base_patch16")
    torch.save({"model": tensors, "optimizer": {"state": {}}, "args": args}, tmp_path / "mae.pth")
    wanted = features(model, images())
    assert_same(ours(tmp_path / "mae.pth", position="cosine", prefix=1), wanted)
    assert "position vectors are learnt" not in capsys.readouterr().err
    without = ours(tmp_path / "mae.pth", position="cosine")
    assert (without - wanted).abs().max() > 1e-3
    assert "its 1 tokens before the patches are left out" in capsys.readouterr().err


def to_huggingface_vit(tensors, start="vit."):
    """As transformers' ViTModel, ViTMAEModel and IJepaModel name them; ``start``: before all."""
    kernel = f"{start}embeddings.patch_embeddings.projection."
    out = {
        f"{start}embeddings.position_embeddings": tensors["pos_embed"],
        f"{kernel}weight": tensors["patch_embed.proj.weight"],
        f"{kernel}bias": tensors["patch_embed.proj.bias"],
    }
    if "cls_token" in tensors:
        out[f"{start}embeddings.cls_token"] = tensors["cls_token"]
    for norm in ("norm", "fc_norm"):
        for kind in ("weight", "bias"):
            if f"{norm}.{kind}" in tensors:
                out[f"{start}layernorm.{kind}"] = tensors[f"{norm}.{kind}"]
    for i in range(DEPTH):
        old, new = f"blocks.{i}.", f"{start}encoder.layer.{i}."
        for kind in ("weight", "bias"):
            parts = tensors[f"{old}attn.qkv.{kind}"].chunk(3)
            for name, rows in zip(("query", "key", "value"), parts, strict=True):
                out[f"{new}attention.attention.{name}.{kind}"] = rows
            for a, b in (
                ("attn.proj", "attention.output.dense"),
                ("norm1", "layernorm_before"),
                ("norm2", "layernorm_after"),
                ("mlp.fc1", "intermediate.dense"),
                ("mlp.fc2", "output.dense"),
            ):
                out[f"{new}{b}.{kind}"] = tensors[f"{old}{a}.{kind}"]
    return out


def to_huggingface_dinov2(tensors, layer_scale):
    """As transformers' Dinov2Model and Dinov2WithRegistersModel name them: no position vectors of
    registers."""
    plain = to_huggingface_vit(tensors, "")
    out = {}
    for name, value in plain.items():
        for old, new in (
            ("layernorm_before", "norm1"),
            ("layernorm_after", "norm2"),
            ("intermediate.dense", "mlp.fc1"),
        ):
            name = name.replace(old, new)
        if re.search(r"layer\.\d+\.output\.dense", name):
            name = name.replace("output.dense", "mlp.fc2")
        out[name] = value
    out["embeddings.mask_token"] = torch.zeros(1, WIDTH)
    for i in range(DEPTH):
        for kind in "12":
            name = f"encoder.layer.{i}.layer_scale{kind}.lambda1"
            out[name] = tensors[f"blocks.{i}.{layer_scale}{kind}.gamma"]
    if "reg_token" in tensors:
        out["embeddings.register_tokens"] = tensors["reg_token"]
    return out


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("size", [56, (84, 42)])
def test_dinov2_of_huggingface(registers, size, tmp_path):
    name = "vit_small_patch14_reg4_dinov2" if registers else "vit_small_patch14_dinov2"
    model = theirs(name, img_size=56, dynamic_img_size=True)
    tensors = dict(model.state_dict())
    if registers:
        # timm keeps no vector of the class token's place; theirs have one.
        place = torch.randn(1, 1, WIDTH)
        tensors["pos_embed"] = torch.cat([place, tensors["pos_embed"]], 1)
        tensors["cls_token"] = tensors["cls_token"] - place
    tensors = to_huggingface_dinov2(tensors, "ls")
    save_file({k: v.contiguous() for k, v in tensors.items()}, tmp_path / "a.safetensors")
    found = ours(tmp_path / "a.safetensors", size, prefix=1 + registers, patch=14)
    assert_same(found, features(model, images(size)))


@pytest.mark.parametrize("names", ["github", "huggingface"])
def test_ijepa_gives_its_target_encoder(names, tmp_path, capsys):
    """No class token, sine-cosine positions in the file, an average beside a plain encoder."""
    keys = {"class_token": False, "global_pool": "avg", "fc_norm": False}
    model, other = (theirs("vit_base_patch16_224", depth=depth, **keys) for depth in (DEPTH, 1))
    config = VisionConfig(image_size=SIDE, encoder=EncoderConfig(WIDTH, DEPTH, HEADS))
    with torch.no_grad():
        model.pos_embed.copy_(table(config, config.encoder, config.grid())[None])
    path = tmp_path / "a.pth"
    if names == "github":
        parts = [{f"module.{k}": v for k, v in m.state_dict().items()} for m in (other, model)]
        predictor = {"module.predictor_blocks.0.norm1.weight": torch.zeros(8)}
        found = {"encoder": parts[0], "predictor": predictor, "opt": {}, "scaler": None}
        torch.save(found | {"target_encoder": parts[1], "epoch": 3, "lr": 0.1}, path)
    else:
        path = tmp_path / "a.safetensors"
        tensors = to_huggingface_vit(model.state_dict(), "")
        tensors["pooler.dense.weight"] = torch.zeros(WIDTH, WIDTH)
        save_file({k: v.contiguous() for k, v in tensors.items()}, path)
    for position in ("cosine", "learnt"):
        assert_same(ours(path, position=position), features(model, images()))
    assert "learnt ones" not in capsys.readouterr().err


def test_mae_of_huggingface(tmp_path):
    """With its decoder, as ViTMAEForPreTraining is saved."""
    model = theirs("vit_base_patch16_224")
    tensors = to_huggingface_vit(model.state_dict())
    tensors |= {
        "decoder.decoder_embed.weight": torch.zeros(32, WIDTH),
        "decoder.mask_token": torch.zeros(1, 1, 32),
        "decoder.decoder_pos_embed": torch.zeros(1, 17, 32),
        "decoder.decoder_layers.0.attention.attention.query.weight": torch.zeros(32, 32),
        "decoder.decoder_layers.0.layernorm_before.weight": torch.zeros(32),
        "decoder.decoder_norm.weight": torch.zeros(32),
        "decoder.decoder_pred.weight": torch.zeros(768, 32),
    }
    save_file({k: v.contiguous() for k, v in tensors.items()}, tmp_path / "model.safetensors")
    assert_same(ours(tmp_path / "model.safetensors", prefix=1), features(model, images()))


def test_a_folder_of_huggingface_says_its_heads(tmp_path):
    model = theirs("vit_base_patch16_224")
    tensors = {k: v.contiguous() for k, v in to_huggingface_vit(model.state_dict()).items()}
    tensors["classifier.weight"] = torch.zeros(10, WIDTH)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": HEADS}))
    assert_same(ours(tmp_path / "model.safetensors", prefix=1), features(model, images()))
    with pytest.raises(UserError) as error:
        ours(tmp_path / "model.safetensors", heads=6, prefix=1)
    said = str(error.value)
    assert "has 3 attention heads, as num_attention_heads in config.json says" in said
    assert "this run has model.encoder.heads=6" in said
    assert "model.encoder.heads=3 model.encoder.prefix=1" in said


@pytest.mark.parametrize("moco, heads", [(False, 6), (True, 12)])
def test_heads_are_those_that_the_name_of_a_network_has(moco, heads, tmp_path):
    start = "module.base_encoder." if moco else "module."
    torch.manual_seed(0)
    model = timm.create_model("vit_small_patch16_224", img_size=32, depth=1, num_classes=0)
    tensors = {f"{start}{k}": v for k, v in model.state_dict().items()}
    torch.save({"arch": "vit_small", "state_dict": tensors}, tmp_path / "a.pth")
    config = VisionConfig(32, position="learnt", encoder=EncoderConfig(384, 1, 18 - heads, 1))
    with pytest.raises(UserError, match=rf"has {heads} attention heads, as 'vit_small' in its"):
        weights.init_encoder(Encoder(config), config, tmp_path / "a.pth")
    config.encoder.heads = heads
    weights.init_encoder(Encoder(config), config, tmp_path / "a.pth")


def test_heads_that_nobody_knows_are_said_to_be_assumed(tmp_path, capsys):
    model = timm.create_model("vit_small_patch16_224", img_size=32, depth=1, num_classes=0)
    torch.save(model.state_dict(), tmp_path / "a.pth")
    config = VisionConfig(32, position="learnt", encoder=EncoderConfig(384, 1, 12, 1))
    weights.init_encoder(Encoder(config), config, tmp_path / "a.pth")
    said = capsys.readouterr().err
    assert "does not say its heads" in said
    assert "model.encoder.heads=12 (of width 384 most have 6)" in said


@pytest.mark.parametrize("side", [96, 48])
def test_learnt_positions_are_resampled_as_timm_does(side, tmp_path, capsys):
    model = theirs("vit_base_patch16_224")
    torch.save(model.state_dict(), tmp_path / "a.pth")
    other = theirs("vit_base_patch16_224", img_size=side)
    tensors = model.state_dict()
    grid = [side // 16, side // 16]
    tensors["pos_embed"] = resample_abs_pos_embed(tensors["pos_embed"], grid)
    other.load_state_dict(tensors)
    assert_same(ours(tmp_path / "a.pth", side, prefix=1), features(other, images(side)))
    assert f"of 4 x 4 patches, are resampled to {grid[0]} x {grid[1]}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, more, words",
    [
        ("vit_base_patch16_224", {"qk_norm": True}, "normalised queries and keys"),
        ("vit_base_patch16_clip_224", {}, "a norm before its blocks"),
        ("vit_giant_patch14_dinov2", {"img_size": 56}, "a gated MLP"),
        ("vit_small_plus_patch16_dinov3", {}, "a gated MLP"),
        ("beit_base_patch16_224", {}, "relative positions"),
        ("eva02_base_patch14_224", {"img_size": 56}, "a gated MLP|a norm inside"),
        ("vit_small_patch16_rope_mixed_224", {}, "learnt rotary frequencies"),
        ("vit_base_patch16_224", {"in_chans": 4}, r"is \(48, 4, 16, 16\)"),
        ("vit_base_patch16_224", {"patch_size": (16, 8)}, "patches of 16 x 8 px; model.patch is"),
    ],
)
def test_what_our_encoder_has_not_is_refused_by_name(name, more, words, tmp_path):
    model = timm.create_model(name, **{**SIZES, "num_classes": 0, **more})
    torch.save(model.state_dict(), tmp_path / "a.pth")
    with pytest.raises(UserError, match=words) as error:
        ours(tmp_path / "a.pth", prefix=1)
    assert "a.pth" in str(error.value) and "\n" not in str(error.value)


def test_a_nan_and_a_class_are_named(tmp_path):
    model = theirs("vit_base_patch16_224")
    with torch.no_grad():
        model.blocks[1].attn.qkv.bias[3] = math.nan
    torch.save({"state_dict": model.state_dict()}, tmp_path / "nan.pth")
    with pytest.raises(UserError, match=r"1 of 144 values of tensor blocks.1.attn.qkv.bias are"):
        ours(tmp_path / "nan.pth")
    torch.save({"model": {}, "optimizer": Odd()}, tmp_path / "odd.pth")
    with pytest.raises(UserError, match=r"odd.pth is not read: .* it holds a .*test_enc.*\.Odd"):
        ours(tmp_path / "odd.pth")


class Odd:
    pass


@pytest.mark.parametrize(
    "keys",
    [
        {"position": "learnt", "prefix": 3},
        {"position": "cosine", "prefix": 1},
        {"position": "rope", "prefix": 2},
        {"position": "rope", "prefix": 5, "position_span": SPAN},
        {"position": "rope", "prefix": 5, "position_span": SPAN, "epsilon": 1e-5},
        {"position": "rope", "prefix": 1, "position_span": SPAN, "epsilon": 1e-5},
    ],
)
def test_networks_with_such_parts_go_to_timm_and_back(keys, tmp_path):
    torch.manual_seed(2)
    keys = dict(keys)
    part = EncoderConfig(WIDTH, DEPTH, HEADS, keys.pop("prefix"), keys.pop("epsilon", 1e-6))
    config = pretrain.config.ModelConfig(image_size=SIDE, encoder=part, **keys)
    config.decoder = pretrain.config.DecoderConfig(32, 1, 2)
    model = pretrain.model.CrossCompletion(config).eval()
    weights.save_model(model, tmp_path / "m.safetensors")
    weights.export(tmp_path / "m.safetensors", tmp_path / "e.safetensors")
    about = json.loads((tmp_path / "e.json").read_text())
    file = {"checkpoint_path": str(tmp_path / "e.safetensors")}
    other = timm.create_model(about["architecture"], **about["model_args"], **file).eval()
    assert other.blocks[0].norm1.eps == other.fc_norm.eps == part.epsilon
    card = (tmp_path / "e.md").read_text()
    assert f"norms add {part.epsilon:g} to variances" in card and "[:, " in card
    with torch.no_grad():
        wanted = model.encode(images())
    assert_same(features(other, images()), wanted)
    for file in ("m.safetensors", "e.safetensors"):
        encoder = Encoder(config)
        weights.init_encoder(encoder, config, tmp_path / file)
        with torch.no_grad():
            again = encoder(images(), table(config, part, config.grid()))
        assert torch.equal(again, wanted), file
    with torch.no_grad():
        assert torch.equal(pretrain.load(tmp_path / "m.safetensors").encode(images()), wanted)


@pytest.mark.parametrize("key, value", [("position_span", 3.0), ("epsilon", 1e-5)])
def test_what_timm_has_no_model_for_is_not_exported(key, value, tmp_path):
    part = EncoderConfig(WIDTH, DEPTH, HEADS)
    config = pretrain.config.ModelConfig(image_size=SIDE, position="rope", encoder=part)
    config.decoder = pretrain.config.DecoderConfig(32, 1, 2)
    setattr(part if key == "epsilon" else config, key, value)
    weights.save_model(pretrain.model.CrossCompletion(config), tmp_path / "m.safetensors")
    for layout, name in (("timm", "e.safetensors"), ("croco", "e.pth")):
        with pytest.raises(UserError, match=key):
            weights.export(tmp_path / "m.safetensors", tmp_path / name, layout=layout)


def test_a_network_of_timm_is_filled_from_a_file(tmp_path, monkeypatch):
    made = timm.create_model

    def small(name, **more):
        return made(name, **{**SIZES, **more})

    model = theirs("vit_small_patch16_224", num_classes=7)
    teacher = {f"module.backbone.{k}": v for k, v in model.state_dict().items()}
    torch.save({"teacher": teacher, "optimizer": {}}, tmp_path / "a.pth")
    monkeypatch.setattr(timm, "create_model", small)
    found = timm_models.open_timm("vit_small_patch16_224", tmp_path / "a.pth", SIDE)
    assert_same(features(found, images()), features(model, images()))
    tall = timm_models.open_timm("vit_small_patch16_224", tmp_path / "a.pth", (96, 48))
    places = model.pos_embed.detach()
    assert_same(tall.pos_embed.detach(), resample_abs_pos_embed(places, [6, 3]))
    assert tall(torch.randn(1, 3, 96, 48)).shape == (1, WIDTH)
    with pytest.raises(UserError, match=r"a.pth is not of timm's .*dinov3: it lacks reg_token"):
        timm_models.open_timm("vit_small_patch16_dinov3", tmp_path / "a.pth", SIDE)
    with pytest.raises(UserError, match="timm has no network 'vit_odd'; it has vit_"):
        timm_models.open_timm("vit_odd", "", SIDE)
    with pytest.raises(UserError, match="patches of 16 x 16 px, of which images of 60"):
        timm_models.open_timm("vit_small_patch16_224", tmp_path / "a.pth", 60)
    teacher["module.backbone.norm.bias"][0] = math.inf
    torch.save({"teacher": teacher}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"1 of 48 values of tensor norm.bias"):
        timm_models.open_timm("vit_small_patch16_224", tmp_path / "a.pth", SIDE)
