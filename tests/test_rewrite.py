"""shuffle, merge and split: the same clips in other shards, byte for byte, also where the command
is killed."""

import dataclasses
import errno
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from clips import make_clip, rewrite, write_shards

from data.__main__ import main
from data.format.index import index_path, read_index
from data.format.verify import check_shard
from data.tools import rewrite as command
from data.tools.process_pool import spread
from data.tools.rewrite_copy import copy_clips
from data.tools.rewrite_plan import Survey, make_plan, survey_shard
from engine.errors import EnvironmentFault, UserError

ROOT = Path(__file__).resolve().parent.parent
NOTHING_RUNS = 999999999  # above any process id


def content(*tars):
    """[(key, {suffix: bytes}), ...] in the order they lie, by Python's tarfile alone."""
    samples = []
    for path in tars:
        with tarfile.open(path) as tar:
            for member in filter(tarfile.TarInfo.isfile, tar):
                folder, _, file = member.name.rpartition("/")
                stem, _, suffix = file.partition(".")
                name = f"{folder}/{stem}" if folder else stem
                if not samples or samples[-1][0] != name:
                    samples.append((name, {}))
                samples[-1][1][suffix] = tar.extractfile(member).read()
    return samples


def tars(folder):
    return sorted(folder.glob("*.tar"))


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def same_clips(before, after):
    """Every clip of one is in the other, as often, with the same members and bytes."""

    def count(samples):
        return Counter((name, *sorted(members.items())) for name, members in samples)

    return count(before) == count(after)


