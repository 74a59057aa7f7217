"""verify, stats and preview on shards whose content is known."""

import os
import re
import tarfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from clips import make_clip, rewrite, write_shards
from PIL import Image

from data.format.clip import decode_meta, encode
from data.format.index import PAIR_KINDS, build_index, index_path, read_index
from data.format.label_stack import stack_labels
from data.format.labels import HIDDEN, OUTSIDE, SEEN, CropLabels, Keypoints
from data.format.verify import check_shard
from data.sampling.pairs import PairRules, candidates
from data.tools.contact_sheet import (
    HEADER,
    KEYPOINT,
    MARGIN,
    ROW,
    TITLE,
    WIDTH,
    caption,
    outlined,
)
from data.tools.contact_sheet import (
    OUTLINE as OUTLINE_COLOUR,
)
from data.tools.histograms import draw
from data.tools.inspect import preview, stats, verify
from data.tools.stats import describe, merge, rule_masks, tally_shard
from engine.config.parser import key, parse_keys
from engine.errors import UserError

DOC = Path(__file__).resolve().parent.parent / "docs" / "data.md"


@pytest.fixture
def shard(tmp_path):
    return write_shards(tmp_path, [make_clip(i, labels=True) for i in range(4)], 4)[0]


def replaced(wanted, data):
    return lambda name, old: data(old) if name == wanted else old


OTHER_SIZE = simplejpeg.encode_jpeg(np.zeros((48, 64, 3), np.uint8))


@pytest.mark.parametrize(
    "member,data,words",
    [
        ("json", lambda old: None, r"the \.json member is missing"),
        ("json", lambda old: old[:50], "json: "),
        ("json", lambda old: old.replace(b'"body"', b'"foot"', 1), "json: crop 0 has kind 'foot'"),
        (
            "json",
            lambda old: old.replace(b'"overlap":[[1.0', b'"overlap":[[1.7'),
            "json: overlap spans .* to 1.7",
        ),
        (
            "json",
            lambda old: old.replace(b'"K":[[64.0,0.0,32.0],', b'"K":[', 1),
            "json: K is not numbers",
        ),
        (
            "json",
            lambda old: old.replace(b'"masks":true', b'"masks":false'),
            "masks.bin is there, but the json says 'masks: f",
        ),
        (
            "json",
            lambda old: old.replace(b'"labels":true', b'"labels":false'),
            "labels.npz is there, but the json says",
        ),
        ("02.jpg", lambda old: None, r"02\.jpg is missing"),
        ("02.jpg", lambda old: old[:400], r"02\.jpg does not decode: "),
        ("02.jpg", lambda old: b"text", r"02\.jpg does not decode: "),
        ("02.jpg", lambda old: OTHER_SIZE, r"02\.jpg is 64 x 48, the json says 64 x 64"),
        ("masks.bin", lambda old: None, "masks.bin is missing, but the json says 'masks: true'"),
        ("masks.bin", lambda old: old[:-1], r"masks\.bin has 2047 bytes, 4 crops need 2048"),
        ("labels.npz", lambda old: None, "labels.npz is missing, but the json says 'labels: true'"),
        ("labels.npz", lambda old: old[:80], "labels.npz does not load: "),
        ("labels.npz", lambda old: b"text", "labels.npz is not an npz archive"),
    ],
)
def test_a_bad_member_is_named_and_the_rest_is_whole(shard, member, data, words):
    rewrite(shard, replaced(f"clip00001.{member}", data))
    report = check_shard(shard)
    assert [key for key, _ in report.problems] == ["clip00001"], report.problems
    assert re.search(words, report.problems[0][1])
    assert report.lines()[0].startswith(f"{shard}:clip00001: ") and report.clips == 4


def test_verify_goes_on_after_damage_and_exits_with_1(tmp_path, capsys):
    paths = write_shards(tmp_path, [make_clip(i) for i in range(9)], 3)
    assert verify([str(tmp_path), "workers=1"]) == 0
    assert "3 shards, 9 clips, 36 crops: all whole" in capsys.readouterr().out
    os.truncate(paths[0], 9000)
    rewrite(paths[1], replaced("clip00004.01.jpg", lambda old: old[:300]))
    assert verify([str(tmp_path), "workers=2"]) == 1  # 2: through spawned processes
    out = capsys.readouterr().out
    assert f"shard {paths[0]} is cut off" in out
    assert f"{paths[1]}:clip00004: 01.jpg does not decode" in out
    assert "3 shards, 6 clips, 24 crops: something is wrong in 2 shards; bad clips: 1" in out


