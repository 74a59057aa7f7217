"""The read-out of two views: its pairs, what a regression reads off them, and where it is told."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from test_probe import ONE, STORE, small_model
from test_studies import rows_of, study

from engine.errors import UserError
from pretrain import encoders, probe
from pretrain.model import CrossCompletion
from studies import claims, plan, protocol, rows, tables, two_views


@pytest.fixture(scope="module", params=["body", "hand"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def split(people, kind):
    return probe.read_split(str(people[kind]), 12 if kind == "hand" else 24, kind, STORE)


def pairs_of(split, count, seed=0):
    """A PairSplit of random crops and rotations; every second clip has two pairs."""
    random = np.random.default_rng(seed)
    clip = np.sort(np.concatenate([np.arange(count), np.arange(0, count, 2)]))
    crops = probe.Split(
        split.store,
        split.paths,
        clip,
        np.zeros((len(clip), 3), int),
        random.normal(size=(len(clip), 5, 3)),
        clip % 3,
        64,
    )
    rotation = Rotation.random(len(clip), random_state=seed).as_matrix()
    return two_views.PairSplit(crops, np.arange(len(clip)), np.arange(len(clip)), rotation)


def test_pairs_are_of_one_instant_by_two_cameras(split, kind):
    """The joints of both views, read each in its own camera, are one body turned by the rotation;
    of left hands in the mirror."""
    pairs = two_views.pair_crops(split, kind)
    crops = pairs.crops
    assert len(np.unique(crops.places, axis=0)) == len(crops.places)
    assert (crops.clip[pairs.first] == crops.clip[pairs.second]).all()
    turned = np.einsum("pij,pkj->pki", pairs.rotation, crops.joints[pairs.first])
    np.testing.assert_allclose(turned, crops.joints[pairs.second], atol=1e-7)
    angles = np.degrees(Rotation.from_matrix(pairs.rotation).magnitude())
    assert angles.min() > 1  # two cameras, not one twice
    assert set(pairs.clip) == set(split.clip)
    assert np.bincount(pairs.clip).max() <= two_views.PAIRS
    for pair, clip in enumerate(pairs.clip):
        assert pairs.chosen_by[pair] == (split.part[split.clip == clip][0] != 0)
    again = two_views.pair_crops(split, kind)
    assert (again.first == pairs.first).all() and (again.crops.places == crops.places).all()


def test_the_nearest_rotation_is_found():
    turn = Rotation.from_rotvec(np.radians([[30, 0, 0], [0, 0, -110], [100, 100, 0]]))
    exact = torch.from_numpy(turn.as_matrix())
    for factor in (1, 0.2, 7):
        found = two_views.find_rotation(factor * exact.flatten(1))
        torch.testing.assert_close(found, exact)
    degrees = two_views.turn_between(torch.eye(3).double().expand(3, 3, 3), exact)
    assert degrees.tolist() == pytest.approx([30, 110, 100 * 2**0.5])
    # Of any nine numbers, mirrors among them: no other rotation is nearer.
    nine = torch.from_numpy(np.random.default_rng(1).normal(size=(20, 9)))
    found = two_views.find_rotation(nine)
    assert torch.linalg.det(found).numpy() == pytest.approx(np.ones(20))
    others = torch.from_numpy(Rotation.random(3000, random_state=0).as_matrix())
    near = (nine.view(20, 1, 3, 3) - others).pow(2).sum((2, 3)).amin(1)
    assert ((nine.view(20, 3, 3) - found).pow(2).sum((1, 2)) <= near).all()


def test_what_features_hold_is_read_off_clip_by_clip(split):
    """Features that are the answer, linearly mixed, give it; those that say nothing give what the
    mean of the labelled pairs does."""
    fit, test = pairs_of(split, 90), pairs_of(split, 30, seed=1)
    mix = np.random.default_rng(2).normal(size=(15, 24))
    x, x_new = (torch.from_numpy(one.joints.reshape(-1, 15) @ mix) for one in (fit, test))
    # mpjpe is about the root, which is wherever it likes here.
    found = two_views.read_joints_off(x, fit, x_new, test)
    assert len(found["mpjpe"]) == 30 and max(found["mpjpe"]) < 1 and max(found["pa_mpjpe"]) < 1
    guess = fit.joints.mean(0)
    off = (guess - guess[:1]) - (test.joints - test.joints[:, :1])
    off = 1000 * np.linalg.norm(off, axis=2).mean(1)
    of_clips = [off[test.clip == clip].mean() for clip in range(30)]
    assert found["constant"]["mpjpe"] == pytest.approx(np.mean(of_clips), abs=0.01)
    blind = torch.from_numpy(np.random.default_rng(3).normal(size=(len(x), 2)))
    nothing = two_views.read_joints_off(blind, fit, torch.zeros(len(x_new), 2).double(), test)
    assert nothing["mpjpe"] == pytest.approx(of_clips, rel=0.1)
    turns, new = (torch.from_numpy(one.rotation).flatten(1) for one in (fit, test))
    mix = torch.from_numpy(np.random.default_rng(4).normal(size=(9, 12)))
    found = two_views.read_rotation_off(turns @ mix, fit, new @ mix, test)
    assert set(found) == {"degrees", "lambda", "constant"} and len(found["degrees"]) == 30
    assert max(found["degrees"]) < 1 < 60 < found["constant"]["degrees"]


def test_products_tell_a_rotation_that_no_sum_does(split):
    """Each view's features are the orientation it sees; the rotation between them is bilinear."""
    fit, test = pairs_of(split, 200), pairs_of(split, 30, seed=1)
    mix = np.random.default_rng(4).normal(size=(9, 12))
    features = []
    for seed, pairs in ((5, fit), (6, test)):
        first = Rotation.random(len(pairs.first), random_state=seed).as_matrix()
        seen = (one.reshape(-1, 9) @ mix for one in (first, pairs.rotation @ first))
        features.append(torch.from_numpy(np.concatenate([*seen], 1)))
    side_by_side = two_views.read_rotation_off(features[0], fit, features[1], test)
    products = two_views.multiply_views(*features)
    assert products[1].shape == (len(test.first), 2 * 12 + 144)
    found = two_views.read_rotation_off(products[0], fit, products[1], test)
    assert np.mean(found["degrees"]) < 3 < 60 < np.mean(side_by_side["degrees"])


