"""Shards: written whole, read by others too, indexed, and named where they are damaged."""

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from clips import make_clip, rewrite, write_shards

from data.__main__ import main as rewrite_main
from data.format import index
from data.format.index import _stored_index, build_index, fits, index_path, read_index
from data.format.shards import find_shards, write_shard
from data.format.verify import check_shard
from engine.errors import UserError


@pytest.fixture
def shard(tmp_path):
    return write_shards(
        tmp_path,
        [make_clip(i, kinds=("body", "left_hand") if i else ("body",)) for i in range(5)],
        5,
    )[0]


def test_equal_clips_are_byte_equal_shards(shard, tmp_path):
    again = str(tmp_path / "again.tar")
    assert (
        write_shard(
            again, (make_clip(i, kinds=("body", "left_hand") if i else ("body",)) for i in range(5))
        )
        == 5
    )
    assert (tmp_path / "again.tar").read_bytes() == (tmp_path / "shard-000000.tar").read_bytes()
    assert read_index(again).digest == read_index(shard).digest


def test_the_index_leads_to_every_member(shard):
    index = read_index(shard)
    with tarfile.open(shard) as tar, open(shard, "rb") as raw:
        theirs = {m.name: tar.extractfile(m).read() for m in tar}
        ours = {}
        for i, key in enumerate(index.keys):
            for suffix, (offset, length) in index.members(i).items():
                raw.seek(offset)
                ours[f"{key}.{suffix}"] = raw.read(length)
    assert ours == theirs and len(index) == 5 and index.size == 64
    # Bits of body (0, 1) and left hand (2, 3), each cross-view and cross-pose.
    assert index.offers.tolist() == [0b0011] + [0b1111] * 4


def test_offers_tell_kinds_of_pairs_apart(tmp_path):
    views, instants = make_clip(0, views=3, instants=1), make_clip(1, views=1, instants=3)
    assert read_index(write_shards(tmp_path, [views, instants], 2)[0]).offers.tolist() == [
        0b01,
        0b10,
    ]


def test_webdatasets_own_reader_reads_it(shard):
    samples = list(webdataset.WebDataset(shard, shardshuffle=False).decode("pil"))
    assert [s["__key__"] for s in samples] == [f"clip{i:05d}" for i in range(5)]
    assert samples[0]["00.jpg"].size == (64, 64) and samples[0]["json"]["source"] == "synthetic"


def test_a_missing_broken_or_stale_index_is_built_anew(shard, tmp_path):
    whole, beside = read_index(shard), index_path(shard)
    os.remove(beside)
    assert read_index(shard).digest == whole.digest and os.path.exists(beside)
    for cut in (0, 100, os.path.getsize(beside) - 30):
        os.truncate(beside, cut)
        os.utime(beside, (2e9, 2e9))  # newer than the tar, so that it is opened
        assert read_index(shard).digest == whole.digest
    write_shard(str(tmp_path / "more.tar"), [make_clip(i) for i in range(7)])
    os.replace(tmp_path / "more.tar", shard)
    assert len(read_index(shard)) == 7
    write_shard(shard, [make_clip(i) for i in range(10, 17)])  # as many bytes as before
    assert read_index(shard).keys.tolist() == [f"clip{i:05d}" for i in range(10, 17)]


def test_where_the_folder_cannot_be_written_the_index_stays_in_memory(shard, monkeypatch, capsys):
    whole = read_index(shard).digest
    os.remove(index_path(shard))

    def refuse(*arguments, **named):
        raise PermissionError(13, "Permission denied")

    # Root may write anywhere, so a folder's permissions would test nothing there.
    monkeypatch.setattr(index.np, "savez", refuse)
    assert read_index(shard).digest == whole
    assert not os.path.exists(index_path(shard))
    assert "not written (permission denied)" in capsys.readouterr().err


def test_a_newer_index_is_refused_by_name(shard):
    with np.load(index_path(shard)) as arrays:
        np.savez(index_path(shard), **{**arrays, "format": 99})
    with pytest.raises(UserError, match=r"index.npz has format 99; this software reads up to 2"):
        read_index(shard)


