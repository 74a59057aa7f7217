"""The referee from end to end: drawn people, a stand-in finder, untrained runs, made crops."""

import json

import numpy as np
import pytest
import torch
from fake_finder import BLUE, RED, FakeFinder, draw_scene
from PIL import Image
from runs import ROOT, finetune_words

from data.find.detection import HandDetection
from data.format.clip import MASK_BYTES
from data.loading.build import open_crop_order
from data.loading.validation import val_crops
from engine.checkpoint import checkpoints
from engine.config.parser import parse, save
from engine.errors import UserError
from engine.geometry import project
from finetune.__main__ import main
from finetune.config import FinetuneConfig
from finetune.inference.predictor import Predictor
from finetune.referee import curve, judge, synthetic
from finetune.referee.kinds import KINDS
from finetune.referee.rows import Answer, Asked
from finetune.referee.takes import SampleClip
from finetune.referee.truth import Seen
from finetune.tasks.mesh import build
from pretrain.weights import write_safetensors

STEPS = (2, 4)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, bodies, people):
    """{"body", "hand": folder of a run} of two checkpoints that nobody trained, bodies of
    rectangular images."""
    out = {}
    for kind, model_name, size in (("body", "anny", "[32,24]"), ("hand", "anny_hand", "32")):
        out[kind] = tmp_path_factory.mktemp("runs") / kind
        keys = ("steps=4", f"model.image_size={size}")
        file, *rest = finetune_words(out[kind], kind, people[kind], *keys)
        config = parse(FinetuneConfig, [str(ROOT / file), *rest], "finetune train")
        order = open_crop_order(config.data, config.batch, config.seed)
        model, _ = build(config, order, bodies[model_name], torch.device("cpu"))
        out[kind].mkdir()
        save(config, out[kind] / "config.yaml", "finetune train")
        for step in STEPS:
            with torch.no_grad():
                for answer in model.head.answers.values():
                    answer.weight *= 4
            checkpoints.save(
                out[kind],
                step,
                lambda path, model=model: write_safetensors(
                    model.state_dict(), path, {"format": "pt"}
                ),
                {"none": torch.zeros(1)},
                {"step": step},
            )
    return out


@pytest.fixture
def scenes(tmp_path):
    folder = tmp_path / "scenes"
    folder.mkdir()
    for i, shown in enumerate(([(80, RED), (230, BLUE)], [(120, RED)])):
        Image.fromarray(draw_scene(shown, seed=i)).save(folder / f"{i}.png")
    return folder


def judge_runs(monkeypatch, finder, arguments):
    opened = []

    def open_finder(masks, hands):
        opened.append((masks, hands))
        return finder

    monkeypatch.setattr("finetune.referee.clips.open_finder", open_finder)
    assert main(["referee", *map(str, arguments)]) == 0
    return opened


def test_a_run_its_checkpoints_another_run_and_synthetic_people(
    runs, people, scenes, tmp_path, monkeypatch, capsys
):
    run, out = runs["body"], tmp_path / "out"
    first = run / "checkpoints" / "step-00000002"
    words = [run, f"samples={scenes}", f"out={out}", "checkpoints=true", "device=cpu"]
    words += [f"beside={first}", f"synthetic={people['body']}", "synthetic_crops=5"]
    opened = judge_runs(monkeypatch, FakeFinder(), words)
    assert opened == [(True, False)] * 2  # once an image, however many networks are judged
    results = json.loads((out / "referee.json").read_text())
    group, row = results["groups"]["all"], "beside/step-00000002"
    assert (group["people"], group["clips"]) == (3, 2)
    assert results["clips"]["scenes/0"]["people"] == 2
    assert results["rows"][row] == "step-00000002"
    assert results["synthetic"]["people"] == results["synthetic"]["clips"] == 5
    traced = json.loads((out / "curve.json").read_text())
    assert [point["crops"] for point in traced["points"]] == [8 * step for step in STEPS]
    for name, found in (("all", group), ("synthetic", results["synthetic"])):
        assert traced["points"][0]["groups"][name] == found["rows"][row]
        assert traced["points"][1]["groups"][name] == found["rows"]["model"]
    assert group["rows"]["model"] != group["rows"][row]
    assert Image.open(out / "curve.png").width > 400
    assert {path.name for path in (out / "sheets").iterdir()} == {
        "scenes-0-00.png",
        "scenes-1-00.png",
        "synthetic-00.png",
    }
    assert "real | synthetic: 5 people of 5 made clips" in capsys.readouterr().out
    assert judge_runs(monkeypatch, None, words) == []  # what was found is kept


