"""Sequences: which crops follow each other, windows and their padding, and the order of slots."""

import re
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from clips import make_clip, rewrite, write_shards

from data.format.clip import Clip, Crop
from data.format.label_rows import LabelLayout
from data.format.label_stack import stack_labels
from data.format.labels import CropLabels, Joints
from data.loading.loader import Loader
from data.loading.sequences import (
    Place,
    Run,
    SequenceConfig,
    SequenceOrder,
    SequenceReader,
    cut_windows,
    find_runs,
)
from data.storage.shard_store import Store
from engine.errors import UserError

SIDE = 32


def video_clip(name, times, camera="phone", track=None, subject="anna"):
    """A clip of one camera; the image at t seconds is grey of brightness 20 t, its joint is at x =
    t."""
    jpegs, labels = [], []
    for time_s in times:
        image = np.full((SIDE, SIDE, 3), round(20 * time_s), np.uint8)
        jpegs.append(simplejpeg.encode_jpeg(image, quality=95, colorspace="RGB"))
        point = np.array([[time_s, 0, 0]], np.float32)
        labels.append(CropLabels(joints=Joints("toy1", point, np.ones(1))))
    crops = [Crop(camera, time_s) for time_s in times]
    clip = Clip(name, "takes", "CC0-1.0", subject, SIDE, crops, jpegs, labels=stack_labels(labels))
    clip.track = track
    return clip


def opened(paths, seed=3, labels=None, **given):
    """(SequenceReader, its order) of shards."""
    config, store = SequenceConfig(**{"gap_max_s": 1.0, **given}), Store(None)
    order = SequenceOrder(find_runs(paths, store, config), config, seed, batch=4)
    return SequenceReader(order, store, labels, retries=3), order


def test_crops_follow_each_other_within_a_clip_and_across_a_tracks_clips(tmp_path):
    clips = [
        video_clip("b", [4, 5, 6], track="walk"),
        video_clip("a", [0, 1, 2, 3, 4], track="walk"),  # the instant 4 is there twice
        video_clip("c", [9, 10], track="walk"),  # after a gap
        video_clip("d", [0, 1]),  # of no track: a run by itself, though its clock fits
        video_clip("e", [2, 3]),
        video_clip("f", [3, 4], track="walk", camera="other"),
        video_clip("g", [5]),  # shorter than run_min
    ]
    paths = write_shards(tmp_path, clips, 2)
    runs = find_runs(paths, Store(None), SequenceConfig(gap_max_s=1.0))
    times = [[place.time_s for place in run.places] for run in runs]
    assert times == [[0, 1, 2, 3, 4, 5, 6], [9, 10], [0, 1], [2, 3], [3, 4]]
    assert [run.track for run in runs][:2] == ["walk", "walk"] and runs[2].track.endswith(":d")
    assert [run.camera for run in runs] == ["phone"] * 4 + ["other"]
    assert runs[0].places[4] == Place(paths[0], 0, 0, 4.0)  # of "b", which lies first
    config = SequenceConfig(gap_max_s=1.0)
    assert find_runs(paths, Store(None), config, frozenset({"anna"})) == []


@pytest.mark.parametrize(
    "count,length,stride,spans",
    [
        (7, 3, 2, [(0, 3), (2, 5), (4, 7)]),
        (8, 3, 2, [(0, 3), (2, 5), (4, 7), (6, 8)]),
        (8, 3, 3, [(0, 3), (3, 6), (6, 8)]),
        (2, 5, 1, [(0, 2)]),
        (5, 5, 5, [(0, 5)]),
        (6, 5, 5, [(0, 5), (5, 6)]),
        (3, 1, 2, [(0, 1), (2, 3)]),
        (4, 1, 3, [(0, 1), (3, 4)]),
        (3, 1, 5, [(0, 1)]),
    ],
)
def test_windows_cover_a_run(count, length, stride, spans):
    run = Run("t", "s", "c", "body", [Place("p", 0, i, i) for i in range(count)])
    windows = cut_windows([run], SequenceConfig(length=length, stride=stride))
    assert [(window.start, window.stop) for window in windows] == spans


