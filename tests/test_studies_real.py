"""Studies with real clips: what is read of them, what a regression tells of their keypoints, and a
small study that learns from them."""

import json

import numpy as np
import pytest
import torch
from clips import disc, make_clip, write_shards
from runs import finish, start
from test_probe import STORE, augmented
from test_studies import rows_of, study

from data.format.joint_sets import COCO17
from engine.errors import UserError
from engine.run.run_folder import RunFolder
from finetune.referee.truth import JUDGED
from pretrain import probe, ridge
from studies import measure, plan, protocol, rows, tables
from studies.config import REAL_READ_OUTS
from studies.keypoint_read_outs import (
    EARLY,
    LATE,
    LEAST_ROWS,
    predict_from_earlier,
    predict_from_others,
    read_off_earlier,
    read_off_made,
    read_off_others,
    tell_errors,
)
from studies.real_crops import CROPS, PointSplit, read_made_points, read_real_crops

PAIRS_REAL = "studies/pairs_real.yaml"
LIMBS = [COCO17.index(name) for name in JUDGED]


def real_clip(number, source, views):
    """A clip whose crops are those of its source's other clips; one keypoint is found badly."""
    clip = make_clip(number, views, 10, source=source, calibrated=views > 1)
    clip.subject = f"{source}/take/0"
    random = np.random.default_rng(len(source))
    count = len(clip.crops)
    confidence = np.full((count, 17), 0.9, np.float32)
    confidence[:, COCO17.index("left_knee")] = 0.29
    clip.labels = {
        "keypoint_set": np.array("coco17"),
        "keypoints": random.uniform(5, 59, (count, 17, 2)).astype(np.float32),
        "keypoint_confidence": confidence,
    }
    return clip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of three scenes, six clips each: two of two cameras, one of one."""
    out = []
    for place, (source, views) in enumerate((("hall", 2), ("garden", 1), ("studio1", 2))):
        out.append(tmp_path_factory.mktemp(source))
        clips = [real_clip(10 * place + number, source, views) for number in range(6)]
        write_shards(out[-1], clips, 3)
    return [str(one) for one in out]


def points_of(scenes, seed=0):
    """A PointSplit of random keypoints and features that tell of them; some are not known."""
    random = np.random.default_rng(seed)
    scene = np.repeat(np.arange(len(scenes)), scenes)
    count = len(scene)
    x = random.normal(size=(count, 30)) + 0.3 * scene[:, None]
    mix = random.normal(size=(30, 24)) / 30
    points = 0.5 + (x @ mix + 0.1 * random.normal(size=(count, 24))).reshape(count, 12, 2)
    known = random.random((count, 12)) < 0.7
    known[:, 1] = known[:, 0]
    known[scene != 0, 5] = False  # one scene alone has this keypoint
    crops = probe.Split(None, [], scene, np.zeros((count, 3)), np.zeros((count, 1, 3)), scene, 64)
    names = [f"scene{number}" for number in range(len(scenes))]
    side = random.uniform(0.5, 0.8, count)
    progress = np.concatenate([np.linspace(0, 1, many) for many in scenes])
    return torch.from_numpy(x), PointSplit(crops, points, known, side, progress, names, count)


def test_a_crop_counts_once_and_a_source_is_a_scene(folders):
    real = read_real_crops(",".join(folders), STORE)
    assert real.scenes == ["garden", "hall", "studio1"] and real.clips == 18
    # Six clips each show the same instants.
    assert real.describe()["scenes"] == {"garden": 10, "hall": 20, "studio1": 20}
    unsure = np.array([name == "left_knee" for name in JUDGED])
    expected = {len(name): real_clip(0, name, 1 + (name != "garden")) for name in real.scenes}
    for number, name in enumerate(real.scenes):
        clip = expected[len(name)]
        here = real.points[real.crops.clip == number] * clip.size
        wanted = clip.labels["keypoints"][:, LIMBS]
        order = np.lexsort(([c.time_s for c in clip.crops], [c.camera for c in clip.crops]))
        np.testing.assert_allclose(here[:, ~unsure], wanted[order][:, ~unsure], rtol=1e-5)
    assert (real.known == ~unsure).all()
    # Ten instants before each camera.
    for number, cameras in enumerate((1, 2, 2)):
        progress = real.progress[real.crops.clip == number].reshape(cameras, 10)
        np.testing.assert_allclose(progress, np.tile(np.linspace(0, 1, 10), (cameras, 1)))
    rows_of_disc = np.flatnonzero(disc().any(1))
    assert real.side == pytest.approx((rows_of_disc[-1] + 1 - rows_of_disc[0]) / 64)
    with pytest.raises(UserError, match=r"of 2 scenes \(garden, hall\), and 3 scenes are"):
        read_real_crops(",".join(folders[:2]), STORE)


def test_of_many_crops_some_are_spread_over_time(tmp_path):
    clips = []
    for number, many in enumerate((60, 2, 2, 1)):
        for k in range(many):
            clips.append(real_clip(100 * number + k, f"scene{number}", 1))
            for crop in clips[-1].crops:
                crop.time_s += 10.0 * k
    write_shards(tmp_path, clips, 200)
    real = read_real_crops(str(tmp_path), STORE)
    assert real.describe()["scenes"] == {"scene0": CROPS, "scene1": 20, "scene2": 20, "scene3": 10}
    index = real.crops.places[real.crops.clip == 0, 1]
    assert index[0] == 0 and index[-1] == 59 and np.bincount(index, minlength=60).min() >= 3


def test_keypoints_of_synthetic_people_are_their_joints_in_the_image(people):
    split = probe.read_split(str(people["body"]), 24, "body", STORE)
    points = read_made_points(split)
    assert points.shape == (len(split.places), 12, 2)
    reader = probe.open_reader("body", STORE)
    from data.bodies.models import LAYOUTS

    names = LAYOUTS.find("anny")
    for row in (0, 7, -1):
        shard, index, number = split.places[row].tolist()
        clip, _, labels, _ = reader.usable(split.paths[shard], index)
        crop = clip.crops[number]
        for k, name in enumerate(JUDGED):
            joint = labels["joints"][labels["instant"][number]][
                names.joint_names.index(names.keypoints[name])
            ]
            seen = np.asarray(crop.K) @ (np.asarray(crop.Rt) @ [*joint, 1])
            assert points[row, k] == pytest.approx(seen[:2] / seen[2] / clip.size, abs=1e-5)


def test_what_synthetic_people_teach_is_a_ridge_regression():
    """Beside least squares of numpy on the augmented system, lambda found by trying all."""
    x_new, real = points_of([9, 5, 12], seed=1)
    x, made = points_of([40, 30])
    by = made.crops.clip == 1
    found = read_off_made(x, torch.from_numpy(made.points), torch.from_numpy(by), x_new, real)
    y, errors = made.points.reshape(len(x), -1), []
    for one in ridge.LAMBDAS:
        guess = augmented(x[~by].numpy(), y[~by], x[by].numpy(), one)
        errors.append(np.linalg.norm((guess - y[by]).reshape(-1, 2), axis=1).mean())
    assert found["lambda"] == ridge.LAMBDAS[int(np.argmin(errors))]
    guess = augmented(x.numpy(), y, x_new.numpy(), found["lambda"]).reshape(-1, 12, 2)
    still = np.broadcast_to(made.points.mean(0), guess.shape)
    for kind, metrics in ((guess, found), (still, found["constant"])):
        off = np.linalg.norm(kind - real.points, axis=2) / real.side[:, None]
        each = [off[s == real.crops.clip][real.known[s == real.crops.clip]] for s in range(3)]
        percent, missed = (100 * np.array([f(o) for o in each]) for f in (np.mean, miss))
        if kind is still:
            percent, missed = percent.mean(), missed.mean()
        assert metrics["percent"] == pytest.approx(percent, abs=1e-3)
        assert metrics["missed"] == pytest.approx(missed, abs=1e-3)


def miss(off):
    """The share that PCK@0.2 does not count."""
    return 1 - (off < 0.2).mean()


def test_a_scene_is_judged_by_what_the_others_teach():
    """Keypoint by keypoint beside numpy's least squares; lambda by leaving out one of the fitting
    scenes after the other."""
    x, real = points_of([22, 30, 26, 24])
    scene, X = real.crops.clip, x.numpy()
    guess, still, chosen = predict_from_others(x, real)
    for judged in range(4):
        others, errors = [s for s in range(4) if s != judged], np.zeros(len(ridge.LAMBDAS))
        for held in others:
            by = scene == held
            for number, one in enumerate(ridge.LAMBDAS):
                off = np.full((by.sum(), 12), np.nan)
                for k in range(12):
                    fit = np.isin(scene, others) & ~by & real.known[:, k]
                    if fit.sum() >= LEAST_ROWS:
                        p = augmented(X[fit], real.points[fit, k], X[by], one)
                        off[:, k] = np.linalg.norm(p - real.points[by, k], axis=1) / real.side[by]
                off[~real.known[by]] = np.nan
                errors[number] += np.nanmean(off)
        assert chosen[judged] == ridge.LAMBDAS[int(np.argmin(errors))]
        mine = scene == judged
        for k in range(12):
            fit = ~mine & real.known[:, k]
            if fit.sum() < LEAST_ROWS:
                assert k == 5 and judged == 0 and guess[mine, k].isnan().all()
                continue
            wanted = augmented(X[fit], real.points[fit, k], X[mine], chosen[judged])
            np.testing.assert_allclose(guess[mine, k], wanted, rtol=1e-6, atol=1e-8)
            np.testing.assert_allclose(
                still[mine, k], np.tile(real.points[fit, k].mean(0), (mine.sum(), 1))
            )
    found = read_off_others(x, real)
    assert found["percent"] == tell_errors(guess, real)["percent"] and found["lambda"] == chosen


def test_the_judged_scene_is_never_fitted_to():
    x, real = points_of([22, 30, 26])
    guess, still, chosen = predict_from_others(x, real)
    mine = real.crops.clip == 1
    real.points[mine] += 7
    real.known[mine, :6] = False
    moved, unmoved, again = predict_from_others(x, real)
    assert again[1] == chosen[1]
    assert torch.equal(moved[mine].nan_to_num(), guess[mine].nan_to_num())
    assert torch.equal(unmoved[mine].nan_to_num(), still[mine].nan_to_num())
    assert not torch.allclose(moved[~mine], guess[~mine], equal_nan=True)  # they do learn from it


def test_what_is_late_is_judged_by_what_is_early():
    """Keypoint by keypoint beside numpy's least squares; lambda within the early part."""
    x, real = points_of([60, 52])
    real.known[real.crops.clip == 0, 5] = real.known[real.crops.clip == 0, 6]
    real.known[real.crops.clip == 1, 5] = True
    scene, passed, X = real.crops.clip, real.progress, x.numpy()
    guess, still, chosen = predict_from_earlier(x, real)
    for number in range(2):
        early, late = (scene == number) & (passed <= EARLY), (scene == number) & (passed >= LATE)
        by, errors = early & (passed >= EARLY * LATE), np.zeros(len(ridge.LAMBDAS))
        for place, one in enumerate(ridge.LAMBDAS):
            for k in range(12):
                fit = early & (passed <= EARLY**2) & real.known[:, k]
                if fit.sum() < LEAST_ROWS:
                    continue
                p = augmented(X[fit], real.points[fit, k], X[by], one)
                off = np.linalg.norm(p - real.points[by, k], axis=1) / real.side[by]
                errors[place] += off[real.known[by, k]].sum()
        assert chosen[number] == ridge.LAMBDAS[int(np.argmin(errors))]
        for k in range(12):
            fit = early & real.known[:, k]
            wanted = augmented(X[fit], real.points[fit, k], X[late], chosen[number])
            np.testing.assert_allclose(guess[late, k], wanted, rtol=1e-6, atol=1e-8)
            mean = np.tile(real.points[fit, k].mean(0), (late.sum(), 1))
            np.testing.assert_allclose(still[late, k], mean)
        assert guess[(scene == number) & ~late].isnan().all()
    assert read_off_earlier(x, real)["percent"] == tell_errors(guess, real)["percent"]
    # What is judged teaches nothing.
    real.points[passed >= LATE] += 7
    moved, _, again = predict_from_earlier(x, real)
    assert again == chosen and torch.equal(moved.nan_to_num(), guess.nan_to_num())
    assert read_off_earlier(*points_of([60, 12])) is None


