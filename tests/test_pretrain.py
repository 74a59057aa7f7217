"""Pre-training as a user runs it: whole runs, killed runs, several processes, and everything
mistyped."""

import json
import shutil
import signal
import time

import numpy as np
import pytest
import torch
from clips import make_clip, write_shards
from PIL import Image
from runs import ROOT, apart, finish, outcome, start, words
from safetensors.numpy import load_file

from data.format.index import read_index
from engine.config.parser import parse
from engine.distributed.process_group import Processes
from pretrain.config import PretrainConfig
from pretrain.train import make_trainer

STEPS = ["steps=24", "checkpoint.every=6"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, [make_clip(i, size=56) for i in range(60)], 15)
    return folder


@pytest.fixture(scope="module")
def peaceful(tmp_path_factory, shards):
    """A run that nobody disturbed."""
    run = tmp_path_factory.mktemp("runs") / "peaceful"
    finish(
        start(words(run, shards, *STEPS, "log.wandb=offline", "log.images_every=8", "log.images=2"))
    )
    return run


def test_a_run_writes_what_it_promises(peaceful):
    lines = outcome(peaceful)[-1]
    assert [line["step"] for line in lines] == list(range(2, 25, 2))
    for name in ("loss/cross_view", "loss/cross_pose", "optim/lr", "optim/grad_norm", "pairs"):
        assert all(np.isfinite(line[name]) for line in lines), name
    assert {"val/cross_view", "val/cross_pose"} <= lines[3].keys()
    assert lines[-1]["val/cross_view"] < lines[3]["val/cross_view"]
    assert {"reference_gain/cross_view", "reference_gain/cross_pose_person"} <= lines[3].keys()
    drawn = sorted(p.name for p in (peaceful / "images").iterdir())
    assert drawn == [
        f"{kind}-000000{n:02d}.png" for kind in ("attention", "step") for n in (8, 16, 24)
    ]
    width, height = Image.open(peaceful / "images" / "step-00000024.png").size
    assert (
        width > 4 * 4 * 48 and height > 4 * 4 * 48
    )  # four columns, two rows of each kind, enlarged to be seen
    assert len(list((peaceful / "wandb").glob("offline-run-*/*.wandb"))) == 1
    assert json.loads((peaceful / "manifest.json").read_text())["sources"]["all"]["val_clips"] == 4


def test_a_run_without_references(tmp_path, shards, peaceful):
    run = tmp_path / "mae"
    finish(start(words(run, shards, "steps=8", "model.decoder.cross=false", "log.images_every=8")))
    line = outcome(run)[-1][-1]
    assert np.isfinite(line["val/cross_view"]) and not any(
        name.startswith("reference_gain") for name in line
    )
    assert [p.name for p in (run / "images").iterdir()] == ["step-00000008.png"]
    one, other = (
        Image.open(path / "images" / "step-00000008.png").size for path in (run, peaceful)
    )
    assert one[0] < 0.85 * other[0]  # no column of references
    refuse(
        words(tmp_path / "next", shards, f"init={run}"),
        f"init={run}",
        "model.decoder.cross=False",
        "=True",
    )
    refuse(
        ["export", str(run), f"out={tmp_path / 'weights.pth'}", "layout=croco"],
        "model.decoder.cross=false",
    )


def test_a_signal_saves_and_the_same_command_goes_on(tmp_path, shards, peaceful):
    run = tmp_path / "stopped"
    process = start(words(run, shards, *STEPS))
    while not (run / "log.jsonl").exists() or not (run / "log.jsonl").read_text():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    assert "SIGTERM: saved at step" in finish(process, code=75)
    finish(start(words(run, shards, *STEPS)))
    assert outcome(run) == outcome(peaceful)


def test_two_processes_give_what_one_gives(tmp_path, shards, peaceful):
    """And a run resumes under another number of processes."""
    run = tmp_path / "two"
    finish(start(words(run, shards, *STEPS), processes=2))
    one, two = (
        load_file(sorted(r.glob("checkpoints/step-*"))[-1] / "model.safetensors")
        for r in (peaceful, run)
    )
    assert apart(one, two) < 2e-5
    shutil.rmtree(run / "checkpoints" / "step-00000024")
    finish(start(words(run, shards, *STEPS)))
    assert "step 24" not in (run / "log.jsonl").read_text()
    mixed = load_file(run / "checkpoints" / "step-00000024" / "model.safetensors")
    assert apart(one, mixed) < 2e-5
    assert [line["step"] for line in outcome(run)[-1]] == list(range(2, 25, 2))


