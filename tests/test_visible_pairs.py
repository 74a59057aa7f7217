"""Pairs by how much of the body or the hand their crops show (data.pairs.visible_min)."""

import numpy as np
import pytest
from clips import make_clip, write_shards

from data.config import DataConfig
from data.format.clip import encode
from data.format.index import PAIR_KINDS
from data.format.label_files import read_visible
from data.loading.build import open_loader, open_order
from data.loading.reader import TAGS
from data.sampling.pairs import PairRules
from data.tools.stats import rule_masks, tally_shard
from engine.errors import UserError

# Of the four crops of a clip: two cameras at two instants, instant by instant.
SHARES = np.array([0.5, 0.04, 0.3, 0.2], np.float32)


def labelled(i, visible):
    clip = make_clip(i, labels=True)
    if visible is not None:
        clip.labels = {**clip.labels, "visible": visible}
    return clip


@pytest.fixture
def folder(tmp_path):
    write_shards(tmp_path, [labelled(i, SHARES) for i in range(20)], 10)
    return tmp_path


def drawn(folder, least, batches=12, **more):
    """{(kind, a, b)} of the pairs that a loader gives, and all of its arrays but the tags."""
    config = DataConfig(shards=str(folder), val_clips=2, pairs=PairRules(visible_min=least), **more)
    order = open_order(config, 8, 3)
    loader = open_loader(order, config, 4, 0, 1, 0)
    found, pixels = set(), []
    for _, arrays in loader.batches(0, batches):
        columns = arrays["tags"][:, [TAGS.index(name) for name in ("kind", "a", "b")]]
        found |= {tuple(row) for row in columns.tolist()}
        pixels.append(arrays["pixels"].copy())
    loader.close()
    return found, pixels


def test_neither_crop_of_a_pair_shows_less(folder):
    everything, _ = drawn(folder, 0.0)
    assert any(1 in pair[1:] for pair in everything)
    kept, _ = drawn(folder, 0.1)
    # Crop 1 shows too little, as a target and as a reference.
    assert kept == {pair for pair in everything if 1 not in pair[1:]} and len(kept) == 4


def test_what_nobody_knows_counts_as_visible(tmp_path):
    bare = [make_clip(i) for i in range(10)]
    unmeasured = [labelled(10 + i, None) for i in range(10)]
    write_shards(tmp_path, bare + unmeasured, 10)
    kept, pixels = drawn(tmp_path, 0.9)
    everything, all_pixels = drawn(tmp_path, 0.0)
    assert kept == everything and len(kept) == 8
    assert all(np.array_equal(a, b) for a, b in zip(pixels, all_pixels, strict=True))


def test_stats_count_what_the_rule_keeps(folder):
    tally = tally_shard(str(sorted(folder.glob("*.tar"))[0]))
    for kind in PAIR_KINDS:
        rows, masks = rule_masks(tally.pairs, kind, PairRules(visible_min=0.1))
        # Of each clip's two pairs, both ways, the one without crop 1.
        assert len(rows) == 40 and masks[-1][1].sum() == 20
        assert ("visible from 0.1", 20) in [(words, int(mask.sum())) for words, mask in masks]


def test_a_rule_that_nothing_keeps_is_said(folder):
    with pytest.raises(UserError, match="cross_.* pair"):
        drawn(folder, 0.9, retries=2)


def test_shares_that_do_not_fit_are_refused():
    data = encode(labelled(0, SHARES))["labels.npz"]
    assert read_visible(data, 4).tolist() == SHARES.tolist()
    with pytest.raises(ValueError, match="each of 3 crops"):
        read_visible(data, 3)