def test_arms_may_learn_from_real_clips(tmp_path):
    config = study(f"work={tmp_path}", "real.shards=/x/a,/x/b", path=PAIRS_REAL)
    plan.check_arms(config)
    words = plan.pretrain_words(config, plan.Row("pairs_mixed", 1, 0.1))
    assert f"data.sources.made.shards={tmp_path}/body_train_4000" in words
    assert "data.sources.real.shards=/x/a,/x/b" in words
    assert not any(word.startswith("data.shards=") for word in words)
    hidden = plan.hide_real(config, words)
    assert "data.sources.real.shards=REAL" in hidden and len(hidden) == len(words)
    plain = plan.pretrain_words(config, plan.Row("mae", 1, 0.1))
    assert f"data.shards={tmp_path}/body_train_4000" in plain
    assert plan.hide_real(config, plain) == plain
    # Of as many operations.
    own, other = (
        plan.count_operations(plan.pretrain_words_of(config, arm)) for arm in ("pairs_mixed", "mae")
    )
    assert own[0] * own[1] == pytest.approx(other[0] * other[1], abs=own[0])
    assert "real (crops of real people, by scene)" in protocol.describe_protocol(config)
    assert "real crops" not in protocol.describe_protocol(study())


def test_what_real_clips_need_is_told():
    with pytest.raises(UserError, match="arms.mae_mixed.pretrain names REAL, and real.shards is"):
        plan.check_arms(study(path=PAIRS_REAL))
    with pytest.raises(UserError, match="real.shards=x and kind=hand"):
        study("real.shards=x", path="studies/hand.yaml")
    with pytest.raises(UserError, match="tests.real: that is what rows call real crops"):
        study("tests.real.make=configs/data/people_body.yaml")
    for keys in (["claims.x.test=studio", "claims.x.how=real"], ["claims.x.test=real"]):
        with pytest.raises(UserError, match="real, real_fitted, real_later are of the test real"):
            study("claims.x.arm=pairs", *keys, path=PAIRS_REAL)


