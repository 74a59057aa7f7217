"""Limits of the machine: open files, disk space, memory, time; what readers do when one of them is
reached."""

import contextlib
import functools
import http.server
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
import types
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from clips import make_clip, write_shards
from faulty import DyingReader, FailingReader

from data.config import DataConfig, SourceConfig
from data.format.index import index_path, read_index
from data.loading import prefetch, quarantine
from data.loading.build import open_loader, open_order
from data.loading.loader import Loader
from data.loading.quarantine import BadSampleList
from data.loading.reader import layout
from data.sampling.manifest import quarantined_shards
from data.storage import patience
from data.storage.cache import Cache, CacheConfig
from data.storage.catalogue import indexed, write_catalogues
from data.storage.patience import Patience
from data.storage.shard_store import Store
from engine.distributed.process_group import Processes
from engine.errors import EnvironmentFault, UserError
from engine.run import open_files, preflight

ROOT = Path(__file__).resolve().parent.parent
KINDS = 8  # of shards, behind any number of names


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """A folder of KINDS shards of one clip each, with indexes: what ``link`` makes many names
    of."""
    folder = tmp_path_factory.mktemp("kinds")
    write_shards(folder, [make_clip(i, size=16) for i in range(KINDS)], 1)
    return folder


def link(kinds, folder, count):
    """Give ``count`` names to the shards of ``kinds``: as many paths, and hardly a byte."""
    folder.mkdir()
    for number in range(count):
        source, name = f"{kinds}/shard-{number % KINDS:06d}.tar", f"{folder}/shard-{number:06d}.tar"
        os.link(source, name)
        os.link(index_path(source), index_path(name))
    return folder


def run_under(files, code, *arguments, timeout=300):
    """The output of Python code in a process that may open so many files, soft and hard."""

    def limit():
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        cwd=ROOT,
        timeout=timeout,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/tests"},
        preexec_fn=limit,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


READ_ALL = """
    import os, sys
    from data.storage.cache import Cache
    from data.storage.shard_store import Store
    folder, count, others = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    taken = [os.open("/dev/null", os.O_RDONLY) for _ in range(others)]  # by logs, sockets, whatever
    store = Store(Cache(folder + "/cache", 1.0))
    known = {}
    for number in [*range(count), *range(0, count, 7)]:
        path = f"{folder}/shard-{number:06d}.tar"
        index = store.index(path)
        key = str(index.keys[0])
        assert key == f"clip{number % 8:05d}", (number, key)
        data = store.read(path, *index.members(0)["json"])
        assert known.setdefault(key, data) == data and b'"person%d"' % (number % 8 % 3) in data
    print(len(known))
"""


@pytest.mark.parametrize(
    "files,shards,others",
    [
        (256, 2_000, 0),
        # 64 shards would be kept open, and others have taken 180 files: what is open is closed, not
        # the run.
        (256, 300, 180),
        pytest.param(1024, 10_000, 0, marks=pytest.mark.long),
    ],
)
def test_a_reader_goes_through_more_shards_than_it_may_open(kinds, tmp_path, files, shards, others):
    folder = link(kinds, tmp_path / "many", shards)
    assert run_under(files, READ_ALL, folder, shards, others) == "8\n"


