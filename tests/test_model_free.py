"""The model-free head: points and a fixed matrix; files, hands and both sides."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from runs import ROOT, finetune_words

from data.bodies.models import open_model
from engine.config.parser import parse
from engine.errors import UserError
from engine.geometry import axis_angle_to_matrix
from finetune import losses
from finetune.config import FinetuneConfig
from finetune.evaluation.evaluate import main as evaluate
from finetune.heads.base import Prediction, Truth
from finetune.heads.model_free import ModelFreeConfig, compare_edges
from finetune.heads.upsampling import apply_rows, fit_upsampling
from finetune.inference.predictor import Predictor
from finetune.predict import main as predict
from finetune.train import train

COARSE = 48


@pytest.fixture(scope="module")
def hand():
    return open_model("anny_hand")


@pytest.fixture(scope="module")
def fitted(hand):
    return fit_upsampling(hand, COARSE)


def test_the_matrix_gives_the_full_mesh_back(hand, fitted):
    """On poses and shapes that it was not fitted to, against the body model itself."""
    random = torch.Generator().manual_seed(7)
    pose = axis_angle_to_matrix(0.3 * torch.randn(4, 21, 3, generator=random))
    shape = torch.rand(4, 6, generator=random)
    moved = torch.tensor([[0.3, -2.0, 5.0]]).expand(4, 3)
    vertices, joints = hand(pose, moved, shape)
    controls = torch.cat([hand.keypoints(vertices, joints), vertices[:, fitted.rows]], 1)
    assert controls.shape == (4, 21 + len(fitted.rows), 3)
    assert torch.allclose(fitted.weight.sum(1), torch.ones(len(fitted.weight)), atol=1e-4)
    found = apply_rows(controls, fitted.index, fitted.weight)
    off = torch.linalg.vector_norm(found - torch.cat([vertices, joints], 1), dim=-1)
    assert off.mean() < 0.005 and off[:, fitted.rows].mean() < 0.002
    # What it says of itself is what it does.
    assert 0.3 < float(off.mean()) / fitted.error_m < 3 and fitted.error_m < fitted.worst_m < 0.02
    nearest = torch.cdist(torch.cat([vertices, joints], 1), controls).amin(2)
    assert off.mean() < 0.5 * nearest.mean()


def words_of(run, shards, *more):
    words = ["head.name=model_free", f"head.coarse={COARSE}", "steps=4", "data.workers=0"]
    words += [f"coarse_vertices={COARSE}"]
    file, *rest = finetune_words(run, "hand", shards, *words, *more)
    return [str(ROOT / file), *rest]


@pytest.fixture(scope="module")
def trained(people, tmp_path_factory):
    """A complete run on hands."""
    run = tmp_path_factory.mktemp("free") / "run"
    words = words_of(run, people["hand"], "log.images_every=4")
    assert train(parse(FinetuneConfig, words, "finetune train")) == 0
    return run


def test_it_trains_and_its_file_needs_no_body_to_be_fitted_again(trained, hand):
    lines = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    named = {name for line in lines for name in line if name.startswith("loss/")}
    own = {"loss/edges", "loss/total"}
    assert named == {f"loss/{term.name}" for term in losses.OF_POINTS} | own
    assert list((trained / "images").glob("*.png"))
    head = Predictor(trained, "cpu").model.head
    assert head.start.abs().max() > 0.02 and head.up_index.max() > COARSE
    assert torch.allclose(head.up_weight.sum(1), torch.ones(len(head.up_weight)), atol=1e-4)


def test_a_coarse_mesh_is_a_part_of_the_full_one(trained):
    predictor = Predictor(trained, "cpu")
    body, model = predictor.body, predictor.model
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    K = torch.tensor([[60.0, 0, 16], [0, 60, 16], [0, 0, 1]]).repeat(2, 1, 1)
    with torch.no_grad():
        full, coarse = model(images, K, body), model(images, K, body.coarse(32))
    assert full.vertices.shape == (2, len(body.vertex_ids), 3) and full.parameters is None
    assert full.joints.shape[1] == len(body.joint_names)
    rows = torch.isin(body.vertex_ids, body.coarse(32).vertex_ids)
    assert torch.equal(full.vertices[:, rows], coarse.vertices)
    # Joint 0 is the translation, whatever the points are.
    assert torch.equal(full.joints[:, 0], full.translation)


def test_an_image_in_a_mirror_is_the_left_hand_in_a_mirror(trained):
    predictor = Predictor(trained, "cpu")
    image = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    (right,) = predictor(image, sides=["right"])
    (left,) = predictor(image[:, ::-1].copy(), sides=["left"])
    assert right.kind == "right_hand" and left.kind == "left_hand"
    np.testing.assert_allclose(left.vertices, right.vertices * [-1, 1, 1], atol=1e-5)
    assert np.array_equal(left.faces, right.faces[:, ::-1])


def test_evaluate_and_predict_write_what_there_is(trained, people, tmp_path):
    out = tmp_path / "results"
    shards = f"data.shards={people['hand']}"
    assert evaluate([str(trained), f"out={out}", "clips=4", shards, "device=cpu"]) == 0
    results = json.loads((out / "evaluation.json").read_text())
    assert "pve" in json.dumps(results)
    Image.fromarray(np.full((40, 40, 3), 90, np.uint8)).save(tmp_path / "a.png")
    words = [str(tmp_path / "a.png"), f"run={trained}", "whole_image=true", "side=left"]
    assert predict([*words, f"out={out}", "device=cpu"]) == 0
    (person,) = json.loads((out / "a.json").read_text())["people"]
    assert "pose" not in person and (out / "a.glb").stat().st_size > 10_000


def test_edges_are_as_long_as_the_true_ones_wherever_the_mesh_is():
    random = torch.Generator().manual_seed(2)
    points = torch.rand(2, 30, 3, generator=random)
    true = Prediction(points, points[:, :2], points[:, :3])
    truth = Truth(true, torch.eye(3).repeat(2, 1, 1), 32)
    turn = axis_angle_to_matrix(torch.tensor([[0.4, 1.0, -0.3]]))[0]
    same = Prediction(points @ turn.T + 3, points, points)
    assert compare_edges(same, truth).max() < 1e-4
    larger = compare_edges(Prediction(1.5 * points, points, points), truth)
    apart = torch.cdist(points, points).topk(5, 2, largest=False)[0][..., 1:]
    assert torch.allclose(larger, 0.5 * apart.mean((1, 2)), rtol=1e-3)


def test_sizes_that_do_not_fit_are_told():
    with pytest.raises(UserError, match="head.width=30"):
        ModelFreeConfig(width=30).check()
    with pytest.raises(UserError, match="head.coarse=64 is above coarse_vertices=32"):
        ModelFreeConfig(coarse=64).check_run(FinetuneConfig(coarse_vertices=32))
