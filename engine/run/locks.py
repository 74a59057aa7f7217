"""File locks where the file system has them."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Generator
from pathlib import Path
from typing import IO

from engine.errors import EnvironmentFault, explain, failure_of

# Lustre without -o flock, some FUSE and object stores, NFS without a lock daemon.
NO_LOCKS = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK})


def lock_file(handle: IO | int) -> bool:
    """Wait for the exclusive lock of an open file; False where its file system knows no locks.

    Raises:
        OSError: of another kind.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno in NO_LOCKS:
            return False
        raise
    return True


@contextlib.contextmanager
def claim_folder(folder: Path, word: str) -> Generator[None, None, None]:
    """Hold a folder that exists against other processes that claim it; a kill lets go of it.

    Where the file system knows no locks nothing is held.

    Args:
        word: the key and value that name the folder.
    Raises:
        EnvironmentFault: another process holds it.
    """
    path = folder / "lock"
    try:
        handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
    except OSError as error:
        raise failure_of(error, f"{path} cannot be written: {explain(error)}") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            os.close(handle)
            raise EnvironmentFault(f"{word}: another process works in {folder}") from None
        if error.errno not in NO_LOCKS:
            os.close(handle)
            raise failure_of(error, f"{path} cannot be locked: {explain(error)}") from None
    try:
        yield
    finally:
        os.close(handle)
