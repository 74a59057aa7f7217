"""Killed, suspended, out of space, on another number of processes: a run ends as if nothing had
happened, or says so."""

import contextlib
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import threading
import time

import numpy as np
import pytest
import torch
from clips import make_clip, write_shards
from runs import apart, finish, kill, outcome, ranks, start, words
from safetensors.numpy import load_file

from engine.checkpoint import checkpoints
from engine.checkpoint.saver import Saver
from engine.config.train_config import CheckpointConfig
from engine.errors import EnvironmentFault, Failure
from engine.run import run_lock
from engine.run.run_folder import RunFolder

STEPS = [
    "steps=24",
    "checkpoint.every=3",
    "checkpoint.keep=2",
    "checkpoint.keep_every=12",
    "grad_accum_steps=2",
    "data.workers=1",
]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, [make_clip(i, size=56) for i in range(60)], 15)
    return folder


@pytest.fixture(scope="module")
def peaceful(tmp_path_factory, shards):
    """A run of one process that nobody disturbed."""
    run = tmp_path_factory.mktemp("runs") / "peaceful"
    finish(start(words(run, shards, *STEPS)))
    return run


def marked(run):
    """Names of the checkpoints of a run that count."""
    return {path.parent.name for path in run.glob("checkpoints/step-*/complete.json")}


def until(process, happened):
    """Wait until something has happened or the process has ended."""
    deadline = time.monotonic() + 120
    while not happened() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)


# One save, killed or overtaken at each line of its code.


def saving(run, step, value, check=lambda: None):
    weights = {"w": torch.full((3,), float(value)), "v": torch.full((2, 2), float(value))}
    optimizer = {"step/w": torch.ones(1), "step/v": torch.ones(1)}
    checkpoints.save(
        run,
        step,
        lambda p: checkpoints.write_tensors(p, weights),
        optimizer,
        {"step": step},
        check,
        keep=2,
    )


QUIET = {
    "write_tensors",
    "_digest",
    "folder",
    "<lambda>",
    "<listcomp>",
    "<dictcomp>",
    "<genexpr>",
}  # change no file


def at_line(number, act, work):
    """Call ``work`` and, before the number-th line that it runs of checkpoint.py or shutil.py,
    ``act``; the lines it ran."""
    ran = 0

    def trace(frame, event, argument):
        nonlocal ran
        if (
            frame.f_code.co_filename not in (checkpoints.__file__, shutil.__file__)
            or frame.f_code.co_name in QUIET
        ):
            return None
        if event == "line":
            ran += 1
            if ran == number:
                sys.settrace(None)
                act()
        return trace

    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(None)
    return ran


def test_killed_at_any_line_of_a_save_nothing_is_lost(tmp_path, monkeypatch):
    """The newest complete checkpoint is found, and the next save clears away what the kill left."""
    monkeypatch.setattr(
        os, "fsync", lambda handle: None
    )  # slow, and a kill loses nothing that the kernel has
    begun = tmp_path / "begun"
    for step in (10, 20, 30):
        saving(begun, step, step)
    (
        RunFolder(begun).checkpoint(40)
    ).mkdir()  # one that an earlier kill left without a marker: this save takes its place
    number, found = 0, set()
    while True:
        number += 1
        run = tmp_path / str(number)
        shutil.copytree(begun, run)
        child = os.fork()
        if not child:
            at_line(number, lambda: os._exit(9), lambda run=run: saving(run, 40, 40))
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        newest = checkpoints.newest(run)
        value = load_file(newest / "model.safetensors")["w"][0]
        assert newest.name == f"step-{int(value):08d}" == max(marked(run)), number
        assert value == 40 if code == 0 or "step-00000040" in marked(run) else value == 30, number
        found.add(value)
        saving(run, int(value) + 10, value + 10)
        assert sorted(p.name for p in (run / "checkpoints").iterdir()) == [
            newest.name,
            f"step-{int(value) + 10:08d}",
        ], number
        shutil.rmtree(run)
        if code == 0:
            break
        assert code == 9
    assert number > 100 and found == {30.0, 40.0}


