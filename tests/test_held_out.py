"""No training clip shares a frame with a validation clip, and nothing but those is left out."""

import json
import random
from dataclasses import replace

import cv2
import numpy as np
import pytest
import simplejpeg
import torch
from clips import make_clip, write_shards
from runs import ROOT, words

from data.format import index as index_file
from data.format.clip import Clip, Crop
from data.format.index import index_path, read_index
from data.format.looks import count_bits, hash_look
from data.sampling.held_out import (
    NEAR_BITS,
    NEAR_S,
    describe_left_out,
    drop_near,
    leave_out_near,
)
from data.sampling.manifest import (
    began_without_left_out,
    freeze,
    read_left_out,
    read_manifest,
)
from data.sampling.order import Order
from data.storage.shard_store import Store
from engine.config.parser import parse
from engine.distributed.process_group import Processes
from engine.errors import UserError
from pretrain.config import PretrainConfig
from pretrain.train import make_trainer

GREY = simplejpeg.encode_jpeg(np.full((32, 32, 3), 90, np.uint8), colorspace="RGB")


def filmed(number, crops, subject="ann", track="walk", source="film"):
    """A clip with crops at (camera, seconds, look)."""
    made = [Crop(camera, time_s, look=look) for camera, time_s, look in crops]
    key, jpegs = f"clip{number:05d}", [GREY] * len(crops)
    return Clip(key, source, "CC0-1.0", subject, 32, made, jpegs, track=track)


def order_of(folder, val_clips=5):
    """The order of all clips of a folder, whatever pairs they have."""
    source = read_manifest("all", str(folder), val_clips, -1, Store(None))
    source.offers = [0]
    return Order([source], [1.0], [1.0, 0.0], 3, 8, 4, 2.0)


def near(clip, other):
    """By the rule as it is written in the docs, from the clips alone."""
    for a in clip.crops:
        for b in other.crops:
            names = [(c.source, c.subject, c.track) for c in (clip, other)]
            same = names[0] == names[1] and a.camera == b.camera and clip.track is not None
            if same and abs(a.time_s - b.time_s) <= NEAR_S + 1e-9:
                return True
            apart = bin(int(a.look or "0", 16) ^ int(b.look or "0", 16)).count("1")
            if a.look and b.look and clip.source == other.source and apart <= NEAR_BITS:
                return True
    return False


def chance_clips(count, seed):
    """Clips of few people, cameras, recordings and looks, so that many share something."""
    chance = random.Random(seed)
    looks = [chance.getrandbits(64) for _ in range(30)]
    clips = []
    for number in range(count):
        crops = []
        for _ in range(chance.randrange(1, 4)):
            look = chance.choice(looks)
            for _ in range(chance.randrange(9)):
                look ^= 1 << chance.randrange(64)
            known = chance.random() < 0.3
            time_s = round(chance.uniform(0, 15), 3)
            crops.append((chance.choice("ab"), time_s, f"{look:016x}" if known else None))
        subject, track = chance.choice(["ann", "bo"]), chance.choice(["x", "y", "z", None])
        source = chance.choice(["film", "film", "film", "tape"])
        clips.append(filmed(number, crops, subject, track, source))
    return clips


@pytest.mark.parametrize("seed", range(4))
def test_exactly_those_that_share_a_frame_are_left_out(tmp_path, seed):
    clips = chance_clips(150, seed)
    write_shards(tmp_path, clips, 40)
    order = order_of(tmp_path, 12)
    held, trained = clips[-12:], clips[:-12]
    left = leave_out_near(order, Store(None))
    expected = [i for i, clip in enumerate(trained) if any(near(clip, other) for other in held)]
    found = (left[0].shards * 40 + left[0].indexes).tolist()
    assert found == expected and 10 < len(found) < 130
    assert left[0].moments + left[0].looks == len(found) and left[0].looks > 0
    order.leave_out(left)
    drawn = set()
    for n in range(3000):
        for attempt in (0, 1):
            draw = order.draw(n, attempt)
            drawn.add(draw.shard * 40 + draw.index)
    assert drawn == set(range(138)) - set(expected)
    again = order_of(tmp_path, 12)
    again.leave_out(leave_out_near(again, Store(None)))
    assert [again.draw(n) for n in range(500)] == [order.draw(n) for n in range(500)]