def test_a_worker_and_its_prefetching_keep_within_256_files(kinds, tmp_path):
    folder = link(kinds, tmp_path / "elsewhere", 300)
    entry = {number: indexed(f"{kinds}/shard-{number:06d}.tar") for number in range(KINDS)}
    write_catalogues(
        {f"{folder}/shard-{number:06d}.tar": entry[number % KINDS] for number in range(300)}
    )
    code = """
        import sys
        from data.storage.cache import CacheConfig
        from data.config import DataConfig
        from data.loading.build import open_loader, open_order
        from data.loading.loader import tag
        if __name__ == "__main__":
            cache = CacheConfig(sys.argv[1] + "/cache", 1.0, 8)
            config = DataConfig(shards="file://" + sys.argv[1], val_clips=0, cache=cache)
            loader = open_loader(open_order(config, 16, 3), config, 9, 0, 1, int(sys.argv[2]))
            tags = [tag(arrays, "shard").tolist() for _, arrays in loader.batches(0, 38)]
            print(len({shard for shards in tags for shard in shards}))
            loader.close()
    """
    assert int(run_under(256, code, folder, 0)) == 300
    (tmp_path / "main.py").write_text(textwrap.dedent(code))
    code = (
        "import runpy, sys; sys.argv = sys.argv[1:]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    assert int(run_under(256, code, tmp_path / "main.py", folder, 1)) == 300


def test_the_limit_is_raised_and_an_index_holds_no_file(kinds):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
        assert (
            open_files.raise_limit()
            == min(hard, open_files.WANTED)
            == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        )
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    before = len(os.listdir("/proc/self/fd"))
    indexes = [read_index(f"{kinds}/shard-{number:06d}.tar") for number in range(KINDS)]
    assert len(os.listdir("/proc/self/fd")) == before and [
        str(index.keys[0])[-1] for index in indexes
    ] == list("01234567")


# The cache's bound


def files_of(folder, pids):
    """{(name, inode): bytes} on disk because of a cache: its files, and removed ones that some
    process still holds open."""
    held = {}
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(folder):
            with contextlib.suppress(FileNotFoundError):
                found = entry.stat(follow_symlinks=False)
                if entry.is_file():
                    held[entry.name.removesuffix(".part"), found.st_ino] = found.st_size
    for pid in pids:
        for file in Path(f"/proc/{pid}/fd").glob("*"):
            with contextlib.suppress(OSError):
                path = os.readlink(file)
                if path.startswith(f"{folder}/") and "/locks" not in path:
                    name = os.path.basename(path).removesuffix(" (deleted)").removesuffix(".part")
                    held[name, os.stat(file).st_ino] = os.stat(file).st_size
    return held


def room_of(folder, pids):
    """Bytes that a cache takes. Of two looks what both saw: a look takes time, in which files come
    and go."""
    before, after = files_of(folder, pids), files_of(folder, pids)
    return sum(min(before[file], after[file]) for file in before.keys() & after.keys())


USE = """
    import sys
    import numpy as np
    from data.storage.cache import Cache
    from data.format.index import read_index
    from data.storage.shard_store import Store
    there, cache, limit = sys.argv[1], sys.argv[2], float(sys.argv[3])
    seed, turns = int(sys.argv[4]), int(sys.argv[5])
    store = Store(Cache(cache, limit / 1e9))
    for n in np.random.default_rng(seed).integers(24, size=turns):
        tar = f"{there}/shard-{n:06d}.tar"
        offset, length = read_index(tar).members(0)["json"]
        with open(tar, "rb") as file:
            file.seek(offset)
            assert store.read(f"file://{tar}", offset, length) == file.read(length)
    print("whole")
"""


def use(*arguments):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(USE), *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_the_cache_bounds_what_is_used_also_by_readers_and_one_that_is_killed(kinds, tmp_path):
    there, cache = tmp_path / "there", tmp_path / "cache"
    there.mkdir()
    for number in range(24):
        for suffix in ("", ".index.npz"):
            shutil.copy(
                f"{kinds}/shard-{number % KINDS:06d}.tar{suffix}",
                f"{there}/shard-{number:06d}.tar{suffix}",
            )
    size = sum(
        os.path.getsize(f"{there}/shard-000000.tar{suffix}") for suffix in ("", ".index.npz")
    )
    limit, most = 8 * size, 0
    users = [use(there, cache, limit, seed, 60) for seed in range(2)]
    victim = use(there, cache, limit, 9, 10**6)
    deadline = time.monotonic() + 200
    while any(user.poll() is None for user in users) and time.monotonic() < deadline:
        most = max(most, room_of(cache, [user.pid for user in (*users, victim)]))
        if victim.poll() is None and most > limit / 2:
            victim.send_signal(signal.SIGKILL)
            victim.wait()
        time.sleep(0.005)
    assert [user.communicate()[0] for user in users] == ["whole\n"] * 2
    assert victim.poll() == -signal.SIGKILL and limit / 2 < most <= limit


def hold(there, cache, limit, how):
    """A process that holds two shards of the cache and does nothing more; by "Cache" for good, by
    "Store" unless asked."""
    code = f"""
        import sys, time
        from data.storage.cache import Cache
        from data.storage.shard_store import Store
        cache = Cache({str(cache)!r}, {limit / 1e9})
        store = Store(cache)
        for number in range(2):
            url = f"file://{there}/shard-{{number:06d}}.tar"
            cache.open(url) if {how == "Cache"} else store.read(url, 0, 1)
        print("holds", flush=True)
        time.sleep(600)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "holds\n"
    return process


def test_what_a_reader_holds_stays_until_it_is_killed_or_asked(kinds, tmp_path, capsys):
    size = os.path.getsize(kinds / "shard-000000.tar")
    cache = Cache(str(tmp_path / "cache"), 2.5 * size / 1e9)
    for how, ask in (("Cache", False), ("Store", True)):
        process = hold(kinds, cache.folder, 2.5 * size, how)
        try:
            names = [cache.place(f"file://{kinds}/shard-{number:06d}.tar") for number in range(2)]
            cache.patience = Patience(0)
            with pytest.raises(
                EnvironmentFault, match="is full: data.cache.gigabytes=.* GB is held by readers"
            ):
                cache.get(f"file://{kinds}/shard-000002.tar")
            assert all(map(os.path.exists, names))
            if ask:
                cache.patience = Patience(60)
                cache.get(
                    f"file://{kinds}/shard-000002.tar"
                )  # the reader sleeps, and its thread hears
                assert (
                    process.poll() is None
                    and "data.cache.gigabytes is too small" in capsys.readouterr().err
                )
        finally:
            process.kill()
            process.wait()
        cache.patience = Patience(0)
        for number in range(2, 6):
            cache.get(f"file://{kinds}/shard-{number:06d}.tar")
        assert not any(map(os.path.exists, names))


def test_a_store_that_is_gone_holds_nothing(kinds, tmp_path):
    before = set(os.listdir("/proc/self/fd"))
    store = Store(Cache(str(tmp_path / "cache"), 1.0))
    store.read(f"file://{kinds}/shard-000000.tar", 0, 1)
    store.read(f"{kinds}/shard-000001.tar", 0, 1)
    assert len(set(os.listdir("/proc/self/fd")) - before) == 3
    del store
    deadline = time.monotonic() + 10  # the thread beside it may have it in hand
    while set(os.listdir("/proc/self/fd")) - before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert set(os.listdir("/proc/self/fd")) <= before


# Memory


def group(folder, limit, used, stat, cached):
    folder.mkdir()
    for name, text in (("limit", limit), ("used", used), ("stat", stat)):
        (folder / name).write_text(str(text))
    return preflight.ControlGroup(
        *(str(folder / name) for name in ("limit", "used", "stat")), cached
    )


def test_files_that_a_control_group_caches_are_memory_left(tmp_path):
    gib = 2**30
    old, new = (found.cached for found in reversed(preflight.CGROUPS))
    assert (old, new) == ("total_inactive_file", "inactive_file")
    stat = f"anon {gib}\ninactive_file {3 * gib}\ntotal_inactive_file 0\nactive_file {gib}\n"
    full = group(tmp_path / "new", 4 * gib, 4 * gib - 50 * 2**20, stat, new)
    left = preflight.memory_left([full])
    assert left is not None and left == min(3 * gib + 50 * 2**20, preflight.memory_left([]))
    stat = f"inactive_file {5}\ntotal_inactive_file {7 * 2**20}\n"
    assert preflight.memory_left([group(tmp_path / "old", 2**20, 2**20, stat, old)]) == 7 * 2**20
    assert preflight.memory_left([group(tmp_path / "bare", 2**20, 2**19, "", new)]) == 2**19
    assert preflight.memory_left(
        [group(tmp_path / "none", "max", 5, "", new)]
    ) == preflight.memory_left([])


def test_the_copy_for_checkpoints_is_counted_as_torch_takes_it(monkeypatch):
    def trainer(device, rank=0):
        return types.SimpleNamespace(
            processes=Processes(rank, 2, torch.device(device)),
            loader=types.SimpleNamespace(ring=[], workers=[]),
            names={torch.empty(100 * 2**20, device="meta"): "w"},
        )

    # 100 M weights of 4 bytes and two moments of each: 1.2 GB, and pinned the next power of two.
    assert preflight.checkpoint_copy(trainer("cpu")) == 1200 * 2**20
    assert preflight.checkpoint_copy(trainer("cuda")) == 2**31
    assert preflight.checkpoint_copy(trainer("cuda", rank=1)) == 0
    monkeypatch.setattr(preflight, "memory_left", lambda: 2**30 * 3 // 2)
    assert preflight.shared_memory(trainer("cpu")) == []
    assert (
        "1.5 GiB of memory left, a checkpoint's copy wants 2.0 GiB"
        in preflight.shared_memory(trainer("cuda"))[0]
    )


# Faults that pass


class StoreError(Exception):
    """What a cloud's library raises: no OSError."""


class FlakyFile:
    size = None

    def __init__(self, path, faults):
        self.file, self.faults = open(path, "rb"), faults  # noqa: SIM115 - closed below

    def read(self, count):
        if self.faults and self.faults.pop():
            raise StoreError("connection lost")
        return self.file.read(count)

    def close(self):
        self.file.close()
        raise StoreError("lost again")


class FlakyFiles(fsspec.AbstractFileSystem):
    """flaky:///PATH: the files of this machine, through a library that raises exceptions of its
    own."""

    protocol = "flaky"
    faults = []

    def _open(self, path, mode="rb", **options):
        return FlakyFile("/" + path.lstrip("/"), self.faults)


@pytest.fixture
def flaky():
    fsspec.register_implementation("flaky", FlakyFiles, clobber=True)
    FlakyFiles.faults.clear()
    yield FlakyFiles.faults
    FlakyFiles.faults.clear()


def test_an_exception_of_a_stores_library_is_a_read_error(kinds, tmp_path, flaky, monkeypatch):
    monkeypatch.setattr(patience.time, "sleep", lambda seconds: None)
    cache, url = Cache(str(tmp_path / "cache"), 1.0), f"flaky://{kinds}/shard-000000.tar"
    flaky += [False, True, True]  # twice at the first block
    assert Path(cache.get(url)).read_bytes() == (kinds / "shard-000000.tar").read_bytes()
    flaky += [True] * 1000
    with pytest.raises(
        EnvironmentFault,
        match=f"fetching {url} failed .* times in 120 s: storeerror: connection lost",
    ):
        cache.get(url, renew=True)


class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        if self.server.failures:
            self.server.failures -= 1
            self.send_error(500)
        else:
            super().do_GET()

    def log_message(self, *arguments):
        """Quiet."""


def test_an_error_does_not_end_prefetching(kinds, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(prefetch, "PAUSES_S", (0.01, 0.05))
    there = tmp_path / "there"
    shutil.copytree(kinds, there)
    write_catalogues({str(tar): indexed(str(tar)) for tar in sorted(there.glob("*.tar"))})
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(there))
    ) as server:
        server.failures = 0
        threading.Thread(target=server.serve_forever, daemon=True).start()
        config = DataConfig(
            shards=f"http://127.0.0.1:{server.server_address[1]}",
            val_clips=0,
            cache=CacheConfig(str(tmp_path / "cache"), 1.0, 8),
        )
        loader = open_loader(open_order(config, 4, 3), config, 9, 0, 1, 0)
        server.failures = 5
        loader.ahead.reached(0)  # nothing is read: whatever comes, the thread fetched
        deadline = time.monotonic() + 60
        while len(list((tmp_path / "cache").glob("*.tar"))) < KINDS and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(list((tmp_path / "cache").glob("*.tar"))) == KINDS and server.failures == 0
        server.shutdown()
    said = capsys.readouterr().err
    assert said.count("fetching shards ahead pauses") == 1 and "500" in said