def test_an_index_of_another_tar_is_noticed(shard):
    rewrite(shard, lambda name, data: None if name.startswith("clip00003") else data)
    with np.load(index_path(shard)) as arrays:
        stale = {**arrays, "tar_bytes": os.path.getsize(shard)}
    np.savez(index_path(shard), **stale)
    os.utime(
        index_path(shard), (2e9, 2e9)
    )  # newer than the tar and for its size: nothing but its content is wrong
    assert read_index(shard).digest == build_index(shard).digest
    assert check_shard(shard).lines() == []


def test_unknown_members_are_noted_and_no_fault_but_double_ones_are(shard, capsys):
    os.remove(
        index_path(shard)
    )  # it may be of the clock's same tick and for as many bytes, and pass for the new tar's
    with tarfile.open(shard, "a") as tar:
        tar.addfile(tarfile.TarInfo("clip00003.caption.txt"))
    assert verify([shard]) == 0
    assert f"note: {shard}: member 'caption.txt' of 1 sample is not used" in capsys.readouterr().out
    with tarfile.open(shard, "a") as tar:
        tar.addfile(tarfile.TarInfo("clip00003.caption.txt"))
    assert check_shard(shard).problems == [("clip00003", "two members have the same name")]


def test_stats_agree_with_numbers_known_beforehand(tmp_path):
    clips = [
        make_clip(i, views=4, instants=3, source="take" if i == 5 else "synthetic")
        for i in range(6)
    ]
    tally = merge(tally_shard(path) for path in write_shards(tmp_path, clips, 2))
    assert (tally.shards, tally.clips, len(tally.jpeg_bytes), len(tally.subjects)) == (3, 6, 72, 3)
    assert tally.sources == {("synthetic", "CC0-1.0"): 5, ("take", "CC0-1.0"): 1}
    assert tally.sizes == {64: 72} and (tally.box_sides == 128).all()
    assert tally.jpeg_bytes.sum() == sum(len(data) for clip in clips for data in clip.jpegs)
    view, pose = (tally.pairs[tally.pairs["kind"] == p] for p in (0, 1))
    # Of 4 cameras 40 degrees apart, 3 neighbouring pairs, 2 at 80, 1 at 120; both directions, 3
    # instants, 6 clips.
    degrees, counts = np.unique(view["angle_deg"].round(4), return_counts=True)
    assert degrees.tolist() == [40, 80, 120] and counts.tolist() == [3 * 36, 2 * 36, 36]
    gaps, counts = np.unique(pose["gap_s"], return_counts=True)
    assert gaps.tolist() == [0.5, 1.0] and counts.tolist() == [2 * 4 * 2 * 6, 4 * 2 * 6]
    np.testing.assert_allclose(
        view["overlap"], 1 - 0.2 * (view["angle_deg"] / 40).round(), atol=1e-4
    )
    np.testing.assert_allclose(pose["overlap"], 1 - 0.1 * pose["gap_s"] / 0.5, atol=1e-4)


def test_rules_keep_what_training_would_draw(tmp_path):
    clips = [
        make_clip(i, views=4, instants=3, calibrated=i != 1, kinds=("body", "left_hand"))
        for i in range(3)
    ]
    clips[2].overlap = None
    tally = tally_shard(write_shards(tmp_path, clips, 3)[0])
    read = [decode_meta(encode(clip)["json"], clip.key) for clip in clips]
    for rules in (
        PairRules(),
        PairRules(angle_max_deg=60),
        PairRules("hand", gap_min_s=0.6, overlap_max=0.75),
        PairRules("any", overlap_min=0.85),
    ):
        for kind in PAIR_KINDS:
            rows, masks = rule_masks(tally.pairs, kind, rules)
            kept = [int((rows["clip"][masks[-1][1]] == i).sum()) for i in range(3)]
            assert kept == [len(candidates(clip, kind, rules)) for clip in read], (rules, kind)
    # By hand: 36 body pairs a calibrated clip, of which 18 are 40 degrees apart; the uncalibrated
    # clip keeps its 36.
    _, masks = rule_masks(tally.pairs, "cross_view", PairRules(angle_max_deg=60))
    assert [(words, int(mask.sum())) for words, mask in masks] == [
        ("crops = body", 108),
        ("angle 5 to 60 degrees", 144),
        ("overlap 0 to 1", 216),
        ("all rules", 72),
    ]


