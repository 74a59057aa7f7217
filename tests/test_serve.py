"""The local page: its limits, what it shows, and that nothing of it stays."""

import base64
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from types import SimpleNamespace

import av
import numpy as np
import pytest
import trimesh
from networks import make_run
from PIL import Image
from runs import ROOT

from data.find import search
from engine.config.parser import parse_keys
from engine.errors import UserError
from finetune.__main__ import main
from finetune.inference.predictor import Predictor
from finetune.serve import command
from finetune.serve.config import ServeConfig
from finetune.serve.folder import PassingFolder
from finetune.serve.recover import Recoverer, Shown
from tests.fake_finder import BLUE, RED, SIZE, FakeFinder, draw_scene, open_fake_finder


def config(*words):
    return parse_keys(ServeConfig, words, "finetune serve", 0)[0]


@pytest.fixture(scope="module")
def recoverer(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("runs") / "body", "body", "margin=1.35")
    limits = config("megapixels=0.1", "seconds=1", "upload_mb=1")
    return Recoverer(limits, {"body": Predictor(run, "cpu")}, FakeFinder())


def write_clip(path, seconds=0.5, size=SIZE):
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=8)
        video.width, video.height, video.pix_fmt, video.bit_rate = *size, "yuv420p", 4_000_000
        for number in range(round(8 * seconds)):
            image = draw_scene([(60 + 6 * number, RED)])
            image = np.ascontiguousarray(image[: size[1], : size[0]])
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode())
    return path


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.7", "::", "example.org"])
def test_others_are_let_in_by_a_key_alone(host):
    with pytest.raises(UserError, match=f"host={re.escape(host)} is not this machine alone"):
        config(f"host={host}")
    assert config(f"host={host}", "expose=true").expose
    assert all(config(f"host={own}").host == own for own in ("127.0.0.1", "::1", "localhost"))


def test_a_photograph_becomes_one_page_and_its_files(recoverer, tmp_path):
    path = tmp_path / "two.png"
    image = draw_scene([(60, RED), (250, BLUE)])
    Image.fromarray(image).save(path)
    shown = recoverer.make_page(path, tmp_path)
    assert (
        "http" not in shown.page.replace("http-equiv", "") and "meshes on the image" in shown.page
    )
    packed = json.loads(re.search(r'class="take">(.*?)</script>', shown.page, re.S)[1])
    assert [track["name"] for track in packed["tracks"]] == ["body-1", "body-2"]
    files = {name: base64.b64decode(url.partition(",")[2]) for name, url in shown.downloads}
    assert list(files) == ["two.glb", "two.npz"]
    predictor = recoverer.predictors["body"]
    person = FakeFinder().find_people(image)[0]
    (alone,) = predictor(image, [person.box], keypoints=[person.keypoints])
    (tmp_path / "saved.npz").write_bytes(files["two.npz"])
    with np.load(tmp_path / "saved.npz") as arrays:
        assert np.allclose(arrays["body-1/pose"][0], alone.pose, atol=1e-5)
    (tmp_path / "saved.glb").write_bytes(files["two.glb"])
    meshes = trimesh.load(tmp_path / "saved.glb").geometry.values()
    assert sorted(len(mesh.vertices) for mesh in meshes) == [len(alone.vertices)] * 2


def test_a_clip_becomes_the_player(recoverer, tmp_path, monkeypatch):
    monkeypatch.setattr(search, "open_finder", open_fake_finder)
    shown = recoverer.make_page(write_clip(tmp_path / "one.mp4"), tmp_path)
    assert "meshes on the video" in shown.page and "4 frames" in shown.page
    assert [name for name, _ in shown.downloads] == ["one.glb", "one.npz"]


def test_what_is_too_large_or_nothing_is_told(recoverer, tmp_path):
    Image.new("RGB", (400, 300)).save(tmp_path / "large.png")
    Image.new("RGB", (300, 200)).save(tmp_path / "nobody.png")
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "heavy.jpg").write_bytes(bytes(1_000_001))
    write_clip(tmp_path / "long.mp4", 2.0)
    write_clip(tmp_path / "wide.mp4", 0.5, (320, 160))
    recoverer.config.megapixels = 0.1
    for name, told in (
        ("large.png", "large.png: 400 x 300 pixels, and 0.1 megapixels"),
        ("nobody.png", "nobody.png: no person was found"),
        ("text.jpg", "text.jpg: cannot identify"),
        ("text.mp4", "text.mp4: it is no video"),
        ("heavy.jpg", "heavy.jpg: larger than the 1 MB"),
        ("long.mp4", "long.mp4: 1.9 s long, and 1 s are allowed"),
    ):
        with pytest.raises(UserError, match=re.escape(told)):
            recoverer.make_page(tmp_path / name, tmp_path)
    recoverer.config.megapixels = 0.05
    with pytest.raises(UserError, match="wide.mp4: 320 x 160 pixels"):
        recoverer.make_page(tmp_path / "wide.mp4", tmp_path)
    recoverer.config.megapixels = 0.1


