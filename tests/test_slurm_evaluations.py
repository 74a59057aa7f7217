"""Evaluations on a real SLURM: jobs from training whose numbers come back, arrays over checkpoints,
one element again alone."""

import contextlib
import json
import os
import signal
import subprocess
import sys

import pytest
from clusters import Cluster, events, history, log, need_slurm, rank_process, steps, told
from runs import ROOT, finetune_words, finish, outcome, start
from runs import words as pretrain_words

from engine.checkpoint.history import list_complete
from engine.training import eval_jobs
from slurm import evaluations

STEPS = 40
RUN = [f"steps={STEPS}", "checkpoint.every=10", "checkpoint.keep=1"]
CHEAP = ["clips=2", "examples=1", "device=cpu"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    need_slurm()
    made = Cluster(tmp_path_factory.mktemp("slurm") / "cluster")
    yield made
    made.stop()


def submit(cluster, run, shards, *more):
    return cluster.slurm(
        "finetune",
        "train",
        *finetune_words(run, "hand", shards, *RUN, f"evaluate.keys={','.join(CHEAP)}"),
        "slurm.hours=1",
        "slurm.cores_per_node=2",
        "slurm.evaluate.cores=1",
        *more,
    )


def settled(cluster, run, expected):
    """Wait until all evaluations have said something; {step: outcome}."""
    cluster.wait_for(
        run, lambda: len(eval_jobs.outcomes(run)) == len(expected) and not eval_jobs.unsettled(run)
    )
    assert sorted(eval_jobs.outcomes(run)) == expected
    return eval_jobs.outcomes(run)


def words_of(run, step):
    """Everything that an evaluation's job wrote."""
    return told(eval_jobs.place(run, step))


def test_fine_tuning_on_two_nodes_is_evaluated_beside_and_preempted(cluster, tmp_path, people):
    run, peace = tmp_path / "run", tmp_path / "peace"
    beside = start(finetune_words(peace, "hand", people["hand"], *RUN), 2, "finetune train")
    assert "2 nodes, 2 processes" in submit(
        cluster, run, people["hand"], "evaluate.every=20", "slurm.nodes=2"
    )
    cluster.reach(run, 22)
    still = rank_process(run, 1)
    os.kill(still, signal.SIGSTOP)  # or it would end while all this is tried
    cluster.wait_for(run, lambda: evaluations.job_number(run, 20))

    def harm():
        cluster.ask(
            "sbatch",
            "--partition=high",
            "--nodes=2",
            "--exclusive",
            "--output=/dev/null",
            "--wrap=sleep 2",
        )
        cluster.wait_for(run, lambda: "signal" in events(run))
        os.kill(still, signal.SIGCONT)

    measured = cluster.harmed(run, 22, harm)
    assert measured[1] == 0 and [
        line["restart"] for line in history(run) if line["event"] == "start"
    ] == [0, 1], told(run)
    found = settled(cluster, run, [20, STEPS])
    # Each evaluation once, though the run began twice, and the one that was running may have been
    # preempted as well.
    for step, outcome_of in found.items():
        cluster.finish(eval_jobs.place(run, step))
        of_job = events(eval_jobs.place(run, step))
        assert (of_job.count("submitted"), of_job.count("done")) == (1, 1), words_of(run, step)
        line = next(line for line in log(run) if line["step"] == step)
        assert (
            outcome_of["numbers"].items() <= line.items() and 0 < line["evaluation/pa_mpjpe"] < 200
        )
        written = json.loads((eval_jobs.place(run, step) / "evaluation.json").read_text())
        assert (
            written["step"] == step
            and written["rows"][0]["values"]["mpjpe"]["mean"] == line["evaluation/mpjpe"]
        )
    # Step 40's came when the run was over.
    ends = {step: history(eval_jobs.place(run, step))[-1]["time"] for step in found}
    assert ends[STEPS] > history(run)[-1]["time"]
    assert steps(run) == list(range(2, STEPS + 1, 2)), told(run)
    finish(beside)
    ours, theirs = outcome(run), outcome(peace)
    lines = [
        {name: value for name, value in line.items() if not name.startswith("evaluation/")}
        for line in ours[-1]
    ]
    assert (*ours[:-1], lines) == theirs, told(run)
    said = cluster.slurm("status", run)
    assert "evaluations: 2 came in, of step 40 last" in said and "failed" not in said


def test_what_is_mistyped_is_told_before_anything_is_sent(cluster, tmp_path, people):
    run = tmp_path / "run"
    arguments = finetune_words(
        run, "hand", people["hand"], *RUN, "evaluate.every=20", "evaluate.keys=clip=3"
    )
    said = cluster.slurm(
        "finetune", "train", *arguments, "slurm.evaluate.hours=90", "slurm.evaluate.gpus=1", code=2
    )
    for part in (
        "evaluate: unknown key 'clip'",
        "slurm.evaluate.gpus=1, but a node of partition main has 0 GPUs",
        "slurm.evaluate.hours=90 is above the limit",
    ):
        assert part in said, said
    assert "has no complete checkpoint" in cluster.slurm(
        "finetune", "evaluate", str(tmp_path), "checkpoints=all", code=2
    )
    assert not run.exists()


@pytest.mark.long
def test_more_that_is_mistyped(cluster, tmp_path, people):
    run = tmp_path / "run"
    arguments = finetune_words(
        run, "hand", people["hand"], *RUN, "evaluate.every=20", "evaluate.shards=nowhere"
    )
    said = cluster.slurm("finetune", "train", *arguments, "slurm.evaluate.partition=gold", code=2)
    assert (
        "nowhere" in said
        and "slurm.evaluate.partition=gold is none of this cluster's: high, main" in said
    ), said
    said = cluster.slurm("finetune", "train", *arguments, "slurm.evaluate.gpu=1", code=2)
    assert (
        "unknown key 'slurm.evaluate.gpu'" in said and "did you mean 'slurm.evaluate.gpus'" in said
    ), said
    assert "run=nowhere: there is no such folder" in cluster.slurm(
        "finetune", "evaluate", "nowhere", code=2
    )
    assert "there is nothing at nowhere" in cluster.slurm(
        "pretrain", "probe", "nowhere", "shards=x", code=2
    )
    said = cluster.slurm("finetune", "evaluate", str(tmp_path), "slurm.jobs=2", code=2)
    assert "finetune evaluate takes checkpoints=all or checkpoints=STEP,STEP" in said
    assert "2 are named" in cluster.slurm(
        "pretrain", "probe", "a", "b", "checkpoints=all", "shards=x", code=2
    )
    assert "holds no slurm/job.json" in cluster.slurm("evaluate", tmp_path, code=2)
    assert not run.exists()


@pytest.fixture(scope="module")
def trained(tmp_path_factory, people):
    """A fine-tuning run with checkpoints of steps 2, 4 and 6."""
    run = tmp_path_factory.mktemp("trained") / "run"
    finish(
        start(
            finetune_words(run, "hand", people["hand"], "steps=6", "checkpoint.every=2"),
            1,
            "finetune train",
        )
    )
    return run


@pytest.mark.long
def test_an_array_evaluates_checkpoints_and_what_failed_runs_again_alone(
    cluster, trained, tmp_path
):
    run, record = trained, trained / "evaluations.slurm"
    weights = eval_jobs.checkpoint_of(run, 4) / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    said = cluster.slurm(
        "finetune",
        "evaluate",
        run,
        "checkpoints=all",
        *CHEAP,
        "slurm.hours=1",
        "slurm.cores_per_node=1",
        "slurm.at_once=2",
    )
    assert "jobs" in said and "finetune evaluate" in said
    parts = {step: record / f"step-{step:08d}" for step in (2, 4, 6)}
    for part in parts.values():
        cluster.finish(part)
    assert [history(part)[-1]["event"] for part in parts.values()] == ["done", "stop", "done"], (
        told(parts[4])
    )
    assert (
        "model.safetensors does not hold the bytes that were written"
        in history(parts[4])[-1]["reason"]
    )
    assert "2 done, 1 stopped" in cluster.slurm("status", run / "evaluations")
    weights.write_bytes(whole)
    said = cluster.slurm("requeue", run / "evaluations")
    assert "submitted again: " in said and "," not in said and "_" not in said  # one job, no array
    cluster.finish(parts[4])
    said = cluster.slurm("status", run / "evaluations")
    assert "3 done" in said and "3/3" in said
    assert [events(part).count("start") for part in parts.values()] == [1, 2, 1]
    for step in parts:
        assert (
            json.loads((run / f"evaluation-step-{step:08d}" / "evaluation.json").read_text())[
                "step"
            ]
            == step
        )
    assert not eval_jobs.outcomes(run)  # nobody asked for log=true


@pytest.mark.long
def test_one_job_evaluates_for_the_log_or_probes(cluster, trained, people, tmp_path):
    path = eval_jobs.checkpoint_of(trained, 6)
    cluster.slurm(
        "finetune",
        "evaluate",
        path,
        "log=true",
        *CHEAP,
        "slurm.hours=1",
        "slurm.cores_per_node=1",
    )
    run = tmp_path / "pretrained"
    finish(
        start(
            pretrain_words(
                run,
                people["hand"],
                "data.pairs.crops=hand",
                "steps=4",
                "checkpoint.every=2",
                "data.val_clips=2",
            )
        )
    )
    cluster.slurm(
        "pretrain",
        "probe",
        run,
        f"shards={people['body']}",
        "clips=24",
        "device=cpu",
        "checkpoints=2,4",
        "slurm.hours=1",
        "slurm.cores_per_node=1",
    )
    cluster.finish(eval_jobs.place(trained, 6).with_suffix(".slurm"))
    found = next(line for line in log(trained) if line["step"] == 6)
    assert eval_jobs.outcomes(trained)[6]["numbers"].items() <= found.items()
    for step in (2, 4):
        cluster.finish(run / "probes.slurm" / f"step-{step:08d}")
        rows = json.loads((run / "probes" / f"step-{step:08d}.json").read_text())["rows"]
        assert [row["name"] for row in rows[:2]] == ["mean pose", "random encoder"] and 0 < rows[2][
            "pa_mpjpe"
        ] < 300
    assert "2 done" in cluster.slurm("status", run / "probes")


@pytest.mark.long
def test_an_evaluation_beyond_its_limit_does_not_begin_for_ever(cluster, trained):
    """SLURM checks limits twice a minute: the process stands still until the warning comes."""
    path = eval_jobs.checkpoint_of(trained, 2)
    cluster.slurm(
        "finetune",
        "evaluate",
        path,
        *CHEAP,
        f"out={trained}/late",
        "slurm.hours=0.01667",
        "slurm.warn_s=10",
        "slurm.cores_per_node=1",
    )
    record = trained / "late.slurm"
    still = rank_process(trained, 0, word=f"out={trained}/late")
    os.kill(still, signal.SIGSTOP)
    cluster.wait_for(record, lambda: "signal" in events(record))
    with contextlib.suppress(ProcessLookupError):  # SLURM wakes what it ends
        os.kill(still, signal.SIGCONT)
    cluster.finish(record)
    assert events(record) == ["submitted", "start", "signal", "stop"], told(record)
    assert "not done within slurm.hours=0.01667" in history(record)[-1]["reason"]


@pytest.mark.long
def test_where_nobody_may_submit_it_is_said_once_and_training_goes_on(cluster, tmp_path, people):
    run = tmp_path / "run"
    submit(
        cluster,
        run,
        people["hand"],
        "evaluate.every=10",
        "slurm.evaluate.partition=high",
        "slurm.options.begin=now+2",
    )
    cluster.ask("scontrol", "update", "partitionname=high", "state=drain")
    try:
        cluster.finish(run)
    finally:
        cluster.ask("scontrol", "update", "partitionname=high", "state=up")
    assert [line["event"] for line in history(run)] == [
        "submitted",
        "start",
        "evaluation",
        "done",
    ], told(run)
    found = eval_jobs.outcomes(run)
    assert sorted(found) == [10, 20, 30, 40] and all(
        "not submitted: sbatch refused the job" in one["error"] for one in found.values()
    ), found
    assert list_complete(run)[-1] == STEPS  # earlier ones were free to go
    assert "step 10 failed: not submitted" in cluster.slurm("status", run)
    left = list_complete(run)
    said = cluster.slurm("evaluate", run)
    assert [f"step {step}: job" in said for step in left] == [True] * len(left), said
    cluster.wait_for(
        run, lambda: all("numbers" in eval_jobs.outcomes(run).get(step, {}) for step in left)
    )
    cluster.wait_for(run, lambda: not eval_jobs.unsettled(run))
    assert "no checkpoint that is there is without" in cluster.slurm("evaluate", run)


@pytest.mark.long
def test_on_this_machine_the_first_process_waits_for_the_last_evaluation(tmp_path, people):
    run = tmp_path / "run"
    finish(
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "slurm",
                "finetune",
                "train",
                *finetune_words(
                    run,
                    "hand",
                    people["hand"],
                    *RUN,
                    "evaluate.every=20",
                    f"evaluate.keys={','.join(CHEAP)}",
                ),
                "slurm.where=local",
                "slurm.ranks_per_node=2",
            ],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    )
    assert events(run) == ["submitted", "start", "done"], told(run)
    assert [line["step"] for line in log(run) if "evaluation/iou" in line] == [20, STEPS]


