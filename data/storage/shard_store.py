"""Where readers get bytes from: shards of this machine and, through the cache, remote shards.

Runs in the loader's workers; imports neither torch nor webdataset.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from data.format.index import (
    Index,
    find_index,
    fits,
    index_path,
    index_tar,
    load_index,
    save_index,
)
from data.storage import fetch
from data.storage.cache import TOO_MANY_OPEN, Cache
from data.storage.patience import Patience
from engine.errors import UserError, explain, failure_of
from engine.run import open_files

# Shards kept open. A rank whose lanes and pools need more opens some of them again and again, which
# costs a millisecond each.
MOST_OPEN = 2048
TICK_S = 1.0  # between two checks of what this process holds of the cache
IDLE_TICKS = 60  # after which a shard of the cache that nobody reads is given up
ASKED_TICKS = 5  # the same where another process asks for room
# Between two notes that a shard is in use, for who looks what was used longest ago.
TOUCH_TICKS = 20
FETCHED_S = 10.0  # for which a shard that was fetched ahead counts as here

Result = TypeVar("Result")
Value = TypeVar("Value")


class Handle:
    """An open file, closed when nobody has it any more.

    Whoever reads it while it is given up still reads it.

    Attributes:
        file: its descriptor.  used: whether it was read since the last look.  idle: looks since
            then.
    """

    __slots__ = ("file", "used", "idle")

    def __init__(self, file: int) -> None:
        self.file, self.used, self.idle = file, True, 0

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self.file)


@dataclass
class Known:
    """An index, and the handle that keeps its file in the cache.

    Local ones are mapped and need none.
    """

    index: Index
    handle: Handle | None = None


class Store:
    """Reads indexes and bytes of shards by path or URL.

    What it holds open is bounded by the limit on open files. Remote shards are held in the cache
    while they are read; a thread gives up those that are idle, or that others need the room of.

    Args:
        cache: for URLs; None where there are none.
        digests: {path: Index.digest} as the run knows them; a shard that turns out to be another is
            refused.
        patience: with what fails to be read.
    Attributes:
        retried: [(path, reason), ...] of reads that failed and were tried again, until somebody
            takes them.
    """

    def __init__(
        self,
        cache: Cache | None,
        digests: Mapping[str, str] | None = None,
        patience: Patience | None = None,
    ) -> None:
        self.cache = cache
        self.digests = digests or {}
        self.retried: list[tuple[str, str]] = []
        self.patience = patience or Patience()
        if cache is not None:
            cache.patience = self.patience
        self._empty()

    @property
    def remote_cache(self) -> Cache:
        """The cache of remote shards.

        Raises:
            ValueError: the store was made without one.
        """
        if self.cache is None:
            raise ValueError("a remote shard was asked of a store that has no cache")
        return self.cache

    def _empty(self) -> None:
        self.files: OrderedDict[str, Handle] = OrderedDict()
        self.indexes: OrderedDict[str, Known] = OrderedDict()
        self._fetched: dict[str, float] = {}
        self._keeper: threading.Thread | None = None
        self._lock = threading.Lock()
        if self.cache is not None:
            self.cache.release = weakref.WeakMethod(self.release)

    def __getstate__(self) -> dict[str, Any]:
        # Another process, or thread, opens its own.
        own = ("files", "indexes", "_fetched", "_keeper", "_lock")
        state = {name: value for name, value in vars(self).items() if name not in own}
        return {**state, "retried": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._empty()

    def index(self, path: str) -> Index:
        """Return the index of a shard.

        Raises:
            UserError: it is not there, or is not the shard that the run knows.
            EnvironmentFault: it cannot be read.
        """
        known = self.indexes.get(path)
        if known is None:
            known = self._patiently(
                lambda: self._keep(self.indexes, path, Known(*self._read_index(path))), path
            )
        else:
            _used(self.indexes, path)
        return known.index

    def read(self, path: str, offset: int, length: int) -> bytes:
        """Return bytes of a shard.

        Raises:
            Failure: a read failed, and so did all further tries.
        """
        data = self._patiently(lambda: self._pread(path, offset, length), path)
        if len(data) != length:
            raise UserError(
                f"shard {path} changed while it was read: {length} bytes wanted at {offset}, "
                f"{len(data)} there"
            )
        return data

    def has_remote(self) -> bool:
        """Return whether any shard that the run knows is remote."""
        return any(map(fetch.is_remote, self.digests))

    @contextlib.contextmanager
    def kept(self, path: str) -> Generator[str, None, None]:
        """Yield the path on this machine's disk of a shard, which is there within the block.

        A remote one is fetched.
        """
        if not fetch.is_remote(path):
            yield path
            return
        handle = Handle(self._patiently(lambda: self._fetch(path), path))
        yield self.remote_cache.place(path)
        del handle

    def fetch(self, path: str) -> None:
        """Have a remote shard and its index on this machine's disk; keeps neither open."""
        now = time.monotonic()
        if not fetch.is_remote(path) or now - self._fetched.get(path, -FETCHED_S) < FETCHED_S:
            return
        self.read_index(path)
        os.close(self._patiently(lambda: self._fetch(path), path))
        if len(self._fetched) >= MOST_OPEN:
            self._fetched.clear()
        self._fetched[path] = now

    def stat(self, path: str) -> os.stat_result:
        """Return os.stat of a local tar."""
        return self._patiently(lambda: os.stat(path), path)

    def read_index(self, path: str) -> Index:
        """Return what ``index`` does, and keep nothing; several threads may call it at once."""
        return self._patiently(lambda: self._read_index(path), path)[0]

    def give_up(self, ticks: int | None = None) -> None:
        """Close shards of the cache that were not read for so many looks.

        Args:
            ticks: None: the half that was used longest ago.
        """
        with self._lock:
            # A copy: reading moves entries.
            held = [path for path in list(self.files) if fetch.is_remote(path)]
            if ticks is None:
                going = held[: -(-len(held) // 2)]
            else:
                going = [path for path in held if self.files[path].idle >= ticks]
            for path in going:
                del self.files[path]
                self.indexes.pop(path, None)
            if ticks is None:  # indexes whose shards are closed already
                for path, known in list(self.indexes.items()):
                    if known.handle and path not in self.files:
                        del self.indexes[path]

    def release(self) -> bool:
        """Give up some shards of the cache, idle ones first, and return whether there were any."""
        before = len(self.files) + len(self.indexes)
        self.give_up(ASKED_TICKS)
        if len(self.files) + len(self.indexes) == before:
            self.give_up()
        return len(self.files) + len(self.indexes) < before

    def _pread(self, path: str, offset: int, length: int) -> bytes:
        handle = self.files.get(path)
        if handle is None:
            handle = self._keep(self.files, path, Handle(self._open(path)))
        else:
            handle.used = True
            _used(self.files, path)
        return os.pread(handle.file, length, offset)

    def _keep(self, kept: OrderedDict[str, Value], path: str, value: Value) -> Value:
        """Put what was opened among what is kept.

        What was used longest ago goes where that is too much.
        """
        remote = fetch.is_remote(path)
        # A remote shard is held by two descriptors, its index's being one; an index of this machine
        # takes none.
        most = MOST_OPEN
        if remote or kept is self.files:
            most = min(MOST_OPEN, open_files.budget() // 2)
        with self._lock:
            kept[path] = value
            while len(kept) > most:
                kept.popitem(last=False)
            if remote and self._keeper is None:
                keeper = threading.Thread(
                    target=_look_after,
                    args=(weakref.ref(self), self.remote_cache.asked()),
                    name="keeper",
                    daemon=True,
                )
                self._keeper = keeper
                keeper.start()
        return value

    def _read_index(self, path: str) -> tuple[Index, Handle | None]:
        """(index, handle of its file in the cache or None) of a shard.

        It is the shard that the run knows.
        """
        handle = None
        if fetch.is_remote(path):
            index, handle = self._remote_index(path)
            if index.digest != self.digests.get(path, index.digest):
                # The cache may hold what lay there earlier.
                index, handle = self._remote_index(path, renew=True)
        else:
            os.stat(path)  # an error of the disk is reported as one, not as a damaged tar
            index = find_index(path)
        wanted = self.digests.get(path, index.digest)
        if index.digest != wanted:
            raise UserError(
                f"shard {path} is not the one that this run knows: its keys, offsets and lengths "
                f"have the hash {index.digest} and had {wanted}; give back the old one, or start a "
                f"new run (if this is one, python -m data index renews the folder's shards.json)"
            )
        return index, handle

    def _remote_index(self, url: str, renew: bool = False) -> tuple[Index, Handle | None]:
        """(index, handle or None) from the file beside a shard.

        Else it is built from the shard itself and kept in the cache.
        """
        cache = self.remote_cache
        beside = fetch.beside(url, index_path(""))
        if beside:
            with contextlib.suppress(FileNotFoundError):  # other tools write none
                handle = Handle(cache.open(beside, renew))
                index = load_index(handle.file, url, beside)
                if index:
                    return index, handle
        tar = Handle(self._fetch(url, renew))
        kept = cache.place(beside or url + index_path(""))
        handle = None if renew else self._held(kept)
        if handle:
            index = load_index(handle.file, url, kept)
            if index and fits(index, tar.file):
                return index, handle
        index = index_tar(cache.place(url))
        index.path = url
        save_index(index, kept)
        return index, self._held(kept)

    def _held(self, place: str) -> Handle | None:
        """The handle of a file that is in the cache already, or None."""
        file = self.remote_cache.held(place)
        return None if file is None else Handle(file)

    def _fetch(self, url: str, renew: bool = False) -> int:
        """The descriptor of a complete shard in the cache."""
        try:
            return self.remote_cache.open(url, renew)
        except FileNotFoundError as error:
            raise UserError(f"shard {url} is not there: {error}") from None

    def _open(self, path: str) -> int:
        if not fetch.is_remote(path):
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        index = self.index(path)
        for renew in (False, True):
            file = self._fetch(path, renew)
            if fits(index, file):
                return file
            os.close(file)
        raise UserError(
            f"shard {path} is not the tar that its index describes, {index.tar_bytes} bytes long: "
            f"python -m data index makes the index anew"
        )

    def _patiently(self, call: Callable[[], Result], path: str) -> Result:
        """call(), tried again where the system says that it failed."""
        trial = None
        while True:
            try:
                return call()
            except OSError as error:
                if error.errno in TOO_MANY_OPEN and self._shed():
                    continue
                trial = trial or self.patience.trial()
                self.retried.append((path, f"read error, tried again: {explain(error)}"))
                words = f"reading shard {path} {trial.failed()}: {explain(error)}"
                # What is not there, or not for this user, is so at the next try too.
                absent = isinstance(error, (FileNotFoundError, PermissionError))
                if absent or not trial.again(words):
                    remedy = "to resume without it, list its name in the run's bad_shards.json"
                    raise failure_of(error, f"{words}; {remedy}") from None
                self._forget(path)

    def _forget(self, path: str) -> None:
        """Give up a handle that failed: after an outage it may be stale for good."""
        with self._lock:
            self.files.pop(path, None)

    def _shed(self) -> bool:
        """Close half of what is open; whether there was anything."""
        with self._lock:
            some = len(self.files)
            for _ in range(-(-some // 2)):
                self.files.popitem(last=False)
            for _ in range(-(-len(self.indexes) // 2)):
                self.indexes.popitem(last=False)
        return bool(some)

    def _tick(self, count: int) -> None:
        """Note what was read since the last look, and every so often in the cache's folder."""
        with self._lock:
            for path, handle in list(self.files.items()):
                handle.idle = 0 if handle.used else handle.idle + 1
                handle.used = False
                known = self.indexes.get(path)
                if handle.idle < TOUCH_TICKS and not count % TOUCH_TICKS and fetch.is_remote(path):
                    with contextlib.suppress(OSError):
                        os.utime(handle.file)
                        if known and known.handle:
                            os.utime(known.handle.file)


def _used(kept: OrderedDict[str, Any], path: str) -> None:
    try:  # noqa: SIM105 - contextlib.suppress costs half a microsecond, twice a read
        kept.move_to_end(path)
    except KeyError:
        pass  # given up by the thread just now


def _look_after(store: weakref.ReferenceType[Store], answered: int) -> None:
    """The thread beside a Store that holds files of the cache, until the Store is gone."""
    count, never = 0, threading.Event()
    while True:
        never.wait(TICK_S)
        own = store()
        if own is None:
            return
        count += 1
        own._tick(count)
        own.give_up(IDLE_TICKS)
        asked = own.remote_cache.asked()
        if asked != answered:
            answered = asked
            own.release()
        del own
