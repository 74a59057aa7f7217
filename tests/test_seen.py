"""What a run shows of itself: losses by source, the reference's gain, attention, norms, memory,
wandb without a network."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import wandb
from clips import make_clip, write_shards
from PIL import Image
from runs import ROOT, words

from data.format.index import PAIR_KINDS
from data.loading.reader import TAGS
from engine.config.parser import parse
from engine.distributed import hardware
from engine.distributed.process_group import Processes
from engine.errors import UserError
from engine.logging import metrics
from engine.training import trainer as engine_trainer
from pretrain import attention, patch_loss, reference_gain
from pretrain.blocks import CrossAttention
from pretrain.config import PretrainConfig
from pretrain.position import rope_table
from pretrain.train import make_trainer


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Two sources, "one" and "two", of 30 clips of three people each."""
    folder = tmp_path_factory.mktemp("sources")
    for number, name in enumerate(("one", "two")):
        (folder / name).mkdir()
        write_shards(folder / name, [make_clip(100 * number + i, size=56) for i in range(30)], 15)
    return folder


def open_trainer(folder, *more, processes=None, one_source=False):
    file, *rest = words("run", folder / "one")
    if not one_source:
        rest = [word for word in rest if not word.startswith("data.shards=")]
        rest += [f"data.sources.{name}.shards={folder / name}" for name in ("one", "two")]
    config = parse(
        PretrainConfig, [str(ROOT / file), *rest, "data.workers=0", *more], "pretrain train"
    )
    return make_trainer(config, processes or Processes(0, 1, torch.device("cpu")))


def test_losses_by_source_and_kind_are_means_of_the_samples_losses(shards):
    trainer = open_trainer(shards, "data.sources.two.weight=3")
    rows = []
    for step, arrays in trainer.loader.batches(0, 2):
        with torch.no_grad():
            losses = trainer.task.step_module(trainer.task.to_device(arrays))
        rows += [
            (*tags[:2].tolist(), loss)
            for tags, loss in zip(arrays["tags"].copy(), losses.tolist(), strict=True)
        ]
        trainer.update(step, arrays)
    line = trainer.take_losses()
    for k, kind in enumerate(PAIR_KINDS):
        assert line[f"loss/{kind}"] == pytest.approx(
            np.mean([loss for one, _, loss in rows if one == k]), rel=1e-4
        )
        for s, source in enumerate(("one", "two")):
            of_both = [loss for one, two, loss in rows if (one, two) == (k, s)]
            assert line[f"loss_by_source/{source}/{kind}"] == pytest.approx(
                np.mean(of_both), rel=1e-4
            )
    assert sum(1 for _, source, _ in rows if source == 1) == 12  # 3 of 4
    assert not any(
        name.startswith("loss_by_source/")
        for name in open_trainer(shards, one_source=True).task.name_losses([1, 1, 2, 1])
    )


def test_no_reference_comes_from_its_own_person_kind_or_source():
    tags = np.zeros((13, len(TAGS)), np.int32)
    tags[:, TAGS.index("kind")] = [0] * 8 + [1] * 5
    tags[5:8, TAGS.index("source")] = 1
    subjects = ["a", "b", "a", "c", "b", "x", "x", "x", "a", "a", "a", "a", "b"]
    found = reference_gain.choose_mismatched(tags, subjects)
    assert (found[5:8] == -1).all()  # a source of one person has no mismatched reference
    for row, other in enumerate(found):
        if other >= 0:
            assert subjects[row] != subjects[other] and (tags[row, :2] == tags[other, :2]).all()
    assert sorted(found[:5]) == [
        0,
        1,
        2,
        3,
        4,
    ]  # each reference once, where nobody has more than half
    assert (found[8:12] == 12).all() and found[12] in range(8, 12)


