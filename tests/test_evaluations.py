"""Evaluations of checkpoints beside a training run: which are due, what they keep, and where their
numbers go."""

import json
import signal
import struct
import time
from pathlib import Path

import pytest
from clips import make_clip, write_shards
from runs import finish, start, words
from wandb.proto import wandb_internal_pb2

from engine.checkpoint import checkpoints
from engine.checkpoint.history import list_complete
from engine.config.parser import parse
from engine.distributed.heartbeat import Whereabouts
from engine.errors import UserError
from engine.logging import metrics
from engine.training import eval_jobs
from finetune.evaluation.evaluate import main as evaluate_main
from pretrain import probe
from pretrain.config import PretrainConfig


def lines_of(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def sent(run):
    """The rows of a run's offline wandb files, in order. Their format: records in blocks, as
    LevelDB writes its log."""
    rows = []
    for path in sorted(Path(run).glob("wandb/offline-run-*/*.wandb")):
        data, at, whole = path.read_bytes(), 7, b""
        while at + 7 <= len(data):
            if 32768 - at % 32768 < 7:
                at += 32768 - at % 32768
            _, size, kind = struct.unpack("<IHB", data[at : at + 7])
            whole, at = whole + data[at + 7 : at + 7 + size], at + 7 + size
            if kind in (1, 4):  # a whole record, or the end of one
                record = wandb_internal_pb2.Record()
                record.ParseFromString(whole)
                whole = b""
                if record.WhichOneof("record_type") == "history":
                    rows.append(
                        {
                            ".".join(i.nested_key) or i.key: json.loads(i.value_json)
                            for i in record.history.item
                        }
                    )
    return rows


def test_numbers_go_into_the_line_of_their_step(tmp_path):
    path = tmp_path / "log.jsonl"
    before = [{"step": step, "time": 1.5, "loss/total": 1 / step} for step in (2, 4, 8, 40)]
    path.write_text("".join(json.dumps(line) + "\n" for line in before))
    found = {
        4: {"evaluation/iou": 0.5},
        5: {"evaluation/iou": 0.6},
        6: {"evaluation/iou": 0.7},
        44: {"evaluation/iou": 0.8},
    }
    # Nothing comes behind the last line: a run that resumes there tells by it whether its own line
    # is written.
    assert metrics.amend(path, found) == {4, 5, 6}
    after = lines_of(path)
    assert [line["step"] for line in after] == [2, 4, 5, 6, 8, 40]
    assert after[1] == {**before[1], "evaluation/iou": 0.5} and after[3]["evaluation/iou"] == 0.7
    assert [after[i] for i in (0, 4, 5)] == [before[i] for i in (0, 2, 3)]
    bytes_before, inode = path.read_bytes(), path.stat().st_ino
    assert (
        metrics.amend(path, found) == {4, 5, 6}
        and path.read_bytes() == bytes_before
        and path.stat().st_ino == inode
    )
    # A second attempt at an evaluation replaces the numbers of the first.
    metrics.amend(path, {4: {"evaluation/iou": 0.9}})
    assert lines_of(path)[1] == {**before[1], "evaluation/iou": 0.9} and len(lines_of(path)) == 6


def test_a_log_that_goes_on_writes_behind_what_was_added(tmp_path):
    log = metrics.Log(tmp_path, 0, "off", "x", {})
    log.write(10, {"loss/total": 1.0})
    log.write(20, {"loss/total": 0.5})
    eval_jobs.note(tmp_path, 10, {"evaluation/iou": 0.25}, "typed")
    eval_jobs.fail(tmp_path, 20, "out of memory")
    taken = {}
    eval_jobs.take_up(tmp_path, log, taken)
    log.write(30, {"loss/total": 0.25})
    log.close()
    assert [(line["step"], line.get("evaluation/iou")) for line in metrics.read(tmp_path)] == [
        (10, 0.25),
        (20, None),
        (30, None),
    ]
    assert taken.keys() == {10, 20}
    # Cut back to step 10 and resumed, the numbers are still there, once.
    log = metrics.Log(tmp_path, 10, "off", "x", {})
    eval_jobs.take_up(tmp_path, log, {})
    log.close()
    assert [(line["step"], line.get("evaluation/iou")) for line in metrics.read(tmp_path)] == [
        (10, 0.25)
    ]


def test_a_checkpoint_that_is_due_stays_until_its_outcome_is_there(tmp_path):
    config = parse(
        PretrainConfig,
        [
            *words(
                tmp_path,
                "x",
                "steps=90",
                "checkpoint.every=10",
                "evaluate.every=20",
                "evaluate.shards=y",
            )
        ],
        "pretrain train",
    )
    needed = eval_jobs.needed(config)
    assert [step for step in range(0, 100, 10) if needed(step)] == [
        20,
        40,
        60,
        80,
        90,
    ]  # the last one too

    def save(step):
        checkpoints.save(
            tmp_path,
            step,
            lambda path: checkpoints.write_tensors(path, {}),
            {},
            {"step": step},
            keep=1,
            needed=needed,
        )
        return list_complete(tmp_path)

    assert [save(step) for step in (10, 20, 30, 40, 50)] == [
        [10],
        [20],
        [20, 30],
        [20, 40],
        [20, 40, 50],
    ]
    assert eval_jobs.outstanding(tmp_path, 20, 90) == [20, 40]
    eval_jobs.note(tmp_path, 20, {"evaluation/iou": 0.5}, "typed")
    eval_jobs.fail(tmp_path, 40, "no GPU")
    assert eval_jobs.outstanding(tmp_path, 20, 90) == []
    assert save(60) == [60]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, [make_clip(i, size=56) for i in range(40)], 20)
    return folder


