"""Half-written files that a killed command left in its folder."""

import contextlib
import glob
import os
import re
from collections.abc import Iterable

# The last is how versions of before engine.run.files wrote indexes.
ENDS = (".writing-*", ".index.npz.writing-*", ".index.npz.*.npz")
PROCESS = re.compile(r"\.(?:writing-|index\.npz\.)(\d+)(?:\.npz)?$")


def clear_leftovers(folder: str, names: Iterable[str] = ("*",)) -> None:
    """Remove half-written shards and indexes of processes that are gone.

    Those of a live one may still be wanted.

    Args:
        names: of shards. Where other machines write into the folder too, whose processes look dead
            from here, only one's own.
    """
    for pattern in [name + end for name in names for end in ENDS]:
        for path in glob.glob(os.path.join(glob.escape(folder), pattern)):
            number = PROCESS.search(path)
            if number and not _alive(int(number[1])):
                with contextlib.suppress(FileNotFoundError):
                    os.remove(path)


def _alive(process):
    try:
        with contextlib.suppress(PermissionError):  # it runs and belongs to another user
            os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