def add_real(config, digest, errors):
    """Give the rows of a study read-outs of real crops, ``errors`` (arm) off and a little more for
    each scene."""
    table = plan.open_table(config)
    for found in table.read("errors"):
        values = [errors(found["arm"]) + scene + 0.1 * found["seed"] for scene in range(4)]
        read = {
            "percent": values,
            "missed": values,
            "constant": {"percent": 30.0, "missed": 70.0},
        }
        found["people"] = {"real": digest}
        found["real"] = {"clips": 9, "crops": 8, "scenes": dict.fromkeys("abcd", 2)}
        found["tests"]["real"] = dict.fromkeys(REAL_READ_OUTS, read)
        commands = []
        for command in found["commands"]:
            commands.append(" ".join(plan.hide_real(config, command.split())))
        table.add("errors", {**found, "commands": commands})


def test_tables_and_claims_have_real_crops_by_scene(tmp_path):
    keys = [f"rows={tmp_path}", "arm=mae,mae_mixed,pairs,pairs_mixed", "seeds=3"]
    config = study(*keys, "real.shards=/x/a,/x/b", path=PAIRS_REAL)
    rows_of(config, lambda arm, seed: 50)
    add_real(config, "first", lambda arm: {"mae": 25, "mae_mixed": 23}.get(arm, 24))
    # Read where the clips are not at hand, as by ``tables``.
    config = study(*keys, path=PAIRS_REAL)
    there = rows.read_rows(config)
    text = "\n".join(tables.make_tables(config, there))
    assert "crops judged, by scene: a 2, b 2, c 2, d 2" in text
    lead = text[text.index("Keypoints of real people") :]
    assert "| 40 | MAE, a quarter real | 3 | 24.6 | 24.6 | 24.6 | 24.6 |" in lead
    assert "| | mean pose | | 30.0 | 70.0 | 30.0 | 70.0 |" in lead
    assert "paired by seed and scene, *real*" in lead
    (claim,) = [line for line in text.splitlines() if line.startswith("| mixed |")]
    assert "| real |" in claim and "| 3 | **-2.0 [-2.0, -2.0]**" in claim
    # Rows of other clips are refused; those that nothing real was read out of are not.
    found = plan.open_table(config).find("errors", arm="pairs", seed=1)
    table = plan.open_table(config)
    table.add("errors", {**found, "people": {"real": "second"}})
    with pytest.raises(UserError, match=r"pairs-0.1-seed1 is of other people \(second-"):
        rows.read_rows(config)
    del found["tests"]["real"], found["real"]
    table.add("errors", {**found, "people": {}})
    text = "\n".join(tables.make_tables(config, rows.read_rows(config)))
    assert "pairs, three targets for half of a reference | 3 | 25.6 |" in text


