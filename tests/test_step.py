"""A training step: equal to a plain implementation, and what it must never ask of a device."""

import dataclasses
import gc
import os
import re
import subprocess
import time

import numpy as np
import pytest
import torch
import toy
from clips import make_clip, write_shards
from runs import ROOT, finish, outcome, start, words
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import step_ablations
from benchmarks.plain import Plain
from benchmarks.step import Case, differences, read
from data.loading.reader import TAGS, layout
from engine.distributed import hardware, process_group
from engine.distributed.alive import kept_alive
from engine.distributed.heartbeat import Whereabouts
from engine.errors import ExitCode, UserError
from engine.training import gc_control
from engine.training.trainer import build_optimizer
from pretrain import blocks, masking, state_dict_adapters
from pretrain.config import (
    CompletionConfig,
    DecoderConfig,
    EncoderConfig,
    MaskingConfig,
    ModelConfig,
    PretrainConfig,
)
from pretrain.model import CrossCompletion
from pretrain.objectives.completion import Completion
from pretrain.patch_loss import combine, patch_weight, per_sample_loss, targets

POSITIONS = ("cosine", "rope")


def model_config(position):
    return ModelConfig(
        64, 16, position, 100.0, EncoderConfig(48, 2, 3), decoder=DecoderConfig(32, 3, 2)
    )


def network(position):
    torch.manual_seed(0)
    model = CrossCompletion(model_config(position))
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms that are not at their first values
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("kind", ["patch", "image", "none"])
@pytest.mark.parametrize("position", POSITIONS)
def test_loss_and_gradients_are_those_of_a_plain_implementation(position, kind):
    model, plain = network(position), Plain(model_config(position))
    plain.load_state_dict(state_dict_adapters.to_croco(model.config, model.state_dict())[0])
    rng = torch.Generator().manual_seed(3)
    a, b = torch.randn(3, 3, 64, 64, generator=rng), torch.randn(3, 3, 64, 64, generator=rng)
    person = torch.rand(3, 16, generator=rng)
    keep, masked = masking.choose(torch.rand(3, 16, generator=rng), person, 0.75, 0.3)
    predicted = model.complete(a, b, keep, masked)
    target = targets(a, 16, kind).gather(1, masked[..., None].expand(-1, -1, 768))
    loss = per_sample_loss(predicted, target, patch_weight(person, 0.2).gather(1, masked)).mean()
    loss.backward()
    mask = torch.zeros(3, 16, dtype=torch.bool).scatter(1, masked, True)
    expected = plain.loss(a, b, mask, person, kind, 0.2)
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    theirs = state_dict_adapters.from_croco(
        model.config, {n: p.grad for n, p in plain.named_parameters()}, "plain"
    )
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name], rtol=1e-4, atol=2e-6, msg=name)


def pretrain_config(**keys):
    return PretrainConfig(
        model=model_config("rope"), objective=CompletionConfig(background_weight=0.2), **keys
    )


def trained(config, bf16=False):
    """(losses, gradients by name) of a network prepared as ``config`` says, on a batch as the
    loader gives it."""
    model = network("rope")
    blocks.prepare([*model.encoder.blocks, *model.decoder.blocks], config, torch.device("cpu"))
    losses = Completion(model, config, bf16)(batch(4))
    losses.mean().backward()
    return losses.detach(), {name: p.grad for name, p in model.named_parameters()}


def batch(rows, size=72, targets=1):
    rng = np.random.default_rng(1)
    shapes = layout(rows, size, 16, targets)
    arrays = {name: np.zeros(shape, kind) for name, (shape, kind) in shapes.items()}
    for name in ("pixels", "mask"):
        arrays[name][:] = rng.integers(0, 256, arrays[name].shape)
    arrays["numbers"][..., :3], arrays["numbers"][..., 3:] = (36, 36, 64), 1.1
    arrays["noise"][:] = rng.random(arrays["noise"].shape)
    arrays["tags"][:, TAGS.index("size")] = size
    return {name: torch.from_numpy(values) for name, values in arrays.items()}