@pytest.mark.parametrize(
    "where", ["in the first header", "in an image", "after a member", "before the end mark"]
)
def test_a_cut_off_tar_says_so(shard, where):
    index = build_index(shard)
    offset, length = index.members(3)["01.jpg"]
    end = offset + -(-length // 512) * 512
    last = max(o + -(-n // 512) * 512 for o, n in index.members(4).values())
    size = {
        "in the first header": 200,
        "in an image": offset + 100,
        "after a member": end,
        "before the end mark": last,
    }[where]
    os.truncate(shard, size)
    with pytest.raises(UserError, match=r"shard-000000\.tar is cut off"):
        read_index(shard)


def test_tars_that_hold_no_clips_say_so(tmp_path, shard):
    empty = tmp_path / "empty.tar"
    tarfile.open(empty, "w").close()
    with pytest.raises(UserError, match="empty.tar holds no clips"):
        read_index(str(empty))
    (tmp_path / "zero.tar").write_bytes(b"")
    with pytest.raises(UserError, match="zero.tar is cut off or no tar"):
        read_index(str(tmp_path / "zero.tar"))
    rewrite(shard, lambda name, data: None if name.endswith("json") else data)
    with pytest.raises(UserError, match="none of its 5 samples has a .json member"):
        read_index(shard)
    with pytest.raises(UserError, match="cannot read shard .*gone.tar: no such file"):
        read_index(str(tmp_path / "gone.tar"))


def test_a_newer_clip_in_a_shard_is_refused_by_name(shard):
    rewrite(
        shard,
        lambda name, data: (
            data.replace(b'"format":2', b'"format":3') if name == "clip00002.json" else data
        ),
    )
    with pytest.raises(UserError, match=r"shard-000000.tar:clip00002 has clip format 3"):
        read_index(shard)


def test_a_clip_says_its_border_and_another_rule_is_refused_by_name(shard):
    rewrite(shard, lambda name, data: data.replace(b'"border":"black",', b""))
    assert len(read_index(shard)) == 5  # clips of before the field are black
    rewrite(shard, lambda name, data: data.replace(b'"masks":', b'"border":"repeat","masks":'))
    with pytest.raises(UserError, match=r"shard-000000.tar:clip00000: .*border=repeat.*black"):
        read_index(shard)


def test_a_sample_with_bad_json_offers_nothing(shard):
    rewrite(shard, lambda name, data: b"{}" if name == "clip00001.json" else data)
    assert read_index(shard).offers.tolist() == [0b0011, 0, 0b1111, 0b1111, 0b1111]


def test_nothing_is_left_of_a_shard_that_could_not_be_written(tmp_path):
    path = str(tmp_path / "a.tar")
    with pytest.raises(UserError, match="two clips have the key clip00001"):
        write_shard(path, [make_clip(1), make_clip(1)])
    with pytest.raises(UserError, match="no clips to write"):
        write_shard(path, [])
    with pytest.raises(UserError, match="cannot write shard .*no such file"):
        write_shard(str(tmp_path / "nowhere" / "a.tar"), [make_clip(1)])
    assert os.listdir(tmp_path) == []


def test_members_of_one_sample_lie_together(tmp_path, shard):
    with tarfile.open(shard) as tar:
        members = [(m, tar.extractfile(m).read()) for m in tar]
    with tarfile.open(tmp_path / "apart.tar", "w") as tar:
        for member, data in members[1:] + members[:1]:
            tar.addfile(member, io.BytesIO(data))
    with pytest.raises(UserError, match="members of one sample do not lie together"):
        read_index(str(tmp_path / "apart.tar"))


def test_shards_are_found_in_folders_globs_and_lists(tmp_path):
    folder = tmp_path / "set [1]"
    folder.mkdir()
    paths = write_shards(folder, [make_clip(i) for i in range(3)], 1)
    assert find_shards(str(folder)) == paths
    assert find_shards(f"{paths[2]}, {paths[0]}") == [paths[2], paths[0]]
    assert find_shards(str(tmp_path / "set*" / "*1.tar")) == [paths[1]]
    for spec, words in (
        (str(tmp_path / "gone"), "no shards at .*gone"),
        (str(tmp_path), "holds no shards"),
        ("", "named"),
    ):
        with pytest.raises(UserError, match=words):
            find_shards(spec)


def joined(tmp_path, *folders):
    """Tars of those numbers of clips, put behind each other as cat does."""
    out = tmp_path / "joined.tar"
    with open(out, "wb") as file:
        for number, clips in enumerate(folders):
            folder = tmp_path / f"part{number}"
            folder.mkdir()
            file.write(
                Path(
                    write_shards(folder, [make_clip(i, size=16) for i in clips], len(clips))[0]
                ).read_bytes()
            )
    return str(out)


def test_tars_joined_by_cat_are_read_to_the_end(tmp_path, capsys):
    path = joined(tmp_path, range(2), range(5, 6), range(10, 13))
    index = read_index(path)
    assert index.keys.tolist() == [f"clip{i:05d}" for i in (0, 1, 5, 10, 11, 12)]
    assert (
        "3 tars joined by cat, all read; tar tf and webdataset's own reader see the first 2 of 6"
        in capsys.readouterr().err
    )
    with open(path, "rb") as raw:
        for part, first in (("part1", 2), ("part2", 3)):
            with tarfile.open(tmp_path / part / "shard-000000.tar") as tar:
                whole = {m.name: tar.extractfile(m).read() for m in tar}
            for suffix, (offset, length) in index.members(first).items():
                raw.seek(offset)
                assert raw.read(length) == whole[f"{index.keys[first]}.{suffix}"]
    report = check_shard(path)
    assert (report.clips, report.problems) == (6, []) and "3 tars joined" in report.notes[0]
    assert fits(index, path) and _stored_index(path) is not None


def test_an_index_of_the_first_of_joined_tars_is_built_anew(tmp_path):
    path = joined(tmp_path, range(2), range(5, 6))
    first = read_index(str(tmp_path / "part0" / "shard-000000.tar"))
    first.tar_bytes = os.path.getsize(path)  # as an earlier version made it
    index.save_index(first, index_path(path))
    assert len(read_index(path)) == 3


def test_joined_tars_are_shuffled_whole(tmp_path):
    (tmp_path / "in").mkdir()
    path = joined(tmp_path / "in", range(2), range(5, 8))
    assert (
        rewrite_main(["merge", path, f"out={tmp_path / 'out'}", "clips_per_shard=9", "workers=1"])
        == 0
    )
    merged = read_index(str(tmp_path / "out" / "shard-000000.tar"))
    assert merged.keys.tolist() == [f"clip{i:05d}" for i in (0, 1, 5, 6, 7)]
    assert check_shard(merged.path).problems == []


def test_what_follows_a_tar_and_is_none_is_refused_by_name(tmp_path):
    path = joined(tmp_path, range(2))
    size = os.path.getsize(path)
    with open(path, "ab") as file:
        file.write(b"not a tar" * 1000)
    with pytest.raises(
        UserError,
        match=rf"what follows the tar's end, from byte {size} on, is not a tar; 2 samples",
    ):
        read_index(path)
    (tmp_path / "cut").mkdir()
    path = joined(tmp_path / "cut", range(2), range(3, 5))
    os.truncate(path, os.path.getsize(path) - 11_000)
    with pytest.raises(UserError, match="joined.tar is cut off"):
        read_index(path)


def test_what_macos_adds_is_passed_over_and_counted(tmp_path, capsys):
    plain = write_shards(tmp_path, [make_clip(i, size=16) for i in range(3)], 3)[0]
    (tmp_path / "in").mkdir()
    packed = str(tmp_path / "in" / "packed.tar")
    with tarfile.open(plain) as tar, tarfile.open(packed, "w", format=tarfile.PAX_FORMAT) as out:
        members = [(m.name, tar.extractfile(m).read()) for m in tar]
        for name, data in [("._top", b""), *members, (".DS_Store", b"x" * 600)]:
            # A folder of the people's, as bsdtar packs it: each file after its own attributes.
            for named, content in (
                ((f"./set/._{name}", b"Mac OS X"),) if name[0] != "." else ()
            ) + ((f"./set/{name}", data),):
                entry = tarfile.TarInfo(named)
                entry.size, entry.pax_headers = (
                    len(content),
                    {"LIBARCHIVE.xattr.com.apple.provenance": "AQ=="},
                )
                out.addfile(entry, io.BytesIO(content))
    index = read_index(packed)
    assert (
        index.keys.tolist() == [f"./set/clip{i:05d}" for i in range(3)]
        and index.suffixes == read_index(plain).suffixes
    )
    hidden = len(members) + 2
    words = f"{hidden} members whose names begin with a dot are passed over, such as ./set/._top"
    assert words in capsys.readouterr().err
    report = check_shard(packed)
    assert report.problems == [] and report.clips == 3 and words in report.notes[0]
    assert _stored_index(packed) is not None  # what is passed over at the end makes no index stale
    assert (
        rewrite_main(["merge", packed, f"out={tmp_path / 'out'}", "clips_per_shard=9", "workers=1"])
        == 0
    )
    assert check_shard(str(tmp_path / "out" / "shard-000000.tar")).clips == 3


def test_samples_that_lie_apart_are_named(tmp_path, shard):
    with tarfile.open(shard) as tar:
        members = [(m, tar.extractfile(m).read()) for m in tar]
    with tarfile.open(tmp_path / "apart.tar", "w") as tar:
        for member, data in members[1:] + members[:1]:
            tar.addfile(member, io.BytesIO(data))
    with pytest.raises(UserError, match="those of 'clip00000' lie in 2 places"):
        read_index(str(tmp_path / "apart.tar"))
