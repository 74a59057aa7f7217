"""Evaluations on a real SLURM: jobs from training whose numbers come back, arrays over checkpoints, one element again alone."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from clusters import Cluster, events, history, log, need_slurm, rank_process, steps, told
from runs import ROOT, finetune_words, finish, outcome, start

from engine import checkpoint, evaluations
from slurm import evaluate

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
    return cluster.slurm("finetune", "train", *finetune_words(run, "hand", shards, *RUN, f"evaluate.keys={','.join(CHEAP)}"),
                         "slurm.hours=1", "slurm.cores_per_node=2", "slurm.evaluate.cores=1", *more)


def settled(cluster, run, expected):
    """Wait until all evaluations have said something; {step: outcome}."""
    cluster.wait_for(run, lambda: len(evaluations.outcomes(run)) == len(expected) and not evaluations.unsettled(run))
    assert sorted(evaluations.outcomes(run)) == expected
    return evaluations.outcomes(run)


def words_of(run, step):
    """Everything that an evaluation's job wrote."""
    return told(evaluations.place(run, step))


def test_fine_tuning_on_two_nodes_is_evaluated_beside_and_preempted(cluster, tmp_path, people):
    run, peace = tmp_path / "run", tmp_path / "peace"
    beside = start(["train", *finetune_words(peace, "hand", people["hand"], *RUN)], 2, "finetune")
    assert "2 nodes, 2 processes" in submit(cluster, run, people["hand"], "evaluate.every=20", "slurm.nodes=2")
    cluster.reach(run, 22)
    still = rank_process(run, 1)
    os.kill(still, signal.SIGSTOP)  # or it would end while all this is tried
    cluster.wait_for(run, lambda: evaluate.number_of(run, 20))

    def harm():
        cluster.ask("sbatch", "--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 2")
        cluster.wait_for(run, lambda: "signal" in events(run))
        os.kill(still, signal.SIGCONT)

    measured = cluster.harmed(run, 22, harm)
    assert measured[1] == 0 and [line["restart"] for line in history(run) if line["event"] == "start"] == [0, 1], told(run)
    found = settled(cluster, run, [20, STEPS])
    # Each evaluation once, though the run began twice, and the one that was running may have been preempted as well.
    for step, outcome_of in found.items():
        cluster.finish(evaluations.place(run, step))
        of_job = events(evaluations.place(run, step))
        assert (of_job.count("submitted"), of_job.count("done")) == (1, 1), words_of(run, step)
        line = next(line for line in log(run) if line["step"] == step)
        assert outcome_of["numbers"].items() <= line.items() and 0 < line["evaluation/pa_mpjpe"] < 200
        written = json.loads((evaluations.place(run, step) / "evaluation.json").read_text())
        assert written["step"] == step and written["rows"][0]["values"]["mpjpe"]["mean"] == line["evaluation/mpjpe"]
    # Step 40's came when the run was over.
    ends = {step: history(evaluations.place(run, step))[-1]["time"] for step in found}
    assert ends[STEPS] > history(run)[-1]["time"]
    assert steps(run) == list(range(2, STEPS + 1, 2)), told(run)
    finish(beside)
    ours, theirs = outcome(run), outcome(peace)
    lines = [{name: value for name, value in line.items() if not name.startswith("evaluation/")} for line in ours[-1]]
    assert (*ours[:-1], lines) == theirs, told(run)
    said = cluster.slurm("status", run)
    assert "evaluations: 2 came in, of step 40 last" in said and "failed" not in said


def test_what_is_mistyped_is_told_before_anything_is_sent(cluster, tmp_path, people):
    run = tmp_path / "run"
    arguments = finetune_words(run, "hand", people["hand"], *RUN, "evaluate.every=20", "evaluate.keys=clip=3",
                               "evaluate.shards=nowhere")
    said = cluster.slurm("finetune", "train", *arguments, "slurm.evaluate.partition=gold", "slurm.evaluate.gpu=1", code=2)
    assert "evaluate: unknown key 'clip'" in said and "unknown key 'slurm.evaluate.gpu'" in said, said
    said = cluster.slurm("finetune", "train", *arguments[:-2], "evaluate.shards=nowhere", "slurm.evaluate.partition=gold",
                         "slurm.evaluate.hours=90", "slurm.evaluate.gpus=1", code=2)
    assert "nowhere" in said and "slurm.evaluate.partition=gold is none of this cluster's: high, main" in said, said
    said = cluster.slurm("finetune", "train", *arguments[:-2], "slurm.evaluate.hours=90", "slurm.evaluate.gpus=1", code=2)
    assert "slurm.evaluate.gpus=1, but a node of partition main has 0 GPUs" in said and "slurm.evaluate.hours=90" in said, said
    assert not run.exists()
    assert "run=nowhere: there is no such folder" in cluster.slurm("finetune", "evaluate", "run=nowhere", code=2)
    assert "there is nothing at nowhere" in cluster.slurm("pretrain", "probe", "nowhere", "shards=x", code=2)
    assert "has no whole checkpoint" in cluster.slurm("finetune", "evaluate", f"run={tmp_path}", "checkpoints=all", code=2)