def test_weights_are_read_with_their_second_view(split, kind):
    torch.manual_seed(0)
    network = CrossCompletion(small_model()).eval()
    encoder = encoders.of_network(network)
    both = two_views.TwoViews(encoder, network, split, kind, ONE)
    pairs = both.fit
    assert both.features[""].shape == (len(pairs.first), 2 * 16 * 32)
    assert both.features["_decoder"].shape == (len(pairs.first), 16 * 32)
    reader = probe.open_reader(kind, STORE)
    a, b = (
        probe.read_images(reader, pairs.crops, rows[-1:], 48, torch.device("cpu"))
        for rows in (pairs.first, pairs.second)
    )
    with torch.no_grad():
        one, other = (probe.pooled(encoder(images)) for images in (a, b))
        seen, swapped = network.features(a, b), network.features(b, a)
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(both.features[""][-1:].float(), torch.cat([one, other], 1), **close)
    # Six by six patches in a grid of four by four, as the encoder's.
    maps = seen.transpose(1, 2).unflatten(2, (6, 6))
    wanted = torch.nn.functional.adaptive_avg_pool2d(maps, 4).flatten(1)
    torch.testing.assert_close(both.features["_decoder"][-1:].float(), wanted, **close)
    assert (seen - swapped).abs().max() > 0.1
    found = both.measure(split)
    names = [
        f"{name}{end}" for name in ("two_views", "relative_rotation") for end in ("", "_decoder")
    ]
    assert sorted(found) == sorted([*names, "relative_rotation_products"])
    clips = len(set(split.clip.tolist()))
    assert {len(found[name]["mpjpe"]) for name in ("two_views", "two_views_decoder")} == {clips}
    # Seen in training, all of them: features of more numbers than pairs know them.
    assert np.mean(found["two_views"]["mpjpe"]) < found["two_views"]["constant"]["mpjpe"]
    alone = two_views.TwoViews(encoder, None, split, kind, ONE)
    assert set(alone.measure(split)) == {
        "two_views",
        "relative_rotation",
        "relative_rotation_products",
    }


def add_two_views(config, errors):
    """Give rows what ``errors`` (arm, seed) says of two views; None: measured before there were."""
    table = plan.open_table(config)
    for found in table.read("errors"):
        value = errors(found["arm"], found["seed"])
        if value is None:
            continue
        clips = (value + np.arange(15) / 10).tolist()  # of 20 clips 15 have two cameras
        for test in found["tests"].values():
            test["two_views"] = {"mpjpe": clips, "pa_mpjpe": clips, "lambda": 1.0}
            test["relative_rotation"] = {"degrees": clips, "constant": {"degrees": 77.0}}
            if found["arm"] == "both":
                test["two_views_decoder"] = {"mpjpe": clips, "pa_mpjpe": clips}
        table.add("errors", found)


