"""The seam of heads: own keys, losses and measures; heads without a mesh."""

import importlib
import json
import re
import subprocess
import sys

import pytest
import torch
from runs import ROOT, finetune_words

import finetune.heads
from engine.config.parser import parse
from engine.errors import UserError
from finetune import losses
from finetune.config import FinetuneConfig
from finetune.evaluation.evaluate import main as evaluate
from finetune.heads.base import HEADS, Head, Prediction, Term, Truth
from finetune.heads.keys import ModelBasedConfig
from finetune.inference.predictor import Predictor
from finetune.predict import main as predict
from finetune.referee.referee import main as referee
from finetune.released.release import main as release
from finetune.train import train
from pretrain.config import VisionConfig
from pretrain.model import Encoder, table

FILE = re.compile(r"^```python\n# (\w+)\.py in finetune/heads\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def spots(tmp_path_factory):
    """The head of docs/finetuning.md, found as a module of its package."""
    ((name, text),) = FILE.findall((ROOT / "docs/finetuning.md").read_text())
    folder = tmp_path_factory.mktemp("added")
    (folder / f"{name}.py").write_text(text)
    finetune.heads.__path__.append(str(folder))
    yield name
    finetune.heads.__path__.remove(str(folder))
    sys.modules.pop(f"finetune.heads.{name}", None)
    HEADS.pop(name, None)


def words_of(folder, run, shards, *more):
    """Words of a tiny run; its config has no keys of the default head."""
    _, *rest = finetune_words(run, "body", shards, "steps=4", "data.workers=0", *more)
    config = folder / "plain.yaml"
    config.write_text("command: finetune train\n")
    own = re.compile(r"head\.(?!name|hidden|spots|depth=3|hiden)")
    return [str(config), *(word for word in rest if not own.match(word))]


@pytest.fixture(scope="module")
def trained(spots, people, tmp_path_factory):
    """A complete run of that head."""
    folder = tmp_path_factory.mktemp("spots")
    words = words_of(folder, folder / "run", people["body"], "head.name=spots", "head.hidden=8")
    words += ["log.val_every=2", "log.images_every=4", "log.images=2", "log.val_clips=2"]
    assert train(parse(FinetuneConfig, words, "finetune train")) == 0
    return folder / "run"


def test_a_head_brings_keys_losses_measures_and_images(trained):
    lines = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    named = {name for line in lines for name in line}
    assert {n for n in named if n.startswith("loss/")} == {"loss/spots", "loss/total"}
    assert {n for n in named if n.startswith("val/")} == {"val/spots"}
    assert "hidden: 8" in (trained / "config.yaml").read_text()
    assert "token_proj_dim" not in (trained / "config.yaml").read_text()
    assert list((trained / "images").glob("*.png"))
    told = json.loads((trained / "metrics.json").read_text())
    assert "% of the side" in json.dumps(told)
    opened = Predictor(trained, "cpu")
    assert opened.config.head.hidden == 8 and not opened.model.head.has_mesh


def test_commands_about_meshes_say_that_there_is_none(trained, tmp_path):
    image = str(next((trained / "images").glob("*.png")))
    out = f"out={tmp_path / 'out'}"
    calls = [
        (evaluate, [str(trained), out], "evaluate"),
        (predict, [image, f"run={trained}", "whole_image=true", out], "predict"),
        (referee, [str(trained), f"samples={image}", out], "referee"),
        (release, [str(trained), "name=mine", out], "release"),
    ]
    for command, words, name in calls:
        with pytest.raises(UserError, match=rf"its head, spots, predicts no mesh, and {name}"):
            command(words)
    assert not (tmp_path / "out").exists()


def test_typos_name_the_nearest_key_of_the_head(spots, people, tmp_path):
    words = words_of(tmp_path, tmp_path / "run", people["body"], "head.name=spots")
    with pytest.raises(UserError, match=r"unknown key 'head.hiden'.*'head.hidden'"):
        parse(FinetuneConfig, [*words, "head.hiden=3"], "finetune train")
    with pytest.raises(UserError, match=r"unknown key 'head.depth'"):
        parse(FinetuneConfig, [*words, "head.depth=3"], "finetune train")
    with pytest.raises(UserError, match=r"head.name=spot is none of .*did you mean 'spots'"):
        parse(FinetuneConfig, [*words, "head.name=spot"], "finetune train")


def test_a_config_of_another_head_is_named(tmp_path):
    words = ["configs/finetune/demo_body.yaml", f"run={tmp_path}", "data.shards=x"]
    told = (
        r"there is no 'head.\w+', as \S+demo_body.yaml has it, with head.name=dense; "
        "configs/finetune/dense_body.yaml is a config with it"
    )
    with pytest.raises(UserError, match=told):
        parse(FinetuneConfig, [*words, "head.name=dense"], "finetune train")


def test_typos_of_the_default_head_are_reported_without_torch(tmp_path):
    config = tmp_path / "plain.yaml"
    config.write_text("command: finetune train\n")
    code = (
        "import sys\n"
        "from engine.config.parser import parse\n"
        "from engine.errors import UserError\n"
        "from finetune.config import FinetuneConfig\n"
        "try:\n"
        f"    parse(FinetuneConfig, [{str(config)!r}, 'head.widht=3'], 'finetune train')\n"
        "except UserError as error:\n"
        "    print(error, 'torch' in sys.modules)\n"
    )
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "did you mean 'head.width'?" in told.stdout and told.stdout.endswith("False\n")


def test_all_weights_of_a_heads_losses_may_not_be_0(spots, people, tmp_path):
    words = words_of(
        tmp_path, tmp_path / "run", people["body"], "head.name=spots", "head.spots_weight=0"
    )
    with pytest.raises(UserError, match=r"head.name=spots: all weights .*head.spots_weight"):
        train(parse(FinetuneConfig, words, "finetune train"))


def test_two_terms_of_one_name_are_refused():
    class Twice(Head):
        def forward(self, features, K, size, means, body):
            raise AssertionError

        def list_own_terms(self):
            return [Term("joints", "loss.joints", lambda found, truth: found.joints)]

    with pytest.raises(ValueError, match="two have one name"):
        losses.list_terms(Twice())


def test_a_measure_that_says_nothing_of_a_crop_leaves_it_out():
    points = torch.zeros(1, 2, 3)
    mesh = Prediction(points, points, points)
    truth = Truth(mesh, torch.eye(3)[None], 32)
    assert [one.name for one in losses.OF_MESHES] == ["mpjpe", "pa_mpjpe"]
    with pytest.raises(ValueError, match="no images"):
        truth.require_images()


@pytest.mark.parametrize("position", ["cosine", "rope"])
def test_inner_layers_come_beside_the_features(position):
    torch.manual_seed(0)
    config = VisionConfig(image_size=32, patch=16, position=position)
    config.encoder.width, config.encoder.depth, config.encoder.heads = 32, 3, 2
    encoder, images = Encoder(config), torch.randn(2, 3, 32, 32)
    places = table(config, config.encoder, config.grid())
    features, layers = encoder.read_layers(images, places, (2, 0))
    assert torch.equal(features, encoder(images, places)) and torch.equal(layers[0], features)
    assert layers[1].shape == features.shape and not torch.equal(layers[1], features)


def test_the_default_heads_keys_are_where_they_were():
    config = FinetuneConfig()
    assert isinstance(config.head, ModelBasedConfig) and config.head.width == 256
    assert importlib.import_module("finetune.heads.model_based").ModelBasedHead.schema is (
        ModelBasedConfig
    )
