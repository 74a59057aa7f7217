"""Half-written files that a killed command left in its folder."""

import contextlib
import glob
import os
import re


def clear_leftovers(folder):
    """Remove half-written shards and indexes of processes that are gone; those of a live one may still be wanted."""
    for pattern in ("*.writing-*", "*.index.npz.*.npz"):
        for path in glob.glob(os.path.join(glob.escape(folder), pattern)):
            number = re.search(r"\.(?:writing-|index\.npz\.)(\d+)(?:\.npz)?$", path)
            if number and not _alive(int(number[1])):
                with contextlib.suppress(FileNotFoundError):
                    os.remove(path)


def _alive(process):
    try:
        with contextlib.suppress(PermissionError):  # it lives and is somebody else's
            os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
