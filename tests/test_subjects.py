"""Lists of people, read as they were meant and compared with who is there; sets that share
people."""

import dataclasses
import shutil
import unicodedata
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from clips import make_clip, rewrite, write_shards
from runs import words

from data.__main__ import main
from data.config import DataConfig, SourceConfig
from data.format.index import build_index, index_path, read_index, save_index
from data.format.names import mark, normalise
from data.loading.build import count_excluded, open_loader, open_order
from data.loading.loader import tag
from data.sampling.manifest import quarantined_shards
from data.sampling.seen import Seen
from data.sampling.subjects import (
    leave_out_people,
    list_people,
    match_names,
    people_of,
    refuse_people,
)
from data.sources.cameras import read_cameras
from data.sources.detections import read_detections
from data.storage.shard_store import Store
from engine.config.parser import parse, read_file
from engine.distributed.process_group import Processes
from engine.errors import UserError
from pretrain.config import PretrainConfig
from pretrain.train import make_trainer

JOSE = "Jos\u00e9"  # one letter; in the shards it is written as two
PEOPLE = (unicodedata.normalize("NFD", JOSE), "anna ", "person2")
NOISE = 9


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """20 clips in 4 shards, of the three people in turn."""
    folder = tmp_path_factory.mktemp("people")
    clips = [dataclasses.replace(make_clip(i, size=16), subject=PEOPLE[i % 3]) for i in range(20)]
    write_shards(folder, clips, 5)
    return folder


def seen_clips(config):
    """Numbers of the clips that 8 batches of a run hold."""
    order = open_order(config, 16, 5)
    keys = [read_index(path).keys for path in order.sources[0].paths]
    loader = open_loader(order, config, NOISE, 0, 1, 0)
    found = set()
    for _, arrays in loader.batches(0, 8):
        places = zip(tag(arrays, "shard"), tag(arrays, "index"), strict=True)
        found |= {int(keys[shard][i][-5:]) for shard, i in places}
    return found


# As Notepad saves it (this is the file of a public report), as two editors' files joined by cat, in
# UTF-16, with accents in either form, with white space around.
WRITTEN = [
    b"\xef\xbb\xbfJos\xc3\xa9\nanna\n",
    b"# withdrawn\nanna\n" + b"\xef\xbb\xbfJos\xc3\xa9\r\n",
    f"{JOSE}\r\nanna\r\n".encode("utf-16"),
    b"\xfe\xff" + f"{JOSE}\nanna\n".encode("utf-16-be"),
    f"{unicodedata.normalize('NFD', JOSE)}\n  anna\t\n\n".encode(),
    f"\ufeff# since May\n\u00a0{JOSE}\nanna\n{JOSE}\n".encode(),
]


@pytest.mark.parametrize("content", WRITTEN)
def test_everybody_on_the_list_is_left_out(folder, tmp_path, content):
    (tmp_path / "withdrawn.txt").write_bytes(content)
    config = DataConfig(shards=str(folder), val_clips=2, exclude=str(tmp_path / "withdrawn.txt"))
    assert seen_clips(config) == {i for i in range(18) if i % 3 == 2}
    # 20 clips, of which 0, 3, .. 18 are the first person's and 1, 4, .. 19 the second's.
    assert count_excluded(open_order(config, 16, 5), config) == {JOSE: 7, "anna": 7}


def test_a_name_that_nobody_has_is_an_error_that_tells_the_nearest(folder, tmp_path):
    listed = tmp_path / "withdrawn.txt"
    config = DataConfig(shards=str(folder), val_clips=2, exclude=str(listed))
    order = open_order(config, 16, 5)
    listed.write_text(f"{JOSE}\nAnna\nperson3\nzz\n", encoding="utf-8")
    with pytest.raises(
        UserError,
        match=r"data.exclude=.*withdrawn.txt names 'Anna' \(did you mean 'anna'\?\), 'person3' "
        r"\(did you mean 'person2'\?\), 'zz' \(subjects there are such as 'Jos.'\), but "
        r"none of the clips in 4 shards",
    ):
        count_excluded(order, config)
    listed.write_text("person3\n")
    with pytest.raises(
        UserError, match=r"exclude=.*withdrawn.txt names 'person3' \(did you mean 'person2'"
    ):
        main(
            [
                "merge",
                str(folder),
                f"out={tmp_path / 'out'}",
                "clips_per_shard=9",
                f"exclude={listed}",
                "workers=1",
            ]
        )
    assert not (tmp_path / "out").exists()
    listed.write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(UserError, match="withdrawn.txt is not a text file in UTF-8 or UTF-16"):
        config.excluded()