@pytest.mark.parametrize("successor", [40, 60])
def test_overtaken_at_any_line_of_a_save_the_successor_loses_nothing(
    tmp_path, successor, monkeypatch
):
    """A run sleeps in the middle of its save of step 40; another takes the folder over, saves, and
    saves again."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    begun = tmp_path / "begun"
    for step in (20, 30):
        saving(begun, step, step)
    overtaken = {"number": 0}
    for number in range(1, 10_000):
        run = tmp_path / str(number)
        shutil.copytree(begun, run)

        def overtake(run=run, number=number):
            overtaken["number"] = number
            saving(run, successor, -1)
            (run / "checkpoints" / ".writing-second").mkdir()  # and its next save is under way

        def check(number=number):
            if overtaken["number"] == number:
                raise run_lock.Overtaken("generation 2")

        with contextlib.suppress(Failure):
            at_line(number, overtake, lambda run=run, check=check: saving(run, 40, 40, check))
        if overtaken["number"] < number:
            break
        newest = checkpoints.newest(run)
        assert (
            newest.name == f"step-{successor:08d}"
            and load_file(newest / "model.safetensors")["w"][0] == -1
        ), number
        assert (run / "checkpoints" / ".writing-second").exists(), number
        shutil.rmtree(run)
    assert number > 100


# Whole runs.


def kill_somewhere(run, arguments, chance):
    """Start a run and kill it: while it starts, between two steps, or in a save."""
    process, before = start(arguments), marked(run)
    moment = chance.choice(["start", "steps", "save"])
    if moment == "steps":
        until(process, lambda: marked(run) != before)
    if moment == "save":
        until(process, lambda: list(run.glob("checkpoints/.writing-*")))
    time.sleep(chance.random() * {"start": 4, "steps": 0.3, "save": 0.01}[moment])
    kill(process)


@pytest.mark.kill
@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.long)])
def test_killed_at_random_instants_it_ends_with_the_same_bytes(tmp_path, shards, peaceful, kills):
    run, chance = tmp_path / "killed", random.Random(os.environ.get("COUNTERPOSE_KILL_SEED", "1"))
    for _ in range(kills):
        kill_somewhere(run, words(run, shards, *STEPS), chance)
    finish(start(words(run, shards, *STEPS)))
    assert outcome(run) == outcome(peaceful)
    assert marked(run) == {"step-00000012", "step-00000021", "step-00000024"}


def same_but_for_rounding(run, peaceful):
    """Slots and learning rates are equal, each step stands in the log once, weights differ by less
    than 2e-5."""
    (name, one, _, lines), (other, two, _, theirs) = outcome(peaceful), outcome(run)
    assert name == other and one.keys() == two.keys()
    one, two = (
        {weight: np.frombuffer(data, np.float32) for weight, data in tensors.items()}
        for tensors in (one, two)
    )
    assert apart(one, two) < 2e-5
    assert (
        [line["step"] for line in theirs]
        == [line["step"] for line in lines]
        == list(range(2, 25, 2))
    )
    for key in ("optim/lr", "pairs", "data/epochs/all", "data/bad_samples"):
        assert [line[key] for line in theirs] == [line[key] for line in lines], key
    for key in ("loss/cross_view", "loss/cross_pose", "optim/grad_norm"):
        assert np.allclose(
            [line[key] for line in theirs], [line[key] for line in lines], rtol=1e-4
        ), key


def go_through(run, shards, peaceful, stages, chance):
    """Start a run under each of [(processes, parallel and what it takes)] in turn, ended by kill -9
    once it has saved, the last one not."""
    # Each draws images, which one process does alone while the others continue.
    arguments = words(run, shards, *STEPS, "log.images_every=8", "log.images=1")
    for processes, kind in stages[:-1]:
        process, before = start([*arguments, *f"parallel={kind}".split()], processes), marked(run)
        until(process, lambda before=before: marked(run) != before)
        time.sleep(chance.random() * 0.1)
        if processes > 1 and chance.random() < 0.5:
            # One rank alone: the others must not wait for it for ever.
            alone = chance.randrange(processes)
            with contextlib.suppress(KeyError, ProcessLookupError):  # it may have come to its end
                os.kill(ranks(process)[alone], signal.SIGKILL)
            process.communicate(timeout=120)
        else:
            kill(process)
    finish(start([*arguments, *f"parallel={stages[-1][1]}".split()], stages[-1][0]))
    same_but_for_rounding(run, peaceful)


@pytest.mark.kill
def test_a_run_goes_on_under_any_number_of_processes_whole_or_sharded(tmp_path, shards, peaceful):
    stages = [(2, "ddp"), (1, "ddp"), (2, "fsdp"), (2, "ddp")]
    go_through(
        tmp_path / "run",
        shards,
        peaceful,
        stages,
        random.Random(os.environ.get("COUNTERPOSE_KILL_SEED", "1")),
    )


@pytest.mark.kill
@pytest.mark.long
def test_a_run_goes_on_under_many_numbers_of_processes(tmp_path, shards, peaceful):
    chance = random.Random(os.environ.get("COUNTERPOSE_KILL_SEED", "1"))
    for number, stages in enumerate(
        [
            [(2, "fsdp"), (1, "ddp"), (4, "ddp"), (2, "fsdp")],
            [(4, "fsdp"), (2, "fsdp"), (1, "fsdp")],
            [(1, "ddp"), (2, "ddp"), (4, "fsdp")],
        ]
    ):
        go_through(tmp_path / str(number), shards, peaceful, stages, chance)


@pytest.mark.kill
@pytest.mark.long
def test_a_run_goes_on_in_copies_of_shares_of_any_size(tmp_path, shards, peaceful):
    stages = [
        (4, "hsdp shard_over=2"),
        (2, "ddp"),
        (4, "hsdp"),
        (2, "fsdp"),
        (4, "hsdp shard_over=2"),
    ]
    go_through(
        tmp_path / "run",
        shards,
        peaceful,
        stages,
        random.Random(os.environ.get("COUNTERPOSE_KILL_SEED", "1")),
    )


def limit():
    """No file above 200 kB can be written, as on a disk that is almost full; the log is smaller,
    the weights are not."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))


