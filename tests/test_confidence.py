"""How sure a head is: by likelihood, beside the mesh, whose training it leaves as it is."""

import json

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from runs import ROOT, finetune_words

from data.bodies.models import open_model
from engine.config.parser import parse
from finetune import losses
from finetune.config import FinetuneConfig
from finetune.evaluation.calibration import LEVELS, Calibration, draw_calibration
from finetune.evaluation.evaluate import main as evaluate
from finetune.heads.base import Prediction, Truth
from finetune.heads.confidence import SD, compare_confidence
from finetune.heads.keys import ModelBasedConfig
from finetune.inference.predictor import Predictor
from finetune.model import Recovery
from finetune.predict import main as predict
from finetune.train import train
from pretrain.config import VisionConfig


def invent(scale_mm, seed=0, count=400, **more):
    """(prediction, truth) whose errors are Laplace distributed with a scale along each axis."""
    random = np.random.default_rng(seed)
    true = random.normal(size=(count, 40, 3))
    off = random.laplace(scale=scale_mm / 1000, size=true.shape)
    off[:, 0] = 0  # the root
    found, true = torch.from_numpy(true + off), torch.from_numpy(true)
    return Prediction(found, found, found, **more), Prediction(true, true, true)


def says(scale_mm, count=400):
    sd = torch.full((count, 40), SD * scale_mm / 1000, dtype=torch.float64)
    return {"uncertainty": sd, "vertex_uncertainty": sd}


def test_what_is_as_sure_as_it_should_be_is_calibrated():
    calibration = Calibration()
    calibration.add(*invent(20, **says(20)))
    found = calibration.summarise()
    np.testing.assert_allclose(found["keypoints"]["observed"], LEVELS, atol=0.01)
    assert found["keypoints"]["gap"] < 0.01 and found["keypoints"]["said_mm"] == pytest.approx(20)
    assert draw_calibration(found)[:4] == b"\x89PNG"
    sure = Calibration()
    sure.add(*invent(20, **says(5)))
    assert all(
        share < level
        for share, level in zip(sure.summarise()["keypoints"]["observed"], LEVELS, strict=True)
    )
    assert Calibration().summarise() is None


def test_the_likelihood_is_best_at_the_true_scale():
    told = {}
    for scale in (10, 20, 40):
        found, true = invent(20, **says(scale))
        told[scale] = compare_confidence(found, Truth(true, torch.eye(3)[None], 32)).mean()
    assert told[20] < told[10] and told[20] < told[40]


def build(confidence):
    torch.manual_seed(0)
    config = VisionConfig(image_size=32, patch=16)
    config.encoder.width, config.encoder.depth, config.encoder.heads = 32, 1, 2
    head = ModelBasedConfig(width=32, depth=1, heads=2, token_proj_dim=4, confidence=confidence)
    body = open_model("anny_hand")
    return Recovery(config, head, body, "mesh"), body


def test_the_mesh_and_the_encoder_learn_as_without_it():
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    K = torch.tensor([[60.0, 0, 16], [0, 60, 16], [0, 0, 1]]).repeat(2, 1, 1)
    gradients = []
    for confidence in (False, True):
        model, body = build(confidence)
        coarse = body.coarse(32)
        found = model(images, K, coarse)
        with torch.no_grad():
            truth = Truth(model(images.flip(0), K, coarse), K, 32)
        terms = losses.list_terms(model.head)
        total = sum(value.sum() for value in losses.compute_terms(terms, found, truth).values())
        total.backward()
        gradients.append(
            {name: p.grad for name, p in model.named_parameters() if "confidence" not in name}
        )
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name
    assert model.confidence.answer.weight.grad.abs().sum() > 0


@pytest.fixture(scope="module")
def trained(people, tmp_path_factory):
    """A complete run on hands that says how sure it is."""
    run = tmp_path_factory.mktemp("sure") / "run"
    words = ["head.confidence=true", "steps=4", "data.workers=0"]
    file, *rest = finetune_words(run, "hand", people["hand"], *words)
    assert train(parse(FinetuneConfig, [str(ROOT / file), *rest], "finetune train")) == 0
    return run


def test_files_and_images_have_it(trained, people, tmp_path):
    assert "loss/confidence" in (trained / "log.jsonl").read_text()
    out = tmp_path / "out"
    shards = f"data.shards={people['hand']}"
    assert evaluate([str(trained), f"out={out}", "clips=4", shards, "device=cpu"]) == 0
    results = json.loads((out / "evaluation.json").read_text())
    assert results["calibration"]["keypoints"]["expected"] == list(LEVELS)
    assert Image.open(out / "images" / "calibration.png").size[0] > 100
    assert any("said to hold 90 %" in note for note in results["notes"])
    image = tmp_path / "a.png"
    Image.fromarray(np.full((48, 48, 3), 90, np.uint8)).save(image)
    plain, coloured = tmp_path / "plain", tmp_path / "coloured"
    words = [str(image), f"run={trained}", "whole_image=true", "side=left", "device=cpu"]
    assert predict([*words, f"out={plain}"]) == 0
    assert predict([*words, f"out={coloured}", "colour=confidence"]) == 0
    (person,) = json.loads((coloured / "a.json").read_text())["people"]
    assert len(person["uncertainty"]) == 21 and min(person["uncertainty"]) > 0
    arrays = np.load(coloured / "a.npz")
    assert arrays["left_hand/vertex_uncertainty"].shape[1] == arrays["left_hand/vertices"].shape[1]
    pairs = [np.asarray(Image.open(f / "a.overlay.png")) for f in (plain, coloured)]
    assert pairs[0].shape == pairs[1].shape and (pairs[0] != pairs[1]).any()
    (mesh,) = trimesh.load(coloured / "a.glb").geometry.values()
    # So little trained, a network may be as unsure of all vertices as colours can say.
    assert mesh.visual.kind == "vertex"


def test_colours_of_a_network_that_does_not_say_are_refused(people, tmp_path):
    from networks import make_run

    from engine.errors import UserError

    run = make_run(tmp_path / "run", "hand")
    assert Predictor(run, "cpu").model.confidence is None
    image = tmp_path / "a.png"
    Image.fromarray(np.full((48, 48, 3), 90, np.uint8)).save(image)
    with pytest.raises(UserError, match=r"colour=confidence.*head.confidence"):
        predict([str(image), f"run={run}", "whole_image=true", "colour=confidence"])
