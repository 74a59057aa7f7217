"""Order is arithmetic: quotas, mixes, coverage and independence of ranks, on manifests without
files."""

import pickle
from collections import Counter

import numpy as np
import pytest

from data.sampling.manifest import SourceManifest
from data.sampling.order import Order, default_lanes, kind_pattern, lay_out, numbers, quotas, spread
from engine.errors import UserError

WINDOW = 1000


def source(name, counts, offers=(0, 1)):
    paths = [f"{name}-{i}.tar" for i in range(len(counts))]
    return SourceManifest(name, paths, np.array(counts, np.int64), [], [], list(offers), 256)


def make(sources, weights=None, shares=(0.5, 0.5), batch=32, lanes=None, seed=3, pool=2.0):
    return Order(
        sources,
        weights or [1.0] * len(sources),
        shares,
        seed,
        batch,
        lanes or default_lanes(batch, shares),
        pool,
    )


def three(batch, lanes=None):
    """A mix of a large source, a small one and one of cross-pose pairs only, as bytes: what a rank
    or a worker begins with."""
    sources = [
        source("large", [1200, 700] * 30),
        source("small", [30]),
        source("video", [900] * 9, offers=[1]),
    ]
    return pickle.dumps(make(sources, [6, 1, 2], (0.25, 0.75), batch, lanes))


def of_rank(order, rank, world, steps):
    """The draws of a rank's rows in some steps: [step][row]."""
    share = order.batch // world
    return [
        [order.draw(t * order.batch + row) for row in range(rank * share, (rank + 1) * share)]
        for t in steps
    ]


def stream(fresh, world, steps):
    """The draws of whole batches, each rank with an order of its own: [step][row]."""
    ranks = [of_rank(pickle.loads(fresh), rank, world, steps) for rank in range(world)]
    return [sum((rank[i] for rank in ranks), []) for i in range(len(steps))]


def test_every_batch_and_every_lane_holds_its_quotas():
    order = make([source("a", [50] * 4)], shares=(0.75, 0.25), batch=32)
    kinds = np.array([order.kind(n) for n in range(32 * 8)]).reshape(8, order.lanes, -1)
    assert order.lanes == 8
    assert order.quota == [24, 8]
    assert (kinds.sum(2) == 1).all()


def random_mix(rng):
    """(offers, weights, shares, batch, lanes) of 2 to 12 sources: equal, small whole, log-uniform
    or very uneven weights."""
    count = int(rng.integers(2, 13))
    weights = [
        np.ones(count),
        rng.integers(1, 6, count).astype(float),
        np.exp(rng.uniform(0, np.log(300), count)),
        rng.dirichlet(np.full(count, 0.5)) + 1e-3,
    ][rng.integers(4)]
    shares, batch, lanes = [
        ((0.5, 0.5), 32, 16),
        ((0.75, 0.25), 60, 15),
        ((1, 0), 45, 9),
        ((0, 1), 64, 64),
        ((0.5, 0.5), 500, 25),
        ((0.7, 0.3), 90, 3),
        ((0.25, 0.75), 8192, 256),
        ((2 / 3, 1 / 3), 96, 1),
    ][rng.integers(8)]
    one_kind = rng.random() < 0.7
    offers = [
        [0, 1] if not s or not one_kind or rng.random() < 0.5 else [int(rng.integers(2))]
        for s in range(count)
    ]
    return offers, weights.tolist(), shares, batch, lanes


