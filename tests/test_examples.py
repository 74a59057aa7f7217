"""The examples run as their first lines say, without a network."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from runs import ROOT, finetune_words, finish, start

from data.format.index import read_index
from data.loading.reader import ClipReader
from data.storage.shard_store import Store


def run_example(name: str, *words: object) -> str:
    """Return what an example prints."""
    done = subprocess.run(
        [sys.executable, f"examples/{name}", *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def write_image(path, size=(90, 120)):
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_own_clips(tmp_path):
    images = [write_image(tmp_path / f"{number}.png") for number in range(3)]
    run_example("own_clips.py", tmp_path / "out", *images)
    (shard,) = (tmp_path / "out").glob("*.tar")
    assert len(read_index(str(shard))) == 1
    clip, _ = ClipReader(Store(None)).clip(str(shard), 0)
    assert [crop.time_s for crop in clip.crops] == [0, 1, 2] and clip.size == 256


@pytest.mark.long
def test_pretrain_makes_its_own_people(tmp_path):
    assert "an encoder of" in run_example("pretrain_tiny.py", tmp_path)
    assert (tmp_path / "run/checkpoints/step-00000020").is_dir()


def test_pretrain(people, tmp_path):
    assert "an encoder of" in run_example("pretrain_tiny.py", tmp_path, people["body"])


def test_probe_timm(people, tmp_path):
    lines = run_example("probe_timm.py", tmp_path, people["body"]).splitlines()
    assert lines[0].startswith("mean pose: MPJPE ") and lines[1].startswith("vit_tiny_patch16_224:")


def test_mesh_from_image(people, tmp_path):
    words = finetune_words(tmp_path / "run", "body", people["body"], "steps=2", "data.workers=0")
    finish(start(words, command="finetune train"))
    image = write_image(tmp_path / "image.png")
    words = run_example("mesh_from_image.py", tmp_path / "run", image, tmp_path / "out")
    assert words.startswith("body: ") and (tmp_path / "out/mesh.glb").stat().st_size > 1000
    assert Image.open(tmp_path / "out/overlay.png").size == (90, 120)


def test_new_head(people, tmp_path):
    run_example("new_head.py", tmp_path, people["body"])
    assert "two_layers" in (tmp_path / "run/config.yaml").read_text()


def test_the_notebook(people, tmp_path, monkeypatch, capsys):
    """Its cells, in order: jupyter is not needed for that."""
    (tmp_path / "runs/examples").mkdir(parents=True)
    (tmp_path / "runs/examples/shards").symlink_to(people["body"])
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((ROOT / "examples/look_at_clips.ipynb").read_text())
    names: dict[str, object] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert not cell["outputs"]
            exec(compile("".join(cell["source"]), "look_at_clips.ipynb", "exec"), names)
    assert "8 clips; the first:" in capsys.readouterr().out
    assert names["labels"].present(0)["pose"]
