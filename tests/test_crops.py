"""Labelled crops: rows hold the crop and the labels that their tags name, and numbers that slot and
seed decide."""

import io
import json
import re
import shutil
import zipfile

import numpy as np
import pytest
import simplejpeg
import webdataset
from clips import rewrite

from data.bodies.anny import ANNY
from data.config import CropDataConfig
from data.format.clip import KINDS
from data.loading.build import open_crop_loader, open_crop_order, sample_labels
from data.loading.crops import FLIP, PER_CROP, TAGS, CropAugmentConfig, CropRules
from data.loading.validation import val_crops
from engine.errors import UserError

SEEN = 2  # of joint_visible


def config_of(folder, **given):
    """The CropDataConfig of a folder: no validation clips, and what is given."""
    return CropDataConfig(**{"shards": str(folder), "val_clips": 0, **given})


def hand_config(folder, **given):
    return config_of(folder, rules=CropRules(crops="hand"), **given)


def stream(config, batch=16, seed=5, workers=0, world=1, start=0, stop=4):
    """[{name: whole batch's array}] put together from all ranks, and the bad samples that were
    met."""
    order = open_crop_order(config, batch, seed)
    loaders = [open_crop_loader(order, config, rank, world, workers) for rank in range(world)]
    rounds = zip(*[loader.batches(start, stop) for loader in loaders], strict=True)
    out = [
        {k: np.concatenate([arrays[k] for _, arrays in parts]).copy() for k in parts[0][1]}
        for parts in rounds
    ]
    bad = [entry for loader in loaders for entry in loader.take_bad()]
    for loader in loaders:
        loader.close()
    return out, bad


def together(config, **given):
    """All rows of a stream in one dict."""
    batches, _ = stream(config, **given)
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def tag(arrays, name):
    return arrays["tags"][:, TAGS.index(name)]


def samples_of(folder):
    """[[sample, ...] of each tar], read by webdataset: {"json": dict, "labels.npz": arrays,
    "00.jpg": bytes, ...}."""
    out = []
    for path in sorted(folder.glob("*.tar")):
        read = list(webdataset.WebDataset(str(path), shardshuffle=False))
        for sample in read:
            sample["json"] = json.loads(sample["json"])
            if "labels.npz" in sample:
                sample["labels.npz"] = dict(np.load(io.BytesIO(sample["labels.npz"])))
        out.append(read)
    return out


def test_hand_joints_are_those_of_the_body_model(bodies):
    names = bodies["anny"].joint_names
    for kind in ("left_hand", "right_hand"):
        places = ANNY.index_part(kind)
        side = {"left_hand": ".L", "right_hand": ".R"}[kind]
        assert [
            n for n in names if n.endswith(side) and n.startswith(("wrist", "finger", "metacarpal"))
        ] == [names[i] for i in places]


@pytest.mark.parametrize("kind", ["body", "hand"])
def test_a_row_holds_the_crop_that_its_tags_name(people, kind):
    config = config_of(people[kind], rules=CropRules(crops=kind))
    found, known = together(config), samples_of(people[kind])
    crops = set()
    for row in range(64):
        place = tuple(tag(found, name)[row] for name in ("shard", "index", "crop"))
        crops.add(place)
        sample = known[place[0]][place[1]]
        labels, meta = sample["labels.npz"], sample["json"]["crops"][place[2]]
        assert np.array_equal(
            found["pixels"][row], simplejpeg.decode_jpeg(sample[f"{place[2]:02d}.jpg"], "RGB")
        )
        assert (
            found["mask"][row].tobytes()
            == sample["masks.bin"][512 * place[2] : 512 * (place[2] + 1)]
        )
        assert all(np.array_equal(found[name][row], np.float32(meta[name])) for name in ("K", "Rt"))
        instant = labels["instant"][place[2]]
        assert all(
            np.array_equal(found[name][row], labels[name][instant])
            for name in ("pose", "root", "joints")
        )
        assert np.array_equal(found["shape"][row], labels["phenotype"]) and np.array_equal(
            found["face"][row], labels["face"]
        )
        assert KINDS[tag(found, "part")[row]] == meta["kind"] and tag(found, "size")[row] == 64
    assert len(crops) > 35 and {crop for *_, crop in crops} == {0, 1, 2, 3}
    assert (tag(found, "bad") == 0).all() and (tag(found, "no_pair") == 0).all()