@pytest.mark.parametrize("mixes", [40, pytest.param(1500, marks=pytest.mark.long)])
def test_any_window_of_1000_slots_keeps_any_mix(mixes):
    rng, tried = np.random.default_rng(mixes), 0
    while tried < mixes:
        offers, weights, shares, batch, lanes = random_mix(rng)
        try:
            order = make(
                [source(str(s), [997, 412], o) for s, o in enumerate(offers)],
                weights,
                shares,
                batch,
                lanes,
            )
        except UserError as error:
            assert "less than 1/" in str(
                error
            )  # a weight that uneven is refused, not rounded to nothing
            continue
        tried += 1
        # Of a kind's share each source gets its weight among those that offer the kind.
        wanted = np.array(
            [[w * (k in o) for o, w in zip(offers, weights, strict=True)] for k in (0, 1)]
        )
        wanted = np.array(shares) @ (wanted / wanted.sum(1, keepdims=True))
        length = order.period * len(order.kinds)
        drawn = np.array([order.draw(n).source for n in range(length + WINDOW)])
        assert (
            drawn[length:] == drawn[:WINDOW]
        ).all()  # so all windows there are begin in the first period
        for s, share in enumerate(wanted):
            before = np.concatenate([[0], np.cumsum(drawn == s)])
            inside = before[WINDOW:] - before[:-WINDOW]
            assert np.abs(inside - WINDOW * share).max() <= 3, (s, offers, weights, shares, batch)


def test_every_lane_meets_the_whole_mix():
    order = make(
        [source("a", [500]), source("b", [100]), source("c", [90], [1])],
        [0.7, 0.2, 0.1],
        batch=24,
        lanes=4,
    )
    drawn = np.array([order.draw(n).source for n in range(24 * order.period)]).reshape(-1, 4, 6)
    by_lane = np.stack([(drawn == s).sum((0, 2)) for s in range(3)])
    assert (by_lane == by_lane[:, :1]).all()
    # c gets a tenth of the weights, of cross-pose pairs alone.
    assert (
        np.abs(
            by_lane[:, 0] / by_lane[:, 0].sum()
            - np.array([7, 2, 0]) / 18
            - np.array([0.35, 0.1, 0.05])
        ).max()
        < 2e-3
    )
    early = (drawn[:300] == 1).mean((0, 2))
    assert np.abs(early - (1 / 9 + 0.1)).max() < 0.05
    assert {make([source("a", [9])], batch=2 * n, lanes=1).period for n in (2003, 2011)} == {
        2003,
        2011,
    }  # never a divisor of n


def test_a_source_serves_only_the_kinds_it_offers():
    order = make([source("multi", [200]), source("video", [100], offers=[1])], [0.5, 0.5])
    draws = [order.draw(n) for n in range(3200)]
    assert {(d.source, d.kind) for d in draws} == {(0, 0), (0, 1), (1, 1)}
    assert sum(d.source == 1 for d in draws) == pytest.approx(800, abs=2)


def test_an_epoch_visits_every_sample_and_repeats_less_than_one_a_slice():
    sizes = [3700, 2, 0, 6400, 2000, 8101], [1900] * 5
    order = make(
        [source(str(s), counts) for s, counts in enumerate(sizes)], [2, 1], batch=48, lanes=8
    )
    assert order.slices == [4, 4]
    by_epoch = [[Counter(), Counter()], [Counter(), Counter()]]
    for draw in map(order.draw, range(3 * sum(sizes[0]) + 6000)):
        if draw.epoch < 2:
            by_epoch[draw.source][draw.epoch][draw.shard, draw.index] += 1
    for s, counts in enumerate(sizes):
        repeats = order.slices[s] * order.lane_length[s] - sum(counts)
        assert 0 <= repeats < 4
        for visits in by_epoch[s]:
            assert visits.keys() == {
                (shard, i) for shard, count in enumerate(counts) for i in range(count)
            }
            assert visits.total() == sum(counts) + repeats and max(visits.values()) <= 2


def test_two_epochs_differ_in_shards_and_in_their_clips():
    order = make([source("a", [40] * 25)], batch=16, lanes=8)
    assert order.slices == [1]
    first, second = (
        [(d.shard, d.index) for d in map(order.draw, range(e * 1000, (e + 1) * 1000))]
        for e in (0, 1)
    )
    assert set(first) == set(second) and first != second
    followers = [dict(zip(one, one[1:], strict=False)) for one in (first, second)]
    assert (
        sum(followers[1].get(clip) == after for clip, after in followers[0].items()) < 20
    )  # of 999; by chance 1 a pool
    assert [s for s, _ in first[::80]] != [s for s, _ in second[::80]]


