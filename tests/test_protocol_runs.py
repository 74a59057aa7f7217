"""``finetune evaluate RUN protocol=NAME``: runs that nobody trained, on small labelled shards."""

import json

import numpy as np
import pytest
from body_standins import make_body, write_npz
from networks import make_run
from test_labelled_bodies import write_3dpw
from test_labelled_hands import write_freihand

from data.bodies.body_files import VARIABLE
from data.sources.label_shards import main as write_labels
from engine.errors import UserError
from finetune.__main__ import main


@pytest.fixture(scope="module")
def hands(tmp_path_factory):
    """(run on hands, shards of FreiHAND's form)."""
    folder = tmp_path_factory.mktemp("hands")
    write_freihand(folder / "root", 3)
    words = [f"root={folder / 'root'}", f"out={folder / 'shards'}", "size=96", "box_min_px=10"]
    assert write_labels(["freihand", *words]) == 0
    return make_run(folder / "run", "hand"), folder / "shards"


def read_numbers(path):
    return {value["key"]: value["value"] for value in json.loads(path.read_text())["values"]}


def test_a_run_on_hands_is_scored_by_freihand(hands, tmp_path, capsys):
    run, shards = hands
    words = ["evaluate", str(run), f"data.shards={shards}", "protocol=freihand", "device=cpu"]
    assert main([*words, f"out={tmp_path}"]) == 0
    printed = capsys.readouterr().out
    mine = read_numbers(tmp_path / "freihand.json")
    assert f"{mine['xyz_al_mean3d']:.6f}" in printed
    assert mine["xyz_mean3d"] > mine["xyz_al_mean3d"] > 0
    assert "mesh_mean3d" not in mine  # the run's mesh is not MANO's


def test_clips_that_do_not_count_are_told(hands, tmp_path, capsys):
    run, shards = hands
    words = ["evaluate", str(run), f"data.shards={shards}", "protocol=freihand", "device=cpu"]
    assert main([*words, f"out={tmp_path}", "clips=2"]) == 0
    assert "The first 2 of 12 clips count; clips=12 takes all" in capsys.readouterr().out
    with pytest.raises(UserError, match="protocol=3dpw is of a body, .* recovers a hand"):
        main([*words[:3], "protocol=3dpw", "device=cpu"])
    with pytest.raises(UserError, match="protocol=coco is of a body, .* recovers a hand"):
        main([*words[:3], "protocol=coco", "device=cpu"])
    with pytest.raises(UserError, match="submission=x is of a protocol: set protocol="):
        main([*words[:3], "submission=x"])
    with pytest.raises(UserError, match="the submission holds meshes"):
        main([*words, f"submission={tmp_path / 'pred.json'}"])


def test_a_run_on_smpl_is_scored_by_3dpw_as_its_files_are(tmp_path, monkeypatch, capsys):
    """The run's own joints and the truth go through the same numbers as files do."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "bodies"))
    for place, variant in enumerate(("NEUTRAL", "MALE", "FEMALE")):
        body = make_body("smpl", variant.lower(), seed=place)
        write_npz(tmp_path / "bodies" / "smpl" / f"SMPL_{variant}.npz", body)
    write_3dpw(tmp_path / "root", np.random.default_rng(0))
    words = [f"root={tmp_path / 'root'}", f"out={tmp_path / 'shards'}", "size=96"]
    assert write_labels(["threedpw", *words, "clip_crops=3"]) == 0
    random = np.random.default_rng(1)
    matrix = random.random((17, 90)) ** 4
    np.save(tmp_path / "regressor.npy", matrix / matrix.sum(1, keepdims=True))
    run = make_run(tmp_path / "run", "body", "body=smpl", "coarse_vertices=40")
    words = ["evaluate", str(run), f"data.shards={tmp_path / 'shards'}", "device=cpu"]
    words += [f"out={tmp_path}", f"regressor={tmp_path / 'regressor.npy'}"]
    assert main([*words, "protocol=3dpw", f"submission={tmp_path / 'pred.npz'}"]) == 0
    mine = read_numbers(tmp_path / "3dpw.json")
    joints = np.load(tmp_path / "pred.npz")["pred_joints"]
    assert joints.shape == (9, 17, 3)  # 2 x 6 frames, less 1 whose camera did not fit and 2
    assert mine["pve"] > 0 and mine["MPJPE"] > mine["Reconstruction Error"] > 0
    more = [f"submission={tmp_path / 'pred'}", "plausibility=true", "up=-y"]
    assert main([*words, "protocol=3dpw_challenge", *more]) == 0
    mine = read_numbers(tmp_path / "3dpw_challenge.json")
    for key in ("self_penetration", "ground_penetration", "floating", "touching"):
        assert mine.pop(key) >= 0
    truth, out = tmp_path / "root" / "sequenceFiles", tmp_path / "scores.json"
    words = ["score", str(tmp_path / "pred"), f"truth={truth}", "protocol=3dpw_challenge"]
    assert main([*words, f"out={out}"]) == 0
    again = read_numbers(out)
    assert again.keys() == mine.keys() and {"MPJPE", "PCK", "MPJAE"} <= mine.keys()
    for key, value in mine.items():
        assert again[key] == pytest.approx(value, rel=1e-4), key
    capsys.readouterr()


def test_joints_that_are_not_there_are_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "bodies"))
    for variant in ("MALE", "FEMALE"):
        body = make_body("smpl", variant.lower())
        write_npz(tmp_path / "bodies" / "smpl" / f"SMPL_{variant}.npz", body)
    write_3dpw(tmp_path / "root", np.random.default_rng(0))
    words = [f"root={tmp_path / 'root'}", f"out={tmp_path / 'shards'}", "size=96"]
    assert write_labels(["threedpw", *words]) == 0
    run = make_run(tmp_path / "run", "body")
    words = ["evaluate", str(run), f"data.shards={tmp_path / 'shards'}", "device=cpu"]
    assert main([*words, "protocol=3dpw", f"out={tmp_path}"]) == 0
    assert "no head_top: numbers are of 13 of 14 joints" in capsys.readouterr().out
    with pytest.raises(UserError, match="protocol=emdb needs spine_1, .*which run or labels lack"):
        main([*words, "protocol=emdb"])
