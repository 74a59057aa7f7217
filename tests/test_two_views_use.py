"""Evaluation and prediction with runs on two views, as a user calls them."""

import json
from dataclasses import replace

import numpy as np
import pytest
from networks import make_run
from PIL import Image
from runs import ROOT, finetune_words

from data.loading.build import open_crop_pair_order
from data.loading.crop_pairs import split_pair
from data.loading.validation import val_crop_pairs
from data.sources.cameras import Camera, write_cameras
from engine.config.parser import parse
from engine.errors import UserError
from finetune.__main__ import main
from finetune.config import FinetuneConfig
from finetune.evaluation.evaluate import main as evaluate_main
from finetune.two_views.predictor import PairPredictor, PlacedCamera, move_person

TINY = [
    "task=two_views",
    "model.decoder.width=32",
    "model.decoder.depth=2",
    "model.decoder.heads=2",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Runs of which nobody trained the network, by what they do with the second view."""
    folder = tmp_path_factory.mktemp("trained")
    return {
        fusion: make_run(folder / fusion, "body", *TINY, f"two_views.fusion={fusion}")
        for fusion in ("cross", "none")
    }


def test_evaluate_compares_with_one_view(trained, people, tmp_path, capsys):
    for fusion, rows in (
        ("cross", ["model", "one_view", "late", "turned", "mean"]),
        ("none", ["model", "late", "turned", "mean"]),
    ):
        words = [
            str(trained[fusion]),
            f"data.shards={people['body']}",
            f"out={tmp_path / fusion}",
            "clips=3",
            "examples=1",
            "device=cpu",
        ]
        assert evaluate_main(words) == 0
        found = json.loads((tmp_path / fusion / "evaluation.json").read_text())
        assert [row["key"] for row in found["rows"]] == rows
        assert found["crops"] == 12 and found["clips"] == 3
        per_crop = np.load(tmp_path / fusion / "per_crop.npz")
        for row, differences in found["compared"].items():
            apart = per_crop["model/mpjpe"] - per_crop[f"{row}/mpjpe"]
            assert differences["mpjpe"]["mean"] == pytest.approx(apart.mean())
        assert list(found["compared"]) == [row for row in rows if row in ("one_view", "late")]
        assert "This run minus 'this run, answers to each view averaged'" in capsys.readouterr().out


@pytest.fixture(scope="module")
def photographed(people, tmp_path_factory):
    """(paths of two images of one person, calibration file, (K, Rt) of both)."""
    folder = tmp_path_factory.mktemp("photographed")
    file, *rest = finetune_words("none", "body", people["body"], *TINY)
    config = parse(FinetuneConfig, [str(ROOT / file), *rest], "finetune train")
    val = val_crop_pairs(open_crop_pair_order(config.data, 8, 0), config.data, 1)
    paths, cameras, placed = [], {}, []
    for name, part in zip(("left", "right"), split_pair(val), strict=True):
        paths.append(str(folder / f"{name}.png"))
        Image.fromarray(part["pixels"][0]).save(paths[-1])
        K, Rt = (part[key][0].astype(float) for key in ("K", "Rt"))
        cameras[name] = Camera(name, K, np.zeros(8), Rt, 64, 64)
        placed.append(PlacedCamera(K, Rt))
    write_cameras(str(folder / "cameras.json"), cameras)
    return paths, folder / "cameras.json", placed


def predict(photographed, run, out, *more):
    return main(["predict_pair", *photographed[0], f"run={run}", f"out={out}", "device=cpu", *more])


def test_two_images_give_one_mesh(trained, photographed, tmp_path):
    paths, calibration, cameras = photographed
    alone, known = tmp_path / "alone", tmp_path / "known"
    assert predict(photographed, trained["cross"], alone, "whole_image=true") == 0
    assert sorted(path.name for path in alone.iterdir()) == [
        "left.body-1.png",
        "left.glb",
        "left.json",
        "left.npz",
        "left.overlay.png",
    ]
    more = ["whole_image=true", f"calibration={calibration}"]
    assert predict(photographed, trained["cross"], known, *more) == 0
    assert (known / "right.overlay.png").is_file()
    one, other = (np.load(folder / "left.npz")["body/vertices"] for folder in (alone, known))
    assert one.shape == other.shape == (1, 13718, 3) and not np.allclose(one, other, atol=1e-3)
    # From Python: the same, and the person is in the second image where both cameras say.
    predictor = PairPredictor(trained["cross"], "cpu")
    (person,) = predictor(*paths, cameras=cameras)
    assert np.allclose(person.vertices, other[0], atol=1e-5)
    moved = move_person(person, cameras, person.box)
    world = [
        (points - camera.Rt[:, 3]) @ camera.Rt[:, :3]
        for points, camera in zip((person.vertices, moved.vertices), cameras, strict=True)
    ]
    assert np.allclose(*world, atol=1e-4)
    (swapped,) = predictor(*paths[::-1], cameras=cameras[::-1])
    assert swapped.intrinsics == pytest.approx(cameras[1].K)


def test_what_predict_pair_refuses(trained, photographed, tmp_path, people):
    paths, calibration, cameras = photographed
    run, out = trained["cross"], tmp_path / "out"
    boxes = tmp_path / "boxes.csv"
    boxes.write_text(
        "image,x0,y0,x1,y1\nleft.png,5,5,60,60\nleft.png,1,1,30,60\nright.png,5,5,60,60\n"
    )
    with pytest.raises(UserError, match="has 2 rows for .*left.png and 1 for"):
        predict(photographed, run, out, f"boxes={boxes}")
    with pytest.raises(UserError, match="cameras=up,down.*has no camera up; it has left, right"):
        predict(
            photographed,
            run,
            out,
            "whole_image=true",
            f"calibration={calibration}",
            "cameras=up,down",
        )
    with pytest.raises(UserError, match="1 images are named"):
        main(["predict_pair", paths[0], f"run={run}", f"out={out}"])
    strange = [cameras[0], replace(cameras[1], Rt=cameras[1].Rt + np.eye(3, 4, 3) * 5)]
    with pytest.raises(UserError, match="show two people, or the calibration is of other cameras"):
        PairPredictor(run, "cpu")(*paths, cameras=strange)
    never = make_run(tmp_path / "never", "body", *TINY, "two_views.camera_drop=0")
    with pytest.raises(UserError, match="never saw a pair without cameras"):
        predict(photographed, never, out, "whole_image=true")
    single = make_run(tmp_path / "single", "body")
    with pytest.raises(UserError, match="is of task=mesh, which takes one image"):
        predict(photographed, single, out, "whole_image=true")
    assert not out.exists()


def test_a_released_file_is_the_run(trained, photographed, tmp_path):
    paths, _, cameras = photographed
    words = ["release", str(trained["cross"]), "name=pair", f"out={tmp_path}", "dtype=float32"]
    assert main(words) == 0
    (file,) = tmp_path.glob("pair*.safetensors")
    run, released = (PairPredictor(one, "cpu") for one in (trained["cross"], file))
    assert released.config.two_views == run.config.two_views
    (one,), (other,) = (predictor(*paths, cameras=cameras) for predictor in (run, released))
    assert np.allclose(one.vertices, other.vertices, atol=1e-5)
