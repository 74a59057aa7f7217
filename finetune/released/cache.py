"""Where weights from elsewhere are kept: ~/.cache/counterpose/weights, or COUNTERPOSE_WEIGHTS."""

import os
from pathlib import Path

from engine.errors import UserError, explain, failure_of

CACHE = "COUNTERPOSE_WEIGHTS"
MEND = f"set {CACHE} to a folder that can be written"


def cache_folder() -> Path:
    """Return the folder of weights from elsewhere; it need not exist.

    Raises:
        UserError: there is no home folder, and COUNTERPOSE_WEIGHTS is not set.
    """
    named = os.environ.get(CACHE)
    if named:
        return Path(named).expanduser()
    try:
        return Path.home() / ".cache" / "counterpose" / "weights"
    except RuntimeError:
        raise UserError(
            f"HOME is not set, and user {os.getuid()} is in no list of users; {MEND}"
        ) from None


def make_cache_folder() -> Path:
    """Return the folder of weights from elsewhere, made where it is not there.

    Raises:
        Failure: it cannot be made or written.
    """
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise failure_of(
            error, f"the cache of weights, {folder}, cannot be made: {explain(error)}; {MEND}"
        ) from None
    return folder
