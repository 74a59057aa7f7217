"""How well batches are mixed: against brute force, and on shards whose extremes are known."""

import dataclasses
import itertools
import json
import re
import tarfile

import numpy as np
import pytest
from clips import make_clip, rewrite, write_shards

from data.__main__ import main
from data.sampling.order import Order, default_lanes
from data.tools import mixing
from engine.errors import UserError


def write(folder, subjects, per_shard, videos=lambda i: 0):
    """Shards of clips whose subjects are given in order, and of each subject's videos by number."""
    folder.mkdir()
    clips = [
        dataclasses.replace(
            make_clip(i, size=16, masks=False),
            subject=f"p{who}",
            key=f"p{who}v{videos(i)}-man-{i:06d}",
            source=f"set{who % 2}",
        )
        for i, who in enumerate(subjects)
    ]
    return write_shards(folder, clips, per_shard)


@pytest.fixture(scope="module")
def in_sequence(tmp_path_factory):
    """24 subjects of 8 clips, 2 videos each, one subject a shard: the worst that a folder can
    be."""
    folder = tmp_path_factory.mktemp("mixing") / "in_sequence"
    write(folder, [i // 8 for i in range(192)], 8, lambda i: i // 4 % 2)
    return folder


def config(**keys):
    return mixing.MixingConfig(**{"batch": 16, "lanes": None, "batches": 20, "workers": 1, **keys})


def measured(folder, cfg, pool_shards=None):
    source, shares = mixing._manifest([str(folder)], cfg.cache)
    groups = mixing.join([mixing.groups_of_shard(path)[0] for path in source.paths])
    order = mixing.open_order(source, shares, cfg, pool_shards or cfg.pool_shards)
    return mixing.measure(order, groups, cfg.batches), order


def groups_by_hand(paths):
    """[(shard, source, subject, video), ...] of each tar's clips, read without any code of the
    room."""
    out = []
    for path in paths:
        with tarfile.open(path) as tar:
            names = [name for name in tar.getnames() if name.endswith(".json")]
            metas = [json.load(tar.extractfile(name)) for name in names]
        out.append(
            [
                (path, m["source"], m["subject"], name.split("-")[0])
                for name, m in zip(names, metas, strict=True)
            ]
        )
    return out


def test_shares_agree_with_brute_force(in_sequence):
    for cfg in (
        config(),
        config(lanes=2, pool_shards=1.0, seed=3),
        config(batch=30, lanes=3, batches=9),
    ):
        shares, order = measured(in_sequence, cfg)
        clips = groups_by_hand(order.sources[0].paths)
        near, any_ = np.zeros((2, 4)), np.zeros((2, 4))
        for t in range(cfg.batches):
            draws = [order.draw(t * cfg.batch + j) for j in range(cfg.batch)]
            rows = [clips[draw.shard][draw.index] for draw in draws]
            for i, j in itertools.combinations(range(cfg.batch), 2):
                same = [a == b for a, b in zip(rows[i], rows[j], strict=True)]
                any_ += [same, [True] * 4]
                if j == i + 1:
                    near += [same, [True] * 4]
        np.testing.assert_allclose(shares.near, near[0] / near[1], rtol=1e-12)
        np.testing.assert_allclose(shares.any, any_[0] / any_[1], rtol=1e-12)


@pytest.mark.parametrize(
    "counts,batch,batches",
    [([3, 1, 2], 4, 5), ([1, 1, 1], 3, 2), ([2, 5], 20, 3), ([4], 3, 3), ([1], 4, 2)],
)
def test_a_full_shuffle_is_what_shuffling_gives(counts, batch, batches):
    """Against permutations of every epoch, drawn 20,000 times; batches lie across epochs and hold
    several of them."""
    random, group = np.random.default_rng(0), np.repeat(np.arange(len(counts)), counts)
    epochs = -(-batch * batches // len(group))
    drawn = group[
        random.permuted(np.tile(np.arange(len(group)), (20_000, epochs, 1)), axis=2)
    ].reshape(20_000, -1)
    rows = drawn[:, : batch * batches].reshape(20_000, batches, batch)
    near = (rows[:, :, 1:] == rows[:, :, :-1]).mean()
    any_ = np.mean(
        [
            (rows[:, :, i] == rows[:, :, j]).mean()
            for i, j in itertools.combinations(range(batch), 2)
        ]
    )
    assert mixing.full_shuffle(np.array(counts), batch, batches) == pytest.approx(
        (near, any_), abs=0.006
    )


def test_a_full_shuffle_of_one_epoch_is_exact():
    """All orders of 4 clips of groups a, a, b, c: of their 6 pairs one is of one group."""
    assert mixing.full_shuffle(np.array([2, 1, 1]), 4, 1) == pytest.approx((1 / 6, 1 / 6))
    assert mixing.full_shuffle(np.array([2, 1, 1]), 2, 2) == pytest.approx((1 / 6, 1 / 6))
    # 2 batches of 3 of 4 clips: rows 0 to 3 and 4, 5 are of two epochs, so 1 of 4 neighbours and 2
    # of 6 pairs lie across.
    across = (4 + 1 + 1) / 16
    assert mixing.full_shuffle(np.array([2, 1, 1]), 3, 2) == pytest.approx(
        (3 / 4 * 1 / 6 + 1 / 4 * across, 4 / 6 * 1 / 6 + 2 / 6 * across)
    )


def test_one_subject_a_shard_is_bad_until_it_is_shuffled(in_sequence, tmp_path, capsys):
    words = ["batch=16", "lanes=1", "pool_shards=0.5", "batches=60", "workers=1"]
    assert main(["mixing", str(in_sequence), *words]) == 0
    said = capsys.readouterr().out
    assert (
        "192 clips: 24 shards, 2 sources, 24 subjects, 48 videos; 60 batches of 16 in 1 lanes, "
        "pool_shards=0.5" in said
    )
    assert re.search(
        r"badly mixed: counting rows of one subject as one, a batch is worth 0\.\d\d of a fully "
        r"shuffled one; "
        "(write the clips anew in random order: python -m data shuffle|data.pool_shards=)",
        said,
    )
    before, _ = measured(in_sequence, config(lanes=1, pool_shards=0.5, batches=60))
    ratio = before.any / before.full_any
    assert (
        ratio[[0, 2, 3]] > 6
    ).all()  # shard, subject, video: a pool of 4 of a subject's 8 clips; 24 subjects
    assert mixing.worst(before, 16)[0] > 2 * mixing.WORTH

    assert main(["shuffle", str(in_sequence), f"out={tmp_path / 'out'}", "workers=1"]) == 0
    capsys.readouterr()
    assert main(["mixing", str(tmp_path / "out"), *words]) == 0
    assert "fine: counting rows of one" in capsys.readouterr().out
    after, _ = measured(tmp_path / "out", config(lanes=1, pool_shards=0.5, batches=60))
    ratio = after.any / after.full_any
    assert (
        ratio[0] > 6 and abs(ratio[1:] - 1).max() < 0.25
    )  # the shards are read as before, but hold everybody
    np.testing.assert_allclose(after.full_any, before.full_any, rtol=1e-12)  # the same clips


def test_a_larger_pool_is_advised_where_it_is_enough(in_sequence, capsys):
    assert (
        main(
            [
                "mixing",
                str(in_sequence),
                "batch=16",
                "lanes=1",
                "pool_shards=3",
                "batches=60",
                "workers=1",
            ]
        )
        == 0
    )
    pool = re.search(
        r"badly mixed: .*; data.pool_shards=(\d+) mends it \((0\.8\d|0\.9\d|1\.\d\d)\)",
        capsys.readouterr().out,
    )
    shares, _ = measured(in_sequence, config(lanes=1, batches=60), float(pool[1]))
    assert mixing.worst(shares, 16)[0] <= mixing.WORTH
    # What is advised is what training then finds, lanes and kinds of pairs as there.
    assert (
        main(
            [
                "mixing",
                str(in_sequence),
                "batch=16",
                "lanes=1",
                f"pool_shards={pool[1]}",
                "batches=60",
                "workers=1",
            ]
        )
        == 0
    )
    assert "fine: " in capsys.readouterr().out


def test_the_order_is_that_of_training(in_sequence):
    from data.config import DataConfig
    from data.loading.build import open_order
    from data.sampling.pairs import PairRules

    trained = open_order(
        DataConfig(shards=str(in_sequence), val_clips=0, pairs=PairRules(crops="any")), 16, 5
    )
    _, order = measured(in_sequence, config(seed=5))
    assert isinstance(order, Order) and order.lanes == default_lanes(16, [1, 1])
    assert [order.draw(n) for n in range(100)] == [trained.draw(n) for n in range(100)]


def test_a_video_is_a_subject_s_key_without_its_number():
    video = mixing.video_of
    assert video("s", "s/walk/0", "walk-0-000012") == video("s", "s/walk/0", "walk-0-000300")
    assert video("s", "anna", "walk1-0-000012") != video("s", "anna", "walk2-0-000012")
    assert video("s", "s/walk/0", "walk-0-000012") != video("s", "s/walk/1", "walk-1-000012")
    assert video("a", "anna", "walk-0-000012") != video("b", "anna", "walk-0-000012")
    assert video("made", "made-0-1", "made-0-1") != video(
        "made", "made-0-2", "made-0-2"
    )  # each a scene of its own


def test_bad_samples_are_alone_and_are_told(in_sequence, tmp_path, capsys):
    paths = write(tmp_path / "s", [0] * 8, 4)
    rewrite(paths[0], lambda name, data: data[:9] if name.endswith("000001.json") else data)
    rows, bad = mixing.groups_of_shard(paths[0])
    assert bad == 1 and [len(set(column)) for column in rows.T.tolist()] == [2, 2, 2]
    assert main(["mixing", str(tmp_path / "s"), "batch=4", "batches=3", "workers=1"]) == 0
    assert "1 clips have unreadable JSON" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words,message",
    [
        ("batch=5", "batch=5 does not divide by the shares of kinds"),
        ("batch=16 lanes=16", "data.lanes=16 does not divide batch=16"),
        ("batch=1", "below 2"),
        ("pool=2", "unknown key 'pool'"),
    ],
)
def test_what_cannot_be_is_one_line(in_sequence, words, message):
    with pytest.raises(UserError, match=message) as caught:
        main(["mixing", str(in_sequence), *words.split()])
    assert len(str(caught.value).splitlines()) == 1


def test_one_clip_alone(tmp_path, capsys):
    write(tmp_path / "s", [0], 1)
    assert main(["mixing", str(tmp_path / "s"), "batch=4", "batches=2", "workers=1"]) == 0
    assert "fine" in capsys.readouterr().out
