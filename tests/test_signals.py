"""Requests to stop, at every stage of a run, to one rank or to all, once or twice."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import toy
from clips import make_clip, write_shards
from runs import ROOT, outcome, start, words
from runs import finish as finish_run


@pytest.fixture(scope="module")
def peaceful(tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "peaceful"
    toy.finish(toy.start(run, {}))
    return run


def test_a_signal_before_the_run_begins_leaves_at_once(tmp_path):
    """While torch is imported, and while the trainer is built: nothing is left behind that the next
    start minds."""
    run = tmp_path / "run"
    (process,) = toy.start(run, {})
    while (
        "torch" not in Path(f"/proc/{process.pid}/maps").read_text()
    ):  # the handler is there before the import
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert (
        "SIGTERM: stopped before the run began" in toy.finish([process], 75)[0] and not run.exists()
    )
    (process,) = toy.start(run, {"slow_start": 100})
    assert process.stdout.readline() == "building\n"
    process.send_signal(signal.SIGUSR1)
    assert "SIGUSR1: stopped before " in toy.finish([process], 75)[0] and not list(
        run.glob("checkpoints/*")
    )


def test_a_signal_to_one_rank_that_starts_ends_all(tmp_path):
    processes = toy.start(tmp_path / "run", {"slow_start": 100, "on": 1}, world=2)
    assert processes[1].stdout.readline() == "building\n"
    processes[1].send_signal(signal.SIGUSR1)
    outputs = toy.finish(processes, 75)
    assert all("SIGUSR1 before the first step" in output for output in outputs), outputs


def test_a_signal_to_one_rank_stops_all_after_the_same_step(tmp_path):
    run = tmp_path / "run"
    processes = toy.start(run, {}, "pace_s=0.05", "steps=1000", world=2)
    toy.wait_for(run / "log.jsonl", processes, '"step": 10')
    processes[1].send_signal(signal.SIGUSR1)
    outputs = toy.finish(processes, 75)
    assert "SIGUSR1: saved at step " in outputs[0] and outputs[1] == ""
    last = sorted(run.glob("checkpoints/step-*"))[-1]
    assert f"step {int(last.name[5:])};" in outputs[0] and (last / "complete.json").exists()


def test_a_signal_during_an_evaluation_breaks_it_off_and_nothing_is_lost(tmp_path, peaceful):
    run = tmp_path / "run"
    slow = {"slow_evaluation": 2.0, "on": 0}
    processes = toy.start(run, slow, world=2)
    toy.wait_for(run / "log.jsonl", processes, '"step": 6')
    time.sleep(1.5)  # of the 6 seconds that the evaluation of step 8 takes
    processes[0].send_signal(signal.SIGTERM)
    outputs = toy.finish(processes, 75)
    assert "SIGTERM: saved at step 8;" in outputs[0]
    assert '"step": 8' not in (run / "log.jsonl").read_text()
    toy.finish(toy.start(run, {}))
    here, there = outcome(run)[-1], outcome(peaceful)[-1]
    assert (
        [line["step"] for line in here] == [line["step"] for line in there] == list(range(2, 25, 2))
    )
    assert all(
        a.keys() == b.keys() and all(a[k] == pytest.approx(b[k], rel=1e-4, abs=1e-6) for k in a)
        for a, b in zip(here, there, strict=True)
    )


def test_a_second_signal_leaves_at_once_and_an_echo_of_the_first_does_not(tmp_path):
    run = tmp_path / "run"
    (process,) = toy.start(run, {"hang": 5}, "log.every=1")
    toy.wait_for(run / "log.jsonl", [process], '"step": 5')
    process.send_signal(signal.SIGUSR2)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    time.sleep(2)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    toy.finish([process], 128 + signal.SIGTERM)


def test_what_another_rank_passed_on_is_the_same_request():
    """A rank hears of the request from its peers, and a moment later gets the signal itself: it
    must save in peace."""
    code = (
        "import os, signal, time\nfrom engine.run.signals import StopRequest\nstop = "
        "StopRequest()\nstop.ready()\n"
        "stop.heard('SIGTERM')\nos.kill(os.getpid(), "
        "signal.SIGTERM)\ntime.sleep(0.5)\nprint(stop.name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, "SIGTERM\n"), done.stderr


def test_a_line_that_a_kill_took_is_written_at_the_next_start(tmp_path, peaceful):
    """A checkpoint comes before the line of its step; the line's means come from it."""
    run = tmp_path / "run"
    shutil.copytree(peaceful, run)
    lines = (run / "log.jsonl").read_text().splitlines(True)
    (run / "log.jsonl").write_text("".join(lines[:-1]))
    toy.finish(toy.start(run, {}))
    assert outcome(run) == outcome(peaceful)
    assert "speed/pairs_per_s" not in json.loads((run / "log.jsonl").read_text().splitlines()[-1])


@pytest.mark.kill
def test_signals_to_loader_workers_harm_nothing(tmp_path):
    """From the moment they are born: the run's whole process group is often signalled."""
    shards, run = tmp_path / "shards", tmp_path / "run"
    shards.mkdir()
    write_shards(shards, [make_clip(i, size=56) for i in range(60)], 15)
    process, hit = start(words(run, shards, "steps=24", "data.workers=2")), set()
    while process.poll() is None:
        workers = subprocess.run(
            ["pgrep", "-P", str(process.pid), "-f", "spawn_main"], capture_output=True, text=True
        )
        for worker in workers.stdout.split():
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
                with contextlib.suppress(ProcessLookupError):  # it was about to end
                    os.kill(int(worker), number)
                    hit.add(worker)
        time.sleep(0.02)
    finish_run(process)
    assert len(hit) == 2
    assert json.loads((run / "log.jsonl").read_text().splitlines()[-1])["step"] == 24
