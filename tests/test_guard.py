"""Bad updates, ranks that fail, die or hang, and what is checked before the first step: on the
smallest run there is."""

import contextlib
import json
import math
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import types
from collections import Counter

import numpy as np
import pytest
import torch
import toy
from clips import make_clip, write_shards
from PIL import Image
from runs import ROOT, finetune_words, outcome, words
from runs import finish as finish_run
from runs import start as start_run

from engine.config.parser import parse
from engine.config.train_config import GuardConfig
from engine.distributed.process_group import Processes
from engine.errors import EnvironmentFault
from engine.run import preflight
from engine.training.spike_guard import FLOOR, LAG, MEMORY, Guard, last_good
from finetune.config import FinetuneConfig
from finetune.train import make_trainer as make_finetuner
from pretrain.config import PretrainConfig
from pretrain.replay import measure
from pretrain.train import make_trainer

CPU = torch.device("cpu")


def judged(guard, norms):
    """The guard's verdicts on a sequence of norms."""
    meters = torch.zeros(1, dtype=torch.float64)
    return [bool(guard.judge(step, torch.tensor(norm), meters)) for step, norm in enumerate(norms)]


def test_spikes_and_what_is_no_number_are_told_from_the_run_s_own_norms():
    random_norms = np.exp(np.random.default_rng(0).normal(0, 0.3, 300)).astype(np.float32).tolist()
    guard = Guard(GuardConfig(warmup=50), 1, CPU)
    assert not any(judged(guard, random_norms))
    mean = variance = 0.0
    for count, norm in enumerate(random_norms):  # the same in plain numbers
        weight = max(1 / (count + 1), 1 - MEMORY)
        delta = math.log(np.float32(norm)) - mean
        mean, variance = mean + weight * delta, (1 - weight) * (variance + weight * delta * delta)
    assert guard.stats.tolist() == pytest.approx([mean, variance, 300], rel=1e-9)
    assert 0.2 < math.sqrt(variance) < 0.4
    just_below, above = (math.exp(mean + z * math.sqrt(variance)) for z in (7.9, 8.6))
    before = guard.stats.clone()
    assert judged(guard, [math.nan, math.inf]) == [True, True] and torch.equal(guard.stats, before)
    assert judged(guard, [above, just_below, 1e20, 1.0]) == [True, False, True, False]
    assert int(guard.skipped) == 4 and guard.rows.tolist() == [1, 0]
    # A spike of any size moves the mean as one on the limit does: not by a hundredth of log(1e20).
    assert 0 < guard.stats[0] - before[0] < 0.15 < 0.01 * math.log(1e20)
    records = guard.take_records(lambda sums: sums)
    assert [record[0] for record in records] == [0, 1, 0, 2] and math.isnan(records[0][1])
    assert [record[1] for record in records[1:]] == [
        math.inf,
        pytest.approx(above),
        pytest.approx(1e20),
    ]
    assert just_below < records[2][2] < above
    assert guard.take_records(lambda sums: sums) == []


def test_no_spike_is_seen_in_the_warm_up_nor_where_none_is_wanted_and_a_steady_run_does_not_trip():
    assert judged(Guard(GuardConfig(warmup=50), 1, CPU), [1.0] * 49 + [1e9]) == [False] * 50
    assert judged(Guard(GuardConfig(warmup=50), 1, CPU), [1.0] * 50 + [1e9]) == [False] * 50 + [
        True
    ]
    assert not any(judged(Guard(GuardConfig(spike=None, warmup=1), 1, CPU), [1.0] * 50 + [1e9]))
    assert judged(
        Guard(GuardConfig(warmup=5), 1, CPU),
        [1.0] * 50 + [math.exp(7.9 * FLOOR), math.exp(9 * FLOOR)],
    )[50:] == [False, True]
    # A lasting change of level is learnt.
    verdicts = judged(Guard(GuardConfig(warmup=5), 1, CPU), [1.0] * 50 + [4.0] * 60)
    assert verdicts[50] and not any(verdicts[-20:])