def test_a_run_says_whom_it_leaves_out_or_does_not_begin(folder, tmp_path, capsys):
    listed, cpu = tmp_path / "withdrawn.txt", Processes(0, 1, torch.device("cpu"))
    listed.write_bytes(WRITTEN[0])
    config = parse(
        PretrainConfig,
        words(tmp_path / "run", folder, "data.val_clips=2", f"data.exclude={listed}"),
        "pretrain train",
    )
    make_trainer(config, cpu).task.announce(0)
    assert f"excluded: 14 clips of 2 subjects, by 2 names in {listed}\n" in capsys.readouterr().err
    listed.write_text("Josef\nanna\n")
    with pytest.raises(UserError, match="withdrawn.txt names 'Josef' .did you mean 'Jos\u00e9'"):
        make_trainer(config, cpu)
    assert not (tmp_path / "run").exists()


def test_a_probe_of_people_who_are_trained_on_is_refused(people, tmp_path):
    """The same clips under other keys: neither a shard nor a key is the same, which is what was
    compared before."""
    made = [
        "merge",
        str(people["body"]),
        f"out={tmp_path / 'again'}",
        "clips_per_shard=24",
        "rename=true",
    ]
    assert main([*made, "workers=1"]) == 0
    config = parse(
        PretrainConfig,
        words(
            tmp_path / "run",
            people["body"],
            "log.probe_every=2",
            "probe.clips=20",
            f"probe.shards={tmp_path / 'again'}",
        ),
        "pretrain train",
    )
    trainer = make_trainer(config, Processes(0, 1, torch.device("cpu")))
    with pytest.raises(
        UserError, match="probe.shards: 22 people there are trained on too, such as 'made-"
    ):
        trainer.task.announce(0)


def test_rewriting_leaves_out_what_the_list_means(folder, tmp_path, capsys):
    (tmp_path / "who.txt").write_bytes(WRITTEN[0])
    words = [
        "merge",
        str(folder),
        f"out={tmp_path / 'out'}",
        "clips_per_shard=50",
        f"exclude={tmp_path / 'who.txt'}",
    ]
    assert main([*words, "workers=1"]) == 0
    kept = read_index(str(tmp_path / "out/shard-000000.tar")).keys.tolist()
    assert kept == [f"clip{i:05d}" for i in range(20) if i % 3 == 2]
    assert "excluded: 14 clips of 2 subjects, by 2 names in" in capsys.readouterr().err


def test_an_index_of_before_people_were_kept_is_made_anew(folder, tmp_path):
    for path in folder.glob("*.tar"):
        shutil.copy(path, tmp_path)
    paths = sorted(map(str, tmp_path.glob("*.tar")))
    whole = [mark(PEOPLE[i % 3]) for i in range(20)]
    for path in paths:
        save_index(dataclasses.replace(build_index(path), people=None), index_path(path))
        assert read_index(path).people is None  # it still serves
    assert main(["index", paths[0]]) == 0  # which is how shards on a server get theirs
    assert read_index(paths[0]).people.tolist() == whole[:5]
    for _ in range(2):
        found = dict(people_of(paths, Store(None)))
        assert list(found) == paths and np.concatenate(list(found.values())).tolist() == whole
    assert read_index(paths[3]).people.tolist() == whole[15:]


def test_remote_shards_whose_people_are_not_listed_are_reported_and_not_fetched(
    folder, tmp_path, monkeypatch, capsys
):
    for path in folder.glob("*.tar"):
        shutil.copy(path, tmp_path)
    paths = sorted(map(str, tmp_path.glob("*.tar")))
    save_index(dataclasses.replace(build_index(paths[1]), people=None), index_path(paths[1]))
    monkeypatch.setattr("data.sampling.subjects.fetch.is_remote", lambda path: True)

    class Elsewhere(Store):
        def read_index(self, path):
            return read_index(path)

        def read(self, *place):
            pytest.fail("a clip was read")

    found = match_names(frozenset({"person2", "zz"}), paths, Elsewhere(None), "data.exclude=f")
    assert found == {
        "person2": 4,
        "zz": 0,
    }  # clips 2, 11, 14 and 17; 5 and 8 lie in the second shard
    said = capsys.readouterr().err
    assert said.startswith(
        "note: data.exclude=f names 1 subjects, such as 'zz', who were not found; 1 shards, such as"
    )
    assert paths[1] in said and "left out, but not counted" in said


def test_a_clip_with_unreadable_json_is_nobody(folder, tmp_path):
    path = tmp_path / "shard-000000.tar"
    shutil.copy(folder / "shard-000000.tar", path)
    rewrite(path, lambda name, data: b"{" if name == "clip00001.json" else data)
    ((_, people),) = people_of([str(path)], Store(None))
    assert people.tolist() == [
        mark(PEOPLE[0]),
        0,
        mark(PEOPLE[2]),
        mark(PEOPLE[0]),
        mark(PEOPLE[1]),
    ]


