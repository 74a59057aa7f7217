"""Synthetic humans by given numbers, the search for failures, and what it writes."""

import dataclasses
import json
import sys

import numpy as np
import pytest
import simplejpeg
import torch

from data.format.clip import encode
from data.format.shards import write_samples
from data.format.verify import check_shard
from data.loading.crops import TAGS
from data.people.config import Domain, PeopleConfig
from data.people.maker import ClipMaker
from data.people.pose_space import PoseSpace
from data.people.poses import HIGH, LOW
from data.people.steered import (
    PURPOSES,
    STAGES,
    SteeredGenerator,
    SteeredMaker,
    find_share,
    list_parameters,
)
from data.sampling.seen import Seen
from engine.errors import UserError
from finetune.evaluation.clips import collect, feed, open_test
from finetune.evaluation.judge import Judge
from finetune.evaluation.prompted import Prompted
from finetune.evaluation.selection import choose_data
from finetune.examine import command
from finetune.examine.config import ExamineConfig
from finetune.examine.judge import Examiner
from finetune.examine.ledger import Ledger
from finetune.examine.points import RANDOM, Point, Sample, list_errors
from finetune.examine.regions import TEST, cluster, count_inside, draw_fresh, find_probability
from finetune.examine.search import find_reach, keep_within, search
from finetune.inference.predictor import Predictor
from finetune.verb_config import EvaluateConfig, EvaluateDataConfig

DOMAIN = Domain(occluded_share=0.5, degraded_share=0.5, cut_share=0.3, off_axis_deg=4, boxes=2)
PEOPLE = PeopleConfig(out="none", seed=3, size=64, instants=1, cameras=1, domain=DOMAIN)


@pytest.fixture(scope="module")
def maker():
    return SteeredMaker(PEOPLE)


def test_the_generator_draws_as_ever_where_nothing_is_given(maker, monkeypatch):
    asked = []

    def remember(self, rng, stage, which=0):
        asked.append(stage)
        assert ClipMaker.steer(self, rng, stage, which) is rng
        return SteeredGenerator(rng, [[float("nan")]] * 3)  # of the same bits

    plain = ClipMaker.__new__(ClipMaker)
    plain.__dict__.update(maker.__dict__)  # what takes seconds to build
    plain.config = dataclasses.replace(PEOPLE, instants=2, cameras=2)
    before = encode(plain.clip(5))
    monkeypatch.setattr(SteeredMaker, "steer", remember)
    steered = SteeredMaker.__new__(SteeredMaker)
    steered.__dict__.update(plain.__dict__)
    monkeypatch.setattr(SteeredMaker, "random", ClipMaker.random)
    monkeypatch.setattr(SteeredMaker, "_sample_motion", ClipMaker._sample_motion)
    assert encode(steered.clip(5)) == before
    assert set(asked) == set(STAGES) - set(PURPOSES.values())


def test_given_latents_are_quantiles_of_what_is_drawn():
    def make(given):
        return SteeredGenerator(np.random.default_rng(0), given)

    z = 0.8416212335729143  # four fifths of a normal distribution are below
    assert find_share(z) == pytest.approx(0.8)
    assert make([[z]]).uniform(2, 7) == pytest.approx(6)
    assert make([[z]]).normal(1, 2) == pytest.approx(1 + 2 * z)
    assert make([[0.0]]).beta(3, 3) == pytest.approx(0.5)
    assert make([[z]]).integers(0, 5) == 4 and make([[9.0]]).integers(0, 5) == 4
    found, natural = make([[z]]).random(3), np.random.default_rng(0).random(3)
    assert found[0] == pytest.approx(0.8) and (found[1:] == natural[1:]).all()
    assert make([[float("nan")]]).random() == natural[0]
    # Normal latents give the generator's own distribution.
    many = [make([[one]]).beta(2.5, 2) for one in np.random.default_rng(1).normal(size=4000)]
    drawn = np.random.default_rng(2).beta(2.5, 2, 4000)
    assert (
        np.abs(np.quantile(many, [0.1, 0.5, 0.9]) - np.quantile(drawn, [0.1, 0.5, 0.9])).max()
        < 0.02
    )