def test_a_run_that_is_killed_has_each_number_once(tmp_path, shards, people):
    """What a process of its own finds is what the run's own probe finds at that step."""
    run = tmp_path / "run"
    arguments = words(
        run,
        shards,
        "steps=20",
        "checkpoint.every=5",
        "checkpoint.keep=1",
        "log.every=1",
        "evaluate.every=10",
        "log.probe_every=10",
        f"probe.shards={people['body']}",
        "probe.clips=24",
        "log.wandb=offline",
    )
    process = start(arguments)
    while not (run / "evaluations" / "step-00000010" / "said.log").exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    said = finish(start(arguments))
    assert "evaluating: " in said
    log = lines_of(run / "log.jsonl")
    assert [line["step"] for line in log] == list(range(1, 21))
    with_numbers = [line for line in log if any(name.startswith("evaluation/") for name in line)]
    assert [line["step"] for line in with_numbers] == [10, 20] == sorted(eval_jobs.outcomes(run))
    for line in with_numbers:
        for name in ("mpjpe", "pa_mpjpe", "lambda", "mpjpe_random", "pa_mpjpe_constant"):
            assert line[f"evaluation/{name}"] == pytest.approx(line[f"probe/{name}"], rel=1e-4), (
                name
            )
    assert json.loads((run / "evaluations" / "shown.json").read_text()) == [10, 20]
    assert not eval_jobs.unsettled(run)
    shown = [row for row in sent(run) if "evaluation/step" in row]
    assert [(row["evaluation/step"], row["evaluation/mpjpe"]) for row in shown] == [
        (line["step"], line["evaluation/mpjpe"]) for line in with_numbers
    ]
    assert shown[-1]["_step"] > 20  # above all lines
    # Found later, of a run that is over: the command that evaluates brings it into the log itself.
    eval_jobs.note(run, 20, {"evaluation/mpjpe": 7.5}, "typed")
    assert eval_jobs.unsettled(run) == [20]
    eval_jobs.settle(run)
    assert metrics.read(run)[-1]["evaluation/mpjpe"] == 7.5 and len(metrics.read(run)) == 20


def test_what_is_mistyped_is_told(tmp_path, shards):
    for more, said in (
        (
            ["evaluate.every=5", "checkpoint.every=2"],
            "evaluate.every=5 is not a multiple of checkpoint.every=2",
        ),
        (["evaluate.every=1000"], "evaluate.shards is not set"),
        (["evaluate.keys=clips"], "evaluate.keys: 'clips' is not of the form key=value"),
    ):
        with pytest.raises(UserError, match=said):
            parse(PretrainConfig, words(tmp_path, shards, *more), "pretrain train")
    with pytest.raises(UserError, match="log=true, but .* is no checkpoint"):
        evaluate_main([str(tmp_path), "log=true"])
    with pytest.raises(UserError, match="is not one checkpoint"):
        probe.main([str(tmp_path), "shards=x", "log=true"])
    eval_jobs.place(tmp_path, 3).parent.mkdir()
    eval_jobs.file_of(tmp_path, 3).write_text("{")
    with pytest.raises(UserError, match="step-00000003.json is no outcome of an evaluation"):
        eval_jobs.outcomes(tmp_path)


class Never:
    """A StopRequest that never comes."""

    name = None

    def __bool__(self):
        return False


def test_an_evaluation_that_fails_is_no_fault_of_the_run(tmp_path, capsys):
    config = parse(
        PretrainConfig,
        words(
            tmp_path,
            "x",
            "steps=6",
            "checkpoint.every=3",
            "evaluate.every=3",
            "probe.shards=y",
            "evaluate.keys=clips=1",
        ),
        "pretrain train",
    )
    checkpoints.save(tmp_path, 3, lambda path: checkpoints.write_tensors(path, {}), {}, {"step": 3})
    log = metrics.Log(tmp_path, 0, "off", "x", {})
    log.write(3, {"loss/total": 1.0})
    beside = eval_jobs.Evaluations(config, tmp_path, log, Never())
    assert beside.finish(Whereabouts())
    beside.close()
    log.close()
    assert "the value is below 12" in eval_jobs.outcomes(tmp_path)[3]["error"]
    assert "warning: the evaluation of step 3 failed: 'clips=1'" in capsys.readouterr().err
    # A file that somebody wrote into is named, and no more than that.
    eval_jobs.file_of(tmp_path, 4).write_text("{")
    beside.turn()
    beside.turn()
    assert capsys.readouterr().err.count("step-00000004.json is no outcome") == 1
    assert list(metrics.read(tmp_path)[0]) == [
        "step",
        "time",
        "loss/total",
    ] and not eval_jobs.needed(config)(3)
