"""A teacher that follows: the average of the student's weights sees the pair, the student its
masked target alone; it is part of checkpoints, and the same on any number of processes."""

import math
import time

import numpy as np
import pytest
import torch
from clips import make_clip, write_shards
from runs import apart, finish, kill, outcome, start, words
from safetensors.numpy import load_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from engine.config.parser import parse
from engine.distributed.process_group import Processes
from engine.errors import UserError
from pretrain.config import PretrainConfig
from pretrain.objectives.teacher import find_momentum, standardise
from pretrain.train import make_trainer, train

EMA = ["objective.name=teacher", "objective.teacher=ema", "model.decoder.latents=32"]
LAST = "checkpoints/step-00000008"


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, [make_clip(i, size=56) for i in range(40)], 10)
    return folder


@pytest.fixture
def open_trainer(tmp_path, shards):
    """A maker of trainers in this process, whose loaders end with the test."""
    opened = []

    def make(*more):
        arguments = words(tmp_path / "run", shards, "data.workers=0", "steps=6", *EMA, *more)
        config = parse(PretrainConfig, arguments, "pretrain train")
        opened.append(make_trainer(config, Processes(0, 1, torch.device("cpu"))))
        return opened[-1]

    yield make
    for trainer in opened:
        trainer.close()


def read_batch(trainer):
    return trainer.task.to_device(next(iter(trainer.loader.batches(0, 1)))[1])


def test_it_is_the_average_of_the_students_weights_and_rests_where_an_update_is_skipped(
    open_trainer,
):
    trainer = open_trainer("objective.momentum=0.5", "objective.momentum_end=0.9")
    teacher, student = trainer.task.objective.teacher, trainer.model
    plain = {name: value.detach().double() for name, value in student.named_parameters()}
    for step, arrays in trainer.loader.batches(0, 4):
        before = {name: value.clone() for name, value in teacher.named_parameters()}
        if step == 2:
            arrays = {**arrays, "numbers": np.full_like(arrays["numbers"], np.nan)}
        trainer.update(step, arrays)
        if step == 2:
            assert all(torch.equal(before[k], v) for k, v in teacher.named_parameters())
            continue
        kept = 0.9 - 0.2 * (1 + math.cos(math.pi * step / 5))
        for name, value in student.named_parameters():
            plain[name] = kept * plain[name] + (1 - kept) * value.detach().double()
    assert int(trainer.guard.skipped) == 1
    for name, value in teacher.named_parameters():
        torch.testing.assert_close(value.double(), plain[name], atol=1e-6, rtol=1e-5)
        assert value.grad is None and not value.requires_grad
    assert find_momentum(0, 6, 0.5, 0.9) == pytest.approx(0.5)
    assert find_momentum(5, 6, 0.5, 0.9) == pytest.approx(0.9)
    ours = {id(weight) for weight in trainer.task.step_module.parameters()}
    assert not ours & {id(weight) for weight in teacher.parameters()}


def test_the_teacher_alone_sees_the_whole_pair(open_trainer):
    objective = open_trainer().task.objective
    a, b, keep, masked, _, seen = objective.pairs(read_batch(open_trainer()))
    with torch.no_grad():
        alone, helped = objective._complete(a, b, keep, masked, seen)
        other_alone, other_helped = objective._complete(a, b.flip(0), keep, masked, seen)
        assert torch.equal(alone[1]["latents"], other_alone[1]["latents"])
        assert torch.equal(alone[0], other_alone[0])
        assert (helped[0] - other_helped[0]).abs().max() > 1e-3
        taught = objective.teach(a, b, masked)
        assert (objective.teach(a, b.flip(0), masked) - taught).abs().max() > 1e-2
        hidden = a.clone()
        rows, places = torch.arange(len(a)), masked[:, 0]
        for row, place in zip(rows, places, strict=True):
            y, x = divmod(int(place), objective.model.grid[1])
            hidden[row, :, y * 8 : y * 8 + 8, x * 8 : x * 8 + 8] += 1
        assert torch.equal(objective._complete(hidden, b, keep, masked, seen)[0][0], alone[0])
        assert (objective.teach(hidden, b, masked) - taught).abs().amax((1, 2)).min() > 1e-2
        features = objective.teacher.features(a, b).gather(1, masked[..., None].expand(-1, -1, 32))
        mean, spread = features.mean(2, keepdim=True), features.std(2, keepdim=True, correction=0)
        torch.testing.assert_close(taught, (features - mean) / spread, atol=1e-3, rtol=1e-3)


def test_a_teacher_without_the_reference_leaves_all_else_as_it_is(open_trainer):
    one, other = open_trainer(), open_trainer("objective.teacher_reference=false")
    objective, batch = other.task.objective, read_batch(other)
    a, b, keep, masked, person, seen = objective.pairs(batch)
    with torch.no_grad():
        assert torch.equal(objective.teach(a, b, masked), objective.teach(a, b.flip(0), masked))
        weight = objective.weigh_patches(person)
        (said, more), helped = objective._complete(a, b, keep, masked, seen)
        differ = one.task.objective(batch) - objective(batch)
        for teacher, sign in ((one, 1), (other, -1)):
            target = teacher.task.objective.teach(a, b, masked)
            error = (more["latents"] - target).square().mean(2) * weight.gather(1, masked)
            differ -= sign * error.sum(1) / weight.gather(1, masked).sum(1)
    assert helped is not None and said.shape == helped[0].shape
    assert differ.abs().max() < 1e-5