def test_a_guard_goes_on_from_its_state_to_the_bit():
    norms = np.exp(np.random.default_rng(1).normal(0, 0.4, 90)).astype(np.float32).tolist()
    norms[60:63] = [math.nan, 1e9, math.nan]
    one, other = (Guard(GuardConfig(warmup=20), 1, CPU) for _ in range(2))
    judged(one, norms[:62])
    other.load(json.loads(json.dumps(one.state())))
    assert other.before() == 1 and other.pending() == 2
    for guard in (one, other):
        judged(guard, norms[62:])
    assert one.state() == other.state() and one.state()["skipped"] == 3


def test_the_host_learns_late_and_without_a_wait():
    guard, heard = Guard(GuardConfig(), 1, CPU), []
    for norm in (1.0, math.nan, math.nan, 1.0, 1.0):
        judged(guard, [norm])
        heard.append(guard.row())
    assert heard == [0, 0, 1, 2, 0]


def test_a_return_goes_to_a_regular_checkpoint_that_proved_itself(tmp_path):
    from engine.checkpoint import checkpoints

    def weights(path):
        checkpoints.write_tensors(path, {"w": torch.zeros(1)})

    for step in (6, 12, 14, 18):
        checkpoints.save(tmp_path, step, weights, {"a": torch.zeros(1)}, {"step": step}, keep=9)
    assert (
        last_good(tmp_path, 18, 6).name == "step-00000012"
    )  # 18 was never trained from, 14 is a signal's
    (tmp_path / "checkpoints/step-00000012/model.safetensors").write_bytes(b"y")
    assert last_good(tmp_path, 18, 6).name == "step-00000006"
    shutil.rmtree(tmp_path / "checkpoints/step-00000006")
    assert last_good(tmp_path, 18, 6).name == "step-00000014"
    assert last_good(tmp_path, 12, 6) is None


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, [make_clip(i, size=56) for i in range(60)], 15)
    return folder


def test_a_skipped_update_leaves_everything_as_it_was(tmp_path, shards):
    """Weights, both moments and step counters to the bit; the sums of the log know nothing of
    it."""
    file, *rest = words(tmp_path / "run", shards, "data.workers=0", "grad_accum_steps=2")
    trainer = make_trainer(
        parse(PretrainConfig, [str(ROOT / file), *rest], "pretrain train"), Processes(0, 1, CPU)
    )
    good = trainer.task.compute_loss

    def spoil(change):
        def compute_loss(module, piece):
            loss, meters = good(module, piece)
            return change(loss), meters

        return compute_loss

    def state():
        return [
            t.clone()
            for p in trainer.names
            for t in (p.detach(), *trainer.optimizer.state[p].values())
        ]

    for step, arrays in trainer.loader.batches(0, 4):
        if step == 3:
            before, sums = state(), trainer.sums.clone()
            trainer.task.compute_loss = spoil(lambda loss: loss * math.nan)
        trainer.update(step, arrays)
    assert all(torch.equal(a, b) for a, b in zip(before, state(), strict=True)) and len(
        before
    ) == 4 * len(trainer.names)
    assert torch.equal(trainer.sums, sums) and trainer.take_losses()["guard/skipped"] == 1
    trainer.task.compute_loss = good
    trainer.update(4, arrays)
    assert not any(torch.equal(a, b) for a, b in zip(before[::4], state()[::4], strict=True))
    # A loss that is NaN while its gradient is fine counts as well.
    trainer.task.compute_loss = spoil(lambda loss: loss + math.inf)
    trainer.update(5, arrays)
    assert trainer.take_losses()["guard/skipped"] == 2