def test_stats_print_and_draw(tmp_path, capsys):
    write_shards(tmp_path, [make_clip(i, views=3) for i in range(4)], 2)
    out = tmp_path / "stats.png"
    assert stats([str(tmp_path), f"out={out}", "pairs.angle_max_deg=60", "workers=1"]) == 0
    text = capsys.readouterr().out
    assert "shards 2, clips 4, crops 24, subjects 3" in text
    assert re.search(r"cross_view +body +48 +40 / 40 / 80 +0\.60 / 0\.80 / 0\.80", text)
    assert re.search(r"cross_view +angle 5 to 60 degrees +32 +66\.7 % +4 +100\.0 %", text)
    assert re.search(r"cross_pose +all rules +24 +100\.0 %", text)
    with Image.open(out) as image:
        assert image.width > 1200 and np.asarray(image.convert("L")).std() > 10


def test_stats_of_shards_where_little_is_known(tmp_path, capsys):
    clips = [make_clip(i, views=1, calibrated=False, masks=False) for i in range(2)]
    for clip in clips:
        clip.overlap = None
        for crop in clip.crops:
            crop.box = None
    path = write_shards(tmp_path, clips, 2)[0]
    rewrite(path, replaced("clip00001.json", lambda old: b"{}"))
    tally = tally_shard(path)
    text = describe(tally, PairRules())
    assert "samples without readable JSON: 1" in text and "not known" in text
    assert draw(tally, PairRules()).width > 1200
    rewrite(path, lambda name, data: b"{}" if name.endswith("json") else data)
    with pytest.raises(UserError, match="no sample has readable JSON"):
        stats([path])


def test_preview_has_the_rows_asked_for_and_follows_the_seed(tmp_path, capsys):
    write_shards(tmp_path, [make_clip(i) for i in range(12)], 4)
    sheets = []
    for seed in (0, 0, 1):
        assert preview([str(tmp_path), f"out={tmp_path / 'p.png'}", "rows=3", f"seed={seed}"]) == 0
        with Image.open(tmp_path / "p.png") as image:
            assert image.size == (WIDTH, HEADER + 3 * ROW)
            sheets.append(np.asarray(image))
    assert (sheets[0] == sheets[1]).all() and (sheets[0] != sheets[2]).any()
    for row in range(3):
        pixels = sheets[0][HEADER + row * ROW : HEADER + (row + 1) * ROW].astype(int)
        assert (
            np.abs(pixels - OUTLINE_COLOUR).sum(2) < 40
        ).sum() > 200  # the outline of the mask on two images
    preview([str(tmp_path), f"out={tmp_path / 'p.png'}", "rows=64"])
    assert f"{WIDTH} x {HEADER + 12 * ROW}" in capsys.readouterr().out


def test_clips_of_one_crop_are_counted_and_shown(tmp_path, capsys):
    """With mask and keypoints, such as a labelled photograph; there are no pairs to tell of."""
    clip = make_clip(0, views=1, instants=1, size=224)
    points = np.array([[20, 30], [200, 100], [5, 5]])
    seen = Keypoints("toy3", points, np.array([1, 1, 0]), np.array([SEEN, HIDDEN, OUTSIDE]))
    clip.labels = stack_labels([CropLabels(keypoints=seen)])
    write_shards(tmp_path, [clip], 1)
    assert stats([str(tmp_path), f"out={tmp_path / 's.png'}"]) == 0
    text = capsys.readouterr().out
    assert "clips 1, crops 1" in text and "no pairs: no clip has two crops" in text
    assert preview([str(tmp_path), f"out={tmp_path / 'p.png'}"]) == 0
    with Image.open(tmp_path / "p.png") as image:
        pixels = np.asarray(image)[HEADER + TITLE :, MARGIN:]
    assert tuple(pixels[30, 20]) == KEYPOINT  # the dot is full where the point is seen
    assert tuple(pixels[100, 200]) != KEYPOINT == tuple(pixels[100, 203])
    assert tuple(pixels[5, 5]) != KEYPOINT
    assert (np.abs(pixels[:224, :224].astype(int) - OUTLINE_COLOUR).sum(2) < 40).sum() > 200


