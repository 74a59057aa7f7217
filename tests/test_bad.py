"""Samples with bad bytes: listed, counted by shard and reason, and a run with too many stops."""

import json

import pytest
from clips import make_clip, write_shards
from runs import finish, start, words

from data.format.index import read_index
from data.loading.quarantine import BadRate, BadSampleList, worst
from engine.errors import UserError

BAD = [
    (7, "/a/shard-000001.tar", 3, "00.jpg does not decode: premature end"),
    (8, "/a/shard-000001.tar", 4, "00.jpg does not decode: bogus marker"),
    (9, "https://host/shard-000002.tar?key=x", 0, "read error, tried again: input/output error"),
    (15, "/a/shard-000001.tar", 5, "01.jpg is missing"),
]


def test_bad_samples_are_counted_by_shard_and_reason_and_go_on_from_a_slot(tmp_path):
    BadSampleList(tmp_path, 0).add(BAD)
    assert json.loads((tmp_path / "bad_samples.json").read_text()) == {
        "shard-000001.tar": {"00.jpg does not decode": 2, "01.jpg is missing": 1},
        "shard-000002.tar": {"read error, tried again": 1},
    }
    assert worst(tmp_path) == ", most in shard-000001.tar (3: 00.jpg does not decode)"
    with open(tmp_path / "bad_samples.jsonl", "a") as file:
        file.write('{"slot": 16, "sha')  # a kill in the middle of a line
    again = BadSampleList(tmp_path, 9)
    assert [
        json.loads(line)["slot"]
        for line in (tmp_path / "bad_samples.jsonl").read_text().splitlines()
    ] == [7, 8]
    again.add(BAD[3:])
    assert again.by_shard() == {
        "shard-000001.tar": {"00.jpg does not decode": 2, "01.jpg is missing": 1}
    }


@pytest.mark.parametrize(
    "looks,stops",
    [
        ([(500, 400)], False),  # too few to say anything
        ([(1000, 10), (2000, 20)], False),  # one in a hundred is the limit itself
        ([(1000, 11)], True),  # since the start
        ([(100_000, 10), (101_000, 21)], True),  # since the last look, though few since the start
        ([(100_000, 10), (100_500, 200), (101_100, 210)], True),
    ],
)
def test_too_many_are_told_by_their_share(looks, stops):
    rate, told = BadRate(0.01), []
    for slots, bad in looks:
        try:
            rate.check(slots, bad, lambda: ", most in a shard")
        except UserError as error:
            told.append(str(error))
    assert bool(told) == stops
    assert all("data.bad_max=0.01, most in a shard" in words for words in told)


def test_a_run_with_too_many_stops_and_names_the_worst_shard(tmp_path):
    write_shards(tmp_path, [make_clip(i, size=56) for i in range(60)], 15)
    index = read_index(str(tmp_path / "shard-000002.tar"))
    with open(index.path, "r+b") as tar:
        for sample in range(len(index)):
            offset, length = index.members(sample)["01.jpg"]
            tar.seek(offset)
            tar.write(b"\0" * length)
    arguments = words(tmp_path / "run", tmp_path, "steps=20", "batch=64", "data.workers=1")
    output = finish(start(arguments), code=2)
    assert (
        "samples had bad bytes" in output
        and "data.bad_max=0.01, most in shard-000002.tar (" in output
    )
    assert ": 01.jpg does not decode)" in output and "Traceback" not in output
    finish(start([*arguments, "data.bad_max=1"]))
