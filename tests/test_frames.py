"""A frame's number, its pixels and its time belong together, whatever the container."""

import json
import pickle
import tarfile
import unicodedata
from collections import Counter
from fractions import Fraction
from pathlib import Path
from string import ascii_letters, digits

import av
import numpy as np
import pytest
import simplejpeg
from drawn_videos import SIDE, draw, is_upright, read_number, trim, turn, write

from data.sources import frames, pairs, probe
from data.sources.frame_times import NO_PTS, clean_times
from data.sources.frames import Unreadable, open_video
from data.sources.listing import find_videos
from data.sources.plan import clip_key
from data.tools.process_pool import Died

CONFIG = Path(__file__).resolve().parent.parent / "configs/data/video.yaml"
MATRIX = [
    ("a.mp4", "libx264", 12, 0),
    ("a.mp4", "libx264", 12, 3),
    ("a.mov", "mpeg4", 12, 2),
    ("a.mkv", "libx264", 12, 3),
    ("a.webm", "libvpx-vp9", 12, 0),
    ("a.avi", "libx264", 12, 2),
    ("a.avi", "mpeg2video", 12, 2),
    ("a.avi", "mpeg4", 12, 0),
    ("a.mpg", "mpeg2video", 12, 2),
    ("a.mts", "libx264", 12, 2),
    ("a.ts", "mpeg2video", 12, 2),
]


def make(path: Path, codec: str, gop: int, between: int, count: int = 50) -> Path:
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV cannot write {codec}")
    speed = {"libvpx-vp9": {"cpu-used": "8"}, "libx264": {"preset": "veryfast"}}.get(codec, {})
    return write(path, count, codec, gop=gop, between=between, **speed)