def test_left_hands_are_mirrored_and_right_ones_never(people):
    for flip in (True, False):
        found = together(hand_config(people["hand"], augment=CropAugmentConfig(flip=flip)), stop=8)
        part = np.array(KINDS)[tag(found, "part")]
        assert set(part) == {"left_hand", "right_hand"}
        assert np.array_equal(found["numbers"][:, FLIP], part == "left_hand")
    config = config_of(people["hand"], rules=CropRules(crops="hand"), val_clips=2)
    held = val_crops(open_crop_order(config, 16, 0), config, 2)
    assert np.array_equal(held["numbers"][:, FLIP], tag(held, "part") == KINDS.index("left_hand"))


def test_half_of_the_bodies_are_mirrored_where_that_is_asked_for(people):
    found = together(config_of(people["body"]), stop=20)["numbers"][:, FLIP]
    assert set(found) == {0, 1} and 0.4 < found.mean() < 0.6
    assert not together(config_of(people["body"], augment=CropAugmentConfig(flip=False)))[
        "numbers"
    ][:, FLIP].any()


def test_any_workers_ranks_and_start_give_the_same_bytes(people):
    config = hand_config(people["hand"], augment=CropAugmentConfig(part_share=0.5))
    whole, _ = stream(config)
    assert same(whole, stream(config, workers=2)[0]) and same(
        whole, stream(config, workers=1, world=2)[0]
    )
    assert same(whole, stream(config, world=4)[0]) and same(whole[2:], stream(config, start=2)[0])
    assert not same(whole, stream(config, seed=6)[0])


def same(one, other):
    return len(one) == len(other) and all(
        np.array_equal(a[k], b[k]) for a, b in zip(one, other, strict=True) for k in a
    )


def test_numbers_depend_on_seed_and_slot_alone(people):
    """Other clips in the same slots get the same crop, rotation and colours."""
    rest = [i for i in range(PER_CROP) if i != FLIP]
    one, other = together(config_of(people["body"])), together(hand_config(people["hand"]))
    assert np.array_equal(one["numbers"][:, rest], other["numbers"][:, rest])
    assert len(np.unique(one["numbers"][:, 0])) == 64
    moved = together(config_of(people["body"]), seed=6)["numbers"][:, rest]
    assert (np.abs(moved - one["numbers"][:, rest]) > 0).mean() > 0.99


def test_numbers_fill_their_ranges_and_no_more(people):
    rules = CropAugmentConfig(scale_min=0.7, scale_max=1.2, shift=0.1, rotation_deg=40, colour=0.3)
    x, y, side, rotation, _, *colour = together(config_of(people["body"], augment=rules), stop=40)[
        "numbers"
    ].T
    for values, low, high in (
        (x, 25.6, 38.4),
        (y, 25.6, 38.4),
        (side, 44.8, 76.8),
        (np.degrees(rotation), -40, 40),
        *((c, 0.7, 1.3) for c in colour),
    ):
        span = high - low
        assert low <= values.min() < low + 0.02 * span and high - 0.02 * span < values.max() <= high
        counts = np.histogram(values, 4, (low, high))[0]
        assert counts.min() > 0.7 * len(values) / 4  # uniform
    assert np.abs(np.corrcoef([x, y, side, rotation, *colour]) - np.eye(7)).max() < 0.15


@pytest.mark.parametrize("kind", ["body", "hand"])
def test_parts_lie_around_a_joint_that_is_seen(people, kind):
    rules = CropAugmentConfig(part_share=1, part_min=0.4, scale_min=0.8)
    found = together(config_of(people[kind], rules=CropRules(crops=kind), augment=rules))
    known, on_joint, joints = samples_of(people[kind]), 0, set()
    for row in range(64):
        shard, index, crop = (tag(found, name)[row] for name in ("shard", "index", "crop"))
        sample = known[shard][index]
        labels, meta = sample["labels.npz"], sample["json"]["crops"][crop]
        centre, side = found["numbers"][row, :2], found["numbers"][row, 2]
        assert 0.4 * 64 <= side <= 0.8 * 64
        assert (centre >= side / 2 - 1e-3).all() and (
            centre <= 64 - side / 2 + 1e-3
        ).all()  # inside the crop
        own = [
            i
            for i in np.flatnonzero(labels["joint_visible"][crop] == SEEN)
            if kind == "body" or i in ANNY.index_part(meta["kind"])
        ]
        camera = (
            labels["joints"][labels["instant"][crop]][own] @ np.array(meta["Rt"])[:, :3].T
            + np.array(meta["Rt"])[:, 3]
        )
        pixels = (camera @ np.array(meta["K"]).T)[:, :2] / camera[:, 2:]
        distance = np.abs(np.clip(pixels, side / 2, 64 - side / 2) - centre).max(1)
        assert distance.min() < 1e-2
        on_joint += np.abs(pixels - centre).max(1).min() < 1e-2
        joints.add(own[int(distance.argmin())])
    assert on_joint > 10 and len(joints) > 15