def same(one, other, **how):
    torch.testing.assert_close(one[0], other[0], **how)
    for name, gradient in one[1].items():
        torch.testing.assert_close(gradient, other[1][name], msg=name, **how)


def test_what_is_computed_twice_is_the_same():
    same(
        trained(pretrain_config()),
        trained(pretrain_config(activation_checkpointing=True)),
        rtol=0,
        atol=0,
    )


@pytest.mark.parametrize("left_out", [0.0, 0.5])
def test_shuffled_references_are_the_neighbours(left_out):
    config, rows = pretrain_config(masking=MaskingConfig(reference_ratio=left_out)), batch(4)
    shuffled = dataclasses.replace(
        config, objective=dataclasses.replace(config.objective, references="shuffled")
    )
    swapped = {name: values.clone() for name, values in rows.items()}
    for name in ("pixels", "numbers", "mask", "noise"):
        half = swapped[name].shape[1] // 2
        swapped[name][:, half:] = rows[name][[3, 0, 1, 2], half:]
    found = Completion(network("rope"), shuffled, False)(rows)
    torch.testing.assert_close(
        found, Completion(network("rope"), config, False)(swapped), rtol=0, atol=0
    )
    assert (found != Completion(network("rope"), config, False)(rows)).all()


def test_the_same_image_as_reference_is_another_crop_of_the_first_target():
    config, rows = pretrain_config(targets_per_reference=2), batch(4, targets=2)
    same_image = dataclasses.replace(
        config, objective=dataclasses.replace(config.objective, references="same")
    )
    swapped = {name: values.clone() for name, values in rows.items()}
    swapped["pixels"][:, 2] = rows["pixels"][:, 0]
    swapped["mask"].view(4, 3, -1)[:, 2] = rows["mask"].view(4, 3, -1)[:, 0]
    found = Completion(network("rope"), same_image, False)(rows)
    wanted = Completion(network("rope"), config, False)(swapped)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    assert (found != Completion(network("rope"), config, False)(rows)).all()


@pytest.mark.parametrize("activation_checkpointing, left_out", [(False, 0.0), (True, 0.5)])
def test_compiled_blocks_say_the_same_and_are_compiled_once_for_all(
    activation_checkpointing, left_out, monkeypatch
):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return aot_eager(graph, inputs)

    real, aot_eager = torch.compile, torch._dynamo.backends.registry.lookup_backend("aot_eager")
    monkeypatch.setattr(
        torch, "compile", lambda *words, **more: real(*words, backend=backend, **more)
    )
    blocks.compiled_step.cache_clear()
    torch._dynamo.reset()
    rules = MaskingConfig(reference_ratio=left_out)
    expected = trained(pretrain_config(masking=rules))
    same(
        trained(
            pretrain_config(
                masking=rules, compile="on", activation_checkpointing=activation_checkpointing
            )
        ),
        expected,
        rtol=1e-4,
        atol=1e-6,
    )
    # The encoder with the visible tokens and with the reference's; the decoder's last block and the
    # others.
    assert len(graphs) == 4
    model = network("rope")
    blocks.prepare(model.encoder.blocks, pretrain_config(compile="on"), torch.device("cpu"))
    with torch.no_grad():
        model.encode(torch.zeros(7, 3, 64, 64))
    assert len(graphs) == 4
    blocks.compiled_step.cache_clear()
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "device, key, compiled",
    [("cuda", "auto", True), ("cpu", "auto", False), ("cpu", "on", True), ("cuda", "off", False)],
)
def test_auto_compiles_on_a_gpu(device, key, compiled):
    model = network("rope")
    blocks.prepare(model.decoder.blocks, pretrain_config(compile=key), torch.device(device))
    assert all(block.compiled == compiled for block in model.decoder.blocks)


