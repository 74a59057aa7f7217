"""Order is arithmetic: quotas, coverage and independence of ranks, on manifests without files."""

from collections import Counter

import numpy as np
import pytest

from data.manifest import SourceManifest
from data.order import Order, default_lanes, quotas, spread
from engine.errors import UserError


def source(name, counts, offers=(0, 1)):
    paths = [f"{name}-{i}.tar" for i in range(len(counts))]
    return SourceManifest(name, paths, np.array(counts, np.int64), [], [], list(offers), 256)


def make(sources, weights=None, shares=(0.5, 0.5), batch=32, lanes=None, seed=3, pool=2.0):
    return Order(sources, weights or [1.0] * len(sources), shares, seed, batch, lanes or default_lanes(batch, shares), pool)


def test_every_batch_and_every_lane_holds_its_quotas():
    order = make([source("a", [50] * 4)], shares=(0.75, 0.25), batch=32)
    kinds = np.array([order.kind(n) for n in range(32 * 8)]).reshape(8, order.lanes, -1)
    assert order.lanes == 8
    assert (kinds.sum(2) == 1).all()


@pytest.mark.parametrize("batch,weights", [(48, [0.61, 0.28, 0.11]), (500, [0.37, 0.33, 0.2, 0.1]), (32, [0.9, 0.1])])
def test_any_window_of_1000_slots_keeps_the_mix(batch, weights):
    order = make([source(str(w), [997, 412]) for w in weights], weights, batch=batch)
    drawn = np.array([order.draw(n).source for n in range(6000)])
    for s, weight in enumerate(weights):
        inside = np.convolve(drawn == s, np.ones(1000), "valid")
        assert np.abs(inside - 1000 * weight).max() <= 3


def test_every_lane_keeps_the_mix():
    weights = [0.8, 0.2]
    order = make([source("a", [500]), source("b", [100])], weights, batch=64, shares=(0.5, 0.5))
    drawn = np.array([[order.draw(t * 64 + j).source for j in range(64)] for t in range(300)])
    by_lane = drawn.reshape(300, order.lanes, -1).mean((0, 2))
    assert np.abs(by_lane - 0.2).max() < 0.03


def test_a_source_serves_only_the_kinds_it_offers():
    order = make([source("multi", [200]), source("video", [100], offers=[1])], [0.5, 0.5])
    draws = [order.draw(n) for n in range(3200)]
    assert {(d.source, d.kind) for d in draws} == {(0, 0), (0, 1), (1, 1)}
    assert sum(d.source == 1 for d in draws) == pytest.approx(800, abs=16)


def test_an_epoch_visits_every_sample_and_repeats_less_than_one_a_lane():
    order = make([source("a", [37, 64, 20, 81])], batch=16, lanes=8)
    total, seen, n = 202, Counter(), 0
    by_epoch = {0: Counter(), 1: Counter()}
    while n < 16 * 40:
        draw = order.draw(n)
        if draw.epoch in by_epoch:
            by_epoch[draw.epoch][draw.shard, draw.index] += 1
        seen[draw.shard, draw.index] += 1
        n += 1
    for visits in by_epoch.values():
        assert len(visits) == total
        assert sum(visits.values()) - total < 8
        assert max(visits.values()) <= 2
    first = [(d.shard, d.index) for d in map(order.draw, range(64))]
    again = [(d.shard, d.index) for d in map(order.draw, range(16 * 13, 16 * 13 + 64))]
    assert first != again


def test_a_lane_reads_few_shards_at_a_time():
    order = make([source("a", [100] * 64)], batch=64, lanes=16, pool=1.0)
    for lane in range(16):
        rows = range(lane * 4, lane * 4 + 4)
        shards = {order.draw(t * 64 + j).shard for t in range(20) for j in rows}
        assert len(shards) <= 3  # 80 of 400 places of a lane, in pools of one shard's size


def test_the_stream_does_not_depend_on_who_asks_or_in_which_sequence():
    sources = [source("a", [100, 30]), source("b", [55])]
    whole = [make(sources, [2, 1], batch=64).draw(n) for n in range(2048)]
    backwards = make(sources, [2, 1], batch=64)
    assert [backwards.draw(n) for n in reversed(range(2048))] == whole[::-1]
    for world in (2, 8, 32):
        share = 64 // world
        for rank in (0, world - 1):
            order = make(sources, [2, 1], batch=64)
            for t in range(32):
                rows = range(t * 64 + rank * share, t * 64 + (rank + 1) * share)
                assert [order.draw(n) for n in rows] == whole[rows.start:rows.stop]


def test_seed_and_attempt_change_the_draw_but_not_the_quota():
    sources = [source("a", [1000])]
    a, b = make(sources, seed=1), make(sources, seed=2)
    assert [a.draw(n) for n in range(64)] != [b.draw(n) for n in range(64)]
    assert a.draw(5, 1) != a.draw(5, 2)
    assert a.draw(5, 1) == make(sources, seed=1).draw(5, 1)
    assert a.draw(5, 1).kind == a.draw(5).kind


def test_what_does_not_divide_is_refused_with_both_values():
    with pytest.raises(UserError, match=r"lanes=5.*batch=32.*data.lanes=16 does"):
        make([source("a", [10])], lanes=5)
    with pytest.raises(UserError, match=r"batch=10.*2\.5, 7\.5"):
        make([source("a", [10])], shares=(0.25, 0.75), batch=10)
    with pytest.raises(UserError, match="video has a cross_view pair"):
        make([source("video", [10], offers=[1])])


def test_quotas_and_spread():
    assert quotas([1, 1, 1], 50).tolist() in ([17, 17, 16], [17, 16, 17], [16, 17, 17])
    pattern = spread([500, 300, 200])
    assert Counter(pattern.tolist()) == {0: 500, 1: 300, 2: 200}
    for s, share in enumerate((0.5, 0.3, 0.2)):
        walked = np.cumsum(pattern == s)
        assert np.abs(walked - share * np.arange(1, 1001)).max() < 1.01
