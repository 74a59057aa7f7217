"""Paths of a run's folder: one place, images of older versions, what a killed process left."""

import os
from pathlib import Path

import pytest
from PIL import Image

from data.config import AugmentConfig  # any dataclass of keys
from engine.logging.images import save_image
from engine.run.files import replace_file, write_file
from engine.run.folder import Run
from engine.run.run_folder import RunFolder, find_run, step_name, step_of

NOTHING_RUNS = 999999999


def test_paths_lie_in_the_folder_and_steps_read_back():
    run = RunFolder("runs/body")
    assert run.checkpoint(50) == Path("runs/body/checkpoints/step-00000050")
    assert run.image(50, "attention") == Path("runs/body/images/attention-00000050.png")
    assert run.outcome(50) == run.evaluation(50).with_suffix(".json")
    assert step_of(step_name(123456789)) == 123456789 and step_of("step-00000010.bak") is None
    found = find_run(run.checkpoint(50) / "model.safetensors")
    assert found is not None and found.path == Path("runs/body").resolve()
    assert find_run("weights/model.safetensors") is None


def test_images_of_an_older_version_are_found_and_newer_ones_come_first(tmp_path):
    run = RunFolder(tmp_path)
    old = tmp_path / "pictures"
    for folder, step in ((old, 10), (old, 20), (run.images, 20), (run.images, 30)):
        folder.mkdir(exist_ok=True)
        (folder / f"step-{step:08d}.png").write_bytes(b"")
    (old / "attention-00000010.png").write_bytes(b"")
    (run.images / "step-00000040.png.writing-1").write_bytes(b"")
    assert run.list_images() == {
        "step": {10: old / "step-00000010.png", 20: run.image(20), 30: run.image(30)},
        "attention": {10: old / "attention-00000010.png"},
    }


def test_a_start_clears_what_a_killed_one_left_and_nothing_else(tmp_path):
    left = [f"{name}.writing-{NOTHING_RUNS}" for name in ("config.yaml", "saved.json")]
    for name in left:
        (tmp_path / name).write_text("half")
    run = Run(tmp_path, AugmentConfig(), "test", ())
    run.close()
    kept = [tmp_path / f"report.html.writing-{NOTHING_RUNS}", tmp_path / "notes.writing-1"]
    images = RunFolder(tmp_path).images
    images.mkdir()
    for path in [*kept, images / f"step-00000010.png.writing-{NOTHING_RUNS}"]:
        path.write_text("half")  # a report is written by whoever asks for one, not by the run
    Run(tmp_path, AugmentConfig(), "test", ()).close()
    assert not any((tmp_path / name).exists() for name in left) and not list(images.iterdir())
    assert all(path.exists() for path in kept)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    write_file(path, "old", durable=True)
    with pytest.raises(KeyError), replace_file(path) as temporary:
        assert temporary.name == f"file.writing-{os.getpid()}"
        temporary.write_text("half")
        raise KeyError
    assert path.read_text() == "old" and [path] == list(tmp_path.iterdir())
    with replace_file(path, mark="mine") as temporary:
        temporary.write_text("new")
        assert temporary.name == "file.writing-mine" and path.read_text() == "old"
    assert path.read_text() == "new" and [path] == list(tmp_path.iterdir())


def test_an_image_that_cannot_be_written_is_a_warning(tmp_path, capsys):
    image, path = Image.new("RGB", (2, 2)), RunFolder(tmp_path).image(10)
    assert save_image(image, path) and Image.open(path).size == (2, 2)
    path.unlink()
    path.mkdir()  # renaming onto a folder fails
    assert not save_image(image, path) and list(path.parent.iterdir()) == [path]
    assert f"warning: {path} cannot be written" in capsys.readouterr().err