class Asked(TorchDispatchMode):
    """Operations that make the host wait for a device, or whose result's shape depends on data."""

    WAITING = {
        "aten::_local_scalar_dense",
        "aten::nonzero",
        "aten::masked_select",
        "aten::unique_dim",
        "aten::_unique2",
        "aten::equal",
        "aten::lift_fresh",
    }  # the last brings numbers of Python's to the device

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, arguments=(), words=None):
        name = func._schema.name
        mask = name in ("aten::index", "aten::index_put", "aten::index_put_") and any(
            i is not None and i.dtype in (torch.bool, torch.uint8) for i in arguments[1]
        )
        if name in self.WAITING or mask:
            self.found.append(name)
        return func(*arguments, **(words or {}))


@pytest.mark.parametrize("left_out", [0.0, 0.5])
def test_a_step_asks_the_device_for_nothing(left_out):
    """Loss, gradient, clipping and AdamW's update, as engine.training.trainer does them."""
    config = pretrain_config(masking=MaskingConfig(reference_ratio=left_out))
    config.optim.max_grad_norm = 1.0
    model = network("rope")
    names = {p: name for name, p in model.named_parameters()}
    optimizer = build_optimizer(names, config.optim, torch.device("cpu"), lambda name: 1.0)
    module, data = Completion(model, config, True), batch(4)
    weights, shares = torch.ones(2), torch.full((2,), 0.5)

    def step():
        loss = combine(module(data), data["tags"][:, 0].long(), weights, shares, 4)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(names), config.optim.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()

    step()  # what is made once, such as the optimizer's moments
    with Asked() as asked:
        step()
    assert asked.found == []
    with Asked() as asked:
        Plain(model.config)(
            torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 64), torch.arange(16)[None] > 3
        )
        torch.ones(2).sum().item()
    assert {"aten::index", "aten::_local_scalar_dense"} <= set(asked.found)  # it would be found


@pytest.mark.parametrize(
    "precision, device, flags, expected",
    [
        ("auto", "cuda", (8, 0), True),
        ("auto", "cuda", (9, 0), True),
        ("auto", "cuda", (7, 5), False),
        ("auto", "cpu", "sse avx512_bf16", True),
        ("auto", "cpu", "sse avx512f", False),
        ("auto", "cpu", "amx_bf16", True),
        ("bf16", "cpu", "", True),
        ("bf16", "cuda", (7, 0), True),
        ("float32", "cuda", (9, 0), False),
    ],
)
def test_auto_is_bf16_where_the_device_multiplies_in_it(
    precision, device, flags, expected, monkeypatch
):
    monkeypatch.setattr(hardware, "_cpu", lambda name: flags)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: flags)
    assert hardware.bf16(precision, torch.device(device)) == expected


def test_float32_is_not_tf32_wherever_a_process_takes_its_device(monkeypatch):
    """Whatever the environment or somebody's own code has chosen before; the values are torch's
    own, of both its kinds."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        process_group.device_of("cpu")
        assert (
            torch.get_float32_matmul_precision() == "highest"
            and not torch.backends.cuda.matmul.allow_tf32
        )
        assert not torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def test_a_first_step_that_compiles_gives_signs_of_life_for_a_stated_time():
    watch = Whereabouts()
    watch.at(3, "compiling")
    with kept_alive(watch, 1000, beat_s=0.01):
        until(lambda: watch.now[1] > 3)
    beats = watch.now[1]
    with kept_alive(watch, 0, beat_s=0.01):
        time.sleep(0.1)
    assert watch.now == (1, beats, 3, "compiling")


def test_a_slow_compilation_is_no_hang_and_an_endless_one_is(tmp_path):
    """The toy's first step takes 12 s, where guard.hang_s is 4."""
    slow, keys = {"slow_first": 12}, ["steps=2", "guard.hang_s=4"]
    compiled = toy.start(tmp_path / "compiled", slow, *keys, "compile=on")
    given_up = toy.start(tmp_path / "given_up", slow, *keys, "compile=on", "guard.compile_s=1")
    assert "the first step compiles the network's blocks" in toy.finish(compiled)[0]
    assert (
        "hangs at step 0, compiling (guard.compile_s=1), for"
        in toy.finish(given_up, ExitCode.LOST_RANK)[0]
    )