@pytest.fixture
def source(tmp_path):
    """23 clips in tars of 7, 7, 7, 2, with all that a tar may hold: labels, hands, members nobody
    knows, bad JSON, no JSON."""
    folder = tmp_path / "source"
    folder.mkdir()
    clips = [
        make_clip(
            i,
            size=16,
            labels=i % 3 == 0,
            masks=i % 4 != 0,
            kinds=("left_hand",) if i == 4 else ("body",),
        )
        for i in range(23)
    ]
    paths = write_shards(folder, clips, 7)
    rewrite(paths[1], lambda name, data: data[:40] if name == "clip00008.json" else data)
    os.remove(index_path(paths[1]))
    with tarfile.open(paths[3], "a") as tar:
        for name, data in (
            ("clip00022.caption.txt", b"a man"),
            ("clip00022._note", b"kept too"),
            ("README", b"no clip"),
            ("LICENCE.txt", b"no clip either"),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    os.remove(index_path(paths[3]))
    return folder


def clips_of(folder):
    return [(name, members) for name, members in content(*tars(folder)) if "json" in members]


def test_shuffle_keeps_every_byte_and_every_key(source, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["shuffle", str(source), f"out={out}", "clips_per_shard=5", "workers=1"]) == 0
    before, after = clips_of(source), content(*tars(out))
    assert same_clips(before, after) and len(after) == 23
    assert [name for name, _ in before] != [name for name, _ in after]
    assert [len(read_index(str(path))) for path in tars(out)] == [5, 5, 5, 5, 3]
    assert all(os.path.exists(index_path(str(path))) for path in tars(out))
    size = sum(path.stat().st_size for path in tars(out)) / 1e6
    assert f"23 clips in 5 shards, {size:.1f} MB" in (said := "".join(capsys.readouterr()))
    assert "dropped: 2 without JSON, which are not clips" in said and "data.val_clips" in said
    # What was bad is as bad as it was, and nothing else is.
    assert [
        line
        for path in tars(out)
        for line in check_shard(str(path)).lines()
        if "clip00008: json" not in line
    ] == []

    assert (
        main(
            [
                "shuffle",
                str(source),
                f"out={tmp_path / 'seed'}",
                "clips_per_shard=5",
                "workers=1",
                "seed=1",
            ]
        )
        == 0
    )
    assert [name for name, _ in content(*tars(tmp_path / "seed"))] != [name for name, _ in after]
    assert main(["shuffle", str(source), f"out={tmp_path / 'default'}", "workers=1"]) == 0
    assert [len(read_index(str(path))) for path in tars(tmp_path / "default")] == [6, 6, 6, 5]


def test_every_place_is_as_likely():
    """Over many seeds each clip comes to each place about as often."""
    surveys = [Survey("", *[np.zeros(n)] * 3) for n in (3, 2)]
    places = np.zeros((5, 5), int)
    for seed in range(2000):
        plan = make_plan("shuffle", 2, seed, ["a.tar", "b.tar"], surveys)
        places[np.arange(5), plan.order] += 1
        assert plan.cuts.tolist() == [0, 2, 4, 5]
    assert abs(places - 400).max() < 5 * 400**0.5


def test_merge_and_split_bring_back_the_same_bytes(tmp_path):
    (tmp_path / "a").mkdir()
    paths = write_shards(tmp_path / "a", [make_clip(i, size=16, labels=True) for i in range(12)], 3)
    assert (
        main(
            [
                "merge",
                str(tmp_path / "a"),
                f"out={tmp_path / 'b'}",
                "clips_per_shard=8",
                "workers=1",
            ]
        )
        == 0
    )
    assert content(*tars(tmp_path / "b")) == content(*paths)
    assert [len(read_index(str(path))) for path in tars(tmp_path / "b")] == [8, 4]
    assert (
        main(
            [
                "merge",
                str(tmp_path / "a"),
                f"out={tmp_path / 'all'}",
                "clips_per_shard=100",
                "workers=1",
            ]
        )
        == 0
    )
    assert (
        main(
            [
                "split",
                str(tmp_path / "all"),
                f"out={tmp_path / 'c'}",
                "clips_per_shard=3",
                "workers=1",
            ]
        )
        == 0
    )
    assert [path.name for path in tars(tmp_path / "c")] == [
        f"shard-000000-00{n}.tar" for n in range(4)
    ]
    assert [path.read_bytes() for path in tars(tmp_path / "c")] == [
        Path(path).read_bytes() for path in paths
    ]
    # Parts are of one tar and about equal.
    assert (
        main(
            [
                "split",
                str(tmp_path / "b"),
                f"out={tmp_path / 'd'}",
                "clips_per_shard=3",
                "workers=1",
            ]
        )
        == 0
    )
    assert {path.stem: len(read_index(str(path))) for path in tars(tmp_path / "d")} == {
        "shard-000000-000": 3,
        "shard-000000-001": 2,
        "shard-000000-002": 3,
        "shard-000001-000": 2,
        "shard-000001-001": 2,
    }
    assert content(*tars(tmp_path / "d")) == content(*paths)


def test_tars_of_other_tools_with_folders_and_long_names(tmp_path):
    names, (long, short) = [], ("walks/" + "x" * 120 + "/" + "k" * 90, "walks/b")
    for number, form in enumerate((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT)):
        folder = tmp_path / f"s{number}"
        folder.mkdir()
        write_shards(folder, [make_clip(0, size=16), make_clip(1, size=16)], 2)
        samples = content(*tars(folder))
        with tarfile.open(folder / "shard-000000.tar", "w", format=form) as tar:
            tar.addfile(tarfile.TarInfo("walks"), None)
            for name, (_, members) in zip((long, short), samples, strict=True):
                entry = tarfile.TarInfo("a-folder")
                entry.type = tarfile.DIRTYPE
                tar.addfile(entry)
                for suffix, data in members.items():
                    entry = tarfile.TarInfo(f"{name}.{suffix}")
                    entry.size, entry.mtime = len(data), 1.5
                    tar.addfile(entry, io.BytesIO(data))
        os.remove(folder / "shard-000000.tar.index.npz")
        names.append(str(folder))
    for folder in names:
        assert main(["merge", folder, f"out={folder}-out", "clips_per_shard=9", "workers=1"]) == 0
        before = [sample for sample in content(*tars(Path(folder))) if "json" in sample[1]]
        assert content(*tars(Path(folder + "-out"))) == before and [name for name, _ in before] == [
            long,
            short,
        ]
    assert len({tars(Path(folder + "-out"))[0].read_bytes() for folder in names}) == 1


def test_webdataset_reads_what_was_written(source, tmp_path):
    import webdataset

    assert main(["shuffle", str(source), f"out={tmp_path / 'out'}", "workers=1"]) == 0
    read = []
    for sample in webdataset.WebDataset(
        [str(path) for path in tars(tmp_path / "out")], shardshuffle=False
    ):
        read.append(
            (sample["__key__"], {name: data for name, data in sample.items() if name[:2] != "__"})
        )
    assert same_clips(clips_of(source), read)


def test_excluded_people_are_gone_for_good(source, tmp_path, capsys):
    (tmp_path / "who.txt").write_text("# withdrew\nperson1\n")
    out = tmp_path / "out"
    assert (
        main(
            [
                "merge",
                str(source),
                f"out={out}",
                "clips_per_shard=50",
                f"exclude={tmp_path / 'who.txt'}",
                "workers=1",
            ]
        )
        == 0
    )
    # clip00008 might be anybody's; the numbers of the others are what make_clip gives that subject.
    assert [name for name, _ in content(*tars(out))] == [
        f"clip{i:05d}" for i in range(23) if i % 3 != 1 and i != 8
    ]
    said = capsys.readouterr().out
    assert "14 clips in 1 shards" in said
    assert (
        "8 of excluded subjects, 1 with unreadable JSON, so that nobody knows whose they are, 2 "
        "without JSON" in said
    )
    assert not any(
        b"person1" in data for name, data in files(out).items() if not name.endswith("npz")
    )
    (tmp_path / "who.txt").write_text("person1\nperson2\n")
    with pytest.raises(UserError, match="begun with exclude=1 subjects, .*now it is 2 subjects, "):
        main(
            [
                "merge",
                str(source),
                f"out={out}",
                "clips_per_shard=50",
                f"exclude={tmp_path / 'who.txt'}",
                "workers=1",
            ]
        )
    (tmp_path / "who.txt").write_text("person0\nperson1\nperson2\n")
    with pytest.raises(UserError, match="no clip is left of 25: 22 of excluded"):
        main(
            [
                "shuffle",
                str(source),
                f"out={tmp_path / 'x'}",
                f"exclude={tmp_path / 'who.txt'}",
                "workers=1",
            ]
        )


def test_two_clips_of_one_key_are_refused_or_renamed(tmp_path):
    before = []
    for name in ("a", "b.c"):
        (tmp_path / name).mkdir()
        paths = write_shards(
            tmp_path / name,
            [dataclasses.replace(make_clip(i, size=16), subject=name) for i in range(4)],
            2,
        )
        before += [
            (f"{name}-shard-00000{n}-{key}".replace(".", "_"), members)
            for n, path in enumerate(paths)
            for key, members in content(path)
        ]
    named = [str(tmp_path / "a"), str(tmp_path / "b.c")]
    for words in (["merge", "clips_per_shard=8"], ["shuffle", "clips_per_shard=8"]):
        with pytest.raises(
            UserError,
            match=r"/a/shard-00000\d.tar and .*/b\.c/shard-00000\d.tar both have a clip "
            r"clip0000\d, "
            "and both would come into shard-000000.tar: rename=true",
        ):
            main([words[0], *named, f"out={tmp_path / 'out'}", words[1], "workers=1"])
    assert not (tmp_path / "out").exists()
    assert (
        main(
            [
                "shuffle",
                *named,
                f"out={tmp_path / 'out'}",
                "rename=true",
                "clips_per_shard=8",
                "workers=1",
            ]
        )
        == 0
    )
    assert same_clips(before, content(*tars(tmp_path / "out")))
    # In shards of their own the same keys do no harm, and the parts of tars of one name are
    # reported apart.
    assert (
        main(["split", *named, f"out={tmp_path / 'parts'}", "clips_per_shard=1", "workers=1"]) == 0
    )
    assert [path.name for path in tars(tmp_path / "parts")] == [
        f"{name}-shard-00000{n}-00{part}.tar"
        for name in ("a", "b_c")
        for n in (0, 1)
        for part in (0, 1)
    ]


KILLED = """
import os, signal, sys
import webdataset  # before the forks, as it takes seconds
from data.tools import rewrite
arguments, points = sys.argv[1:-1], int(sys.argv[-1])
for point in range(points):
    child = os.fork()
    if not child:
        left = point
        def step(real):
            def stepped(*words):
                global left
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1
                return real(*words)
            return stepped
        os.replace, os.fsync = step(os.replace), step(os.fsync)
        rewrite.shuffle([*arguments, f"out={arguments[0]}-killed-{point}"])
        os._exit(0)
    print("ended by signal", os.WTERMSIG(os.waitpid(child, 0)[1]))
"""


@pytest.mark.kill
def test_killed_before_any_step_it_goes_on_to_the_same_bytes(source, tmp_path):
    arguments = [str(source), "clips_per_shard=9", "workers=1"]
    command.shuffle(
        [*arguments, f"out={tmp_path / 'peaceful'}"]
    )  # builds the sources' indexes, too
    # Recipe's rename, then for each of 3 shards: its sync, its rename, the folder's sync, the
    # index's rename.
    run = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments, "14"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    assert [line[-1] for line in run.stdout.splitlines() if "signal" in line] == ["9"] * 13 + [
        "0"
    ], run.stderr
    left = set()
    for point in range(13):
        out = tmp_path / f"source-killed-{point}"
        left |= {name.split(".tar")[-1].split("writing")[0] for name in files(out)}
        (out / f"shard-000001.tar.writing-{NOTHING_RUNS}").write_bytes(b"half")
        command.shuffle([*arguments, f"out={out}"])
        assert files(out) == files(tmp_path / "peaceful"), point
    assert "." in left  # some were killed with a half-written shard there


@pytest.mark.kill
def test_two_processes_write_the_same_bytes_as_one_and_die_with_the_command(tmp_path):
    (tmp_path / "s").mkdir()
    write_shards(tmp_path / "s", [make_clip(i, views=1, size=16) for i in range(80)], 40)
    arguments = ["shuffle", str(tmp_path / "s"), "clips_per_shard=1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "data", *arguments, f"out={tmp_path / 'out'}", "workers=2"],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
    )
    while len(tars(tmp_path / "out")) < 10:
        assert process.poll() is None
        time.sleep(0.002)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path.name: path.stat().st_mtime_ns for path in tars(tmp_path / "out")}
    assert 10 <= len(kept) < 80 and len(children) >= 2
    began = time.monotonic()
    while any(os.path.exists(f"/proc/{child}") for child in children):
        assert time.monotonic() - began < 60, "processes outlive the command"
        time.sleep(0.01)
    assert main([*arguments, f"out={tmp_path / 'out'}", "workers=1"]) == 0
    assert main([*arguments, f"out={tmp_path / 'peaceful'}", "workers=1"]) == 0
    assert files(tmp_path / "out") == files(tmp_path / "peaceful")
    assert all((tmp_path / "out" / name).stat().st_mtime_ns == when for name, when in kept.items())


