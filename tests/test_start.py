"""What goes wrong before the first step: all ranks hear of it, by name; and what a launcher's
environment may say."""

import re
import sys

import pytest
import toy

from engine.distributed.rank_env import RankEnv, count_threads, read_rank_env
from engine.errors import UserError

CODES = {"user": 2, "environment": 74, "program": 1}


def errors(output):
    return [line for line in output.splitlines() if line.startswith("error: ")]


def long(*values):
    return pytest.param(*values, marks=pytest.mark.long)


@pytest.mark.parametrize(
    "where,kind,on",
    [
        ("import", "program", 1),
        ("group", "environment", 1),
        ("index", "environment", 0),
        ("announce", "environment", 0),
        long("import", "user", 0),
        long("trainer", "environment", 1),
        long("index", "program", 0),
        long("preflight", "program", 1),
    ],
)
def test_a_failure_of_the_start_is_told_by_all_ranks_with_its_kind(tmp_path, where, kind, on):
    processes = toy.start(tmp_path / "run", {"plant": where, "kind": kind, "on": on}, world=2)
    outputs = toy.finish(
        processes, CODES[kind]
    )  # which waits for less than a collective or the store would
    for rank, output in enumerate(outputs):
        (said,) = errors(output)
        assert ("Traceback" in output) == (rank == on and kind == "program"), output
        assert f"planted in {where}" in said
        told = rf"error: rank {on} stopped while starting: .*\(exit code {CODES[kind]}"
        assert re.match(rf"error: rank {on}: " if rank == on else told, said), outputs


def test_a_rank_that_starts_late_still_hears_why(tmp_path):
    """Rank 0 failed long before rank 1 was there: it waits for a while, to tell it."""
    faults = {"plant": "import", "kind": "user", "on": 0}
    processes = toy.start(tmp_path / "run", faults, world=2, delays=[0, 6])
    outputs = toy.finish(processes, 2)
    assert errors(outputs[1]) == [
        "error: rank 0 stopped while starting: planted in import (exit code 2)"
    ]


TWO = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "node",
    "MASTER_PORT": "29500",
}


def test_a_launcher_s_environment_is_read():
    assert read_rank_env({}) == RankEnv(0, 1, 0, 1, None, None)
    assert read_rank_env(dict.fromkeys(TWO, "")) == RankEnv()
    assert read_rank_env({"WORLD_SIZE": " ", "LOCAL_RANK": "2"}) == RankEnv(local=2)
    assert read_rank_env(TWO) == RankEnv(1, 2, 1, 2, "node", 29500)
    assert (
        read_rank_env({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"})
        == RankEnv()
    )


@pytest.mark.parametrize(
    "changed,said",
    [
        ({"RANK": ""}, "WORLD_SIZE=2 is set in the environment without RANK"),
        ({"WORLD_SIZE": ""}, "RANK=1 is set in the environment without WORLD_SIZE"),
        (
            {"WORLD_SIZE": "two"},
            "WORLD_SIZE=two in the environment is not a whole number from 1 on",
        ),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE=0 in the environment is not a whole number from 1 on"),
        ({"RANK": "-1"}, "RANK=-1 in the environment is not a whole number from 0 on"),
        ({"RANK": "2"}, "RANK=2 in the environment is not below WORLD_SIZE=2"),
        ({"LOCAL_RANK": "1.0"}, "LOCAL_RANK=1.0 in the environment is not a whole number"),
        ({"LOCAL_RANK": "2"}, "LOCAL_RANK=2 in the environment is not below LOCAL_WORLD_SIZE=2"),
        ({"LOCAL_WORLD_SIZE": "x"}, "LOCAL_WORLD_SIZE=x in the environment is not a whole number"),
        (
            {"LOCAL_WORLD_SIZE": "4"},
            "LOCAL_WORLD_SIZE=4 in the environment does not fit WORLD_SIZE=2",
        ),
        ({"MASTER_ADDR": ""}, "WORLD_SIZE=2 is set in the environment without MASTER_ADDR"),
        ({"MASTER_PORT": ""}, "WORLD_SIZE=2 is set in the environment without MASTER_PORT"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT=http in the environment is not a whole number"),
        ({"MASTER_PORT": "65536"}, "MASTER_PORT=65536 in the environment is not below"),
        ({"WORLD_SIZE": "9" * 5000}, "is not a whole number"),
    ],
)
def test_an_environment_that_contradicts_itself_is_told_in_one_sentence(changed, said):
    with pytest.raises(UserError) as error:
        read_rank_env({**TWO, **changed})
    assert (
        str(error.value).startswith(said)
        or said == "is not a whole number"
        and said in str(error.value)
    )
    assert "\n" not in str(error.value)


def test_threads_are_those_of_the_environment():
    assert [
        count_threads({"OMP_NUM_THREADS": text}) for text in ("", " ", "3", "4,2", " 2 , 1")
    ] == [None, None, 3, 4, 2]
    for text in ("four", "0", "-2", "2,", "4;2", "1.5"):
        with pytest.raises(UserError, match="OMP_NUM_THREADS=.* is not a number of threads"):
            count_threads({"OMP_NUM_THREADS": text})


@pytest.mark.parametrize(
    "changed,code,said",
    [
        ({"WORLD_SIZE": "2"}, 2, "error: WORLD_SIZE=2 is set in the environment without RANK"),
        ({"WORLD_SIZE": "", "RANK": "", "OMP_NUM_THREADS": "1,2"}, 0, "resumes at 0"),
        (
            {"OMP_NUM_THREADS": "many"},
            2,
            "error: OMP_NUM_THREADS=many in the environment is not a number of threads",
        ),
    ],
)
def test_a_run_says_so_without_a_traceback(tmp_path, changed, code, said):
    (process,) = toy.start(tmp_path / "run", {}, "steps=4", env=changed)
    (output,) = toy.finish([process], code)
    assert said in output and "Traceback" not in output, output


PROBE = """
import os, time
from engine import cli
from pretrain import encoders, probe

def load(source, device):
    if os.environ["RANK"] == "1":
        raise ValueError("planted in a probe")
    time.sleep(300)  # as in a collective that the other never joins

encoders.load, probe.read_split, probe._check_seen = load, lambda *args: None, lambda *args: []
cli.run(probe.main)
"""


def test_a_probe_of_several_processes_has_a_watch_too(tmp_path):
    command = [sys.executable, "-c", PROBE, "weights", f"shards={tmp_path}", "device=cpu"]
    outputs = toy.finish(toy.launch(command, 2), 1)
    assert errors(outputs[0]) == [
        "error: rank 1 stopped while starting: ValueError: planted in a probe (exit code 1)"
    ]
    assert (
        errors(outputs[1]) == ["error: rank 1: ValueError: planted in a probe"]
        and "Traceback" in outputs[1]
    )
