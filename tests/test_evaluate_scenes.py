"""Whole frames judged: people matched, missed and false, errors by hand, AP, intervals."""

import json
from dataclasses import replace

import numpy as np
import pytest
import simplejpeg
import torch
from fake_finder import BLUE, RED, FakeFinder, draw_scene
from networks import make_run

from data.bodies.models import open_model
from data.format.frame import Frame, FramePerson, encode_frame
from data.format.labels import SEEN
from data.format.shards import write_samples
from data.people.frame_labels import find_keypoints
from data.sampling.seen import Seen
from engine.errors import UserError
from engine.geometry import project
from finetune.evaluation.evaluate import main
from finetune.evaluation.protocols.coco import SIGMAS
from finetune.evaluation.scene.answers import CropPath, open_body_predictor
from finetune.evaluation.scene.frame_scores import FrameJudge
from finetune.evaluation.scene.groups import list_groups
from finetune.evaluation.scene.matching import FALSE, HIT, IGNORED
from finetune.evaluation.scene.results import read_sums
from finetune.evaluation.scene.sums import SUMS, SceneAp, SceneSums, add_up, compare, summarise
from finetune.evaluation.scene.truth import open_frames
from finetune.evaluation.scoring.oks import average
from finetune.person import Person
from finetune.scene.found import FoundPerson

WIDTH, HEIGHT = 320, 240
K = np.array([[300.0, 0, WIDTH / 2], [0, 300, HEIGHT / 2], [0, 0, 1]])
# A camera 1 m above the floor that looks along the world's y.
R = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
RT = np.concatenate([R, -R @ [[0], [0], [1]]], 1)
# Scenes: where the pelvis of each is, (x, y) metres, and how much of the person is shown.
SCENES = {
    "three": [(-1.2, 6.0, 1.0), (0.0, 6.1, 0.8), (1.2, 7.0, 0.5)],
    "two": [(-0.8, 5.0, 1.0), (0.8, 9.0, 0.05)],
    "one": [(0.0, 4.0, 0.95)],
}


@pytest.fixture(scope="module")
def body():
    return open_model("anny")


def pose_at(body, places):
    """Vertices, joints in the world of upright people at (x, y), all of one shape."""
    root = torch.tensor([[x, y, 0.95] for x, y, _ in places])
    still = torch.zeros(len(places), 104, 3)
    with torch.no_grad():
        return body(still, root, torch.full((1, 6), 0.5), torch.zeros(1, 52))


def make_frame(body, scene, number):
    """A grey frame with full labels."""
    places = SCENES[scene]
    vertices, joints = (points.numpy() for points in pose_at(body, places))
    where = find_keypoints(body.joint_names)
    count = len(places)
    points = np.stack(
        [
            project(np.concatenate(one)[where], K, RT)[0]
            for one in zip(joints, vertices, strict=True)
        ]
    )
    ids = np.zeros((HEIGHT, WIDTH), np.uint8)
    people = []
    for i in range(count):
        flat, _ = project(vertices[i], K, RT)
        box = np.concatenate([flat.min(0), flat.max(0)])
        people.append(FramePerson(f"{scene}-{i}", str(i), box, places[i][2]))
        x0, y0, x1, y1 = box.round().astype(int)
        ids[max(y0, 0) : y1, max(x0, 0) : x1] = i + 1
    labels = {
        "body_model": np.array("anny"),
        "pose": np.zeros((count, 104, 3), np.float32),
        "root": np.array([[x, y, 0.95] for x, y, _ in places], np.float32),
        "phenotype": np.full((count, 6), 0.5, np.float32),
        "face": np.zeros((count, 52), np.float32),
        "joints": joints.astype(np.float32),
        "keypoint_set": np.array("coco17"),
        "keypoints": points.astype(np.float32),
        "keypoint_visible": np.full((count, 17), SEEN, np.uint8),
    }
    jpeg = simplejpeg.encode_jpeg(np.full((HEIGHT, WIDTH, 3), 120, np.uint8), 90, "RGB", "444")
    key = f"{scene}-{number}"
    return Frame(
        key, "drawn", "CC0-1.0", WIDTH, HEIGHT, scene, people, "0", 0.0, K, RT, jpeg, ids, labels
    )