def test_people_who_are_trained_on_are_taken_out_of_a_test_set(folder, tmp_path):
    """Other shards, other keys, other digests; the same people."""
    who = [*PEOPLE, "erin", "frank"]
    clips = [
        dataclasses.replace(make_clip(i, size=16), key=f"other{i:05d}", subject=who[i % 5])
        for i in range(40)
    ]
    write_shards(tmp_path, clips, 8)
    trained = open_order(DataConfig(shards=str(folder), val_clips=2), 16, 5)
    seen = list_people(trained.sources, Seen(), Store(None))
    assert seen.people == set(map(mark, PEOPLE)) and seen.listed == set(trained.sources[0].digests)
    assert list_people(trained.sources, seen, Store(None)) == Seen()  # nothing is left to be read
    test = open_order(DataConfig(sources={"test": SourceConfig(str(tmp_path))}, val_clips=4), 16, 5)
    test.sources[0].val = [(shard, i) for shard in range(5) for i in range(8)]
    assert leave_out_people(test, seen.people, Store(None)) == (24, 0)
    assert [8 * shard + i for shard, i in test.sources[0].val] == [
        i for i in range(40) if i % 5 > 2
    ]


def test_people_val_are_not_trained_on(tmp_path):
    """Of two people, one in the last clips alone."""
    clips = [
        dataclasses.replace(make_clip(i, size=16), subject="late" if i >= 18 else "early")
        for i in range(20)
    ]
    write_shards(tmp_path, clips, 5)
    order = open_order(DataConfig(shards=str(tmp_path), val_clips=2), 16, 5)
    people = list_people(order.sources, Seen(), Store(None)).people
    assert people == {mark("early")}
    refuse_people(str(tmp_path / "shard-000003.tar"), frozenset(), Store(None), "probe.shards")
    with pytest.raises(
        UserError,
        match=r"probe.shards: 1 people there are trained on too, such as 'early' in "
        r".*shard-000003.tar; a test wants people of its own",
    ):
        refuse_people(str(tmp_path / "shard-000003.tar"), people, Store(None), "probe.shards")


def test_names_are_one_where_they_look_alike():
    assert normalise("\ufeff  e\u0301va\u00a0\r") == "\u00e9va"
    assert mark("e\u0301va ") == mark("\u00e9va") != mark("eva")
    assert mark("p\u00b2") != mark("p2")  # two people, perhaps; NFKC would make one of them


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_all_files_that_people_write_may_begin_with_a_mark(folder, tmp_path, encoding):
    def written(name, text):
        (tmp_path / name).write_bytes(text.encode(encoding))
        return tmp_path / name

    video = SimpleNamespace(path="walk.mp4", count=1, width=64, height=64)

    def read_box(path):
        return read_detections(str(path), {"walk": video})["walk"]["0"][0].box.tolist()

    boxes = written("boxes.csv", "video,frame,x0,y0,x1,y1\r\nwalk.mp4,0,1,2,30,40\r\n")
    assert read_box(boxes) == [1, 2, 30, 40]
    boxes = written(
        "boxes.json", '[{"video": "walk.mp4", "frame": 0, "x0": 1, "y0": 2, "x1": 30, "y1": 40}]'
    )
    assert read_box(boxes) == [1, 2, 30, 40]
    written("bad_shards.json", '["shard-000001.tar"]')
    assert quarantined_shards(tmp_path, open_order(DataConfig(shards=str(folder)), 16, 5)) == {
        str(folder / "shard-000001.tar")
    }
    camera = {
        "name": "left",
        "size": "[640, 480]",
        "K": "[[500, 0, 320], [0, 500, 240], [0, 0, 1]]",
        "R": "[[1, 0, 0], [0, 1, 0], [0, 0, 1]]",
        "t": "[0, 0, 1]",
    }
    opencv = ", ".join(
        f'"{name}": {value}' if name != "name" else '"name": "left"'
        for name, value in camera.items()
    )
    cameras = written("opencv.json", '{"cameras": [{' + opencv + "}]}")
    assert list(read_cameras(str(cameras), "opencv")) == ["left"]
    toml = (
        "[cameras.0]\ncam_id = 7\nmatrix = {K}\ndistortions = []\n"
        "rotation = {R}\ntranslation = {t}\nsize = {size}\n"
    )
    assert list(read_cameras(str(written("array.toml", toml.format(**camera))), "caliscope")) == [
        "cam_7"
    ]
    assert read_file(
        str(written("run.yaml", "command: pretrain train\nrun: x\n")), "pretrain train"
    ) == [("run", "x")]


def test_a_qualisys_file_saved_anew_is_read(samples, tmp_path):
    source = next(samples.rglob("*.qca.txt"))
    text = source.read_bytes().decode("utf-8-sig")
    wanted = read_cameras(str(source), "qualisys")
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "again.qca.txt").write_bytes(text.encode(encoding))
        found = read_cameras(str(tmp_path / "again.qca.txt"), "qualisys")
        assert list(found) == list(wanted)
        assert all(np.array_equal(found[name].K, wanted[name].K) for name in wanted)