def test_rows_from_before_are_blank_and_not_refused(tmp_path):
    config = study(f"rows={tmp_path}", "arm=both,none,mae", "seeds=3")
    rows_of(config, lambda arm, seed: 50 + seed)
    before = "\n".join(tables.make_tables(config, rows.read_rows(config)))
    assert "two views MPJPE" not in before
    add_two_views(config, lambda arm, seed: None if arm == "none" or seed == 2 else 40 + seed)
    there = rows.read_rows(config)
    lines = tables._errors(config, there, [0.1], "studio").splitlines()
    heads = [cell.strip() for cell in lines[0].split("|")]
    cells = {line.split(" | ")[1]: line.split("|") for line in lines[2:]}

    def cell(name, head):
        return cells[name][heads.index(head)].strip()

    # Of the two seeds that have it: 40 and 41, and .7 of the clips.
    for head in ("two views MPJPE", "decoder's two views PA", "rotation between views, deg"):
        assert cell("both kinds of pairs", head) == "41.2"
    assert cell("MAE, sample-matched", "two views PA") == "41.2"
    assert cell("MAE, sample-matched", "decoder's two views PA") == ""
    assert cell("no pre-training", "two views MPJPE") == ""
    assert cell("mean pose", "rotation between views, deg") == "77.0"
    differences = tables._differences(
        config, there, [0.1], dict.fromkeys(config.arms, "both"), "studio"
    )
    line = next(one for one in differences.splitlines() if "| MAE, sample-matched | 3 |" in one)
    assert line.count("(2)") == 3  # two seeds, where it was measured
    assert "| no pre-training | 3 |" in differences


def test_claims_may_be_of_two_views(tmp_path):
    words = [
        "claims.turn.arm=mae",
        "claims.turn.how=relative_rotation",
        "claims.pairs.arm=both",
        "claims.pairs.how=two_views_decoder",
        "claims.pairs.minus=mae",
        "claims.pairs.minus_how=two_views",
        "claims.pairs.metric=mpjpe",
    ]
    config = study(f"rows={tmp_path}", "arm=both,none,mae", "seeds=3", *words)
    rows_of(config, lambda arm, seed: 50)
    assert [one.difference for one in claims.judge_claims(config, rows.read_rows(config))] == [
        None,
        None,
    ]
    noise = {"both": (0.1, -0.1, 0.2), "mae": (5.2, 5, 5.1), "none": (9, 9, 9)}
    add_two_views(config, lambda arm, seed: 40 + noise[arm][seed])
    turn, pairs = claims.judge_claims(config, rows.read_rows(config))
    assert turn.claim.metric == "degrees" and turn.difference.clips == 15
    assert turn.difference.mean == pytest.approx(5.1 - 0.2 / 3)
    assert pairs.difference.mean == pytest.approx(-5.1 + 0.2 / 3)
    text = protocol.describe_protocol(config)
    assert "two views, frozen decoder MPJPE, mm, minus two views, frozen encoder MPJPE" in text
    for more, said in (
        (["claims.turn.metric=mpjpe"], "turn.metric=mpjpe, .*how=relative_rotation has degrees"),
        (["claims.pairs.minus=none", "claims.pairs.minus_how=two_views_decoder"], "no decoder"),
        (["claims.pairs.minus_how=relative_rotation"], "minus_how=relative_rotation has degrees"),
        (["claims.pairs.minus=both", "claims.pairs.minus_how="], "compares both with itself"),
    ):
        with pytest.raises(UserError, match=said):
            study(*words, *more)
    # Whose decoder sees one image is known from its config, before anything runs.
    with pytest.raises(UserError, match=r"pairs.minus_how=two_views_decoder, and arms.mae has mod"):
        plan.check_arms(study("arm=mae", *words, "claims.pairs.minus_how="))
    # What is of other clips cannot be compared clip by clip.
    odd = study(
        f"rows={tmp_path}",
        "arm=both,none,mae",
        "seeds=3",
        "claims.odd.arm=both",
        "claims.odd.how=frozen",
        "claims.odd.minus=mae",
        "claims.odd.minus_how=two_views",
    )
    with pytest.raises(UserError, match="compares 20 clips of both, frozen, with 15 of mae"):
        claims.judge_claims(odd, rows.read_rows(odd))
