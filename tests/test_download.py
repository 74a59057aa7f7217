"""Weights from a URL and from a hub: whole or not at all, each from a server of this machine."""

import hashlib
import http.server
import io
import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from runs import ROOT

from engine.errors import EnvironmentFault, UserError
from finetune.released import cache, download, hub
from finetune.released.locate import locate_network

DATA = bytes(range(256)) * 4000
HASH = hashlib.sha256(DATA).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves DATA under every path.

    Attributes:
        asked: the Range of each request, None without one.
        cut: of the next answers, how many bytes are sent before the connection breaks.
        ranges: whether parts are served.  fails: how many requests are answered 503.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked, self.cut, self.ranges, self.fails = [], [], True, 0
        self.data = DATA

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/weights/body.safetensors"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        if "missing" in self.path:
            self.send_error(404)
            return
        if self.server.fails:
            self.server.fails -= 1
            self.send_error(503)
            return
        data, start = self.server.data, 0
        if asked and self.server.ranges:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(data):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{HASH}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        end = start + self.server.cut.pop(0) if self.server.cut else len(data)
        self.wfile.write(data[start:end])

    def do_HEAD(self):  # as a hub answers it
        self.send_response(200)
        self.send_header("ETag", f'"{HASH}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", str(len(DATA)))
        self.end_headers()

    def log_message(self, *words):
        pass


@pytest.fixture
def server():
    made = Server()
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty cache, and no waiting."""
    monkeypatch.setenv(cache.CACHE, str(tmp_path / "cache"))
    monkeypatch.setattr("data.storage.patience.FIRST_S", 0.01)
    monkeypatch.setattr(download, "PATIENCE_S", 0.2)
    return tmp_path / "cache"


def test_a_url_is_downloaded_once(server, folder):
    first = locate_network(f"{server.url}#sha256={HASH}")
    assert first.read_bytes() == DATA and first.parent == folder
    assert locate_network(f"{server.url}#sha256={HASH}") == first and server.asked == [None]
    assert not list(folder.glob("*.part"))


def test_bytes_that_were_changed_in_the_cache_are_brought_again(server, folder):
    path = locate_network(f"{server.url}#sha256={HASH}")
    path.write_bytes(DATA[:-1])
    assert locate_network(f"{server.url}#sha256={HASH}").read_bytes() == DATA
    assert len(server.asked) == 2


def test_what_breaks_off_is_gone_on_with(server, folder):
    server.cut = [100_000, 50_000]
    path = locate_network(f"{server.url}#sha256={HASH}")
    assert path.read_bytes() == DATA
    assert server.asked == [None, "bytes=100000-", "bytes=150000-"]


def test_a_later_command_goes_on_with_what_an_earlier_one_left(server, folder):
    folder.mkdir()
    wanted = download.read_url(f"{server.url}#sha256={HASH}", "run")
    part = folder / f"{wanted.file}.part"
    part.write_bytes(DATA[:7000])
    assert locate_network(f"{server.url}#sha256={HASH}").read_bytes() == DATA
    assert server.asked == ["bytes=7000-"]
    # What is no beginning of it is thrown away.
    (folder / wanted.file).unlink()
    part.write_bytes(b"x" * 7000)
    assert locate_network(f"{server.url}#sha256={HASH}").read_bytes() == DATA
    assert server.asked[1:] == ["bytes=7000-", None]


def test_a_server_without_ranges_sends_all_again(server):
    server.cut, server.ranges = [100_000], False
    assert locate_network(f"{server.url}#sha256={HASH}").read_bytes() == DATA


def test_a_server_that_is_busy_is_asked_again(server):
    server.fails = 2
    assert locate_network(f"{server.url}#sha256={HASH}").read_bytes() == DATA
    server.fails = 1000
    with pytest.raises(EnvironmentFault, match="the server says 503 .* the same command goes on"):
        locate_network(f"{server.url.replace('body', 'other')}#sha256={HASH[:-1]}0")


def test_other_bytes_than_the_hash_says_are_not_kept(server, folder):
    with pytest.raises(UserError, match=f"has SHA-256 {HASH}, {'0' * 64} is wanted"):
        locate_network(f"{server.url}#sha256={'0' * 64}")
    assert not [path for path in folder.iterdir() if path.suffix != ".lock"]


def test_without_a_server_it_is_told(server):
    url = server.url
    server.shutdown()
    server.server_close()
    with pytest.raises(EnvironmentFault, match="cannot be read: .*refused"):
        locate_network(f"{url}#sha256={HASH}")


def test_what_is_missing_is_told_at_once(server):
    with pytest.raises(UserError, match="the server says 404"):
        locate_network(f"{server.url.replace('body', 'missing')}#sha256={HASH}")
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("https://a.org/x.safetensors#sha256=12", "64 hex digits"),
        ("https://a.org/x.safetensors#md5=12", "64 hex digits"),
        ("https://a.org/x.pth", "names no .safetensors file"),
        ("http://a.org/x.safetensors", "take https, or add #sha256="),
        ("hf://owner", "a repository is hf://owner/repo"),
        ("hub:a/b/c/d", "a repository is"),
    ],
)
def test_what_names_nothing_is_told(text, words):
    with pytest.raises(UserError, match=f"run={text}.*{words}"):
        locate_network(text)


def test_without_a_hash_https_is_taken_and_the_hash_is_told(server, folder, monkeypatch, caplog):
    wanted = download.Wanted(server.url, "")
    monkeypatch.setattr(download, "read_url", lambda text, name: wanted)
    folder.mkdir()
    (folder / f"{wanted.file}.part").write_bytes(b"what may be of another day")
    with caplog.at_level("INFO", "finetune.released.download"):
        assert locate_network(server.url).read_bytes() == DATA
    assert server.asked == [None] and HASH in caplog.text


def test_without_a_hash_nothing_is_joined_to_an_earlier_part(server, monkeypatch):
    wanted = download.Wanted(server.url, "")
    monkeypatch.setattr(download, "read_url", lambda text, name: wanted)
    server.cut = [100_000]
    assert locate_network(server.url).read_bytes() == DATA
    assert server.asked == [None, None]


def test_https_that_leads_to_http_wants_a_hash(folder, monkeypatch):
    class Answer(io.BytesIO):
        url, status, length = "http://b.org/x.safetensors", 200, 0

    monkeypatch.setattr("urllib.request.urlopen", lambda request, timeout: Answer(DATA))
    with pytest.raises(UserError, match="leads to http://b.org/x.safetensors.*add #sha256="):
        locate_network("https://a.org/x.safetensors")
    assert not list(folder.glob("*.safetensors"))
    assert locate_network(f"https://a.org/x.safetensors#sha256={HASH}").read_bytes() == DATA


def test_a_cache_that_cannot_be_written_is_told(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv(cache.CACHE, str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match=f"cache of weights, .*set {cache.CACHE} to a folder"):
        locate_network(f"{server.url}#sha256={HASH}")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_cache_that_is_only_read_is_told(server, folder):
    folder.mkdir(mode=0o500)
    with pytest.raises(UserError, match=f"cannot be written: .*set {cache.CACHE}"):
        locate_network(f"{server.url}#sha256={HASH}")


def test_a_cache_that_is_full_of_folders_is_told(server, folder):
    wanted = download.read_url(f"{server.url}#sha256={HASH}", "run")
    (folder / f"{wanted.file}.lock").mkdir(parents=True)
    with pytest.raises(UserError, match=f"cannot be written: .*set {cache.CACHE}"):
        locate_network(f"{server.url}#sha256={HASH}")


def fetch(text, folder, results):
    os.environ[cache.CACHE] = folder
    results.put(locate_network(text).read_bytes() == DATA)


def test_two_processes_that_want_one_file_take_turns(server, folder):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    arguments = (f"{server.url}#sha256={HASH}", str(folder), results)
    both = [context.Process(target=fetch, args=arguments) for _ in range(2)]
    for process in both:
        process.start()
    assert [results.get(timeout=120) for _ in both] == [True, True]
    for process in both:
        process.join()
    assert server.asked == [None]


class FakeHub:
    """In place of huggingface_hub's functions."""

    def __init__(self, file=None, error=None):
        self.file, self.error, self.asked = file, error, []

    def hf_hub_download(self, repo, file, revision=None):
        self.asked.append((repo, file, revision))
        if self.error:
            raise self.error
        return self.file


def test_a_repository_is_asked_for_its_weights(tmp_path, monkeypatch):
    found = FakeHub(str(tmp_path / "model.safetensors"))
    monkeypatch.setattr(hub, "import_hub", lambda: found)
    for text, revision in (
        ("hf://owner/meshes", None),
        ("hf://owner/meshes@v1.0", "v1.0"),
        ("hub:owner/meshes@main", "main"),
    ):
        assert locate_network(text) == tmp_path / "model.safetensors"
        assert found.asked[-1] == ("owner/meshes", "model.safetensors", revision)


def test_errors_of_the_hub_are_one_sentence(monkeypatch):
    class RepositoryNotFoundError(OSError):
        pass

    class LocalEntryNotFoundError(FileNotFoundError):
        pass

    for error, kind, words in (
        (RepositoryNotFoundError("404\n\nnot there"), UserError, "run=hf://a/b: 404 not there"),
        (LocalEntryNotFoundError("no"), EnvironmentFault, "not in the cache.*HF_HUB_OFFLINE"),
        (ConnectionError("down"), EnvironmentFault, "the hub cannot be used: ConnectionError"),
    ):
        monkeypatch.setattr(hub, "import_hub", lambda error=error: FakeHub(error=error))
        with pytest.raises(kind, match=words) as told:
            locate_network("hf://a/b")
        assert "\n" not in str(told.value)


def test_the_library_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"huggingface_hub: pip install -e '\.\[hub\]'"):
        locate_network("hf://a/b")


