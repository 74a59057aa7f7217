"""``data pairs`` on videos with no file beside them: the search, its store, and the clips.

A drawn world and a finder that knows it take the networks' place; the real ones have a test at the
end, where they are there."""

import errno
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections import defaultdict
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from data.find import search, store
from data.find.config import FindConfig
from data.find.detection import Detection, HandDetection
from data.find.following import follow_people
from data.find.found import Found, decode_found, encode_found
from data.find.looks import LookWriter
from data.find.quality import LeftOut, choose_bodies, choose_hands
from data.find.search import Run, sample_frames, search_videos
from data.format.clip import decode_masks, decode_meta
from data.format.labels import read_labels
from data.sources import cut, pairs, probe
from data.sources.frames import open_video
from data.sources.index_store import IndexStore
from data.sources.pairs import main
from data.sources.plan import ClipPlan, CropPlan
from data.sources.probe import Problems
from data.tools.work_split import Part
from engine.errors import EnvironmentFault, Failure, UserError
from tests.fake_finder import BLUE, RED, SIZE, FakeFinder, draw_scene, open_fake_finder

ROOT = Path(__file__).resolve().parent.parent
VIDEO = str(ROOT / "configs/data/video.yaml")
RATE = 25
EASY = ("find.hand_min_px=8", "find.box_min_px=32", "size=64")


