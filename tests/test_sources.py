"""``python -m data pairs`` from end to end, on drawn videos whose every frame tells its number, and
on real ones."""

import json
import os
import tarfile
from collections import defaultdict
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from drawn_videos import named_frames

from data.cropping.geometry import square_around
from data.sources.config import PairsConfig
from data.sources.detections import fill_gaps, read_detections
from data.sources.frames import Unreadable, open_video
from data.sources.pairs import main
from data.sources.plan import choose_instants, share_inside
from data.sources.tables import read_timestamps
from data.tools.process_pool import Died, spread_isolated
from engine.errors import UserError
from engine.geometry import project

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs/data"
VIDEO, QUALISYS, CALISCOPE = (
    str(CONFIGS / n) for n in ("video.yaml", "multicam_qualisys.yaml", "multicam_caliscope.yaml")
)
WIDTH, HEIGHT = 160, 128


def _draw(path, count=40, size=(WIDTH, HEIGHT), fps=10, image=None, faststart=False, codec="mpeg4"):
    """A video whose frame i is grey of brightness 5 i, or what ``image(i)`` draws."""
    with av.open(
        str(path), "w", options={"movflags": "faststart"} if faststart else {}
    ) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = *size, "yuv420p", 4_000_000
        for i in range(count):
            pixels = np.full((size[1], size[0], 3), 5 * i, np.uint8) if image is None else image(i)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def _boxes(path, rows):
    path.write_text(
        "video,frame,x0,y0,x1,y1,person\n" + "".join(",".join(map(str, r)) + "\n" for r in rows)
    )
    return path


def _clips(folder):
    """{key: (meta, [images])} of all shards of a folder."""
    found = defaultdict(dict)
    for tar in sorted(Path(folder).glob("*.tar")):
        with tarfile.open(tar) as file:
            for member in file:
                key, suffix = member.name.split(".", 1)
                found[key][suffix] = file.extractfile(member).read()
    return {
        key: (
            json.loads(members["json"]),
            [
                cv2.imdecode(np.frombuffer(members[suffix], np.uint8), 1)
                for suffix in sorted(members)
                if suffix.endswith("jpg")
            ],
        )
        for key, members in found.items()
    }


@pytest.fixture
def grey(tmp_path):
    """A folder with one video of 40 frames at 10 fps, and boxes of one person in each of its
    frames."""
    (tmp_path / "in").mkdir()
    _draw(tmp_path / "in/walk.mp4")
    _boxes(tmp_path / "boxes.csv", [("walk.mp4", i, 60, 30, 90, 100, "ann") for i in range(40)])
    return tmp_path


def _run(config, folder, *more):
    return main([config, f"videos={folder / 'in'}", f"out={folder / 'out'}", *more])


def test_clips_hold_the_frames_they_say(grey, capsys):
    assert _run(VIDEO, grey, f"boxes={grey / 'boxes.csv'}", "size=64", "licence=CC0-1.0") == 0
    clips = _clips(grey / "out")
    assert len(clips) == 4
    for meta, images in clips.values():
        assert (meta["source"], meta["licence"], meta["subject"]) == (
            "video",
            "CC0-1.0",
            "video/walk/ann",
        )
        assert meta["size"] == 64
        assert 2 <= len(images) == len(meta["crops"]) <= 4 and not meta["masks"]
        times = [c["time_s"] for c in meta["crops"]]
        assert np.all((np.diff(times) > 0.19) & (np.diff(times) < 1.01))
        for crop, image in zip(meta["crops"], images, strict=True):
            assert image.shape == (64, 64, 3)
            assert (
                abs(image.mean() - 5 * round(crop["time_s"] * 10)) < 2.4
            )  # half of one frame's step
            np.testing.assert_allclose(crop["box"], [31.25, 21.25, 118.75, 108.75])
            assert crop["K"] is None and crop["Rt"] is None
    assert "4 of 4 clips" in capsys.readouterr().out


