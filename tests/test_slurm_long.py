"""What takes minutes on a real SLURM: dead nodes, a dead controller, cut cables, sweeps. Three
emulated nodes, runs on two."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from clips import make_clip, write_shards
from clusters import SCRIPT, Cluster, Table, events, history, log, need_slurm, steps, told
from runs import ROOT, finish, outcome, start, words

pytestmark = pytest.mark.long
STEPS, AT = 100, 25
RUN = [f"steps={STEPS}", "checkpoint.every=10", "log.every=1"]
INSIDE = os.environ.get(
    "CLUSTER"
)  # this very file, run by itself beside a cluster with networks of its own
outside = pytest.mark.skipif(bool(INSIDE), reason="needs no networks")
inside = pytest.mark.skipif(not INSIDE, reason="run by test_networks")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    need_slurm()
    made = Cluster(
        INSIDE or tmp_path_factory.mktemp("slurm") / "cluster", inside=bool(INSIDE), NODES="3"
    )
    yield made
    if not INSIDE:
        made.stop()


@pytest.fixture(scope="module")
def table():
    made = Table()
    yield made
    made.write()


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, [make_clip(i, size=56) for i in range(60)], 15)
    return folder


@pytest.fixture(scope="module")
def peaceful(shards, tmp_path_factory):
    run = tmp_path_factory.mktemp("peaceful") / "two"
    finish(start(words(run, shards, *RUN), processes=2))
    return run


def submit(cluster, run, shards, *more):
    return cluster.slurm(
        "pretrain",
        "train",
        *words(run, shards, *RUN),
        "slurm.nodes=2",
        "slurm.hours=1",
        "slurm.lost_s=15",
        *more,
    )


def check_complete(run, peaceful):
    assert steps(run) == list(range(1, STEPS + 1)), told(run)
    assert outcome(run) == outcome(peaceful), told(run)


def nodes_of_starts(run):
    return [line["nodes"] for line in history(run) if line["event"] == "start"]


@outside
def test_a_node_is_set_down(cluster, tmp_path, shards, peaceful, table):
    run = tmp_path / "run"
    submit(cluster, run, shards)
    measured = cluster.harmed(
        run,
        AT,
        lambda: cluster.ask(
            "scontrol", "update", "nodename=127.0.0.12", "state=down", "reason=test"
        ),
    )
    check_complete(run, peaceful)
    table.add("a node set down", measured, "SLURM ends the job at once and requeues it")


@outside
def test_a_node_dies(cluster, tmp_path, shards, peaceful, table):
    """Its daemon, its steps, the supervisor and the ranks in one moment. SLURM would notice after
    SlurmdTimeout."""
    run = tmp_path / "run"
    submit(cluster, run, shards)
    cluster.reach(run, AT)
    node = nodes_of_starts(run)[0][1]

    def harm():
        os.kill(cluster.daemon(f"slurmd.{node}"), signal.SIGKILL)
        for number in on_node(node):
            os.kill(number, signal.SIGKILL)

    measured = cluster.harmed(run, AT, harm)
    assert "lost" in events(run) and node not in nodes_of_starts(run)[1], told(run)
    check_complete(run, peaceful)
    table.add("a node dies", measured, "node 0's supervisor misses it and requeues, on other nodes")
    subprocess.run(
        [SCRIPT, "node", cluster.folder, node.split(".")[-1].replace("1", "", 1)], check=True
    )


def on_node(node):
    """Process numbers of all tasks of a node, and of the steps that hold them."""
    found = set()
    for place in Path("/proc").iterdir():
        try:
            if (
                place.name.isdigit()
                and f"\0SLURMD_NODENAME={node}\0" in f"\0{(place / 'environ').read_text()}"
            ):
                found.add(int(place.name))
                parent = (place / "stat").read_text().rpartition(")")[2].split()[1]
                if Path(f"/proc/{parent}/comm").read_text().startswith("slurmstepd"):
                    found.add(int(parent))
        except (OSError, UnicodeDecodeError):
            continue  # it has ended meanwhile
    return found


@outside
def test_a_supervisor_is_killed(cluster, tmp_path, shards, peaceful, table):
    run = tmp_path / "run"
    submit(cluster, run, shards)
    cluster.reach(run, AT)
    node = nodes_of_starts(run)[0][0]
    leader = [
        n
        for n in on_node(node)
        if b"submitit.core._submit\0" in Path(f"/proc/{n}/cmdline").read_bytes()
        and not Path(f"/proc/{n}/cmdline").read_bytes().startswith(b"srun")
    ]
    assert len(leader) == 1
    measured = cluster.harmed(run, AT, lambda: os.kill(leader[0], signal.SIGKILL))
    assert [line["restart"] for line in history(run) if line["event"] == "start"] == [0, 1], told(
        run
    )
    check_complete(run, peaceful)
    table.add(
        "SIGKILL of node 0's supervisor",
        measured,
        "its ranks die with it; the batch script requeues",
    )


@outside
def test_the_controller_dies_and_comes_back(cluster, tmp_path, shards, peaceful, table):
    run = tmp_path / "run"
    submit(cluster, run, shards)
    cluster.reach(run, AT)
    os.kill(cluster.daemon("slurmctld"), signal.SIGKILL)
    seen = max(steps(run))
    time.sleep(2)
    assert max(steps(run)) > seen  # it trains on
    subprocess.run(["slurmctld", "-i"], env=cluster.env, check=True)
    cluster.finish(run)
    assert events(run).count("start") == 1, told(run)
    check_complete(run, peaceful)
    table.add("the controller killed, back after 2 s", (0, 0), "nothing: the job trains on")


@outside
def test_a_sweep_with_one_element_preempted(cluster, tmp_path, shards, table):
    base = tmp_path / "sweep"
    cluster.slurm(
        "pretrain",
        "train",
        *words(base, shards, *RUN, "log.wandb=offline"),
        "sweep.optim.lr=1e-2,5e-3",
        "slurm.hours=1",
        "slurm.options.exclusive=",
    )
    runs = [base / "optim.lr=1e-2", base / "optim.lr=5e-3"]
    cluster.reach(runs[1], AT)
    node = nodes_of_starts(runs[1])[0][0]
    measured = cluster.harmed(
        runs[1],
        AT,
        lambda: cluster.ask(
            "sbatch",
            "--partition=high",
            "--nodes=1",
            "--exclusive",
            f"--nodelist={node}",
            "--output=/dev/null",
            "--wrap=sleep 3",
        ),
    )
    cluster.finish(runs[0])
    assert [events(run).count("start") for run in runs] == [1, 2], told(runs[0]) + told(runs[1])
    for run, rate in zip(runs, ("1e-2", "5e-3"), strict=True):
        alone = tmp_path / rate
        finish(start(words(alone, shards, *RUN, f"optim.lr={rate}")))
        assert outcome(run) == outcome(alone), told(run)
        assert steps(run) == list(range(1, STEPS + 1))
        assert list((run / "wandb").glob("offline-run-*"))
    names = {(run / "wandb_id.txt").read_text() for run in runs}
    assert len(names) == 2
    said = cluster.slurm("status", base)
    assert f"step {STEPS}/{STEPS}" in said and "2 done" in said and "100%" in said
    table.add(
        "one run of a sweep preempted",
        measured,
        "it is requeued; with wandb on, whose process SLURM ends too",
    )


@outside
@pytest.mark.parametrize(
    "name", ["a_short_cut_is_no_fault", "a_node_is_cut_off_for_good", "a_folder_is_not_shared"]
)
def test_networks(name):
    """Beside a cluster in private namespaces, where each node has a network stack of its own."""
    need_slurm()
    if not shutil.which("ip", path=f"{os.environ['PATH']}:/sbin:/usr/sbin"):
        pytest.skip("iproute2 is not installed")
    if subprocess.run(
        ["unshare", *([] if os.getuid() == 0 else ["-U", "--map-current-user"]), "-n", "true"],
        capture_output=True,
    ).returncode:
        pytest.skip("network namespaces are not allowed here")
    done = subprocess.run(
        [
            SCRIPT,
            "with",
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            __file__,
            "-k",
            f"test_{name}",
        ],
        cwd=ROOT,
        env={**os.environ, "NODES": "3"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr


def link(node, way):
    subprocess.run(["ip", "link", "set", f"cable{node.removeprefix('n')}", way], check=True)


@inside
def test_a_short_cut_is_no_fault(cluster, tmp_path, shards, peaceful, table):
    run = tmp_path / "run"
    submit(cluster, run, shards)
    cluster.reach(run, AT)
    node, at = nodes_of_starts(run)[0][1], time.time()
    link(node, "down")
    time.sleep(6)
    link(node, "up")
    cluster.finish(run)
    assert events(run) == ["submitted", "start", "done"], told(run)
    check_complete(run, peaceful)
    first = next(line for line in log(run) if line["time"] > at + 6)
    table.add(
        "a node's cable cut for 6 s", (first["time"] - at, 0), "nothing: it waits and continues"
    )


@inside
def test_a_node_is_cut_off_for_good(cluster, tmp_path, shards, peaceful, table):
    """Its processes live: they must end by themselves, or two would work in one folder."""
    run = tmp_path / "run"
    submit(cluster, run, shards)
    cluster.reach(run, AT)
    node = nodes_of_starts(run)[0][1]
    there = on_node(node)
    assert there
    measured = cluster.harmed(run, AT, lambda: link(node, "down"), seconds=300)
    assert "lost" in events(run) and node not in nodes_of_starts(run)[-1], told(run)
    assert not [n for n in on_node(node) if "pretrain" in Path(f"/proc/{n}/cmdline").read_text()]
    check_complete(run, peaceful)
    table.add(
        "a node's cable cut for good",
        measured,
        "its own ranks end; the others' supervisor requeues, on other nodes",
    )


@inside
def test_a_folder_is_not_shared(cluster, tmp_path, shards):
    """Node 2 sees an empty folder in its place."""
    mine = tmp_path / "mine"
    mine.mkdir()
    os.kill(cluster.daemon("slurmd.n2"), signal.SIGTERM)
    time.sleep(1)
    subprocess.run(
        [
            os.environ["IN_NODE"],
            "n2",
            "unshare",
            "-m",
            "sh",
            "-c",
            f"mount -t tmpfs none {mine} && exec slurmd -N n2",
        ],
        env=cluster.env,
        check=True,
    )
    run = mine / "run"
    submit(cluster, run, shards, "slurm.options.nodelist=n1,n2")
    cluster.wait_for(run, lambda: cluster.job(run)["JobState"] == "FAILED")
    said = cluster.slurm("logs", run)
    assert f"error: node n2 does not see {run}" in said and "share" in said
    number = json.loads((run / "slurm" / "submitted.json").read_text())["job"]
    assert cluster.ask("scontrol", "show", "job", "-o", number).count("ExitCode=2:0") == 1
