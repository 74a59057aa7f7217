"""Finished runs side by side: budgets, differences, intervals, Holm's correction."""

import json

import numpy as np
import pytest
import torch
from runs import ROOT, finetune_words
from scipy import stats

from engine.errors import UserError
from engine.paired_stats import adjust_by_holm, compare_over_clips, compare_paired
from finetune.__main__ import main
from finetune.evaluation.compare import Arm, Budget, describe, list_unequal


def test_holm_is_as_published():
    """The example of Aickin and Gensler, 1996: four tests."""
    assert adjust_by_holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjust_by_holm([0.5, 0.6]) == [1.0, 1.0]
    assert adjust_by_holm([]) == []
    found = adjust_by_holm([0.02, float("nan")])
    assert found[0] == 0.02 and np.isnan(found[1])


def test_over_clips_it_is_the_paired_t_test():
    random = np.random.default_rng(0)
    a, b = random.normal(80, 9, 40), random.normal(83, 9, 40)
    found, wanted = compare_over_clips(a, b), stats.ttest_rel(a, b)
    assert found.p == pytest.approx(wanted.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(wanted.confidence_interval(0.95)))
    alone = compare_over_clips(a[:1], b[:1])
    assert np.isnan([alone.low, alone.p]).all()
    assert compare_over_clips(a, a).p == 1


def test_over_seeds_p_says_what_the_interval_says():
    random, verdicts = np.random.default_rng(1), set()
    for gap in np.linspace(0, 6, 25):
        a, b = random.normal(80, 2, (4, 30)), random.normal(80 + gap, 2, (4, 30))
        found = compare_paired(a, b)
        assert found.significant == (found.p < 0.05)
        verdicts.add(found.significant)
    assert verdicts == {True, False}
    # False alarms come as often as promised, or less.
    random = np.random.default_rng(2)
    pairs = [random.normal(0, 1, (2, 3, 20)) for _ in range(300)]
    assert np.mean([compare_paired(*pair).p < 0.05 for pair in pairs]) < 0.08


def arm(name, **given):
    budget = {
        "crops": 1000,
        "tokens": 9000,
        "steps": 10,
        "planned": 10,
        "parameters": 500,
        "seconds": 60.0,
    }
    return Arm(name, {0: name}, {0: Budget(**{**budget, **given})})


def test_budgets_that_differ_are_told_with_both_numbers():
    assert list_unequal([arm("a"), arm("b", seconds=70.0)]) == []
    assert list_unequal([arm("a"), arm("b", crops=2000)]) == [
        "budgets differ in crops seen: a 1,000, b 2,000"
    ]
    assert list_unequal([arm("a"), arm("b", tokens=6000)]) == [
        "budgets differ in tokens seen: a 9,000, b 6,000"
    ]
    said = list_unequal([arm("a", steps=5), arm("b", parameters=800, seconds=None)])
    assert said[0] == "a is at step 5 of 10: it is not finished"
    assert said[1:] == ["budgets differ in parameters: a 500, b 800"]


def train_tiny(folder, people, arms):
    """Train runs of two steps, {name: keys}, in a folder; return the folder."""
    threads = torch.get_num_threads()
    for name, keys in arms.items():
        _, *rest = finetune_words(folder / name, "body", people["body"], *keys)
        config = str(ROOT / "configs/finetune/demo_body.yaml")
        words = [config, *rest, "steps=2", "data.workers=0", "log.val_every=0"]
        assert main(["train", *words]) == 0
    torch.set_num_threads(threads)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory, people):
    """Two arms of two seeds, and a third of one."""
    arms = {"a0": [], "a1": ["seed=1"], "b0": ["optim.lr=0.1"], "b1": ["optim.lr=0.1", "seed=1"]}
    arms["c0"] = ["encoder_lr_mult=0"]
    return train_tiny(tmp_path_factory.mktemp("compared"), people, arms)