def test_same_config_goes_on_and_another_is_refused(grey, capsys):
    boxes = f"boxes={grey / 'boxes.csv'}"
    _run(VIDEO, grey, boxes, "size=64", "clips_per_shard=2")
    tars = sorted((grey / "out").glob("*.tar"))
    before = [t.read_bytes() for t in tars]
    kept = tars[0].stat().st_mtime_ns
    tars[1].unlink()
    assert _run(VIDEO, grey, boxes, "size=64", "clips_per_shard=2", "workers=2") == 0
    assert "1 of 2 shards are there already" in capsys.readouterr().err
    assert tars[0].stat().st_mtime_ns == kept
    assert [t.read_bytes() for t in tars] == before
    with pytest.raises(UserError, match=r"out=.*size=64.*96"):
        _run(VIDEO, grey, boxes, "size=96", "clips_per_shard=2")
    (grey / "other").mkdir()
    (grey / "other/thesis.tex").write_text("")
    with pytest.raises(UserError, match="other is not empty"):
        main([VIDEO, f"videos={grey / 'in'}", boxes, f"out={grey / 'other'}"])


def test_an_unreadable_video_is_skipped_and_told(grey, capsys):
    (grey / "in/broken.mp4").write_bytes(b"no video at all")
    rows = [(v, i, 60, 30, 90, 100, "ann") for v in ("walk", "broken") for i in range(40)]
    assert _run(VIDEO, grey, f"boxes={_boxes(grey / 'b.csv', rows)}", "size=64") == 1
    assert len(_clips(grey / "out")) == 4
    assert "warning: skipped " in (said := capsys.readouterr().err) and "broken.mp4: " in said


def test_a_video_that_breaks_off_keeps_what_came_before(grey, capsys):
    """The header promises 120 frames, the file holds about half of them."""
    whole = _draw(grey / "whole.mp4", 120, image=_noise, faststart=True)
    (grey / "in/walk.mp4").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    boxes = _boxes(grey / "b.csv", [("walk", i, 60, 30, 90, 100, "ann") for i in range(120)])
    assert _run(VIDEO, grey, f"boxes={boxes}", "size=64") == 1
    said, warned = capsys.readouterr()
    assert "lie past its last frame" in warned.split("warning: skipped ")[-1]
    assert "it breaks off: its header promises 12.00 s" in warned
    clips = _clips(grey / "out")
    assert 3 <= len(clips) < 10 and f"{len(clips)} of {len(clips)} clips" in said
    for meta, images in clips.values():
        assert len(images) >= 2
        for crop, image in zip(meta["crops"], images, strict=True):
            drawn = _noise(round(crop["time_s"] * 10))[40:90, 60:90].mean((0, 1))[::-1]
            assert np.abs(image[14:50, 22:44].mean((0, 1)) - drawn).max() < 20


def _noise(i):
    """Large random blobs: an encoder cannot make all frames small, and a frame differs from its
    neighbours."""
    coarse = np.random.default_rng(i).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    coarse[1:3, 1:3] = coarse[1, 1]
    return cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST)


def test_frames_come_in_order_and_only_those(grey):
    video = open_video(str(grey / "in/walk.mp4"))
    assert (video.count, video.width, video.height) == (40, WIDTH, HEIGHT)
    assert video.fps == pytest.approx(10) and np.allclose(video.times, np.arange(40) / 10)
    got = list(video.get([30, 3, 3, 39]))
    assert [i for i, _ in got] == [3, 30, 39]
    for i, image in got:
        assert image.shape == (HEIGHT, WIDTH, 3) and image.dtype == np.uint8
        assert abs(image.mean() - 5 * i) < 2.4
    with pytest.raises(Unreadable, match="frame 40 is none of its 40 frames"):
        list(video.get([39, 40]))


def test_a_dead_process_is_an_answer():
    first, second = spread_isolated(os._exit, [3, 4], 2)
    assert isinstance(first, Died) and "exit code 3" in str(first) and "exit code 4" in str(second)
    assert list(spread_isolated(len, ["a", "bb", "ccc"], 2)) == [1, 2, 3]
    with pytest.raises(RuntimeError, match="TypeError"):
        list(spread_isolated(len, [1], 1))


