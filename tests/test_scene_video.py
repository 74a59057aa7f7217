"""Videos by a run that finds everybody: who is who, files, resuming, the floor."""

import json
from dataclasses import replace

import av
import numpy as np
import pytest
from networks import make_scene_run
from standing import HEIGHT_M, SIZE, K, stand, tilt
from test_animation_files import read_glb

from engine.errors import UserError
from finetune.__main__ import main
from finetune.scene.everybody import Everybody
from finetune.scene.follow import follow_people
from finetune.scene.found import FoundPerson
from finetune.video.recover import Rows

COUNT, FPS = 20, 25.0
NONE = "video.smooth=none"
QUICK = ["formats=trc", "video.overlay=false"]
TIMES = np.arange(60) / FPS
HIDDEN = range(8, 13)  # frames in which the second person is behind the first


def make_rows(seen):
    """Rows of [(frame, place (3,), embedding)], boxes as a person of 1.7 x .5 m has them."""
    frames, places, looks = zip(*seen, strict=True)
    count, places = len(seen), np.array(places, np.float32)
    middle = places[:, :2] / places[:, 2:] * K[0, 0] + K[:2, 2]
    half = np.array([0.25, 0.85]) / places[:, 2:] * K[0, 0]
    empty = np.zeros((count, 0), np.float32)
    return Rows(
        who=np.full(count, -1),
        frame=np.array(frames),
        score=np.ones(count, np.float32),
        box=np.concatenate([middle - half, middle + half], 1).astype(np.float32),
        pose=np.zeros((count, 1, 3, 3), np.float32),
        shape=empty,
        translation=places,
        uncertainty=empty,
        surface=empty,
        hands=np.zeros((count, 2), bool),
        found=np.zeros((count, 17, 3), np.float32),
        embedding=np.array(looks, np.float32).reshape(count, -1),
    )


def walk(random, spread=0.03):
    """[(frame, place, name)]: one walks past another who is hidden meanwhile; noisy depths."""
    seen = []
    for frame in range(COUNT):
        here = {"walks": np.array([-1.0 + 2.4 * frame / COUNT, 0.1, 4.0])}
        if frame not in HIDDEN:
            here["stands"] = np.array([0.2, 0.15, 5.0])
        names = list(here)
        random.shuffle(names)
        seen += [(frame, here[name] * random.normal(1, spread), name) for name in names]
    return seen


def test_who_is_hidden_keeps_the_number_by_place_alone():
    for seed in range(20):
        seen = walk(np.random.default_rng(seed))
        who = follow_people(make_rows([(frame, at, []) for frame, at, _ in seen]), TIMES, 1.5)
        numbers = {
            name: {int(n) for n, one in zip(who, seen, strict=True) if one[2] == name}
            for name in ("walks", "stands")
        }
        assert all(len(mine) == 1 for mine in numbers.values()), (seed, numbers)
        assert sorted(who) == [0] * min(COUNT, (who == 0).sum()) + [1] * (who == 1).sum()


def test_looks_tell_apart_whom_places_do_not():
    one, other = np.eye(4)[0], np.eye(4)[1]
    left, right = np.array([-0.4, 0, 4.0]), np.array([0.4, 0, 4.0])
    # Both are hidden for 0.6 s and come back in each other's place.
    seen = [
        (frame, place, look) for frame in range(5) for place, look in ((left, one), (right, other))
    ]
    seen += [
        (frame, place, look)
        for frame in range(20, 25)
        for place, look in ((left, other), (right, one))
    ]
    who = follow_people(make_rows(seen), TIMES, 1.5)
    assert who.tolist() == [0, 1] * 5 + [1, 0] * 5
    blind = follow_people(make_rows([(frame, place, []) for frame, place, _ in seen]), TIMES, 1.5)
    assert blind.tolist() == [0, 1] * 10


def test_who_is_lost_for_long_or_far_away_is_somebody_new():
    place = np.array([0, 0, 4.0])
    rows = make_rows([(0, place, []), (10, place, []), (30, place, [])])
    assert follow_people(rows, TIMES, 0.5).tolist() == [0, 0, 1]
    assert follow_people(rows, TIMES, 1.5).tolist() == [0, 0, 0]
    rows = make_rows([(0, place, []), (1, place + [3, 0, 0], [])])
    assert follow_people(rows, TIMES, 1.5).tolist() == [0, 1]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_scene_run(tmp_path_factory.mktemp("runs") / "scene")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A video whose frames' grey tells their number."""
    path = tmp_path_factory.mktemp("clip") / "pass.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = *SIZE, "yuv420p"
        for number in range(COUNT):
            image = np.full((*SIZE[::-1], 3), 20 + 10 * number, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode())
    return path


