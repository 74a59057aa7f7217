"""What goes wrong before the first step: all ranks hear of it, by name; and what a launcher's environment may say."""

import re
import time

import pytest
import toy

from engine.errors import UserError
from engine.place import Place, count_threads, read_place

CODES = {"user": 2, "environment": 74, "program": 1}


def errors(output):
    return [line for line in output.splitlines() if line.startswith("error: ")]


@pytest.mark.parametrize("where,kind,on", [
    ("import", "user", 0), ("import", "program", 1), ("group", "environment", 1),
    ("trainer", "environment", 1), ("index", "program", 0), ("index", "environment", 0),
    ("preflight", "program", 1), ("announce", "environment", 0)])
def test_a_failure_of_the_start_is_told_by_all_ranks_with_its_kind(tmp_path, where, kind, on):
    began = time.monotonic()
    processes = toy.start(tmp_path / "run", {"plant": where, "kind": kind, "on": on}, world=2)
    outputs = toy.finish(processes, CODES[kind])
    assert time.monotonic() - began < 60  # a collective or the store would wait for minutes
    for rank, output in enumerate(outputs):
        said, = errors(output)
        assert ("Traceback" in output) == (rank == on and kind == "program"), output
        assert f"planted in {where}" in said
        expected = rf"error: rank {on}: " if rank == on else rf"error: rank {on} stopped while starting: .*\(exit code {CODES[kind]}"
        assert re.match(expected, said), outputs