BAD_BOXES = [
    ("walk,0,60,30,90,x", r"b.csv:2: y1=x is not a number"),
    ("walk,0,60,30,90", r"b.csv:2: no 'y1'"),
    ("walk,0,60,30,90,100,ann,7", r"b.csv:2: more values than the 7 columns"),
    ("walk,0,90,30,60,100", r"b.csv:2: the box \[90, 30, 60, 100\] has no area"),
    ("walk,0,260,30,290,100", r"b.csv:2: the box .* lies outside the image of 160x128"),
    (
        "walk,0,1,1,9,9\nwalk,0,1,1,9,9",
        r"b.csv:3: a second box for frame 0 of walk; the first is at .*b.csv:2",
    ),
    ("walk,1.5,60,30,90,100", r"b.csv:2: frame 1.5 is not a whole number"),
    ("walk,40,60,30,90,100", r"b.csv lists nobody in the videos of .*: walk"),
    ("", r"b.csv lists nobody in the videos of .*: walk"),
    ("run,0,60,30,90,100", r"b.csv lists nobody in the videos of .*: walk"),
    ("walk,0,60,30,90,100", r"no clip can be cut"),
]


@pytest.mark.parametrize(("row", "message"), BAD_BOXES)
def test_bad_boxes_are_one_line(grey, row, message):
    (grey / "b.csv").write_text("video,frame,x0,y0,x1,y1,person\n" + row + "\n")
    with pytest.raises(UserError, match=message) as error:
        _run(VIDEO, grey, f"boxes={grey / 'b.csv'}")
    assert "\n" not in str(error.value)
    assert not (grey / "out").exists()


def test_bad_keys_are_one_line(grey):
    boxes = f"boxes={grey / 'boxes.csv'}"
    (grey / "h.csv").write_text("video,frame,x0,y0\n")
    (grey / "empty").mkdir()
    for arguments, message in (
        (["videos=nowhere", boxes, "out=o"], "videos=nowhere: no such file or folder"),
        ([f"videos={grey / 'empty'}", boxes, "out=o"], "no videos in this folder"),
        ([f"videos={grey / 'in'}", boxes], "out= must be given"),
        (
            [f"videos={grey / 'in'}", boxes, "out=o", "gap_min_s=2"],
            "gap_min_s=2.0 is above gap_max_s=1.0",
        ),
        ([f"videos={grey / 'in'}", boxes, "out=o", "track=t.csv"], "track= is for reader=multicam"),
        (
            [f"videos={grey / 'in'}", f"boxes={grey / 'h.csv'}", "out=o"],
            "h.csv:1: the header has no 'x1'",
        ),
        ([f"videos={grey / 'in'}", "boxes=none.csv", "out=o"], "none.csv: no such file"),
        ([f"videos={grey / 'in'}", "out=o", "reader=multicam"], "needs calibration=FILE"),
    ):
        with pytest.raises(UserError, match=message):
            main([VIDEO, *arguments])


def test_a_missing_file_is_told_before_any_video_is_indexed(grey, monkeypatch):
    monkeypatch.setattr("data.sources.video.probe_videos", None)
    monkeypatch.setattr("data.sources.multicam.views.probe_videos", None)
    here = str(grey / "boxes.csv")
    for reader, key, others in (
        ("video", "boxes", {}),
        ("video", "found", {}),
        ("multicam", "calibration", {}),
        ("multicam", "track", {"calibration": here}),
        ("multicam", "timestamps", {"calibration": here}),
    ):
        keys = [f"{name}={path}" for name, path in {**others, key: "none.txt"}.items()]
        with pytest.raises(UserError, match=f"^{key}=.*none.txt: no such file or folder"):
            _run(VIDEO, grey, f"reader={reader}", *keys)


def test_boxes_from_json_and_filled_gaps(tmp_path):
    entries = [
        {"video": "a.mp4", "frame": f, "x0": f, "y0": 0, "x1": 10 + f, "y1": 20} for f in (0, 4, 14)
    ]
    (tmp_path / "b.json").write_text(json.dumps(entries))
    videos = {"a": named_frames(str(tmp_path / "a.mp4"), 20, (64, 64))}
    boxes = read_detections(str(tmp_path / "b.json"), videos)["a"]["0"]
    filled = fill_gaps(boxes, 4)
    assert list(filled) == [0, 1, 2, 3, 4, 14]
    assert filled[3].box.tolist() == [3, 0, 13, 20]
    assert list(fill_gaps(boxes, 0)) == [0, 4, 14]


