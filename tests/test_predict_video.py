"""``predict`` of a video: who is where, batches, gaps, times and sound of the film, resuming."""

import base64
import csv
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from moving import K, make_take, make_track
from networks import make_run

from data.bodies.models import open_model
from data.find import search
from data.find.detection import Detection, HandDetection
from data.format.joint_sets import find_joint_set
from data.sources.cameras import Camera, write_cameras
from data.sources.frames import Frames, Unreadable, open_video
from engine.errors import EnvironmentFault, UserError
from engine.geometry import project
from engine.run.locks import claim_folder
from finetune.__main__ import main
from finetune.inference.image_camera import LensCorrection
from finetune.inference.predictor import Predictor
from finetune.inference.search import Region
from finetune.temporal.keys import MotionConfig
from finetune.temporal.limbs import find_limbs
from finetune.temporal.module_file import KEY, describe_module
from finetune.temporal.network import MotionNetwork
from finetune.video import command, drawing, outlines
from finetune.video.asked import Who, plan_crops
from finetune.video.figures import find_points
from finetune.video.film import draw_frame, fit_size, join_film, pose_frame, write_stretch
from finetune.video.maps import MAPS, draw_map
from finetune.video.parts import Parts
from finetune.video.recover import Recoverer
from finetune.video.settle import average_shape, measure_size
from pretrain.weights import write_safetensors
from tests.fake_finder import BLUE, RED, SIZE, draw_scene, open_fake_finder

