"""Weights that ship: a run as one file, its card and index, and what finds it by name."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from networks import STEP, make_run
from runs import ROOT
from safetensors import safe_open

import finetune
from engine import counterpose
from engine.errors import UserError
from finetune.__main__ import main
from finetune.released import catalogue, commands
from finetune.released.history import count_hours, shorten_paths
from finetune.released.locate import results_home
from finetune.results_folder import find_results_folder
from finetune.verb_config import EvaluateConfig
from pretrain.weights import write_safetensors

REFEREE = {
    "command": "python -m finetune referee runs/body samples=/secret/place/clips",
    "step": STEP,
    "rows": {"model": "this run", "mean": "mean pose"},
    "groups": {
        "all": {
            "people": 32,
            "rows": {
                "model": {
                    "pck_0.2": {"mean": 0.7123, "low": 0.61, "high": 0.81, "people": 30},
                    "mpjpe": {"mean": 150.0, "people": 4},
                },
                "turned": {
                    "pck_0.2": {"mean": 0.5, "people": 30},
                    "mpjpe": {"mean": 140.0, "people": 4},
                },
                "mean": {"pck_0.2": {"mean": 0.4321, "people": 30}},
            },
        }
    },
    "joints": {
        "model": {"left_wrist": [0.1, 0.21], "left_hip": [0.8, 0.95], "nose": [0.3, None]},
    },
    "clips": {
        "juggler": {
            "frames": 3,
            "take": "",
            "rows": {"model": {"pck_0.2": {"mean": 0.33, "people": 3}}},
        },
        "runner": {
            "frames": 17,
            "take": "",
            "rows": {"model": {"pck_0.2": {"mean": 0.87, "people": 17}}},
        },
    },
    "truth": {"take": {"instants": 3, "median_px": 4.25}},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{"body", "hand": folder of a run}, bodies of rectangular images."""
    folder = tmp_path_factory.mktemp("runs")
    sizes = {"body": "model.image_size=[32,24]", "hand": "model.image_size=32"}
    return {kind: make_run(folder / kind, kind, sizes[kind], spread=2.0) for kind in sizes}


@pytest.fixture(scope="module")
def shipped(runs, tmp_path_factory):
    """The folder of both, released."""
    out = tmp_path_factory.mktemp("shipped") / "weights"
    for kind, run in runs.items():
        assert main(["release", str(run), f"name={kind}", f"out={out}"]) == 0
    return out


@pytest.fixture
def ships(shipped, monkeypatch):
    """What ships is what was released here."""
    monkeypatch.setattr("finetune.released.catalogue.weights_folder", lambda: shipped)
    return shipped


@pytest.fixture(scope="module")
def image():
    """(96, 128, 3) uint8 with something everywhere."""
    y, x = np.mgrid[:96, :128] / 17
    waves = [np.sin(x * a + y * b + c) for a, b, c in ((1, 0.4, 0), (0.3, 1.2, 2), (-0.8, 0.9, 4))]
    return np.round(127.5 + 110 * np.stack(waves, 2)).astype(np.uint8)


@pytest.mark.parametrize("kind", ["body", "hand"])
def test_a_name_gives_the_network_of_the_run(ships, runs, image, kind):
    boxes = [[20, 10, 70, 90], [40, 5, 120, 80]]
    own, named = finetune.load(runs[kind], "cpu"), finetune.load(kind, "cpu")
    assert named.step == STEP and named.config.margin == own.config.margin
    assert named.config.data.rules.crops == kind
    for one, two in zip(own(image, boxes), named(image, boxes), strict=True):
        assert one.kind == two.kind
        apart = (one.vertices - one.joints[:1]) - (two.vertices - two.joints[:1])
        assert 0 < np.abs(apart).max() < 2e-3  # metres: rounded, and yet the same
        assert np.allclose(one.translation, two.translation, rtol=0, atol=5e-3)


def test_the_file_is_half_and_says_what_it_is(shipped, runs):
    with safe_open(shipped / "body.safetensors", "pt") as file:
        metadata = file.metadata()
        kinds = {name: file.get_tensor(name).dtype for name in list(file.keys())}
    assert kinds["encoder.patch_embed.proj.weight"] == torch.float16
    assert kinds["mean_pose"] == torch.float32
    recovery = json.loads(metadata["recovery"])
    assert recovery["head"]["width"] == 32 and recovery["commit"] == "abc1234"
    assert recovery["body"]["version"].startswith("anny 0.")
    assert (metadata["body"], metadata["task"]) == ("anny", "mesh") and "seen" in metadata
    checkpoint = runs["body"] / "checkpoints" / f"step-{STEP:08d}" / "model.safetensors"
    small, large = (path.stat().st_size for path in (shipped / "body.safetensors", checkpoint))
    assert small < 0.62 * large