def test_instants_keep_to_their_gaps_and_skip_absences():
    cfg = PairsConfig(gap_min_s=0.2, gap_max_s=0.5, stride_s=1.0, instants=3, seed=5)
    times = np.concatenate([np.arange(0, 3, 0.04), np.arange(7, 10, 0.04)])
    clips = list(choose_instants(times, "a", cfg))
    assert [round(times[c[0]]) for c in clips] == [0, 1, 2, 7, 8, 9]
    for clip in clips:
        gaps = np.diff(times[clip])
        assert np.all((gaps > 0.1999) & (gaps < 0.5001))
    assert clips == list(choose_instants(times, "a", cfg))
    assert clips != list(choose_instants(times, "b", cfg))
    assert clips[:3] == list(choose_instants(times[:75], "a", cfg))


def test_boxes_become_squares():
    assert square_around([10, 20, 30, 100], 1.25).box.tolist() == [-30, 10, 70, 110]
    assert share_inside([-10, 0, 10, 10], 100, 100) == 0.5
    assert share_inside([-10, 0, -5, 10], 100, 100) == 0


def _cameras(width=WIDTH):
    """Three cameras 4 m from a person at the origin, and the calibration file's content."""
    entries = []
    for name, angle in (("a", 0.0), ("b", 0.7), ("c", 1.5)):
        centre = np.array([4 * np.sin(angle), -4 * np.cos(angle), 0.2])
        forward = -centre / np.linalg.norm(centre)
        right = np.cross(forward, [0, 0, 1.0])
        right /= np.linalg.norm(right)
        R = np.stack([right, np.cross(forward, right), forward])
        entries.append(
            {
                "name": name,
                "size": [width, HEIGHT],
                "K": [[150, 0, 79.5], [0, 150, 63.5], [0, 0, 1]],
                "distortion": [-0.2, 0.03],
                "R": R.tolist(),
                "t": (-R @ centre).tolist(),
            }
        )
    return {"cameras": entries}


@pytest.fixture
def rig(tmp_path):
    """Three calibrated videos of 24 frames (the last camera has 20)."""
    (tmp_path / "in").mkdir()
    for name, count in (("a", 24), ("b", 24), ("c", 20)):
        _draw(tmp_path / f"in/{name}.mp4", count)
    (tmp_path / "rig.json").write_text(json.dumps(_cameras()))
    return tmp_path


RIG = [
    "calibration_format=opencv",
    "size=64",
    "people=axes",
    "person.height_m=1.2",
    "person.radius_m=0.3",
]


def test_cameras_give_one_instant_and_where_they_are(rig, capsys):
    assert _run(QUALISYS, rig, f"calibration={rig / 'rig.json'}", *RIG) == 0
    said = capsys.readouterr().err
    assert "point nearest all cameras' axes, (0.00, " in said and "the first 20 are taken" in said
    clips = _clips(rig / "out")
    assert len(clips) == 4
    for meta, images in clips.values():
        by_time = defaultdict(list)
        for crop, image in zip(meta["crops"], images, strict=True):
            by_time[crop["time_s"]].append(crop["camera"])
            middle = project(np.zeros(3), crop["K"], crop["Rt"])[0]
            np.testing.assert_allclose(middle, [32, 32], atol=3)
            assert abs(image[24:40, 24:40].mean() - 5 * round(crop["time_s"] * 10)) < 2.4
        assert all(cameras == ["a", "b", "c"] for cameras in by_time.values()) and len(by_time) >= 1


def test_a_camera_on_its_side_gives_upright_crops_that_know_where_they_are(rig):
    calibration = f"calibration={rig / 'rig.json'}"
    assert _run(QUALISYS, rig, calibration, *RIG, f"out={rig / 'flat'}") == 0
    assert _run(QUALISYS, rig, calibration, *RIG, "cameras.b.turn=90") == 0
    flat, turned = _clips(rig / "flat"), _clips(rig / "out")
    point = [0.2, 0.1, 0.3]  # off the axis, so that a wrong turn is seen
    for key, (meta, images) in turned.items():
        for crop, image, before, as_is in zip(
            meta["crops"], images, flat[key][0]["crops"], flat[key][1], strict=True
        ):
            at = project(point, crop["K"], crop["Rt"])[0]
            was = project(point, before["K"], before["Rt"])[0]
            if crop["camera"] != "b":
                np.testing.assert_array_equal(image, as_is)
                continue
            np.testing.assert_allclose(at, [64 - was[1], was[0]], atol=1e-3)
            difference = np.abs(image.astype(int) - np.rot90(as_is, -1).astype(int))
            assert difference.mean() < 2