@pytest.mark.long
def test_an_array_makes_people_and_what_failed_runs_again_alone(cluster, tmp_path):
    out, record = tmp_path / "out", tmp_path / "out.slurm"
    cluster.slurm(
        "data",
        "make",
        "configs/data/people_hand_easy.yaml",
        f"out={out}",
        "clips=4",
        "clips_per_shard=2",
        "size=64",
        "workers=1",
        "slurm.jobs=2",
        "slurm.at_once=1",
        "slurm.hours=1",
    )
    parts = [record / "part-1", record / "part-2"]
    cluster.wait_for(parts[0], lambda: any(out.glob("*.yaml")))
    bad = out / "shard-000001.tar"
    bad.write_bytes(b"no tar")
    for part in parts:
        cluster.finish(part)
    assert [history(part)[-1]["event"] for part in parts] == ["done", "stop"], told(parts[1])
    assert str(bad) in history(parts[1])[-1]["reason"]
    assert (
        "1 done, 1 stopped" in cluster.slurm("status", out)
        and out.joinpath("shard-000000.tar").exists()
    )
    bad.unlink()
    assert "submitted again" in cluster.slurm("requeue", out)
    cluster.finish(parts[1])
    assert [events(part).count("start") for part in parts] == [1, 2]
    said = cluster.slurm("status", out)
    assert "2 done" in said and "100%" in said
    assert len(list(out.glob("*.tar"))) == 2