def test_parts_come_as_often_as_asked(people):
    rules = CropAugmentConfig(part_share=0.3, part_min=0.35, scale_min=1, scale_max=1, shift=0)
    side = together(config_of(people["body"], augment=rules), stop=20)["numbers"][:, 2]
    assert 0.22 < (side < 64).mean() < 0.38


def test_too_little_seen_and_missing_labels_are_passed_over(people, tmp_path):
    for path in people["body"].glob("*.tar"):
        shutil.copy(path, tmp_path / path.name)
    rewrite(
        tmp_path / "shard-000001.tar",
        lambda name, data: None if name.endswith("labels.npz") else data,
    )
    rewrite(
        tmp_path / "shard-000002.tar",
        lambda name, data: uncalibrated(data) if name.endswith(".json") else data,
    )
    known = samples_of(tmp_path)
    least = float(np.median([s["labels.npz"]["visible"] for s in known[0]]))
    found = together(config_of(tmp_path, rules=CropRules(visible_min=least)), stop=8)
    assert (
        (tag(found, "shard") == 0).all()
        and (tag(found, "no_pair") > 0).any()
        and (tag(found, "bad") == 0).all()
    )
    for row in range(len(found["tags"])):
        index, crop = tag(found, "index")[row], tag(found, "crop")[row]
        assert known[0][index]["labels.npz"]["visible"][crop] >= least
    assert len({(i, c) for i, c in zip(tag(found, "index"), tag(found, "crop"), strict=True)}) > 10

    few = config_of(tmp_path, rules=CropRules(visible_min=0.999), retries=3)
    with pytest.raises(
        UserError,
        match="source 'all': 4 draws.*no labelled body crop: 0 samples are bad, 4 have none",
    ):
        stream(few)
    with pytest.raises(UserError, match=r"data.rules.visible_min=0.999.*labels.npz"):
        sample_labels(open_crop_order(few, 16, 0), few, 8)
    with pytest.raises(UserError, match="source 'all'.*data.rules.crops=hand"):
        open_crop_order(hand_config(tmp_path), 16, 0)


def uncalibrated(data):
    meta = json.loads(data)
    for crop in meta["crops"]:
        crop["K"] = None
    return json.dumps(meta).encode()


def changed(data, **arrays):
    """Labels with some arrays replaced; None drops one."""
    out = {**dict(np.load(io.BytesIO(data))), **arrays}
    file = io.BytesIO()
    np.savez(file, **{name: value for name, value in out.items() if value is not None})
    return file.getvalue()


