"""``predict`` with a run that finds everybody in whole images: files, refusals, nobody."""

import json

import numpy as np
import pytest
import trimesh
from networks import make_scene_run
from PIL import Image
from standing import SIZE, K, stand, tilt

from engine.errors import UserError
from finetune.__main__ import main
from finetune.scene.everybody import Everybody
from finetune.scene.found import FoundPerson
from finetune.scene.ground import find_ground
from finetune.scene.network_file import is_scene

INTRINSICS = "intrinsics=" + ",".join(str(K[at]) for at in ((0, 0), (1, 1), (0, 2), (1, 2)))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_scene_run(tmp_path_factory.mktemp("runs") / "scene")


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "group.png"
    noise = np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8)
    Image.fromarray(noise).resize(SIZE, Image.Resampling.BICUBIC).save(path)
    return path


def predict(*words):
    return main(["predict", *map(str, words), "device=cpu"])


def test_a_run_is_told_from_those_on_boxes(run):
    assert is_scene(run) and not is_scene("body")
    with pytest.raises(UserError, match="no such folder"):
        is_scene(run / "other")


def test_photographs_get_files_of_everybody(bodies, run, photo, tmp_path, monkeypatch, capsys):
    made = stand(bodies["anny"], [(-0.6, 4.5), (0.5, 5.2)], tilt(10, 0), yaws_deg=[0, 30])
    asked = []

    def find(image, camera):
        asked.append((image.shape, camera))
        return [FoundPerson(one, score) for one, score in zip(made, (0.9, 0.6), strict=True)]

    opened = []

    def open_made(*keys):
        opened.append(keys)
        return Everybody(find, bodies["anny"], "made")

    monkeypatch.setattr("finetune.predict.open_everybody", open_made)
    out = tmp_path / "out"
    assert predict(photo, f"run={run}", f"out={out}", INTRINSICS, "least_score=0.4") == 0
    assert opened == [(str(run), "cpu", 0.4)]
    ((shape, camera),) = asked
    assert shape == (*SIZE[::-1], 3) and np.array_equal(camera, K)
    names = {"group.overlay.png", "group.body-1.png", "group.body-2.png", "group.scene.png"}
    names |= {"group.glb", "group.npz", "group.json"}
    assert {path.name for path in out.iterdir()} == names
    told = json.loads((out / "group.json").read_text())
    assert [one["score"] for one in told["people"]] == [0.9, 0.6]
    ground = find_ground(made, bodies["anny"].keypoint_names, SIZE)
    assert told["ground"]["seen"] and np.allclose(told["ground"]["up"], ground.up, atol=1e-5)
    arrays = np.load(out / "group.npz")
    assert arrays["body/score"].tolist() == [0.9, 0.6]
    assert np.array_equal(arrays["body/vertices"][1], made[1].vertices)
    shown = trimesh.load(out / "group.glb")
    assert {"body-1", "body-2", "ground"} <= set(shown.graph.nodes_geometry)
    said = capsys.readouterr().out
    assert "2 bodies" in said and "floor by the feet of 2 people who stand" in said
    asked.clear()
    assert predict(photo, f"run={run}", f"out={out}") == 0
    assert asked[0][1] is None  # nobody knows the camera
    assert opened[1] == (str(run), "cpu", None)


def test_an_untrained_network_answers_from_end_to_end(run, photo, tmp_path, capsys):
    out = tmp_path / "out"
    assert predict(photo, f"run={run}", f"out={out}", INTRINSICS, "least_score=0") == 0
    people = json.loads((out / "group.json").read_text())["people"]
    assert 1 <= len(people) <= 3
    assert (out / "group.glb").is_file()
    assert "focal length 560 px (intrinsics=)" in capsys.readouterr().out


def test_an_image_of_nobody_is_told_and_its_result_is_empty(run, photo, tmp_path, capsys):
    out = tmp_path / "out"
    assert predict(photo, f"run={run}", f"out={out}", "least_score=1") == 0
    assert f"{photo}: nobody was found in it" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == [
        *("group.json", "group.npz", "group.overlay.png")
    ]
    assert json.loads((out / "group.json").read_text())["people"] == []
    assert not np.load(out / "group.npz").files
    assert np.array_equal(
        np.asarray(Image.open(out / "group.overlay.png")), np.asarray(Image.open(photo))
    )


def test_what_a_scene_run_does_not_take_is_told(run, photo, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    for words, said in (
        (("boxes=a.csv",), "boxes=a.csv: of people who are searched for or given by boxes"),
        (("side=left", "refine=true"), "refine=true: .* by itself .task=scene.: leave out them"),
        (("whole_image=true",), "whole_image=true: .* leave out it"),
        (("video.tiles=false",), "video.tiles=false: of people who are searched"),
        (("colour=confidence",), "colour=confidence: .* of each person, not of their vertices"),
        ((f"run={run},body",), "name it alone, without body"),
        ((broken,), "broken.jpg"),
        ((tmp_path / "none.jpg",), "none.jpg does not exist"),
    ):
        with pytest.raises(UserError, match=said):
            predict(photo, f"run={run}", f"out={tmp_path / 'out'}", *words)
    with pytest.raises(UserError, match="camera=0: .* finds everybody in whole images"):
        predict("camera=0", f"run={run}")
    assert not (tmp_path / "out").exists()
