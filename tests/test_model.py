"""The network: against timm, against itself with other shapes, and its cost against torch's own
counter."""

import dataclasses
import subprocess
import sys

import pytest
import torch
from timm.layers import apply_rot_embed_cat
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from engine.errors import UserError
from pretrain.blocks import EncoderBlock, take
from pretrain.config import DecoderConfig, EncoderConfig, ModelConfig
from pretrain.flops import flops
from pretrain.model import CrossCompletion, table
from pretrain.position import rope_table, rotate, sincos_table

POSITIONS = ("cosine", "rope")


def tiny(position="cosine", image_size=64):
    return ModelConfig(
        image_size, 16, position, 100.0, EncoderConfig(48, 2, 3), decoder=DecoderConfig(32, 2, 2)
    )


def network(position="cosine", seed=0):
    torch.manual_seed(seed)
    return CrossCompletion(tiny(position)).eval()


def images(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def split(batch, tokens, masked, seed=2):
    order = torch.rand(batch, tokens, generator=torch.Generator().manual_seed(seed)).argsort(1)
    return order[:, : tokens - masked], order[:, tokens - masked :]


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("size", [(64, 64), (96, 48)])
def test_complete_says_what_forward_says(position, size):
    model = network(position)
    a, b = images(3, 3, *size), images(3, 3, *size, seed=5)
    tokens = size[0] * size[1] // 256
    keep, masked = split(3, tokens, tokens * 3 // 4)
    mask = torch.zeros(3, tokens, dtype=torch.bool).scatter(1, masked, True)
    with torch.no_grad():
        some, every = model.complete(a, b, keep, masked), model(a, b, mask)
    expected = every.gather(1, masked[..., None].expand(-1, -1, 768))
    assert some.shape == (3, tokens * 3 // 4, 768)
    torch.testing.assert_close(some, expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("position", POSITIONS)
def test_targets_that_share_a_reference(position):
    model = network(position)
    a, b = images(6, 3, 64, 64), images(2, 3, 64, 64, seed=5)
    keep, masked = split(6, 16, 12)
    with torch.no_grad():
        shared = model.complete(a, b, keep, masked)
        alone = model.complete(a, b.repeat_interleave(3, 0), keep, masked)
    torch.testing.assert_close(shared, alone, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("position", POSITIONS)
def test_hidden_pixels_cannot_be_seen(position):
    model = network(position)
    a, b = images(1, 3, 64, 64), images(1, 3, 64, 64, seed=5)
    keep, masked = split(1, 16, 12)
    other = a.clone()
    for patch in masked[0].tolist():
        row, column = divmod(patch, 4)
        other[:, :, row * 16 : row * 16 + 16, column * 16 : column * 16 + 16] = 7.0
    with torch.no_grad():
        before, after = model.complete(a, b, keep, masked), model.complete(other, b, keep, masked)
        mismatched = model.complete(a, b.flip(3), keep, masked)
    torch.testing.assert_close(before, after, atol=1e-6, rtol=0)
    assert (before - mismatched).abs().max() > 0.01  # the reference is attended to


@pytest.mark.parametrize("position", POSITIONS)
def test_what_is_left_out_of_a_reference_cannot_be_seen(position):
    model = network(position)
    a, b = images(4, 3, 64, 64), images(2, 3, 64, 64, seed=5)
    keep, masked = split(4, 16, 12)
    seen = torch.tensor([[0, 3, 5, 6, 11], [1, 2, 8, 9, 15]])
    hidden, shown = b.clone(), b.clone()
    for row in range(2):
        for patch in range(16):
            y, x = (16 * i for i in divmod(patch, 4))
            (shown if patch in seen[row] else hidden)[row, :, y : y + 16, x : x + 16] = 7.0
    with torch.no_grad():
        part, same, other = (
            model.complete(a, image, keep, masked, seen) for image in (b, hidden, shown)
        )
        every = model.complete(a, b, keep, masked)
        # In whatever order: a token carries its place with it.
        rotated = model.complete(a, b, keep, masked, seen.flip(1))
        whole = model.complete(a, b, keep, masked, torch.arange(16).expand(2, -1))
    torch.testing.assert_close(part, same, atol=1e-6, rtol=0)
    torch.testing.assert_close(part, rotated, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(every, whole, atol=2e-6, rtol=1e-5)
    assert (part - other).abs().max() > 0.01 and (part - every).abs().max() > 0.01


def timms(position, size):
    """timm's own module of the tiny encoder, for images of size (height, width)."""
    sizes = {
        "img_size": size,
        "patch_size": 16,
        "embed_dim": 48,
        "depth": 2,
        "num_heads": 3,
        "num_classes": 0,
        "global_pool": "",
        "class_token": False,
    }
    if position == "cosine":
        return VisionTransformer(**sizes).eval()
    return Eva(
        **sizes,
        use_abs_pos_emb=False,
        use_rot_pos_emb=True,
        attn_type="rope",
        rope_grid_indexing="ij",
        rope_temperature=100.0,
    ).eval()


@pytest.mark.parametrize(
    "position, size", [("cosine", (64, 64)), ("rope", (64, 64)), ("rope", (48, 96))]
)
def test_encoder_is_timms(position, size):
    model, theirs = network(position), timms(position, size)
    theirs.load_state_dict(model.encoder.state_dict())
    a = images(2, 3, *size)
    with torch.no_grad():
        torch.testing.assert_close(
            model.encode(a), theirs.forward_features(a), atol=2e-6, rtol=1e-5
        )


def test_tokens_that_are_kept_are_those_of_the_whole_image():
    model, a = network("cosine"), images(2, 3, 64, 64)
    keep, _ = split(2, 16, 12)
    with torch.no_grad():
        whole = model.encoder.patch_embed.proj(a).flatten(2).transpose(1, 2)
        torch.testing.assert_close(
            model.encoder.patch_embed(a, keep), take(whole, keep), atol=2e-6, rtol=1e-5
        )


def test_position_tables_are_of_places():
    table = sincos_table((3, 5), 16).view(3, 5, 16)
    assert (table[:, :, :8] == table[:1, :, :8]).all()  # the first half knows the column alone
    assert (table[:, :, 8:] == table[:, :1, 8:]).all()
    assert table[0, 2, 0].item() == pytest.approx(0.9092974, abs=1e-6)  # sin 2
    assert table[2, 0, 13].item() == pytest.approx(
        0.9800666, abs=1e-6
    )  # row 2 at 10000^(-1/4): cos 0.2
    cosine, sine = rope_table((3, 5), 8, 100.0).view(3, 5, 4, 2).unbind(-1)
    assert torch.allclose(sine**2 + cosine**2, torch.ones(3, 5, 4))
    assert sine[2, 4, 0].item() == pytest.approx(0.9092974, abs=1e-6)  # row 2
    assert sine[2, 4, 3].item() == pytest.approx(
        0.3894183, abs=1e-6
    )  # column 4 at 100^(-1/2): sin 0.4


def test_rotation_is_timms_and_the_same_when_it_is_compiled():
    """timm's layout: sines then cosines of each channel's angle, channels 2i and 2i + 1 a pair."""
    x, table = images(2, 15, 3, 8).requires_grad_(), rope_table((3, 5), 8, 100.0)
    cos, sin = table.repeat_interleave(2, 1).unbind(-1)
    expected = apply_rot_embed_cat(x.transpose(1, 2), torch.cat([sin, cos], -1)).transpose(1, 2)
    traced = torch.compile(rotate, backend="eager", fullgraph=True)
    weight = images(2, 15, 3, 8, seed=2)
    for rotated in (rotate(x, table), rotate(x, table.expand(2, -1, -1, -1)), traced(x, table)):
        torch.testing.assert_close(rotated, expected, atol=1e-6, rtol=1e-6)
        slopes = [
            torch.autograd.grad((y * weight).sum(), x, retain_graph=True)[0]
            for y in (rotated, expected)
        ]
        torch.testing.assert_close(*slopes, atol=1e-6, rtol=1e-6)


def test_rotation_sees_differences_of_places_alone():
    """Scores between two patches stay when both move by the same rows and columns."""
    table = rope_table((8, 8), 16, 100.0).view(8, 8, 8, 2)
    q, k = images(1, 1, 1, 16), images(1, 1, 1, 16, seed=4)

    def score(one, two):
        return (rotate(q, table[one][None]) * rotate(k, table[two][None])).sum().item()

    assert score((1, 2), (3, 1)) == pytest.approx(score((4, 5), (6, 4)), abs=1e-5)
    assert abs(score((1, 2), (3, 1)) - score((1, 2), (1, 3))) > 0.01


@pytest.mark.parametrize("cross, seen", [(True, None), (True, 20), (False, None)])
@pytest.mark.parametrize("position", POSITIONS)
def test_flops_agree_with_torchs_counter(position, cross, seen):
    config = ModelConfig(
        112, 16, position, 100.0, EncoderConfig(96, 3, 4), decoder=DecoderConfig(64, 2, 4, cross)
    )
    model = CrossCompletion(config)
    keep, masked = split(1, 49, 40)
    a = images(1, 3, 112, 112)
    # Written out, because not every torch counts its fused attention on a CPU.
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model.complete(a, a, keep, masked, None if seen is None else torch.arange(seen)[None])
    assert flops(config, 9, 1, seen) == pytest.approx(counter.get_total_flops(), rel=0.001)


@pytest.mark.parametrize("targets", [1, 3])
def test_flops_of_training_agree_with_torchs_counter(targets):
    """Three times the forward pass, but for pixels, which need no gradient."""
    config = ModelConfig(
        112, 16, "rope", 100.0, EncoderConfig(96, 3, 4), decoder=DecoderConfig(64, 2, 4)
    )
    model = CrossCompletion(config)
    keep, masked = split(targets, 49, 40)
    a = images(targets, 3, 112, 112)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model.complete(a, a[:1], keep, masked).sum().backward()
    pixels = 2 * (9 + 49 / targets) * 768 * 96
    assert 3 * flops(config, 9, targets) - pixels == pytest.approx(
        counter.get_total_flops() / targets, rel=0.001
    )


def test_flops_of_the_known_sizes():
    """160 and 548 GFLOP a pair, forward and backward, at 224 px and 90 %: B + small decoder and L +
    base decoder."""
    assert 3 * flops(ModelConfig(), 20) == pytest.approx(160e9, rel=0.01)
    large = ModelConfig(
        position="rope", encoder=EncoderConfig(1024, 24, 16), decoder=DecoderConfig(768, 12, 12)
    )
    assert 3 * flops(large, 20) == pytest.approx(548e9, rel=0.01)


@pytest.mark.parametrize("position", POSITIONS)
def test_bf16_is_near_and_the_stream_stays_float32(position):
    model = network(position)
    a, b = images(2, 3, 64, 64), images(2, 3, 64, 64, seed=5)
    keep, masked = split(2, 16, 12)
    kinds = []
    for block in (*model.encoder.blocks, *model.decoder.blocks):
        block.register_forward_pre_hook(lambda module, inputs: kinds.append(inputs[0].dtype))
    with torch.no_grad():
        exact = model.complete(a, b, keep, masked)
        kinds.clear()
        with torch.autocast("cpu", torch.bfloat16):
            rough = model.complete(a, b, keep, masked)
    assert rough.dtype == torch.bfloat16 and set(kinds) == {torch.float32}
    assert (rough.float() - exact).abs().mean() < 0.02 * exact.abs().mean()


@pytest.mark.parametrize("position", POSITIONS)
def test_without_a_reference_the_decoder_is_a_plain_vit(position):
    config = dataclasses.replace(tiny(position), decoder=DecoderConfig(32, 2, 4, cross=False))
    model = CrossCompletion(config)
    a, b = images(2, 3, 64, 64), images(2, 3, 64, 64, seed=5)
    keep, masked = split(2, 16, 12)
    found = model.complete(a, b, keep, masked)
    assert torch.equal(found, model.complete(a, images(2, 3, 64, 64, seed=6), keep, masked))
    assert torch.equal(found, model.complete(a, None, keep, masked))
    with pytest.raises(UserError, match="decoder.cross=true"):
        CrossCompletion(tiny(position)).complete(a, None, keep, masked)
    places = table(config, config.decoder, (4, 4))
    rope = places if position == "rope" else None
    # All tokens in their own places, through blocks of the encoder's kind, which are timm's.
    hidden = model.decoder.mask_token.expand(2, 12, -1)
    x = take(
        torch.cat(
            [
                model.decoder.embed(model.encoder(a, table(config, config.encoder, (4, 4)), keep)),
                hidden,
            ],
            1,
        ),
        torch.cat([keep, masked], 1).argsort(1),
    )
    x = x if rope is not None else x + places
    for block in model.decoder.blocks:
        plain = EncoderBlock(32, 4, config.mlp_ratio)
        plain.load_state_dict(
            {name.replace("norm3", "norm2"): value for name, value in block.state_dict().items()}
        )
        x = plain(x, rope)
    torch.testing.assert_close(
        found, take(model.decoder.head(model.decoder.norm(x)), masked), rtol=1e-4, atol=1e-5
    )
    found.square().mean().backward()
    assert [
        n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0
    ] == []


@pytest.mark.parametrize("position", POSITIONS)
def test_every_weight_learns(position):
    """DDP waits for the gradient of each weight."""
    model = network(position).train()
    keep, masked = split(2, 16, 12)
    a, b = images(2, 3, 64, 64), images(2, 3, 64, 64, seed=5)
    model.complete(a, b, keep, masked).square().mean().backward()
    assert [
        n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0
    ] == []
    assert "encoder.pos_embed" not in dict(model.named_parameters())


def test_the_training_path_is_one_graph():
    """No host sync and no shape that depends on data: dynamo can trace the whole path without a
    break."""
    model = network("rope")
    keep, masked = split(2, 16, 12)
    a = images(2, 3, 64, 64)
    traced = torch.compile(model.complete, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(traced(a, a, keep, masked), model.complete(a, a, keep, masked))


def test_first_values():
    model = network("rope")
    qkv, kv = model.encoder.blocks[0].attn.qkv, model.decoder.blocks[0].cross.kv
    # Xavier's bound is sqrt(6 / (in + out)); a uniform variable's standard deviation is its bound
    # over sqrt 3.
    assert qkv.weight.std().item() == pytest.approx((2 / (48 + 144)) ** 0.5, rel=0.05)
    assert kv.weight.std().item() == pytest.approx((2 / (32 + 32)) ** 0.5, rel=0.05)
    assert model.encoder.patch_embed.proj.weight.std().item() == pytest.approx(
        (2 / (48 + 768)) ** 0.5, rel=0.05
    )
    assert model.decoder.mask_token.std().item() == pytest.approx(0.02, rel=0.5)
    assert all((p == 0).all() for n, p in model.decoder.named_parameters() if n.endswith("bias"))
    assert all(
        (p == 1).all() for n, p in model.named_parameters() if "norm" in n and n.endswith("weight")
    )
    again = network("rope").state_dict()
    assert all(torch.equal(v, again[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"image_size": 100}, ("model.image_size=100", "model.patch=16")),
        ({"encoder": EncoderConfig(50, 2, 4)}, ("model.encoder.width=50", "model.encoder.heads=4")),
        (
            {"decoder": DecoderConfig(36, 2, 6), "position": "rope"},
            ("model.decoder.width=36", "heads of 6"),
        ),
        ({"decoder": DecoderConfig(30, 2, 2)}, ("model.decoder.width=30", "multiple of 4")),
    ],
)
def test_impossible_configs(changed, words):
    config = tiny()
    for name, value in changed.items():
        setattr(config, name, value)
    with pytest.raises(UserError) as error:
        CrossCompletion(config)
    assert all(word in str(error.value) for word in words)


def test_inputs_that_do_not_fit():
    model, a = network(), images(2, 3, 64, 64)
    mask = torch.zeros(2, 16, dtype=torch.bool)
    mask[0, :3] = mask[1, :5] = True
    with pytest.raises(UserError, match="3 patches of one image and 5 of another"):
        model(a, a, mask)
    with pytest.raises(UserError, match="60 x 64 px.*patch=16"):
        model.encode(a[:, :, :60])
    with pytest.raises(UserError, match=r"\(2, 3, 64, 64\).*\(2, 3, 64, 48\)"):
        model(a, a[..., :48])


def test_the_package_starts_without_torch():
    code = "import sys, pretrain; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("position", POSITIONS)
def test_the_training_path_never_waits_for_the_gpu(position):
    from pretrain.masking import choose, person_share

    model = network(position).cuda()
    a, b = images(2, 3, 64, 64).cuda(), images(2, 3, 64, 64, seed=5).cuda()
    noise, masks = torch.rand(2, 16).cuda(), torch.rand(2, 64, 64).cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        keep, masked = choose(noise, person_share(masks, model.grid), 0.75, 0.3)
        with torch.autocast("cuda", torch.bfloat16):
            model.complete(a, b, keep, masked).float().square().mean().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