def test_the_index_names_both_by_their_hash(shipped):
    found = json.loads((shipped / "index.json").read_text())["weights"]
    assert found.keys() == {"body", "hand"}
    for kind, entry in found.items():
        data = (shipped / entry["file"]).read_bytes()
        assert entry["sha256"] == hashlib.sha256(data).hexdigest()
        assert (entry["kind"], entry["bytes"]) == (kind, len(data))
        assert (shipped / entry["card"]).is_file()


def test_the_card_has_every_number_and_no_folder_of_the_machine(runs, tmp_path, capsys):
    referee, notes = tmp_path / "referee.json", tmp_path / "notes.md"
    referee.write_text(json.dumps(REFEREE))
    notes.write_text("It has never seen a wheelchair.")
    words = [f"out={tmp_path / 'out'}", f"referee={referee}", f"notes={notes}", "machine=2 vCPU"]
    assert main(["release", str(runs["body"]), "name=body", *words]) == 0
    assert "a vertex about the root is 0." in capsys.readouterr().out
    card = (tmp_path / "out" / "body.md").read_text()
    for number in (
        "0.712 [0.610, 0.810]",
        "150.0",
        "0.210",
        "0.950",
        "0.330",
        "4.250",
        "140.0",
        "0.432",
    ):
        assert number in card, number
    assert "`python -m finetune train x data.shards=c`" in card and "abc1234" in card
    assert "/secret" not in card and str(tmp_path) not in card and "/a/b" not in card
    assert "7 clips in 1 shards; synthetic people" in card and "machine: 2 vCPU" in card
    weak = card.partition("## What it is bad at")[2]
    assert "left wrist 0.21, left hip 0.95" in weak and "juggler 0.33" in weak
    assert "mpjpe (150.0, mean pose 140.0)" in weak and "pck 0.2 (" not in weak
    assert "| juggler: model | 0.330 (n = 3) |" in card and "| runner | 17 |" in card
    assert "wheelchair" in weak and "Apache-2.0" in weak and "CC0" in weak
    file = (tmp_path / "out" / "body.safetensors").read_bytes()
    assert hashlib.sha256(file).hexdigest() in card


def test_numbers_of_another_step_are_refused(runs, tmp_path):
    path = tmp_path / "referee.json"
    path.write_text(json.dumps(REFEREE | {"step": 9}))
    with pytest.raises(UserError, match="is of step 9, the weights are of step 4"):
        main(["release", str(runs["body"]), "name=b", f"out={tmp_path}", f"referee={path}"])
    assert not (tmp_path / "b.safetensors").exists()


def test_what_is_there_or_too_large_or_rounds_badly_is_refused(runs, tmp_path, monkeypatch):
    words = ["release", str(runs["body"]), "name=body", f"out={tmp_path}"]
    assert main(words) == 0
    with pytest.raises(UserError, match=r"body\.safetensors is there already; overwrite=true"):
        main(words)
    before = (tmp_path / "body.safetensors").read_bytes()
    with pytest.raises(UserError, match=r"would have 0\.\d MB, and most_mb=0\.1: allow more"):
        main([*words, "overwrite=true", "most_mb=0.1"])
    assert (tmp_path / "body.safetensors").read_bytes() == before
    monkeypatch.setattr("finetune.released.half.TOLERANCE_MM", 1e-4)
    with pytest.raises(UserError, match="dtype=float16 moves a vertex by .* take dtype=float32"):
        main([*words, "overwrite=true"])


@pytest.mark.parametrize("name", ["Body", "a/b", "", "x.safetensors"])
def test_names_are_plain(runs, tmp_path, name):
    with pytest.raises(UserError, match="name="):
        main(["release", str(runs["body"]), f"name={name}", f"out={tmp_path}"])


def test_unknown_names_list_those_there_are(ships):
    with pytest.raises(UserError, match="no such folder, and .* 'bodi': body, hand; did you mean"):
        finetune.load("bodi", "cpu")
    with pytest.raises(UserError, match="there is no such file"):
        finetune.load("nowhere/body.safetensors", "cpu")


def test_a_changed_or_missing_file_is_told(shipped, tmp_path, monkeypatch):
    copy = tmp_path / "weights"
    shutil.copytree(shipped, copy)
    monkeypatch.setattr("finetune.released.catalogue.weights_folder", lambda: copy)
    data = bytearray((copy / "body.safetensors").read_bytes())
    data[-5] ^= 1
    (copy / "body.safetensors").write_bytes(data)
    with pytest.raises(UserError, match=r"has SHA-256 .* the released weights 'body' have"):
        finetune.load("body", "cpu")
    (copy / "body.safetensors").write_bytes(data[:-9])
    with pytest.raises(UserError, match=rf"has {len(data) - 9} bytes, .* have {len(data)}: .* cut"):
        finetune.load("body", "cpu")
    with pytest.raises(UserError, match="is not a whole safetensors file"):
        finetune.load(copy / "body.safetensors", "cpu")
    (copy / "body.safetensors").unlink()
    with pytest.raises(UserError, match="is missing, though"):
        finetune.load("body", "cpu")