@pytest.fixture(scope="module")
def shards(body, tmp_path_factory):
    folder = tmp_path_factory.mktemp("frames")
    frames = [make_frame(body, scene, 0) for scene in SCENES]
    samples = ((frame.key, encode_frame(frame)) for frame in frames)
    write_samples(str(folder / "shard-000000.tar"), samples)
    return folder


@pytest.fixture(scope="module")
def truth(body, shards):
    """{scene: (TrueFrame, FoundPerson of each who is the truth)}."""
    frames = open_frames(str(shards), Seen(), 100).read(body, 0.1)
    out = {}
    for true in frames:
        vertices, joints = pose_at(body, SCENES[true.scene])
        moved = [points.numpy() @ R.T + RT[:, 3] for points in (vertices, joints)]
        keypoints = body.keypoints(*(torch.from_numpy(one) for one in moved)).numpy()
        found = [
            FoundPerson(
                Person(
                    "body",
                    person.box,
                    moved[0][i],
                    body.faces.numpy(),
                    moved[1][i],
                    keypoints[i],
                    np.zeros((len(keypoints[i]), 2)),
                    None,
                    None,
                    keypoints[i, 0],
                    K,
                ),
                0.9 - 0.1 * i,
            )
            for i, person in enumerate(true.people)
        ]
        out[true.scene] = true, found
    return out


def test_frames_that_are_passed_over_are_told(body, tmp_path):
    good, bad, blind = (make_frame(body, "one", number) for number in range(3))
    blind = replace(blind, K=None)
    samples = {frame.key: encode_frame(frame) for frame in (good, bad, blind)}
    samples[bad.key]["jpg"] = b"no image"
    write_samples(str(tmp_path / "shard-000000.tar"), samples.items())
    frames = open_frames(str(tmp_path), Seen(), 9)
    assert [true.key for true in frames.read(body, 0.1)] == ["shard-000000.tar:one-0"]
    unread, without_camera = frames.notes
    assert unread.startswith("frames that cannot be read: 1, the first: ")
    assert "shard-000000.tar, frame 1" in unread
    assert without_camera == "frames without a camera, not judged: 1"


def move(found, x=0.0, y=0.0, z=0.0):
    """The person somewhere else, metres in the camera."""
    by = np.array([x, y, z], np.float32)
    one = found.person
    person = replace(
        one,
        vertices=one.vertices + by,
        joints=one.joints + by,
        keypoints=one.keypoints + by,
        translation=one.translation + by,
    )
    return FoundPerson(person, found.score)


def values_of(rows, key="all"):
    (row,) = [row for row in rows if row["key"] == key]
    return {name: value["mean"] for name, value in row["values"].items()}


def test_the_truth_gets_all_and_no_error(body, truth):
    judge = FrameJudge(body)
    rows = summarise(add_up([judge.judge(found, true) for true, found in truth.values()]))
    values = values_of(rows)
    assert rows[0]["people"] == rows[0]["found"] == 5 and rows[0]["false"] == 0
    for name in ("precision", "recall", "f1", "order", "ar"):
        assert values[name] == 1, name
    assert values["ap"] == pytest.approx(1, abs=1e-9)
    for name in ("nmve", "nmje", "mve", "mpjpe", "pa_mpjpe", "pve", "translation", "apart"):
        assert values[name] == pytest.approx(0, abs=2e-3), name
    # The person who is hardly shown counts neither when found nor when missed.
    true, found = truth["two"]
    assert judge.judge(found, true).matching.state.tolist() == [HIT, IGNORED]
    alone = judge.judge(found[:1], true)
    assert (len(alone), alone.hit.tolist(), alone.false) == (1, [True], 0)