def encrypted(data):
    """The same archive with the flag of encryption set on its entries."""
    out = bytearray(data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for entry in archive.infolist():
            out[entry.header_offset + 6] |= 1
    start = out.find(b"PK\x01\x02")
    while start >= 0:
        out[start + 8] |= 1
        start = out.find(b"PK\x01\x02", start + 4)
    return bytes(out)


WRONG = {
    "cut off": (lambda data: data[: len(data) // 2], "labels.npz"),
    "zeros": (lambda data: b"\0" * len(data), "npz archive"),
    "encrypted": (encrypted, "encrypted"),
    "no pose": (lambda data: changed(data, pose=None), "pose"),
    "another model": (
        lambda data: changed(data, body_model=np.array("smplx")),
        "body model 'smplx'",
    ),
    "no model": (lambda data: changed(data, body_model=np.array([], "U4")), "body model ''"),
    "fewer joints": (
        lambda data: changed(data, pose=np.zeros((2, 55, 3), np.float32)),
        r"pose is \(2, 55, 3\)",
    ),
    "text": (lambda data: changed(data, root=np.full((2, 3), "1.0")), "root is"),
    "NaN": (
        lambda data: changed(data, face=np.full(52, np.nan, np.float32)),
        "face holds numbers that are not finite",
    ),
    "beyond float32": (
        lambda data: changed(data, phenotype=np.full(6, 1e200)),
        "phenotype holds numbers",
    ),
    "an instant less": (
        lambda data: changed(data, root=np.zeros((1, 3), np.float32)),
        r"root is \(1, 3\)",
    ),
    "instants that are not there": (
        lambda data: changed(data, instant=np.full(4, 2, np.uint8)),
        "instants 2 to 2 of 2",
    ),
    "instants below 0": (
        lambda data: changed(data, instant=np.full(4, -1, np.int8)),
        "instants -1 to -1",
    ),
    "no instants": (
        lambda data: changed(data, instant=np.zeros(0, np.uint8)),
        r"instant is \(0,\)",
    ),
    "one crop's visibility": (
        lambda data: changed(data, visible=np.ones(1, np.float32)),
        r"visible is \(1,\)",
    ),
    "fewer joints' visibility": (
        lambda data: changed(data, joint_visible=np.ones((4, 9), np.uint8)),
        "joint_visible is",
    ),
    "a number for a pose": (lambda data: changed(data, pose=np.float32(1)), r"pose is \(\)"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_labels_of_bad_bytes_are_replaced_counted_and_listed(people, tmp_path, fault):
    for path in sorted(people["body"].glob("*.tar"))[:2]:
        shutil.copy(path, tmp_path / path.name)
    change, words = WRONG[fault]
    rewrite(
        tmp_path / "shard-000001.tar",
        lambda name, data: change(data) if name.endswith("labels.npz") else data,
    )
    (found, *_), bad = stream(config_of(tmp_path), stop=1)
    assert (tag(found, "shard") == 0).all() and tag(found, "bad").sum() == len(bad) > 0
    for slot, path, index, reason in bad:
        assert (
            0 <= slot < 16
            and path.endswith("shard-000001.tar")
            and 0 <= index < 8
            and re.search(words, reason)
        ), reason


def test_val_crops_are_whole_fixed_and_never_trained_on(people):
    config = config_of(people["body"], val_clips=2)
    order = open_crop_order(config, 16, 0)
    held, again = (
        val_crops(order, config, 2),
        val_crops(open_crop_order(config, 16, 9), config, 2),
    )
    assert same([held], [again])
    places = sorted(
        zip(
            tag(held, "shard").tolist(),
            tag(held, "index").tolist(),
            tag(held, "crop").tolist(),
            strict=True,
        )
    )
    assert places == [(2, index, crop) for index in (6, 7) for crop in range(4)]
    assert np.array_equal(held["numbers"], np.tile([32, 32, 64, 0, 0, 1, 1, 1], (8, 1)))
    trained = together(config, stop=20)
    assert not {(2, 6), (2, 7)} & set(
        zip(tag(trained, "shard").tolist(), tag(trained, "index").tolist(), strict=True)
    )
    assert len(val_crops(order, config, 1)["tags"]) == 4
    assert (
        val_crops(open_crop_order(config_of(people["body"]), 16, 0), config_of(people["body"]), 2)
        is None
    )


def test_sampled_labels_are_the_crops_own(people):
    config = config_of(people["body"])
    labels, known = (
        sample_labels(open_crop_order(config, 16, 0), config, 10),
        samples_of(people["body"]),
    )
    assert len(labels["tags"]) == 10 and "pixels" not in labels
    roots = {
        tuple(root)
        for shard in known
        for sample in shard
        for root in sample["labels.npz"]["root"].tolist()
    }
    assert {tuple(root) for root in labels["root"].tolist()} <= roots and len(
        np.unique(labels["root"], axis=0)
    ) > 7
    assert (labels["numbers"][:, 2] == 64).all()


def test_small_images_among_large_ones_end_in_black(people, tmp_path):
    """Labelled sources of two sizes: what lies outside a small image is black, its numbers are in
    its pixels."""
    from data.config import SourceConfig

    small = tmp_path / "small"
    small.mkdir()
    shutil.copy(people["body"] / "shard-000000.tar", small)
    shrink(small / "shard-000000.tar", 40)
    config = CropDataConfig(
        sources={"large": SourceConfig(str(people["body"])), "small": SourceConfig(str(small))},
        val_clips=0,
    )
    found = together(config, stop=1)
    rows = tag(found, "source") == 1
    assert (
        rows.sum() == 8
        and (tag(found, "size")[rows] == 40).all()
        and found["pixels"].shape[1:] == (64, 64, 3)
    )
    images = found["pixels"][rows]
    assert (
        images[:, :40, :40].any((1, 2, 3)).all()
        and not images[:, 40:].any()
        and not images[:, :, 40:].any()
    )
    assert (found["numbers"][rows, 2] <= 1.1 * 40).all()


def shrink(path, size):
    """Make a tar's crops ``size`` px wide by cutting their top left corner."""

    def change(name, data):
        if name.endswith(".json"):
            return json.dumps({**json.loads(data), "size": size}).encode()
        if name.endswith(".jpg"):
            image = np.ascontiguousarray(simplejpeg.decode_jpeg(data, "RGB")[:size, :size])
            return simplejpeg.encode_jpeg(image, colorspace="RGB")
        return data

    rewrite(path, change)
