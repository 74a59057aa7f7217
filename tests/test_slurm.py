"""Runs on a real SLURM with two emulated nodes: the weights are those of a run left in peace,
whatever is done to it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy
import pytest
from clips import make_clip, write_shards
from clusters import Cluster, Table, events, history, need_slurm, rank_process, steps, told
from runs import ROOT, finish, outcome, start, words
from safetensors.numpy import load_file

STEPS, AT = 100, 25
RUN = [f"steps={STEPS}", "checkpoint.every=10", "log.every=1"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    need_slurm()
    made = Cluster(tmp_path_factory.mktemp("slurm") / "cluster", GPUS="2")
    yield made
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
def peaceful(cluster, shards, tmp_path_factory):
    """One process without a cluster, and two, which nobody disturbs."""
    folder = tmp_path_factory.mktemp("peaceful")
    finish(start(words(folder / "one", shards, *RUN)))
    finish(start(words(folder / "two", shards, *RUN), processes=2))
    return folder


def submit(cluster, run, shards, *more):
    return cluster.slurm(
        "pretrain",
        "train",
        *words(run, shards, *RUN),
        "slurm.nodes=2",
        "slurm.hours=1",
        "slurm.lost_s=20",
        *more,
    )


def check_complete(run, peaceful):
    """As two processes in peace: weights bit for bit, and each step once in the log."""
    assert steps(run) == list(range(1, STEPS + 1)), told(run)
    assert outcome(run) == outcome(peaceful / "two"), told(run)


def saved(run):
    """Whether all ranks left of their own accord when they were asked."""
    return [line["codes"] for line in history(run) if line["event"] in ("requeue", "left")] == [
        [75]
    ]


def test_two_nodes_give_what_one_process_gives(cluster, tmp_path, shards, peaceful):
    run = tmp_path / "run"
    said = submit(cluster, run, shards)
    assert "2 nodes, 2 processes" in said and "56 clips in 4 shards" in said
    cluster.finish(run)
    assert events(run) == ["submitted", "start", "done"], told(run)
    assert history(run)[1]["nodes"] == ["127.0.0.11", "127.0.0.12"]
    check_complete(run, peaceful)
    one, two = (
        load_file(sorted(r.glob("checkpoints/step-*"))[-1] / "model.safetensors")
        for r in (peaceful / "one", run)
    )
    assert max(abs(one[name] - two[name]).max() for name in one) < 1e-4


def test_each_gpu_of_each_node_has_a_process(cluster, tmp_path, shards):
    """The nodes' GPUs are links to nothing; what counts is which process gets which."""
    run = tmp_path / "run"
    said = submit(
        cluster,
        run,
        shards,
        "slurm.gpus_per_node=2",
        "slurm.triage=false",
        "device=cpu",
        "steps=10",
        "optim.warmup=2",
    )
    assert "2 nodes, 4 processes" in said
    place = rank_process(run, 3, seconds=90)
    words_of = Path(f"/proc/{place}/environ").read_text().split("\0")
    variables = dict(word.split("=", 1) for word in words_of if "=" in word)
    expected = {
        "RANK": "3",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "CUDA_VISIBLE_DEVICES": "0,1",
        "SLURMD_NODENAME": "127.0.0.12",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    assert {name: variables.get(name) for name in expected} == expected
    assert variables["MASTER_ADDR"].startswith("127.")  # an address, no name
    cluster.finish(run)
    assert steps(run) == list(range(1, 11)), told(run)


def test_a_killed_rank_is_started_again_with_all_others(cluster, tmp_path, shards, peaceful, table):
    run = tmp_path / "run"
    submit(cluster, run, shards)
    measured = cluster.harmed(run, AT, lambda: os.kill(rank_process(run, 1), signal.SIGKILL))
    assert events(run) == ["submitted", "start", "fault", "start", "done"], told(run)
    fault = history(run)[2]
    assert (fault["rank"], fault["node"], fault["code"]) == (
        1,
        "127.0.0.12",
        -9,
    ) and "SIGKILL" in fault["reason"]
    assert [line["restart"] for line in history(run) if line["event"] == "start"] == [
        0,
        0,
    ]  # in the same job
    check_complete(run, peaceful)
    table.add(
        "SIGKILL of one rank", measured, "the supervisors start all ranks again in the same job"
    )


def test_an_operator_requeues(cluster, tmp_path, shards, peaceful, table):
    run = tmp_path / "run"
    submit(cluster, run, shards)
    measured = cluster.harmed(
        run, AT, lambda: cluster.ask("scontrol", "requeue", cluster.job(run)["JobId"])
    )
    assert [line["restart"] for line in history(run) if line["event"] == "start"] == [0, 1], told(
        run
    )
    assert saved(run) and measured[1] == 0, told(run)
    check_complete(run, peaceful)
    table.add(
        "`scontrol requeue` by an operator", measured, "SIGTERM: saved, SLURM starts it again"
    )


@pytest.mark.long
def test_a_higher_partition_preempts(cluster, tmp_path, shards, peaceful, table):
    run = tmp_path / "run"
    submit(cluster, run, shards)
    measured = cluster.harmed(
        run,
        AT,
        lambda: cluster.ask(
            "sbatch",
            "--partition=high",
            "--nodes=2",
            "--exclusive",
            "--output=/dev/null",
            "--wrap=sleep 3",
        ),
    )
    assert [line["restart"] for line in history(run) if line["event"] == "start"] == [0, 1], told(
        run
    )
    assert saved(run) and measured[1] == 0, told(run)
    check_complete(run, peaceful)
    table.add("preemption by a higher partition, for 3 s", measured, "SIGTERM: saved, requeued")


@pytest.mark.long
def test_the_time_limit_is_no_end(cluster, tmp_path, shards, peaceful, table):
    """SLURM checks limits twice a minute: a rank that stands still meanwhile keeps the run from
    its end."""
    run = tmp_path / "run"
    submit(cluster, run, shards, "slurm.hours=0.01667", "slurm.warn_s=10")
    cluster.reach(run, AT)
    still = rank_process(run, 1)

    def harm():
        os.kill(still, signal.SIGCONT)

    os.kill(still, signal.SIGSTOP)
    cluster.wait_for(run, lambda: "signal" in events(run))
    measured = cluster.harmed(run, AT, harm)
    assert history(run)[2]["signal"] == "SIGUSR2" and saved(run) and measured[1] == 0, told(run)
    assert [line["restart"] for line in history(run) if line["event"] == "start"] == [0, 1], told(
        run
    )
    check_complete(run, peaceful)
    table.add("the time limit's warning", measured, "SIGUSR2: saved, requeued")


@pytest.mark.long
def test_cancelled_by_hand_it_stays_so_until_it_is_requeued_by_hand(
    cluster, tmp_path, shards, peaceful
):
    run = tmp_path / "run"
    submit(cluster, run, shards)
    cluster.reach(run, AT)
    still = rank_process(run, 1)
    os.kill(still, signal.SIGSTOP)  # or it would end while all this is tried
    assert "in use by job" in submit_again(cluster, run, shards)
    cluster.slurm("requeue", tmp_path, code=2)
    assert "running" in cluster.slurm("status", run) and str(run) in cluster.slurm("status")
    cluster.slurm("cancel", run)
    os.kill(still, signal.SIGCONT)
    cluster.wait_for(run, lambda: cluster.job(run)["JobState"] == "CANCELLED")
    time.sleep(6)  # longer than a requeued job waits
    said = cluster.slurm("status", run)
    assert cluster.job(run)["JobState"] == "CANCELLED" and events(run).count("start") == 1, told(
        run
    )
    assert "cancelled" in said and f"of {STEPS}" in said and "SIGTERM" in said
    assert "to step 100" in cluster.slurm("logs", run)
    assert "passed on to 1 ranks" in cluster.slurm("logs", run, "--job")
    cluster.slurm("logs", run, "--rank", "2", code=2)
    code, away = run / "code", run / "away"
    os.rename(code, away)
    assert "code/0001 is gone" in cluster.slurm("requeue", run, code=2)
    os.rename(away, code)
    cluster.slurm("requeue", run)
    cluster.finish(run)
    check_complete(run, peaceful)
    assert "done" in cluster.slurm("status", run) and "nothing to cancel" in cluster.slurm(
        "cancel", run
    )


def submit_again(cluster, run, shards):
    return cluster.slurm(
        "pretrain", "train", *words(run, shards, *RUN), "slurm.nodes=2", "slurm.hours=1", code=2
    )


def test_what_a_person_must_mend_is_not_tried_again(cluster, tmp_path, shards):
    """The job's own checks, after the shards went while it waited."""
    mine, run = tmp_path / "mine", tmp_path / "run"
    shutil.copytree(shards, mine)
    cluster.slurm(
        "pretrain",
        "train",
        *words(run, mine, *RUN),
        "slurm.nodes=2",
        "slurm.hours=1",
        "slurm.options.begin=now+3",
    )
    shutil.rmtree(mine)
    cluster.finish(run)
    assert events(run) == ["submitted", "start", "stop"], told(run)
    end = history(run)[-1]
    assert (
        end["code"] == 2 and str(mine) in end["reason"] and cluster.job(run)["ExitCode"] == "2:0"
    ), told(run)
    assert "stopped" in cluster.slurm("status", run)


def test_a_fault_of_the_program_is_tried_again_so_many_times(cluster, tmp_path, shards):
    run = tmp_path / "run"
    submit(cluster, run, shards, "slurm.options.begin=now+3", "slurm.retries=1")
    path = run / "code" / "0001" / "pretrain" / "train.py"
    fault = "import os\n\nif os.environ['RANK'] == '1':\n    raise RuntimeError('made to fail')\n"
    path.write_text(f"{path.read_text()}\n{fault}")
    cluster.finish(run)
    assert events(run) == ["submitted", "start", "fault", "start", "fault", "stop"], told(run)
    end = history(run)[-1]
    assert end["code"] == 1, told(run)
    assert [line["kind"] for line in history(run) if line["event"] == "fault"] == ["program"] * 2, (
        told(run)
    )
    assert end["reason"].startswith(
        "rank 1 on 127.0.0.12: RuntimeError: made to fail; 2 times at step 0"
    ), end
    assert cluster.job(run)["JobState"] == "FAILED"


def test_a_snapshot_that_is_gone_is_said_by_the_job(cluster, tmp_path, shards):
    run = tmp_path / "run"
    submit(cluster, run, shards, "slurm.options.begin=now+3")
    shutil.rmtree(run / "code")
    cluster.wait_for(run, lambda: cluster.job(run)["JobState"] == "FAILED")
    assert (
        "code/0001 is gone" in cluster.slurm("logs", run) and cluster.job(run)["ExitCode"] == "2:0"
    )


def test_all_faults_are_told_at_once_and_nothing_is_made(cluster, tmp_path, shards):
    run = tmp_path / "run"
    said = cluster.slurm(
        "pretrain",
        "train",
        *words(run, tmp_path / "nowhere", "optim.lrr=1", "steps=x"),
        "slurm.nodes=3",
        "slurm.partition=gold",
        "slurm.hour=1",
        code=2,
    )
    for part in (
        "'optim.lrr'",
        "'optim.lr'",
        "'steps=x'",
        "nowhere",
        "unknown key 'slurm.hour'",
        "'slurm.hours'",
    ):
        assert part in said, said
    said = cluster.slurm(
        "pretrain",
        "train",
        *words(run, shards, "batch=8"),
        "slurm.nodes=3",
        "slurm.gpus_per_node=4",
        "slurm.ranks_per_node=1",
        "slurm.memory_gb=900",
        "slurm.cores_per_node=64",
        "slurm.constraint=fast",
        "slurm.hours=200",
        code=2,
    )
    for part in (
        "batch=8 does not divide by 3 processes",
        "slurm.gpus_per_node=4, but a node of partition main has 2 GPUs",
        "slurm.memory_gb=900",
        "slurm.cores_per_node=64",
        "slurm.constraint=fast",
        "slurm.hours=200 is above",
        "48 hours",
    ):
        assert part in said, said
    said = cluster.slurm("pretrain", "train", *words(run, shards), "slurm.partition=gold", code=2)
    assert "slurm.partition=gold is none of this cluster's: high, main" in said
    assert "slurm.nodes=3, but partition main has 2 nodes" in cluster.slurm(
        "pretrain", "train", *words(run, shards, "batch=24"), "slurm.nodes=3", code=2
    )
    assert "slurm.options.time is set by slurm.hours" in cluster.slurm(
        "pretrain", "train", *words(run, shards), "slurm.options.time=1", code=2
    )
    assert "sbatch refused" in cluster.slurm(
        "pretrain", "train", *words(tmp_path / "other", shards), "slurm.options.nonsense=1", code=2
    )
    assert not run.exists()


def test_a_dry_run_prints_the_script_and_the_config(cluster, tmp_path, shards):
    run, site = tmp_path / "run", tmp_path / "site.yaml"
    site.write_text(
        "command: slurm\npartition: high\nsetup: ['module load cuda', 'export "
        "A=1,2']\ngpus_per_node: 2\n"
        "container: people.sif\ncontainer_tool: pyxis\ncontainer_options: "
        "['--container-writable']\n"
        "options: {reservation: mine, exclusive: ''}\n"
    )
    said = cluster.slurm(
        "pretrain",
        "train",
        *words(run, shards),
        f"slurm.site={site}",
        "slurm.hours=0.5",
        "--dry-run",
    )
    for part in (
        "#SBATCH --partition=high",
        "#SBATCH --time=30",
        "#SBATCH --reservation=mine",
        "#SBATCH --exclusive\n",
        "module load cuda\nexport A=1,2\n",
        "--container-image=people.sif",
        "--container-writable",
        "\nbatch: 8\n",
        "#SBATCH --gpus-per-node=2",
        "#SBATCH --cpus-per-task=4",
        "SRUN_CPUS_PER_TASK=4",
        "#SBATCH --requeue",
        "#SBATCH --signal=USR2@180",
    ):
        assert part in said, said
    assert not run.exists()
    said = cluster.slurm(
        "pretrain", "train", *words(run, shards), "slurm.gpus_per_node=1", "--dry-run"
    )
    assert "#SBATCH --cpus-per-task=2" in said  # half of a node's GPUs, half of its cores


@pytest.fixture
def video(tmp_path):
    """40 frames of grey, and boxes of a person in each of them."""
    (tmp_path / "in").mkdir()
    with av.open(str(tmp_path / "in" / "walk.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 160, 128, "yuv420p"
        for i in range(40):
            pixels = numpy.full((128, 160, 3), 5 * i, numpy.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    (tmp_path / "boxes.csv").write_text(
        "video,frame,x0,y0,x1,y1,person\n"
        + "".join(f"walk.mp4,{i},60,30,90,100,ann\n" for i in range(40))
    )
    return tmp_path


def test_an_array_shares_the_shards_of_data_pairs(cluster, tmp_path, video):
    """Its bytes are those of one process; one element that was cancelled runs again alone."""
    keys = [
        f"videos={tmp_path / 'in'}",
        f"boxes={tmp_path / 'boxes.csv'}",
        "size=64",
        "clips_per_shard=1",
        "workers=1",
    ]
    subprocess.run(
        [
            sys.executable,
            "-m",
            "data",
            "pairs",
            "configs/data/video.yaml",
            *keys,
            f"out={tmp_path / 'one'}",
        ],
        cwd=ROOT,
        check=True,
    )
    out, record = tmp_path / "out", tmp_path / "out.slurm"
    said = cluster.slurm(
        "data",
        "pairs",
        "configs/data/video.yaml",
        *keys,
        f"out={out}",
        "slurm.jobs=2",
        "slurm.at_once=1",
        "slurm.hours=1",
        "slurm.options.begin=now+4",
    )
    assert "jobs" in said and "data pairs" in said
    parts = [record / "part-1", record / "part-2"]
    cluster.slurm("cancel", parts[1])
    cluster.finish(parts[0])
    assert "1 cancelled, 1 done" in cluster.slurm("status", out)
    assert len(list(out.glob("*.tar"))) == 2
    assert "submitted again" in cluster.slurm("requeue", out)
    cluster.finish(parts[1])
    assert events(parts[0]).count("start") == 1
    assert "2 done" in cluster.slurm("status", out)
    for path in sorted((tmp_path / "one").glob("*.tar")):
        assert (out / path.name).read_bytes() == path.read_bytes()
    assert len(list(out.glob("*.tar"))) == len(list((tmp_path / "one").glob("*.tar"))) == 4