@pytest.mark.long
def test_runs_are_compared_on_the_same_clips_and_seeds_are_grouped(runs, tmp_path, capsys):
    names = [str(runs / name) for name in ("a0", "a1", "b0", "b1")]
    out = tmp_path / "found.json"
    assert main(["compare", *names, f"out={out}", "device=cpu"]) == 0
    found = json.loads(out.read_text())
    said = capsys.readouterr().out
    assert [list(arm["runs"]) for arm in found["arms"]] == [["0", "1"], ["0", "1"]]
    assert found["clips"] == 2
    assert all("seconds of training" in sentence for sentence in found["budget"])
    pair = next(one for one in found["pairs"] if one["metric"] == "mpjpe")
    means = [arm["means"]["mpjpe"] for arm in found["arms"]]
    assert pair["mean"] == pytest.approx(means[0] - means[1])
    assert pair["over"] == "seeds and clips" and pair["low"] < pair["mean"] < pair["high"]
    assert pair["p_holm"] == pair["p"]  # one pair alone
    assert describe(found) in said
    # The same numbers as evaluate gives.
    assert main(["evaluate", names[0], "device=cpu", f"out={tmp_path / 'one'}"]) == 0
    one = json.loads((tmp_path / "one" / "evaluation.json").read_text())
    rows = {row["key"]: row["values"] for row in one["rows"]}
    two = main(["evaluate", names[1], "device=cpu", f"out={tmp_path / 'two'}"])
    other = json.loads((tmp_path / "two" / "evaluation.json").read_text())
    others = {row["key"]: row["values"] for row in other["rows"]}
    assert two == 0 and one["crops"] == found["crops"]
    mean = (rows["model"]["pve"]["mean"] + others["model"]["pve"]["mean"]) / 2
    assert found["arms"][0]["means"]["pve"] == pytest.approx(mean, rel=1e-5)


@pytest.mark.long
def test_three_arms_of_one_seed_are_corrected_and_said_to_be_of_one_seed(runs, tmp_path, capsys):
    names = [str(runs / name) for name in ("a0", "b0", "c0")]
    assert main(["compare", *names, f"out={tmp_path / 'x.json'}", "device=cpu"]) == 0
    found = json.loads((tmp_path / "x.json").read_text())
    assert "another seed" in capsys.readouterr().out
    pairs = [one for one in found["pairs"] if one["metric"] == "pa_mpjpe"]
    assert len(pairs) == 3 and {one["over"] for one in pairs} == {"clips"}
    wanted = adjust_by_holm([one["p"] for one in pairs])
    assert [one["p_holm"] for one in pairs] == pytest.approx(wanted)


@pytest.mark.long
def test_true_keypoints_are_given_as_evaluate_gives_them(tmp_path, people, capsys):
    keys = ["head.prompts=true", "data.augment.prompt_share=0.5"]
    train_tiny(tmp_path, people, {"d0": keys, "e0": [*keys, "optim.lr=0.1"]})
    names, out = [str(tmp_path / name) for name in ("d0", "e0")], tmp_path / "found.json"
    assert main(["compare", *names, "given=true", f"out={out}", "device=cpu"]) == 0
    found = json.loads(out.read_text())
    assert found["given"] and "crops, with the true keypoints" in capsys.readouterr().out
    assert main(["evaluate", names[0], "device=cpu", f"out={tmp_path / 'one'}"]) == 0
    one = json.loads((tmp_path / "one" / "evaluation.json").read_text())
    values = {row["key"]: row["values"]["mpjpe"]["mean"] for row in one["rows"]}
    told = found["arms"][0]["means"]["mpjpe"]
    assert told == pytest.approx(values["keypoints"], rel=1e-5)
    assert told != pytest.approx(values["model"], rel=1e-5)


@pytest.mark.long
def test_what_cannot_be_compared_is_refused(runs):
    with pytest.raises(UserError, match="named twice"):
        main(["compare", str(runs / "a0"), str(runs / "a0"), "device=cpu"])
    with pytest.raises(UserError, match=r"given=true, but .*head\.prompts is false"):
        main(["compare", str(runs / "a0"), str(runs / "b0"), "given=true", "device=cpu"])
    with pytest.raises(UserError, match="differ in the seed alone"):
        main(["compare", str(runs / "a0"), str(runs / "a1"), "device=cpu"])
