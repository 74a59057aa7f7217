"""File locks where the file system has them."""

import errno
import fcntl
from typing import IO

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