def _write(path, images):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=RATE)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = *SIZE, "yuv420p", 4_000_000
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def _crossing(count=75, seed=0):
    """Red walks to the right, behind blue, who walks to the left."""
    for i in range(count):
        yield draw_scene([(40 + 3.2 * i, RED), (280 - 3.2 * i, BLUE)], seed)


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A folder with one video of two people, and the drawn finder; all in this process."""
    for module in (search, probe, pairs):
        monkeypatch.setattr(module, "spread_isolated", lambda f, pieces, workers: map(f, pieces))
    for module in (search, cut):
        monkeypatch.setattr(module, "open_finder", open_fake_finder)
    _write(tmp_path / "in/street/cross.mp4", _crossing())
    return tmp_path


def _run(folder, *more, out="out"):
    return main([VIDEO, f"videos={folder / 'in'}", f"out={folder / out}", *EASY, *more])


def _read(folder):
    """[(clip, its images as RGB)] of the shards of a folder."""
    members = defaultdict(dict)
    for tar in sorted(Path(folder).glob("*.tar")):
        with tarfile.open(tar) as file:
            for member in file:
                key, suffix = member.name.split(".", 1)
                members[key][suffix] = file.extractfile(member).read()
    out = []
    for key, files in members.items():
        clip = decode_meta(files["json"], key)
        clip.key = key
        if "masks.bin" in files:
            clip.masks = decode_masks(files["masks.bin"], len(clip.crops))
        clip.labels = read_labels(files["labels.npz"], len(clip.crops))
        jpegs = [files[suffix] for suffix in sorted(files) if suffix.endswith("jpg")]
        images = [cv2.imdecode(np.frombuffer(data, np.uint8), 1)[..., ::-1] for data in jpegs]
        out.append((clip, images))
    return out


def _bytes(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*.tar"))}


def test_a_video_alone_gives_clips_with_outlines_and_keypoints(world, capsys):
    assert _run(world) == 0
    clips = _read(world / "out")
    assert {clip.subject for clip, _ in clips} == {
        "video/street/cross/0",
        "video/street/cross/1",
    }
    for clip, images in clips:
        assert clip.key.startswith("street_cross-") and len(images) >= 2
        red = clip.subject.endswith("0")  # the one who is on the left first
        for place, (crop, image) in enumerate(zip(clip.crops, images, strict=True)):
            assert crop.kind == "body"
            frame = crop.time_s * RATE
            middle = (crop.box[0] + crop.box[2]) / 2
            # While they cross, the one behind is seen in part.
            slack = 30 if red and abs(frame - 37.5) < 8 else 4
            assert abs(middle - (40 + 3.2 * frame if red else 280 - 3.2 * frame)) < slack
            inside = image[clip.masks[place]].mean(0)
            assert inside[0 if red else 2] > inside[2 if red else 0] + 60
            points = clip.labels.keypoints
            assert points.joint_set == "coco17"
            assert abs(points.points[place, 5:7].mean(0)[0] - 32) < 2
    assert "found 2 people in 1 videos" in capsys.readouterr().err


def test_hands_become_clips_of_their_side(world):
    assert _run(world, "kind=all") == 0
    clips = _read(world / "out")
    assert {clip.crops[0].kind for clip, _ in clips} == {"body", "right_hand"}
    for clip, images in clips:
        if clip.crops[0].kind == "right_hand":
            assert clip.masks is None and clip.labels.keypoints.joint_set == "hand21"
            assert all(image[28:36, 28:36].min() > 150 for image in images)
    with pytest.raises(UserError, match="no clip can be cut"):
        _run(world, "kind=left_hand", out="left")


def test_a_kill_in_the_search_changes_no_byte(world, monkeypatch):
    monkeypatch.setattr(search, "PIECE_FRAMES", 8)
    monkeypatch.setattr(search, "BATCH_FRAMES", 8)
    assert _run(world, "kind=all") == 0
    whole = (world / "out/found/street/cross.json").read_bytes()

    class Killed(BaseException):
        pass

    keep, left = store.Store.save_piece, [2]

    def save(*arguments):
        if not left[0]:
            raise Killed
        left[0] -= 1
        keep(*arguments)

    monkeypatch.setattr(store.Store, "save_piece", save)
    with pytest.raises(Killed):
        _run(world, "kind=all", out="again")
    pieces = sorted(p.name for p in (world / "again/found/street").iterdir())
    assert len(pieces) == 2
    left[0] = 99
    assert _run(world, "kind=all", out="again") == 0
    assert left[0] == 99 - (4 - 2)  # the lacking pieces alone
    assert (world / "again/found/street/cross.json").read_bytes() == whole
    assert _bytes(world / "again") == _bytes(world / "out")
    assert [p.name for p in (world / "again/found/street").iterdir()] == ["cross.json"]


def test_a_search_is_kept_and_used_again(world, monkeypatch):
    assert _run(world) == 0

    def refuse(*arguments):
        raise AssertionError("searched again")

    monkeypatch.setattr(search, "open_finder", refuse)
    assert _run(world) == 0
    assert _run(world, f"found={world / 'out'}", "stride_s=0.5", out="other") == 0
    with pytest.raises(AssertionError):  # other keys of the search
        _run(world, f"found={world / 'out'}", "find.rate_hz=5", out="third")


def test_a_video_is_indexed_once(world, monkeypatch):
    assert _run(world) == 0
    (path,) = (world / "out/found/.frames").iterdir()
    video = str(world / "in/street/cross.mp4")
    kept, fresh = IndexStore(str(path.parent)).load(video), open_video(video)
    for name in ("times", "pts", "marks", "keys"):
        np.testing.assert_array_equal(getattr(kept.index, name), getattr(fresh.index, name))
    for name in ("start_s", "width", "height", "upright", "said"):
        assert getattr(kept.index, name) == getattr(fresh.index, name)
    path.write_bytes(path.read_bytes()[:-30])
    assert IndexStore(str(path.parent)).load(video) is None
    assert _run(world) == 0  # indexed again
    monkeypatch.setattr(probe, "open_video", None)  # not asked any more
    assert _run(world, f"found={world / 'out'}", "stride_s=0.7", out="other") == 0


def test_parts_of_an_array_make_the_whole(world):
    _write(world / "in/b.mp4", _crossing(50, seed=3))
    whole = _run(world, "clips_per_shard=2")
    parts = [_run(world, "clips_per_shard=2", f"part={k}/3", out="parts") for k in (1, 2, 3)]
    assert [whole, *parts] == [0, 0, 0, 0]
    assert _bytes(world / "parts") == _bytes(world / "out")


def test_a_cut_makes_other_people(world):
    _write(world / "in/street/cross.mp4", [*_crossing(30), *_crossing(30, seed=9)])
    found = _search(world)
    assert found.cuts == [30]
    assert sorted(len(track) for track in found.tracks.values()) == [12, 12, 12, 12]


def test_still_frames_are_not_searched(world, capsys):
    first = next(_crossing())
    _write(world / "in/street/cross.mp4", [*[first] * 50, *_crossing(50)])
    found = _search(world)
    assert found.still >= 18 and all(len(track) < 25 for track in found.tracks.values())
    assert _run(world) == 0
    assert "frames repeat others" in capsys.readouterr().err


def test_nobody_in_any_video_is_said(world):
    _write(world / "in/street/cross.mp4", [draw_scene([], 2)] * 20)
    with pytest.raises(UserError, match=r"nobody was found in videos=.*find\.score_min"):
        _run(world)
    _write(world / "in/street/cross.mp4", _crossing())
    assert _run(world) == 0  # the folder is not spoilt


def test_a_broken_video_is_skipped_and_told(world, capsys):
    (world / "in/broken.mp4").write_bytes(b"no video at all")
    assert _run(world) == 1
    assert "broken.mp4" in capsys.readouterr().err
    assert _read(world / "out")


def test_a_folder_that_cannot_be_written_is_one_sentence(world):
    (world / "out").mkdir()
    (world / "out/found").write_text("a file where the search wants a folder")
    with pytest.raises(Failure, match=r"found.*cannot be written"):
        _run(world)


def test_a_full_disk_is_one_sentence(world, monkeypatch):
    def refuse(path, **keys):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store, "replace_file", refuse)
    with pytest.raises(EnvironmentFault, match=r"cross\.json.*cannot be written"):
        _run(world)


def test_missing_networks_are_said_before_any_search(world, monkeypatch):
    def lacking(masks, hands, tiles):
        raise UserError("run `counterpose data models`")

    monkeypatch.setattr(search, "open_finder", lacking)
    with pytest.raises(UserError, match="data models"):
        _run(world)
    assert not (world / "out").exists()


def _search(world, **keys):
    video = open_video(str(world / "in/street/cross.mp4"))
    options = FindConfig(**keys)
    run, problems = Run(str(world / "kept")), Problems()
    return search_videos({"cross": video}, options, False, run, problems)["cross"]


def test_other_bytes_are_searched_anew(world):
    assert len(_search(world).tracks) == 2
    _write(world / "in/street/cross.mp4", [draw_scene([(50 + i, RED)]) for i in range(50)])
    assert len(_search(world).tracks) == 1


def test_damaged_files_are_searched_anew(world):
    before = _search(world)
    path = world / "kept/found/cross.json"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert len(_search(world).tracks) == len(before.tracks)
    assert path.read_bytes() == whole


def test_every_slot_of_time_has_one_frame():
    times = np.array([0, 0.04, 0.11, 0.12, 0.5, 0.51, 0.95, 1.0])
    assert sample_frames(times, 10) == [0, 2, 4, 6, 7]
    assert sample_frames(np.arange(50) / 25, 25) == list(range(50))
    assert sample_frames(np.zeros(0), 10) == []


def test_what_is_found_survives_its_file():
    hand = HandDetection("left", np.array([1.0, 2, 3, 4]), 0.5, np.ones((21, 3)) / 2)
    one = Detection(np.array([0.0, 1, 2, 3]), 0.25, np.ones((17, 3)) / 4, hands={"left": hand})
    found = Found({"0": {3: one}}, {"0": {3: 0.5}}, {"0": {3: {"left": 0.25}}}, 7, 2, [5], "why")
    data = encode_found(found, "d")
    assert encode_found(decode_found(data, "d"), "d") == data
    assert decode_found(data, "other") is None and decode_found(data[:-1], "d") is None
    assert json.loads(data)["people"]["0"]["frames"]["3"]["left"]["score"] == 0.5


def test_small_cut_off_and_blurred_people_are_left_out_and_counted():
    points = np.column_stack([np.zeros((17, 2)), np.full(17, 0.9)])
    few = points.copy()
    few[4:, 2] = 0
    large = np.array([0.0, 0, 50, 100])
    track = {
        0: Detection(large, 1, points),
        1: Detection(large / 4, 1, points),
        2: Detection(large, 1, few),
        3: Detection(large, 1, points),
    }
    found = Found({"0": track}, {"0": {0: 1.0, 1: 1.0, 2: 1.0, 3: 0.2}})
    left_out = LeftOut.nothing()
    assert list(choose_bodies(found, "0", FindConfig(), left_out)) == [0]
    said = left_out.describe(FindConfig())
    assert "of 4 sightings left out" in said
    for words in ("1 small (find.box_min_px=64)", "1 cut off (find.keypoints_min=6)", "1 blurred"):
        assert words in said


def test_a_box_of_two_people_is_left_out():
    points = np.column_stack([np.zeros((17, 2)), np.full(17, 0.9)])
    tall, both = np.array([0.0, 20, 50, 120]), np.array([0.0, 0, 60, 130])
    track = {f: Detection(both if f == 6 else tall, 1, points) for f in range(12)}
    other = {f: Detection(np.array([20.0, 0, 60, 110]), 1, points) for f in range(5)}
    alone = Found({"0": track}, {"0": dict.fromkeys(range(12), 1.0)})
    beside = Found({"0": track, "1": other}, {"0": dict.fromkeys(range(12), 1.0)})
    assert len(choose_bodies(alone, "0", FindConfig(), LeftOut.nothing())) == 12
    left_out = LeftOut.nothing()
    assert 6 not in choose_bodies(beside, "0", FindConfig(), left_out)
    assert left_out.reasons == {"merged with another": 1}


def test_doubtful_and_small_hands_are_left_out():
    hands = [
        HandDetection("left", np.array([0, 0, size, size]), s)
        for size, s in ((40, 0.9), (40, 0.7), (20, 0.9))
    ]
    track = {
        f: Detection(np.array([0, 0, 99.0, 99]), hands={"left": h}) for f, h in enumerate(hands)
    }
    sharp = {f: {"left": 1.0} for f in track}
    found, left_out = Found({"0": track}, {}, {"0": sharp}), LeftOut.nothing()
    assert list(choose_hands(found, "0", "left", FindConfig(), left_out)) == [0]
    assert left_out.reasons == {"small hands": 1, "doubtful hands": 1}


def _looks(frames):
    """Looks of people and hands: per frame ([(box, {side: x})], [(side, x)])."""
    writer = LookWriter(open_fake_finder(False, True, False), False, 0.0)
    plain = np.zeros((8, 8, 3), np.uint8)
    for number, (people, loose) in enumerate(frames):
        writer.note(number, people, loose, plain)
    return writer.finish()


def _hand(side, x):
    return HandDetection(side, np.array([x, 50, x + 10, 60.0]), 0.9, np.ones((21, 3)))


def _body(**hands):
    points = np.column_stack([np.full((17, 2), 60.0), np.full(17, 0.9)])
    made = {side: _hand(side, x) for side, x in hands.items()}
    return Detection(np.array([0, 0, 130, 100.0]), 0.9, points, hands=made)


def _follow(frames):
    times = np.arange(len(frames)) / 10
    return follow_people(_looks(frames), times, FindConfig())


def _sides(track):
    return [{side: float(h.box[0]) for side, h in one.hands.items()} for one in track.values()]


def test_exchanged_wrists_get_their_sides_back():
    right_way, exchanged = ([_body(left=100, right=20)], []), ([_body(left=20, right=100)], [])
    found = _follow([right_way] * 4 + [exchanged] + [right_way] * 4)
    assert _sides(found.tracks["0"]) == [{"left": 100, "right": 20}] * 9


def test_a_hand_without_a_wrist_is_the_person_s_around_it():
    """The wrist says left once, the hand's own network right all the time."""
    seen = [([_body()], [_hand("right", 40 + i)]) for i in range(8)]
    seen[3] = ([_body(left=43)], [])
    found = _follow(seen)
    assert list(found.tracks) == ["0"]
    assert _sides(found.tracks["0"]) == [{"right": 40 + i} for i in range(8)]