def test_a_study_learns_from_real_clips_and_is_judged_on_them(tmp_path, people, folders):
    work = tmp_path / "work"
    work.mkdir()
    for name in ("body_train_24", "body_studio_12", "body_out-of-domain_12"):
        (work / name).symlink_to(people["body"])
    config = study(
        f"work={work}",
        f"rows={tmp_path / 'rows'}",
        f"real.shards={','.join(folders)}",
        "train.clips=24",
        "tests.studio.clips=12",
        "tests.out-of-domain.clips=12",
        "arms.pairs_mixed.compute=false",
        "shares=1",
        "device=cpu",
        "pretrain_keys=objective.target=patch steps=4 optim.warmup=1 checkpoint.every=4 "
        "log.every=1 log.val_every=2 data.workers=0",
        path=PAIRS_REAL,
    )
    row = plan.Row("pairs_mixed", 0, 1.0)
    command, verb, *words = plan.pretrain_words(config, row)
    finish(start(words, command=f"{command} {verb}"))
    log = RunFolder(plan.pretrain_folder(config, row)).log.read_text().splitlines()
    learnt = {name for line in log for name in json.loads(line)}
    for source in ("made", "real"):
        for kind in ("cross_view", "cross_pose"):
            assert f"loss_by_source/{source}/{kind}" in learnt
    measure.measure_row(config, row)
    found = plan.open_table(config).find("errors", arm="pairs_mixed")
    real = found["tests"]["real"]
    assert set(real) == {"real", "real_fitted"}
    for read in real.values():
        assert len(read["percent"]) == len(read["missed"]) == 3
        assert np.isfinite(read["percent"]).all() and set(read["constant"]) == {"percent", "missed"}
    assert found["real"]["scenes"] == {"garden": 10, "hall": 20, "studio1": 20}
    assert found["people"]["real"] == found["real"]["digest"] != ""
    assert "data.sources.real.shards=REAL" in found["commands"][0]
    assert not any(folder in str(found) for folder in folders)
    none = plan.Row("none", 0, 1.0)
    measure.measure_row(config, none)
    there = rows.read_rows(config)
    assert there[row] == found and there[none]["tests"]["real"] != real