def test_a_run_in_the_folder_wins_over_a_name(ships, runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert finetune.load("body", "cpu").checkpoint == ships / "body.safetensors"
    (tmp_path / "body").mkdir()  # where results of the name go: no run
    assert finetune.load("body", "cpu").checkpoint == ships / "body.safetensors"
    shutil.copytree(runs["body"], tmp_path / "body", dirs_exist_ok=True)
    assert finetune.load("body", "cpu").checkpoint.name == f"step-{STEP:08d}"


def test_a_file_and_a_folder_with_one_are_taken(shipped, tmp_path):
    assert finetune.load(shipped / "hand.safetensors", "cpu").body.kind == "hand"
    with pytest.raises(UserError, match=r"several files of weights: name one of body.*, hand"):
        finetune.load(shipped, "cpu")
    shutil.copy2(shipped / "hand.safetensors", tmp_path)
    assert finetune.load(tmp_path, "cpu").body.kind == "hand"


def test_weights_of_something_else_are_told(runs, tmp_path):
    checkpoint = runs["body"] / "checkpoints" / f"step-{STEP:08d}" / "model.safetensors"
    with pytest.raises(UserError, match="does not say how its network is built"):
        finetune.load(checkpoint, "cpu")


def test_an_evaluation_of_a_name_wants_shards(ships):
    with pytest.raises(UserError, match="run=body is weights alone.*set data.shards="):
        main(["evaluate", "body", "device=cpu"])


def test_results_of_a_folder_of_weights_go_into_it(tmp_path):
    (tmp_path / "model.safetensors").touch()
    config = EvaluateConfig(run=str(tmp_path))
    assert find_results_folder(config) == tmp_path / "evaluation"


def test_results_of_a_name_go_where_the_command_is_typed():
    assert find_results_folder(EvaluateConfig(run="body")).as_posix() == "body/evaluation"
    assert results_home("https://a.org/x/body.safetensors#sha256=00").as_posix() == "body"
    assert results_home("hf://owner/meshes@main").as_posix() == "meshes"


def test_hours_leave_out_the_time_between_starts():
    assert count_hours([0, 36, 72, 100_000, 100_036]) == pytest.approx(5 * 36 / 3600)
    assert count_hours([5.0]) is None
    assert shorten_paths("a=/x/y/z b=runs/c [/q/r,/s/t]") == "a=z b=runs/c [r,t]"


def test_what_ships_is_what_the_index_says():
    folder = ROOT / "weights"
    for name, entry in catalogue.read_index(folder).items():
        catalogue.check_bytes(folder / entry.file, entry)
        assert (folder / entry.card).is_file() and entry.bytes <= 25_000_000, name


@pytest.mark.long
def test_a_wheel_holds_the_weights(tmp_path):
    hidden = shutil.ignore_patterns("__pycache__")
    for name in ("engine", "finetune", "configs", "weights"):
        shutil.copytree(ROOT / name, tmp_path / "source" / name, ignore=hidden)
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in"):
        shutil.copy2(ROOT / name, tmp_path / "source" / name)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
    target = tmp_path / "target"
    subprocess.run([*pip, "--target", str(target), str(tmp_path / "source")], check=True)
    names = {path.name for path in (ROOT / "weights").iterdir()}
    assert {path.name for path in (target / "finetune" / "weights").iterdir()} == names
    code = "from finetune.released import catalogue; print(catalogue.weights_folder())"
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=target, capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == str(target / "finetune" / "weights")


class Hub:
    """In place of huggingface_hub: what is pushed is kept."""

    def __init__(self, error=None):
        self.error, self.made, self.files, self.commits = error, [], {}, []
        hub = self

        class HfApi:
            def create_repo(self, repo, *, private, exist_ok):
                if hub.error:
                    raise hub.error
                hub.made.append((repo, private, exist_ok))

            def create_commit(self, repo, operations, *, commit_message):
                hub.files[repo] = dict(operations)
                hub.commits.append(commit_message)
                return SimpleNamespace(oid="0123abc")

        def add(name, content):
            return name, content if isinstance(content, bytes) else Path(content).read_bytes()

        self.HfApi, self.CommitOperationAdd = HfApi, add


def test_push_brings_file_and_page_in_one_commit(ships, monkeypatch, capsys):
    found = Hub()
    monkeypatch.setattr("finetune.released.commands.import_hub", lambda: found)
    words = ["weights", "push", "body", "repo=somebody/meshes", "private=true"]
    assert counterpose.main(words) == 0
    assert "hf://somebody/meshes@0123abc" in capsys.readouterr().out
    assert found.made == [("somebody/meshes", True, True)] and len(found.commits) == 1
    files = found.files["somebody/meshes"]
    assert files["model.safetensors"] == (ships / "body.safetensors").read_bytes()
    start, head, page = files["README.md"].decode().split("---\n", 2)
    front = yaml.safe_load(head)
    assert start == "" and front["license"] == "apache-2.0"
    assert front["library_name"] == "counterpose" and "body" in front["tags"]
    assert 'load("hf://somebody/meshes")' in page and "run=hf://somebody/meshes`." in page
    assert 'load("body")' not in page and "## What it is bad at" in page


def test_data_that_are_not_free_are_no_free_weights(ships):
    entry = catalogue.read_index(ships)["hand"]
    card = "## Where it comes from\n- data: source x, licence CC-BY-NC-4.0\n## Numbers\n"
    assert "license: other" in commands.write_page(card, entry, "a/b")
    assert "license: apache-2.0" in commands.write_page(card.replace("-NC", ""), entry, "a/b")


def test_what_goes_wrong_in_a_push_is_one_sentence(ships, monkeypatch):
    class LocalTokenNotFoundError(OSError):
        pass

    words = ["weights", "push", "body", "repo=somebody/meshes"]
    failing = Hub(LocalTokenNotFoundError("Token is required\nhf auth login"))
    monkeypatch.setattr("finetune.released.commands.import_hub", lambda: failing)
    with pytest.raises(UserError, match="repo=somebody/meshes: Token is required hf auth login"):
        counterpose.main(words)
    with pytest.raises(UserError, match="repo=x: what is pushed to is OWNER/NAME"):
        counterpose.main([*words[:3], "repo=x"])
    with pytest.raises(UserError, match="repo= is not set"):
        counterpose.main(words[:3])


def test_list_show_and_check(ships, tmp_path, capsys):
    assert counterpose.main(["weights", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["body", "hand"]
    assert counterpose.main(["weights", "show", "hand"]) == 0
    assert capsys.readouterr().out == (ships / "hand.md").read_text()
    assert counterpose.main(["weights", "check"]) == 0
    assert capsys.readouterr().out.count("as it was released") == 2
    with pytest.raises(UserError, match="'bodie': body, hand; did you mean 'body'"):
        counterpose.main(["weights", "show", "bodie"])
    copy = tmp_path / "copy"
    shutil.copytree(ships, copy)
    (copy / "hand.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match="1 of 2 weights in .* are not as released"):
        counterpose.main(["weights", "check", f"folder={copy}"])
    assert "has 1 bytes" in capsys.readouterr().out
    with pytest.raises(UserError, match="weights show: name NAME"):
        counterpose.main(["weights", "show"])
    for verb in (["list"], ["check"], ["show", "body"], ["push", "body", "repo=a/b"]):
        with pytest.raises(UserError, match=f"folder={tmp_path}/none: there is no such folder"):
            counterpose.main(["weights", *verb, f"folder={tmp_path / 'none'}"])
    (tmp_path / "none").mkdir()
    assert counterpose.main(["weights", "list", f"folder={tmp_path / 'none'}"]) == 0
    assert "no weights are in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("where", "changes", "said"),
    [
        ("recovery", {"margin": -3}, "margin=-3 and step=4; margin is 1 to 4"),
        ("recovery", {"margin": float("nan")}, "margin=nan"),
        ("recovery", {"step": -1}, "step=-1; .* step 0 or more"),
        ("recovery", {"head": {"width": 10**9}}, "cannot be built: "),
        ("recovery", {"head": {"heads": 7}}, "head.heads=7"),
        ("recovery", {"head": {"map_cells": 99}}, "'map_cells=99' in .*: the value is above 16"),
        ("model", {"image_size": 65}, "model.image_size=65 is not a multiple of model.patch="),
        ("model", {"encoder": {"width": 0}}, "'width=0' in .*: the value is below"),
        (
            "",
            {"task": "mseh"},
            "its header names task=mseh is none of keypoints, mesh, motion, scene, two",
        ),
        ("", {"body": "annie"}, "its header names body=annie is none of anny"),
    ],
)
def test_a_header_that_describes_no_network_is_told(shipped, tmp_path, where, changes, said):
    """A damaged or foreign file ends in one sentence that names it."""
    with safe_open(shipped / "body.safetensors", "pt") as file:
        metadata = dict(file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
    tree = json.loads(metadata[where]) if where else metadata
    for name, value in changes.items():
        tree[name] = tree[name] | value if isinstance(value, dict) else value
    if where:
        metadata[where] = json.dumps(tree)
    path = tmp_path / "other.safetensors"
    write_safetensors(tensors, path, metadata)
    with pytest.raises(UserError, match=said) as error:
        finetune.load(path, "cpu")
    assert str(path) in str(error.value)