def ask_library(tmp_path, **variables):
    """(exit code, what is said) where the library itself is asked, in a process of its own."""
    pytest.importorskip("huggingface_hub")
    code = """
from engine import cli
from finetune.released.locate import locate_network
cli.run(lambda words: print(locate_network("hf://owner/meshes")) or 0)
"""
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hub"), **variables}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


def test_the_library_itself_offline_and_from_a_mirror(server, tmp_path):
    """huggingface_hub's own answers: nothing is cached, a mirror has it, now it is cached."""
    code, said = ask_library(tmp_path, HF_HUB_OFFLINE="1")
    assert code == 74 and "run=hf://owner/meshes: it is not in the cache" in said
    assert said.count("\n") == 1
    mirror = server.url.rpartition("/weights")[0]
    code, said = ask_library(tmp_path, HF_ENDPOINT=mirror)
    assert code == 0 and Path(said.splitlines()[-1]).read_bytes() == DATA
    code, said = ask_library(tmp_path, HF_HUB_OFFLINE="1")
    assert code == 0 and Path(said.splitlines()[-1]).read_bytes() == DATA


def test_the_cache_needs_a_home(monkeypatch):
    monkeypatch.delenv(cache.CACHE)

    def homeless():
        raise RuntimeError

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(UserError, match=f"HOME is not set.*{cache.CACHE}"):
        cache.cache_folder()
