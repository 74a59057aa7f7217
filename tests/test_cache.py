"""Remote shards: the same bytes as from this disk, through a cache that is bounded and
outlives its users."""

import functools
import http.server
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from clips import make_clip, write_shards

from data.config import DataConfig
from data.format.index import index_path, read_index
from data.loading.build import open_loader, open_order
from data.loading.loader import tag
from data.storage import patience
from data.storage.cache import Cache, CacheConfig
from data.storage.catalogue import read_catalogue
from data.storage.fetch import base_name
from data.storage.shard_store import Store
from data.tools.inspect import index as index_command
from data.tools.inspect import verify
from engine.errors import EnvironmentFault, UserError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, [make_clip(i, size=64) for i in range(50)], 10)
    index_command([str(folder)])
    return folder


class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        if self.path in self.server.broken:
            self.server.broken[self.path](self)
        else:
            super().do_GET()

    def log_message(self, *arguments):
        """Quiet."""


@pytest.fixture
def server(folder):
    """A web server of the shards: ``url``, ``asked`` (paths), ``broken`` ({path: what to do with
    the request instead})."""
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))
    ) as server:
        server.asked, server.broken = [], {}
        server.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def config_of(shards, cache, gigabytes=1.0, ahead=4):
    return DataConfig(shards=shards, val_clips=4, cache=CacheConfig(str(cache), gigabytes, ahead))


def batches(config, workers=0, stop=6):
    order = open_order(config, 16, 5)
    loader = open_loader(order, config, 9, 0, 1, workers)
    out = [
        {name: values.copy() for name, values in arrays.items()}
        for _, arrays in loader.batches(0, stop)
    ]
    loader.close()
    return out


def same(one, other):
    return len(one) == len(other) and all(
        np.array_equal(a[k], b[k]) for a, b in zip(one, other, strict=True) for k in a
    )


@pytest.fixture(scope="module")
def local(folder):
    return batches(DataConfig(shards=str(folder), val_clips=4))


@pytest.mark.parametrize("workers", [0, 2])
def test_urls_give_the_bytes_that_the_disk_gives(folder, server, local, tmp_path, workers):
    for name, spec in (
        ("folder", server.url),
        ("tars", server.url + "/shard-{000000..000004}.tar"),
        ("files", f"file://{folder}"),  # by fsspec, as s3 and gs would be
        ("pipe", f"pipe:cat {folder}/shard-{{000000..000004}}.tar"),
    ):
        assert same(batches(config_of(spec, tmp_path / name), workers), local), name


def test_a_second_start_asks_for_nothing_but_the_list(server, local, tmp_path):
    config = config_of(server.url, tmp_path / "cache")
    assert same(batches(config), local)
    assert len([path for path in server.asked if path.endswith(".tar")]) == 5  # each once
    server.asked.clear()
    assert same(batches(config), local)
    assert server.asked == ["/shards.json"]


def test_tars_without_an_index_are_indexed_once(server, local, tmp_path, folder):
    bare = tmp_path / "bare"
    bare.mkdir()
    for tar in folder.glob("*.tar"):
        shutil.copy(tar, bare)
    config = config_of(f"file://{bare}/shard-{{000000..000004}}.tar", tmp_path / "cache")
    assert same(batches(config), local)
    assert not list(bare.glob("*.npz"))
    with pytest.raises(UserError, match=r"shards.json is not there.*python -m data index"):
        open_order(config_of(f"file://{bare}", tmp_path / "cache"), 16, 5)


def test_a_cache_smaller_than_the_shards_still_gives_all_bytes(folder, local, tmp_path):
    size = max(os.path.getsize(tar) for tar in folder.glob("*.tar"))
    config = config_of(f"file://{folder}", tmp_path / "cache", gigabytes=2.5 * size / 1e9, ahead=0)
    order = open_order(config, 16, 5)
    loader = open_loader(order, config, 9, 0, 1, 0)
    for step, arrays in loader.batches(0, 6):
        assert all(np.array_equal(arrays[k], local[step][k]) for k in arrays)
        assert (
            sum(f.stat().st_size for f in (tmp_path / "cache").iterdir() if f.is_file())
            <= 2.5 * size
        )
    with pytest.raises(
        UserError, match=r"cache.* is full: data.cache.gigabytes=1e-05 has no room for .* GB"
    ):
        batches(config_of(f"file://{folder}", tmp_path / "tiny", gigabytes=1e-5, ahead=0))