def test_a_track_and_boxes_place_the_person(rig, capsys):
    (rig / "track.csv").write_text(
        "frame,x_m,y_m,z_m\n" + "".join(f"{i},0.3,0,0.6\n" for i in range(0, 20, 2))
    )
    more = [f"calibration={rig / 'rig.json'}", *RIG, "person.floor_m=-0.6"]
    assert _run(QUALISYS, rig, *more, f"track={rig / 'track.csv'}") == 0
    for meta, _ in _clips(rig / "out").values():
        for crop in meta["crops"]:
            assert round(crop["time_s"] * 10) % 2 == 0
            np.testing.assert_allclose(
                project([0.3, 0, 0], crop["K"], crop["Rt"])[0], [32, 32], atol=3
            )
    with pytest.raises(
        UserError,
        match=r"track.csv: in frame 0 the head is at 0.6 m, not above .* person.floor_m=2",
    ):
        _run(
            QUALISYS,
            rig,
            *more[:-1],
            f"track={rig / 'track.csv'}",
            "person.floor_m=2",
            f"out={rig / 'o2'}",
        )
    rows = [(v, i, 60, 44, 100, 84, "p") for v in "ab" for i in range(20)]
    boxes = _boxes(rig / "boxes.csv", rows)
    assert _run(QUALISYS, rig, *more, f"boxes={boxes}", f"out={rig / 'o3'}") == 0
    meta, _ = next(iter(_clips(rig / "o3").values()))
    assert {c["camera"] for c in meta["crops"]} == {"a", "b"}
    np.testing.assert_allclose(np.ptp(np.array(meta["crops"][0]["box"])[[0, 2]]), 50, atol=1.5)
    assert "% of a box's side" in capsys.readouterr().err


def test_timestamps_say_which_frames_belong_together(rig, tmp_path):
    lines = ["sync_index,cam_id,frame_time"]
    for index in range(18):
        lines += [
            f"{index},{name},{5 + index / 10 + 0.001 * k}"
            for k, name in enumerate("abc")
            if (name, index) != ("b", 2)
        ]
    (rig / "t.csv").write_text("\n".join(lines) + "\n")
    times, frames = read_timestamps(str(rig / "t.csv"))
    assert times[0] == 0 and times[1] == pytest.approx(0.1) and 2 not in frames["b"]
    assert frames["b"][3] == 2 and frames["a"][3] == 3
    assert (
        _run(QUALISYS, rig, f"calibration={rig / 'rig.json'}", f"timestamps={rig / 't.csv'}", *RIG)
        == 0
    )
    for meta, images in _clips(rig / "out").values():
        for crop, image in zip(meta["crops"], images, strict=True):
            index = round(crop["time_s"] * 10)
            assert abs(image[24:40, 24:40].mean() - 5 * frames[crop["camera"]][index]) < 2.4


