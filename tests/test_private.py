"""Caches hold people's images and code that will run: no other user of the machine can read or
plant them."""

import os
import stat
import tempfile

import pytest
from clips import make_clip, write_shards

from data.format.index import index_path, read_index
from data.storage.cache import CacheConfig
from data.storage.shard_store import Store
from engine.errors import UserError
from engine.run import private

STRANGER = 54321
root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's folder")


@pytest.fixture
def tmp(tmp_path, monkeypatch):
    """A folder for temporary files, open to everybody, as /tmp is."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    folder.chmod(0o1777)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, [make_clip(i, size=16) for i in range(2)], 1)
    return folder


def mode(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


def fetch(shards, folder=""):
    cache = CacheConfig(folder, 1.0).open()
    store = Store(cache)
    url = f"file://{shards}/shard-000000.tar"
    store.read(url, 0, 1)
    return cache, url


def test_only_its_user_can_read_the_cache(shards, tmp, tmp_path):
    before = os.umask(0)
    try:
        for folder in ("", str(tmp_path / "own")):
            cache, url = fetch(shards, folder)
            assert (
                mode(cache.folder) == 0o700 and mode(os.path.join(cache.folder, "locks")) == 0o700
            )
            files = [
                os.path.join(at, name) for at, _, names in os.walk(cache.folder) for name in names
            ]
            assert len(files) >= 4 and all(mode(file) & 0o077 == 0 for file in files), files
        assert os.listdir(tmp) == [f"counterpose-cache-{os.getuid()}"]
    finally:
        os.umask(before)


def test_a_cache_that_was_open_is_closed(shards, tmp):
    folder = tmp / f"counterpose-cache-{os.getuid()}"
    folder.mkdir(mode=0o755)
    fetch(shards)
    assert mode(folder) == 0o700


@pytest.mark.parametrize(
    "plant,words",
    [
        ("a link", "is a link"),
        ("open", "mode 0777, so others may have put files there"),
        pytest.param(
            "a stranger's", f"belongs to user {STRANGER}, this process runs as user", marks=root
        ),
    ],
)
def test_a_planted_cache_is_refused(shards, tmp, tmp_path, plant, words):
    folder, victim = tmp / f"counterpose-cache-{os.getuid()}", tmp_path / "victim"
    victim.mkdir()
    if plant == "a link":
        folder.symlink_to(victim)
    else:
        folder.mkdir()
        folder.chmod(0o777 if plant == "open" else 0o755)
        if plant == "a stranger's":
            os.chown(folder, STRANGER, STRANGER)
    with pytest.raises(UserError, match=f"{folder} .*{words}.*set data.cache.folder"):
        fetch(shards)
    assert not os.listdir(victim) and plant == "a link" or not os.listdir(folder)


@root
def test_a_folder_that_the_user_names_may_be_anybodys_but_where_everybody_can_plant_one(
    shards, tmp, tmp_path
):
    for folder in (tmp / "planted", tmp_path / "given"):
        folder.mkdir()
        os.chown(folder, STRANGER, STRANGER)
    with pytest.raises(
        UserError, match="planted belongs to user 54321 and lies where everybody can put files"
    ):
        fetch(shards, str(tmp / "planted"))
    os.symlink(tmp / "planted", tmp_path / "link")
    with pytest.raises(UserError, match="planted belongs to user 54321"):
        fetch(shards, str(tmp_path / "link"))
    with pytest.raises(UserError, match="everybody can write into .*tmp: name a folder inside it"):
        fetch(shards, str(tmp))
    (tmp / "planted" / "deep" / "er").mkdir(parents=True)  # as below a home folder that is /tmp
    with pytest.raises(UserError, match="planted belongs to user 54321"):
        private.refuse_planted(str(tmp / "planted" / "deep" / "er"), "set WARP_CACHE_PATH")
    private.refuse_planted(str(tmp / "missing"), "set WARP_CACHE_PATH")
    fetch(shards, str(tmp_path / "given"))  # a container's root, in a folder that it was given


def test_links_in_the_cache_are_not_followed(shards, tmp_path):
    cache = CacheConfig(str(tmp_path / "cache"), 1.0).open()
    url, victim = f"file://{shards}/shard-000000.tar", tmp_path / "victim"
    victim.write_text("dear")
    os.mkdir(cache.folder)
    os.symlink(victim, cache.place(url) + ".part")
    assert os.path.getsize(cache.get(url)) == os.path.getsize(shards / "shard-000000.tar")
    assert victim.read_text() == "dear"
    os.remove(cache.place(url))
    os.symlink(victim, cache.place(url))
    with pytest.raises(UserError, match="too many levels of symbolic links"):
        cache.get(url)
    lock = os.path.join(cache.folder, "locks", "wanted")
    os.symlink(victim, lock)
    with pytest.raises(UserError, match="too many levels of symbolic links"):
        cache._ask("a test")
    assert victim.read_text() == "dear"


def test_an_index_is_not_written_through_a_link(shards, tmp_path):
    victim, tar = tmp_path / "victim", str(shards / "shard-000001.tar")
    victim.write_text("dear")
    os.remove(index_path(tar))
    os.symlink(victim, f"{index_path(tar)}.writing-{os.getpid()}")
    assert (
        len(read_index(tar)) == 1
        and os.path.isfile(index_path(tar))
        and victim.read_text() == "dear"
    )


def test_compiled_code_lies_where_nobody_else_can_plant_it(tmp, tmp_path, monkeypatch):
    for name in private.COMPILED:
        monkeypatch.delenv(name, raising=False)
    folders = private.compiled_code()
    assert sorted(folders) == ["TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"]
    own = tmp / f"counterpose-{os.getuid()}"
    assert all(
        os.path.dirname(folder) == str(own) and mode(folder) == 0o700 for folder in folders.values()
    )
    assert mode(own) == 0o700
    monkeypatch.setenv("TRITON_CACHE_DIR", "/there")  # the user's own choice stays
    assert sorted(private.compiled_code(str(tmp_path / "node"))) == ["TORCHINDUCTOR_CACHE_DIR"]
    os.rename(own, tmp / "gone")
    os.symlink(tmp / "gone", own)
    with pytest.raises(UserError, match="is a link: remove it, or set TORCHINDUCTOR_CACHE_DIR"):
        private.compiled_code()


def test_a_run_that_compiles_says_where_to(tmp, monkeypatch):
    import torch

    from engine.config.train_config import TrainConfig
    from engine.training import loop

    for name in private.COMPILED:
        monkeypatch.delenv(name, raising=False)
    for compiled, device, wanted in (
        ("auto", "cpu", False),
        ("off", "cuda", False),
        ("auto", "cuda", True),
        ("on", "cpu", True),
    ):
        environment = {}
        monkeypatch.setattr(loop.os, "environ", environment)
        threads = torch.get_num_threads()
        monkeypatch.setattr(loop.process_group, "threads", lambda: threads)  # noqa: B023 - called at once
        loop._settle(TrainConfig(compile=compiled), torch.device(device))
        assert ("TORCHINDUCTOR_CACHE_DIR" in environment) == wanted, (compiled, device)