def test_a_hand_of_nobody_has_a_name_of_its_own():
    found = _follow([([_body(right=20)], [_hand("left", 300)])] * 6)
    assert list(found.tracks) == ["0", "hand0"]
    assert found.tracks["hand0"][0].joint_set == "hand21"
    assert _sides(found.tracks["hand0"]) == [{"left": 300}] * 6


def test_own_part_of_the_videos_alone(world):
    videos = {n: open_video(str(world / "in/street/cross.mp4")) for n in "abc"}
    run = Run(str(world / "kept"), part=Part(1, 2), own_alone=True)
    assert list(search_videos(videos, FindConfig(), False, run, Problems())) == ["b"]


def test_the_search_alone_is_taken_over_by_the_cutting(world, monkeypatch, capsys):
    from data.find.command import main as find

    _write(world / "in/b.mp4", _crossing(50, seed=3))
    where = [f"videos={world / 'in'}", f"out={world / 'parts'}", "find.box_min_px=32"]
    assert find([*where, "part=1/2"]) == 0
    assert "2 people in 1 of 2 videos" in capsys.readouterr().out
    assert find([*where, "part=2/2"]) == 0
    assert "4 people in 2 of 2 videos" in capsys.readouterr().out
    rows = json.loads((world / "parts/detections.json").read_text())
    assert {row["video"] for row in rows} == {"b", "street/cross"}
    assert len(rows[0]["keypoints"]) == 51 and rows[0]["x0"] < rows[0]["x1"]
    boxes = f"boxes={world / 'parts/detections.json'}"
    assert _run(world, boxes, "find.masks=true", out="by_file") == 0
    for clip, _ in _read(world / "by_file"):
        assert clip.masks is not None and clip.labels.keypoints.joint_set == "coco17"
    assert _run(world) == 0
    monkeypatch.setattr(search, "open_finder", None)  # not asked again
    assert _run(world, out="parts") == 0
    assert _bytes(world / "parts") == _bytes(world / "out")