def test_preview_shows_what_it_can_of_bad_samples(tmp_path):
    path = write_shards(tmp_path, [make_clip(i, views=1 + i) for i in range(3)], 3)[0]
    rewrite(path, replaced("clip00001.json", lambda old: b"{}"))
    assert preview([path, f"out={tmp_path / 'p.png'}"]) == 0
    rewrite(path, lambda name, data: b"{}" if name.endswith("json") else data)
    with pytest.raises(UserError, match="no clip that can be read"):
        preview([path, f"out={tmp_path / 'p.png'}"])


def test_captions_say_what_is_known():
    clip = make_clip(0, views=3)
    assert (
        caption(clip, 0, 2, "cross_view")
        == "body  ·  angle 80°  ·  60% of a seen in b  ·  cam0 | cam2"
    )
    assert (
        caption(clip, 1, 4, "cross_pose") == "body  ·  gap 0.50 s  ·  90% of a seen in b  ·  cam1"
    )
    clip = make_clip(0, calibrated=False)
    clip.overlap = None
    assert (
        caption(clip, 0, 1, "cross_view")
        == "body  ·  angle not known  ·  overlap not known  ·  cam0 | cam1"
    )


def test_the_outline_follows_the_mask():
    mask = np.zeros((64, 64), bool)
    mask[16:48, 16:32] = True
    pixels = np.asarray(outlined(Image.new("RGB", (256, 256)), mask)).astype(int)
    y, x = np.nonzero(np.abs(pixels - OUTLINE_COLOUR).sum(2) < 60)
    assert (
        abs(x.min() - 64) <= 3
        and abs(x.max() - 127) <= 3
        and abs(y.min() - 64) <= 3
        and abs(y.max() - 191) <= 3
    )
    assert not pixels[90:160, 80:110].any()  # inside nothing is drawn


@pytest.mark.parametrize("command", [verify, stats, preview])
def test_arguments_that_do_not_fit_are_named(command, tmp_path, shard, capsys):
    for arguments, words in (
        ([], "name at least one path"),
        ([shard, "wrkers=1"], "unknown key 'wrkers'"),
        ([str(tmp_path / "gone")], "no such folder or file"),
    ):
        with pytest.raises(UserError, match=words):
            command(arguments)
    if command is not verify:
        with pytest.raises(UserError, match=r"out=a.jpg: .*\.png"):
            command([shard, "out=a.jpg"])
        with pytest.raises(UserError, match="gone/a.png: cannot be written: no such file"):
            command([shard, f"out={tmp_path}/gone/a.png"])


def test_an_existing_path_with_an_equals_sign_is_a_path(tmp_path):
    @dataclass
    class Keys:
        lr: float = key(1.0, "a number")

    folder = tmp_path / "lr=3"
    folder.mkdir()
    assert parse_keys(Keys, [str(folder), "lr=2"], "x") == (Keys(2.0), [str(folder)])


def test_the_example_in_the_documentation_runs(tmp_path, monkeypatch):
    section = DOC.read_text().split("## Clips of your own")[1]
    block = re.search(r"```python\n(.*?)```", section, re.S).group(1)
    monkeypatch.chdir(tmp_path)
    exec(compile(block, str(DOC), "exec"), {})
    assert verify(["shard-000000.tar"]) == 0
    assert tally_shard("shard-000000.tar").sources == {("my-videos", "CC-BY-4.0"): 1}


def test_the_documentation_names_every_rule_and_its_default():
    rows = {}
    for names, defaults in re.findall(
        r"^\| (`.*?) \| (.*?) \|", DOC.read_text().split("## Rules for pairs")[1], re.M
    ):
        rows |= dict(zip(re.findall(r"`(\w+)`", names), defaults.split(", "), strict=True))
    assert rows == {
        f.name: f"{f.default:g}" if isinstance(f.default, float) else f.default
        for f in fields(PairRules)
    }