def test_rendered_clips_and_clips_of_no_recording_cost_nothing(tmp_path):
    write_shards(tmp_path, [make_clip(i, size=32, source="made") for i in range(30)], 10)
    order = order_of(tmp_path)
    before = [order.draw(n) for n in range(200)]
    left = leave_out_near(order, Store(None))
    order.leave_out(left)
    assert len(left[0]) == 0 and [order.draw(n) for n in range(200)] == before
    assert len(read_index(order.sources[0].paths[0]).moments) == 0
    assert "left_out" not in order.sources[0].record()
    (tmp_path / "stills").mkdir()
    write_shards(tmp_path / "stills", [make_clip(i, size=32) for i in range(30)], 10)
    assert len(leave_out_near(order_of(tmp_path / "stills"), Store(None))[0]) == 0


def test_one_short_take_is_refused_with_what_to_do(tmp_path):
    write_shards(tmp_path, [filmed(i, [("a", 0.01 * i, None)]) for i in range(20)], 10)
    with pytest.raises(UserError, match=r"all 18 training clips share .*data.val_clips=0"):
        leave_out_near(order_of(tmp_path, 2), Store(None))


def test_an_index_of_before_is_made_anew_where_it_is_needed(tmp_path, monkeypatch):
    clips = [filmed(i, [("a", 0.3 * i, None)]) for i in range(20)]
    path = write_shards(tmp_path, clips, 20)[0]
    expected = leave_out_near(order_of(tmp_path, 2), Store(None))[0].indexes.tolist()
    assert expected == [17]
    index = read_index(path)
    index.moments = None
    index_file.save_index(index, index_path(path))
    assert read_index(path).moments is None
    assert leave_out_near(order_of(tmp_path, 2), Store(None))[0].indexes.tolist() == expected
    assert len(read_index(path).moments) == 20