def test_parameters_do_what_they_are_called(maker):
    def make(**given):
        latents = np.zeros(len(maker.names))
        for name, value in given.items():
            latents[maker.names.index(name)] = value
        return maker.make_clip(3, latents)

    def eye(clip):
        Rt = np.array(clip.crops[0].Rt)
        return -Rt[:, :3].T @ Rt[:, 3]

    one, other = make(age=-2, weight=-2), make(age=2, weight=2)
    changed = np.abs(one.labels["phenotype"] - other.labels["phenotype"]) > 0.1
    assert changed.tolist() == [False, True, False, True, False, False]
    clear = {"clutter": -3, "outdoors": -3}  # nothing stands in the way, and there are no walls
    high, low = (eye(make(camera_height=z, **clear))[2] for z in (2, -2))
    assert high - low == pytest.approx(0.45 * 4, abs=0.3) and low >= 0.15  # of heights' spread
    assert not (make(pose_1=2).labels["pose"] == make(pose_1=-2).labels["pose"]).all()
    assert make(occluded=3, occluder_width=2).jpegs != make(occluded=-3).jpegs
    bright, dark = (make(exposed=-3, gain=z).jpegs[0] for z in (1.5, -1.5))  # drawn < the share
    assert simplejpeg.decode_jpeg(bright).mean() > 1.3 * simplejpeg.decode_jpeg(dark).mean()
    assert encode(make(age=1)) == encode(make(age=1))
    few = list_parameters(dataclasses.replace(PEOPLE, domain=Domain()))
    assert "occluded" not in few and "cut" not in few and "azimuth" in few


def test_postures_have_the_generators_angles(maker):
    space, rng = maker.poses, np.random.default_rng(4)
    found = np.stack([space.place(rng, rng.normal(size=14))[0] for _ in range(400)])
    assert (found >= LOW - 1e-9).all() and (found <= HIGH + 1e-9).all()
    wanted = np.quantile(space.angles, [0.25, 0.5, 0.75], 0)
    spread = space.angles.std(0)
    assert (np.abs(np.quantile(found, [0.25, 0.5, 0.75], 0) - wanted) < 0.3 * spread).all()
    knees = [space.names.index(f"knee_{side}") for side in ("left", "right")]
    assert np.corrcoef(found[:, knees].T)[0, 1] > 0.3  # who sits bends both


NAMES = 20
CONFIG = ExamineConfig(run="toy", out="none", random=120, niches=3, budget=96, fresh=8)


def ask_toy(points):
    """Errors of 50, which two parameters make grow from 1 on, 200 more where both are at 2.5."""
    out = []
    for point in points:
        z = point.array
        over = np.clip(z[[4, 9]] * [1, -1] - 1, 0, 1.5) / 1.5
        error = 50 + 3 * np.sin(7 * z[0]) + 20 * over.sum() + 200 * over.prod() ** 3
        out.append(Sample(point, float(error), 0.5, {"pa_mpjpe": float(error)}))
    return out


def test_a_planted_failure_is_found_and_random_samples_miss_it():
    asked = []

    def ask(points):
        asked.extend(points)
        return ask_toy(points)

    found = search(ask, NAMES, CONFIG)
    rng = np.random.default_rng(10)
    random = [Point(RANDOM, 0, n, tuple(rng.normal(size=NAMES))) for n in range(len(asked))]
    assert list_errors(ask_toy(random)).max() < 150
    region = cluster(found.niches, found.limit)[0]
    assert region.worst.simple.error > 200
    assert set(np.flatnonzero(region.worst.kept)) <= {0, 4, 9}
    assert region.worst.kept[[4, 9]].all() and (region.worst.costs[[4, 9]] > 50).all()
    place = region.worst.simple.point.array
    assert place[4] > 1.7 and place[9] < -1.7
    assert count_inside(region, found.random, CONFIG.spread) == 0
    assert 0 < find_probability(region, CONFIG.spread) < 0.02
    fresh = draw_fresh(region, 0, 60, TEST, CONFIG.spread, 1)
    errors = list_errors(ask_toy(fresh))
    assert errors.mean() > list_errors(found.random).mean() + 40
    others = np.stack([point.array for point in fresh])[:, ~region.worst.kept]
    assert abs(others.std() - 1) < 0.1  # all else is as ever


def test_nothing_rarer_than_is_allowed_is_searched():
    seen = []

    def ask(points):
        seen.extend(point for point in points if point.stage == "niche")
        return [Sample(p, float(p.array.sum()), 0.5, {}) for p in points]

    search(ask, NAMES, CONFIG)
    lengths = np.linalg.norm([point.latents for point in seen], axis=1)
    rng = np.random.default_rng(0)
    reach = find_reach(NAMES, 0.99)
    assert np.mean(
        np.linalg.norm(rng.normal(size=(20000, NAMES)), axis=1) < reach
    ) == pytest.approx(0.99, abs=0.003)
    assert len(seen) == 288 and lengths.max() < reach + 1e-9 and lengths.max() > 0.8 * reach
    assert np.abs(keep_within(np.full(NAMES, 9.0), 100.0)).max() < 3


