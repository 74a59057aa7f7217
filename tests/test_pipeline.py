"""Stages on threads: what they give, what an error does, and that nothing is left running."""

import threading
import time
from collections import defaultdict

import pytest

from engine.pipeline import Pipeline

BOTH = pytest.mark.parametrize("threads", [False, True])


def double(items):
    for item in items:
        yield 2 * item


def pair(items):
    """Two at a time; what is left over at the end alone."""
    kept = []
    for item in items:
        kept.append(item)
        if len(kept) == 2:
            yield sum(kept)
            kept = []
    if kept:
        yield sum(kept)


def count_threads():
    return {one for one in threading.enumerate() if one.name in ("source", "double", "pair")}


@BOTH
def test_items_come_in_order_and_none_is_lost(threads):
    with Pipeline({"double": double, "pair": pair}, threads).run(
        "source", range(201), "test"
    ) as found:
        got = list(found)
    assert got == [2 * (n + n + 1) for n in range(0, 200, 2)] + [400]
    assert not count_threads()


@BOTH
def test_each_stage_works_on_its_own_thread(threads):
    seen = {}

    def source():
        seen["source"] = threading.current_thread().name
        yield 1

    def look(items):
        seen["double"] = threading.current_thread().name
        yield from double(items)

    with Pipeline({"double": look}, threads).run("source", source(), "test") as found:
        assert list(found) == [2]
    mine = threading.current_thread().name
    wanted = ["source", "double"] if threads else [mine, mine]
    assert list(seen.values()) == wanted


@BOTH
@pytest.mark.parametrize("where", ["source", "double", "pair"])
def test_an_error_comes_after_what_was_before_it_and_ends_all(threads, where):
    closed = []

    def fail(items, name):
        try:
            for number, item in enumerate(items):
                if name == where and number == 3:
                    raise ValueError(f"in {name}")
                yield item
        finally:
            closed.append(name)

    stages = {name: lambda items, name=name: fail(items, name) for name in ("double", "pair")}
    got = []
    with pytest.raises(ValueError, match=f"in {where}"):
        with Pipeline(stages, threads).run("source", fail(range(1000), "source"), "test") as found:
            for item in found:
                got.append(item)
    assert got == [0, 1, 2]
    assert sorted(closed) == ["double", "pair", "source"]
    assert not count_threads()


@BOTH
def test_who_stops_taking_stops_all(threads):
    made, closed = [], []

    def source():
        try:
            for number in range(10**9):
                made.append(number)
                yield number
        finally:
            closed.append(True)

    with pytest.raises(KeyboardInterrupt):
        with Pipeline({"double": double}, threads, depth=2).run(
            "source", source(), "test"
        ) as found:
            for item in found:
                if item == 20:
                    raise KeyboardInterrupt
    assert closed == [True] and not count_threads()
    # Ten are taken; two wait before each of two readers, and each thread holds one.
    assert len(made) <= 11 + 6


def test_few_items_are_held():
    alive, most = set(), [0]

    class Item:
        def __init__(self, number):
            self.number = number
            alive.add(number)
            most[0] = max(most[0], len(alive))

        def __del__(self):
            alive.discard(self.number)

    def same(items):
        for item in items:
            yield item
            del item

    with Pipeline({"double": same}, depth=2).run(
        "source", (Item(n) for n in range(100)), "test"
    ) as found:
        for item in found:
            time.sleep(1e-4)
            del item
    assert most[0] <= 10 and not alive


def test_seconds_are_those_of_the_stage_alone(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def slow(items, seconds):
        for item in items:
            now[0] += seconds
            yield item

    seconds = defaultdict(float, pair=1)
    pipeline = Pipeline({"double": lambda items: slow(items, 2), "pair": pair}, False, seconds)
    with pipeline.run("source", slow(range(5), 3), "test") as found:
        for _ in found:
            now[0] += 7
    assert seconds == {"source": 15, "double": 10, "pair": 1, "test": 21}