ROOT = Path(__file__).resolve().parent.parent
COUNT = 12
# Milliseconds at which frames are shown: not an even rate.
SHOWN = [0, 40, 80, 120, 160, 200, 290, 330, 370, 410, 450, 500]
TINY = ["video.stretch=5", "video.size_px=96", "device=cpu", "formats=npz", "video.smooth=none"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "body", "body", "margin=1.35")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """(video with sound and uneven times, a file of its boxes: two people, one with a gap)."""
    folder = tmp_path_factory.mktemp("clip")
    path, table = folder / "two.mp4", folder / "boxes.csv"
    lines = ["video,frame,person,x0,y0,x1,y1"]
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt, video.bit_rate = *SIZE, "yuv420p", 4_000_000
        video.codec_context.time_base = video.time_base = Fraction(1, 1000)
        sound = container.add_stream("aac", rate=16_000)
        sound.layout = "mono"
        for number in range(COUNT):
            left, right = 60 + 6 * number, 250 - 6 * number
            image = draw_scene([(left, RED), (right, BLUE)])
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = SHOWN[number], Fraction(1, 1000)
            container.mux(video.encode(frame))
            for person, x in (("a", left), ("b", right)):
                if person == "a" or number not in range(3, 10):
                    lines.append(f"two,{number},{person},{x - 22},30,{x + 22},160")
        container.mux(video.encode())
        tone = np.sin(np.arange(16_000 // 2) / 8).astype(np.float32)[None]
        for at in range(0, tone.shape[1], 1024):
            block = av.AudioFrame.from_ndarray(tone[:, at : at + 1024], "fltp", "mono")
            block.sample_rate, block.pts, block.time_base = 16_000, at, Fraction(1, 16_000)
            container.mux(sound.encode(block))
        container.mux(sound.encode())
    table.write_text("\n".join(lines) + "\n")
    return path, table


def predict(clip, run, out, *more):
    path, table = clip
    return main(["predict", str(path), f"run={run}", f"out={out}", f"boxes={table}", *TINY, *more])


@pytest.fixture(scope="module")
def done(clip, run, tmp_path_factory):
    """The folder of a run that nothing stopped."""
    out = tmp_path_factory.mktemp("done")
    assert predict(clip, run, out) == 0
    return out


def test_one_mesh_a_person_and_frame_and_gaps_stay(done):
    with np.load(done / "two.npz") as arrays:
        about = json.loads(str(arrays["about"]))
        assert [one["name"] for one in about["tracks"]] == ["body-1", "body-2"]
        assert arrays["body-1/frames"].tolist() == list(range(COUNT))
        assert arrays["body-2/frames"].tolist() == [0, 1, 2, 10, 11]
        assert np.allclose(arrays["body-2/times"], np.array(SHOWN)[[0, 1, 2, 10, 11]] / 1000)
        assert arrays["body-1/pose"].shape == (COUNT, 104, 3, 3)
        assert np.isfinite(arrays["body-1/joints"]).all()


def test_a_motion_module_fills_short_gaps_in_a_video(done, clip, run, tmp_path):
    body, config = open_model("anny").coarse(64), MotionConfig()
    with torch.random.fork_rng(devices=[]):
        network = MotionNetwork(config.model, body, find_limbs(body))
    header = {"counterpose": "1", KEY: json.dumps(describe_module(config, body))}
    file, out = tmp_path / "module.safetensors", tmp_path / "out"
    write_safetensors(network.state_dict(), file, header)
    shutil.copytree(done, out)
    words = ["video.smooth=learned", f"video.motion={file}", "video.overlay=false"]
    assert predict(clip, run, out, *words, "formats=npz,json,csv") == 0
    with np.load(out / "two.npz") as arrays:
        about = json.loads(str(arrays["about"]))
        assert [one["smoothing"] for one in about["tracks"]] == ["learned, module"] * 2
        assert arrays["body-2/frames"].tolist() == list(range(COUNT))
        assert np.flatnonzero(arrays["body-2/filled"]).tolist() == list(range(3, 10))
        assert not arrays["body-1/filled"].any()
    person = json.loads((out / "two.json").read_text())["people"][1]
    assert person["smoothing"] == "learned, module"
    assert [one["frame"] for one in person["frames"] if one.get("filled")] == list(range(3, 10))
    rows = list(csv.DictReader((out / "two.csv").open()))
    assert [row["filled"] for row in rows if row["person"] == "body-2"] == [*"000111111100"]
    assert predict(clip, run, out, *words, "video.fill_s=0.2") == 0
    with np.load(out / "two.npz") as arrays:
        assert arrays["body-2/frames"].tolist() == [0, 1, 2, 10, 11]


def test_batches_over_frames_give_what_single_images_do(done, clip, run):
    predictor = Predictor(run, "cpu")
    frames = open_video(str(clip[0]))
    x = 60 + 6 * 7
    box = [x - 22, 30, x + 22, 160]
    (_, image), *_ = frames.get([7])
    (alone,) = predictor(image, [box])
    with np.load(done / "two.npz") as arrays:
        assert np.allclose(arrays["body-1/pose"][7], alone.pose, atol=1e-5)
        body, shape = predictor.body, arrays["body-1/shape"]
        # One shape for all frames: what it is larger, it is farther away.
        scale = measure_size(body, shape[None])[0] / measure_size(body, alone.shape[None])[0]
        assert abs(scale - 1) > 1e-5
        assert np.allclose(arrays["body-1/translation"][7], alone.translation * scale, atol=1e-5)


def test_the_film_has_the_times_and_the_sound_of_its_source(done, clip):
    film = open_video(str(done / "two.overlay.mp4"))
    assert (film.width, film.height) == (96, 54)
    assert np.allclose(film.times, np.array(SHOWN) / 1000, atol=1e-3)
    packets = []
    for path in (clip[0], done / "two.overlay.mp4"):
        with av.open(str(path)) as container:
            audio = container.streams.audio[0]
            assert audio.codec_context.name == "aac"
            packets.append([bytes(one) for one in container.demux(audio) if one.dts is not None])
    assert packets[0][1:] == packets[1][-len(packets[0]) + 1 :] and len(packets[1]) > 5
    assert [path.suffix for path in (done / "two.parts").glob("film*")] == [".done"]


def test_rows_and_films_are_equal_without_threads(done, clip, run, tmp_path):
    assert predict(clip, run, tmp_path, "video.threads=false") == 0
    assert (tmp_path / "two.overlay.mp4").read_bytes() == (done / "two.overlay.mp4").read_bytes()
    rows = {path.name: path for path in (done / "two.parts").glob("rows.*.npz")}
    assert len(rows) == 3
    for path in (tmp_path / "two.parts").glob("rows.*.npz"):
        with np.load(path) as mine, np.load(rows.pop(path.name)) as threaded:
            assert mine.files == threaded.files
            assert all(mine[name].tobytes() == threaded[name].tobytes() for name in mine.files)
    assert not rows


def test_an_error_on_a_thread_is_one_sentence_and_keeps_what_is_done(
    done, clip, run, tmp_path, monkeypatch
):
    real = Frames.get

    def break_off(self, indices):
        for number, image in real(self, indices):
            if number == 7:
                raise Unreadable("a bad sector")
            yield number, image

    monkeypatch.setattr(Frames, "get", break_off)
    with pytest.raises(UserError, match="two.mp4: a bad sector"):
        predict(clip, run, tmp_path)
    assert len(list((tmp_path / "two.parts").glob("rows.*.npz"))) == 1
    assert [one.name for one in threading.enumerate() if one.name in ("decode", "network")] == []


def test_a_stopped_run_goes_on_where_it_was(done, clip, run, tmp_path, monkeypatch):
    save, cut, saves, numbers = Parts.save, Recoverer._cut, [], []

    def stop(self, stretch, rows):
        saves.append(stretch)
        if len(saves) == 3:
            raise KeyboardInterrupt
        save(self, stretch, rows)

    def note(self, kind, number, *more):
        numbers.append(number)
        cut(self, kind, number, *more)

    monkeypatch.setattr(Parts, "save", stop)
    monkeypatch.setattr(Recoverer, "_cut", note)
    with pytest.raises(KeyboardInterrupt):
        predict(clip, run, tmp_path)
    assert not (tmp_path / "two.npz").exists() and numbers == list(range(COUNT))
    assert predict(clip, run, tmp_path) == 0
    assert numbers[COUNT:] == [10, 11]  # the third stretch alone is recovered anew
    with np.load(tmp_path / "two.npz") as mine, np.load(done / "two.npz") as whole:
        assert mine.files == whole.files
        assert all(np.array_equal(mine[name], whole[name]) for name in whole.files)
    drawn = []
    draw = drawing.pose_frame

    def stop_drawing(take, number, size):
        if len(drawn) == 8:
            drawn.append(None)
            raise RuntimeError("the process is ended")
        drawn.append(number)
        return draw(take, number, size)

    monkeypatch.setattr(drawing, "pose_frame", stop_drawing)
    film = (tmp_path / "two.overlay.mp4").read_bytes()
    assert predict(clip, run, tmp_path) == 0 and drawn == []  # all is there
    with pytest.raises(RuntimeError, match="is ended"):
        predict(clip, run, tmp_path, "video.side_by_side=true")
    assert predict(clip, run, tmp_path, "video.side_by_side=true") == 0
    assert len(numbers) == COUNT + 2 and drawn == [*range(8), None, *range(5, COUNT)]
    assert (tmp_path / "two.overlay.mp4").read_bytes() != film


@pytest.mark.long
def test_kill_minus_nine_and_ctrl_c_change_no_byte(done, clip, run, tmp_path):
    """Killed while rows, and films, are written; stopped by SIGINT between; then left alone."""
    path, table = clip
    words = [f"run={run}", f"out={tmp_path}", f"boxes={table}", *TINY]
    line = [sys.executable, "-m", "finetune", "predict", str(path), *words, "video.stretch=1"]

    def start():
        return subprocess.Popen(line, cwd=ROOT, stderr=subprocess.PIPE, text=True)

    def stop_at(pattern, count, number):
        process = start()
        while process.poll() is None and len(list(tmp_path.rglob(pattern))) < count:
            time.sleep(0.005)
        process.send_signal(number)
        return process.communicate()[1], process.returncode

    assert stop_at("rows.*.npz", 2, signal.SIGKILL)[1] == -signal.SIGKILL
    said, code = stop_at("rows.*.npz", 6, signal.SIGINT)
    assert code == 130 and "Traceback" not in said
    assert stop_at("film.*.mp4", 3, signal.SIGKILL)[1] == -signal.SIGKILL
    assert not (tmp_path / "two.overlay.mp4").exists()
    assert start().wait() == 0
    again = tmp_path / "again"
    assert predict(clip, run, again, "video.stretch=1") == 0
    for name in ("two.npz", "two.overlay.mp4"):
        assert (tmp_path / name).read_bytes() == (again / name).read_bytes()
    assert not list((tmp_path / "two.parts").glob("*.writing-*"))


def test_two_at_once_in_one_folder_are_told(clip, run, tmp_path):
    folder = tmp_path / "two.parts"
    folder.mkdir()
    with (
        claim_folder(folder, "out=here"),
        pytest.raises(EnvironmentFault, match=rf"^out={tmp_path}: another process works in "),
    ):
        predict(clip, run, tmp_path)
    with claim_folder(folder, "out=here"):  # let go of
        pass


def test_a_video_of_one_frame_has_a_person_and_a_film(clip, run, tmp_path):
    path = tmp_path / "single.mp4"
    image = draw_scene([(60, RED)])
    write_stretch(path, [(0, image)], np.zeros(1), 25.0)
    words = [f"run={run}", f"out={tmp_path}", "whole_image=true", *TINY]
    assert main(["predict", str(path), *words, "video.smooth=one_euro"]) == 0
    with np.load(tmp_path / "single.npz") as arrays:
        assert arrays["body-1/frames"].tolist() == [0]
    assert open_video(str(tmp_path / "single.overlay.mp4")).count == 1


def test_a_smooth_video_has_the_same_frames(done, clip, run, tmp_path):
    more = ["video.smooth=one_euro", "video.smooth_rise=0.5", "video.overlay=false"]
    assert predict(clip, run, tmp_path, *more) == 0
    with np.load(tmp_path / "two.npz") as mine, np.load(done / "two.npz") as raw:
        assert mine.files == raw.files
        for name in ("body-1", "body-2"):
            assert np.array_equal(mine[f"{name}/frames"], raw[f"{name}/frames"])
            still, jumpy = (
                np.abs(np.diff(one[f"{name}/joints"][:3], 2, axis=0)).mean() for one in (mine, raw)
            )
            assert 0 < still < 0.8 * jumpy


def test_what_a_video_cannot_be_asked_for_is_told(clip, run, tmp_path):
    with pytest.raises(UserError, match="formats=fbx is none of"):
        predict(clip, run, tmp_path, "formats=npz,fbx")
    with pytest.raises(UserError, match="video.maps=skins is none of depth, normals, parts, skel"):
        predict(clip, run, tmp_path, "video.maps=skins")
    with pytest.raises(UserError, match="does not say how sure"):
        predict(clip, run, tmp_path, "colour=confidence")
    (tmp_path / "none.mp4").write_bytes(b"no video")
    with pytest.raises(UserError, match="none.mp4"):
        main(["predict", str(tmp_path / "none.mp4"), f"run={run}", f"out={tmp_path}"])


def test_the_lens_of_a_calibration_is_undone_in_all_frames(clip, run, tmp_path, monkeypatch):
    K = np.array([[300.0, 0, SIZE[0] / 2], [0, 300, SIZE[1] / 2], [0, 0, 1]])
    bent = np.array([-0.4, 0.1, 0, 0, 0, 0, 0, 0])
    camera = Camera("two", K, bent, np.eye(3, 4), *SIZE)
    write_cameras(str(tmp_path / "cameras.json"), {"two": camera})
    seen = {}

    def note_frame(self, kind, number, image, mine, group):
        seen[number] = image, [one.region.box for one in mine]
        cut(self, kind, number, image, mine, group)

    cut = Recoverer._cut
    monkeypatch.setattr(Recoverer, "_cut", note_frame)
    more = [f"calibration={tmp_path / 'cameras.json'}", "video.stretch=100", "formats=json"]
    assert predict(clip, run, tmp_path, *more, "video.overlay=false") == 0
    told = json.loads((tmp_path / "two.json").read_text())["video"]
    assert told["focal_length_from"] == "calibration=cameras.json, camera two"
    assert np.allclose(told["intrinsics"], K)
    ((_, raw),) = open_video(str(clip[0])).get([0])
    lens = LensCorrection(camera)
    assert np.array_equal(seen[0][0], lens.correct_image(raw)) and (seen[0][0] != raw).any()
    wanted = lens.correct_region(Region(np.array([38.0, 30, 82, 160]))).box
    assert np.allclose(seen[0][1][0], wanted) and wanted[0] < 37


def test_crops_between_sightings():
    points = np.concatenate([np.arange(34.0).reshape(17, 2), np.full((17, 1), 0.5)], 1)
    other = points + [10, 20, 0.3]
    hand = HandDetection("left", np.array([0.0, 0, 8, 8]), 0.9)
    track = {
        0: Detection(np.array([0.0, 0, 10, 20]), 0.9, points, hands={"left": hand}),
        4: Detection(np.array([8.0, 0, 18, 20]), 0.7, other, hands={"left": hand}),
        30: Detection(np.array([8.0, 0, 18, 20]), 0.7),
        31: Detection(np.array([8.0, 0, 18, 20]), 0.1),
        # Of seventeen keypoints three were found: a box with a sleeve in it.
        35: Detection(
            np.array([8.0, 0, 18, 20]), 0.7, points * np.repeat([[1, 1, 1], [1, 1, 0]], [3, 14], 0)
        ),
    }
    times = np.arange(40) / 25
    plan, everybody = plan_crops({"0": track}, times, ["body"], 0.3)
    assert everybody == [Who("0")]
    assert sorted(plan) == [0, 1, 2, 3, 4, 30]
    (asked,) = plan[1]
    assert np.allclose(asked.region.box, [2, 0, 12, 20]) and asked.score == 0.7
    assert np.allclose(asked.region.keypoints[:, 2], 0.5)
    assert len(asked.region.keypoints) == 17
    # Nobody searched the frames after the last one that was: who is there is there still.
    assert sorted(plan_crops({"0": track}, times[:33], ["body"], 0.3, 30)[0])[-3:] == [30, 31, 32]
    assert sorted(plan_crops({"0": track}, times[:33], ["body"], 0.3, 32)[0])[-1] == 30
    plan, everybody = plan_crops({"0": track}, times, ["body", "hand"], 0.3)
    assert everybody == [Who("0"), Who("0", "left_hand")]
    assert [one.who.part for one in plan[4]] == ["body", "left_hand"]


def test_a_glance_at_nobody_is_left_out():
    points = np.concatenate([np.arange(34.0).reshape(17, 2), np.full((17, 1), 0.5)], 1)

    def see(frames, keypoints=points):
        return {frame: Detection(np.array([0.0, 0, 10, 20]), 0.9, keypoints) for frame in frames}

    times = np.arange(60) / 25
    tracks = {"0": see([0, 2, 4, 40]), "1": see([20]), "2": see([30], None)}
    plan, _ = plan_crops(tracks, times, ["body"], 0.3)
    # The third one's box is somebody else's word; in the first one's 40 and the second there is
    # nobody within .35 s.
    assert sorted(plan) == [0, 1, 2, 3, 4, 30]
    # Searched once a second, nobody can be seen twice within that time.
    seldom = {"0": see([0, 25, 50]), "1": see([25])}
    assert sorted(plan_crops(seldom, times, ["body"], 0.3)[0]) == [0, 25, 50]
    assert sorted(plan_crops({"0": see([7])}, times, ["body"], 0.3)[0]) == [7]


def test_a_shape_is_averaged_in_its_free_numbers(bodies):
    body = bodies["anny_hand"]
    shapes = np.array([[0.2] * 6, [0.6] * 6, [0.9] * 6], np.float32)
    logits = np.log(shapes / (1 - shapes))
    wanted = 1 / (1 + np.exp(-(logits[0] + 3 * logits[1]) / 4))
    found = average_shape(body, shapes, np.array([0.25, 0.75, 0.0], np.float32))
    assert np.allclose(found, wanted, atol=2e-3)


def test_sizes_are_even_and_no_larger_than_asked():
    assert fit_size(1920, 1080, 1280) == (1280, 720)
    assert fit_size(333, 201, 0) == (332, 200)
    assert fit_size(640, 360, 1280) == (640, 360)


def test_stretches_join_to_one_film(tmp_path):
    times = np.array([0, 0.04, 0.08, 0.2, 0.24])
    images = [np.full((32, 48, 3), 40 * n, np.uint8) for n in range(5)]
    for first, part in ((0, range(3)), (3, range(3, 5))):
        write_stretch(tmp_path / f"{first}.mp4", ((n, images[n]) for n in part), times, 25.0)
    stretches = [(0, tmp_path / "0.mp4"), (3, tmp_path / "3.mp4")]
    assert join_film(tmp_path / "film.mp4", stretches, times, None) == ""
    film = open_video(str(tmp_path / "film.mp4"))
    assert np.allclose(film.times, times, atol=1e-4)
    shown = [image.mean() for _, image in film.get(range(5))]
    assert np.allclose(shown, [0, 40, 80, 120, 160], atol=6)


def test_whole_image_is_of_one_kind(run):
    with pytest.raises(UserError, match="both bodies and hands"):
        config = command.PredictFilesConfig(whole_image=True)
        predictor = Predictor(run, "cpu")
        command.check_videos(config, {"body": predictor, "hand": predictor})


def test_people_are_searched_where_no_boxes_are_given(clip, run, tmp_path, monkeypatch):
    monkeypatch.setattr(search, "open_finder", open_fake_finder)
    path, _ = clip
    words = [f"run={run}", f"out={tmp_path}", *TINY, "video.overlay=false", "video.search_hz=12"]
    assert main(["predict", str(path), *words]) == 0
    with np.load(tmp_path / "two.npz") as arrays:
        about = json.loads(str(arrays["about"]))
        assert [one["name"] for one in about["tracks"]] == ["body-1", "body-2"]
        # Searched at every other frame: those between are recovered too.
        assert {0, 1, 2, 3, 4} <= set(arrays["body-1/frames"].tolist())
        box = arrays["body-1/box"][1]
        assert abs((box[0] + box[2]) / 2 - 66) < 6


def test_maps_show_people_alone(bodies):
    near = make_track(bodies["anny_hand"], "right_hand", (0, 1), name="right_hand-1")
    far = make_track(bodies["anny_hand"], "right_hand", (0,), name="right_hand-2")
    near.translation[:] = [-0.05, 0, 0.5]
    far.translation[:] = [0.15, 0, 0.8]
    take = make_take(near, far)
    size = (160, 90)
    maps = {name: draw_map(take, 0, size, name) for name in MAPS}
    there = maps["depth"][..., 0] > 0
    assert 100 < there.sum() < 0.8 * there.size
    left, right = (maps["depth"][..., 0][:, part] for part in (slice(0, 80), slice(80, 160)))
    assert left[left > 0].mean() > right[right > 0].mean() + 5  # near is white
    assert (there == (maps["parts"].any(-1))).all()
    assert maps["normals"][there][:, 2].mean() > 150  # what is seen looks at the camera
    rows, columns = np.nonzero(there & (np.arange(160) < 80))
    red, green = maps["normals"][rows, columns, :2].astype(float).T
    assert np.corrcoef(red, columns)[0, 1] < -0.2  # of a round thing the left side looks left
    assert np.corrcoef(green, rows)[0, 1] < -0.2
    assert not draw_map(take, 5, size, "depth").any()
    assert len(np.unique(maps["parts"][there], axis=0)) > 3


def test_figures_are_openposes(bodies):
    """Joints in the annotator's colours, where the mesh has them; hidden ones too."""
    track = make_track(bodies["anny"], "body", (0, 1), bend=0.05)
    track.translation[:] = [0, 0, 3.5]
    take = make_take(track)
    size = (640, 360)
    image = draw_map(take, 0, size, "skeleton")
    points = track.pose_rows(slice(0, 1))
    space = find_points(track.body, points.vertices[0], points.joints[0])
    flat = 2 * project(space, K, np.eye(3, 4))[0]
    # The last that are drawn are not covered: eyes and ears, then hands.
    colours = {14: (170, 0, 255), 15: (255, 0, 255), 16: (255, 0, 170), 17: (255, 0, 85)}
    names = find_joint_set("openpose18").joints
    assert names[17] == "left_ear"
    seen = [tuple(image[int(y), int(x)].tolist()) for x, y in flat]
    assert seen[17] == colours[17] and seen[16] in list(colours.values())
    assert set(seen[22::4]) <= {(0, 0, 255)}  # fingertips
    elbow, wrist = flat[names.index("left_elbow")], flat[names.index("left_wrist")]
    x, y = (elbow + wrist) / 2
    assert tuple(image[int(y), int(x)].tolist()) == (51, 153, 0)  # 0.6 of (85, 255, 0)
    assert not draw_map(take, 7, size, "skeleton").any()


def test_networks_that_take_outlines_get_them(clip, tmp_path, monkeypatch):
    """Each crop its own."""
    takes = ["head.prompt_mask=true", "data.augment.mask_share=0.5"]
    run = make_run(tmp_path / "run", "body", "margin=1.35", *takes)
    monkeypatch.setattr(search, "open_finder", open_fake_finder)
    monkeypatch.setattr(outlines, "open_finder", lambda **keys: open_fake_finder(True, False, True))
    given, real = [], Predictor.place_masks

    def place(self, masks, *more):
        given.append((masks, real(self, masks, *more)))
        return given[-1][1]

    monkeypatch.setattr(Predictor, "place_masks", place)
    words = [f"run={run}", *TINY, "video.overlay=false", "video.search_hz=12"]
    assert main(["predict", str(clip[0]), *words, f"out={tmp_path / 'found'}"]) == 0
    masks, placed = given[0]
    assert len(masks) == 2 and placed.shape[0] == 2
    assert placed.max() > 0.9 and placed.min() < -0.9
    wide = [cells.gt(0).any(0).sum() / cells.gt(0).any(1).sum() for cells in placed]
    assert max(wide) < 0.6  # a standing person's


def test_the_page_and_the_film_say_how_sure_the_network_is(clip, tmp_path):
    run = make_run(tmp_path / "run", "body", "margin=1.35", "head.confidence=true")
    words = ["colour=confidence", "formats=html", "video.overlay=false", "video.stretch=12"]
    assert predict(clip, run, tmp_path, *words) == 0
    page = (tmp_path / "two.html").read_text()
    assert "body: ±10" in page
    packed = json.loads(re.search(r'class="take">(.*?)</script>', page, re.S)[1])["tracks"][0]

    def unpack(name, dtype, *shape):
        return np.frombuffer(base64.b64decode(packed[name]), dtype).reshape(-1, *shape)

    surface, near = unpack("surface", "<f4").reshape(COUNT, -1), unpack("near", "u1", 4)
    share = unpack("nearness", "u1", 4) / 255
    spread = (surface[7][near] * share).sum(1) / share.sum(1)
    x = 60 + 6 * 7
    (_, image), *_ = open_video(str(clip[0])).get([7])
    predictor = Predictor(run, "cpu")
    (alone,) = predictor(image, [[x - 22, 30, x + 22, 160]])
    assert np.allclose(spread, alone.vertex_uncertainty, rtol=0.05)
    track = make_track(predictor.body, "body", (0, 1))
    track.surface = np.repeat([[0.01], [0.16]], surface.shape[1], 1).astype(np.float32)
    take, image = make_take(track), np.full((180, 320, 3), 90, np.uint8)
    colours = []
    for confident, frame in ((False, 0), (True, 0), (True, 1)):
        people = pose_frame(take, frame, (320, 180))
        drawn = draw_frame(image, people, confident, False)[:140].astype(int)
        colours.append(drawn[(drawn != 90).any(2)].mean(0))
    assert np.ptp(colours[0]) < 40  # clay
    assert colours[1].argmax() == 2 and colours[2].argmax() == 0  # blue is sure, red is not
