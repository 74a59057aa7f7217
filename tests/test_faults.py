"""File operations of a run fail: nothing complete is lost, and it ends well or in a sentence."""

import os

import pytest
from faults import check
from faults.bench import Bench
from faults.campaign import draw_case, table
from faults.plan import read_case, sites
from faults.workloads import EVERY, MOSTLY_SMALL, STEPS

SEED, CASES = (
    int(os.environ.get(f"COUNTERPOSE_FAULTS_{name}", default))
    for name, default in (("SEED", 1), ("CASES", 2000))
)
CHUNKS = 20

# One for each way in which a run lost something once, or could; what it says is shown by
# `python -m tests.faults try "CASE"`.
DOZEN = [
    # A checkpoint that cannot be read is not one that is damaged.
    "older: open run/checkpoints/step-*/model.safetensors 1 * ESTALE",
    "older: read run/checkpoints/step-*/complete.json 1 * EIO | opendir run/checkpoints 1 * EMFILE",
    "older: opendir run/checkpoints 1 * EACCES | mmap run/checkpoints/* 1 * ENOMEM",
    # The log is not cut where it cannot be read or written.
    "older: read run/log.jsonl 1 * EIO | rename run/log.jsonl 1 1 EIO"
    " | write run/log.cut 1 1 FULL, write run/log.jsonl 2 1 KILL",
    # A full disk, for a while and to the end; then a kill in the save that finds room again.
    "fresh: write run* 20 200 ENOSPC"
    " | create run/checkpoints/* 3 5 ENOSPC, rename run/checkpoints/step-*/complete.json 2 1 KILL",
    "older: write run/checkpoints/* 4 * FULL",
    # Everything under the run's folder is away for a while, or for good.
    "alone: * run* 400 60 ESTALE | * run* 300 * EIO",
    # What is left of a killed save cannot be removed.
    "wreck: unlink run/checkpoints/* 1 * EBUSY",
    "damaged: rename run/checkpoints/* 1 1 KILL"
    " | sync run/checkpoints/* 2 3 EIO, lock run/lease.lock 1 * ENOSYS",
    "done: stat run/checkpoints/* 1 * ETIMEDOUT | close run/log.jsonl 1 5 EIO",
    "back: read run/checkpoints/step-*/model.safetensors 1 4 EIO, write run/captures/* 1 1 ENOSPC",
    # Shards here and through the cache.
    "local: readdir shards 2 * ETIMEDOUT | pread shards/* 5 2 ESTALE, write shards/* 3 * ENOSPC",
    "file: write cache/* 2 1 ENOSPC, open cache/* 3 1 EMFILE"
    " | read store/* 2 2 EIO, lock cache/* 1 * ENOSYS | pread cache/* 9 1 EIO",
]


@pytest.fixture(scope="module")
def bench():
    try:
        bench = Bench()
    except RuntimeError as reason:
        pytest.skip(str(reason))
    with bench:
        yield bench


@pytest.mark.kill
@pytest.mark.parametrize("case", DOZEN)
def test_a_run_whose_file_operations_fail_loses_nothing(bench, case):
    outcome = bench.run_case(read_case(case))
    assert not outcome.violations, f"{outcome.case}\n{outcome.said}"
    assert outcome.struck


@pytest.mark.kill
@pytest.mark.long
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_random_faults_lose_nothing(bench, chunk):
    """COUNTERPOSE_FAULTS_SEED and COUNTERPOSE_FAULTS_CASES choose others, and more."""
    size, broken = CASES // CHUNKS, []
    for number in range(chunk * size, (chunk + 1) * size):
        outcome = bench.run_case(draw_case(bench, MOSTLY_SMALL, SEED, number))
        if outcome.violations:
            broken.append(
                "\n    ".join(
                    [
                        f'{SEED}/{number}: python -m tests.faults try "{outcome.case}"',
                        *outcome.violations,
                    ]
                )
            )
    assert not broken, "\n".join([f"{len(broken)} of {size} cases", *broken])


# The suite itself: what it strikes, and that it would tell a loss.