def test_channels_are_standardised_over_the_batch():
    features = torch.randn(5, 7, 4, generator=torch.Generator().manual_seed(0))
    features = features * torch.tensor([0.1, 1, 10, 0]) + torch.tensor([3.0, 0, -20, 5])
    found = standardise(features).double()
    wanted = features.double().numpy().reshape(-1, 4)
    spread = np.sqrt(wanted.var(0) + 1e-6)
    wanted = (wanted - wanted.mean(0)) / spread
    np.testing.assert_allclose(found.reshape(-1, 4).numpy(), wanted, atol=1e-4)
    assert found[..., 3].abs().max() == 0  # what never varies teaches nothing


@pytest.mark.parametrize("cross, reference, targets", [(1, 1, 1), (1, 0, 2), (1, 1, 2), (0, 1, 1)])
def test_operations_agree_with_torchs_counter(open_trainer, cross, reference, targets):
    keys = [f"targets_per_reference={targets}", f"model.decoder.cross={bool(cross)}"]
    trainer = open_trainer(*keys, *([] if reference else ["objective.teacher_reference=false"]))
    objective, batch = trainer.task.objective, read_batch(trainer)
    a, b, keep, masked, _, seen = objective.pairs(batch)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as student:
            objective._complete(a, b, keep, masked, seen)
        with FlopCounterMode(display=False) as teacher:
            objective.teach(a, b, masked)
    wanted = (3 * student.get_total_flops() + teacher.get_total_flops()) / len(a)
    assert trainer.task.count_flops() == pytest.approx(wanted, rel=1e-6)


def test_killed_and_on_two_processes_it_is_the_same_teacher(tmp_path, shards, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as those have that are processes of their own
    keys = [*EMA, "objective.latent_norm=channel", "objective.momentum=0.6"]
    keys += ["checkpoint.every=3", "steps=8", "data.workers=0"]
    one, two, killed = (tmp_path / name for name in ("one", "two", "killed"))
    process = start(words(killed, shards, *keys))
    while not list(killed.glob("checkpoints/step-*/complete.json")) and process.poll() is None:
        time.sleep(0.002)
    kill(process)
    for run in (one, killed):
        arguments = words(run, shards, *keys)
        assert train(parse(PretrainConfig, arguments, "pretrain train")) == 0
    assert outcome(killed) == outcome(one)
    finish(start(words(two, shards, *keys), processes=2))
    names = ("model.safetensors", "optimizer.safetensors")
    student, kept = (load_file(one / LAST / name) for name in names)
    teacher = {k[13:]: v for k, v in kept.items() if k.startswith("task-teacher/")}
    assert teacher.keys() == {name for name in student if "pos_embed" not in name}
    assert all(not np.array_equal(student[name], value) for name, value in teacher.items())
    theirs = load_file(two / LAST / names[1])
    assert apart(teacher, {name: theirs[f"task-teacher/{name}"] for name in teacher}) < 2e-5
    lines = [outcome(run)[-1][-1] for run in (one, two)]
    for name in ("teacher/latents", "teacher/spread", "val/cross_view", "loss/cross_pose"):
        assert lines[0][name] == pytest.approx(lines[1][name], rel=1e-3), name
    assert 0 < lines[0]["teacher/spread"] < 1 and "reference_gain/cross_view" in lines[0]


@pytest.mark.long
def test_in_shares_it_is_the_same_teacher(tmp_path, shards):
    keys = [*EMA, "objective.momentum=0.6", "checkpoint.every=3", "steps=8"]
    kept = []
    for name, processes, kind in (("one", 1, "ddp"), ("two", 2, "fsdp")):
        arguments = words(tmp_path / name, shards, *keys, f"parallel={kind}")
        finish(start(arguments, processes))
        kept.append(load_file(tmp_path / name / LAST / "optimizer.safetensors"))
    teachers = [{k: v for k, v in one.items() if k.startswith("task-teacher/")} for one in kept]
    assert apart(*teachers) < 2e-5


@pytest.mark.parametrize(
    "more, said",
    [
        (["model.decoder.latents=16"], "latents=16 and model.decoder.width=32: it has the student"),
        (
            ["objective.teacher=a", "model.decoder.cross=false", "objective.momentum=0.5"],
            "objective.momentum=0.5, but objective.teacher=a stays as it is",
        ),
        (
            ["model.decoder.cross=false", "objective.teacher_reference=false"],
            "objective.teacher_reference=False, but model.decoder.cross=false attends to no",
        ),
    ],
)
def test_keys_that_do_not_fit_are_refused(tmp_path, shards, more, said):
    with pytest.raises(UserError, match=said):
        parse(PretrainConfig, words(tmp_path, shards, *EMA, *more), "pretrain train")
