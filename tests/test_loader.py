"""Loader: the same bytes from any number of workers and ranks, signals, dead workers, bad samples,
validation pairs."""

import os
import shutil
import signal
from collections import Counter

import numpy as np
import pytest
import simplejpeg
from clips import make_clip, rewrite, write_shards

from data.config import DataConfig, WidenConfig
from data.format.index import read_index
from data.loading.build import open_loader, open_order
from data.loading.loader import tag
from data.loading.reader import TAGS, Slots
from data.loading.validation import val_pairs
from data.sampling.manifest import freeze, quarantined_shards
from data.sampling.order import PAIR, numbers
from data.sampling.pairs import PairRules, candidates, choose
from engine.errors import EnvironmentFault, UserError

NOISE = 9


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, [make_clip(i, size=64) for i in range(50)], 10)
    return folder


def order_of(config, batch=16, seed=5):
    return open_order(config, batch, seed)


def stream(order, config, workers=0, world=1, start=0, stop=4):
    """[{name: whole batch's array}] put together from all ranks."""
    loaders = [open_loader(order, config, NOISE, rank, world, workers) for rank in range(world)]
    rounds = zip(*[loader.batches(start, stop) for loader in loaders], strict=True)
    out = [
        {k: np.concatenate([arrays[k] for _, arrays in parts]).copy() for k in parts[0][1]}
        for parts in rounds
    ]
    for loader in loaders:
        loader.close()
    return out


def same(one, other):
    return len(one) == len(other) and all(
        np.array_equal(a[k], b[k]) for a, b in zip(one, other, strict=True) for k in a
    )


def test_any_workers_ranks_and_start_give_the_same_bytes(folder):
    config = DataConfig(shards=str(folder), val_clips=4)
    order = order_of(config)
    whole = stream(order, config)
    assert same(whole, stream(order, config, workers=2))
    assert same(whole, stream(order, config, world=4))
    assert same(whole, stream(order, config, workers=1, world=2))
    assert same(whole[2:], stream(order, config, workers=3, start=2))
    assert not same(whole, stream(order_of(config, seed=6), config))


def test_unread_references_change_nothing_else(folder):
    config = DataConfig(shards=str(folder), val_clips=0)
    order, made = order_of(config), {}
    for references in (True, False):
        loader = open_loader(order, config, NOISE, 0, 1, 0, targets=2, references=references)
        made[references] = next(loader.batches(1, 2))[1]
    for name in ("numbers", "noise", "tags"):
        assert np.array_equal(made[True][name], made[False][name])
    pixels, masks = (
        {key: arrays[name].reshape(16, 3, -1) for key, arrays in made.items()}
        for name in ("pixels", "mask")
    )
    for both in (pixels, masks):
        assert np.array_equal(both[True][:, :2], both[False][:, :2])
        assert both[True][:, 2].any() and not both[False][:, 2].any()


def test_a_row_holds_the_images_that_its_tags_name(folder):
    config = DataConfig(shards=str(folder), val_clips=0)
    order = order_of(config)
    batch = stream(order, config, stop=1)[0]
    for row in range(16):
        draw = order.draw(row)
        names = dict(
            zip(
                ("source", "kind", "shard", "index"),
                (draw.source, draw.kind, draw.shard, draw.index),
                strict=True,
            )
        )
        assert all(tag(batch, name)[row] == value for name, value in names.items())
        path = order.sources[0].paths[draw.shard]
        for side, name in enumerate("ab"):
            offset, length = read_index(path).members(draw.index)[
                f"{tag(batch, name)[row]:02d}.jpg"
            ]
            with open(path, "rb") as file:
                file.seek(offset)
                assert np.array_equal(
                    batch["pixels"][row, side], simplejpeg.decode_jpeg(file.read(length), "RGB")
                )
        # make_clip lays crops by instant, then view
        a, b = divmod(tag(batch, "a")[row], 2), divmod(tag(batch, "b")[row], 2)
        assert (a[0] == b[0]) == (draw.kind == 0) and (a[1] == b[1]) == (draw.kind == 1)
    side = batch["numbers"][:, :, 2]
    assert (side == 56).all()
    assert ((batch["numbers"][..., :2] >= 28) & (batch["numbers"][..., :2] <= 36)).all()
    assert ((batch["numbers"][..., 3:] >= 0.6) & (batch["numbers"][..., 3:] <= 1.4)).all()