@pytest.fixture(scope="module")
def finder(bodies):
    """An Everybody that sees the two people of ``walk``; ``asked``: the frames."""
    body, camera = bodies["anny"], tilt(8, 0)
    (stands,) = stand(body, [(0.2, 5.0)], camera, yaws_deg=[0], seed=1)
    walking = {
        number: stand(body, [(-1.0 + 2.4 * number / COUNT, 4.0)], camera, yaws_deg=[-90])[0]
        for number in range(COUNT)
    }
    asked = []

    def find(image, K_given):
        number = round((float(image.mean()) - 20) / 10)
        asked.append(number)
        found = [FoundPerson(walking[number], 0.9, np.eye(8, dtype=np.float32)[0])]
        if number not in HIDDEN:
            found.append(FoundPerson(stands, 0.8, np.eye(8, dtype=np.float32)[1]))
        return found[:: 1 if number % 2 else -1]

    return Everybody(find, body, "made"), asked


def predict(monkeypatch, clip, run, out, everybody, *more):
    monkeypatch.setattr("finetune.predict.open_everybody", lambda *keys: everybody)
    camera = "intrinsics=" + ",".join(str(K[at]) for at in ((0, 0), (1, 1), (0, 2), (1, 2)))
    words = [str(clip), f"run={run}", f"out={out}", camera, "device=cpu", "video.size_px=96"]
    return main(["predict", *words, "video.stretch=7", *(more or ["formats=npz"])])


def test_a_video_has_tracks_of_everybody(clip, run, finder, tmp_path, monkeypatch, capsys):
    everybody, asked = finder
    out = tmp_path / "out"
    assert predict(monkeypatch, clip, run, out, everybody, "formats=npz,glb", NONE) == 0
    assert sorted(asked) == list(range(COUNT))
    said = capsys.readouterr().out
    assert "2 people; floor by " in said
    names = {"pass.npz", "pass.glb", "pass.overlay.mp4", "pass.parts"}
    assert {path.name for path in out.iterdir()} == names
    with np.load(out / "pass.npz") as arrays:
        about = json.loads(str(arrays["about"]))
        tracks = {one["name"]: arrays[f"{one['name']}/frames"].tolist() for one in about["tracks"]}
        shown = [number for number in range(COUNT) if number not in HIDDEN]
        assert sorted(tracks.values(), key=len) == [shown, list(range(COUNT))]
        walks = next(name for name, frames in tracks.items() if len(frames) == COUNT)
        way = arrays[f"{walks}/translation"]
        assert np.ptp(way[:, 0]) > 2 and np.abs(way[:, 2] - way[0, 2]).max() < 0.05
    tree, read = read_glb(out / "pass.glb")
    (floor,) = [node for node in tree["nodes"] if node["name"] == "ground"]
    primitive = tree["meshes"][floor["mesh"]]["primitives"][0]
    corners = read(primitive["attributes"]["POSITION"]) * [1, -1, -1]
    down = tilt(8, 0)[:, 1]
    assert corners @ down == pytest.approx([HEIGHT_M] * 4, abs=0.1)
    # The same command asks about nothing again, and other keys of smoothing do not either.
    asked.clear()
    assert predict(monkeypatch, clip, run, out, everybody, *QUICK) == 0
    assert asked == []
    other = replace(everybody, digest="other")
    assert predict(monkeypatch, clip, run, out, other, *QUICK) == 0
    assert sorted(asked) == list(range(COUNT))


def test_a_video_of_nobody_is_told(clip, run, bodies, tmp_path, monkeypatch):
    nobody = Everybody(lambda image, camera: [], bodies["anny"], "none")
    with pytest.raises(UserError, match="pass.mp4: nobody was found in it"):
        predict(monkeypatch, clip, run, tmp_path / "out", nobody)
    with pytest.raises(UserError, match="formats=npy is none of"):
        predict(monkeypatch, clip, run, tmp_path / "new", nobody, "formats=npy")
    assert not (tmp_path / "new").exists()