def loader_of(folder, kind, workers, patience_s=120.0, **faults):
    """A Loader of 4 rows whose reader is one of faulty.py."""
    config = DataConfig(shards=str(folder), val_clips=0)
    order = open_order(config, 4, 3)
    reader = kind(
        order,
        config.pairs,
        config.augment,
        1,
        Store(config.cache.open(), patience=Patience(patience_s)),
    )
    vars(reader).update(faults)
    return Loader(reader, layout(4, 16, 9), range(4), workers, 2)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_read_that_fails_is_waited_for_and_reported_as_a_heartbeat(kinds, workers, capfd):
    alive = []
    for times, patience_s in ((1, 60.0), (10**6, 1.5)):
        loader = loader_of(kinds, FailingReader, workers, patience_s, times=times)
        loader.alive = lambda: alive.append(1)
        if times == 1:
            next(loader.batches(0, 1))
            assert [reason for *_, reason in loader.take_bad()] == [
                "read error, tried again: input/output error"
            ]
        else:
            with pytest.raises(
                EnvironmentFault,
                match="reading shard /there/shard-000003.tar failed .* times in .* s: input",
            ):
                next(loader.batches(0, 1))
        loader.close()
    assert len(alive) >= 2
    assert "note: reading shard /there/shard-000003.tar failed 1 time" in capfd.readouterr().err