def test_a_full_disk_is_one_line_and_can_be_gone_on_from(source, tmp_path, monkeypatch):
    arguments = [
        "shuffle",
        str(source),
        f"out={tmp_path / 'out'}",
        "clips_per_shard=9",
        "workers=1",
    ]
    real, left = os.fsync, [2]  # a shard's bytes, and its name in the folder

    def full(file):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        EnvironmentFault,
        match="cannot write shard .*shard-000001.tar: no space left on the device$",
    ):
        main(arguments)
    assert [path.name for path in tars(tmp_path / "out")] == ["shard-000000.tar"]
    assert not list((tmp_path / "out").glob("*writing*"))
    monkeypatch.undo()
    assert main(arguments) == 0 and same_clips(clips_of(source), content(*tars(tmp_path / "out")))


def cut_off(source, tmp_path):
    os.truncate(source / "shard-000002.tar", 9000)


def other_source(source, tmp_path):
    command.shuffle([str(source), f"out={tmp_path / 'out'}", "clips_per_shard=4", "workers=1"])
    rewrite(
        source / "shard-000002.tar",
        lambda name, data: None if name.startswith("clip00015") else data,
    )


def one_source_less(source, tmp_path):
    command.shuffle([str(source), f"out={tmp_path / 'out'}", "clips_per_shard=4", "workers=1"])
    os.remove(source / "shard-000003.tar")


