"""The examples of CONTRIBUTING.md are added as the files that they name, and trained with."""

import importlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import ROOT, finetune_words, words

from data.bodies.models import BODIES
from data.format.index import read_index
from data.format.labels import read_labels
from data.loading.reader import ClipReader
from data.sources.label_shards import main as make_labels
from data.sources.labelled import LABELLED
from data.storage.shard_store import Store
from engine.config.parser import parse
from finetune.config import FinetuneConfig
from finetune.heads.base import HEADS
from finetune.tasks import TASKS
from finetune.train import train as finetune
from pretrain import load
from pretrain.config import PretrainConfig
from pretrain.objectives import OBJECTIVES
from pretrain.train import train as pretrain

FILE = re.compile(r"^```python\n# (\S+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
REGISTRIES = (BODIES, HEADS, LABELLED, TASKS, OBJECTIVES)


@pytest.fixture(scope="module")
def added(tmp_path_factory):
    """{name: text} of the examples; each is a module of its package while the tests run."""
    found = dict(FILE.findall((ROOT / "CONTRIBUTING.md").read_text()))
    places, before = [], [dict(registry) for registry in REGISTRIES]
    for path, text in found.items():
        folder, name = tmp_path_factory.mktemp("added"), Path(path).stem
        (folder / f"{name}.py").write_text(text)
        package = importlib.import_module(".".join(Path(path).parts[:-1]))
        package.__path__.append(str(folder))
        places.append((package, str(folder), f"{package.__name__}.{name}"))
    yield [Path(path).stem for path in found]
    for package, folder, module in places:
        package.__path__.remove(folder)
        sys.modules.pop(module, None)
    for registry, names in zip(REGISTRIES, before, strict=True):
        for name in registry.keys() & {Path(path).stem for path in found} - names.keys():
            del registry[name]


def train_tiny(run, shards, *more):
    """Fine-tune for four steps; the lines of the log."""
    file, *rest = finetune_words(run, "body", shards, "steps=4", "data.workers=0", *more)
    assert finetune(parse(FinetuneConfig, [str(ROOT / file), *rest], "finetune train")) == 0
    return read_log(run)


def read_log(run):
    """{name: last finite number} of a run's log."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    merged = {name: value for line in lines for name, value in line.items()}
    assert all(np.isfinite(value) for value in merged.values() if isinstance(value, float))
    return merged


def test_there_is_an_example_of_each(added):
    assert added == ["diamond", "linear", "noses", "distance", "contrast"]


def test_a_body_model(added, people, tmp_path):
    log = train_tiny(tmp_path / "run", people["body"], "body=diamond")
    assert {"loss/rotation", "val/pa_mpjpe"} <= log.keys()


def test_a_head(added, people, tmp_path):
    log = train_tiny(tmp_path / "run", people["body"], "head.name=linear")
    assert {"loss/rotation", "val/pa_mpjpe"} <= log.keys()


def test_a_task(added, people, tmp_path):
    log = train_tiny(tmp_path / "run", people["body"], "task=distance")
    assert {"loss/distance", "val/distance"} <= log.keys()
    train_tiny(tmp_path / "run", people["body"], "task=distance")  # resumes: it is complete


def test_an_objective(added, people, tmp_path):
    run = tmp_path / "run"
    # The configs that ship have keys of the default objective.
    config = tmp_path / "contrast.yaml"
    config.write_text("command: pretrain train\nobjective: {name: contrast}\n")
    _, *rest = words(run, people["body"], "steps=4", "data.workers=0", "log.val_every=2")
    told = [str(config), *rest, "model.patch=8"]
    assert pretrain(parse(PretrainConfig, told, "pretrain train")) == 0
    assert "val/contrast" in read_log(run)
    assert load(run).encoder is not None


def test_a_labelled_dataset(added, tmp_path):
    Image.fromarray(np.zeros((100, 100, 3), np.uint8)).save(tmp_path / "a.png")
    row = {"image": "a.png", "person": "anna", "box": [10, 10, 90, 90], "nose": [50, 30]}
    (tmp_path / "noses.json").write_text(json.dumps([row]))
    out = tmp_path / "out"
    assert make_labels(["noses", f"root={tmp_path}", f"out={out}", "size=64"]) == 0
    (path,) = map(str, out.glob("*.tar"))
    assert len(read_index(path)) == 1
    store = Store(None)
    _, members = ClipReader(store).clip(path, 0)
    points = read_labels(store.read(path, *members["labels.npz"]), 1).keypoints.points
    # The crop is 100 pixels about (50, 50), drawn at 64.
    np.testing.assert_allclose(points[0, 0], [32, 19.2], atol=0.01)
