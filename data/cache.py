"""Shards that lie elsewhere, kept on this machine's disk: bounded, shared by all its processes, there after a restart.

    FOLDER/0123456789abcdef-shard-000007.tar        a whole file, by a hash of its URL
    FOLDER/0123456789abcdef-shard-000007.tar.part   being fetched: its space is taken, its lock held
    FOLDER/locks/...                                one of them a URL; one for making room

A file that has its name is whole. What was used longest ago goes first; who still reads a file that goes keeps reading it.
A process that is killed leaves at most a .part, which whoever comes next removes.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import tempfile
import time
from dataclasses import dataclass

from data import remote
from engine.config import key
from engine.errors import UserError, explain, failure_of

TRIES = 4
WAIT_S = 0.2  # between two looks whether others made room
LOCKS = 1024
PART = ".part"
STRIDE = 1 << 26  # bytes reserved at a time where nobody knows how many come


@dataclass
class CacheConfig:
    folder: str = key("", "where shards from URLs are kept on each machine, best on a local disk; default: "
                          "counterpose-cache-UID in the folder for temporary files", path="one")
    gigabytes: float = key(100.0, "most that is kept there; give each machine's cache room for the shards it reads at a time",
                           low=0.001)
    ahead: int = key(100, "steps ahead of reading that shards are fetched; 0: only when they are needed", low=0)

    def open(self):
        return Cache(self.folder or os.path.join(tempfile.gettempdir(), f"counterpose-cache-{os.getuid()}"), self.gigabytes)


class Cache:
    """A folder of fetched files.

    Args:
        folder: made when the first file comes.  gigabytes: 1e9 bytes that it may hold.
    """

    def __init__(self, folder, gigabytes):
        self.folder, self.most = folder, int(gigabytes * 1e9)

    def place(self, url):
        """Where a URL's file is or would be."""
        safe = re.sub(r"[^A-Za-z0-9._-]+", "_", remote.base_name(url))[-80:]
        return os.path.join(self.folder, f"{hashlib.blake2b(url.encode(), digest_size=8).hexdigest()}-{safe}")

    def get(self, url, renew=False):
        """The path of a URL's bytes on this disk, fetched if they are not there or ``renew`` asks for fresh ones.

        Raises:
            FileNotFoundError: there is no such object.
            UserError: it cannot be fetched, or the cache cannot be written or is too small.
        """
        place = self.place(url)
        if not renew and _used(place):
            return place
        with self._lock(int(os.path.basename(place)[:8], 16) % LOCKS):
            if renew or not _used(place):  # another process may have fetched it while this one waited
                self._fetch(url, place)
        return place

    def _fetch(self, url, place):
        part = place + PART
        try:
            for attempt in range(TRIES):
                with self._ours():
                    out = open(part, "wb")  # noqa: SIM115 - what a killed process left of it is written over
                with out:
                    try:
                        self._copy(url, out)
                    except FileNotFoundError:
                        raise
                    except OSError as error:
                        if attempt == TRIES - 1:
                            raise failure_of(error, f"fetching {url} failed {TRIES} times: {explain(error)}") from None
                        time.sleep(2.0**attempt)  # a server that is away for a moment comes back
                        continue
                    with self._ours():
                        out.truncate()
                        out.flush()
                        os.fsync(out.fileno())
                        os.replace(part, place)
                return
        finally:
            with contextlib.suppress(OSError):
                os.remove(part)

    def _copy(self, url, out):
        """Write a URL's bytes into an open file. UserError for what is wrong here, OSError for what is wrong there."""
        with remote.stream(url) as (blocks, length):
            reserved = 0
            for block in blocks:
                done = out.tell() + len(block)
                with self._ours():
                    if done > reserved:
                        reserved = max(done, length or done + STRIDE)
                        self.make_room(out, reserved)
                    out.write(block)
            if length is not None and out.tell() != length:
                raise OSError(f"{out.tell()} of {length} bytes came")

    def make_room(self, out, end):
        """Reserve the first ``end`` bytes of an open file, dropping what was used longest ago.

        Raises:
            UserError: even an empty cache, or the disk, has no room for it.
        """
        while not self._reserve(out, end):
            time.sleep(WAIT_S)

    def _reserve(self, out, end):
        """One try of make_room; False where it may come off once what others are fetching is there and can go."""
        with self._lock(LOCKS):
            files = self._files(os.path.basename(out.name))
            total = sum(size for _, size, _ in files)
            while True:
                if total + end <= self.most:
                    try:
                        # Taken now, so that whoever counts sees it, and a full disk shows before anything was fetched.
                        os.posix_fallocate(out.fileno(), 0, end)
                        return True
                    except OSError as error:
                        if error.errno != errno.ENOSPC:
                            raise
                old = next((i for i in reversed(range(len(files))) if self._free(files[i][2])), None)
                if old is None:
                    # Who has a part of a file already must not wait: two of them could wait for each other.
                    if files and not out.tell() and end <= self.most:
                        return False
                    why = (f"data.cache.gigabytes={self.most / 1e9:g} has no room for {end / 1e9:.3g} GB beside what is being "
                           f"fetched" if total + end > self.most else "no space is left on its disk")
                    raise UserError(f"the cache {self.folder} is full: {why}; raise data.cache.gigabytes or set "
                                    f"data.cache.folder")
                _, size, path = files.pop(old)
                with contextlib.suppress(FileNotFoundError):
                    os.remove(path)
                total -= size

    def _files(self, mine):
        """[(time of use, bytes, path), ...] of all files but ``mine``, the latest used first."""
        found = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # gone since: another process made room or finished
                    if entry.is_file(follow_symlinks=False) and entry.name != mine:
                        found.append((entry.stat().st_mtime_ns, entry.stat().st_size, entry.path))
        return sorted(found, reverse=True)

    def _free(self, path):
        """Whether a file may go: all but what a live process is fetching."""
        if not path.endswith(PART):
            return True
        with open(self._lock_path(int(os.path.basename(path)[:8], 16) % LOCKS), "ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return False
        return True

    @contextlib.contextmanager
    def _lock(self, number):
        """An exclusive lock among all processes and threads of this machine; a killed holder's is free."""
        with self._ours():
            os.makedirs(os.path.join(self.folder, "locks"), mode=0o700, exist_ok=True)
            file = open(self._lock_path(number), "ab")  # noqa: SIM115 - closed below; closing lets go
            fcntl.flock(file, fcntl.LOCK_EX)
        with file:
            yield

    def _lock_path(self, number):
        return os.path.join(self.folder, "locks", f"{number:04d}")

    @contextlib.contextmanager
    def _ours(self):
        """Turns an OSError of the cache's own folder into a UserError, so that it is not taken for the server's."""
        try:
            yield
        except OSError as error:
            raise failure_of(error, f"the cache {self.folder} cannot be written: {explain(error)}; set data.cache.folder") from None


def _used(place):
    """Whether a file is there; it then counts as used now."""
    try:
        os.utime(place)
    except FileNotFoundError:
        return False
    except OSError:
        # A cache that another user filled, or that is read-only now, can be read; it only looks older than it is.
        return os.path.isfile(place)
    return True