def begun(source, tmp_path):
    command.shuffle([str(source), f"out={tmp_path / 'out'}", "clips_per_shard=4", "workers=1"])


def damaged(source, tmp_path):
    begun(source, tmp_path)
    (tmp_path / "out" / command.RECIPE).write_text("{")


def newer(source, tmp_path):
    begun(source, tmp_path)
    recipe = json.loads((tmp_path / "out" / command.RECIPE).read_text())
    (tmp_path / "out" / command.RECIPE).write_text(json.dumps({**recipe, "format": 2}))


def occupied(source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("")


def a_file(source, tmp_path):
    (tmp_path / "out").write_text("")


def nothing(source, tmp_path):
    pass


@pytest.mark.parametrize(
    "prepare,words,message",
    [
        (nothing, "shuffle {source}", "out= is not set"),
        (nothing, "shuffle {source} out={source}", "is the folder of the source"),
        (nothing, "shuffle {source} out={source}/new", "lies in .*, the folder of the source"),
        (
            nothing,
            "shuffle {source}/shard-000000.tar out={source}/a/b",
            "lies in .*, the folder of the source",
        ),
        (nothing, "shuffle {source} out={source}/shard-000000.tar/x", "lies in"),
        (nothing, "shuffle {tmp}/none out={tmp}/out", "no such folder or file"),
        (
            nothing,
            "merge {source} out={tmp}/out",
            "clips_per_shard is not set: python -m data merge",
        ),
        (
            nothing,
            "split {source} out={tmp}/out",
            "clips_per_shard is not set: python -m data split",
        ),
        (nothing, "split {source} out={tmp}/out clips_per_shard=0", "below 1"),
        (nothing, "merge {source} out={tmp}/out clips_per_shard=4 seed=1", "unknown key 'seed'"),
        (
            nothing,
            "shuffle {source} out={tmp}/out clips_per_shrd=4",
            "did you mean 'clips_per_shard'",
        ),
        (
            nothing,
            "shuffle {source} out={tmp}/out exclude={tmp}/none",
            "exclude=.*none cannot be read",
        ),
        (nothing, "mix {source}", "'mix' is not a verb of python -m data; did you mean 'mixing'"),
        (cut_off, "shuffle {source} out={tmp}/out", "shard .*shard-000002.tar is cut off"),
        (
            occupied,
            "shuffle {source} out={tmp}/out",
            "holds mine.txt, which this command did not make",
        ),
        (a_file, "shuffle {source} out={tmp}/out", "out=.*out cannot be used: not a directory"),
        (
            a_file,
            "shuffle {source} out={tmp}/out/new",
            "out=.*new cannot be written: not a directory",
        ),
        (
            begun,
            "shuffle {source} out={tmp}/out clips_per_shard=5",
            "begun with clips_per_shard=4, now it is 5",
        ),
        (
            begun,
            "shuffle {source} out={tmp}/out clips_per_shard=4 seed=3",
            "begun with seed=0, now it is 3",
        ),
        (
            begun,
            "shuffle {source} out={tmp}/out clips_per_shard=4 rename=true",
            "begun with rename=False, now it is True",
        ),
        (
            begun,
            "merge {source} out={tmp}/out clips_per_shard=4",
            "begun with command=shuffle, now it is merge",
        ),
        (damaged, "shuffle {source} out={tmp}/out clips_per_shard=4", "rewritten.json is damaged"),
        (
            newer,
            "shuffle {source} out={tmp}/out clips_per_shard=4",
            "has format 2; this software reads up to 1",
        ),
        (
            other_source,
            "shuffle {source} out={tmp}/out clips_per_shard=4",
            "begun with sources='shard-000002 [0-9a-f]{16}', now it is 'shard-000002 [0-9a-f]{16}'",
        ),
        (
            one_source_less,
            "shuffle {source} out={tmp}/out clips_per_shard=4",
            "sources='shard-000003 .*', now it is 3 shards",
        ),
    ],
)
def test_what_cannot_be_is_one_line(source, tmp_path, prepare, words, message):
    prepare(source, tmp_path)
    before = files(source)
    with pytest.raises(UserError, match=message) as caught:
        main(
            [
                *words.format(source=source, tmp=tmp_path).split(" "),
                *(["workers=1"] if "mix" not in words else []),
            ]
        )
    assert len(str(caught.value).splitlines()) == 1 or "usage" in str(caught.value)
    assert {name: data for name, data in files(source).items() if "index" not in name} == {
        name: data for name, data in before.items() if "index" not in name
    }


def test_a_source_that_changes_while_it_is_read_is_noticed(tmp_path):
    path = write_shards(tmp_path, [make_clip(i, size=16) for i in range(3)], 3)[0]
    survey = survey_shard(path)
    config = command.MergeConfig(out=str(tmp_path / "out"), clips_per_shard=3)
    os.mkdir(config.out)
    task = command._task(config, make_plan("merge", 3, 0, [path], [survey]), 0)
    rewrite(path, lambda name, data: None if name.startswith("clip00000") else data)
    with pytest.raises(UserError, match=r"shard-000000.tar changed while it was read"):
        copy_clips(task)
    os.truncate(path, 3000)
    with pytest.raises(
        UserError, match=r"shard-000000.tar changed while it was read: \d+ bytes wanted"
    ):
        copy_clips(task)
    os.remove(path)
    with pytest.raises(UserError, match="cannot read shard .*shard-000000.tar: no such file"):
        copy_clips(task)


def leave_unless_first(piece):
    """The first piece's process does not notice that it is to end; the second's fails."""
    if piece == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(1.5)
        return piece
    time.sleep(0.5)
    raise UserError("the second fails")


def test_a_process_that_misses_its_signal_ends_all_the_same():
    with pytest.raises(UserError, match="the second fails"):
        list(spread(leave_unless_first, [0, 1], 2))


def test_a_process_that_dies_or_fails_is_told():
    assert sorted(spread(abs, [-3, 4, -5], 2)) == [(0, 3), (1, 4), (2, 5)]
    with pytest.raises(RuntimeError, match="a process ended with exit code 3 and no message"):
        list(spread(os._exit, [3, 3], 2))
    with pytest.raises(EnvironmentFault, match="exit code -9 .*memory runs out"):
        list(spread(signal.raise_signal, [signal.SIGKILL] * 2, 2))
    with pytest.raises(RuntimeError, match="invalid literal"):
        list(spread(int, ["1", "x"], 2))
    with pytest.raises(UserError, match="no shards at"):
        list(spread(command.find_shards, ["/nowhere/a", "/nowhere/b"], 2))