def test_an_upload_is_removed_with_all_that_was_written(tmp_path):
    folder = SimpleNamespace(path=tmp_path)
    for fails in (False, True):
        upload = tmp_path / "uploads" / "abc" / "a.jpg"
        upload.parent.mkdir(parents=True)
        upload.write_bytes(b"a photograph")

        def make(path, work, fails=fails):
            (work / "on_the_way.mp4").write_bytes(b"a film")
            if fails:
                raise UserError("nobody")
            return Shown(f"<p>{path.name}</p>", [("a.glb", "data:,")])

        stand_in = SimpleNamespace(make_page=make)
        if fails:
            with pytest.raises(UserError, match="nobody"):
                command.recover_upload(stand_in, str(upload), folder)
        else:
            shown = command.recover_upload(stand_in, str(upload), folder)
            assert "&lt;p&gt;a.jpg" in command.render_shown(shown)
        assert [path.name for path in tmp_path.rglob("*")] == ["uploads"]


def test_an_upload_of_equal_bytes_waits_beside_it(tmp_path, recoverer):
    uploads = [tmp_path / "uploads" / "abc" / name for name in ("a.jpg", "b.jpg")]
    uploads[0].parent.mkdir(parents=True)
    for upload in uploads:
        upload.write_bytes(b"no photograph")
    for upload in uploads:
        with pytest.raises(UserError, match=f"{upload.name}.*cannot identify"):
            command.recover_upload(recoverer, str(upload), SimpleNamespace(path=tmp_path))
    assert [path.name for path in tmp_path.rglob("*")] == ["uploads"]
    with pytest.raises(UserError, match="a.jpg: it is no longer there"):
        command.recover_upload(recoverer, str(uploads[0]), SimpleNamespace(path=tmp_path))


def test_the_folder_goes_with_a_process_that_is_killed(tmp_path):
    code = (
        "import time; from finetune.serve.folder import PassingFolder; f = PassingFolder();"
        "(f.path / 'a').write_text('x'); print(f.path, flush=True); time.sleep(600)"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True
    )
    path = process.stdout.readline().strip()
    assert os.listdir(path) == ["a"] and os.stat(path).st_mode & 0o077 == 0
    process.send_signal(signal.SIGKILL)
    process.wait()
    for _ in range(600):
        if not os.path.exists(path):
            break
        time.sleep(0.1)
    assert not os.path.exists(path)


def test_a_folder_is_removed_at_the_end():
    folder = PassingFolder()
    (folder.path / "inside").mkdir()
    folder.remove()
    assert not folder.path.exists() and folder._watcher.wait(60) == 0


def test_without_gradio_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match=r"serve needs gradio \(pip install"):
        main(["serve"])


def ask(address, path, body=None, host=None, kind="application/json"):
    request = urllib.request.Request(address + path, body, {"Content-Type": kind})
    if host:
        request.add_header("Host", host)
    return urllib.request.urlopen(request, timeout=60)


def test_the_page_recovers_keeps_nothing_and_calls_nobody(recoverer, monkeypatch, tmp_path):
    if importlib.util.find_spec("gradio") is None:  # not imported: it is told where to write first
        pytest.skip("the extra serve is not installed")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    folder = PassingFolder()
    gradio = command.open_gradio(folder.path / "uploads")
    limits = config("port=0")
    blocks, address = command.launch(gradio, limits, recoverer, folder)
    try:
        text = ask(address, "").read().decode()
        assert not re.findall(r'(?:src|href)="(?:https?:)?//[^"]*\.(?:js|css|woff2?)', text)
        with pytest.raises(urllib.error.HTTPError, match="400"):
            ask(address, "", host="elsewhere.example")
        path = tmp_path / "two.png"
        Image.fromarray(draw_scene([(60, RED)])).save(path)
        edge = "edge"
        head = (
            f'--{edge}\r\nContent-Disposition: form-data; name="files"; filename="two.png"\r\n\r\n'
        )
        body = head.encode() + path.read_bytes() + f"\r\n--{edge}--\r\n".encode()
        kind = f"multipart/form-data; boundary={edge}"
        (upload,) = json.loads(ask(address, "gradio_api/upload", body, kind=kind).read())
        assert upload.startswith(str(folder.path))
        file = {"path": upload, "meta": {"_type": "gradio.FileData"}}
        call = {"data": [file], "fn_index": 0, "session_hash": "a"}
        ask(address, "gradio_api/queue/join", json.dumps(call).encode()).read()
        lines = ask(address, "gradio_api/queue/data?session_hash=a").read().decode().splitlines()
        told = [json.loads(line.partition(":")[2]) for line in lines if line.startswith("data:")]
        (done,) = [one for one in told if one["msg"] == "process_completed"]
        assert done["success"] and "srcdoc=" in done["output"]["data"][1]
        assert not os.path.exists(upload)
        left = [one for one in folder.path.rglob("*") if one.is_file() and one.stat().st_size]
        assert left == []
    finally:
        blocks.close()
        folder.remove()