def test_a_network_that_ignores_the_reference_gains_nothing(shards):
    trainer = open_trainer(shards)
    width = 3 * trainer.config.model.patch**2
    trainer.task.step_module.complete = lambda a, b, keep, masked, seen: (
        a.mean() + torch.zeros(*masked.shape, width)
    )
    line = trainer.task.evaluate(trainer.shares)
    gains = {name: value for name, value in line.items() if name.startswith("reference_gain/")}
    assert set(gains) == {
        f"reference_gain/{kind}{part}" for kind in PAIR_KINDS for part in ("", "_person")
    }
    assert set(gains.values()) == {0.0}


@pytest.mark.parametrize("left_out", [0, 0.5])
def test_the_gain_of_a_network_that_copies_the_reference_is_what_hands_compute(shards, left_out):
    trainer = open_trainer(
        shards,
        "objective.target=none",
        "objective.background_weight=0.5",
        f"masking.reference_ratio={left_out}",
    )
    patch, patches = trainer.config.model.patch, trainer.model.patches

    def copied(a, b, keep, masked, seen):
        looked = (
            torch.ones(len(b), patches)
            if seen is None
            else torch.zeros(len(b), patches).scatter(1, seen, 1.0)
        )
        values = patch_loss.patchify(b, patch) * looked[..., None]
        return values.gather(1, masked[..., None].expand(-1, -1, 3 * patch * patch))

    trainer.task.step_module.complete = copied
    line = trainer.task.evaluate(trainer.shares)
    *pairs, seen = trainer.task.step_module.pairs(trainer.task.to_device(trainer.task.val))
    a, b, _, masked, person = (value.numpy().astype(np.float64) for value in pairs)
    for row in range(len(b)):
        for hidden in set(range(patches)) - set(
            range(patches) if seen is None else seen[row].tolist()
        ):
            y, x = (patch * i for i in divmod(hidden, a.shape[-1] // patch))
            b[row, :, y : y + patch, x : x + patch] = 0
    grid, expected = a.shape[-1] // patch, {}
    subjects = [subject for _, subject in trainer.task.people]
    for row, other in enumerate(trainer.task.objective.mismatched):
        assert other < 0 or subjects[row] != subjects[other]
        errors = {}
        for name, reference in (("true", row), ("wrong", other)):
            difference = (b[reference] - a[row]) ** 2
            errors[name] = np.array(
                [
                    difference[:, y * patch : (y + 1) * patch, x * patch : (x + 1) * patch].mean()
                    for y, x in (divmod(int(m), grid) for m in masked[row])
                ]
            )
        share = person[row, masked[row].astype(int)]
        kind = PAIR_KINDS[trainer.task.val["tags"][row, 0]]
        for ending, weight in (("", 0.5 + 0.5 * share), ("_person", share)):
            if weight.sum() and other >= 0:
                value = (weight * (errors["wrong"] - errors["true"])).sum() / weight.sum()
                expected.setdefault(f"reference_gain/{kind}{ending}", []).append(value)
            if weight.sum():
                value = (weight * errors["true"]).sum() / weight.sum()
                expected.setdefault(f"val/{kind}{ending}", []).append(value)
    assert line == pytest.approx(
        {name: np.mean(values) for name, values in expected.items()}, rel=1e-4
    )
    assert abs(line["reference_gain/cross_view_person"]) > 1e-3


def test_ranks_share_the_val_pairs(shards):
    whole, parts = open_trainer(shards), []
    for rank in range(3):  # of 8 pairs
        trainer = open_trainer(shards)
        trainer.shares.processes = processes = Processes(rank, 3, torch.device("cpu"))
        processes.sum = lambda tensor: parts.append(tensor.clone()) or tensor
        trainer.task.evaluate(trainer.shares)
    sums, counts = (
        sum(parts)[:-1].reshape(4, -1, 2).unbind(-1)
    )  # last: whether any was asked to stop
    assert [value for name, value in whole.task.evaluate(whole.shares).items()] == pytest.approx(
        (sums / counts).flatten().tolist(), rel=1e-5
    )


@pytest.mark.parametrize("position", ["rope", "cosine"])
def test_attention_is_the_one_that_the_network_computes(position):
    torch.manual_seed(0)
    cross, x, y = CrossAttention(32, 4), torch.randn(3, 5, 32), torch.randn(3, 9, 32)
    table = rope_table((3, 3), 8, 100.0) if position == "rope" else None
    rope_x = None if table is None else table[torch.tensor([[0, 4, 8, 1, 2]] * 3)]
    weights, values = attention.weights(cross, x, y, rope_x, table)
    assert torch.allclose(weights.sum(-1), torch.ones(3, 4, 5))
    again = cross.proj((weights @ values).transpose(1, 2).reshape(3, 5, 32))
    assert torch.allclose(again, cross(x, y, rope_x, table), atol=1e-6)


@pytest.mark.parametrize("left_out", [0, 0.5])
def test_attention_of_masked_patches_leaves_the_completion_as_it_is(shards, left_out):
    trainer = open_trainer(shards, "model.decoder.depth=3", f"masking.reference_ratio={left_out}")
    batch = trainer.task.to_device(trainer.task.val)
    with torch.no_grad():
        a, b, keep, masked, person, seen = trainer.task.step_module.pairs(batch)
        plain = trainer.task.step_module.complete(a, b, keep, masked, seen)
    layers = attention.middle_and_last(3)
    predicted, looks = attention.of_masked(
        trainer.task.step_module, a, b, keep, masked, seen, layers
    )
    assert layers == [0, 2] and torch.equal(predicted, plain)
    for look in looks:
        assert look.shape == (*masked.shape, trainer.model.patches) and torch.allclose(
            look.sum(-1), torch.ones(masked.shape)
        )
        assert (look > 0).sum(-1).unique().tolist() == [
            trainer.model.patches if seen is None else seen.shape[1]
        ]
    # What a patch attends to follows from the reference: another one changes it.
    others = attention.of_masked(
        trainer.task.step_module, a, b.flip(0), keep, masked, seen, layers
    )[1]
    assert not torch.allclose(others[1], looks[1])
    assert not any(block.cross._forward_pre_hooks for block in trainer.model.decoder.blocks)
    spots = attention.chosen(person, masked, 3)
    assert (person.gather(1, masked).gather(1, spots) >= 0.5).all() and (
        spots.diff(dim=1) > 0
    ).all()


def test_images_of_others_than_made_people_stay_here(shards, tmp_path):
    for faces, source, sent in (
        (False, "synthetic", set()),
        (True, "synthetic", {"completions", "attention"}),
        (False, "made", {"completions", "attention"}),
    ):
        trainer = open_trainer(shards, f"log.faces={faces}", "log.images=2", one_source=True)
        assert {one for one, _ in trainer.task.people} == {"synthetic"}
        trainer.task.people = [(source, subject) for _, subject in trainer.task.people]
        folder = tmp_path / f"{faces}-{source}"
        folder.mkdir()
        assert set(trainer.task.draw_images(folder, 7)) == sent
        assert sorted(p.name for p in (folder / "images").iterdir()) == [
            "attention-00000007.png",
            "step-00000007.png",
        ]
        assert Image.open(folder / "images" / "attention-00000007.png").height > 4 * 144
    trainer.task.people[-1] = ("street", "somebody")  # one face among synthetic humans is enough
    assert trainer.task.draw_images(folder, 8) == {}


def test_numbers_beside_the_losses(shards, monkeypatch):
    trainer = open_trainer(shards, one_source=True)
    line = trainer.measure(3, 32, 2.0)
    assert (
        line["speed/pairs_per_s"] == line["speed/pairs_per_s_device"] == 16 and line["pairs"] == 32
    )
    norm = np.sqrt(
        sum((p.detach().numpy().astype(np.float64) ** 2).sum() for p in trainer.model.parameters())
    )
    assert line["optim/param_norm"] == pytest.approx(norm, rel=1e-5)
    assert 0.05 < line["memory/host_gib"] < 64 and "memory/device_gib" not in line
    assert "speed/mfu" not in line  # a CPU's peak is not known
    assert (
        hardware.peak_flops("NVIDIA H100 80GB HBM3") == hardware.peak_flops("NVIDIA H200") == 989e12
    )
    assert (
        hardware.peak_flops("NVIDIA A100-SXM4-80GB") == 312e12
        and hardware.peak_flops("NVIDIA L4") == 121e12
    )
    assert hardware.peak_flops("Some other chip") is None
    # On a GPU in bf16: operations of a pair times pairs a second a device, over the peak.
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100-SXM4-80GB")
    monkeypatch.setattr(engine_trainer, "memory_gib", lambda device: {})
    monkeypatch.setattr(trainer.task, "count_flops", lambda: 1e12)
    trainer.device, trainer.task.bf16 = torch.device("cuda"), True
    assert trainer.measure(3, 32, 2.0)["speed/mfu"] == pytest.approx(16e12 / 312e12)
    trainer.task.bf16 = False
    assert "speed/mfu" not in trainer.measure(3, 32, 2.0)


LIVES = """
import sys
from engine.logging import metrics
from engine.logging.console import configure_console
configure_console()
metrics.WANDB_START_S = 2
for step in (0, 10):
    log = metrics.Log(sys.argv[1], step, sys.argv[2], "name", {"steps": 20})
    log.write(step + 10, {"loss/cross_view": 1.0})
    log.close()
"""


def test_wandb_without_a_network_goes_on_offline_and_one_command_sends_all_parts(tmp_path):
    run = tmp_path / "a run"
    run.mkdir()
    # As in a process that was started by one whose wandb is gone.
    environment = {
        **os.environ,
        "WANDB_BASE_URL": "http://127.0.0.1:9",
        "WANDB_API_KEY": "0" * 40,
        "WANDB_SERVICE": f"3-1-unix-{tmp_path}/socket",
    }
    done = subprocess.run(
        [sys.executable, "-c", LIVES, run, "online"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("note: log.wandb=online") == 2 and "Traceback" not in done.stderr
    assert [line["step"] for line in metrics.read(run)] == [10, 20]
    identity = (run / "wandb_id.txt").read_text()
    parts = sorted((run / "wandb").glob("offline-run-*"))
    assert len(parts) == 2 and all(part.name.endswith(f"-{identity}") for part in parts)
    command = metrics.sync_command(run)
    assert command in done.stderr
    dry = subprocess.run(
        command.replace("wandb sync", f"{sys.executable} -m wandb sync --dry-run", 1),
        shell=True,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Would sync 2 run(s)" in dry.stdout + dry.stderr


@pytest.mark.parametrize("mode", ["offline", "online"])
@pytest.mark.parametrize(
    "fault", [wandb.errors.CommError, ConnectionError, RuntimeError]
)  # not all are children of one
def test_a_wandb_that_does_not_start_does_not_harm_a_run(
    tmp_path, monkeypatch, capsys, mode, fault
):
    def init(**keys):
        raise fault("too busy")

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(
        wandb, "teardown", lambda: sys.exit(1)
    )  # as wandb's does where its service ended with a fault
    log = metrics.Log(tmp_path, 0, mode, "name", {})
    log.write(10, {"loss/cross_view": 1.0})
    log.close()
    assert [line["step"] for line in metrics.read(tmp_path)] == [10]
    assert (
        "wandb cannot be started (too busy); this attempt continues in log.jsonl alone"
        in capsys.readouterr().err
    )


def test_a_log_that_is_being_written_is_read_to_its_last_whole_line(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 3, "loss')
    assert [line["step"] for line in metrics.read(tmp_path)] == [1, 2]
    (tmp_path / "log.jsonl").write_text('{"step": 1}\nnonsense\n{"step": 3}\n')
    with pytest.raises(UserError, match="line 2"):
        metrics.read(tmp_path)
    (tmp_path / "log.jsonl").write_text(json.dumps({"loss/cross_view": 1}) + "\n")
    with pytest.raises(UserError, match="line 1: no object with a step"):
        metrics.read(tmp_path)
