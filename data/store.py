"""Where readers get bytes from: shards of this machine and, through the cache, shards from elsewhere.

Runs in the loader's workers; imports neither torch nor webdataset.
"""

import contextlib
import os
import resource
import time
from collections import OrderedDict

from data import remote
from data.cache import TRIES
from data.index import build_index, fits, index_path, load_index, read_index, save_index
from engine.errors import UserError, explain, failure_of

# Shards kept open. A rank whose lanes and pools need more opens some of them again and again, which costs a millisecond each.
MOST_OPEN = 2048


class Store:
    """Reads indexes and bytes of shards by path or URL.

    Args:
        cache: data.cache.Cache, for URLs.
        digests: {path: Index.digest} as the run knows them; a shard that turns out to be another is refused.
    Attributes:
        retried: [(path, reason), ...] of reads that failed and were tried again, until somebody takes them.
    """

    def __init__(self, cache, digests=None):
        self.cache, self.digests, self.retried = cache, digests or {}, []
        self.files, self.indexes = OrderedDict(), OrderedDict()

    def __getstate__(self):
        # Another process opens its own.
        return {**vars(self), "files": OrderedDict(), "indexes": OrderedDict(), "retried": []}

    def index(self, path):
        """The data.index.Index of a shard.

        Raises:
            UserError: it cannot be read, or is not the shard that the run knows.
        """
        return _recent(self.indexes, path, lambda: self.read_index(path))

    def read(self, path, offset, length):
        """Bytes of a shard; a read that fails is tried again before it stops the run with a UserError."""
        def pread():
            return os.pread(_recent(self.files, path, lambda: self._open(path), os.close), length, offset)

        data = self._patiently(pread, path)
        if len(data) != length:
            raise UserError(f"shard {path} changed while it was read: {length} bytes wanted at {offset}, {len(data)} there")
        return data

    def elsewhere(self):
        """Whether any shard that the run knows lies on no disk of this machine."""
        return any(map(remote.is_remote, self.digests))

    def local(self, path):
        """The path on this machine's disk of a shard, fetched if it is from elsewhere."""
        return self._fetched(path) if remote.is_remote(path) else path

    def fetch(self, path):
        """Have a shard from elsewhere and its index on this machine's disk."""
        if remote.is_remote(path) and path not in self.files:
            self.read(path, 0, 0)

    def stat(self, path):
        """os.stat of a local tar."""
        return self._patiently(lambda: os.stat(path), path)

    def read_index(self, path):
        """As ``index``, but not kept here; several threads may call it at once."""
        if remote.is_remote(path):
            index = self._remote_index(path)
            if index.digest != self.digests.get(path, index.digest):
                index = self._remote_index(path, renew=True)  # the cache may hold what lay there earlier
        else:
            self.stat(path)
            index = read_index(path)
        wanted = self.digests.get(path, index.digest)
        if index.digest != wanted:
            raise UserError(f"shard {path} is not the one that this run knows: its keys, places and lengths have the hash "
                            f"{index.digest} and had {wanted}; give back the old one, or start a new run")
        return index

    def _remote_index(self, url, renew=False):
        """From the file beside it, else built from the shard itself and kept in the cache."""
        beside = remote.beside(url, index_path(""))
        if beside:
            with contextlib.suppress(FileNotFoundError):  # other tools write none
                index = load_index(self.cache.get(beside, renew), url)
                if index:
                    return index
        tar = self._fetched(url, renew)
        kept = self.cache.place(beside or url + index_path(""))
        if os.path.isfile(kept) and not renew:
            index = load_index(kept, url)
            if index and fits(index, tar):
                return index
        index = build_index(tar)
        index.path = url
        save_index(index, kept)
        return index

    def _fetched(self, url, renew=False):
        try:
            return self.cache.get(url, renew)
        except FileNotFoundError as error:
            raise UserError(f"shard {url} is not there: {error}") from None

    def _open(self, path):
        if not remote.is_remote(path):
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        index = self.index(path)
        for attempt in range(TRIES):
            # Between fetching and opening another process may have made room of it.
            with contextlib.suppress(FileNotFoundError):
                file = self._fetched(path, renew=attempt > 0)
                if fits(index, file):
                    return os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        raise UserError(f"shard {path} is not the tar that its index describes, {index.tar_bytes} bytes long")

    def _patiently(self, call, path):
        for attempt in range(TRIES):
            try:
                return call()
            except OSError as error:
                self.retried.append((path, f"read error, tried again: {explain(error)}"))
                if attempt == TRIES - 1 or isinstance(error, (FileNotFoundError, PermissionError)):
                    raise failure_of(error, f"reading shard {path} failed {attempt + 1} times: {explain(error)}; to go on "
                                    f"without it, list its name in the run's bad_shards.json") from None
                self._forget(path)
                time.sleep(2.0**attempt)  # a file system that is away for a moment comes back
        raise AssertionError("unreachable")

    def _forget(self, path):
        """A handle that failed is not asked again: after an outage it may be stale for good."""
        file = self.files.pop(path, None)
        if file is not None:
            os.close(file)


def _most_open():
    """Files that may be open: half of what the system lets this process have."""
    return min(MOST_OPEN, max(16, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2))


def _recent(cache, key, make, drop=None):
    """cache[key], made if it is missing; the least recently used entry goes when there are too many."""
    if key not in cache:
        cache[key] = make()
        if len(cache) > _most_open():
            _, old = cache.popitem(last=False)
            if drop:
                drop(old)
    cache.move_to_end(key)
    return cache[key]