def test_a_missed_and_a_false_person_by_hand(body, truth):
    """Of three one is missed and one is moved and swollen; somebody is found who is not there."""
    judge, (true, found) = FrameJudge(body), truth["three"]
    moved = move(found[0], 0.03, 0, 0.04)
    points = moved.person.keypoints.copy()
    points[1:, 1] += 0.021
    swollen = replace(moved.person, vertices=moved.person.vertices + [0, 0.04, 0], keypoints=points)
    nobody = move(found[2], 1.5)
    scores = judge.judge([FoundPerson(swollen, 0.9), found[1], nobody], true)
    assert scores.matching.state.tolist() == [HIT, HIT, FALSE]
    assert scores.matching.partner.tolist() == [0, 1, -1]
    assert scores.false == 1 and scores.hit.tolist() == [True, True, False]
    values = values_of(summarise(add_up([scores])))
    f1 = 2 / (2 + 0.5 * (1 + 1))
    wanted = {
        "precision": 2 / 3,
        "recall": 2 / 3,
        "f1": f1,
        "mve": 20,  # 40 and 0 mm
        "pve": 20,
        "mpjpe": 10,  # 20 of 21 joints are off by 21 mm
        "nmve": 20 / f1,
        "nmje": 10 / f1,
        "translation": 25,  # 50 mm and 0
        "depth": 20,
    }
    for name, value in wanted.items():
        assert values[name] == pytest.approx(value, abs=5e-3), name
    # 6.0 and 6.1 m are a tie; the distance of the two changes from a known one to another.
    assert values["order"] is None
    before, after = (np.hypot(1.2 - x, 0.1 + z) for x, z in ((0, 0), (0.03, -0.04)))
    assert values["apart"] == pytest.approx(1000 * abs(after - before), abs=0.05)