def test_parts_that_end_together_lose_nobody(world, monkeypatch):
    from data.find import command

    _write(world / "in/b.mp4", _crossing(50, seed=3))
    where = [f"videos={world / 'in'}", f"out={world / 'parts'}", "find.box_min_px=32"]
    write = command._write

    def meanwhile(path, found):
        monkeypatch.setattr(command, "_write", write)
        assert command.main([*where, "part=2/2"]) == 0
        write(path, found)

    monkeypatch.setattr(command, "_write", meanwhile)
    assert command.main([*where, "part=1/2"]) == 0
    rows = json.loads((world / "parts/detections.json").read_text())
    assert {row["video"] for row in rows} == {"b", "street/cross"}


def test_a_cluster_learns_of_the_search():
    from data.describe import describe_find

    job = describe_find(["videos=in", "out=found", "find.rate_hz=5"])
    assert (job.folder, job.config["find.rate_hz"], job.faults) == ("found", 5, [])
    with pytest.raises(UserError, match="out= must be given"):
        describe_find(["videos=in"])


def test_real_networks_find_a_man_who_juggles(tmp_path, samples):
    pytest.importorskip("ai_edge_litert")
    from data.find.models import NETWORKS, network_path

    if not all(network_path(network).is_file() for network in NETWORKS):
        pytest.skip("the networks are not in the cache: counterpose data models")
    options = FindConfig(rate_hz=2, tiles=False)
    found = search.find_tracks(open_video(str(samples / "body_clips/juggle.mp4")), options)
    assert list(found.tracks) == ["0"] and len(found.tracks["0"]) >= 19


