"""The benchmarks still fit the code they measure, and say what they do not know. Their figures are
no test's business."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import scenes
from benchmarks.options import read_options
from engine.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
SMALL = {
    "angles": ["people=20"],
    "cache": ["megabytes=4", "shards=2", "rounds=1"],
    "order": ["clips=1e6", "shards=100", "ranks=8", "batch=512", "slots=1e3"],
    "spread": ["device=cpu", "size=demo", "rounds=1", "batch=2"],
    "checkpoint": ["width=64", "depth=1", "rounds=2", "steps=1", "batch=2"],
}


@pytest.mark.parametrize(
    "name",
    [
        "angles",
        "cache",
        "checkpoint",
        "finding",
        "lenses",
        "loader",
        "order",
        "people",
        "runs",
        "scenes",
        "spread",
        "step",
        "video",
    ],
)
def test_an_option_that_there_is_not_is_named(name, monkeypatch):
    monkeypatch.setenv(
        "OMP_NUM_THREADS", "1"
    )  # benchmarks set it for themselves; this puts it back
    with pytest.raises(UserError, match="'nonsense=1' is none of "):
        importlib.import_module(f"benchmarks.{name}").main(["nonsense=1"])


def test_options_are_read_as_their_defaults_say():
    defaults = {"clips": "100", "folder": "", "rounds": "3"}
    assert read_options(["clips=1e4", "folder=a=b"], defaults) == {
        "clips": "10000",
        "folder": "a=b",
        "rounds": "3",
    }
    with pytest.raises(UserError, match="'rounds=three': the value is not a number"):
        read_options(["rounds=three"], defaults)


@pytest.mark.long
@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_runs_to_its_end(name):
    done = subprocess.run(
        [sys.executable, f"benchmarks/{name}.py", *SMALL[name]],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stdout.count("\n|") >= 3, done.stdout + done.stderr


def test_where_the_lines_of_scenes_cross():
    """100 ms and 200 ms a person by crops, 500 ms and 20 ms a person at once."""
    timed = []
    for people in (1, 2, 2, 3, 5, 8):
        one = scenes.Timed(people, people)
        one.seconds = {"find": 0.1, "recover": 0.15 * people, "refine": 0.05 * people}
        one.seconds["scene"] = 0.5 + 0.02 * people
        timed.append(one)
    found = scenes.summarise(timed)
    assert found["lines"]["crops"] == pytest.approx((0.1, 0.2))
    assert found["lines"]["scene"] == pytest.approx((0.5, 0.02))
    assert found["crossings"]["crops"] == pytest.approx([0.4 / 0.18] * 3)
    assert found["crossings"]["unrefined"][0] == pytest.approx(0.4 / 0.13)
    row = found["rows"][1]
    assert (row["people"], row["frames"]) == (2, 2)
    assert row["crops_over_scene"] == pytest.approx([0.5 / 0.54] * 3)
    assert "everybody at once takes less from 2.2 people on" in scenes.describe(found)
    for one in timed:  # a network that is slower for each person, too
        one.seconds["scene"] = 0.5 + 0.3 * one.people
    assert "never takes less" in scenes.describe(scenes.summarise(timed))