def test_small_sources_come_round_newly_shuffled_and_evenly():
    sizes = {"large": [1000] * 100, "small": [30], "tiny": [1, 2], "middle": [130, 70, 100]}
    order = make(
        [source(name, counts) for name, counts in sizes.items()],
        [8, 1, 0.5, 2],
        batch=256,
        lanes=128,
    )
    drawn = [[] for _ in sizes]
    for draw in map(order.draw, range(256 * 60)):
        drawn[draw.source].append((draw.shard, draw.index, draw.epoch))
    for visits, counts in list(zip(drawn, sizes.values(), strict=True))[1:]:
        clips = {(s, i) for s, count in enumerate(counts) for i in range(count)}
        rounds = [
            [v[:2] for v in visits[at : at + len(clips)]]
            for at in range(0, len(visits) - len(clips) + 1, len(clips))
        ]
        assert len(rounds) >= 8
        assert all(
            set(one) == clips for one in rounds
        )  # so that at no time one clip is two visits ahead of another
        assert [e for _, _, e in visits] == [n // len(clips) for n in range(len(visits))]
        if len(clips) > 3:
            assert len({tuple(one) for one in rounds}) == len(rounds)
            pairs = [set(zip(one, one[1:], strict=False)) for one in rounds]
            kept = [len(a & b) for a, b in zip(pairs, pairs[1:], strict=False)]
            assert np.mean(kept) < 4  # neighbours that stay neighbours: 1 by chance
    assert len({v[:2] for v in drawn[0]}) == len(drawn[0])  # and the large one repeats nothing yet


def test_a_lane_reads_few_shards_at_a_time():
    order = make([source("a", [1500] * 64)], batch=64, lanes=16, pool=1.0)
    for lane in range(16):
        rows = range(lane * 4, lane * 4 + 4)
        shards = {order.draw(t * 64 + j).shard for t in range(300) for j in rows}
        assert len(shards) <= 3  # 1200 of 6000 places of a lane, in pools of one shard's size


def test_the_stream_is_the_same_for_any_number_of_ranks():
    fresh, steps = three(2048), range(3, 7)
    whole = stream(fresh, 1, steps)
    assert {d.source for batch in whole for d in batch} == {0, 1, 2}
    for world in (2, 8, 64, 1024):  # of 256 lanes
        assert stream(fresh, world, steps) == whole, world


def test_the_stream_does_not_depend_on_who_asks_or_in_which_sequence():
    whole = sum(stream(three(48, 6), 1, range(60)), [])
    backwards = pickle.loads(three(48, 6))
    assert [backwards.draw(n) for n in reversed(range(len(whole)))] == whole[::-1]
    jumping = pickle.loads(three(48, 6))
    assert all(
        jumping.draw(n) == whole[n]
        for n in np.random.default_rng(0).permutation(len(whole)).tolist()
    )


def test_resuming_anywhere_gives_the_rest_of_the_stream():
    fresh, steps = three(64), 700
    whole = stream(fresh, 1, range(steps))
    assert {d.epoch for batch in whole for d in batch if d.source == 0} == {0}
    assert max(d.epoch for batch in whole for d in batch if d.source == 1) > 50
    rng = np.random.default_rng(1)
    for begin in rng.integers(0, steps, 60).tolist():
        assert stream(fresh, 2, range(begin, min(steps, begin + 5))) == whole[begin : begin + 5]
    for begin in (1, 333, 650):
        assert stream(fresh, 1, range(begin, steps)) == whole[begin:]


def test_doubling_the_ranks_in_the_middle_repeats_and_misses_nothing():
    sources = [source("a", [640, 1280, 1920]), source("b", [96])]
    fresh = pickle.dumps(make(sources, [40, 1], batch=64, lanes=2))
    steps = 64  # 4096 slots, a little over the 3936 that one epoch of both takes
    whole = stream(fresh, 1, range(steps))
    grown = (
        stream(fresh, 2, range(29))
        + stream(fresh, 4, range(29, 47))
        + stream(fresh, 8, range(47, steps))
    )
    assert grown == whole
    visits = Counter((d.source, d.shard, d.index) for batch in grown for d in batch if d.epoch == 0)
    assert visits == Counter(
        (s, i, n)
        for s, one in enumerate(sources)
        for i, c in enumerate(one.counts)
        for n in range(c)
    )


def test_what_is_remembered_does_not_grow():
    shapes = [[1000] * 40, [300] * 30, [9]]
    order = make(
        [source(str(s), shape) for s, shape in enumerate(shapes * 3)], batch=128, lanes=64, pool=4.0
    )
    of_rank(order, 0, 1, range(80))
    early = len(pickle.dumps(order))
    of_rank(order, 0, 1, range(80, 600))
    assert order.draw(600 * 128).epoch >= 0 and len(pickle.dumps(order)) < 1.1 * early


def test_seed_and_attempt_change_the_draw_but_not_the_quota():
    sources = [source("a", [0, 300, 0, 700])]
    a, b = make(sources, seed=1), make(sources, seed=2)
    assert [a.draw(n) for n in range(64)] != [b.draw(n) for n in range(64)]
    assert a.draw(5, 1) != a.draw(5, 2)
    assert a.draw(5, 1) == make(sources, seed=1).draw(5, 1)
    assert a.draw(5, 1).kind == a.draw(5).kind
    places = Counter((d.shard, d.index) for n in range(3000) for d in [a.draw(n, 1)])
    assert places.keys() <= {(1, i) for i in range(300)} | {(3, i) for i in range(700)}
    assert sum(count for (shard, _), count in places.items() if shard == 3) == pytest.approx(
        2100, abs=150
    )


def test_numbers_are_philox_of_the_four_integers():
    for seed, purpose, n, attempt in [
        (0, 0, 0, 0),
        (7, 3, 2**40, 0),
        (2**63, 2**62 + 5, 2**63 - 1, 9),
        (-1, 2, 3, 4),
    ]:
        words = (
            np.array([seed % 2**64, purpose], np.uint64),
            np.array([0, n, attempt, 0], np.uint64),
        )
        theirs = np.random.Generator(np.random.Philox(key=words[0], counter=words[1]))
        ours, other = numbers(seed, purpose, n, attempt), numbers(seed, purpose, n + 1, attempt)
        other.random(3)  # two that live side by side do not disturb each other
        assert (ours.random(5) == theirs.random(5)).all()
        assert (ours.random(3, np.float32) == theirs.random(3, np.float32)).all()
        assert (ours.permutation(50) == theirs.permutation(50)).all()


def test_what_does_not_divide_is_refused_with_both_values():
    with pytest.raises(UserError, match=r"lanes=5.*batch=32.*data.lanes=16 does"):
        make([source("a", [10])], lanes=5)
    with pytest.raises(UserError, match=r"batch=10.*2\.5, 7\.5"):
        make([source("a", [10])], shares=(0.25, 0.75), batch=10)
    with pytest.raises(UserError, match="video has a cross_view pair"):
        make([source("video", [10], offers=[1])])
    with pytest.raises(
        UserError, match=r"sources.b.weight=0.0001 is less than 1/\d+ of the mix of cross_view"
    ):
        make([source("a", [10]), source("b", [10])], [1, 0.0001])


def test_quotas_and_spread():
    assert quotas([1, 1, 1], 50).tolist() in ([17, 17, 16], [17, 16, 17], [16, 17, 17])
    pattern = spread([500, 300, 200])
    assert Counter(pattern.tolist()) == {0: 500, 1: 300, 2: 200}
    for s, share in enumerate((0.5, 0.3, 0.2)):
        walked = np.cumsum(pattern == s)
        assert np.abs(walked - share * np.arange(1, 1001)).max() < 1.01


def test_a_layout_has_exactly_the_places_asked_for():
    kinds = np.tile(kind_pattern(40, [0.7, 0.3]), 50)
    places = np.array([[300, 49, 1, 0], [0, 0, 50, 100]])
    laid = lay_out(kinds, places)
    assert [np.bincount(laid[kinds == k], minlength=4).tolist() for k in (0, 1)] == places.tolist()
    assert lay_out(kinds, np.array([[350, 0], [0, 150]])).tolist() == kinds.tolist()