def test_a_rule_strikes_the_calls_that_it_names_and_no_other(bench):
    places = bench.begin("fresh")
    run = read_case("fresh: write run/log.jsonl 3 2 ENOSPC").starts[0]
    code, said, calls = bench.start("fresh", places, run, 1)
    lines = [call for call in calls if (call.name, call.path) == ("write", "run/log.jsonl")]
    assert code == 0 and [call.error for call in lines[:5]] == [0, 0, 28, 28, 0]
    assert [call for call in calls if call.struck] == lines[2:4]
    assert {call.phase for call in calls} == {"start", "steps", "end"}
    listed = sites(calls)
    assert ("rename", f"run/checkpoints/step-{EVERY:08d}/complete.json") in listed
    assert ("create", "run/checkpoints/.writing-*-step-00000003/state.json") in listed
    assert "no space left on the device" in said.lower()


def test_what_is_lost_is_told(bench):
    reference = bench.reference("fresh")
    assert sorted(reference.complete) == [*range(EVERY, STEPS, EVERY), STEPS]

    def found(steps=(6, 9, 12), lines=6, rest=b"", **changed):
        complete = {step: {**reference.complete[step], **changed} for step in steps}
        return check.Found(complete, [], [], reference.lines[:lines], rest)

    def lost(after, before=None, made=()):
        return [
            *check.lost_checkpoints(before or found(), after, made, reference),
            *check.lost_lines(before or found(), after, False),
        ]

    assert lost(found()) == [] and lost(found((6, 12, 15), 7), made=(15,)) == []
    assert lost(found((6, 9))) == ["the complete checkpoint of step 12 is gone"]
    assert lost(found((9, 12))) == ["the complete checkpoint of step 6 is gone"]
    assert lost(found((6, 9, 12)), made=(15,)) == ["the complete checkpoint of step 15 is gone"]
    assert "has not the state.json" in lost(found(**{"state.json": b"{}"}))[0]
    assert lost(found(lines=5)) == ["the log had 6 lines up to step 12 and has lost some: now 5"]
    assert lost(found(rest=b'{"step"')) == ["the log ends in half a line"]
    moved = found((6, 9))
    moved.aside.append(reference.complete[12])
    assert lost(moved) == []
    end = found((6, 18, STEPS))
    assert (
        check.bad_end(0, "", {"EIO"}, end)
        == []
        == check.bad_end(74, "error: a disk\n", {"EIO"}, found())
    )
    assert check.bad_end(0, "", {"EIO"}, found()) == [
        "it left with 0 and has no checkpoint of the last step"
    ]
    assert check.bad_end(2, "error: a disk\n", {"EIO"}, found()) == [
        "it left with 2, a person's fault, after EIO"
    ]
    assert check.bad_end(2, "error: a right\n", {"EACCES"}, found()) == []
    assert check.bad_end(74, "no word\n", {"EIO"}, found()) == [
        "it left with 74 and 0 lines 'error: ...'"
    ]
    assert (
        len(check.bad_end(1, "Traceback (most recent call last):\nOSError: x\n", {"EIO"}, found()))
        == 2
    )
    assert check.bad_end(-9, "", {"KILL"}, found()) == []


def test_a_case_is_drawn_from_its_seed_and_the_table_counts_it(bench, tmp_path):
    cases = [draw_case(bench, ["fresh", "older"], 7, number) for number in range(50)]
    assert cases == [draw_case(bench, ["fresh", "older"], 7, number) for number in range(50)]
    assert all(read_case(str(case)) == case for case in cases) and len(set(cases)) == 50
    outcome = bench.run_case(
        read_case("older: write run/log.jsonl 1 1 ENOSPC, sync run/checkpoints/* 3 1 EIO")
    )
    (tmp_path / "cases").write_text(outcome.line() + "\n")
    rows = table([tmp_path / "cases"]).splitlines()
    assert rows[0] == "1 cases" and rows[2] == "| operation | phase | EIO | ENOSPC |"
    assert "| sync | steps | 1 |  |" in rows or "| sync | end | 1 |  |" in rows