def check(path: Path, first: int, times: np.ndarray) -> None:
    """Every frame by its number in order, and a few by seeking."""
    video = pickle.loads(pickle.dumps(open_video(str(path))))
    assert video.count == len(times) and (video.width, video.height) == (SIDE, SIDE)
    np.testing.assert_allclose(video.times, times, atol=0.0011)
    last = video.count - 1
    for wanted in (range(video.count), [0, last], [last - 3, last], [last // 2, last // 2 + 1]):
        got = list(video.get(wanted))
        assert [number for number, _ in got] == list(wanted)
        assert [read_number(image) for _, image in got] == [first + number for number in wanted]
        assert all(is_upright(image) for _, image in got)


@pytest.mark.parametrize(("name", "codec", "gop", "between"), MATRIX)
def test_the_frames_are_those_that_were_drawn(tmp_path, name, codec, gop, between):
    check(make(tmp_path / name, codec, gop, between), 0, np.arange(50) / 25)


@pytest.mark.parametrize("between", [0, 2])
def test_frames_that_an_edit_list_hides_do_not_count(tmp_path, between):
    path = trim(make(tmp_path / "a.mp4", "libx264", 12, between or 1), 20)
    check(path, 20, np.arange(30) / 25)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov"])
def test_uneven_times_are_kept(tmp_path, name):
    at = np.cumsum([0] + [40 if i % 5 else 180 for i in range(49)])
    path = write(tmp_path / name, 50, between=2, at=lambda i: int(at[i]))
    check(path, 0, at / 1000)


@pytest.mark.parametrize(
    "matrix",
    [(0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0), (-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0)],
)
def test_turned_videos_come_upright(tmp_path, matrix):
    """Against the matrix of ISO/IEC 14496-12 applied to the middles of the corners."""
    a, b, c, d = matrix
    path = turn(make(tmp_path / "a.mp4", "libx264", 12, 2), matrix)
    stored = next(av.open(str(path)).decode(video=0)).to_ndarray(format="rgb24")
    (_, shown), *_ = open_video(str(path)).get([0])
    for x, y in ((-24, -24), (24, -24), (-24, 24), (24, 24)):
        there = shown[32 + b * x + d * y, 32 + a * x + c * y].astype(int)
        assert np.abs(there - stored[32 + y, 32 + x]).max() < 90, (x, y)


def show_sound(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        for i in range(4):
            silence = np.zeros((1, 1024), np.float32)
            frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
            frame.rate, frame.pts = 16000, 1024 * i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def join_sizes(path):
    with av.open(str(path.with_suffix(".2.ts")), "w") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for _ in range(9):
            black = np.zeros((64, 96, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(black, format="rgb24")))
        container.mux(stream.encode(None))
    first = write(path.with_suffix(".1.ts"), 9, "mpeg2video")
    path.write_bytes(first.read_bytes() + path.with_suffix(".2.ts").read_bytes())


def name_another(path):
    """A script of ffmpeg's that would open a file beside it."""
    write(path.with_name("other.mp4"), 3)
    path.write_text("ffconcat version 1.0\nfile other.mp4\n")


HOSTILE = {
    "empty": (lambda path: path.touch(), "it is empty: 0 bytes"),
    "text": (lambda path: path.write_text("hello " * 99), "it is no video that PyAV reads"),
    "sound": (show_sound, "it holds no video, only audio"),
    "leaning": (lambda path: turn(write(path, 3), (1, 1, -1, 1)), "turned by 45 degrees"),
    "sizes": (join_sizes, "its images change from 64x64 to 96x64 pixels at frame"),
    "playlist": (name_another, "it is no video that PyAV reads"),
    "folder": (lambda path: path.mkdir(), "directory"),
    "missing": (lambda path: None, "No such file"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_no_video_is_told_in_one_line(tmp_path, kind):
    make_it, words = HOSTILE[kind]
    path = tmp_path / ("a.ts" if kind == "sizes" else "a.mp4")
    make_it(path)
    with pytest.raises(Unreadable, match=words) as error:
        open_video(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a.avi", "a.mkv", "a.mts"])
def test_what_decodes_of_a_cut_off_file_is_kept(tmp_path, name):
    path = write(tmp_path / name, 60)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    video = open_video(str(path))
    assert 3 < video.count < 50
    assert [read_number(image) for _, image in video.get(range(video.count))] == list(
        range(video.count)
    )
    if name != "a.mts":  # it has no header that promises a length
        assert f"its {video.count} frames end at {video.count / 25:.2f} s" in video.note


def test_one_frame_and_a_gif_are_videos_too(tmp_path):
    video = open_video(str(write(tmp_path / "a:b %02d.mp4", 1, first=7)))
    assert (video.count, video.times.tolist(), video.note) == (1, [0.0], "")
    assert [read_number(image) for _, image in video.get([0])] == [7]
    with av.open(str(tmp_path / "a.gif"), "w") as container:
        stream = container.add_stream("gif", rate=10)
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "rgb8"
        for i in range(4):
            frame = av.VideoFrame.from_ndarray(draw(i), format="rgb24")
            container.mux(stream.encode(frame.reformat(format="rgb8")))
        container.mux(stream.encode(None))
    video = open_video(str(tmp_path / "a.gif"))
    assert [read_number(image) for _, image in video.get([1, 3])] == [1, 3]
    np.testing.assert_allclose(video.times, np.arange(4) / 10)


def test_pixels_that_are_not_square_are_told(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(draw(3), format="rgb24")))
        container.mux(stream.encode(None))
    video = open_video(str(tmp_path / "a.mp4"))
    assert (video.width, video.note) == (SIDE, "its pixels are 4:3, kept as stored")


def test_joined_recordings_go_on(tmp_path):
    first = write(tmp_path / "1.ts", 20, "mpeg2video").read_bytes()
    second = write(tmp_path / "2.ts", 20, "mpeg2video", first=20).read_bytes()
    (tmp_path / "a.ts").write_bytes(first + second)
    check(tmp_path / "a.ts", 0, np.arange(40) / 25)
    assert "its times jump back 1 times" in open_video(str(tmp_path / "a.ts")).note


def test_a_seek_that_lands_elsewhere_is_found_out(tmp_path, monkeypatch):
    """By its time; or, where times are told wrong as well, by its pixels."""
    video = open_video(str(write(tmp_path / "a.mkv", 60)))
    seek, lies = frames._Reader._seek, []

    def land_elsewhere(reader, key, target):
        done = seek(reader, key, target)
        reader.next -= 12
        if lies[-1] == "times too":
            monkeypatch.setattr(frames, "pts_of", lambda _: video.index.pts[reader.next - 1])
        return done

    monkeypatch.setattr(frames._Reader, "_seek", land_elsewhere)
    for lie in ("number", "times too"):
        lies.append(lie)
        assert [read_number(image) for _, image in video.get([2, 50, 55])] == [2, 50, 55]


def test_another_file_in_its_place_is_found_out(tmp_path):
    video = open_video(str(write(tmp_path / "a.mp4", 30)))
    write(tmp_path / "a.mp4", 30, first=1)
    with pytest.raises(Unreadable, match="frame 3 is no longer what it was"):
        list(video.get([3, 20]))
    with pytest.raises(Unreadable, match="frame 30 is none of its 30 frames"):
        list(video.get([30]))


def test_a_process_that_died_is_replaced_by_one_that_checks_as_much(tmp_path, monkeypatch):
    path = str(turn(trim(write(tmp_path / "a.mp4", 50, between=2), 20), (0, 1, -1, 0)))
    runs = []

    def die_at_first(function, pieces, workers):
        runs.append(list(pieces))
        for piece in runs[-1]:
            yield Died(-9) if len(runs) == 1 else function(piece)

    monkeypatch.setattr(probe, "spread_isolated", die_at_first)
    problems = probe.Problems()
    video = probe.probe_videos([path], 1, problems)[path]
    assert runs == [[path], [path]] and not problems.skipped
    assert video.count == 30
    ((_, image),) = video.get([9])
    upright = np.rot90(image)
    assert is_upright(upright) and read_number(upright) == 29
    monkeypatch.setattr(probe, "spread_isolated", lambda f, pieces, w: (Died(-9) for _ in pieces))
    assert probe.probe_videos([path], 1, problems) == {}
    assert "exit code -9" in problems.skipped[path]


NONE = NO_PTS
TIMES = [
    ([0, 2, 4, 6], [0, 2, 4, 6], ""),
    ([100, 102, 109], [0, 2, 9], ""),
    ([1, 3, 4, 2, 5], [0, 1, 2, 3, 4], ""),  # AVI: as decoded
    ([0, 2, NONE, 6, NONE], [0, 2, 4, 6, 8], "2 of 5 frames tell no time"),
    ([NONE, NONE, 4, 6], [0, 2, 4, 6], "2 of 4 frames tell no time"),
    ([0, 2, 4, 4, 8], [0, 2, 4, 6, 8], "1 of 5 frames tell no time"),
    ([90, 92, 94, 0, 2, 4], [0, 2, 4, 6, 8, 10], "jump back 1 times"),
    ([NONE] * 3, [0, 40, 80], "it tells no times; taken at 25 frames a second"),
    ([7], [0], ""),
]


@pytest.mark.parametrize(("pts", "wanted", "words"), TIMES)
def test_times_that_are_missing_or_wrong_are_mended(pts, wanted, words):
    times, said = clean_times(np.array(pts, np.int64), 0.001, 25)
    np.testing.assert_allclose(times * 1000, wanted, atol=1e-9)
    assert words in "; ".join(said) and bool(words) == bool(said)


def test_videos_are_named_by_their_paths(tmp_path):
    for name in ("take1/cam.mp4", "take2/cam.MOV", "b.mp4", "b.avi", "v1.2.mkv", ".x/a.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for name in ("._b.mp4", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "take1/loop").symlink_to(tmp_path)
    found = find_videos(str(tmp_path))
    assert list(found) == ["b.avi", "b.mp4", "take1/cam", "take2/cam", "v1.2"]
    assert found["take2/cam"] == str(tmp_path / "take2/cam.MOV")
    assert list(find_videos(str(tmp_path / "v1.2.mkv"))) == ["v1.2"]
    (tmp_path / "images").mkdir()
    (tmp_path / "images/000001.png").touch()
    with pytest.raises(ValueError, match="it holds 1 images"):
        find_videos(str(tmp_path / "images"))


def test_keys_of_names_in_any_script_differ():
    assert clip_key("walk_01", "ann", "000003") == "walk_01-ann-000003"
    assert clip_key("take1/cam 2", "0") == "take1_cam_2-0"
    names = ["東京", "大阪", "José", "Josè", "Jose", "Пётр", "mañana/東京"]
    keys = [clip_key(name) for name in names]
    assert len(set(keys)) == len(names)
    assert all(set(key) <= set(ascii_letters + digits + "_-") for key in keys)
    assert keys[2].startswith("Jose-") and keys[4] == "Jose"
    assert keys == [clip_key(unicodedata.normalize("NFD", name)) for name in names]


def test_crops_of_trimmed_and_cut_off_videos_hold_their_frames(tmp_path, capsys):
    """The two inputs that gave other frames, and a file whose boxes go on behind its end."""
    (tmp_path / "in").mkdir()
    trim(write(tmp_path / "in/trimmed.mp4", 70, between=2), 20)
    write(tmp_path / "in/stream.mts", 60, between=2)
    lines = ["video,frame,x0,y0,x1,y1"]
    for name in ("trimmed.mp4", "stream.mts"):
        lines += [f"{name},{frame},6.4,6.4,57.6,57.6" for frame in range(60)]
    (tmp_path / "boxes.csv").write_text("\n".join(lines) + "\n")
    words = [str(CONFIG), f"videos={tmp_path / 'in'}", f"boxes={tmp_path / 'boxes.csv'}"]
    words += ["size=64", "instants=3", "gap_max_s=0.5", "stride_s=0.4", f"out={tmp_path / 'out'}"]
    assert pairs.main(words) == 1
    said = capsys.readouterr().err
    assert "10 boxes for trimmed lie past its last frame, 49; they are left out" in said
    seen = Counter()
    for path in (tmp_path / "out").glob("*.tar"):
        with tarfile.open(path) as tar:
            files = {member.name: tar.extractfile(member).read() for member in tar}
        for name, data in files.items():
            key, _, suffix = name.partition(".")
            for i, crop in enumerate(json.loads(data)["crops"] if suffix == "json" else ()):
                image = simplejpeg.decode_jpeg(files[f"{key}.{i:02d}.jpg"], "RGB")
                video = key.split("-")[0]
                hidden = {"trimmed": 20, "stream": 0}[video]
                assert read_number(image) == round(crop["time_s"] * 25) + hidden
                seen[video] += 1
    assert seen["trimmed"] > 8 and seen["stream"] > 8
