"""Checkpoints, leases, schedules, the log: on files, with broken ones among them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from engine import checkpoint
from engine.errors import UserError
from engine.lease import Lease
from engine.metrics import Log, read
from engine.run import Run
from engine.schedule import warmup_cosine

ROOT = Path(__file__).resolve().parent.parent


def write(run, step, value, keep=3, check=lambda: None):
    return checkpoint.save(run, step, lambda p: save_file({"w": torch.full((3,), value)}, p), {"step/w": torch.ones(1)},
                           {"step": step}, check, keep)


def test_the_newest_whole_checkpoint_is_found_and_damaged_ones_are_named(tmp_path, capsys):
    for step in (10, 20, 30):
        write(tmp_path, step, float(step))
    assert checkpoint.newest(tmp_path).name == "step-00000030"
    data = bytearray((checkpoint.folder(tmp_path, 30) / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (checkpoint.folder(tmp_path, 30) / "model.safetensors").write_bytes(data)
    assert checkpoint.newest(tmp_path).name == "step-00000020"
    assert "step-00000030" in capsys.readouterr().err
    (checkpoint.folder(tmp_path, 20) / checkpoint.MARKER).unlink()
    assert checkpoint.newest(tmp_path).name == "step-00000010"
    (checkpoint.folder(tmp_path, 10) / "optimizer.safetensors").write_bytes(b"short")
    assert checkpoint.newest(tmp_path) is None


def test_only_the_newest_are_kept_and_a_failed_save_leaves_them(tmp_path):
    for step in (1, 2, 3, 4):
        write(tmp_path, step, 0.0, keep=2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-00000003", "step-00000004"]

    def lost():
        raise UserError("taken over")

    with pytest.raises(UserError, match="taken over"):
        write(tmp_path, 5, 1.0, check=lost)
    assert checkpoint.newest(tmp_path).name == "step-00000004"


def test_an_owner_that_was_overtaken_touches_nothing(tmp_path):
    write(tmp_path, 50, 2.0)

    def overtaken():
        raise UserError("generation 1")

    with pytest.raises(UserError, match="generation 1"):
        write(tmp_path, 50, 1.0, check=overtaken)
    assert checkpoint.newest(tmp_path).name == "step-00000050"


def test_a_damaged_later_checkpoint_never_costs_the_one_just_written(tmp_path):
    write(tmp_path, 100, 0.0)
    (checkpoint.folder(tmp_path, 100) / "model.safetensors").write_bytes(b"")
    write(tmp_path, 10, 1.0, keep=1)
    assert checkpoint.newest(tmp_path).name == "step-00000010"


def test_a_full_disk_is_one_clear_line(tmp_path):
    def full(path):
        raise OSError(28, "No space left on device")

    write(tmp_path, 1, 0.0)
    with pytest.raises(UserError, match="step-00000002 was not written.*No space left"):
        checkpoint.save(tmp_path, 2, full, {}, {})
    assert checkpoint.newest(tmp_path).name == "step-00000001"
    assert not list((tmp_path / "checkpoints").glob(".writing*"))


def test_a_newer_format_is_refused_by_name(tmp_path):
    marker = write(tmp_path, 1, 0.0) / checkpoint.MARKER
    marker.write_text(json.dumps({**json.loads(marker.read_text()), "format": 99}))
    with pytest.raises(UserError, match="format 99.*up to format|format 99.*reads up to 1"):
        checkpoint.newest(tmp_path)


def test_an_optimizer_goes_round_through_a_checkpoint(tmp_path):
    def make():
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 3)
        return model, torch.optim.AdamW(model.parameters(), lr=0.1)

    def step(model, optimizer):
        model(torch.arange(8.0).reshape(2, 4)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    model, optimizer = make()
    names = {p: n for n, p in model.named_parameters()}
    for _ in range(3):
        step(model, optimizer)
    path = checkpoint.save(tmp_path, 3, lambda p: save_file(model.state_dict(), p),
                           checkpoint.optimizer_tensors(optimizer, names), {"step": 3})
    other, second = make()
    other_names = {p: n for n, p in other.named_parameters()}
    state = checkpoint.load(path, other, lambda t: checkpoint.load_optimizer(second, other_names, t))
    assert state["step"] == 3
    step(model, optimizer)
    step(other, second)
    assert torch.equal(model.weight, other.weight) and torch.equal(model.bias, other.bias)
    with pytest.raises(UserError, match=r"weight.*\(3, 4\).*\(3, 5\)"):
        checkpoint.load(path, torch.nn.Linear(5, 3), lambda t: None)


def test_a_second_run_is_refused_and_a_dead_owner_is_taken_over(tmp_path):
    code = "import sys; from engine.lease import Lease; Lease(sys.argv[1]); print('held', flush=True); input()"
    owner = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, text=True,
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert owner.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=f"in use by process {owner.pid}"):
        Lease(tmp_path)
    owner.kill()
    owner.wait()
    lease = Lease(tmp_path)
    assert lease.generation == 2
    lease.check()
    held = json.loads(lease.path.read_text())
    lease.path.write_text(json.dumps({**held, "generation": 3}))
    with pytest.raises(UserError, match="generation 2.*says 3"):
        lease.check()


def test_a_start_that_was_killed_early_does_not_block_the_folder(tmp_path):
    from data.config import AugmentConfig  # any dataclass of keys

    for name in ("lease.lock", "environment.json", "config.writing"):
        (tmp_path / name).write_text("")
    run = Run(tmp_path, AugmentConfig(), "test", ())
    run.close()
    assert (tmp_path / "config.yaml").exists() and run.newest is None
    with pytest.raises(UserError, match="crop_min=0.5, but the run in .* began with crop_min=0.875"):
        Run(tmp_path, AugmentConfig(crop_min=0.5), "test", ("colour",))
    Run(tmp_path, AugmentConfig(colour=0.1), "test", ("colour",)).close()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.pdf").write_text("")
    with pytest.raises(UserError, match="thesis.pdf"):
        Run(tmp_path / "other", AugmentConfig(), "test", ())


def test_a_silent_owner_on_another_machine_is_taken_over_and_a_live_one_is_not(tmp_path):
    path = tmp_path / "lease.json"
    path.write_text(json.dumps({"generation": 7, "host": "elsewhere/x", "pid": 1, "started": 1, "released": False}))
    with pytest.raises(UserError, match="on elsewhere"):
        Lease(tmp_path)
    os.utime(path, (0, 0))
    assert Lease(tmp_path).generation == 8


def test_the_schedule_rises_then_falls():
    values = [warmup_cosine(s, 2.0, 0.5, 4, 20) for s in range(21)]
    assert values[:4] == [0.5, 1.0, 1.5, 2.0] and values[4] == 2.0
    assert values[12] == pytest.approx(1.25) and values[20] == 0.5
    assert all(a >= b for a, b in zip(values[4:], values[5:], strict=False))


def test_the_log_is_cut_back_to_the_step_a_run_goes_on_from(tmp_path):
    log = Log(tmp_path, 0, "off", "x", {})
    for step in (10, 20, 30):
        log.write(step, {"a": step})
    log.close()
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"step": 40, "a"')  # a kill in the middle of a line
    log = Log(tmp_path, 20, "off", "x", {})
    log.write(30, {"a": -30})
    log.close()
    assert [(line["step"], line["a"]) for line in read(tmp_path)] == [(10, 10), (20, 20), (30, -30)]
