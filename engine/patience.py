"""Reads that outlast a file system's bad moments. Nothing here imports torch.

What cannot be read is not what is damaged: EIO, ESTALE, EMFILE and their like say something about the machine and the moment,
nothing about the bytes on disk. They are waited out for PATIENCE_S, then end the command in one sentence.
"""

import errno
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from engine.errors import EnvironmentFault, UserError, explain

PATIENCE_S = 60.0       # how long a read that fails is tried again
FIRST_PAUSE_S = 0.25    # doubled each time, up to the longest
LONGEST_PAUSE_S = 8.0
# What these say is a fact about the folder: there is no such file, or something else under its name.
ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP})
RIGHTS = frozenset({errno.EACCES, errno.EPERM})

Result = TypeVar("Result")


def read_patiently(path: Path, read: Callable[[], Result]) -> Result:
    """What ``read()`` returns; while it fails for a reason of the machine it is called again, after growing pauses.

    Args:
        path: what is read, for the message.
    Raises:
        OSError: of ABSENT, at once.
        EnvironmentFault: it still failed after PATIENCE_S.  UserError: the same for want of rights (EACCES, EPERM).
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
                raise kind(f"{path} cannot be read: {explain(error)}; tried again for {waited:.0f} s. This says nothing about "
                           f"what is in it, so nothing was changed: start the same command again once it can be read") from None
            if pause == FIRST_PAUSE_S:
                print(f"note: {path} cannot be read: {explain(error)}; trying again for {PATIENCE_S:.0f} s", file=sys.stderr,
                      flush=True)
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_S)


def read_again(path: Path, read: Callable[[], Result]) -> Result:
    """As ``read_patiently``, but a missing file is looked for once more after a listing of its folder.

    A client of NFS may remember for a while that a file was not there; the listing makes it ask the server.
    """
    try:
        return read_patiently(path, read)
    except FileNotFoundError:
        list_names(Path(path).parent)
        return read_patiently(path, read)


def read_bytes(path: Path) -> bytes | None:
    """A file's bytes, None where there is no such file. Raises as ``read_patiently``, but for ENOENT."""
    try:
        return read_again(path, lambda: Path(path).read_bytes())
    except FileNotFoundError:
        return None


def list_names(folder: Path) -> list[str]:
    """The sorted names in a folder, none where there is no such folder. Raises as ``read_patiently``, but for ABSENT.

    Path.glob is no substitute: some versions of Python take a folder that cannot be read for an empty one.
    """
    try:
        return sorted(read_patiently(folder, lambda: os.listdir(folder)))
    except OSError:
        return []


def exists(path: Path) -> bool:
    """Whether there is something under a name. Raises as ``read_patiently``, but for ABSENT."""
    try:
        read_patiently(path, lambda: os.lstat(path))
    except OSError:
        return False
    return True