def test_a_full_disk_stops_the_saves_and_not_the_run(tmp_path, shards, peaceful):
    run = tmp_path / "run"
    # The memory of workers is a file as well. Each step is slow enough for this test to see what is
    # resuming.
    slowly = ["data.workers=0", "log.every=1", "log.val_every=1", "log.val_pairs=64"]
    process = start(words(run, shards, *STEPS, *slowly), before=limit)
    until(
        process,
        lambda: (
            (run / "log.jsonl").exists()
            and '"checkpoint/failed": 2' in (run / "log.jsonl").read_text()
        ),
    )
    assert not marked(run)
    resource.prlimit(
        process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    )
    output = finish(process)
    assert (
        "warning: checkpoint" in output
        and "step-00000003 was not written: file too large" in output
    )
    assert "older ones are untouched" in output and "step-00000006 was not written" in output
    assert outcome(run)[:3] == outcome(peaceful)[:3]
    failed = [line["checkpoint/failed"] for line in outcome(run)[3]]
    assert failed[0] == 0 and failed[-1] >= 2 and failed == sorted(failed)


def test_a_last_save_that_fails_ends_all_processes_with_an_error(tmp_path, shards):
    run = tmp_path / "run"
    process = start(
        words(run, shards, "steps=6", "checkpoint.every=3", "data.workers=0", "optim.warmup=1"),
        2,
        before=limit,
    )
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 1  # torchrun's; of each process 74
    assert output.count("exitcode  : 74") == 2, output
    assert output.count("warning: checkpoint") == 2, output
    assert re.search(r"error: .*step-00000006 was not written: file too large", output), output
    assert not marked(run) and not list(run.glob("checkpoints/.writing-*"))