def test_a_sequence_holds_its_crops_and_says_where_it_is_padded(tmp_path):
    clips = [video_clip("a", [0, 1, 2], track="w"), video_clip("b", [3, 4], track="w")]
    reader, order = opened(write_shards(tmp_path, clips, 1), length=3, stride=3)
    found = {tuple(s.time_s): s for s in (reader.read(n) for n in range(len(order.windows)))}
    assert sorted(found) == [(0, 1, 2), (3, 4, 4)]
    last = found[3, 4, 4]
    assert last.valid.tolist() == [True, True, False]
    assert (last.track, last.subject, last.camera, last.kind) == ("w", "anna", "phone", "body")
    assert last.pixels.shape == (3, SIDE, SIDE, 3)
    assert last.pixels[:, 0, 0, 0].tolist() == [60, 80, 0] and not last.pixels[2].any()
    assert (last.mask[:2] == 255).all() and not last.mask[2].any()
    assert [labels.joints.points[0, 0] for labels in last.labels[:2]] == [3, 4]
    assert last.labels[2].joints is None and not last.calibrated.any()


def test_slots_follow_from_seed_and_number_alone(tmp_path):
    clips = [video_clip(f"c{i}", np.arange(8) * 0.5) for i in range(9)]
    paths = write_shards(tmp_path, clips, 3)
    _, order = opened(paths, length=4, stride=2)
    _, again = opened(paths, length=4, stride=2)
    count = len(order.windows)
    assert count == 27
    drawn = [order.draw(n) for n in range(3 * count)]
    backwards = [again.draw(n) for n in reversed(range(3 * count))]
    assert drawn == backwards[::-1]
    for epoch in range(3):  # each visits every window once, in another order
        assert sorted(drawn[epoch * count : (epoch + 1) * count]) == list(range(count))
    assert drawn[:count] != drawn[count : 2 * count]
    _, other = opened(paths, seed=4, length=4, stride=2)
    assert [other.draw(n) for n in range(count)] != drawn[:count]


def test_batches_from_workers_hold_the_same_as_single_reads(tmp_path):
    clips = [make_clip(i, views=2, instants=6, size=SIDE) for i in range(4)]
    layout = LabelLayout(joint_set="body21")
    reader, order = opened(write_shards(tmp_path, clips, 2), labels=layout, length=4, stride=2)
    assert len(order.windows) == 16
    batches = []
    for workers in (0, 2):
        loader = Loader(reader, reader.layout(4, SIDE), range(4), workers, 2)
        batches.append([{k: v.copy() for k, v in b.items()} for _, b in loader.batches(1, 3)])
        loader.close()
    for one, other in zip(*batches, strict=True):
        for name in one:
            assert np.array_equal(one[name], other[name]), name
    first = batches[0][0]
    assert first["joints"].shape == (4, 4, 21, 4) and not first["present"].any()
    for row in range(4):
        sequence = reader.read(4 + row)
        assert np.array_equal(first["pixels"][row], sequence.pixels)
        assert np.array_equal(first["K"][row], sequence.K) and sequence.calibrated.all()
        assert np.diff(sequence.time_s).tolist() == [0.5] * 3
        assert np.array_equal(first["box"][row, 0], [10, 20, 74, 84])


def test_bad_bytes_are_replaced_alike_and_listed(tmp_path):
    paths = write_shards(tmp_path, [video_clip(f"c{i}", [0, 1, 2]) for i in range(6)], 6)
    rewrite(paths[0], lambda name, data: data[:90] if name == "c3.01.jpg" else data)
    drawn = []
    for _ in range(2):
        reader, order = opened(paths, length=3)
        found = [reader.read(n).track for n in range(len(order.windows))]
        drawn.append((found, reader.bad))
    assert drawn[0] == drawn[1] and len(drawn[0][0]) == 6
    assert not any(track.endswith(":c3") for track in drawn[0][0])
    ((slot, path, index, reason), *_) = drawn[0][1]
    assert 0 <= slot < 6 and (path, index) == (paths[0], 3) and "01.jpg does not decode" in reason
    rewrite(paths[0], lambda name, data: data[:90] if name.endswith("jpg") else data)
    reader, _ = opened(paths, length=3)
    with pytest.raises(UserError, match="4 draws for slot 0 gave no sequence"):
        reader.read(0)


def test_shards_without_a_run_are_told(tmp_path):
    paths = write_shards(tmp_path, [video_clip("a", [0, 5])], 1)
    with pytest.raises(UserError, match="no 2 crops of one person by one camera .* 1 s"):
        opened(paths)


def test_the_example_in_the_documentation_runs(tmp_path):
    doc = Path(__file__).resolve().parent.parent / "docs" / "data.md"
    section = doc.read_text().split("## Sequences")[1]
    block = re.search(r"```python\n(.*?)```", section, re.S).group(1)
    paths = write_shards(tmp_path, [video_clip("a", np.arange(20) * 0.1)], 1)
    names = {"paths": paths, "store": Store(None)}
    exec(compile(block, str(doc), "exec"), names)
    assert names["sequence"].pixels.shape == (16, SIDE, SIDE, 3)