def test_bf16_touches_the_network_alone(shards, tmp_path):
    """Crops and masks of a batch are the same numbers in bf16 and in float32."""
    file, *rest = words(tmp_path / "run", shards, "data.workers=0", "masking.reference_ratio=0.5")
    config = parse(PretrainConfig, [str(ROOT / file), *rest], "pretrain train")
    made = []
    for precision in ("float32", "bf16"):
        config.precision = precision
        trainer = make_trainer(config, Processes(0, 1, torch.device("cpu")))
        _, arrays = next(trainer.loader.batches(0, 1))
        batch, objective = trainer.task.to_device(arrays), trainer.task.objective
        made.append((objective.pairs(batch), objective(batch)))
    (one, loss), (other, rough) = made
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert not torch.equal(loss, rough) and torch.allclose(loss, rough, rtol=0.05)


def test_a_run_repeats_from_its_saved_config(tmp_path, peaceful):
    finish(start([str(peaceful / "config.yaml"), f"run={tmp_path / 'again'}"]))
    assert outcome(tmp_path / "again") == outcome(peaceful)


def refuse(arguments, *said):
    """The command ends with exit code 2 and one line that says all of it, without a traceback."""
    verbs = ("export",)
    command = "pretrain" if arguments[0] in verbs else "pretrain train"
    output = finish(start(arguments, command=command), code=2)
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "Traceback" not in output, output
    for part in said:
        assert part in errors[0], errors[0]


def test_what_is_mistyped_is_told_in_one_line_and_nothing_is_made(tmp_path, shards):
    run = tmp_path / "run"
    (tmp_path / "empty").mkdir()
    refuse(words(run, shards, "optim.lrr=1"), "optim.lrr", "optim.lr")
    refuse(words(run, tmp_path / "nowhere"), "nowhere")
    refuse(words(run, tmp_path / "empty"), "empty", "no shards")
    refuse(words(run, shards, "batch=9"), "batch=9")
    refuse(
        words(run, shards, "objective.references=shuffled", "grad_accum_steps=8"),
        "references=shuffled",
        "batch=8",
        "gives 1",
    )
    refuse(
        words(run, shards, "objective.references=shuffled", "model.decoder.cross=false"),
        "shuffled",
        "cross=false",
    )
    refuse(words(run, shards, "data.lanes=-2"), "data.lanes=-2", "below 1")
    refuse(words(run, shards, "model.image_size=50"), "model.image_size=50", "model.patch=8")
    refuse(["configs/data/video.yaml", f"run={run}"], "command: data pairs", "command: pretrain")
    refuse(words(run, shards, "data.pairs.crops=hand"), "data.pairs.crops=hand")
    assert not run.exists()


def test_damaged_data_is_named(tmp_path, shards):
    cut = tmp_path / "cut"
    shutil.copytree(shards, cut)
    data = (cut / "shard-000001.tar").read_bytes()
    (cut / "shard-000001.tar").write_bytes(data[: len(data) // 2])
    refuse(words(tmp_path / "a", cut), "shard-000001.tar", "cut off")
    assert not (tmp_path / "a").exists()


def test_a_image_that_does_not_decode_is_replaced_and_listed(tmp_path, shards):
    broken = tmp_path / "broken"
    shutil.copytree(shards, broken)
    index = read_index(str(broken / "shard-000000.tar"))
    with open(broken / "shard-000000.tar", "r+b") as tar:
        for sample in range(len(index)):
            offset, length = index.members(sample)["00.jpg"]
            tar.seek(offset)
            tar.write(b"\0" * length)
    run = tmp_path / "run"
    finish(start(words(run, broken, *STEPS, "data.workers=1")))
    entries = [json.loads(line) for line in (run / "bad_samples.jsonl").read_text().splitlines()]
    assert entries and all(
        "shard-000000.tar" in e["shard"] and "00.jpg does not decode" in e["reason"]
        for e in entries
    )
    assert outcome(run)[-1][-1]["data/bad_samples"] == len(entries)


def test_a_run_that_began_otherwise_is_refused_with_both_values(tmp_path, shards, peaceful):
    run = tmp_path / "run"
    shutil.copytree(peaceful, run)
    refuse(words(run, shards, *STEPS, "optim.lr=0.5"), "optim.lr=0.5", "optim.lr=0.01")
    (tmp_path / "more").mkdir()
    write_shards(tmp_path / "more", [make_clip(i, size=56) for i in range(61)], 15)
    refuse(words(run, tmp_path / "more", *STEPS), "shard-000004.tar is", "4 shards and has 5")
    finish(
        start(words(run, shards, *STEPS, "data.workers=0", "log.every=1"))
    )  # what results do not depend on may differ


def test_weights_of_another_shape_are_refused(tmp_path, shards, peaceful):
    refuse(
        words(tmp_path / "run", shards, f"init={peaceful}", "model.encoder.depth=3"),
        "encoder.blocks.2",
    )
    finish(start(words(tmp_path / "fine", shards, f"init={peaceful}", "steps=2")))