@pytest.mark.parametrize(
    "how,kind,words",
    [
        (signal.SIGKILL, EnvironmentFault, "exit code -9: .*memory runs out"),
        (signal.SIGBUS, EnvironmentFault, "exit code -7"),
        (
            0,
            RuntimeError,
            "(?s)a loader's worker failed:.*ZeroDivisionError: a fault of the program",
        ),
    ],
)
def test_a_worker_that_ends_says_whose_fault_it_was(kinds, how, kind, words):
    loader = loader_of(kinds, DyingReader, 1, how=how)
    with pytest.raises(kind, match=words):
        list(loader.batches(0, 3))
    loader.close()


def test_a_full_disk_does_not_end_the_list_of_bad_samples(tmp_path, monkeypatch, capsys):
    entry = (7, "/a/shard-000001.tar", 3, "00.jpg does not decode: premature end")
    listed = BadSampleList(tmp_path, 0)
    listed.add([entry])
    path = tmp_path / "bad_samples.jsonl"
    before, written = path.read_bytes(), quarantine.write_file

    class Full:
        """A file that takes half a line and then nothing."""

        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def seek(self, *where):
            return self.file.seek(*where)

        def write(self, data):
            self.file.write(data[:20])
            self.file.flush()
            raise OSError(28, "No space left on device")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    opened = lambda *arguments: Full(open(*arguments))  # noqa: E731, SIM115
    monkeypatch.setattr(quarantine, "open", opened, raising=False)
    monkeypatch.setattr(quarantine, "write_file", full)
    for slot in (8, 9):
        listed.add([(slot, *entry[1:])])
    assert path.read_bytes() == before  # no half a line
    assert listed.by_shard() == {"shard-000001.tar": {"00.jpg does not decode": 3}}
    assert capsys.readouterr().err.count("cannot be written: no space left on the device") == 1
    again = BadSampleList(tmp_path, 7)  # which would cut the list
    monkeypatch.setattr(quarantine, "open", open, raising=False)
    monkeypatch.setattr(quarantine, "write_file", written)
    listed.add([])
    assert [line.split(",")[0] for line in path.read_text().splitlines()] == [
        '{"slot": 7',
        '{"slot": 8',
        '{"slot": 9',
    ]
    assert "is written again" in capsys.readouterr().err
    again.add([(20, *entry[1:])])
    assert path.read_text().startswith('{"slot": 20') and len(path.read_text().splitlines()) == 1