def _use(folder, cache, bytes_of, seed):
    """Fetches shards in a sequence of its own and compares what it reads; exits with 1 where a byte
    differs."""
    tars = sorted(folder.glob("*.tar"))
    own = Store(Cache(str(cache), bytes_of / 1e9))
    for n in np.random.default_rng(seed).integers(len(tars), size=40):
        index = read_index(str(tars[n]))
        offset, length = index.members(int(n))["json"]
        own.files.clear()  # so that each turn asks the cache again
        if (
            own.read(f"file://{tars[n]}", offset, length)
            != tars[n].read_bytes()[offset : offset + length]
        ):
            sys.exit(1)


def test_many_processes_share_a_small_cache(folder, tmp_path):
    size = max(os.path.getsize(tar) for tar in folder.glob("*.tar"))
    context = multiprocessing.get_context("fork")
    users = [
        context.Process(target=_use, args=(folder, tmp_path / "cache", 2.3 * size, seed))
        for seed in range(4)
    ]
    for user in users:
        user.start()
    for user in users:
        user.join(120)
    assert [user.exitcode for user in users] == [0] * 4
    assert not list((tmp_path / "cache").glob("*.part"))


def test_a_fetch_that_is_killed_leaves_nothing_that_counts(server, tmp_path):
    over = threading.Event()

    def hang(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "10000000")
        handler.end_headers()
        handler.wfile.write(b"x" * 5_000_000)
        handler.wfile.flush()
        over.wait(60)

    url, cache = f"{server.url}/shard-000000.tar", Cache(str(tmp_path / "cache"), 0.015)
    server.broken["/shard-000000.tar"] = hang
    code = (
        "import sys; from data.storage.cache import Cache; "
        "Cache(sys.argv[1], 0.015).get(sys.argv[2])"
    )
    process = subprocess.Popen([sys.executable, "-c", code, cache.folder, url], cwd=ROOT)
    while (
        not list(Path(cache.folder).glob("*.part"))
        or list(Path(cache.folder).glob("*.part"))[0].stat().st_size < 1e7
    ):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    over.set()
    assert not os.path.exists(cache.place(url))
    # The dead one's 10 MB no longer count: a file of 6 MB fits into 15 MB beside it only if it
    # goes.
    (tmp_path / "other.tar").write_bytes(b"y" * 6_000_000)
    cache.get(f"file://{tmp_path}/other.tar")
    server.broken.clear()
    assert (
        Path(cache.get(url)).read_bytes()
        == (
            Path(server.RequestHandlerClass.keywords["directory"]) / "shard-000000.tar"
        ).read_bytes()
    )
    assert not list(Path(cache.folder).glob("*.part"))


def test_a_server_that_fails_is_asked_again_and_then_named(server, tmp_path, monkeypatch, local):
    waits = []
    monkeypatch.setattr(patience.time, "sleep", waits.append)
    tries = []

    def flaky(handler):
        tries.append(1)
        if len(tries) == 1:
            handler.send_error(503)
        elif len(tries) == 2:  # half of it, and then nothing
            handler.send_response(200)
            handler.send_header("Content-Length", "20480")
            handler.end_headers()
            handler.wfile.write(b"\0" * 10240)
        else:
            del handler.server.broken[handler.path]
            handler.do_GET()

    server.broken["/shard-000002.tar"] = flaky
    assert same(batches(config_of(server.url, tmp_path / "cache", ahead=0)), local)
    assert len(tries) == 3 and sum(waits) == 1.0 + 2.0

    server.broken["/shard-000001.tar"] = lambda handler: handler.send_error(500)
    waits.clear()
    with pytest.raises(
        EnvironmentFault, match="shard-000001.tar failed .* times in 120 s: the server says 500"
    ):
        batches(config_of(server.url, tmp_path / "other", ahead=0))
    assert sum(waits) == 120
    server.broken["/shard-000001.tar"] = lambda handler: handler.send_error(401)
    with pytest.raises(UserError, match="shard-000001.tar may not be read: the server says 401"):
        batches(config_of(server.url, tmp_path / "fourth", ahead=0))
    server.broken["/shard-000001.tar"] = lambda handler: handler.send_error(404)
    with pytest.raises(UserError, match="shard-000001.tar is not there: the server says 404"):
        batches(config_of(server.url, tmp_path / "third", ahead=0))


def test_a_shard_that_the_operator_gave_up_is_not_asked_for(server, tmp_path):
    server.broken["/shard-000001.tar"] = lambda handler: handler.send_error(500)
    config = config_of(server.url, tmp_path / "cache", ahead=8)
    order = open_order(config, 16, 5)
    loader = open_loader(order, config, 9, 0, 1, 0, frozenset({f"{server.url}/shard-000001.tar"}))
    for _, arrays in loader.batches(0, 6):
        assert not (tag(arrays, "shard") == 1).any()
    tars = [f"/shard-00000{i}.tar" for i in (0, 2, 3, 4)]
    assert sorted(path for path in server.asked if path.endswith(".tar")) == tars