def until(condition):
    while not condition():
        time.sleep(0.01)


def test_garbage_is_collected_when_it_is_asked_for():
    class Ring:
        def __init__(self):
            self.me = self

    def left():
        return sum(isinstance(thing, Ring) for thing in gc.get_objects())

    gc.collect()
    counts = []
    for step in gc_control.between(range(12), every=5):
        if step:
            counts.append(left())
            assert not gc.isenabled() and gc.get_freeze_count() > 1000
        Ring()
    assert counts == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0]
    assert gc.isenabled() and gc.get_freeze_count() == 0


@pytest.mark.parametrize("position", POSITIONS)
def test_what_the_benchmark_leaves_out_changes_the_cost_alone(position):
    """Each optimisation's proof by numbers, on the demo's network: loss and gradients with it and
    without."""
    case = Case(
        "demo", position, torch.device("cpu"), {"batch": "2", "precision": "auto", "compile": "off"}
    )
    expected = case.ours().gradients()
    found = step_ablations.variants(case)
    assert len(found) >= 7
    for name, variant in found.items():
        version = variant.version(False)
        with variant.change():
            loss, gradient = differences(expected, version.gradients())
            assert loss < 1e-6 and gradient < 1e-4, name
    plain = case.plain()
    assert plain.loss().item() == pytest.approx(float(expected[0]), rel=1e-6)
    before = [p.detach().clone() for p in plain.weights]
    plain.step()
    assert all(
        not torch.equal(one, other) for one, other in zip(before, plain.weights, strict=True)
    )


def test_the_script_for_a_gpu_goes_on_after_a_failure(tmp_path):
    """With a stand-in for Python that prints what it is asked for, and fails at one benchmark."""
    stand_in = tmp_path / "python"
    stand_in.write_text(
        '#!/bin/sh\necho "| ran $* |"\ncase $1 in *loader*) echo "error: no room" >&2; exit 3;; '
        "esac\n"
    )
    stand_in.chmod(0o755)
    out = tmp_path / "out.md"
    done = subprocess.run(
        ["bash", str(ROOT / "benchmarks" / "gpu.sh"), str(out)],
        text=True,
        capture_output=True,
        env={**os.environ, "PYTHON": str(stand_in), "SMALL": "1"},
    )
    text = out.read_text()
    assert done.returncode == 1
    for name in ("step", "spread", "people", "runs", "loader", "order", "cache"):
        assert f"| ran benchmarks/{name}.py" in text
    assert "exit code 3" in text and "    error: no room" in text and text.count("exit code") == 1
    limits = [
        int(n)
        for n in re.findall(
            r'^section "[^"]+" (\d+)', (ROOT / "benchmarks" / "gpu.sh").read_text(), re.M
        )
    ]
    assert sum(limits) < 600


def test_the_benchmark_names_what_it_does_not_know():
    with pytest.raises(UserError, match="sizes=huge is none of demo, tiny"):
        read(["sizes=huge"])
    with pytest.raises(UserError, match="'round=3' is none of"):
        read(["round=3"])


def test_a_run_in_bf16_draws_where_it_looks(tmp_path):
    """Images and validation numbers come out of bf16 on a CPU too."""
    (tmp_path / "shards").mkdir()
    write_shards(tmp_path / "shards", [make_clip(i, size=56) for i in range(30)], 10)
    run = tmp_path / "run"
    finish(
        start(
            words(
                run,
                tmp_path / "shards",
                "steps=2",
                "precision=bf16",
                "log.images_every=2",
                "log.val_every=2",
            )
        )
    )
    assert sorted(path.name for path in (run / "images").iterdir()) == [
        "attention-00000002.png",
        "step-00000002.png",
    ]
    assert outcome(run)[-1][-1]["val/cross_view"] > 0