class HandFinder:
    """Sees one left hand, and a small one."""

    def find_hands(self, image):
        corner = np.array([40.0, 50.0])
        points = corner + 70 * np.random.default_rng(0).random((21, 2))
        keypoints = np.column_stack([points, np.full(21, 0.95)])
        small = np.concatenate([points.min(0), points.min(0) + 20])
        return [
            HandDetection("left", np.concatenate([points.min(0), points.max(0)]), 0.95, keypoints),
            HandDetection("right", small, 0.95, keypoints),
        ]


def test_a_run_on_hands_is_judged_by_21_joints(runs, people, scenes, tmp_path, monkeypatch):
    out = tmp_path / "out"
    words = [runs["hand"], f"samples={scenes}", f"out={out}", f"synthetic={people['hand']}"]
    opened = judge_runs(monkeypatch, HandFinder(), [*words, "synthetic_crops=4", "device=cpu"])
    assert opened == [(False, True)] * 2
    results = json.loads((out / "referee.json").read_text())
    assert results["groups"].keys() == {"all"} and results["groups"]["all"]["people"] == 2
    assert tuple(results["joints"]["model"]) == KINDS["hand"].joints
    assert "iou" not in results["groups"]["all"]["rows"]["model"]
    assert results["rows"]["turned"] == "mean hand, turned (best of 256)"
    turned = results["groups"]["all"]["rows"]["turned"]["pck_0.2"]["mean"]
    assert turned >= results["groups"]["all"]["rows"]["mean"]["pck_0.2"]["mean"]


def test_left_hands_are_answered_as_mirrored_right_ones(runs):
    asked = Asked(Predictor(runs["hand"], "cpu"), KINDS["hand"])
    image = np.random.default_rng(5).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    K = np.array([[100.0, 0, 32], [0, 100, 32], [0, 0, 1]])
    found = []
    for side, pixels in (("right", image), ("left", image[:, ::-1].copy())):
        seen = Seen(0, np.array([10.0, 10, 54, 54]), 1.0, np.zeros((21, 3)), side=side)
        found.append(asked.joints(asked.recover(asked.cut(pixels, K, [seen])))[0])
    np.testing.assert_allclose(found[1] * [-1, 1, 1], found[0], atol=1e-5)


def test_broken_images_are_passed_over_and_told(runs, scenes, tmp_path, monkeypatch, capsys):
    (scenes / "words.png").write_text("an image of words")
    out = tmp_path / "out"
    words = [runs["body"], f"out={out}", "device=cpu", "sheets=false"]
    judge_runs(monkeypatch, FakeFinder(), [*words, f"samples={scenes}"])
    assert json.loads((out / "referee.json").read_text())["groups"]["all"]["people"] == 3
    assert f"skipped {scenes / 'words.png'}" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"none of 1 clips can be read; .*words\.png"):
        judge_runs(monkeypatch, None, [*words, f"samples={scenes / 'words.png'}"])