def test_bad_rigs_are_one_line(rig):
    calibration = f"calibration={rig / 'rig.json'}"
    (rig / "big.json").write_text(json.dumps(_cameras(320)))
    with pytest.raises(
        UserError, match="camera a: the video is 160x128, its calibration is for 320x128"
    ):
        _run(QUALISYS, rig, f"calibration={rig / 'big.json'}", *RIG)
    with pytest.raises(UserError, match=r"cameras.d: .*rig.json has the cameras a, b, c"):
        _run(QUALISYS, rig, calibration, *RIG, "cameras.d.video=a")
    with pytest.raises(UserError, match=r"cameras.a.video=z: .*has the videos a, b, c"):
        _run(QUALISYS, rig, calibration, *RIG, "cameras.a.video=z")
    for name in "ab":
        (rig / f"in/{name}.mp4").rename(rig / f"in/x{name}.mp4")
    with pytest.raises(
        UserError, match=r"1 cameras match a video: .* has a, b, c, .* has c, xa, xb"
    ):
        _run(QUALISYS, rig, calibration, *RIG)
    with pytest.raises(UserError, match=r"cameras.a.turn=45 is none of 0, 90, 180, 270"):
        _run(QUALISYS, rig, calibration, *RIG, "cameras.a.video=xa", "cameras.a.turn=45")
    named = ["cameras.a.video=xa", "cameras.b.video=xb", "cameras.a.offset_x=2"]
    assert _run(QUALISYS, rig, calibration, *RIG, *named) == 0
    meta, _ = next(iter(_clips(rig / "out").values()))
    assert {c["camera"] for c in meta["crops"]} == {"a", "b", "c"}


def test_rates_that_differ_are_refused(rig):
    _draw(rig / "in/c.mp4", 20, fps=25)
    with pytest.raises(UserError, match="10 and 25 frames a second; give timestamps="):
        _run(QUALISYS, rig, f"calibration={rig / 'rig.json'}", *RIG)


def test_juggler(samples, tmp_path):
    boxes = ROOT / "tests/assets/juggle_boxes.csv"
    assert (
        main(
            [
                VIDEO,
                f"videos={samples / 'body_clips/juggle.mp4'}",
                f"boxes={boxes}",
                "fill_gaps_frames=16",
                "stride_s=3",
                "gap_min_s=0.5",
                "gap_max_s=1",
                f"out={tmp_path / 'out'}",
            ]
        )
        == 0
    )
    clips = _clips(tmp_path / "out")
    assert len(clips) == 4
    for _, images in clips.values():
        for image in images:
            warmth = (
                image[..., 2].astype(int) - image[..., 0]
            )  # blue clothes and a white ball against brown and green
            assert np.median(warmth[60:200, 112:144]) < 5
            assert np.median(warmth[140:200, 20:60]) > 15


def test_treadmill_head_is_in_all_crops(samples, tmp_path, capsys):
    take = samples / "treadmill_4cam"
    track = np.loadtxt(take / "head.csv", delimiter=",", skiprows=1)
    assert (
        main(
            [
                QUALISYS,
                f"videos={take}",
                f"calibration={take / 'Calib.qca.txt'}",
                f"track={take / 'head.csv'}",
                "instants=2",
                "stride_s=0.8",
                f"out={tmp_path / 'out'}",
            ]
        )
        == 0
    )
    assert (
        "cam01: the video is 1080x1920, its calibration is for 1088x1920" in capsys.readouterr().err
    )
    clips = _clips(tmp_path / "out")
    assert len(clips) == 3
    for meta, images in clips.values():
        assert [c["camera"] for c in meta["crops"]][:4] == ["cam01", "cam02", "cam03", "cam04"]
        for crop, image in zip(meta["crops"], images, strict=True):
            head = track[round(crop["time_s"] * 60), 1:]
            (x, y), _ = project(head, crop["K"], crop["Rt"])
            hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
            teal = cv2.inRange(hsv, (82, 80, 40), (102, 255, 255))[
                int(y) - 9 : int(y) + 9, int(x) - 9 : int(x) + 9
            ]
            assert (teal > 0).sum() > 20, (crop["camera"], crop["time_s"])


def test_desk_runs_with_videos_and_calibration_alone(samples, tmp_path, capsys):
    take = samples / "desk_4cam"
    assert (
        main(
            [
                CALISCOPE,
                f"videos={take}",
                f"calibration={take / 'camera_array.toml'}",
                "stride_s=5",
                f"timestamps={take / 'timestamps.csv'}",
                "people=axes",
                f"out={tmp_path / 'out'}",
            ]
        )
        == 0
    )
    assert "the point nearest all cameras' axes" in capsys.readouterr().err
    clips = _clips(tmp_path / "out")
    assert len(clips) == 2
    assert all(
        {c["camera"] for c in meta["crops"]} == {"cam_0", "cam_1", "cam_2", "cam_3"}
        for meta, _ in clips.values()
    )
