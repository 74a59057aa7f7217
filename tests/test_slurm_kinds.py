"""What a real SLURM makes of failures of each kind, and of one element of an array; ranks are
programs of a few lines."""

import time

import pytest
from clusters import Cluster, events, history, need_slurm, send_ranks, told

# Waits for the file "go" beside the folder, or to be asked to leave.
WAITS = """
import os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
signal.signal(signal.SIGUSR1, lambda number, frame: sys.exit(75))
with open(folder / "starts", "a") as file:
    file.write(os.environ["SLURMD_NODENAME"] + "\\n")
while not (folder.parent / "go").exists():
    time.sleep(0.05)
"""
# Fails with a code on the node that it first comes to, and on no other; on all where the code says
# so.
FAILS = """
import os, pathlib, sys
folder, node = pathlib.Path(sys.argv[1]), os.environ["SLURMD_NODENAME"]
with open(folder / "starts", "a") as file:
    file.write(node + "\\n")
if EVERYWHERE or (folder / "starts").read_text().split()[0] == node:
    print("error: reading " + str(folder) + " failed", flush=True)
    sys.exit(CODE)
"""


BROKEN_DISK = """
if os.environ["SLURMD_NODENAME"] == "127.0.0.11":
    def check_disks(folders):
        return [f"{folders[0]} cannot be used: input/output error"]
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    need_slurm()
    made = Cluster(tmp_path_factory.mktemp("slurm") / "cluster", KILLWAIT="3")
    yield made
    made.stop()


@pytest.fixture(scope="module")
def sent(cluster, tmp_path_factory):
    """{name: folder} of jobs that run and wait side by side."""
    base, both = (
        tmp_path_factory.mktemp("kinds"),
        {"nodes": 2, "environment_retries": 1, "retries": 0},
    )
    jobs = {
        "twice": (fails(74), {}),
        "triage": (fails(0), {"triage": BROKEN_DISK, "node_cache": "/scratch"}),
        "environment": (fails(74, True), both),
        "program": (fails(1, True), both),
        "user": (fails(2, True), both),
    }
    return {
        name: send_ranks(cluster, base / name, program, **keys)[0]
        for name, (program, keys) in jobs.items()
    }


def starts(folder):
    path = folder / "starts"
    return path.read_text().split() if path.exists() else []


def fails(code, everywhere=False):
    return f"CODE, EVERYWHERE = {code}, {everywhere}\n{FAILS}"


def facts(folder, event, *names):
    return [
        tuple(line.get(name) for name in names)
        for line in history(folder)
        if line["event"] == event
    ]


def test_an_element_of_an_array_that_requeues_leaves_the_others_alone(cluster, sent, tmp_path):
    """The last one, whose SLURM_JOB_ID is the whole array's: one runs on, one that was cancelled by
    hand stays so."""
    parts = send_ranks(cluster, tmp_path / "sweep", WAITS, 3)
    for part in parts:
        cluster.wait_for(part, lambda part=part: starts(part))
    cluster.slurm("cancel", parts[0])
    cluster.wait_for(parts[0], lambda: cluster.job(parts[0])["JobState"] == "CANCELLED")
    cluster.slurm("requeue", parts[2])
    cluster.wait_for(parts[2], lambda: len(starts(parts[2])) == 2)
    time.sleep(2)  # another that was put back would start with it
    assert (
        cluster.job(parts[0])["JobState"] == "CANCELLED"
        and cluster.job(parts[1])["JobState"] == "RUNNING"
    )
    (tmp_path / "sweep" / "go").touch()
    for part in parts[1:]:
        cluster.finish(part)
    assert [len(starts(part)) for part in parts] == [1, 1, 2]
    assert [line["restart"] for line in history(parts[1]) if line["event"] == "start"] == [0], told(
        parts[1]
    )


def test_a_node_that_fails_twice_is_left_out(cluster, sent):
    """The environment's fault: once more in the same job, then on another node."""
    run = sent["twice"]
    cluster.finish(run)
    assert events(run) == [
        "submitted",
        "start",
        "fault",
        "start",
        "fault",
        "exclude",
        "requeue",
        "start",
        "done",
    ], told(run)
    first, other = starts(run)[0], starts(run)[-1]
    assert starts(run) == [first, first, other] and other != first
    assert facts(run, "fault", "kind", "code", "node") == [("environment", 74, first)] * 2
    assert (
        facts(run, "exclude", "nodes") == [([first],)] and cluster.job(run)["ExcNodeList"] == first
    )
    assert cluster.job(run)["ExitCode"] == "0:0"


def test_a_node_that_fails_its_triage_is_left_out_before_a_rank_starts(cluster, sent):
    run = sent["triage"]
    cluster.finish(run)
    assert events(run) == ["submitted", "fault", "exclude", "requeue", "start", "done"], told(run)
    assert facts(run, "fault", "kind", "node", "reason") == [
        (
            "environment",
            "127.0.0.11",
            "node 127.0.0.11: /scratch cannot be used: input/output error",
        )
    ]
    assert starts(run) == ["127.0.0.12"] and cluster.job(run)["ExcNodeList"] == "127.0.0.11"


def test_faults_of_each_kind_have_a_count_of_their_own(cluster, sent):
    """The environment's where no other node is left, the program's, and the user's, which none may
    repeat."""
    environment, program, user = sent["environment"], sent["program"], sent["user"]
    for run in (environment, program, user):
        cluster.finish(run)
    assert events(environment) == ["submitted", "start", "fault", "start", "fault", "stop"], told(
        environment
    )
    assert (
        "2 times at step 0, more than slurm.environment_retries=1"
        in history(environment)[-1]["reason"]
    )
    assert cluster.job(environment)["ExitCode"] == "74:0"
    assert events(program) == ["submitted", "start", "fault", "stop"], told(program)
    assert cluster.job(program)["ExitCode"] == "1:0" and facts(program, "fault", "kind") == [
        ("program",)
    ]
    assert (
        events(user) == ["submitted", "start", "stop"] and cluster.job(user)["ExitCode"] == "2:0"
    ), told(user)
