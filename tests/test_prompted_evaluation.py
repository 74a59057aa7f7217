"""What evaluate says of keypoints that are given beside the image, of seen and hidden people."""

import json

import numpy as np
import pytest
import torch
from runs import ROOT, finetune_words

from data.bodies.models import open_model
from engine.config.parser import parse
from finetune.config import FinetuneConfig
from finetune.evaluation import metrics
from finetune.evaluation.evaluate import main as evaluate
from finetune.evaluation.prompted import (
    GIVEN,
    describe_prompted,
    list_prompted,
    measure_visible,
    summarise_prompted,
)
from finetune.heads.base import Prediction
from finetune.losses import project_points
from finetune.prompts import PROMPTED, tell_prompts
from finetune.train import train

CROPS = 4


def invent(hidden_gain, clips=40):
    """({row: {metric: (n,)}}, clips, visible): half of the crops are hidden, and true keypoints
    take 30 mm of error away there, less ``hidden_gain`` of it where nothing hides people."""
    random, count = np.random.default_rng(3), clips * CROPS
    visible = np.where(np.arange(count) % 2, 0.5, 0.97)
    alone = random.gamma(4, 15, count) + 40
    given = alone - 30 + hidden_gain * (visible > 0.95) + random.normal(size=count)
    rows = {"model": alone, "keypoints": given, "spoiled": alone}
    found = {row: {"mpjpe": values, "pve": values} for row, values in rows.items()}
    return found, np.arange(count) // CROPS, visible


def test_changes_are_paired_and_by_how_much_is_hidden():
    found, clips, visible = invent(20)
    prompts = summarise_prompted(found, clips, visible, ["keypoints", "spoiled"])
    everybody, hidden, seen = prompts["groups"]  # nobody lies between the two
    assert [group["crops"] for group in prompts["groups"]] == [160, 80, 80]
    assert (hidden["visible"], seen["visible"]) == (0.5, pytest.approx(0.97))
    change = found["keypoints"]["mpjpe"] - found["model"]["mpjpe"]
    for group, chosen in (
        (everybody, visible > 0),
        (hidden, visible < 0.8),
        (seen, visible > 0.95),
    ):
        own = group["rows"]["keypoints"]["mpjpe"]
        expected = metrics.bootstrap(change[chosen], clips[chosen])
        assert tuple(own["difference"].values()) == expected
        assert own["alone"]["mean"] == found["model"]["mpjpe"][chosen].mean()
        assert group["rows"]["spoiled"]["mpjpe"]["difference"]["mean"] == 0
    gap = prompts["more_hidden"]["keypoints"]["mpjpe"]
    assert gap["mean"] == pytest.approx(
        change[visible < 0.8].mean() - change[visible > 0.95].mean()
    )
    assert gap["low"] < -20 < gap["high"] < -19
    words = describe_prompted(prompts)
    assert words[0].startswith("Given true keypoints: MPJPE from ")
    assert "more where people are hidden (-20." in words[0] or "(-19." in words[0]
    assert "No significant difference between the two groups" in words[1]
    lines = list_prompted({"prompts": prompts}).splitlines()
    assert len(lines) == 2 + 3 * 2 and len({line.count("|") for line in lines}) == 1


def test_an_equal_gain_is_called_no_difference_and_no_masks_make_one_group():
    found, clips, visible = invent(0)
    prompts = summarise_prompted(found, clips, visible, ["keypoints"])
    gap = prompts["more_hidden"]["keypoints"]["mpjpe"]
    assert gap["low"] < 0 < gap["high"]
    alone = summarise_prompted(found, clips, None, ["keypoints"])
    assert len(alone["groups"]) == 1 and alone["more_hidden"] is None
    assert len(describe_prompted(alone)) == 1


def test_visible_is_what_the_mask_holds_of_the_body():
    drawn = torch.zeros(3, 8, 8, dtype=torch.bool)
    drawn[:2, 2:6, 2:6] = True
    masks = torch.ones(3, 8, 8, dtype=torch.bool)
    masks[1, :, :3] = False  # a quarter of the body's columns; the rest of the image does not count
    assert measure_visible(drawn, masks).tolist() == [1, 0.75, 1]


def test_true_keypoints_are_those_of_the_body_within_the_image():
    body = open_model("anny").coarse(64)
    pose = torch.eye(3).repeat(1, len(body.joint_names), 1, 1)
    pose[:, 0] = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    vertices, joints = body(pose, torch.tensor([[0.0, -0.7, 2.0]]), torch.full((1, 6), 0.5))
    true = Prediction(vertices, joints, body.keypoints(vertices, joints))
    K = torch.tensor([[110.0, 0, 56], [0, 110, 56], [0, 0, 1]])[None]
    prompts = tell_prompts(body, true, K, 112)[0]
    names = PROMPTED["body"]
    for name, joint in (("left_wrist", "wrist.L"), ("right_ankle", "foot.R")):
        at = project_points(joints[:, [body.joint_names.index(joint)]], K)[0, 0] / 112 - 0.5
        row = prompts[names.index(name)]
        inside = bool((at.abs() < 0.5).all())
        assert row[2] == inside
        assert torch.allclose(row[:2], at if inside else torch.zeros(2), atol=1e-5)
    assert 0 < prompts[:, 2].sum() < 17  # the head is above the image


def test_evaluate_gives_a_run_its_keypoints(people, tmp_path):
    run, out = tmp_path / "run", tmp_path / "out"
    words = ["head.prompts=true", "data.augment.prompt_share=0.5", "steps=2", "data.workers=0"]
    words += ["head.prompt_mask=true", "data.augment.mask_share=0.5", "optim.warmup=1"]
    shards = people["hand"]
    file, *rest = finetune_words(run, "hand", shards, *words, "head.rounds=1")
    assert train(parse(FinetuneConfig, [str(ROOT / file), *rest], "finetune train")) == 0
    found = []
    for clips in (1, 2):
        words = [str(run), f"out={out}", f"clips={clips}", f"data.shards={shards}", "device=cpu"]
        assert evaluate(words) == 0
        found.append(dict(np.load(out / "per_crop.npz")))
    results = json.loads((out / "evaluation.json").read_text())
    rows = [row["key"] for row in results["rows"]]
    assert rows == ["model", *GIVEN, "turned", "mean"]
    # The head's prompts begin at nothing, and have made two steps of a small learning rate.
    values = [found[1][f"{row}/mpjpe"] for row in rows[:7]]
    for number, one in enumerate(values):
        assert np.abs(one - values[0]).max() < 20
        assert all((one != other).any() for other in values[:number])
    # A crop has the same faults whatever else is judged.
    same = len(found[0]["clip"])
    assert np.allclose(found[0]["spoiled_both/mpjpe"], values[-1][:same], atol=1e-3)
    assert found[1]["visible"].shape == one.shape and (found[1]["visible"] <= 1).all()
    assert results["prompts"]["groups"][0]["crops"] == len(one)
    assert "This run takes keypoints (head.prompts) and outlines (head.prompt_mask): its row " in (
        " ".join(results["notes"])
    )
