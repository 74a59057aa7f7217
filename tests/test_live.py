"""``predict camera=``: the newest frame, who is followed, the page, and what ends it."""

import http.client
import json
import re
import threading
import urllib.request
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest
from networks import make_run

from data.sources.frames import open_video
from engine.errors import EnvironmentFault, UserError
from finetune import predict
from finetune.__main__ import main
from finetune.inference.predictor import Predictor
from finetune.inference.search import Region
from finetune.live import command, follow
from finetune.live.capture import Capture, Frame
from finetune.live.drawing import Answer, draw_answer
from finetune.live.follow import Follower
from finetune.live.newest import Newest
from finetune.live.page import Page
from finetune.live.searching import Searched, find_all
from tests.fake_finder import BLUE, RED, SIZE, FakeFinder, draw_scene, open_fake_finder

COUNT = 24
STEPS = 8


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A video of two people who walk towards each other, as long as a second."""
    path = tmp_path_factory.mktemp("live") / "two.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=24)
        video.width, video.height, video.pix_fmt, video.bit_rate = *SIZE, "yuv420p", 4_000_000
        for number in range(COUNT):
            image = draw_scene([(60 + 2 * number, RED), (250 - 2 * number, BLUE)])
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode())
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "body", "body", "margin=1.35")


def test_the_newest_replaces_what_nobody_took():
    box = Newest()
    assert box.take(0, 0.0) is None
    for item in "abc":
        box.put(item)
    assert box.take(0, 0.0) == (3, "c") and box.take(3, 0.0) is None
    box.close()
    assert box.take(2, 9.0) == (3, "c") and box.take(3, 9.0) is None and box.is_closed


def test_a_file_is_played_and_late_frames_are_dropped(clip):
    whole = dict(open_video(str(clip)).get(range(COUNT)))
    capture = Capture(str(clip))
    assert capture.size == SIZE
    capture.start(lambda image: image[:, ::-1])
    seen, taken = [], 0
    while (newer := capture.newest.take(taken, 20.0)) is not None:
        taken, frame = newer
        seen.append(frame.number)
        off = frame.image[:, ::-1].astype(int) - whole[frame.number]
        assert np.abs(off).mean() < 3, frame.number
        np.sort(np.random.default_rng(0).random(900_000))  # others come meanwhile
    capture.stop()
    assert seen == sorted(set(seen)) and 2 <= len(seen) <= COUNT and capture.fault == ""


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("97", "camera=97: no camera of that number opens"),
        ("no/such.mp4", "camera=no/such.mp4: no video opens by that path"),
        ("rtsp://127.0.0.1:9/x", "camera=rtsp://127.0.0.1:9/x: nothing answers there"),
    ],
)
def test_what_does_not_open_is_told_in_a_sentence(source, words):
    with pytest.raises(UserError, match=re.escape(words)):
        Capture(source)


def make_person(box):
    """What Follower asks of a Person: points that fill a box, a metre away."""
    x0, y0, x1, y1 = box
    points = np.array([[x0, y0, 1.0], [x1, y1, 1.0]])
    return SimpleNamespace(vertices=points, intrinsics=np.eye(3), box=np.array(box))


def region(*box, points=None):
    return Region(np.array(box, float), keypoints=points)


def test_boxes_go_with_the_meshes_and_searches_set_them_right():
    follower = Follower()
    points = np.array([[15.0, 30, 1]])
    follower.correct(0, 0.0, {"body": [(region(10, 20, 30, 60, points=points), 0.9)]})
    (one,) = follower.list_people("body", 0.0)
    # The mesh is half as wide and reaches from the box's middle to its right side.
    follower.move(0, [one], [make_person([20, 20, 30, 60])])
    assert one.region.box == pytest.approx([10, 20, 30, 60])
    follower.move(1, [one], [make_person([25, 20, 35, 60])])
    assert one.region.box == pytest.approx([15, 20, 35, 60])
    assert one.region.keypoints[0] == pytest.approx([20, 30, 1])
    # Nearer: twice as large.
    follower.move(2, [one], [make_person([20, 20, 40, 100])])
    assert one.region.box == pytest.approx([0, 20, 40, 100])
    # A search of frame 1 comes late: half a mesh to the left of where it was thought to be.
    follower.correct(1, 0.2, {"body": [(region(10, 20, 30, 60), 0.8)]})
    assert one.region.box == pytest.approx([-10, 20, 30, 100]) and one.score == 0.8
    # One of the frame that comes next is taken as it is.
    follower.correct(3, 0.3, {"body": [(region(5, 18, 42, 98), 0.7)]})
    assert one.region.box.tolist() == [5, 18, 42, 98] and len(follower.people) == 1


def test_who_is_not_found_twice_is_gone_and_strangers_are_new():
    follower = Follower()
    near, far = region(10, 20, 30, 60), region(200, 20, 220, 60)
    follower.correct(0, 0.0, {"body": [(near, 0.9), (far, 0.8)]})
    assert [one.number for one in follower.people] == [0, 1]
    follower.correct(3, 0.1, {"body": [(far, 0.8)]})
    assert len(follower.people) == 2
    follower.correct(6, 0.2, {"body": [(region(205, 20, 225, 60), 0.8)]})
    assert [one.number for one in follower.people] == [1]
    follower.correct(9, 0.3, {"body": [(far, 0.8), (region(100, 20, 120, 60), 0.6)]})
    assert [one.number for one in follower.people] == [1, 2]
    left, right = (Region(near.box, side) for side in ("left", "right"))
    follower.correct(9, 0.3, {"hand": [(left, 0.9)]})
    follower.correct(12, 0.4, {"hand": [(right, 0.9)]})
    assert [one.region.side for one in follower.people if one.kind == "hand"] == ["left"]


def test_old_keypoints_are_no_longer_given():
    follower = Follower()
    points = np.array([[15.0, 30, 1]])
    follower.correct(0, 0.0, {"body": [(region(10, 20, 30, 60, points=points), 0.9)]})
    assert follower.list_people("body", follow.PROMPT_S / 2)[0].region.keypoints is not None
    assert follower.list_people("body", follow.PROMPT_S * 2)[0].region.keypoints is None


def ask(page, path, host=None):
    port = int(page.address.rsplit(":", 1)[1].strip("/"))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", path, headers={"Host": host} if host else {})
    return connection.getresponse()


def test_the_page_is_for_this_machine_alone():
    jpegs = Newest()
    page = Page(0, "a <camera>", jpegs, lambda: {"fps": 3.0})
    page.start()
    try:
        text = ask(page, "/").read().decode()
        assert "a &lt;camera&gt;" in text and "http" not in text.replace("http-equiv", "")
        assert json.loads(ask(page, "/facts").read()) == {"fps": 3.0}
        assert ask(page, "/", "elsewhere.example").status == 403
        assert ask(page, "/../setup.py").status == 404
        jpegs.put(b"first image")
        answer = ask(page, "/stream")
        assert answer.getheader("Cross-Origin-Resource-Policy") == "same-origin"
        mark = re.search("boundary=(.*)", answer.getheader("Content-Type"))[1]
        wanted = f"--{mark}\r\nContent-Type: image/jpeg\r\nContent-Length: 11\r\n\r\nfirst image"
        assert answer.read(len(wanted)).decode() == wanted
        with pytest.raises(UserError, match="live.port=.* cannot be used"):
            Page(int(page.address.rsplit(":", 1)[1].strip("/")), "", jpegs, dict)
    finally:
        jpegs.close()
        page.stop()
    with pytest.raises(OSError):
        urllib.request.urlopen(page.address, timeout=5)


def live(run, source, *more):
    words = [f"camera={source}", f"run={run}", "live.port=0", "device=cpu", "live.size_px=96"]
    return main(["predict", *words, *more])


def test_the_rate_is_drawn_on_what_is_shown():
    frame = Frame(0, 0.0, np.full((180, 320, 3), 90, np.uint8))
    plain, told = (draw_answer(Answer(frame, [], []), 160, words) for words in ("", "7.5 frames"))
    assert plain.shape == (90, 160, 3) and (plain == 90).all()
    changed = (told != plain).any(2)
    assert changed[:26].sum() > 100 and not changed[26:].any() and told.max() == 255


class Steps:
    """Stands for a Capture and a Searcher that wait for each other: every frame is searched."""

    def __init__(self, source):
        self.size, self.fault, self.is_camera, self.is_stream = SIZE, None, False, False
        self.frames = [Frame(n, n / 24, image) for n, image in open_video(source).get(range(STEPS))]
        self.newest = self.answers = self
        self.is_closed, self.gap_s, self.busy_s, self.count = False, 0.0, 0.0, 0

    def start(self, correct=None):
        pass

    def stop(self):
        self.is_closed = True

    def take(self, after, timeout_s):
        if timeout_s == 0:  # what the loop asks a searcher
            frame = self.frames[self.count - 1]
            found = find_all(open_fake_finder(False, False, False), frame.image, ["body"], 0.3)
            return self.count, Searched(frame, found)
        if self.count == STEPS:
            self.is_closed = True
            return None
        self.count += 1
        return self.count, self.frames[self.count - 1]


def test_what_a_camera_sees_is_recorded_as_videos_are(clip, run, tmp_path, monkeypatch, capsys):
    steps = Steps(str(clip))
    monkeypatch.setattr(command, "open_finder", open_fake_finder)
    monkeypatch.setattr(predict, "Capture", lambda source: steps)
    monkeypatch.setattr(command, "Searcher", lambda *words: steps)
    monkeypatch.chdir(tmp_path)
    steps.count = STEPS - 2
    assert live(run, clip) == 0
    assert list(tmp_path.iterdir()) == []  # nothing is kept unasked
    steps.count = 0
    assert live(run, clip, "out=out", "video.smooth=none") == 0
    predictor = Predictor(run, "cpu")
    with np.load(tmp_path / "out" / "two.npz") as arrays:
        about = json.loads(str(arrays["about"]))
        assert [one["name"] for one in about["tracks"]] == ["body-1", "body-2"]
        assert arrays["body-2/frames"].tolist() == list(range(STEPS))
        assert arrays["times"] == pytest.approx(np.arange(STEPS) / 24)
        box = arrays["body-1/box"][5]
        assert box == pytest.approx([60 + 10 - 22, 30, 60 + 10 + 22, 160], abs=2)
        regions = find_all(FakeFinder(), steps.frames[5].image, ["body"], 0.3)["body"]
        place = min(regions, key=lambda one: one[0].box[0])[0]
        (alone,) = predictor(steps.frames[5].image, [place.box], keypoints=[place.keypoints])
        assert np.allclose(arrays["body-1/pose"][5], alone.pose, atol=1e-5)
    assert (tmp_path / "out" / "two.json").exists()
    told = capsys.readouterr().out
    assert "page: http://127.0.0.1:" in told and "frames in" in told


def test_a_hand_that_does_not_fit_its_body_is_nobody():
    bodies = [np.array([100.0, 20, 140, 120])]
    assert command.lies_on(np.array([92.0, 60, 104, 72]), bodies)
    assert not command.lies_on(np.array([20.0, 60, 32, 72]), bodies)
    assert not command.lies_on(np.array([92.0, 60, 104, 72]), [])


class Camera:
    """Stands for a camera that gives some images and then no more."""

    def __init__(self, *source):
        self.left = 6

    def isOpened(self):  # noqa: N802
        return True

    def set(self, *value):
        return False

    def release(self):
        pass

    def read(self):
        self.left -= 1
        image = draw_scene([(60, RED)])[..., ::-1]
        return (True, image) if self.left >= 0 else (False, None)


def test_a_camera_that_stops_is_told(run, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "open_finder", open_fake_finder)
    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    with pytest.raises(EnvironmentFault, match="camera=0 gives no more images after 6"):
        live(run, 0, f"out={tmp_path}")


def test_a_camera_that_hangs_is_told(run, monkeypatch):
    monkeypatch.setattr(command, "open_finder", open_fake_finder)
    monkeypatch.setattr(command, "SILENT_S", 0.3)
    released, real = threading.Event(), Camera.read

    def read(self):
        if self.left < 4:
            released.wait(30)
        return real(self)

    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    monkeypatch.setattr(Camera, "read", read)
    with pytest.raises(EnvironmentFault, match=r"camera=0 has given no image for 0.3 s"):
        live(run, 0)
    released.set()


def test_what_a_camera_cannot_be_asked_for_is_told(run, tmp_path):
    for words, told in (
        ("boxes=a.csv", "boxes= is for images"),
        ("whole_image=true", "whole_image= is for images"),
        ("colour=confidence", "colour=confidence is for images and videos"),
        (f"out={tmp_path} formats=npz,html", "formats=html shows the video"),
        (f"out={tmp_path} formats=fbx", "formats=fbx is none of"),
    ):
        with pytest.raises(UserError, match=told):
            live(run, 0, *words.split())
    with pytest.raises(UserError, match="camera=left beside images is a name in a file"):
        main(["predict", "a.jpg", "camera=left", f"run={run}"])
