"""Weights in and out: against what CroCo's released code computed, and against timm."""

import argparse
import dataclasses
import json
import os
import pickle
import re
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import pretrain
from engine.checkpoint import checkpoints
from engine.config.parser import key, save, section
from engine.errors import UserError
from engine.run.run_folder import RunFolder
from pretrain import header, state_dict_adapters, weights
from pretrain.config import DecoderConfig, EncoderConfig, ModelConfig
from pretrain.model import CrossCompletion
from pretrain.patch_loss import patchify, per_sample_loss, targets

PARITY = Path(__file__).parent / "assets" / "croco_parity"
NAMES = ("tiny_cosine", "tiny_rope100")


def tiny(position="cosine", width=48, depth=2):
    return ModelConfig(
        64, 16, position, 100.0, EncoderConfig(width, depth, 3), decoder=DecoderConfig(32, 2, 2)
    )


def network(position="cosine", seed=0, **sizes):
    torch.manual_seed(seed)
    model = CrossCompletion(tiny(position, **sizes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms that are not at their first values
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def images(seed=1, side=64):
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(seed))


def same(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in one.items())


def croco_file(name, folder):
    """The parity weights as the released checkpoints are packed."""
    path = PARITY / f"{name}.weights.safetensors"
    with safe_open(path, "pt") as file:
        kwargs = json.loads(file.metadata()["kwargs"])
    torch.save({"model": load_file(path), "croco_kwargs": kwargs}, folder / f"{name}.pth")
    return folder / f"{name}.pth"


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_what_crocos_code_computed(name, packed, tmp_path):
    model = pretrain.load(
        croco_file(name, tmp_path) if packed else PARITY / f"{name}.weights.safetensors"
    )
    known = load_file(PARITY / f"{name}.io.safetensors")
    a, b, mask = known["image1"], known["image2"], known["mask"].bool()
    first = []
    model.encoder.blocks[0].register_forward_hook(lambda module, inputs, out: first.append(out))
    with torch.no_grad():
        computed = {
            "encoder_features_image1": model.encode(a),
            "encoder_block0_image1": first[0],
            "decoder_features_unmasked": model.features(a, b),
            "prediction": model(a, b, mask),
            "target": patchify(a, 16),
        }
        for key_, value in computed.items():
            torch.testing.assert_close(value, known[key_], atol=1e-5, rtol=0, msg=key_)
        hidden = mask.nonzero()[:, 1].view(2, -1)
        said = model.complete(a, b, (~mask).nonzero()[:, 1].view(2, -1), hidden)
    for kind, loss in (("patch", "loss_norm_pix"), ("none", "loss_raw")):
        wanted = targets(a, 16, kind)[mask].view(2, -1, 768)
        ours = per_sample_loss(said, wanted, torch.ones(hidden.shape)).mean()
        assert ours.item() == pytest.approx(known[loss].item(), abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_to_crocos_layout_and_back_is_exact(name, tmp_path):
    source = croco_file(name, tmp_path)
    weights.export(source, tmp_path / "again.pth", layout="croco")
    old, new = (torch.load(p, weights_only=True) for p in (source, tmp_path / "again.pth"))
    assert old["model"].keys() == new["model"].keys()
    for key_, value in old["model"].items():
        if key_.endswith("pos_embed"):
            torch.testing.assert_close(new["model"][key_], value, atol=1e-6, rtol=0)
        else:
            assert torch.equal(new["model"][key_], value), key_
    old["croco_kwargs"].pop("mask_ratio")
    assert old["croco_kwargs"].items() <= new["croco_kwargs"].items()


def test_the_first_crocos_checkpoint_states_no_sizes():
    assert state_dict_adapters.config_from_croco(None, "x.pth") == ModelConfig()
    config = state_dict_adapters.config_from_croco(
        {
            "pos_embed": "RoPE100",
            "enc_embed_dim": 1024,
            "enc_depth": 24,
            "enc_num_heads": 16,
            "img_size": [224, 224],
        },
        "x.pth",
    )
    assert (config.position, config.rope_base, config.encoder.depth, config.decoder.depth) == (
        "rope",
        100.0,
        24,
        8,
    )
    with pytest.raises(UserError, match="norm_im2_in_dec=False"):
        state_dict_adapters.config_from_croco({"norm_im2_in_dec": False}, "x.pth")
    with pytest.raises(UserError, match="pos_embed=learned"):
        state_dict_adapters.config_from_croco({"pos_embed": "learned"}, "x.pth")


@pytest.mark.parametrize("position", ["cosine", "rope"])
def test_our_file_is_a_network(position, tmp_path):
    model = network(position)
    weights.save_model(model, tmp_path / "model.safetensors")
    before = torch.random.get_rng_state()
    back = pretrain.load(str(tmp_path / "model.safetensors"))
    assert torch.equal(
        before, torch.random.get_rng_state()
    )  # loading draws from nobody's random numbers
    assert same(back, model) and back.config == model.config and not back.training
    with torch.no_grad():
        assert torch.equal(back(images(), images(2)), model(images(), images(2)))
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


@dataclasses.dataclass
class RunConfig:
    steps: int = key(7, "steps")
    init: str = key("", "weights")
    model: ModelConfig = section(ModelConfig)


def a_run(folder, models):
    for step, model in models.items():
        checkpoints.save(
            folder, step, lambda path, m=model: weights.save_model(m, path), {}, {"step": step}
        )
    save(RunConfig(init="/home/me/croco.pth"), folder / "config.yaml", "pretrain train")
    return folder


def test_a_run_gives_its_newest_complete_checkpoint(tmp_path):
    run = a_run(tmp_path / "run", {5: network(seed=5), 9: network(seed=9)})
    assert same(pretrain.load(run), network(seed=9))
    (RunFolder(run).checkpoint(9) / checkpoints.MARKER).unlink()
    assert same(pretrain.load(run), network(seed=5))
    assert same(pretrain.load(RunFolder(run).checkpoint(5)), network(seed=5))


def timm_model(path, **more):
    """What the card's line says, run."""
    about = json.loads(path.with_suffix(".json").read_text())
    return timm.create_model(
        about["architecture"], **about["model_args"], checkpoint_path=str(path), **more
    ).eval()


@pytest.mark.parametrize("position", ["cosine", "rope"])
def test_timm_takes_an_export_strictly_and_computes_the_same(position, tmp_path, monkeypatch):
    model = network(position)
    run = a_run(tmp_path / "run", {5: model})
    assert weights.main([str(run), f"out={tmp_path / 'encoder.safetensors'}"]) == 0
    other = timm_model(tmp_path / "encoder.safetensors")
    with torch.no_grad():
        a = images()
        torch.testing.assert_close(
            other.fc_norm(other.forward_features(a)), model.encode(a), atol=1e-5, rtol=0
        )
    card = (tmp_path / "encoder.md").read_text()
    assert "init: croco.pth" in card and "/home/me" not in card and "steps: 7" in card
    line = card.split("```python\n")[1].split("```")[0]
    space = {}
    monkeypatch.chdir(tmp_path)
    exec(line, space)  # the card's own line, as a reader would paste it
    with torch.no_grad():
        assert torch.equal(space["model"].eval()(a), other(a))


@pytest.mark.parametrize(
    "position, name", [("cosine", "vit_small_patch16_224"), ("rope", "vit_small_patch16_rope_224")]
)
def test_a_registered_size_goes_by_its_registered_name(position, name, tmp_path):
    torch.manual_seed(0)
    model = CrossCompletion(
        ModelConfig(
            position=position, encoder=EncoderConfig(384, 12, 6), decoder=DecoderConfig(32, 1, 2)
        )
    ).eval()
    weights.save_model(model, tmp_path / "m.safetensors")
    weights.export(tmp_path / "m.safetensors", tmp_path / "e.safetensors")
    rope = {"use_fc_norm": True, "rope_grid_indexing": "ij"} if position == "rope" else {}
    other = timm.create_model(
        name,
        class_token=False,
        global_pool="avg",
        num_classes=0,
        checkpoint_path=str(tmp_path / "e.safetensors"),
        **rope,
    ).eval()
    assert state_dict_adapters.timm_call(model.config)[0] == name
    with torch.no_grad():
        a = images(side=224)
        torch.testing.assert_close(
            other.fc_norm(other.forward_features(a)), model.encode(a), atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("position, scales", [("cosine", 0.5), ("cosine", None), ("rope", 0.5)])
def test_an_encoder_from_timm(position, scales, tmp_path, capsys):
    """Class token, head and learned positions are left; what a layer scale does is kept."""
    torch.manual_seed(3)
    sizes = {
        "img_size": 64,
        "embed_dim": 48,
        "depth": 2,
        "num_heads": 3,
        "init_values": scales,
        "num_classes": 10,
    }
    rope = {"rope_grid_indexing": "ij"} if position == "rope" else {}
    other = timm.create_model(
        "vit_base_patch16_rope_224" if position == "rope" else "vit_base_patch16_224",
        **sizes,
        **rope,
    ).eval()
    torch.save(
        {"state_dict": {f"module.{k}": v for k, v in other.state_dict().items()}},
        tmp_path / "other.pth",
    )
    model, fresh = network(position), network(position)
    weights.init_from(model, tmp_path / "other.pth")
    note = capsys.readouterr().err
    assert (
        "cls_token" in note and "head" in note and ("pos_embed" in note) == (position == "cosine")
    )
    # timm's blocks on our tokens, without its class token, are the independent computation.
    with torch.no_grad():
        x = other.patch_embed(images())
        if position == "cosine":
            x = other.norm(other.blocks(x + model.encoder.pos_embed))
        else:
            for block in other.blocks:
                block.attn.num_prefix_tokens = 0
                x = block(x, rope=other.rope.get_embed())
            x = other.norm(x)
        torch.testing.assert_close(model.encode(images()), x, atol=1e-5, rtol=0)
    assert all(
        torch.equal(v, fresh.state_dict()[k])
        for k, v in model.state_dict().items()
        if k.startswith("decoder.")
    )


def test_init_from_our_weights_and_from_an_export(tmp_path):
    model = network("rope")
    weights.save_model(model, tmp_path / "m.safetensors")
    weights.export(tmp_path / "m.safetensors", tmp_path / "e.safetensors")
    whole, part = network("rope", seed=7), network("rope", seed=7)
    weights.init_from(whole, tmp_path / "m.safetensors")
    weights.init_from(part, tmp_path / "e.safetensors")
    assert same(whole, model) and same(part.encoder, model.encoder)
    assert torch.equal(part.decoder.head.weight, network("rope", seed=7).decoder.head.weight)


@pytest.mark.parametrize(
    "position, sizes, words",
    [
        ("cosine", {"width": 96}, ("tensor decoder.embed.weight", "(32, 48)", "(32, 96)")),
        ("cosine", {"depth": 1}, ("encoder.blocks.1", "has not")),
        ("cosine", {"depth": 3}, ("encoder.blocks.2", "no tensor")),
        ("rope", {}, ("model.position=cosine", "model.position=rope")),
    ],
)
def test_init_that_does_not_fit(position, sizes, words, tmp_path):
    weights.save_model(network(), tmp_path / "m.safetensors")
    with pytest.raises(UserError) as error:
        weights.init_from(network(position, **sizes), tmp_path / "m.safetensors")
    assert all(word in str(error.value) for word in words), str(error.value)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_code_in_a_pickle_never_runs(tmp_path):
    torch.save({"model": Bomb(tmp_path / "ran")}, tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(pickle.dumps(Bomb(tmp_path / "ran"), protocol=2))
    for name in ("a.pth", "b.pth"):
        with pytest.raises(UserError, match=name):
            pretrain.load(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_what_is_no_network(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.safetensors").write_text("no weights at all")
    (tmp_path / "text.pth").write_text("no weights at all")
    (tmp_path / "nothing.pth").write_bytes(b"")
    save_file({"w": torch.zeros(1)}, tmp_path / "else.safetensors")
    torch.save([1, 2], tmp_path / "list.pth")
    weights.save_model(network(), tmp_path / "m.safetensors")
    whole = (tmp_path / "m.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    weights.export(tmp_path / "m.safetensors", tmp_path / "encoder.safetensors")
    wrong = {
        "absent": "nothing at",
        "empty": "no complete checkpoint",
        "text.safetensors": "not a whole safetensors",
        "text.pth": "text.pth",
        "nothing.pth": "nothing.pth",
        "else.safetensors": "it holds w",
        "list.pth": "no tensors",
        "half.safetensors": "not a whole safetensors",
        "encoder.safetensors": "encoder alone",
    }
    for name, words in wrong.items():
        with pytest.raises(UserError) as error:
            pretrain.load(tmp_path / name)
        assert (
            words in str(error.value) and name in str(error.value) and "\n" not in str(error.value)
        ), str(error.value)


def test_a_newer_format_is_refused(tmp_path):
    model = network()
    save_file(model.state_dict(), tmp_path / "m.safetensors", {"counterpose": "2", "model": "{}"})
    with pytest.raises(UserError, match="format 2; this software reads up to 1"):
        pretrain.load(tmp_path / "m.safetensors")


def test_export_replaces_nothing_unasked(tmp_path):
    weights.save_model(network(), tmp_path / "m.safetensors")
    arguments = [str(tmp_path / "m.safetensors"), f"out={tmp_path / 'e.safetensors'}"]
    (tmp_path / "e.md").write_text("mine")
    with pytest.raises(UserError, match="e.md is there already; overwrite=true"):
        weights.main(arguments)
    assert (tmp_path / "e.md").read_text() == "mine" and not (tmp_path / "e.safetensors").exists()
    weights.main([*arguments, "overwrite=true"])
    assert (tmp_path / "e.md").read_text() != "mine" and (tmp_path / "e.safetensors").exists()
    for more, words in (
        (["layouts=x"], "unknown key 'layouts'"),
        (["overwrite=maybe"], "overwrite=maybe"),
        (["layout=onnx"], "layout=onnx"),
        (["out=e.bin"], ".safetensors"),
        ([f"out={tmp_path / 'no' / 'e.safetensors'}"], "does not exist"),
    ):
        with pytest.raises(UserError, match=words):
            weights.main([*arguments, *more])


def without_header(path, metadata=None):
    """The same tensors as a file that says nothing of itself, or something else."""
    tensors = load_file(path)
    path.unlink()
    save_file(tensors, path, metadata)
    return path


def exported(folder, position="rope", **vision):
    config = tiny(position)
    for name, value in vision.items():
        if name == "heads":
            config.encoder.heads = value
        else:
            setattr(config, name, value)
    torch.manual_seed(1)
    weights.save_model(CrossCompletion(config), folder / "m.safetensors")
    weights.export(folder / "m.safetensors", folder / "e.safetensors", overwrite=True)
    return folder / "e.safetensors"


OTHERS = [
    ("rope", {"heads": 1}, "model.encoder.heads=1, this run has model.encoder.heads=3"),
    ("rope", {"rope_base": 10.0}, "model.rope_base=10.0, this run has model.rope_base=100.0"),
    ("cosine", {}, "model.position=cosine, this run has model.position=rope"),
]


@pytest.mark.parametrize("card", [False, True])
@pytest.mark.parametrize("position, vision, words", OTHERS)
def test_an_exported_encoder_of_another_kind_is_refused(position, vision, words, card, tmp_path):
    """By what it says itself; one of before it did by the card beside it."""
    path = exported(tmp_path, position, **vision)
    if card:
        without_header(path, {"format": "pt"})
    else:
        path.with_suffix(".json").unlink()
    model = network("rope")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for fill in (
        lambda: weights.init_from(model, path),
        lambda: weights.init_encoder(model.encoder, model.config, path),
    ):
        with pytest.raises(UserError) as error:
            fill()
        assert words in str(error.value) and str(path) in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_an_encoder_that_says_nothing_is_known_as_far_as_its_tensors_go(tmp_path, capsys):
    path = without_header(exported(tmp_path))
    path.with_suffix(".json").unlink()
    weights.init_from(network("rope"), path)
    said = capsys.readouterr().err
    assert (
        "does not say its heads and rotary base: taken to be model.encoder.heads=3 and "
        "model.rope_base=100" in said
    )
    assert "does not say what it was trained on" in said
    with pytest.raises(UserError, match=r"has no pos_embed.* this run has model.position=cosine"):
        weights.init_from(network("cosine"), path)
    path = without_header(exported(tmp_path, "cosine"))
    path.with_suffix(".json").unlink()
    with pytest.raises(UserError, match=r"has pos_embed.* this run has model.position=rope"):
        weights.init_from(network("rope"), path)


def test_a_header_of_others_is_not_taken_for_ours(tmp_path):
    path = without_header(
        exported(tmp_path, "cosine"), {"model": "vit_base", "input": "x", "seen": "y"}
    )
    path.with_suffix(".json").unlink()
    model = network()
    weights.init_from(model, path)
    assert torch.equal(model.encoder.norm.bias, load_file(path)["fc_norm.bias"])
    assert "does not say what it was trained on" in header.read_seen(path).unknown[0]
    with pytest.raises(
        UserError, match="m.safetensors has tensors of this software, but its header.* is lost"
    ):
        pretrain.load(without_header(tmp_path / "m.safetensors"))


def test_a_header_tells_what_a_file_is_and_is_held_against_its_tensors(tmp_path):
    path = exported(tmp_path, "cosine")
    with safe_open(path, "pt") as file:
        said = file.metadata()
    assert said["counterpose"] == "1" and said["software"] == f"counterpose {header.VERSION}"
    assert json.loads(said["model"]) == dataclasses.asdict(tiny())
    assert json.loads(said["input"])["mean"] == [0.485, 0.456, 0.406]
    setup = (Path(__file__).parents[1] / "setup.py").read_text()
    assert re.search(r'version="(.*?)"', setup)[1] == header.VERSION
    model, config = network(), json.loads(said["model"])

    def refused(words, **change):
        without_header(path, said | {name: json.dumps(value) for name, value in change.items()})
        with pytest.raises(UserError) as error:
            weights.init_from(model, path)
        assert words in str(error.value), str(error.value)

    half = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    refused("mean=[0.5, 0.5, 0.5], this software's are by mean=[0.485, 0.456, 0.406]", input=half)
    refused("said to have model.patch=8, its tensors have 16", model=config | {"patch": 8})
    refused(
        "said to have model.position=rope, but it carries pos_embed",
        model=config | {"position": "rope"},
    )
    refused("rope_base='x', which is no float", model=config | {"rope_base": "x"})
    refused("'model' is not a JSON object", model=[1])
    without_header(path, said | {"counterpose": "2"})
    with pytest.raises(UserError, match="format 2; this software reads up to 1"):
        weights.init_from(model, path)


def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path):
    model = network()
    with torch.no_grad():
        model.encoder.blocks[1].mlp.fc1.weight[3, 5] = float("nan")
        model.encoder.blocks[1].mlp.fc1.weight[4, 5] = float("inf")
    weights.save_model(model, tmp_path / "m.safetensors")
    torch.save(
        {
            "model": {
                f"module.{k.removeprefix('encoder.')}": v
                for k, v in model.state_dict().items()
                if k.startswith("encoder.")
            }
        },
        tmp_path / "m.pth",
    )
    for name, tensor in (
        ("m.safetensors", "encoder.blocks.1.mlp.fc1.weight"),
        ("m.pth", "blocks.1.mlp.fc1.weight"),
    ):
        words = rf"{name}: 2 of {192 * 48} values of tensor {tensor} are NaN or infinite"
        for use in (
            weights.read,
            lambda path: weights.init_encoder(network().encoder, tiny(), path),
        ):
            with pytest.raises(UserError, match=words):
                use(tmp_path / name)


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_files_have_the_mode_that_the_umask_gives(umask, tmp_path):
    before = os.umask(umask)
    try:
        weights.save_model(network(), tmp_path / "m.safetensors")
        weights.export(tmp_path / "m.safetensors", tmp_path / "e.safetensors")
        weights.export(tmp_path / "m.safetensors", tmp_path / "c.pth", layout="croco")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert set(modes) == {"m.safetensors", "e.safetensors", "e.md", "e.json", "c.pth"}
    assert set(modes.values()) == {0o666 & ~umask}, modes


def test_a_card_says_what_is_known_and_no_more(tmp_path):
    source = croco_file("tiny_cosine", tmp_path)
    weights.export(source, tmp_path / "e.safetensors")
    card = " ".join((tmp_path / "e.md").read_text().split())
    assert "person" not in card and "No labels" not in card
    assert (
        "other software wrote" in card
        and "tiny_cosine.pth does not say what it was trained on" in card
    )
    # There and back it is still another's.
    weights.export(source, tmp_path / "again.pth", layout="croco")
    assert weights.read(tmp_path / "again.pth").seen.unknown == weights.read(source).seen.unknown
    alone = tiny()
    alone.decoder.cross = False
    weights.save_model(CrossCompletion(alone), tmp_path / "mae.safetensors")
    weights.export(tmp_path / "mae.safetensors", tmp_path / "mae_encoder.safetensors")
    card = " ".join((tmp_path / "mae_encoder.md").read_text().split())
    assert "masked autoencoder" in card and "cross-view" not in card


def croco_tensors(name):
    path = PARITY / f"{name}.weights.safetensors"
    with safe_open(path, "pt") as file:
        return load_file(path), json.loads(file.metadata()["kwargs"])


def training_file(folder, tensors, model, **more):
    """As CroCo's pretrain.py saves: the command line, and no croco_kwargs."""
    args = argparse.Namespace(model=model, epochs=400, blr=1.5e-4, output_dir="out")
    torch.save(
        {"model": tensors, "optimizer": {}, "args": args, "epoch": 3, **more},
        folder / "training.pth",
    )
    return folder / "training.pth"


def call_of(kwargs):
    return f"CroCoNet({', '.join(f'{name}={value!r}' for name, value in kwargs.items())})"


@pytest.mark.parametrize("name", NAMES)
def test_a_training_checkpoint_of_croco_is_what_its_command_line_says(name, tmp_path):
    tensors, kwargs = croco_tensors(name)
    model = pretrain.load(training_file(tmp_path, tensors, call_of(kwargs)))
    known = load_file(PARITY / f"{name}.io.safetensors")
    assert model.config.position == ("rope" if "rope" in name else "cosine")
    with torch.no_grad():
        found = model(known["image1"], known["image2"], known["mask"].bool())
        torch.testing.assert_close(found, known["prediction"], atol=1e-5, rtol=0)
    as_dict = {"model": tensors, "args": {"model": call_of(kwargs)}}
    torch.save(as_dict, tmp_path / "dict.pth")
    assert same(pretrain.load(tmp_path / "dict.pth"), model)


def test_a_call_of_croco_is_read_and_never_run(tmp_path):
    ran = tmp_path / "ran"
    assert state_dict_adapters.parse_croco_call("CroCoNet()", "x") == {}
    assert state_dict_adapters.parse_croco_call(
        " CroCoNet(enc_depth=24, pos_embed='RoPE100', img_size=(224, 224))", "x"
    ) == {"enc_depth": 24, "pos_embed": "RoPE100", "img_size": (224, 224)}
    bomb = f"__import__('pathlib').Path({str(ran)!r}).touch()"
    for text, words in (
        (f"CroCoNet(enc_depth={bomb})", "value of enc_depth is no literal"),
        (bomb, "no call of CroCoNet"),
        (f"CroCoNet(**{{'enc_depth': {bomb}}})", r"has \*\*"),
        ("CroCoNet(24)", "without names"),
        ("CroCoNet(norm='x')", "has norm, which is none of"),
        ("CroCoNet(", "no call of CroCoNet"),
        ("DPT()", "no call of CroCoNet"),
        ("mae_vit_base_patch16", "no call of CroCoNet"),
    ):
        with pytest.raises(UserError, match=words):
            state_dict_adapters.parse_croco_call(text, "x.pth")
    assert not ran.exists()


def test_what_contradicts_itself_or_cannot_be_known_of_croco_is_refused(tmp_path):
    cosine, cosine_kwargs = croco_tensors("tiny_cosine")
    rope, rope_kwargs = croco_tensors("tiny_rope100")

    def refused(words, tensors, model=None, **more):
        path = tmp_path / "x.pth"
        args = {} if model is None else {"args": argparse.Namespace(model=model)}
        torch.save({"model": tensors, **args, **more}, path)
        for use in (pretrain.load, lambda p: weights.init_from(network("rope"), p)):
            with pytest.raises(UserError) as error:
                use(path)
            assert words in str(error.value) and str(path) in str(error.value), str(error.value)

    refused("says pos_embed=cosine, but it carries no enc_pos_embed", rope, "CroCoNet(img_size=64)")
    refused("says pos_embed=RoPE100, but it carries enc_pos_embed", cosine, call_of(rope_kwargs))
    refused(
        "croco_kwargs have pos_embed=cosine, its args.model has pos_embed=RoPE100",
        cosine,
        call_of(rope_kwargs),
        croco_kwargs=cosine_kwargs,
    )
    refused("its positions cannot be known", rope)
    refused(
        "of enc_embed_dim=768; its enc_norm.weight is 48, and its heads cannot be known", cosine
    )
    refused("no call of CroCoNet", rope, "AsymmetricCroCo3DStereo(pos_embed='RoPE100')")
    moved = {**cosine, "enc_pos_embed": cosine["enc_pos_embed"] + 0.01 * torch.eye(16, 48)}
    refused(
        "its enc_pos_embed is off by up to 0.01 from the sine-cosine vectors",
        moved,
        call_of(cosine_kwargs),
    )
    refused(
        "its enc_pos_embed is (16, 48); images of 96 px in patches of 16 px give (36, 48)",
        cosine,
        call_of(cosine_kwargs | {"img_size": 96}),
    )
    lost = "dec_blocks.1.cross_attn.projv.weight"
    refused(
        f"has no tensor {lost}", {k: v for k, v in rope.items() if k != lost}, call_of(rope_kwargs)
    )
    refused(
        "has no tensor enc_blocks.0.mlp.fc1.bias",
        {k: v for k, v in rope.items() if k != "enc_blocks.0.mlp.fc1.bias"},
        call_of(rope_kwargs | {"enc_num_heads": 3}),
    )


def test_our_own_position_vectors_are_not_dropped_without_a_word(tmp_path):
    model = network()
    model.encoder.pos_embed += 0.25
    weights.save_model(model, tmp_path / "m.safetensors")
    with pytest.raises(UserError, match="its encoder.pos_embed is off by up to 0.25"):
        pretrain.load(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    "part, prefix",
    [
        ("teacher", "backbone."),
        ("teacher", "module.backbone."),
        ("model_ema", ""),
        ("state_dict", "module._orig_mod."),
        ("model", "_fsdp_wrapped_module."),
        ("target_encoder", "module."),
    ],
)
def test_encoders_in_the_wrappers_of_others(part, prefix, tmp_path, capsys):
    """Of DINO's files the averaged teacher's backbone, never its heads or the student."""
    model, other = network(), network(seed=5)
    named = {
        f"{prefix}{k}": v
        for k, v in state_dict_adapters.to_timm(tiny(), model.state_dict()).items()
    }
    if "backbone" in prefix:
        named[prefix.replace("backbone.", "head.") + "mlp.0.weight"] = torch.zeros(3, 48)
        named[prefix.replace("backbone.", "dino_head.") + "last.weight"] = torch.zeros(3, 48)
    theirs = state_dict_adapters.to_timm(tiny(), network(seed=9).state_dict())
    torch.save(
        {"student": theirs, part: named, "epoch": 7, "args": argparse.Namespace(model="vit")},
        tmp_path / "a.pth",
    )
    weights.init_encoder(other.encoder, tiny(), tmp_path / "a.pth")
    assert same(other.encoder, model.encoder)
    assert f"read from its '{part}'" in capsys.readouterr().err


def test_a_file_without_a_network_says_what_it_holds(tmp_path):
    torch.save({"teacher": {"neck": {"w": torch.zeros(2)}}, "epoch": 3}, tmp_path / "a.pth")
    torch.save({"weights": {"w": torch.zeros(2)}, "epoch": 3}, tmp_path / "b.pth")
    torch.save({"module.w": torch.zeros(2), "w": torch.zeros(2)}, tmp_path / "c.pth")
    for name, words in (
        ("a.pth", "no tensors in its 'teacher', but neck"),
        ("b.pth", "no tensors, but weights, epoch"),
        ("c.pth", "two tensors that mean w"),
    ):
        with pytest.raises(UserError, match=words):
            pretrain.load(tmp_path / name)
