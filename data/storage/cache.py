"""Remote shards on this machine's disk: bounded, shared by all processes, kept over restarts.

    FOLDER/0123456789abcdef-shard-000007.tar        a complete file, by a hash of its URL
    FOLDER/0123456789abcdef-shard-000007.tar.part   being fetched: its space is taken, its lock held
    FOLDER/locks/...                                one of them a URL; one for making room; one for
                                                    asking for it

A file that has its name is complete. Who reads a file holds a shared lock on it, and what is held
is never removed, so the files in the folder are all the disk space that is used. What was used
longest ago goes first; where everything is held, readers are asked to give up what they can. A
process that is killed lets go of its locks and leaves at most a .part, which whoever comes next
removes.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from io import BufferedWriter
from typing import Any

from data.storage import fetch
from data.storage.patience import Patience
from engine.config.parser import key
from engine.errors import EnvironmentFault, UserError, explain, failure_of
from engine.logging.console import get_logger
from engine.run.private import create_file, own_folder, refuse_planted, temporary_folder

log = get_logger(__name__)

WAIT_S = 0.2  # between two looks whether others made room
ASK_S = 2.0  # between two requests to readers
QUIET_S = 600  # after which a request is a warning again
LOCKS = 1024
WANTED = "wanted"  # among the locks: its time of change is that of the last request
PART = ".part"
STRIDE = 1 << 26  # bytes reserved at a time where nobody knows how many come
NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK}
TOO_MANY_OPEN = {errno.EMFILE, errno.ENFILE}
REMEDY = "set data.cache.folder"


@dataclass
class CacheConfig:
    """The keys data.cache.*."""

    folder: str = key(
        "",
        "where shards from URLs are kept on each machine, best on a local disk; default: "
        "counterpose-cache-UID in the folder for temporary files",
        path="one",
    )
    gigabytes: float = key(
        100.0,
        "most that is kept there; give each machine's cache room for the shards it reads at a time",
        low=0.001,
    )
    ahead: int = key(
        100, "steps ahead of reading that shards are fetched; 0: only when they are needed", low=0
    )

    def open(self) -> "Cache":
        """Return the cache that these keys name."""
        return Cache(self.folder, self.gigabytes)


class Full(EnvironmentFault):
    """No room now: the disk is full, or all that the cache may hold is in use."""


@dataclass
class Shortage:
    """Why there is no room, in words, and how many bytes of files readers hold."""

    words: str
    held: int


class Cache:
    """A folder of fetched files, readable by this user alone.

    Args:
        folder: made when the first file comes; "": one of this user in the folder for temporary
            files.
        gigabytes: 1e9 bytes that it may hold.
    Attributes:
        patience: with servers, and with other readers when there is no room.
        release: weakref to a function that closes some files of this folder that this process
            holds, and says whether there were any; None: it holds none. Another process's copy
            begins without.
    """

    def __init__(self, folder: str, gigabytes: float) -> None:
        self.own = not folder
        self.folder = folder or temporary_folder("counterpose-cache")
        self.most = int(gigabytes * 1e9)
        self.patience = Patience()
        self.release: Callable[[], Callable[[], bool] | None] | None = None
        self._trusted = False

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "release": None}

    def place(self, url: str) -> str:
        """Return the path where a URL's file is or would be."""
        safe = re.sub(r"[^A-Za-z0-9._-]+", "_", fetch.base_name(url))[-80:]
        number = hashlib.blake2b(url.encode(), digest_size=8).hexdigest()
        return os.path.join(self.folder, f"{number}-{safe}")

    def get(self, url: str, renew: bool = False) -> str:
        """Return the path of a URL's bytes on this disk.

        As ``open``, but nobody keeps them from being removed again.
        """
        os.close(self.open(url, renew))
        return self.place(url)

    def open(self, url: str, renew: bool = False) -> int:
        """Return the descriptor of a URL's bytes; as long as it is open they are not removed.

        They are fetched if they are not there, or if ``renew`` asks for fresh ones.

        Raises:
            FileNotFoundError: there is no such object.
            UserError: the cache cannot be used or is too small for this file, or the object may not
                be read.
            EnvironmentFault: it cannot be fetched, the disk is full, or no room came free.
        """
        self._trust()
        place = self.place(url)
        found = None if renew else self.held(place)
        if found is not None:
            return found
        with self._lock(_number(place)):
            # Another process may have fetched it while this one waited.
            found = None if renew else self.held(place)
            return self._fetch(url, place) if found is None else found

    def held(self, place: str) -> int | None:
        """Return the descriptor of a file in this folder, which counts as used now.

        None where it is not, or is just going.
        """
        with self._ours():
            try:
                file = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                return None
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                if not os.fstat(file).st_nlink:
                    raise BlockingIOError  # removed between the two calls
            except BlockingIOError:
                os.close(file)
                return None
            except BaseException:
                os.close(file)
                raise
        # A read-only cache can be read; it only looks older than it is.
        with contextlib.suppress(OSError):
            os.utime(file)
        return file

    def asked(self) -> int:
        """Return the time in ns of the last request to give up files, 0 if there was none."""
        try:
            return os.stat(os.path.join(self.folder, "locks", WANTED)).st_mtime_ns
        except OSError:
            return 0

    def _fetch(self, url: str, place: str) -> int:
        part, trial = place + PART, self.patience.trial()
        try:
            while True:
                with self._ours():
                    out = os.fdopen(create_file(part), "wb")
                try:
                    try:
                        self._copy(url, out, part)
                    except (FileNotFoundError, PermissionError) as error:
                        # Without an errno it is the server's answer, else this machine's.
                        if isinstance(error, PermissionError):
                            raise UserError(f"{url} may not be read: {error}") from None
                        raise
                    except OSError as error:
                        if error.errno in TOO_MANY_OPEN:
                            raise  # this process's own affair
                        words = f"fetching {url} {trial.failed()}: {explain(error)}"
                        if not trial.again(words):
                            raise failure_of(error, words) from None
                        continue
                    with self._ours():
                        return self._finish(out, part, place)
                finally:
                    out.close()
        finally:
            with contextlib.suppress(OSError):
                os.remove(part)

    def _finish(self, out: BufferedWriter, part: str, place: str) -> int:
        """Give a complete file its name; its descriptor, with the lock that keeps it.

        Not engine.run.files: the name under way is the mark by which others count its bytes.
        """
        out.truncate()
        out.flush()
        os.fsync(out.fileno())
        file = os.open(part, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.flock(file, fcntl.LOCK_SH)
            with self._lock(LOCKS):  # else whoever counts may see the file under neither name
                os.replace(part, place)
        except BaseException:
            os.close(file)
            raise
        return file

    def _copy(self, url: str, out: BufferedWriter, part: str) -> None:
        """Write a URL's bytes into an open file.

        Raises:
            Failure: for what is wrong here.  OSError: for what is wrong there.
        """
        with fetch.stream(url) as (blocks, length):
            reserved = 0
            for block in blocks:
                done = out.tell() + len(block)
                with self._ours():
                    if done > reserved:
                        reserved = max(done, length or done + STRIDE)
                        self.make_room(out, part, reserved)
                    out.write(block)
                self.patience.alive()
            if length is not None and out.tell() != length:
                raise OSError(f"{out.tell()} of {length} bytes came")

    def make_room(self, out: BufferedWriter, part: str, end: int) -> None:
        """Reserve the first ``end`` bytes of an open file.

        What was used longest ago and nobody holds is dropped for them.

        Raises:
            UserError: even an empty cache has no room for it.
            Full: there is no room beside what is held and being fetched, and none came while
                patience lasted.
        """
        trial, asked = self.patience.trial(), -ASK_S
        while shortage := self._reserve(out, part, end):
            words = f"the cache {self.folder} is full: {shortage.words}"
            # Who has a part of a file already must not wait for others' parts: two of them could
            # wait for each other.
            hopeless = out.tell() and not shortage.held
            release = self.release and self.release()
            if shortage.held and release and release():
                continue
            trial.failed()
            if hopeless or not trial.again(words, WAIT_S):
                raise Full(f"{words}; raise data.cache.gigabytes or {REMEDY}")
            if time.monotonic() - asked >= ASK_S:
                asked = time.monotonic()
                self._ask(words)

    def _reserve(self, out: BufferedWriter, part: str, end: int) -> Shortage | None:
        """One try of make_room; None where it came off, else the Shortage."""
        if end > self.most:
            raise UserError(
                f"the cache {self.folder} is full: data.cache.gigabytes={self.most / 1e9:g} has no "
                f"room for {end / 1e9:.3g} GB; raise data.cache.gigabytes"
            )
        with self._lock(LOCKS):
            files = self._files(os.path.basename(part))
            total, held = sum(size for _, size, _ in files), 0
            while True:
                if total + end <= self.most:
                    try:
                        # Taken now, so that whoever counts sees it, and a full disk shows before
                        # anything was fetched.
                        os.posix_fallocate(out.fileno(), 0, end)
                        return None
                    except OSError as error:
                        if error.errno != errno.ENOSPC:
                            raise
                if not files:
                    return self._shortage(end, held, total + end <= self.most)
                _, size, path = files.pop()
                if self._remove(path):
                    total -= size
                elif not path.endswith(PART):
                    held += size

    def _shortage(self, end: int, held: int, disk: bool) -> Shortage:
        """The shortage of ``end`` bytes beside ``held`` ones.

        Args:
            disk: the disk is full, not the cache.
        """
        said = f"{held / 1e9:.3g} GB is held by readers" if held else "nothing is left to remove"
        if disk:
            return Shortage(f"no space is left on its disk, and {said}", held)
        return Shortage(
            f"data.cache.gigabytes={self.most / 1e9:g} has no room for {end / 1e9:.3g} GB beside "
            f"what is being fetched, and {said}",
            held,
        )

    def _files(self, mine: str) -> list[tuple[int, int, str]]:
        """[(time of use, bytes, path), ...] of all files but ``mine``, the latest used first."""
        found = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                # Gone since: another process made room or finished.
                with contextlib.suppress(FileNotFoundError):
                    if entry.is_file(follow_symlinks=False) and entry.name != mine:
                        found.append((entry.stat().st_mtime_ns, entry.stat().st_size, entry.path))
        return sorted(found, reverse=True)

    def _remove(self, path: str) -> bool:
        """Remove a file unless a live process reads or fetches it; whether it is gone."""
        with contextlib.ExitStack() as closing:
            try:
                # With its lock nobody gives the name to a new file meanwhile.
                lock = os.open(
                    self._lock_path(_number(path)),
                    os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC,
                    0o600,
                )
                closing.callback(os.close, lock)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
                closing.callback(os.close, file)
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.remove(path)
            except FileNotFoundError:
                return True
            except (BlockingIOError, PermissionError):
                return False
        return True

    def _ask(self, why: str) -> None:
        """Ask all readers of this machine to give up files that they can do without."""
        path = os.path.join(self.folder, "locks", WANTED)
        if time.time() - self.asked() / 1e9 > QUIET_S:
            log.warning(
                "%s; shards are given up and fetched again, which is slow: data.cache.gigabytes is "
                "too small for what this machine reads at a time (docs/scale.md)",
                why,
            )
        with self._ours():
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            os.utime(file)
            os.close(file)

    @contextlib.contextmanager
    def _lock(self, number: int) -> Generator[None, None, None]:
        """Hold an exclusive lock among all processes and threads of this machine.

        A killed holder's is free.
        """
        with self._ours():
            os.makedirs(os.path.join(self.folder, "locks"), mode=0o700, exist_ok=True)
            file = os.open(
                self._lock_path(number),
                os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC,
                0o600,
            )
            try:
                self._acquire(file)
            except BaseException:
                os.close(file)
                raise
        try:
            yield
        finally:
            os.close(file)

    def _acquire(self, file: int) -> None:
        """Wait for a lock.

        Who holds it fetches or makes room, which ends: its own patience does.
        """
        pause = threading.Event()
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                self.patience.alive()
                pause.wait(0.01)

    def _lock_path(self, number: int) -> str:
        return os.path.join(self.folder, "locks", f"{number:04d}")

    def _trust(self) -> None:
        """Make the folder, or see that it is nobody else's; once in each process."""
        if self._trusted:
            return
        if self.own:
            own_folder(self.folder, REMEDY)
        else:
            refuse_planted(self.folder, REMEDY)
            with self._ours():
                os.makedirs(self.folder, mode=0o700, exist_ok=True)
        self._trusted = True

    @contextlib.contextmanager
    def _ours(self) -> Generator[None, None, None]:
        """Turn an OSError of the cache's own folder into a Failure.

        So it is not taken for the server's.
        """
        try:
            yield
        except OSError as error:
            if error.errno in TOO_MANY_OPEN:
                raise  # whoever has files open closes some
            if error.errno in NO_LOCKS:
                raise UserError(
                    f"the file system of the cache {self.folder} has no locks ({explain(error)}): "
                    f"{REMEDY} to a folder on a local disk"
                ) from None
            raise failure_of(
                error, f"the cache {self.folder} cannot be written: {explain(error)}; {REMEDY}"
            ) from None


def _number(place: str) -> int:
    """Which lock a file of the cache has."""
    name = os.path.basename(place)[:8]
    try:
        return int(name, 16) % LOCKS
    except ValueError:
        return LOCKS + 1  # a file that somebody else put there