def test_what_is_wrong_is_told_before_anybody_is_looked_for(
    runs, scenes, tmp_path, monkeypatch, capsys
):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for word, said in (
        (f"out={tmp_path / 'file'}", f"out={tmp_path / 'file'}: the folder cannot be made"),
        (f"truth={tmp_path / 'file'}", f"truth={tmp_path / 'file'}: the folder cannot be made"),
        ("leave_out=scenes/0,scenes/1", "leave_out=scenes/0,scenes/1 leaves nothing of samples="),
        (f"synthetic={tmp_path / 'empty'}", "empty holds no shards"),
    ):
        words = [runs["body"], f"out={tmp_path / 'out'}", f"samples={scenes}", "device=cpu", word]
        with pytest.raises(UserError, match=said):
            judge_runs(monkeypatch, None, words)


def test_runs_of_another_kind_stand_not_beside(runs, scenes):
    with pytest.raises(UserError, match=r"recovers a hand, run=.* a body"):
        main(["referee", str(runs["body"]), f"samples={scenes}", f"beside={runs['hand']}"])


@pytest.mark.parametrize("kind", ["body", "hand"])
def test_synthetic_people_are_where_their_labels_say(runs, people, kind):
    predictor = Predictor(runs[kind], "cpu")
    order = open_crop_order(predictor.config.data, 1, 0)
    arrays = val_crops(order, predictor.config.data, 2)
    asked = Asked(predictor, KINDS[kind])
    most = len(arrays["tags"])
    crops = synthetic.list_crops(asked, arrays, most)
    assert len(crops) == most > 2 and len({crop.clip.name for crop in crops}) == 2
    few = synthetic.list_crops(asked, arrays, 2)
    assert len({crop.clip.name for crop in few}) == 2
    for i, crop in enumerate(crops):
        # Each joint of the limbs lies at one of the label's own 104 joints.
        true, _ = project(arrays["joints"][i], arrays["K"][i], arrays["Rt"][i])
        away = np.linalg.norm(crop.seen.joints[:, None, :2] - true, axis=2).min(1)
        assert np.median(away) < 0.04 * crop.seen.side_px
        inside = ((crop.seen.joints[:, :2] >= 0) & (crop.seen.joints[:, :2] < 64)).all(1)
        np.testing.assert_array_equal(crop.seen.joints[:, 2] == 1, inside)
        # The true joints, asked as an answer, hit everything that is seen.
        answer = {"model": Answer(crop.joints, crop.seen.joints[:, :2], crop.seen.mask)}
        person = judge.score_person(KINDS[kind], crop.clip, crop.seen, answer, asked.faces)
        assert person.values["model"]["pck_0.1"] == 1
        if kind == "body":
            assert person.values["model"]["iou"] == 1
            bits = arrays["mask"][i].reshape(MASK_BYTES)
            rows, columns = np.nonzero(np.unpackbits(bits).reshape(64, 64))
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert crop.seen.box.tolist() == box


def test_the_curve_is_that_of_its_numbers():
    people = []
    for i in range(4):
        seen = Seen(0, np.zeros(4), 1.0, np.zeros((17, 3)))
        person = judge.JudgedPerson(SampleClip(str(i), ""), seen, False, {}, np.zeros((0, 3)))
        for row, level in (("model", 0.5), ("step-00000010", 0.3), ("turned", 0), ("mean", 0.2)):
            person.values[row] = {"pck_0.2": level + 0.1 * i, "iou": float("nan")}
        people.append(person)
    groups = {"all": people, "synthetic": []}
    traced = curve.trace_curve(groups, {"model": 30, "step-00000010": 10}, 256)
    assert [(point["step"], point["crops"]) for point in traced["points"]] == [
        (10, 2560),
        (30, 7680),
    ]
    means = [point["groups"]["all"]["pck_0.2"]["mean"] for point in traced["points"]]
    np.testing.assert_allclose(means, [0.45, 0.65])
    assert traced["levels"]["mean"]["all"]["pck_0.2"]["mean"] == pytest.approx(0.35)
    assert "iou" not in traced["points"][0]["groups"]["all"]
    assert curve.draw_curve(traced, KINDS["body"]).startswith(b"\x89PNG")