PROGRAM = """
import sys
from tests.fake_finder import open_fake_finder
from data.find import search
from data.sources import cut, pairs
search.PIECE_FRAMES = search.BATCH_FRAMES = 8
search.open_finder = cut.open_finder = open_fake_finder
if __name__ == "__main__":
    sys.exit(pairs.main(sys.argv[1:]))
"""


@pytest.mark.long
def test_kill_minus_nine_and_any_number_of_processes_give_the_same_bytes(tmp_path):
    """Killed in the search and in the cutting, then by two at once; and by one in peace."""
    _write(tmp_path / "in/street/cross.mp4", _crossing())
    _write(tmp_path / "in/b.mp4", _crossing(60, seed=3))
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)

    def start(out, workers):
        keys = [f"videos={tmp_path / 'in'}", f"out={tmp_path / out}", f"workers={workers}"]
        line = [sys.executable, str(program), VIDEO, *keys, *EASY, "kind=all", "clips_per_shard=2"]
        return subprocess.Popen(
            line,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def kill_once(pattern):
        process = start("killed", 3)
        while process.poll() is None and not list((tmp_path / "killed").rglob(pattern)):
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL

    assert start("whole", 1).wait() == 0
    kill_once("*.npz")
    kill_once("*.tar")
    both = [start("killed", 3), start("killed", 2)]  # two commands in one folder
    assert [process.wait() for process in both] == [0, 0]
    assert _bytes(tmp_path / "killed") == _bytes(tmp_path / "whole")
    searched = [sorted((tmp_path / out / "found").rglob("*")) for out in ("killed", "whole")]
    assert [p.name for p in searched[0]] == [p.name for p in searched[1]]
    for a, b in zip(*searched, strict=True):
        assert a.is_dir() or a.read_bytes() == b.read_bytes()


class CountingFinder(FakeFinder):
    """Counts the outlines that it is asked for."""

    def __init__(self):
        self.asked = 0

    def find_mask(self, image, person, others=()):
        self.asked += 1
        return super().find_mask(image, person, others)


class StillFrames:
    """One image, as frames of a video."""

    decoder = "av"

    def get(self, frames):
        return [(frame, draw_scene([(100 + frame, RED), (220, BLUE)])) for frame in sorted(frames)]


def test_an_outline_that_several_clips_show_is_found_once():
    finder, people = CountingFinder(), {}
    for frame, image in StillFrames().get(range(4)):
        people[frame] = finder.find_people(image)

    def plan(key, person, frames):
        crops = []
        for frame in frames:
            mine, other = people[frame][person], people[frame][1 - person]
            square = np.array([mine.box[0] - 20, 20, mine.box[0] + 130, 170], np.float64)
            crops.append(CropPlan("v", frame, "a", float(frame), square, None, mine, 0, [other]))
        return ClipPlan(key, f"s{person}", crops)

    style = cut.Style(32, 90, "x", "CC0-1.0", "body", opener=lambda *asked: finder)
    plans = [plan("a", 0, (0, 1)), plan("b", 0, (1, 2)), plan("c", 1, (1, 2)), plan("d", 0, (0, 1))]
    clips, failed = cut.cut_clips((plans, {"v": StillFrames()}, style))
    assert not failed and finder.asked == 3 + 2  # frames of red, frames of blue
    for clip, one in zip(clips, plans, strict=True):
        (alone,), _ = cut.cut_clips(([one], {"v": StillFrames()}, style))
        assert clip.masks.any() and (clip.masks == alone.masks).all()
        assert clip.jpegs == alone.jpegs