def test_another_shard_under_the_same_url_is_noticed(folder, tmp_path):
    there = tmp_path / "there"
    shutil.copytree(folder, there)
    config = config_of(f"file://{there}", tmp_path / "cache")
    order = open_order(config, 16, 5)
    loader = open_loader(order, config, 9, 0, 1, 0)
    next(loader.batches(0, 1))
    write_shards(
        there, [make_clip(i, size=64) for i in range(100, 110)], 10
    )  # another shard-000000.tar
    # What the cache holds is what the run knows; without the cache, the new one is refused.
    again = open_loader(order, config, 9, 0, 1, 0)
    assert len(list(again.batches(0, 6))) == 6
    remote = config_of(f"file://{there}", tmp_path / "empty", ahead=0)
    with pytest.raises(UserError, match="shard-000000.tar is not the one that this run knows"):
        list(open_loader(order, remote, 9, 0, 1, 0).batches(0, 6))


def test_a_local_shard_that_changes_under_a_run_is_refused(folder, tmp_path):
    there = tmp_path / "there"
    shutil.copytree(folder, there)
    config = DataConfig(shards=str(there), val_clips=4)
    order = open_order(config, 16, 5)
    write_shards(there, [make_clip(i, size=64) for i in range(100, 110)], 10)
    with pytest.raises(UserError, match="shard-000000.tar is not the one that this run knows"):
        list(open_loader(order, config, 9, 0, 1, 0).batches(0, 6))


def test_commands_and_packages_that_fail_say_why(tmp_path, monkeypatch):
    monkeypatch.setattr(patience.time, "sleep", lambda seconds: None)
    store = Store(Cache(str(tmp_path / "cache"), 1.0))
    with pytest.raises(
        EnvironmentFault,
        match="failed .* times in 120 s: the command ended with exit code 3: no such bucket",
    ):
        read_catalogue("pipe:echo no such bucket >&2; exit 3 # a.tar", store)
    with pytest.raises(
        UserError, match="nosuch://x/a.tar.* cannot be opened: Protocol not known: nosuch"
    ):
        read_catalogue("nosuch://x/a.tar", store)
    with pytest.raises(EnvironmentFault, match="a.tar.* failed .* times in 120 s: .*refused"):
        read_catalogue("http://127.0.0.1:9/a.tar", store)
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UserError, match="file/cache cannot be written: not a directory; set data.cache.folder"
    ):
        read_catalogue(
            "http://127.0.0.1:9/a.tar", Store(Cache(str(tmp_path / "file" / "cache"), 1.0))
        )


def test_a_full_disk_makes_room_or_says_so(folder, tmp_path, monkeypatch):
    cache = Cache(str(tmp_path / "cache"), 1.0)
    tars = sorted(folder.glob("*.tar"))
    first = cache.get(f"file://{tars[0]}")
    reserve = os.posix_fallocate

    def fallocate(*arguments):
        if os.path.exists(first):
            raise OSError(28, "No space left on device")
        reserve(*arguments)

    monkeypatch.setattr(os, "posix_fallocate", fallocate)
    cache.get(f"file://{tars[1]}")
    assert not os.path.exists(first)
    monkeypatch.setattr(
        os,
        "posix_fallocate",
        lambda *a: (_ for _ in ()).throw(OSError(28, "No space left on device")),
    )
    cache.patience.seconds = 0
    with pytest.raises(EnvironmentFault, match="is full: no space is left on its disk"):
        cache.get(f"file://{tars[2]}")


def test_the_catalogue_spares_the_indexes_and_follows_the_tars(folder, tmp_path, monkeypatch):
    there = tmp_path / "there"
    shutil.copytree(folder, there)
    store = Store(Cache(str(tmp_path / "cache"), 1.0))
    paths, entries = read_catalogue(str(there), store)
    assert [entry.clips for entry in entries] == [10] * 5 and [
        base_name(p) for p in paths
    ] == sorted(json.loads((there / "shards.json").read_text())["shards"])
    for tar in paths:
        os.remove(index_path(tar))
    assert read_catalogue(str(there), store) == (paths, entries)
    assert not list(there.glob("*.npz"))
    write_shards(there, [make_clip(i, size=64) for i in range(7)], 7)  # another shard-000000.tar
    assert [entry.clips for entry in read_catalogue(str(there), store)[1]] == [7, 10, 10, 10, 10]
    (there / "shards.json").write_text("{")
    assert [entry.clips for entry in read_catalogue(str(there), store)[1]] == [7, 10, 10, 10, 10]


def test_verify_reads_urls_too(server, tmp_path, capsys):
    assert verify([server.url, f"cache.folder={tmp_path / 'cache'}", "workers=1"]) == 0
    assert "5 shards, 50 clips, 200 crops: all whole" in capsys.readouterr().out