def test_an_update_asks_the_device_for_nothing(tmp_path, shards):
    """No number is brought to the host in a step, nor anything whose shape depends on one."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Ops(TorchDispatchMode):
        def __torch_dispatch__(self, op, kinds, args=(), kwargs=None):
            seen.append(op.overloadpacket.__name__)
            return op(*args, **(kwargs or {}))

    file, *rest = words(tmp_path / "run", shards, "data.workers=0")
    trainer, seen = (
        make_trainer(
            parse(PretrainConfig, [str(ROOT / file), *rest], "pretrain train"), Processes(0, 1, CPU)
        ),
        [],
    )
    for step, arrays in trainer.loader.batches(0, 2):
        with Ops() if step else contextlib.nullcontext():
            trainer.update(step, arrays)
    assert "_fused_adamw_" in seen and not {
        "_local_scalar_dense",
        "nonzero",
        "equal",
        "masked_select",
    } & set(seen)


BAD = {"nan": [13, 14, 15]}
BACK = ["guard.skips=3"]


@pytest.fixture(scope="module")
def returned(tmp_path_factory):
    """A run that three bad updates send back from step 16 to 12; it resumes at step 15 + LAG +
    1."""
    run = tmp_path_factory.mktemp("runs") / "returned"
    (output,) = toy.finish(toy.start(run, BAD, *BACK))
    assert (
        "3 bad updates in a row from step 13 on: back to the checkpoint of step 12, and over steps "
        "12 to 17" in output
    )
    return run


def test_a_return_is_what_one_gets_by_hand(returned):
    """Weights of step 12, then the batches and learning rates from step 18 on, as if those between
    did not exist."""
    from safetensors.torch import load_file

    model = torch.nn.Linear(3, 1)
    tensors = load_file(returned / "checkpoints/step-00000012/model.safetensors")
    model.load_state_dict(tensors)
    groups = [
        {"params": [model.weight], "weight_decay": 0.05},
        {"params": [model.bias], "weight_decay": 0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)
    moments = load_file(returned / "checkpoints/step-00000012/optimizer.safetensors")
    for name, parameter in model.named_parameters():
        optimizer.state[parameter] = {
            part: moments[f"{part}/{name}"] for part in ("step", "exp_avg", "exp_avg_sq")
        }
    for step in range(15 + LAG + 1, 24):
        for group in optimizer.param_groups:
            group["lr"] = 4 / 256 * 0.5 * (1 + math.cos(math.pi * (step - 2) / 22))
        x = np.stack(
            [np.random.default_rng(slot).normal(size=3) for slot in range(4 * step, 4 * step + 4)]
        )
        x = torch.tensor(x, dtype=torch.float32)
        (((model(x)[:, 0] - x.sum(1)).square()).sum() / 4).backward()
        optimizer.step()
        optimizer.zero_grad()
    last = load_file(returned / "checkpoints/step-00000024/model.safetensors")
    assert all(
        torch.allclose(value, last[name], rtol=1e-6, atol=1e-7)
        for name, value in model.state_dict().items()
    )
    assert not torch.allclose(tensors["weight"], last["weight"], rtol=1e-3)


def test_a_return_is_told_in_ledger_log_and_captures(returned):
    state = json.loads((returned / "checkpoints/step-00000024/state.json").read_text())["guard"]
    assert state["ledger"] == [[12, 18]] and state["skipped"] == 3 and state["rows"] == [0, 0]
    lines = outcome(returned)[-1]
    assert [line["step"] for line in lines] == list(range(2, 25, 2))
    assert [line["guard/skipped"] for line in lines] == [0] * 6 + [1] + [3] * 5
    assert [line["guard/rollbacks"] for line in lines] == [0] * 8 + [1] * 4
    assert "loss/toy" not in lines[7] and all(
        "loss/toy" in line for line in lines[:7]
    )  # steps 14 and 15 were both skipped
    found = {path.name: json.loads(path.read_text()) for path in (returned / "captures").iterdir()}
    assert sorted(found) == [f"step-000000{step}.json" for step in (13, 14, 15)]
    assert (
        found["step-00000014.json"]["slots"] == [56, 60]
        and found["step-00000014.json"]["gradient_norm"] == "nan"
    )


@pytest.mark.kill
def test_killed_stopped_and_on_two_ranks_a_return_is_the_same(tmp_path, returned):
    """Killed around the bad steps, stopped by a signal amid them; and with two ranks of which one
    makes them bad."""
    run, chance = tmp_path / "killed", random.Random(os.environ.get("COUNTERPOSE_KILL_SEED", "1"))
    (process,) = toy.start(run, BAD, *BACK, "pace_s=0.05")
    toy.wait_for(run / "log.jsonl", [process], '"step": 14')
    time.sleep(chance.random() * 0.3)
    process.kill()
    process.communicate()
    toy.finish(toy.start(run, BAD, *BACK))
    assert outcome(run) == outcome(returned)
    run = tmp_path / "stopped"
    (process,) = toy.start(run, BAD, *BACK, "pace_s=0.2")
    toy.wait_for(run / "log.jsonl", [process], '"step": 14')
    process.send_signal(signal.SIGUSR2)
    toy.finish([process], 75)
    toy.finish(toy.start(run, BAD, *BACK))
    assert outcome(run) == outcome(returned)
    assert sorted(p.read_text() for p in (run / "captures").iterdir()) == sorted(
        p.read_text() for p in (returned / "captures").iterdir()
    )
    two = tmp_path / "two"
    toy.finish(toy.start(two, BAD | {"on": 1}, *BACK, world=2))
    here, there = outcome(returned)[-1], outcome(two)[-1]
    assert [line.keys() for line in here] == [line.keys() for line in there]
    assert all(
        a[k] == pytest.approx(b[k], rel=1e-4, abs=1e-6)
        for a, b in zip(here, there, strict=True)
        for k in a
    )


def test_a_run_that_breaks_down_again_and_again_stops_with_a_report(tmp_path):
    bad, run = {"nan": [7, 8, 9, *range(13, 24)]}, tmp_path / "run"
    (output,) = toy.finish(toy.start(run, bad, *BACK, "guard.rollbacks=1"), 77)
    said = output[output.index("error: ") :]
    assert (
        "3 bad updates in a row from step 13 on" in said
        and "went back to an earlier checkpoint 1 times" in said
    )
    assert f"toy replay {run} step=13" in said and "8 captures" in said and "[[6, 12]]" in said
    early = tmp_path / "early"
    (output,) = toy.finish(toy.start(early, {"nan": list(range(24))}, *BACK), 77)
    assert "no checkpoint from before them" in output and not list(early.glob("checkpoints/*"))


def test_a_replay_finds_a_step_again(tmp_path, shards):
    """Loss and norm are those of the step in the run; the sample of the highest loss is drawn."""
    run = tmp_path / "run"
    finish_run(
        start_run(
            words(run, shards, "steps=8", "checkpoint.every=4", "log.every=1", "log.images_every=0")
        )
    )
    line = next(
        json.loads(text)
        for text in (run / "log.jsonl").read_text().splitlines()
        if json.loads(text)["step"] == 5
    )
    command = [sys.executable, "-m", "pretrain", "replay", str(run)]
    process = subprocess.run(
        [*command, "step=4", f"out={tmp_path / 'worst.png'}", "worst=3"],
        cwd=ROOT,
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
    )
    assert process.returncode == 0, process.stderr
    found = re.search(
        r"slots 32 to 39, with the weights of step 4: mean loss (\S+), gradient norm (\S+)",
        process.stdout,
    )
    assert float(found[1]) == pytest.approx(
        (line["loss/cross_view"] + line["loss/cross_pose"]) / 2, rel=1e-3
    )
    assert float(found[2]) == pytest.approx(line["optim/grad_norm"], rel=1e-3)
    table = [row.split() for row in process.stdout.splitlines() if "shard-0" in row]
    assert len(table) == 3 and float(table[0][1]) >= float(table[1][1]) >= float(table[2][1]) > 0
    assert all(
        32 <= int(row[0]) < 40 and re.search(r"shard-\d{6}\.tar:\d+$", row[3]) for row in table
    )
    assert Image.open(tmp_path / "worst.png").height > 3 * 100
    gone = subprocess.run([*command, "step=2"], cwd=ROOT, capture_output=True, text=True)
    assert (
        gone.returncode == 2
        and "error: step=2: no checkpoint" in gone.stderr
        and "step-00000004" in gone.stderr
    )


def test_crops_are_replayed_too(tmp_path, people):
    """Losses and gradient of a batch by parts are those of an update on the whole; crops are drawn
    as the network sees them."""
    file, *rest = finetune_words(
        tmp_path / "run", "hand", people["hand"], "data.workers=0", "optim.warmup=1", "steps=9"
    )
    trainer = make_finetuner(
        parse(FinetuneConfig, [str(ROOT / file), *rest], "finetune train"), Processes(0, 1, CPU)
    )
    _, arrays = next(trainer.loader.batches(3, 4))
    losses, norm = measure(trainer, arrays)
    parts = [
        measure(trainer, {name: values[row : row + 1] for name, values in arrays.items()})
        for row in range(8)
    ]
    assert losses == pytest.approx(np.concatenate([part[0] for part in parts]), rel=1e-4)
    assert norm < sum(part[1] for part in parts)
    image = trainer.task.draw_samples(
        {name: values[:3] for name, values in arrays.items()}, ["a", "b", "c"], "step 3"
    )
    assert image.size == (3 * 192, 2 * 192 + 40) and np.asarray(image)[40:].std() > 10
    trainer.update(3, arrays)
    line = trainer.take_losses()
    assert line["loss/total"] == pytest.approx(losses.mean(), rel=1e-4)
    assert line["optim/grad_norm"] == pytest.approx(norm, rel=1e-4)


def errors(output):
    return [line for line in output.splitlines() if line.startswith("error: ")]


def test_a_rank_that_fails_ends_the_others_with_its_reason(tmp_path):
    outputs = toy.finish(toy.start(tmp_path / "run", {"on": 1, "fail": 5}, world=2), 2)
    assert errors(outputs[1]) == ["error: rank 1: shard x cannot be read"]
    assert errors(outputs[0]) == [
        "error: rank 1 stopped at step 5, in forward and backward: shard x cannot be read (exit "
        "code 2)"
    ]
    assert not any("Traceback" in output for output in outputs)
    outputs = toy.finish(toy.start(tmp_path / "run", {"on": 0, "crash": 5}, world=2), 1)
    assert Counter("Traceback" in output for output in outputs) == {True: 1, False: 1}
    assert (
        len(errors(outputs[1])) == 1
        and "rank 0 stopped at step 5" in outputs[1]
        and "a fault of the program" in outputs[1]
    )
    assert "(exit code 1)" in outputs[1]
    # Its folder is free at once.
    assert "resumes at" in toy.finish(toy.start(tmp_path / "run", {}))[0]


@pytest.mark.kill
@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_dies_is_named(tmp_path, victim):
    processes = toy.start(tmp_path / "run", {}, "pace_s=0.05", "steps=1000", world=2)
    toy.wait_for(tmp_path / "run" / "log.jsonl", processes, '"step": 20')
    processes[victim].kill()
    output = processes[1 - victim].communicate(timeout=20)[0]
    assert processes[1 - victim].returncode == 76 and "Traceback" not in output, output
    (said,) = errors(output)
    assert (
        f"rank {victim} died, last seen at step " in said and "start the same command again" in said
    )
    processes[victim].communicate()


@pytest.mark.kill
@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.long), 1])
def test_a_rank_that_is_stopped_is_named(tmp_path, victim):
    processes = toy.start(
        tmp_path / "run", {}, "pace_s=0.05", "steps=1000", "guard.hang_s=6", world=2
    )
    toy.wait_for(tmp_path / "run" / "log.jsonl", processes, '"step": 20')
    processes[victim].send_signal(signal.SIGSTOP)
    output = processes[1 - victim].communicate(timeout=30)[0]
    assert processes[1 - victim].returncode == 76 and "Traceback" not in output, output
    (said,) = errors(output)
    assert (
        f"rank {victim} hangs at step " in said
        and "no heartbeat" in said
        and "guard.hang_s=6" in said
    )
    processes[victim].kill()
    processes[victim].communicate()


@pytest.mark.kill
def test_a_rank_that_hangs_is_named_with_what_it_does(tmp_path):
    outputs = toy.finish(
        toy.start(tmp_path / "run", {"on": 1, "hang_reading": 5}, "guard.hang_s=3", world=2), 76
    )
    for output in outputs:
        assert re.fullmatch(
            r"error: rank 1 hangs at step 5, waiting for data, for [3-9] s; .*", *errors(output)
        ), outputs
    (output,) = toy.finish(toy.start(tmp_path / "alone", {"hang": 5}, "guard.hang_s=3"), 76)
    assert len(errors(output)) == 1 and "rank 0 hangs at step 5, in forward and backward" in output


@pytest.mark.long
@pytest.mark.kill
def test_under_torchrun_the_first_cause_is_told_by_all(tmp_path):
    """Although torchrun ends the others as soon as one is gone."""
    process = toy.start_torchrun(tmp_path / "run", "pace_s=0.05", "steps=1000", world=4)
    toy.wait_for(tmp_path / "run" / "log.jsonl", [process], '"step": 40')
    ranks = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True
    ).stdout.split()
    os.kill(int(ranks[2]), signal.SIGKILL)
    output = process.communicate(timeout=60)[0]
    assert output.count("error: rank 2 died, last seen at step ") == 3 and "gloo" not in output, (
        output
    )


@pytest.mark.long
def test_a_signal_to_all_of_a_torchrun_counts_as_one(tmp_path):
    """Ranks get it twice, from the sender and from torchrun."""
    process = toy.start_torchrun(tmp_path / "run", "pace_s=0.05", "steps=1000", world=2)
    toy.wait_for(tmp_path / "run" / "log.jsonl", [process], '"step": 20')
    os.killpg(process.pid, signal.SIGTERM)
    assert "SIGTERM: saved at step " in process.communicate(timeout=60)[0]
    assert len(list((tmp_path / "run").glob("checkpoints/step-*/complete.json"))) == 3


def place_to_check(tmp_path, bytes_a_row=8, workers=1, keep=3, weights=4):
    ring = [{"pixels": types.SimpleNamespace(nbytes=bytes_a_row)}]
    trainer = types.SimpleNamespace(
        loader=types.SimpleNamespace(ring=ring, workers=[None] * workers),
        names={torch.empty(weights // 4, device="meta"): "w"},
        processes=Processes(0, 1, CPU),
        task=types.SimpleNamespace(find_faults=lambda: []),
    )
    return types.SimpleNamespace(
        run=str(tmp_path),
        device="auto",
        checkpoint=types.SimpleNamespace(keep=keep),
        optim=types.SimpleNamespace(ema=0.0),
    ), trainer


def test_what_is_amiss_is_told_before_the_first_step_all_at_once(tmp_path):
    preflight.check(*place_to_check(tmp_path))
    with pytest.raises(EnvironmentFault) as error:
        preflight.check(*place_to_check(tmp_path, bytes_a_row=2**50, weights=2**48))
    said = str(error.value)
    assert (
        said.startswith("(1) ")
        and "(2) " in said
        and "of memory left" in said
        and "1048576.0 GiB" in said
    )
    assert (
        f"{tmp_path} has" in said
        and "4 more checkpoints of 786432.0 GiB" in said
        and "checkpoint.keep=3" in said
    )
    preflight.check(
        *place_to_check(tmp_path, bytes_a_row=2**50, workers=0)
    )  # read in the rank itself: nothing is shared


def test_the_limit_on_open_files_is_raised_as_far_as_it_may_be(tmp_path):
    _, trainer = place_to_check(tmp_path, workers=100)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard))
        assert (
            preflight.open_files(trainer) == []
            and resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 256 + 400 + 1
        )
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    child = f"""
import resource, sys, types
sys.path.insert(0, {str(ROOT)!r})
resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))
from engine.run import preflight
loader = types.SimpleNamespace(ring=[], workers=[None] * 100)
processes = types.SimpleNamespace(world=1)
print(preflight.open_files(types.SimpleNamespace(loader=loader, processes=processes)))"""
    said = subprocess.run(
        [sys.executable, "-c", child], capture_output=True, text=True, check=True
    ).stdout
    assert "may open 300 files, this run wants 657" in said and "data.workers" in said


def test_ranks_that_are_not_alike_are_named():
    def rank(host, clock=0.0, **other):
        return {
            "host": host,
            "clock": clock,
            "alike": {"torch": "2.15.0", "device": "cuda", **other},
        }

    same = [rank("a"), rank("b", 2.0)]
    assert preflight.differences(same) == [] and preflight.clocks(same) == []
    assert preflight.differences([rank("a"), rank("b", torch="2.14.0")]) == [
        "rank 1 on b has torch 2.14.0, rank 0 on a has 2.15.0: all need the same"
    ]
    assert preflight.clocks([rank("a", 100.0), rank("b", 160.0)])[0].startswith(
        "the clock of b is 60 s ahead of that of a"
    )