def test_a_run_freezes_what_it_left_out_and_an_old_one_goes_on(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    write_shards(folder, [filmed(i, [("a", 0.3 * i, None)]) for i in range(20)], 10)
    order, path = order_of(folder, 2), tmp_path / "manifest.json"
    assert not began_without_left_out(path)
    order.leave_out(leave_out_near(order, Store(None)))
    freeze(order, path)
    record = json.loads(path.read_text())["sources"]["all"]["left_out"]
    assert (record["clips"], record["same_moment"], record["same_look"]) == (1, 1, 0)
    digest = order.sources[0].digests[1]
    assert {k: v.tolist() for k, v in read_left_out(path).items()} == {digest: [7]}
    assert "1 of 18 training clips are left out: 1 show a person" in describe_left_out(
        "all", order.sources[0].left_out, 18
    )
    freeze(order, path)
    plain = order_of(folder, 2)
    with pytest.raises(UserError, match=r"left out 1 training clips .* and now 0"):
        freeze(plain, path)
    # A run of before: no mark in its manifest.
    path.unlink()
    freeze(plain, path)
    tree = json.loads(path.read_text())
    del tree["apart"]
    path.write_text(json.dumps(tree))
    assert began_without_left_out(path)
    freeze(plain, path)


def test_a_test_drops_what_training_shared(tmp_path):
    clips = [filmed(i, [("a", 0.3 * i, None)]) for i in range(30)]
    write_shards(tmp_path, clips, 10)
    order = order_of(tmp_path, 0)
    source = order.sources[0]
    trained = {source.digests[0]: 10, source.digests[1]: 5}
    source.val = [(1, i) for i in range(5, 10)] + [(2, i) for i in range(10)]
    assert drop_near(order, trained, {}, Store(None)) == 1
    assert source.val[0] == (1, 6)
    source.val = [(1, i) for i in range(5, 10)]
    # The same footage in another shard, under another name, of which nothing was trained on itself.
    copy, look = tmp_path / "copy", f"{7:016x}"
    copy.mkdir()
    write_shards(copy, [filmed(0, [("z", 9.0, f"{5:016x}")], "bertha", "other")], 10)
    known = tmp_path / "known"
    known.mkdir()
    path = write_shards(known, [filmed(0, [("a", 0.0, look)])], 10)[0]
    other, digest = order_of(copy, 0), read_index(path).digest
    other.sources[0].val = [(0, 0)]
    assert drop_near(other, {digest: 1}, {}, Store(None)) == 0
    assert drop_near(other, {digest: 1}, {}, Store(None), {digest: path}) == 1
    # The last trained clip was left out after all: nothing is near any more.
    left = {source.digests[1]: np.array([4])}
    assert drop_near(order, trained, left, Store(None)) == 0


def photograph(seed, side=256):
    """An image with the spectrum of natural ones."""
    noise = np.random.default_rng(seed).normal(size=(side, side, 3))
    image = sum(
        cv2.resize(noise[:k, :k], (side, side), interpolation=cv2.INTER_CUBIC) * 64 / k
        for k in (4, 8, 16, 32, 64)
    )
    return np.clip(128 + 8 * image, 0, 255).astype(np.uint8)


def bits_apart(a, b):
    return int(count_bits(np.array([int(a, 16) ^ int(b, 16)], np.uint64))[0])


def test_looks_are_near_for_the_same_image_and_far_for_others():
    same, other = [], []
    for seed in range(40):
        image = photograph(seed)
        jpeg = simplejpeg.decode_jpeg(simplejpeg.encode_jpeg(image, quality=60, colorspace="RGB"))
        small = cv2.resize(image, (112, 112), interpolation=cv2.INTER_AREA)
        brighter = np.clip(image.astype(int) + 12, 0, 255).astype(np.uint8)
        look = hash_look(image)
        same += [bits_apart(look, hash_look(each)) for each in (jpeg, small, brighter)]
        other.append(bits_apart(look, hash_look(photograph(seed + 1000))))
    assert max(same) <= NEAR_BITS
    assert min(other) > 2 * NEAR_BITS and 28 < np.mean(other) < 36
    assert hash_look(np.full((64, 64, 3), 7, np.uint8)) is None


def test_bits_are_counted_without_numpys_own(monkeypatch):
    values = np.random.default_rng(0).integers(0, 2**64, (50, 3), np.uint64)
    expected = [[bin(value).count("1") for value in row] for row in values.tolist()]
    assert count_bits(values).tolist() == expected
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert count_bits(values).tolist() == expected


def test_a_run_says_what_it_left_out_and_resumes_with_the_same(tmp_path, capsys):
    """A recording of 40 clips; the last 4 are for validation, and the one before them is near."""
    folder = tmp_path / "shards"
    folder.mkdir()
    clips = []
    for number in range(40):
        clip = make_clip(number, size=56, source="film")
        for crop in clip.crops:
            crop.time_s += 2.0 * number - (1.4 if number >= 36 else 0)
        clips.append(replace(clip, subject="ann", track="walk"))
    write_shards(folder, clips, 20)
    file, *rest = words(tmp_path / "run", folder, "data.workers=0", "data.pairs.crops=any")
    config = parse(PretrainConfig, [str(ROOT / file), *rest], "pretrain train")
    streams = []
    for _ in range(2):
        trainer = make_trainer(config, Processes(0, 1, torch.device("cpu")))
        order = trainer.task.order
        streams.append([order.draw(n) for n in range(400)])
        run, error = trainer.open_run()
        assert error is None
        run.close()
        trainer.close()
        trainer.task.announce_data("a batch")
    sources = json.loads((tmp_path / "run/manifest.json").read_text())["sources"]
    record = next(iter(sources.values()))["left_out"]
    assert (record["clips"], record["same_moment"]) == (1, 1)
    assert streams[0] == streams[1]
    drawn = {draw.shard * 20 + draw.index for draw in streams[0]}
    assert drawn == set(range(36)) - {35}
    assert "1 of 36 training clips are left out" in capsys.readouterr().err
