"""Reads that are tried again while a file system fails. Nothing here imports torch.

What cannot be read is not what is damaged: EIO, ESTALE, EMFILE and their like say something about
the machine and the moment, nothing about the bytes on disk. They are waited out for PATIENCE_S,
then end the command in one sentence.
"""

import errno
import fnmatch
import glob
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from engine.errors import EnvironmentFault, UserError, explain
from engine.logging.console import get_logger

log = get_logger(__name__)

PATIENCE_S = 60.0  # how long a read that fails is tried again
FIRST_PAUSE_S = 0.25  # doubled each time, up to the longest
LONGEST_PAUSE_S = 8.0
# A fact about the folder: there is no such file, or something else under its name.
ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP})
RIGHTS = frozenset({errno.EACCES, errno.EPERM})

Result = TypeVar("Result")


def read_patiently(path: str | Path, read: Callable[[], Result]) -> Result:
    """Return what ``read()`` does; while the machine is why it fails, it is called again.

    Args:
        path: what is read, for the message.
    Raises:
        OSError: of ABSENT, at once.
        EnvironmentFault: it still failed after PATIENCE_S.  UserError: the same for want of rights
            (EACCES, EPERM).
    """
    began, pause = time.monotonic(), FIRST_PAUSE_S
    while True:
        try:
            return read()
        except OSError as error:
            if error.errno in ABSENT:
                raise
            waited = time.monotonic() - began
            if waited + pause > PATIENCE_S:
                kind = UserError if error.errno in RIGHTS else EnvironmentFault
                raise kind(
                    f"{path} cannot be read: {explain(error)}; tried again for {waited:.0f} s. "
                    f"This says nothing about what is in it, so nothing was changed: start the "
                    f"same command again once it can be read"
                ) from None
            if pause == FIRST_PAUSE_S:
                log.info(
                    "note: %s cannot be read: %s; trying again for %.0f s",
                    path,
                    explain(error),
                    PATIENCE_S,
                )
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_S)


def read_again(path: str | Path, read: Callable[[], Result]) -> Result:
    """Read as ``read_patiently`` does, but look for a missing file again after a listing.

    A client of NFS may remember for a while that a file was not there; the listing makes it ask the
    server.
    """
    try:
        return read_patiently(path, read)
    except FileNotFoundError:
        list_names(Path(path).parent)
        return read_patiently(path, read)


def read_bytes(path: str | Path) -> bytes | None:
    """Return a file's bytes, None where there is no such file. Raises as ``read_patiently``."""
    try:
        return read_again(path, lambda: Path(path).read_bytes())
    except FileNotFoundError:
        return None


def list_names(folder: str | Path) -> list[str]:
    """Return the sorted names in a folder, none where there is no such folder.

    Path.glob is no substitute: some versions of Python take a folder that cannot be read for an
    empty one.
    """
    try:
        return sorted(read_patiently(folder, lambda: os.listdir(folder)))
    except OSError:
        return []


def exists(path: str | Path) -> bool:
    """Return whether there is something under a name.

    Raises as ``read_patiently``, but for ABSENT.
    """
    try:
        read_patiently(path, lambda: os.lstat(path))
    except OSError:
        return False
    return True


def is_folder(path: str) -> bool:
    """Return whether a path is a folder. Raises as ``expand_pattern``.

    os.path.isdir takes whatever cannot be read for no folder.
    """
    mode = _mode(path)
    return mode is not None and stat.S_ISDIR(mode)


def is_file(path: str) -> bool:
    """Return whether a path is a file. Raises as ``expand_pattern``.

    os.path.isfile takes whatever cannot be read for no file.
    """
    mode = _mode(path)
    return mode is not None and stat.S_ISREG(mode)


def expand_pattern(pattern: str) -> list[str]:
    """Return the sorted paths that match a pattern of the shell (without ``**``).

    As glob.glob, which leaves out what it cannot read: a run would then begin with a part of its
    data.

    Raises:
        UserError: a folder may not be read.  EnvironmentFault: it cannot be read for now; as
            ``read_patiently``.
    """
    folder, wanted = os.path.split(pattern)
    if not glob.has_magic(pattern):
        return [] if _mode(pattern) is None else [pattern]
    found = []
    for place in expand_pattern(folder) if glob.has_magic(folder) else [folder]:
        found += list_matching(place, wanted)
    return sorted(found)


def list_matching(folder: str, wanted: str) -> list[str]:
    """Return the sorted paths in a folder whose names match a pattern.

    Raises as ``expand_pattern``.
    """
    names = _at_once(folder or ".", lambda: os.listdir(folder or ".")) or []
    return sorted(
        os.path.join(folder, name)
        for name in names
        if fnmatch.fnmatchcase(name, wanted)
        and (not name.startswith(".") or wanted.startswith("."))
    )


def _mode(path: str) -> int | None:
    """The type and rights of what a path leads to, None where there is nothing."""
    status = _at_once(path, lambda: os.stat(path))
    return None if status is None else status.st_mode


def _at_once(path: str, look: Callable[[], Result]) -> Result | None:
    """``look()`` with patience, None where there is nothing.

    A missing permission is reported at once, for nothing is lost.
    """

    def attempt() -> Result:
        try:
            return look()
        except PermissionError as error:
            raise UserError(f"{path} cannot be read: {explain(error)}") from None

    try:
        return read_patiently(path, attempt)
    except OSError:
        return None