def noted_step(run):
    """The last step that RUN/saved.json says is saved."""
    return json.loads((run / "saved.json").read_text())["step"]


def test_an_overtaken_run_stops_and_writes_nothing_more(tmp_path, shards, monkeypatch):
    """A machine that was suspended for a minute wakes up, and its run finds that another machine
    has taken over."""
    run = tmp_path / "run"
    process = start(words(run, shards, "steps=4000", "checkpoint.every=3", "log.every=1"))
    # A save ends with the note of its step.
    until(process, lambda: marked(run) and noted_step(run) > 0)
    process.send_signal(signal.SIGSTOP)
    os.utime(run / "lease.json", (0, 0))
    with monkeypatch.context() as other:
        other.setattr(run_lock, "_host", lambda: "elsewhere/boot/pid:[1]")
        mine = run_lock.Lease(run)
    assert mine.generation == 2
    shutil.copytree(run, tmp_path / "before")
    (run / "log.jsonl").rename(run / "old")  # as the successor cuts its log: a new file
    shutil.copy(run / "old", run / "log.jsonl")
    process.send_signal(signal.SIGCONT)
    output = finish(process, code=2)
    assert (
        "this run holds generation 1, the file says 2: another run took the folder over" in output
    )
    mine.release()
    for path in (tmp_path / "before").rglob("*"):
        if path.is_file() and path.name != "lease.json" and ".writing-" not in str(path):
            assert (
                path.read_bytes() == (run / path.relative_to(tmp_path / "before")).read_bytes()
            ), path
    names = {p.name for p in (run / "checkpoints").iterdir()}
    assert {n for n in names if (run / "checkpoints" / n / "complete.json").exists()} == marked(
        tmp_path / "before"
    )
    assert json.loads((run / "lease.json").read_text())["generation"] == 2


def test_a_saver_keeps_what_training_changes_meanwhile(tmp_path, capsys):
    """The copy is of the moment of the save, writing does not block, and failures are kept apart by
    what they mean."""

    class Folder:
        folder, lease = tmp_path, type("", (), {"check": staticmethod(lambda: go.wait(60))})

    go, w = threading.Event(), torch.ones(1000)
    saver = Saver(CheckpointConfig(), True)
    saver.begin(Folder, 1, {"w": w}, {}, {"step/w": torch.tensor(1.0)}, {"step": 1})
    w += 1  # while the thread waits at the lease's check
    assert checkpoints.newest(tmp_path) is None
    go.set()
    saver.settle()
    assert load_file(checkpoints.newest(tmp_path) / "model.safetensors")["w"].max() == 1
    saver.begin(Folder, 2, {"w": w}, {}, {"step/w": torch.tensor(2.0)}, {"step": 2})
    saver.settle(last=True)
    assert load_file(checkpoints.newest(tmp_path) / "model.safetensors")["w"].min() == 2

    def fail(error):
        def check():
            raise error

        Folder.lease.check = staticmethod(check)
        saver.begin(Folder, 3, {"w": w}, {}, {}, {"step": 3})

    fail(OSError(122, "Disk quota exceeded"))
    saver.settle()
    assert saver.failed == 1 and "disk quota exceeded" in capsys.readouterr().err
    with pytest.raises(EnvironmentFault, match="step-00000003 was not written.*quota"):
        saver.settle(last=True)
    fail(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        saver.settle()
    fail(run_lock.Overtaken("generation 1"))
    with pytest.raises(run_lock.Overtaken):
        saver.settle()
    assert checkpoints.newest(tmp_path).name == "step-00000002"
