"""Tiny networks for meshes that nobody trained, as runs."""

import json
from pathlib import Path

import torch
from runs import ROOT, finetune_words

from data.bodies.models import open_model
from data.sampling.seen import Seen
from engine.checkpoint import checkpoints
from engine.config.parser import parse, save
from finetune.config import FinetuneConfig
from finetune.scene.network import SceneNetwork
from finetune.scene.network_file import describe_scene
from pretrain import header
from pretrain.weights import write_safetensors

STEP = 4
POINTS = "configs/finetune/keypoints_body.yaml"


def make_run(folder: Path, kind: str = "body", *more: str, seed: int = 0, spread: float = 20.0):
    """A run with one checkpoint, whose answers differ from image to image; returns its folder."""
    torch.manual_seed(seed)
    file, *rest = finetune_words(folder, kind, folder / "no_shards", f"steps={STEP}", *more)
    if "head.name=keypoints" in more:
        rest = [word for word in rest if word in more or not word.startswith("head.")]
        file = POINTS
    config = parse(FinetuneConfig, [str(ROOT / file), *rest], "finetune train")
    model = config.make_network(open_model(config.body_model))
    with torch.no_grad():
        answers = model.head.answers
        for answer in answers.values() if isinstance(answers, torch.nn.ModuleDict) else [answers]:
            answer.weight *= spread
        model.mean_place[2] = 1.5
    folder.mkdir(parents=True)
    save(config, folder / "config.yaml", "finetune train")
    seen = Seen({"0123456789abcdef": 7}, kinds=frozenset({"synthetic"}))
    metadata = header.make_header(config.model, seen, model.roles)
    checkpoints.save(
        folder,
        STEP,
        lambda path: write_safetensors(model.state_dict(), path, metadata),
        {"none": torch.zeros(1)},
        {"step": STEP},
    )
    (folder / "environment.json").write_text(
        json.dumps(
            {
                "command": ["/a/place/finetune/__main__.py", "train", "x", "data.shards=/a/b/c"],
                "git": "abc1234",
                "device": "cpu",
            }
        )
    )
    return folder


SCENE = [
    "model.encoder.width=32",
    "model.encoder.depth=1",
    "model.encoder.heads=2",
    "scene.side=64",
    "scene.width=32",
    "scene.heads=2",
    "scene.depth=1",
    "scene.token_proj_dim=4",
    "scene.queries=3",
    "data.rules.people_max=3",
]


def make_scene_run(folder: Path, *more: str, seed: int = 0):
    """A run of task=scene with one checkpoint, that nobody trained; returns its folder."""
    words = [f"run={folder}", "data.shards=no_shards", *SCENE, *more]
    path = ROOT / "configs/finetune/scene_tiny.yaml"
    config = parse(FinetuneConfig, [str(path), *words], "finetune train")
    body = config.open_body()
    torch.manual_seed(seed)
    model = SceneNetwork(config, body)
    folder.mkdir(parents=True)
    save(config, folder / "config.yaml", "finetune train")
    metadata = describe_scene(config, body, Seen())
    checkpoints.save(
        folder,
        STEP,
        lambda path: write_safetensors(model.state_dict(), path, metadata),
        {"none": torch.zeros(1)},
        {"step": STEP},
    )
    return folder
