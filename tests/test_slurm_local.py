"""``python -m slurm`` without SLURM, and its plain functions."""

import doctest
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from clips import make_clip, write_shards
from clusters import events, history, log
from runs import ROOT, finish, outcome, start, words

from engine.errors import EnvironmentFault, ExitCode, UserError
from slurm import site
from slurm.config import SlurmConfig
from slurm.submit import check, cli_args
from slurm.supervisor import exit_policy
from slurm.supervisor.exit_policy import count_tries, is_named_twice, judge

RUN = ["steps=30", "checkpoint.every=10", "log.every=1"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, [make_clip(i, size=56) for i in range(60)], 15)
    return folder


@pytest.fixture(scope="module")
def without_slurm(tmp_path_factory):
    """A PATH on which there is git, and no sbatch."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "git").symlink_to(shutil.which("git"))
    return folder


@pytest.fixture
def local(without_slurm):
    """Starts ``python -m slurm`` as on a machine without SLURM."""
    return lambda *arguments, **variables: launch(without_slurm, *arguments, **variables)


def launch(path, *arguments, **variables):
    env = {**os.environ, "PATH": str(path), "OMP_NUM_THREADS": "1", **variables}
    return subprocess.Popen(
        [sys.executable, "-m", "slurm", *map(str, arguments)],
        cwd=ROOT,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def test_without_slurm_it_runs_here_and_says_so(local, tmp_path, shards):
    run = tmp_path / "run"
    said = finish(
        local(
            "pretrain",
            "train",
            *words(run, shards, *RUN),
            "slurm.nodes=8",
            "slurm.ranks_per_node=2",
        )
    )
    first = next(text for text in said.splitlines() if not text.startswith("note: "))
    assert "slurm.where=local" in first and "on this machine" in first and "2 processes" in first
    assert "to step 30" in said  # rank 0's words
    finish(start(words(tmp_path / "two", shards, *RUN), processes=2))
    assert outcome(run) == outcome(tmp_path / "two")
    assert events(run) == ["submitted", "start", "done"]


# What the shell of an interactive allocation has: of another job, which is the user's own.
INTERACTIVE = {
    "SLURM_JOB_ID": "4711",
    "SLURM_NODEID": "1",
    "SLURM_JOB_NODELIST": "n[1-2]",
    "SLURM_CPUS_ON_NODE": "1",
    "SLURM_ARRAY_JOB_ID": "4710",
    "SLURM_ARRAY_TASK_ID": "3",
    "SLURM_LAUNCH_NODE_IPADDR": "192.0.2.1",
}


def test_a_signal_is_passed_on_once_and_the_same_command_goes_on(
    local, without_slurm, tmp_path, shards
):
    """Inside an interactive allocation, of which SLURM is asked nothing and told nothing."""
    run, tools = tmp_path / "run", tmp_path / "bin"
    tools.mkdir()
    for name in ("sbatch", "scontrol", "sacct", "squeue"):
        (tools / name).write_text(
            f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/asked\necho JobState=RUNNING\n'
        )
        (tools / name).chmod(0o755)
    process = local(
        "pretrain",
        "train",
        *words(run, shards, *RUN),
        "slurm.where=local",
        **INTERACTIVE,
        PATH=f"{tools}:{without_slurm}",
    )
    while not log(run):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode == 75 and history(run)[-1]["event"] == "left", history(run)
    assert not (tmp_path / "asked").exists()
    finish(local("pretrain", "train", *words(run, shards, *RUN)))
    finish(start(words(tmp_path / "peace", shards, *RUN)))
    assert outcome(run) == outcome(tmp_path / "peace")


def test_the_log_goes_offline_where_no_server_is_reached(local, tmp_path, shards, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    run = tmp_path / "run"
    finish(local("pretrain", "train", *words(run, shards, *RUN, "log.wandb=online")))
    assert len(list((run / "wandb").glob("offline-run-*/*.wandb"))) == 1


def test_a_container_without_its_tool_is_told(local, tmp_path, shards):
    run = tmp_path / "run"
    said = finish(
        local("pretrain", "train", *words(run, shards, *RUN), "slurm.container=people.sif"), code=2
    )
    assert "error: apptainer cannot be started: no such file" in said and events(run) == [
        "submitted",
        "start",
        "stop",
    ]


def test_what_a_person_must_mend_is_not_tried_again(local, tmp_path, shards):
    run = tmp_path / "run"
    (run / "slurm").mkdir(parents=True)
    (run / "bad").mkdir()
    said = finish(local("pretrain", "train", *words(run, shards, *RUN)), code=2)
    assert "error: run=" in said and "holds bad" in said
    assert events(run) == ["submitted", "start", "stop"] and history(run)[-1]["code"] == 2


def test_where_slurm_is_wanted_and_is_not_there(local, tmp_path, shards):
    said = finish(
        local("pretrain", "train", *words(tmp_path / "run", shards), "slurm.where=slurm"), code=2
    )
    assert (
        "slurm.where=slurm, but sbatch is not on PATH" in said and not (tmp_path / "run").exists()
    )
    said = finish(
        local(
            "pretrain",
            "train",
            *words(tmp_path / "run", shards),
            "slurm.where=local",
            "slurm.nodes=2",
            "slurm.gpus_per_node=64",
        ),
        code=2,
    )
    assert "slurm.nodes=2, but slurm.where=local" in said and "slurm.gpus_per_node=64" in said
    assert "is not a verb of python -m slurm" in finish(local("predict", "x.yaml"), code=2)
    assert "a config file comes first" in finish(local("pretrain", "train", "run=x"), code=2)


def end(rank, code, reason="why"):
    return {"rank": rank, "code": code, "reason": reason}


@pytest.mark.parametrize(
    "ends,asked,what,code,rank",
    [
        ([end(0, 0), end(1, 0)], None, "done", 0, None),
        ([end(0, 75), end(1, 75)], "SIGTERM", "requeue", 75, None),
        ([end(0, 75), end(1, 75)], None, "requeue", 75, None),
        ([end(1, 76), end(0, -9)], None, "again", 74, 0),  # the peer's word was quicker
        ([end(1, 1), end(0, 76)], None, "again", 1, 1),
        ([end(1, 76), end(0, 76)], None, "again", 74, 1),
        ([end(1, 74), end(0, 76)], None, "again", 74, 1),
        # All leave with the code of the one that failed, which each of them names.
        (
            [
                end(1, 74, "rank 0 stopped at step 5, saving: no space (exit code 74)"),
                end(0, 74, "rank 0: no space"),
            ],
            None,
            "again",
            74,
            0,
        ),
        (
            [
                end(0, 76, "rank 1 hangs at step 5, for 601 s"),
                end(1, 76, "rank 1 hangs at step 5, for 601 s"),
            ],
            None,
            "again",
            74,
            1,
        ),
        ([end(0, 137)], None, "again", 74, 0),  # SIGKILL, as a container's tool tells it
        ([end(0, -11)], None, "again", 1, 0),
        (
            [end(0, 1, "RuntimeError: CUDA error: uncorrectable ECC error encountered")],
            None,
            "again",
            74,
            0,
        ),
        ([end(0, 1, "RuntimeError: shapes differ")], None, "again", 1, 0),
        ([end(1, 74), end(0, 75)], "SIGTERM", "requeue", 75, None),
        ([end(1, 74), end(0, 2)], None, "stop", 2, 0),
        (
            [end(1, -11), end(0, 75)],
            "SIGUSR2",
            "requeue",
            75,
            None,
        ),  # cut short by what was passed on
        ([end(1, 76), end(0, 2)], "SIGTERM", "stop", 2, 0),
        ([end(0, 77), end(1, 77)], None, "stop", 77, 0),
    ],
)
def test_verdict_on_exit_codes(ends, asked, what, code, rank):
    found = judge(ends, asked)
    assert (found.what, found.code, found.first.get("rank")) == (what, code, rank)


def told_of(event, step=0, kind="environment", node="n1", at=0):
    return {"event": event, "step": step, "kind": kind, "node": node, "time": at}


def test_only_faults_without_progress_count_each_kind_for_itself():
    lines = [
        told_of("submitted"),
        told_of("fault"),
        told_of("start"),
        told_of("lost", 10),
        told_of("signal", 10),
        told_of("requeue", 10),
        told_of("fault", 10),
        told_of("fault", 10, "program"),
    ]
    assert (
        count_tries(lines, 10, "environment"),
        count_tries(lines, 10, "program"),
        count_tries(lines, 20, "environment"),
    ) == (2, 1, 0)
    assert count_tries([*lines, told_of("submitted")], 10, "environment") == 0


def test_a_node_is_left_out_that_the_environment_names_twice():
    lines = [
        told_of("submitted"),
        told_of("fault", 0),
        told_of("fault", 5, node="n2"),
        told_of("fault", 10, "program", "n2"),
    ]
    assert not any(is_named_twice(lines, node, 100) for node in ("n1", "n2", "n3"))
    lines.append(told_of("lost", 20, at=60))
    assert is_named_twice(lines, "n1", 100) and not is_named_twice(lines, "n2", 100)
    assert not is_named_twice(lines, "n1", 86401)  # the first is a day old
    assert not is_named_twice([*lines, told_of("submitted")], "n1", 100)


def test_the_table_of_exit_codes_is_what_the_code_does():
    """Code, kind and what the supervisor makes of it, of each row of docs/training.md, and no code
    is missing."""
    text = (ROOT / "docs" / "training.md").read_text().split("## Exit codes")[1].split("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ][2:]
    found = {row[0]: (row[1], row[-1]) for row in rows}
    assert set(found) == {*(str(int(code)) for code in ExitCode), "128 + n"}
    for code in ExitCode:
        kind, done = found[str(int(code))]
        verdict = judge([end(0, code)], None)
        assert done.startswith(
            {
                "done": "the job ends",
                "requeue": "back into the queue",
                "stop": "stops",
                "again": "starts all again",
            }[verdict.what]
        ), code
        if verdict.what == "again":
            assert (
                kind == verdict.kind
                and ("slurm.environment_retries" if kind == "environment" else "slurm.retries")
                in done
            )
    for error in (UserError, EnvironmentFault):
        assert (
            found[str(int(error.exit_code))][0]
            == {UserError: "user", EnvironmentFault: "environment"}[error]
        )


def test_documented_examples():
    for module in (site, cli_args, exit_policy):
        found = doctest.testmod(module)
        assert found.attempted and not found.failed


@pytest.mark.parametrize(
    "nodes, ranks, over, wrong",
    [(2, 4, None, False), (2, 1, None, True), (2, 1, 2, False), (3, 2, 4, True)],
)
def test_copies_that_do_not_fit_are_told_before_submitting(nodes, ranks, over, wrong):
    config = {
        "batch": 240,
        "grad_accum_steps": 1,
        "device": "cpu",
        "parallel": "hsdp",
        "shard_over": over,
    }
    faults = check.find_batch_faults(config, SlurmConfig(nodes=nodes, ranks_per_node=ranks))
    assert bool(faults) == wrong
    assert all(
        f"{nodes * ranks} processes" in fault and str(over or ranks) in fault for fault in faults
    )
    assert not check.find_batch_faults(
        {**config, "parallel": "fsdp"}, SlurmConfig(nodes=nodes, ranks_per_node=ranks)
    )