def test_a_damaged_line_of_the_list_stays_and_ends_nothing(tmp_path):
    path = tmp_path / "bad_samples.jsonl"
    good = '{"slot": 3, "shard": "a.tar", "index": 1, "reason": "x"}\n'
    path.write_bytes(good.encode() + b"\x00\xff{{\n" + good.replace("3", "30").encode())
    assert BadSampleList(tmp_path, 10).by_shard() == {"a.tar": {"x": 1}}
    assert path.read_bytes() == good.encode() + b"\x00\xff{{\n"
    (tmp_path / "bad_samples.json").write_text("[")
    assert quarantine.worst(tmp_path) == ""


def test_other_shards_than_those_of_this_name_are_never_skipped_in_silence(kinds, tmp_path):
    shutil.copytree(kinds, tmp_path / "other")
    order = open_order(
        DataConfig(
            sources={"one": SourceConfig(str(kinds)), "two": SourceConfig(str(tmp_path / "other"))},
            val_clips=0,
        ),
        4,
        3,
    )
    listed = tmp_path / "bad_shards.json"
    listed.write_text('["shard-000001.tar"]', encoding="utf-8-sig")
    with pytest.raises(UserError, match="2 shards of this run have that name: list the path"):
        quarantined_shards(tmp_path, order)
    path = f"{tmp_path}/other/shard-000001.tar"
    listed.write_text(f'["{path}"]', encoding="utf-8-sig")
    assert quarantined_shards(tmp_path, order) == {path}
    listed.write_text('["shard-00001.tar"]')
    with pytest.raises(
        UserError,
        match="lists shard-00001.tar, which is not a shard of this run; 16 are, such as shard-0000",
    ):
        quarantined_shards(tmp_path, order)
    listed.write_text(
        str([f"{kinds}/shard-{number:06d}.tar" for number in range(KINDS)]).replace("'", '"')
    )
    with pytest.raises(UserError, match="lists all 8 shards of source 'one'"):
        quarantined_shards(tmp_path, order)


def test_a_pause_grows_and_ends_with_patience(monkeypatch):
    slept, told = [], []
    monkeypatch.setattr(patience.time, "sleep", slept.append)
    long = Patience(60)
    long.told = told.append
    trial, pauses = long.trial(), 0
    while trial.failed().again("x is away"):
        pauses += 1
    assert sum(slept) == 60 and trial.failures == pauses + 1 and max(slept) <= 1
    assert len(told) == 60 and set(told) == {"x is away"}
    assert not Patience(0).trial().failed().again("x")
    assert np.isclose(trial.seconds, 60)