def test_one_generator_gives_the_numbers_of_every_slot():
    slots = Slots(7, PAIR)
    for n in (5, 0, 2**40, 5):
        mine, fresh = slots.at(n), numbers(7, PAIR, n)
        assert mine.integers(7) == fresh.integers(7)
        assert np.array_equal(mine.random(12), fresh.random(12))
        assert np.array_equal(mine.random(9, np.float32), fresh.random(9, np.float32))


def test_a_pair_is_drawn_evenly_from_those_that_keep_the_rules():
    clip = make_clip(0, views=4, instants=3, kinds=("body", "left_hand"))
    for kind, rules, count in (
        ("cross_view", PairRules(angle_max_deg=60), 18),
        ("cross_pose", PairRules(gap_min_s=0.6), 8),
        ("cross_view", PairRules("any", overlap_max=0.7), 24),
    ):
        pairs = candidates(clip, kind, rules)
        assert len(pairs) == count
        drawn = Counter(choose(clip, kind, rules, numbers(0, PAIR, n)) for n in range(200 * count))
        assert drawn.keys() == set(pairs)
        assert min(drawn.values()) > 120 and max(drawn.values()) < 300  # 200 +- 14 each
    assert choose(clip, "cross_pose", PairRules(gap_min_s=2.0), numbers(0, PAIR, 0)) is None


