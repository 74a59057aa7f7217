"""Checkpoints, leases, schedules, the log: on files, with broken ones among them."""

import json
import math
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from engine.checkpoint import checkpoints, restore
from engine.config.train_config import CheckpointConfig, TrainConfig
from engine.errors import EnvironmentFault, UserError
from engine.logging.metrics import Log, read
from engine.run import run_lock
from engine.run.folder import Run
from engine.run.run_folder import RunFolder
from engine.run.run_lock import Lease
from engine.training.schedule import warmup_cosine

ROOT = Path(__file__).resolve().parent.parent


def write(run, step, value, keep=3, check=lambda: None, keep_every=0):
    return checkpoints.save(
        run,
        step,
        lambda p: save_file({"w": torch.full((3,), value)}, p),
        {"step/w": torch.ones(1)},
        {"step": step},
        check,
        keep,
        keep_every,
    )


def test_the_newest_complete_checkpoint_is_found_and_damaged_ones_are_named(tmp_path, capsys):
    for step in (10, 20, 30):
        write(tmp_path, step, float(step))
    assert checkpoints.newest(tmp_path).name == "step-00000030"
    data = bytearray((RunFolder(tmp_path).checkpoint(30) / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (RunFolder(tmp_path).checkpoint(30) / "model.safetensors").write_bytes(data)
    assert checkpoints.newest(tmp_path).name == "step-00000020"
    assert "step-00000030" in capsys.readouterr().err
    (RunFolder(tmp_path).checkpoint(20) / checkpoints.MARKER).unlink()
    assert checkpoints.newest(tmp_path).name == "step-00000010"
    (RunFolder(tmp_path).checkpoint(10) / "optimizer.safetensors").write_bytes(b"short")
    assert checkpoints.newest(tmp_path) is None


def test_only_the_newest_are_kept_and_a_failed_save_leaves_them(tmp_path):
    for step in (1, 2, 3, 4):
        write(tmp_path, step, 0.0, keep=2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [
        "step-00000003",
        "step-00000004",
    ]

    def lost():
        raise UserError("taken over")

    with pytest.raises(UserError, match="taken over"):
        write(tmp_path, 5, 1.0, check=lost)
    assert checkpoints.newest(tmp_path).name == "step-00000004"


def test_every_so_many_steps_one_is_kept_for_ever(tmp_path):
    for step in range(2, 21, 2):
        write(tmp_path, step, 0.0, keep=2, keep_every=6)
    # One that was not finished, of an earlier attempt, goes too; what a user put aside stays.
    (tmp_path / "checkpoints" / "step-00000003").mkdir()
    (tmp_path / "checkpoints" / "step-00000008-good").mkdir()
    write(tmp_path, 22, 0.0, keep=2, keep_every=6)
    assert sorted(int(p.name[5:]) for p in (tmp_path / "checkpoints").glob("step-????????")) == [
        6,
        12,
        18,
        20,
        22,
    ]
    assert (tmp_path / "checkpoints" / "step-00000008-good").exists()


def test_keeping_steps_that_are_never_saved_is_refused():
    with pytest.raises(
        UserError, match="checkpoint.keep_every=6 is not a multiple of checkpoint.every=4"
    ):
        TrainConfig(run="x", checkpoint=CheckpointConfig(every=4, keep_every=6)).check()


@pytest.mark.parametrize(
    "name,content,said",
    [
        ("complete.json", "{", "complete.json cannot be read"),
        ("complete.json", "[1]", "complete.json does not say which files there are"),
        (
            "complete.json",
            '{"format": 1, "files": {}}',
            "complete.json does not list model.safetensors",
        ),
        ("complete.json", None, "complete.json is missing"),
        ("state.json", '{"step": 20}', "state.json has 12 bytes"),
        ("state.json", None, "state.json cannot be read: no such file"),
        ("optimizer.safetensors", "", "optimizer.safetensors has 0 bytes"),
    ],
)
def test_a_damaged_checkpoint_is_named_by_file_and_fault(tmp_path, capsys, name, content, said):
    for step in (10, 20):
        write(tmp_path, step, 1.0)
    path = RunFolder(tmp_path).checkpoint(20) / name
    path.unlink() if content is None else path.write_text(content)
    assert checkpoints.newest(tmp_path).name == "step-00000010"
    assert f"step-00000020 is passed over: {said}" in capsys.readouterr().err.replace(
        "it was not finished (", ""
    )


def test_what_was_written_wrongly_is_damage_too(tmp_path):
    """Bytes that are what was written, and still no checkpoint."""

    def of(state=None, model=None):
        path = checkpoints.save(
            tmp_path,
            7,
            model or (lambda p: save_file({"w": torch.ones(1)}, p)),
            {"step/w": torch.ones(1)},
            {"step": 7} if state is None else state,
        )
        return checkpoints.damage(path)

    assert of() is None
    assert of(state={"step": 8}) == "state.json is of step 8"
    assert of(state=[]).startswith("state.json cannot be read: TypeError")
    assert of(model=lambda p: p.write_bytes(b"no tensors")).startswith(
        "model.safetensors cannot be read"
    )


def test_tensors_are_written_as_safetensors_reads_them(tmp_path):
    torch.manual_seed(0)
    tensors = {
        "a.weight": torch.randn(3, 5),
        "n": torch.tensor(7),
        "flag": torch.tensor([True, False, True]),
        "half": torch.randn(7).bfloat16(),
        "none": torch.zeros(0, 4),
        "transposed": torch.randn(4, 6).T,
        "large": torch.randn(3, 600_000),
        "double": torch.randn(2).double(),
        "byte": torch.arange(5, dtype=torch.uint8),
    }
    checkpoints.write_tensors(tmp_path / "a", tensors, {"who": "é"})
    checkpoints.write_tensors(tmp_path / "b", dict(reversed(tensors.items())), {"who": "é"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with safe_open(tmp_path / "a", "pt") as file:
        assert file.metadata() == {"who": "é"}
    found = load_file(tmp_path / "a")
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value), name


def test_an_owner_that_was_overtaken_touches_nothing(tmp_path):
    write(tmp_path, 50, 2.0)

    def overtaken():
        raise UserError("generation 1")

    with pytest.raises(UserError, match="generation 1"):
        write(tmp_path, 50, 1.0, check=overtaken)
    assert checkpoints.newest(tmp_path).name == "step-00000050"


def test_a_damaged_later_checkpoint_never_costs_the_one_just_written(tmp_path):
    write(tmp_path, 100, 0.0)
    (RunFolder(tmp_path).checkpoint(100) / "model.safetensors").write_bytes(b"")
    write(tmp_path, 10, 1.0, keep=1)
    assert checkpoints.newest(tmp_path).name == "step-00000010"


def test_a_full_disk_is_one_clear_line(tmp_path):
    def full(path):
        raise OSError(28, "No space left on device")

    write(tmp_path, 1, 0.0)
    with pytest.raises(EnvironmentFault, match="step-00000002 was not written.*no space left"):
        checkpoints.save(tmp_path, 2, full, {}, {})
    assert checkpoints.newest(tmp_path).name == "step-00000001"
    assert not list((tmp_path / "checkpoints").glob(".writing*"))


def test_a_newer_format_is_refused_by_name(tmp_path):
    marker = write(tmp_path, 1, 0.0) / checkpoints.MARKER
    marker.write_text(json.dumps({**json.loads(marker.read_text()), "format": 99}))
    with pytest.raises(UserError, match="format 99.*reads up to 2"):
        checkpoints.newest(tmp_path)


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
    path = checkpoints.save(
        tmp_path,
        3,
        lambda p: save_file(model.state_dict(), p),
        restore.list_optimizer_tensors(optimizer, names),
        {"step": 3},
    )
    other, second = make()
    other_names = {p: n for n, p in other.named_parameters()}
    state = restore.load(path, other, second, other_names)
    assert state["step"] == 3
    step(model, optimizer)
    step(other, second)
    assert torch.equal(model.weight, other.weight) and torch.equal(model.bias, other.bias)
    with pytest.raises(UserError, match=r"weight.*\(3, 4\).*\(3, 5\)"):
        restore.load(path, torch.nn.Linear(5, 3), second, other_names)
    del optimizer.state[model.bias]["exp_avg_sq"]
    path = checkpoints.save(
        tmp_path,
        4,
        lambda p: save_file(model.state_dict(), p),
        restore.list_optimizer_tensors(optimizer, names),
        {"step": 4},
    )
    assert checkpoints.damage(path) == "optimizer.safetensors lacks exp_avg_sq/bias"
    del optimizer.state[model.bias]
    path = checkpoints.save(
        tmp_path,
        5,
        lambda p: save_file(model.state_dict(), p),
        restore.list_optimizer_tensors(optimizer, names),
        {"step": 5},
    )
    with pytest.raises(UserError, match="state of weight bias is missing"):
        restore.load(path, other, second, other_names)


def test_a_second_run_is_refused_and_a_dead_owner_is_taken_over(tmp_path):
    code = (
        "import sys; from engine.run.run_lock import Lease; Lease(sys.argv[1]); "
        "print('held', flush=True); input()"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert owner.stdout.readline() == "held\n"
    with pytest.raises(EnvironmentFault, match=f"in use by process {owner.pid}"):
        Lease(tmp_path)
    owner.kill()
    owner.wait()
    mine = Lease(tmp_path)
    assert mine.generation == 2
    mine.check()
    held = json.loads(mine.path.read_text())
    mine.path.write_text(json.dumps({**held, "generation": 3}))
    with pytest.raises(UserError, match="generation 2.*says 3"):
        mine.check()


def test_a_start_that_was_killed_early_does_not_block_the_folder(tmp_path):
    from engine.config.train_config import TrainConfig

    for name in ("lease.lock", "environment.json", "config.writing"):
        (tmp_path / name).write_text("")
    run = Run(tmp_path, TrainConfig(run=str(tmp_path), device="cpu"), "test")
    run.close()
    assert (tmp_path / "config.yaml").exists() and run.newest is None
    with pytest.raises(UserError, match="steps=7, but the run in .* began with steps="):
        Run(tmp_path, TrainConfig(run=str(tmp_path), device="cpu", steps=7), "test")
    Run(tmp_path, TrainConfig(run=str(tmp_path), device="cpu", compile="off"), "test").close()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.pdf").write_text("")
    with pytest.raises(UserError, match="thesis.pdf"):
        Run(tmp_path / "other", TrainConfig(run=str(tmp_path), device="cpu"), "test")


ELSEWHERE = {
    "generation": 7,
    "token": "t",
    "host": "elsewhere/boot/pid:[1]",
    "pid": 1,
    "started": 1,
    "released": False,
}


@pytest.mark.parametrize("where", ["another machine", "another container"])
def test_an_owner_elsewhere_is_refused_at_its_next_beat_or_taken_over_when_it_gives_none(
    tmp_path, monkeypatch, capsys, where
):
    monkeypatch.setattr(run_lock, "EXPIRES_S", 1.0)
    # A container on this machine: the same name and the same boot, and process 1 is alive there as
    # here.
    name, boot, _ = run_lock._host().split("/")
    host = f"{name}/{boot}/pid:[1]" if where == "another container" else ELSEWHERE["host"]
    path = tmp_path / "lease.json"
    path.write_text(json.dumps({**ELSEWHERE, "host": host, "started": run_lock._started(1)}))
    beats = threading.Timer(0.3, os.utime, [path])
    beats.start()
    with pytest.raises(EnvironmentFault, match=f"in use by process 1 on {host.split('/')[0]}"):
        Lease(tmp_path)
    beats.join()
    began = time.monotonic()
    mine = Lease(tmp_path)  # nobody beats any more
    assert mine.generation == 8 and 0.5 < time.monotonic() - began < 10
    assert "if that sends no heartbeat, this run begins in" in capsys.readouterr().err
    os.utime(path, (0, 0))
    path.write_text(json.dumps({**ELSEWHERE, "generation": 3}))
    os.utime(path, (0, 0))  # long silent: no waiting
    monkeypatch.setattr(run_lock.time, "sleep", None)
    assert Lease(tmp_path).generation == 4


def test_a_clock_that_runs_ahead_on_another_machine_does_not_matter(tmp_path, monkeypatch):
    """Ages are differences of the file system's own times."""
    (tmp_path / "lease.json").write_text(json.dumps(ELSEWHERE))
    monkeypatch.setattr(run_lock.time, "time", lambda: 4e9)
    monkeypatch.setattr(run_lock, "EXPIRES_S", 0.5)
    monkeypatch.setattr(run_lock.time, "sleep", lambda s: os.utime(tmp_path / "lease.json"))
    with pytest.raises(EnvironmentFault, match="last heartbeat 0 s ago"):
        Lease(tmp_path)


def test_a_reused_process_number_is_not_taken_for_the_owner(tmp_path):
    held = {
        **ELSEWHERE,
        "host": run_lock._host(),
        "pid": os.getpid(),
        "started": run_lock._started(os.getpid()),
    }
    (tmp_path / "lease.json").write_text(json.dumps(held))
    with pytest.raises(EnvironmentFault, match=f"process {os.getpid()} on"):
        Lease(tmp_path)
    (tmp_path / "lease.json").write_text(json.dumps({**held, "started": held["started"] - 1}))
    assert Lease(tmp_path).generation == 8


def test_of_two_that_took_the_lease_at_once_one_finds_out(tmp_path):
    """On a file system without locks both may write the same generation; the last file stands."""
    first = Lease(tmp_path)
    held = json.loads(first.path.read_text())
    first.path.write_text(json.dumps({**held, "token": "another"}))
    with pytest.raises(run_lock.Overtaken, match="holds generation 1, the file says 1"):
        first.check()
    first.release()
    assert (
        json.loads(first.path.read_text())["token"] == "another"
        and not json.loads(first.path.read_text())["released"]
    )


def test_the_schedule_rises_then_falls():
    values = [warmup_cosine(s, 2.0, 0.5, 4, 20) for s in range(21)]
    assert values[:4] == [0.5, 1.0, 1.5, 2.0] and values[4] == 2.0
    assert values[12] == pytest.approx(1.25) and values[20] == 0.5
    assert all(a >= b for a, b in zip(values[4:], values[5:], strict=False))


def test_the_learning_rate_stays_level_until_its_last_share_of_the_steps():
    values = [warmup_cosine(s, 2.0, 0.5, 4, 20, 0.25) for s in range(21)]
    assert values[3:16] == [2.0] * 13
    assert values[18] == pytest.approx(0.5 + 1.5 * 0.5 * (1 + math.cos(math.pi * 3 / 5)))
    assert values[20] == 0.5
    assert warmup_cosine(19, 2.0, 0.5, 4, 20, 0.0) == 2.0


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


def test_lines_that_a_full_disk_did_not_take_are_written_later(tmp_path, capsys):
    class Full:
        def __init__(self, file, room):
            self.file, self.room = file, room

        def write(self, data):
            if not self.room:
                raise OSError(28, "No space left on device")
            taken = self.file.write(data[: self.room])
            self.room -= taken
            return taken

    log = Log(tmp_path, 0, "off", "x", {})
    log.write(1, {"a": 1.0})
    disk, log.file = log.file, Full(log.file, 10)
    log.write(2, {"a": 2.0})
    log.write(3, {"a": 3.0})
    assert (
        "log.jsonl cannot be written: no space left on the device; 2 lines wait"
        in capsys.readouterr().err
    )
    log.file = disk
    log.write(4, {"a": 4.0})
    log.close()
    assert [(line["step"], line["a"]) for line in read(tmp_path)] == [
        (1, 1.0),
        (2, 2.0),
        (3, 3.0),
        (4, 4.0),
    ]


def test_a_run_does_not_mind_that_wandbs_process_is_killed(tmp_path):
    """A scheduler's signal goes to all processes of a job."""
    code = """
import os, signal, sys
from pathlib import Path
from engine.logging.metrics import Log
log = Log(sys.argv[1], 0, "offline", "x", {})
log.write(1, {"a": 1.0})
killed = 0
for stat in Path("/proc").glob("[0-9]*/stat"):
    try:
        name, fields = stat.read_text().split("(", 1)[1].rsplit(")", 1)
        if name.startswith("wandb-core") and int(fields.split()[1]) == os.getpid():
            os.kill(int(stat.parent.name), signal.SIGKILL)
            killed += 1
    except (FileNotFoundError, ProcessLookupError):
        continue
print("killed", killed)
for step in (2, 3):
    log.write(step, {"a": 1.0})
log.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        text=True,
        timeout=120,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0 and "killed 1" in done.stdout, done.stdout
    assert [line["step"] for line in read(tmp_path)] == [1, 2, 3]
