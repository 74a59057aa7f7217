"""Clips of still images: from a list of pairs, and from a folder of images a person."""

import json
import tarfile
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from data.find.detection import Detection
from data.sources import stills
from data.sources.frames import Unreadable
from data.sources.image_folders import deal
from data.sources.pair_list import read_pairs
from data.sources.pairs import main
from data.sources.stills import open_still
from engine.errors import UserError

CONFIGS = Path(__file__).resolve().parent.parent / "configs/data"
FOLDERS, LIST = str(CONFIGS / "image_folders.yaml"), str(CONFIGS / "pair_list.yaml")


def _draw(path, grey, size=(60, 40), taken=None, orientation=None):
    """An image of one grey, (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, (grey, grey, grey))
    exif = image.getexif()
    if orientation:
        exif[0x0112] = orientation
    if taken:
        exif.get_ifd(0x8769)[0x9003] = taken
    image.save(path, exif=exif)
    return path


def _clips(folder):
    """{key: (meta, [images])} of all shards of a folder."""
    found = defaultdict(dict)
    for tar in sorted(Path(folder).glob("*.tar")):
        with tarfile.open(tar) as file:
            for member in file:
                key, suffix = member.name.split(".", 1)
                found[key][suffix] = file.extractfile(member).read()
    out = {}
    for key, members in found.items():
        names = sorted(name for name in members if name.endswith("jpg"))
        images = [cv2.imdecode(np.frombuffer(members[name], np.uint8), 1) for name in names]
        out[key] = json.loads(members["json"]), images
    return out


@pytest.fixture
def people(tmp_path):
    """Two people of 5 and 3 images, one of them in a deeper folder, and one of one image."""
    for i in range(5):
        _draw(tmp_path / f"in/ann/{i}.png", 20 * (i + 1))
    for i in range(3):
        _draw(tmp_path / f"in/site b/ben/{i}.jpg", 150 + 20 * i, (40, 60))
    _draw(tmp_path / "in/lone/0.png", 9)
    return tmp_path


def _run(config, folder, *more):
    return main([config, f"out={folder / 'out'}", "size=64", *more])


def test_every_folder_is_a_subject_and_each_image_is_used_once(people, capsys):
    images = f"images={people / 'in'}"
    assert _run(FOLDERS, people, images, "images_per_clip=3") == 0
    clips = _clips(people / "out")
    used = defaultdict(list)
    for meta, pixels in clips.values():
        assert 2 <= len(pixels) <= 3
        assert [crop["time_s"] for crop in meta["crops"]] == list(range(len(pixels)))
        assert {crop["camera"] for crop in meta["crops"]} == {"0"}
        used[meta["subject"]] += [round(image[32, 32].mean() / 10) * 10 for image in pixels]
    assert {who: sorted(greys) for who, greys in used.items()} == {
        "images/ann": [20, 40, 60, 80, 100],
        "images/site b/ben": [150, 170, 190],
    }
    assert "1 folders show nobody in 2 images, such as lone" in capsys.readouterr().err
    # The whole image is in the crop, and black around it: 60 x 40 in a square of 60.
    meta, pixels = next(v for v in clips.values() if v[0]["subject"] == "images/ann")
    assert meta["crops"][0]["box"] == [0, -10, 60, 50]
    assert pixels[0][:9].max() < 12 and pixels[0][13:51].min() > 8 and pixels[0][55:].max() < 12


def test_the_seed_deals_and_workers_and_parts_change_nothing(people):
    images = f"images={people / 'in'}"
    made = {}
    for name, more in (
        ("a", ["workers=1"]),
        ("b", ["workers=2"]),
        ("c", ["seed=1"]),
    ):
        keys = [FOLDERS, f"out={people / name}", images, "size=64", "images_per_clip=2", *more]
        assert main([*keys, "clips_per_shard=2"]) == 0
        made[name] = [tar.read_bytes() for tar in sorted((people / name).glob("*.tar"))]
    assert made["a"] == made["b"] != made["c"]
    keys = [FOLDERS, images, "size=64", "images_per_clip=2", "clips_per_shard=2"]
    for part in ("1/2", "2/2"):
        assert main([*keys, f"out={people / 'parts'}", f"part={part}"]) == 0
    parts = [tar.read_bytes() for tar in sorted((people / "parts").glob("*.tar"))]
    assert parts == made["a"]


def test_it_resumes_and_knows_an_image_that_changed(people, capsys):
    keys = [FOLDERS, f"out={people / 'out'}", f"images={people / 'in'}", "size=64"]
    keys.append("clips_per_shard=1")
    assert main(keys) == 0
    first, *_ = sorted((people / "out").glob("*.tar"))
    kept = first.stat().st_mtime_ns
    assert main(keys) == 0
    assert "2 of 2 shards are there already" in capsys.readouterr().err
    assert first.stat().st_mtime_ns == kept


@pytest.mark.parametrize(
    "text",
    [
        "ann/0.png,ann/1.png\nann/1.png,ann/2.png\nann/3.png,ann/4.png,zoe\n",
        "image_a,image_b,subject\nann/0.png,ann/1.png,\nann/1.png,ann/2.png,\nann/3.png,ann/4.png,zoe",
        "ann/0.png\tann/1.png\r\nann/1.png\tann/2.png\r\nann/3.png\tann/4.png\tzoe\r\n",
        "\ufeff# mine\n\nann/0.png ann/1.png\n\"ann/1.png\"  'x'\n".replace("'x'", '"ann/2.png"')
        + "ann/3.png ann/4.png zoe\n",
    ],
)
def test_a_list_of_pairs(people, text):
    (people / "in/pairs.txt").write_bytes(text.encode())
    assert _run(LIST, people, f"pair_list={people / 'in/pairs.txt'}") == 0
    clips = list(_clips(people / "out").values())
    assert [meta["subject"] for meta, _ in clips] == ["pairs/ann/0.png"] * 2 + ["pairs/zoe"]
    greys = [[round(i[32, 32].mean() / 20) * 20 for i in images] for _, images in clips]
    assert greys == [[20, 40], [40, 60], [80, 100]]


def test_pairs_of_paths_with_spaces(people):
    (people / "in/pairs.csv").write_text('"site b/ben/0.jpg" "site b/ben/1.jpg"\n')
    pairs = read_pairs(str(people / "in/pairs.csv"))
    assert [Path(p).name for pair in pairs for p in (pair.first, pair.second)] == ["0.jpg", "1.jpg"]
    assert all(Path(pair.first).is_file() for pair in pairs)


def test_times_are_those_of_exif_where_all_images_tell_them(tmp_path):
    for name, second in (("a", 50), ("b", 10), ("c", 30)):
        _draw(tmp_path / f"in/ann/{name}.jpg", 100, taken=f"2024:05:01 10:00:{second}")
    assert _run(FOLDERS, tmp_path, f"images={tmp_path / 'in'}") == 0
    ((meta, _),) = _clips(tmp_path / "out").values()
    assert [crop["time_s"] for crop in meta["crops"]] == [0, 20, 40]
    _draw(tmp_path / "in/ann/d.jpg", 100)
    keys = [FOLDERS, f"images={tmp_path / 'in'}", f"out={tmp_path / 'o2'}", "pair_kind=cross_view"]
    assert main(keys) == 0
    ((meta, _),) = _clips(tmp_path / "o2").values()
    assert {crop["time_s"] for crop in meta["crops"]} == {0}
    assert [crop["camera"] for crop in meta["crops"]] == ["0", "1", "2", "3"]


def test_images_are_taken_upright(tmp_path):
    still = open_still(str(_draw(tmp_path / "a.jpg", 9, (60, 40), orientation=6)))
    assert (still.width, still.height, still.count) == (40, 60, 1)
    ((frame, image),) = still.get([0])
    assert frame == 0 and image.shape == (60, 40, 3)


def test_boxes_of_still_images(people):
    rows = ["image,x0,y0,x1,y1,person"]
    rows += [f"ann/{i}.png,10,10,30,30,ann" for i in range(5)]
    rows += [f"ann/{i}.png,30,5,50,35,eve" for i in range(2)]
    (people / "b.csv").write_text("\n".join(rows))
    images = [f"images={people / 'in'}", f"boxes={people / 'b.csv'}"]
    assert _run(FOLDERS, people, *images) == 0
    clips = list(_clips(people / "out").values())
    assert sorted(meta["subject"] for meta, _ in clips) == ["images/ann/ann", "images/ann/eve"]
    boxes = {meta["subject"]: meta["crops"][0]["box"] for meta, _ in clips}
    assert boxes["images/ann/ann"] == [7.5, 7.5, 32.5, 32.5]


def test_broken_images_are_named_and_the_rest_kept(people, capsys):
    (people / "in/ann/broken.jpg").write_bytes(b"\xff\xd8\xff")
    whole = _draw(people / "in/ann/whole.jpg", 120, (400, 400)).read_bytes()
    (people / "in/ann/whole.jpg").write_bytes(whole[: len(whole) // 2])
    assert _run(FOLDERS, people, f"images={people / 'in'}") == 1
    assert {meta["subject"] for meta, _ in _clips(people / "out").values()} == {
        "images/ann",
        "images/site b/ben",
    }
    assert "broken.jpg" in capsys.readouterr().err
    (people / "in/l.txt").write_text("ann/0.png none.png\nann/0.png ann/1.png\n")
    keys = [LIST, f"pair_list={people / 'in/l.txt'}", f"out={people / 'o2'}"]
    assert main(keys) == 1
    assert len(_clips(people / "o2")) == 1 and "none.png" in capsys.readouterr().err


def test_bad_keys_and_lists_are_one_line(people):
    def listed(text):
        path = people / str(len(list(people.iterdir()))) / "l.txt"
        path.parent.mkdir()
        path.write_text(text)
        return [LIST, f"pair_list={path}", "out=o"]

    (people / "empty").mkdir()
    for arguments, message in (
        ([FOLDERS, "out=o"], "images= must be given"),
        ([LIST, "out=o"], "pair_list= must be given"),
        ([FOLDERS, "images=nowhere", "out=o"], "images=nowhere: no such folder"),
        ([FOLDERS, f"images={people / 'empty'}", "out=o"], "empty holds no image"),
        ([FOLDERS, f"images={__file__}", "out=o"], "is a file, a folder is needed"),
        ([FOLDERS, "images=a", "out=o", "cameras.x.turn=45"], "turn=45 is none of 0, 90, 180"),
        ([FOLDERS, "images=a", "videos=b", "out=o"], "videos=b is of another reader: .* images="),
        ([FOLDERS, "images=a", "track=b", "out=o"], "track= is for reader=multicam"),
        (listed("a.png\n"), r"l.txt:1: 1 fields; a line is two paths"),
        (listed("a,b\n\n1,2,3,4\n"), r"l.txt:3: 4 fields"),
        (listed("x.png x.png\n"), r"l.txt:1: x.png is paired with itself"),
        (listed("# nothing\n"), r"l.txt is empty: it lists no pairs"),
        (listed("a\0b\n"), r"l.txt:1: a NUL byte"),
        ([LIST, "pair_list=none.txt", "out=o"], "none.txt: no such file"),
        ([FOLDERS, f"images={people / 'in/lone'}", "out=o"], "no clip can be cut from images="),
    ):
        with pytest.raises(UserError, match=message) as error:
            main(arguments)
        assert "\n" not in str(error.value)


def test_an_icon_is_no_image_of_a_person(tmp_path):
    path = tmp_path / "icon.png"
    Image.new("RGB", (15, 200)).save(path)
    with pytest.raises(Unreadable, match="it is 15x200, at least 16 px are needed"):
        open_still(str(path))
    Image.new("RGB", (16, 200)).save(path)
    assert open_still(str(path)).width == 16


@pytest.mark.parametrize(("count", "most"), [(2, 8), (9, 8), (16, 8), (17, 8), (3, 2), (1, 8)])
def test_images_are_dealt_evenly(count, most):
    clips = deal(count, most, np.random.default_rng(0))
    assert sorted(place for clip in clips for place in clip) == list(
        range(count if count > 1 else 0)
    )
    sizes = [len(clip) for clip in clips]
    assert not sizes or (min(sizes) >= 2 and max(sizes) - min(sizes) <= 1)
    assert not sizes or max(sizes) <= max(most, 3)


class _Half:
    """A finder that sees one person in the left half of each image, and counts the images."""

    seen = 0

    def find(self, image):
        _Half.seen += 1
        height, width = image.shape[:2]
        small = Detection(np.array([0.0, 0, 5, 5]), 0.9)
        return [small, Detection(np.array([0.04, 0, width / 2, height]), 0.5)]


def test_the_largest_person_is_cut_and_searched_for_once(people, monkeypatch):
    monkeypatch.setattr(stills, "_finder", _Half)
    keys = [FOLDERS, f"images={people / 'in'}", "size=64", "crop=person", "find.masks=false"]
    assert main([*keys, f"out={people / 'out'}"]) == 0
    clips = _clips(people / "out")
    first = next(meta for meta, _ in clips.values() if meta["subject"] == "images/ann")
    assert first["crops"][0]["box"] == [-10, -5, 40, 45]  # around 30 x 40, 1.25 times as large
    assert _Half.seen == 9
    before = [tar.read_bytes() for tar in sorted((people / "out").glob("*.tar"))]
    for tar in (people / "out").glob("*.tar*"):
        tar.unlink()
    assert main([*keys, f"out={people / 'out'}"]) == 0
    assert _Half.seen == 9
    assert [tar.read_bytes() for tar in sorted((people / "out").glob("*.tar"))] == before