def test_a_image_of_another_shape_is_bad_even_if_it_has_as_many_pixels(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    odd = simplejpeg.encode_jpeg(np.zeros((32, 128, 3), np.uint8), colorspace="RGB")
    rewrite(
        str(tmp_path / "shard-000001.tar"),
        lambda name, data: odd if name.endswith(".jpg") else data,
    )
    config = DataConfig(shards=str(tmp_path), val_clips=0)
    loader = open_loader(order_of(config), config, NOISE, 0, 1, 0)
    for _, arrays in loader.batches(0, 4):
        assert not (tag(arrays, "shard") == 1).any() and arrays["pixels"].any((1, 2, 3, 4)).all()
    reasons = {reason for *_, reason in loader.take_bad()}
    assert reasons and all(
        reason.endswith("jpg is 128 x 32, the clip says 64") for reason in reasons
    )


def test_signals_meant_for_the_run_do_not_touch_workers(folder):
    config = DataConfig(shards=str(folder))
    loader = open_loader(order_of(config), config, NOISE, 0, 1, 2)
    steps = loader.batches(0, 50)
    next(steps)
    for process, _ in loader.workers:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
            os.kill(process.pid, number)
    assert next(steps)[0] == 1
    os.kill(loader.workers[1][0].pid, signal.SIGKILL)
    with pytest.raises(EnvironmentFault, match="loader-1 .* exit code -9.* memory runs out"):
        list(steps)
    loader.close()


def test_bad_samples_are_replaced_alike_by_whoever_reads_them(folder, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    index = read_index(str(broken / "shard-000002.tar"))
    with open(index.path, "r+b") as tar:
        for sample in range(0, len(index), 2):
            tar.seek(index.members(sample)["json"][0])
            tar.write(b"{broken")
    config = DataConfig(shards=str(broken), val_clips=0)
    order = order_of(config)
    whole = stream(order, config, stop=8)
    replaced = np.concatenate([tag(b, "bad") for b in whole])
    assert 0 < (replaced > 0).sum() < 40
    assert same(whole, stream(order, config, workers=2, world=2, stop=8))
    for batch in whole:
        bad = (tag(batch, "shard") == 2) & (tag(batch, "index") % 2 == 0)
        assert not bad.any()


def test_a_tar_named_twice_is_refused(folder):
    with pytest.raises(UserError, match="named twice"):
        order_of(DataConfig(shards=f"{folder},{folder}/shard-000001.tar"))


def test_rules_that_keep_nothing_are_told_by_name(folder):
    config = DataConfig(shards=str(folder), retries=3)
    config.pairs.gap_min_s = 5.0
    with pytest.raises(
        UserError,
        match="source 'all': 4 draws.*cross_pose.*0 samples are bad, 4 have none by the rules",
    ):
        stream(order_of(config), config)


def test_val_pairs_are_fixed_and_never_trained_on(folder):
    config = DataConfig(shards=str(folder), val_clips=5)
    order = order_of(config)
    one, other = (
        val_pairs(order, config, NOISE, 3),
        val_pairs(order_of(config, seed=9), config, NOISE, 3),
    )
    assert all(np.array_equal(one[k], other[k]) for k in one)
    assert tag(one, "kind").tolist() == [0, 0, 0, 1, 1, 1]
    places = {(tag(one, "shard")[i], tag(one, "index")[i]) for i in range(6)}
    assert places <= {(4, i) for i in range(5, 10)}
    trained = {(d.shard, d.index) for d in map(order.draw, range(16 * 20))}
    assert len(trained) == 45 and not places & trained


def test_a_frozen_manifest_refuses_other_shards(folder, tmp_path):
    config = DataConfig(shards=str(folder))
    freeze(order_of(config), tmp_path / "manifest.json")
    freeze(order_of(config), tmp_path / "manifest.json")
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    config.shards = str(moved)
    freeze(order_of(config), tmp_path / "manifest.json")
    frozen = (tmp_path / "manifest.json").read_text()
    (tmp_path / "manifest.json").write_text(frozen.replace('"order": 2', '"order": 1'))
    with pytest.raises(
        UserError, match="began with order 1 of samples, this version draws order 2"
    ):
        freeze(order_of(config), tmp_path / "manifest.json")
    (tmp_path / "manifest.json").write_text(frozen)
    (moved / "shard-000003.tar").unlink()
    with pytest.raises(UserError, match="had 5 shards and has 4; shard-000003.tar is missing"):
        freeze(order_of(config), tmp_path / "manifest.json")


def test_sources_of_two_sizes_go_into_one_batch(folder, tmp_path):
    write_shards(tmp_path, [make_clip(i, size=40) for i in range(20)], 20)
    from data.config import SourceConfig

    config = DataConfig(
        sources={"large": SourceConfig(str(folder)), "small": SourceConfig(str(tmp_path))}
    )
    batch = stream(order_of(config), config, stop=1)[0]
    small = tag(batch, "source") == 1
    assert small.sum() == 8 and (tag(batch, "size")[small] == 40).all()
    # What lies outside a small image is black, as everywhere, whatever an earlier batch left
    # there.
    images = batch["pixels"][small]
    assert images[:, :, :40, :40].any(axis=-1).mean() > 0.99
    assert not images[:, :, 40:].any() and not images[:, :, :, 40:].any()
    assert (batch["numbers"][small][:, :, 2] == 35).all()


def test_excluded_subjects_never_come(folder, tmp_path):
    listed = tmp_path / "withdrawn.txt"
    listed.write_text("# since May\nperson1\n")
    config = DataConfig(shards=str(folder), val_clips=6, exclude=str(listed))
    order = order_of(config)
    batches = stream(order, config, stop=8)
    keys = [read_index(path).keys for path in order.sources[0].paths]
    seen = {
        int(keys[shard][i][-5:])
        for b in batches
        for shard, i in zip(tag(b, "shard"), tag(b, "index"), strict=True)
    }
    assert seen and not any(
        clip % 3 == 1 for clip in seen
    )  # clips.make_clip: clip i shows person i % 3
    assert len(seen) > 20  # the others still come
    assert tag(batches[0], "no_pair").sum() > 0
    assert same(batches, stream(order, config, workers=2, stop=8))
    val_arrays = val_pairs(order, config, NOISE, 6)
    index = read_index(order.sources[0].paths[-1])
    assert not any(int(index.keys[i][-5:]) % 3 == 1 for i in tag(val_arrays, "index"))

    # Where nobody is excluded, the same slots hold the same samples.
    plain = stream(order, DataConfig(shards=str(folder), val_clips=6), stop=1)[0]
    kept = tag(batches[0], "no_pair") == 0
    assert np.array_equal(plain["tags"][kept], batches[0]["tags"][kept])


def test_a_list_of_excluded_subjects_that_cannot_be_used_is_named(tmp_path):
    for name, content in (
        ("empty.txt", b"# nobody\n"),
        ("image.jpg", b"\xff\xd8\xff\xe0"),
        ("missing.txt", None),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"data.exclude=.*{name}"):
            DataConfig(shards="x", exclude=str(tmp_path / name)).excluded()


def test_shards_that_the_operator_lists_are_not_read(folder, tmp_path, monkeypatch):
    config = DataConfig(shards=str(folder), val_clips=6)
    order = order_of(config)
    broken = os.path.basename(order.sources[0].paths[1])
    pread = os.pread

    def failing(file, length, offset):
        if os.readlink(f"/proc/self/fd/{file}").endswith(broken):
            raise OSError(5, "Input/output error")
        return pread(file, length, offset)

    monkeypatch.setattr(os, "pread", failing)
    monkeypatch.setattr("data.storage.patience.time.sleep", lambda seconds: None)
    with pytest.raises(
        EnvironmentFault, match=f"{broken} failed .* in 120 s: input/output error.*bad_shards.json"
    ):
        stream(order, config, stop=8)

    (tmp_path / "bad_shards.json").write_text(f'["{broken}"]')
    skip = quarantined_shards(tmp_path, order)
    loader = open_loader(order, config, NOISE, 0, 1, 0, skip)
    batches = [arrays["tags"].copy() for _, arrays in loader.batches(0, 8)]
    shard, over = (
        np.concatenate([tags[:, TAGS.index(name)] for tags in batches])
        for name in ("shard", "no_pair")
    )
    assert (
        not (shard == 1).any() and over.sum() > 0
    )  # passed over like excluded people; the operator knows of them
    assert not loader.take_bad()

    for text, words in (
        ('["shard-9.tar"]', "shard-9.tar, which is not a shard"),
        ("{}", "not a JSON list"),
        ("[", "cannot be read"),
    ):
        (tmp_path / "bad_shards.json").write_text(text)
        with pytest.raises(UserError, match=words):
            quarantined_shards(tmp_path, order)
    assert quarantined_shards(tmp_path / "elsewhere", order) == frozenset()


def test_clips_of_one_crop_are_passed_over_by_pairs(tmp_path):
    """Among clips with pairs they are replaced and counted; by themselves they are refused."""
    lone = [make_clip(100 + i, views=1, instants=1) for i in range(4)]
    assert read_index(write_shards(tmp_path, lone, 4)[0]).offers.tolist() == [1 << 6] * 4
    config = DataConfig(str(tmp_path), val_clips=0)
    with pytest.raises(UserError, match="no clip has a pair of crops with data.pairs.crops=body"):
        order_of(config)
    write_shards(tmp_path, [*lone, *(make_clip(i) for i in range(12))], 16)
    order = order_of(config)
    batch = stream(order, config, stop=1)[0]
    assert tag(batch, "no_pair").sum() > 0 and (tag(batch, "index") >= 4).all()


def test_pairs_widen_with_the_steps(tmp_path):
    write_shards(tmp_path, [make_clip(i, views=3, instants=3, size=32) for i in range(24)], 6)
    made = {}
    for steps in (0, 6):
        widen = WidenConfig(steps=steps, angle_deg=45, gap_s=0.6)
        config = DataConfig(shards=str(tmp_path), val_clips=4, widen=widen)
        loader = open_loader(open_order(config, 16, 3), config, NOISE, 0, 1, 0)
        made[steps] = [
            {name: values.copy() for name, values in arrays.items()}
            for _, arrays in loader.batches(0, 9)
        ]
        loader.close()
    far = []
    for arrays in made[6]:
        # Crops are counted by instant, then view: views 40 degrees apart, instants half a second.
        a, b = (arrays["tags"][:, TAGS.index(name)] for name in ("a", "b"))
        views, instants = abs(a % 3 - b % 3), abs(a // 3 - b // 3)
        far.append(int((np.maximum(views, instants) == 2).sum()))
    # 80 degrees from 45 at step 4 on (45 + 55 * 4 / 6); a second at once: 0.6 + 9.4 / 6.
    assert far[0] == 0 and all(far[1:])
    kinds = made[6][3]["tags"][:, TAGS.index("kind")]
    a, b = (made[6][3]["tags"][:, TAGS.index(name)] for name in ("a", "b"))
    assert (abs(a % 3 - b % 3)[kinds == 0] == 1).all()
    # Once all are allowed, batches are those of a run that never narrowed.
    for one, other in zip(made[0][6:], made[6][6:], strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in one)


def test_the_first_steps_must_have_pairs(tmp_path):
    config = DataConfig(shards="x", widen=WidenConfig(steps=5, angle_deg=4))
    with pytest.raises(
        UserError, match=r"data.widen.angle_deg=4 is below data.pairs.angle_min_deg=5"
    ):
        config.check()
    config = DataConfig(shards="x", widen=WidenConfig(gap_s=1.5))
    with pytest.raises(UserError, match=r"gap_s=1.5, but data.widen.steps=0: pairs do not widen"):
        config.check()