def test_who_is_found_where_nobody_is_told_of_is_no_mistake(body, truth, tmp_path):
    """The ignored half of a frame: there one more is no mistake, elsewhere it is one."""
    frame = make_frame(body, "three", 0)
    ignore = np.zeros((frame.height, frame.width), bool)
    ignore[:, frame.width // 2 :] = True
    frame = replace(frame, ignore=ignore)
    write_samples(str(tmp_path / "shard-000000.tar"), [(frame.key, encode_frame(frame))])
    (true,) = open_frames(str(tmp_path), Seen(), 9).read(body, 0.1)
    judge, found = FrameJudge(body), truth["three"][1]
    middle = found[0].person.keypoints[0, 0]
    sides = [move(found[0], at - middle) for at in (1.9, -1.9)]
    sides = [FoundPerson(one.person, 0.95) for one in sides]  # surer than all who are right
    here, there = (judge.judge([*found, one], true) for one in sides)
    assert here.matching.state.tolist() == [HIT, HIT, HIT, IGNORED]
    assert there.matching.state.tolist() == [HIT, HIT, HIT, FALSE]
    assert (here.false, there.false) == (0, 1)
    assert here.hit.all() and there.hit.all()
    ap = [values_of(summarise(add_up([scores])))["ap"] for scores in (here, there)]
    assert ap[0] == pytest.approx(1, abs=1e-9) and ap[1] < 0.9


def test_depths_in_the_wrong_order(body, truth):
    """The two in front are found behind the third; pairs with it are wrong, their own is a tie."""
    judge, (true, found) = FrameJudge(body), truth["three"]
    scale = 7.5 / 6.0  # along the ray, so that the image stays and the match too
    behind = [move(one, *((scale - 1) * np.asarray(one.person.keypoints[0]))) for one in found[:2]]
    scores = judge.judge([*behind, found[2]], true)
    assert scores.hit.all() and scores.ordered.sum() == 2
    assert not scores.in_order[scores.ordered].any()
    assert values_of(summarise(add_up([scores])))["order"] == 0
    half = judge.judge([behind[0], found[1], found[2]], true)
    assert values_of(summarise(add_up([half])))["order"] == 0.5


def test_two_for_one_and_somebody_near(body, truth):
    """The nearer of two is right; a pair costs at most as much as staying alone."""
    judge, (true, found) = FrameJudge(body), truth["one"]
    scores = judge.judge([move(found[0], 0.1), found[0]], true)
    assert scores.matching.state.tolist() == [FALSE, HIT]
    # Who stands two metres beside overlaps with nobody.
    assert judge.judge([move(found[0], 2)], true).matching.state.tolist() == [FALSE]
    assert judge.judge([], true).hit.tolist() == [False]


def test_groups_share_out_everybody(body, truth):
    judge = FrameJudge(body)
    sums = add_up([judge.judge(found, true) for true, found in truth.values()])
    for kind in ("people_", "shown_", "px_"):
        parts = [rows for key, rows in sums.values.items() if key.startswith(kind)]
        counts = np.sum(parts, 0)[:, :3]
        np.testing.assert_array_equal(counts, sums.values["all"][:, :3])
    rows = summarise(sums)
    assert values_of(rows, "people_3")["recall"] == 1
    assert [row["people"] for row in rows if row["key"] == "shown_30"] == [1]
    assert values_of(rows, "shown_30")["f1"] is None  # who is nobody has no share


def test_average_precision_is_cocos_and_scenes_may_come_twice(body, truth):
    rng, judge = np.random.default_rng(3), FrameJudge(body)
    scores = []
    for true, found in truth.values():
        for _ in range(3):
            spoilt = [move(one, *rng.normal(0, 0.06, 3)) for one in found]
            spoilt = [FoundPerson(one.person, float(rng.random())) for one in spoilt]
            spoilt.append(FoundPerson(move(found[0], 0.7).person, float(rng.random())))
            scores.append(judge.judge(spoilt, true))
    pairs = [(one.detections, one.objects) for one in scores]
    sums = add_up(scores)
    wanted = average([pairs], SIGMAS)
    once = sums.detections["all"].average(np.ones(3))
    assert 0.2 < wanted["AP"] < 0.9
    assert once == pytest.approx((wanted["AP"], wanted["AR"]), abs=1e-12)
    weights = np.array([2, 0, 1])
    often = [int(weights[sums.scenes.index(one.scene)]) for one in scores]
    drawn = [pair for pair, times in zip(pairs, often, strict=True) for _ in range(times)]
    twice = average([drawn], SIGMAS)
    assert sums.detections["all"].average(weights) == pytest.approx(
        (twice["AP"], twice["AR"]), abs=1e-12
    )


def make_sums(people, found, rng):
    """SceneSums of scenes of so many people, of whom some are found, each 50 mm off."""
    scenes = [str(i) for i in range(len(people))]
    none = SceneAp(*np.zeros((2, 10, 0), bool), np.zeros(0, np.int64), np.zeros(len(people)))
    values = {group.key: np.zeros((len(people), len(SUMS))) for group in list_groups()}
    table = values["all"]
    table[:, SUMS.index("people")], table[:, SUMS.index("found")] = people, found
    table[:, SUMS.index("mve")] = found * 50 + rng.normal(0, 5, len(people))
    return SceneSums(scenes, scenes, values, dict.fromkeys(values, none))


def test_intervals_cover():
    """Scenes differ in how many are found: about 95 % of intervals hold the true share."""
    rng, inside, trials = np.random.default_rng(0), 0, 120
    for _ in range(trials):
        people = rng.integers(1, 11, 60)
        found = rng.binomial(people, rng.beta(7, 3, 60))
        (row,) = summarise(make_sums(people, found, rng))
        recall = row["values"]["recall"]
        inside += recall["low"] <= 0.7 <= recall["high"]
    assert 0.88 < inside / trials <= 1


def test_differences_are_paired():
    rng = np.random.default_rng(1)
    people = rng.integers(1, 11, 40)
    found = rng.binomial(people, rng.beta(2, 2, 40))
    found[people - found > 0] += rng.random(np.sum(people - found > 0)) < 0.1
    worse = make_sums(people, np.maximum(found - 1, 0), np.random.default_rng(2))
    better = make_sums(people, found, np.random.default_rng(2))
    (same,) = compare(better, better)
    recall = same["values"]["recall"]
    assert (recall["mean"], recall["low"], recall["high"]) == (0, 0, 0)
    (row,) = compare(better, worse)
    apart = row["values"]["recall"]
    assert apart["mean"] == pytest.approx((found - np.maximum(found - 1, 0)).sum() / people.sum())
    assert 0 < apart["low"] < apart["mean"] < apart["high"]
    # Far narrower than either's own, for the scenes are the same.
    (alone,) = summarise(better)
    own = alone["values"]["recall"]
    assert apart["high"] - apart["low"] < 0.5 * (own["high"] - own["low"])


def test_a_finder_and_crops_answer(tmp_path):
    predictor = open_body_predictor(str(make_run(tmp_path / "run")), "cpu", "evaluate")
    image = draw_scene([(80, RED), (220, BLUE)])
    path = CropPath(predictor, FakeFinder(), 0.3, refine=True)
    found = path(image, None)
    assert [one.score for one in found] == [0.9, 0.9]
    assert all(one.person.refined is not None for one in found)
    plain = CropPath(predictor, FakeFinder(), 0.3, refine=False)
    alone = predictor(image, [one.person.box for one in found])
    for one, other in zip(plain(image, None), alone, strict=True):
        np.testing.assert_array_equal(one.person.vertices, other.vertices)
    assert CropPath(predictor, FakeFinder(), 0.95)(image, None) == []


def test_the_verb_writes_numbers_that_compare(tmp_path, shards, capsys):
    run, other = make_run(tmp_path / "run"), make_run(tmp_path / "other", seed=1)
    words = [f"data.shards={shards}", "examples=1", "scene.refine=false"]
    words.append("scene.perfect_finder=true")
    assert main([str(other), *words, f"out={tmp_path / 'b'}"]) == 0
    assert main([str(run), *words, f"out={tmp_path / 'a'}", f"beside={tmp_path / 'b'}"]) == 0
    assert "difference" in capsys.readouterr().out
    found = json.loads((tmp_path / "a/scenes.json").read_text())
    assert (found["frames"], found["scenes"], found["rows"][0]["people"]) == (3, 3, 5)
    assert found["answers"] == "a perfect finder and crops"
    assert found["beside"]["run"] == str(other)
    mine, theirs = values_of(found["rows"]), values_of(found["beside"]["rows"])
    apart = values_of(found["differences"])
    assert apart["recall"] == pytest.approx(mine["recall"] - theirs["recall"])
    assert (tmp_path / "a/frame-1.png").stat().st_size > 1000
    assert read_sums(tmp_path / "a")[1].frames[0] == "shard-000000.tar:three-0"


def test_what_cannot_be_evaluated_is_said(tmp_path, body, shards):
    run = make_run(tmp_path / "run")
    hidden = tmp_path / "hidden.tar"
    frames = [make_frame(body, "one", i) for i in range(2)]
    write_samples(str(hidden), ((frame.key, encode_frame(frame)) for frame in frames))
    with pytest.raises(UserError, match="attack=4.0 is of crops"):
        main([str(run), f"data.shards={shards}", "attack=4"])
    with pytest.raises(UserError, match="shown_min=1"):
        words = ["scene.perfect_finder=true", "scene.shown_min=1", f"out={tmp_path}"]
        main([str(run), f"data.shards={hidden}", *words])
    with pytest.raises(UserError, match="holds no results of whole frames"):
        main([str(run), f"data.shards={shards}", f"beside={tmp_path}"])
    hand = make_run(tmp_path / "hand", "hand")
    with pytest.raises(UserError, match="recovers anny_hand"):
        main([str(hand), f"data.shards={shards}"])