def test_a_killed_search_goes_on_as_if_it_had_not_been(tmp_path):
    state = np.random.get_state()[1].copy()
    whole = Ledger(tmp_path / "a.jsonl", ask_toy)
    first = search(whole, NAMES, CONFIG)
    assert (np.random.get_state()[1] == state).all()
    text = (tmp_path / "a.jsonl").read_text()
    assert whole.asked == len(text.splitlines())
    lines = text.splitlines(keepends=True)
    (tmp_path / "b.jsonl").write_text("".join(lines[:200]) + lines[200][:40])  # amid a batch
    again = Ledger(tmp_path / "b.jsonl", ask_toy)
    second = search(again, NAMES, CONFIG)
    assert (tmp_path / "b.jsonl").read_text() == text
    assert again.asked == whole.asked - len(again.known) and 180 < len(again.known) <= 200
    assert [n.simple for n in second.niches] == [n.simple for n in first.niches]
    with pytest.raises(UserError, match="line 1 is not what this search asks for"):
        search(Ledger(tmp_path / "b.jsonl", ask_toy), NAMES, dataclasses.replace(CONFIG, seed=1))
    (tmp_path / "b.jsonl").write_text("{}\n" + text)
    with pytest.raises(UserError, match=r"b\.jsonl: line 1 is no sample"):
        Ledger(tmp_path / "b.jsonl", ask_toy)


def test_errors_are_those_of_evaluation_and_shards_verify(maker, tmp_path):
    predictor = Predictor("body", "cpu")
    rng = np.random.default_rng(6)
    points = [
        Point(RANDOM, 0, n, tuple(rng.normal(size=len(maker.names)).tolist())) for n in range(3)
    ]
    with torch.no_grad():
        samples = Examiner(predictor, maker, "mpjpe", False, 0.0).ask(points)
        given = Examiner(predictor, maker, "mpjpe", True, 1.0).ask(points)
    path = tmp_path / "shard-000000.tar"
    examiner = Examiner(predictor, maker, "mpjpe", False, 0.0)
    write_samples(str(path), map(examiner.make_sample, points))
    report = check_shard(str(path))
    assert not report.problems, report
    evaluate = EvaluateConfig(run="body", data=EvaluateDataConfig(shards=str(path)))
    test = open_test(choose_data(evaluate, predictor), predictor, [Seen()], 9)
    judge = Judge(predictor, None, True, prompted=Prompted(predictor))
    feed(judge, test, predictor.device)
    order = test.arrays["tags"][:, TAGS.index("index")]
    for row, looked in (("model", samples), ("keypoints", given)):
        for name in ("mpjpe", "pa_mpjpe", "iou"):
            mine = np.array([looked[i].errors[name] for i in order])
            told = collect(judge)[row][name]
            np.testing.assert_allclose(mine, told, rtol=1e-3, err_msg=f"{row}, {name}")
    assert all(s.error == s.errors["mpjpe"] and 0 <= s.errors["pck"] <= 100 for s in samples)
    assert all(s.error is None for s in given)  # nobody is seen from all sides


def test_bad_input_is_one_sentence(tmp_path, monkeypatch):
    def fail(*words):
        with pytest.raises(UserError) as caught:
            command.main(["body", f"out={tmp_path / 'out'}", *words])
        return str(caught.value)

    assert "niches=40 with random=60" in fail("niches=40", "random=60")
    assert "budget=20 is below population=30" in fail("budget=20", "population=30")
    assert "shows kind=hand, and body recovers body" in fail("people=people_hand", "device=cpu")
    monkeypatch.setattr(command, "Predictor", None)  # nothing is opened of another folder
    (tmp_path / "out" / command.FILE).touch()
    assert "seed=4 here, but" in fail("people=people_hand", "seed=4")
    monkeypatch.setitem(sys.modules, "cma", None)
    assert fail("people=people_hand") == (
        "examine wants the package cma: pip install -e '.[examine]' -c constraints.txt"
    )


def test_a_table_tells_regions_beside_random_samples():
    found = search(ask_toy, NAMES, CONFIG)
    regions = cluster(found.niches, found.limit)

    class Toy:
        names = [f"p{i}" for i in range(NAMES)]
        poses = PoseSpace.__new__(PoseSpace)

    Toy.poses.axes, Toy.poses.kind = np.zeros((1, 0)), "body"
    fresh = [ask_toy(draw_fresh(r, n, 8, TEST, 0.35, 0)) for n, r in enumerate(regions)]
    tree = json.loads(json.dumps(command.describe(CONFIG, Toy, found, regions, fresh)))
    table = command.list_table(tree).splitlines()
    assert len(table) == 3 + len(regions) and table[2].startswith("| random samples | 120 |")
    tree["regions"][0]["probability"] = 1 / 362541
    assert "| 362,541 (0 of 120) |" in command.list_table(tree)
    tree["regions"][0]["probability"] = 1e-29  # of a failure that needs nearly all parameters
    assert "| 1e+29 (0 of 120) |" in command.list_table(tree)
    assert {"p4", "p9"} <= {one["name"] for one in tree["regions"][0]["differs"]}
    low, mean = (tree["regions"][0]["fresh"][name] for name in ("low", "mean"))
    assert tree["random"]["high"] < low < mean
