"""Starting Warp without its alarm on machines that have no GPU.

Also where it and the body model keep what they build.
"""

import contextlib
import os
import pathlib
import sys
import tempfile
from collections.abc import Generator

from engine.errors import UserError, explain, failure_of

ALARM = "Could not find or load the NVIDIA CUDA driver"
# Both are in the home folder by default, so who cannot write one can seldom write the other.
MEND = "set WARP_CACHE_PATH and ANNY_CACHE_DIR to folders that can be written"


def start_warp() -> None:
    """Initialise Warp once.

    Whatever its start writes to stderr is passed on, but for the line about a missing driver.

    The line comes from C++, where Warp's log level does not reach, once in every process that makes
    people.

    Raises:
        UserError: Warp's cache cannot be written; there is no home folder.
    """
    check_home()
    import warp

    from engine.run.private import refuse_planted

    warp.config.log_level = warp.LOG_ERROR
    sys.stderr.flush()
    with tempfile.TemporaryFile() as caught:
        usual = os.dup(2)
        os.dup2(caught.fileno(), 2)
        try:
            with report_cache_errors():
                warp.init()
        finally:
            os.dup2(usual, 2)
            os.close(usual)
        caught.seek(0)
        rest = [
            line
            for line in caught.read().decode(errors="replace").splitlines(True)
            if ALARM not in line
        ]
    # With a home folder that everybody shares, such as /tmp, the kernels there may be anybody's.
    refuse_planted(str(warp.config.kernel_cache_dir), "set WARP_CACHE_PATH to a folder of your own")
    sys.stderr.write("".join(rest))


@contextlib.contextmanager
def report_cache_errors() -> Generator[None]:
    """Report in one line that Warp's cache cannot be written, and what mends it.

    To be put around what may compile kernels.
    """
    try:
        yield
    except OSError as error:
        import warp

        folder = warp.config.kernel_cache_dir
        raise failure_of(
            error,
            f"cannot write Warp's cache of compiled kernels, {folder}: {explain(error)}; {MEND}",
        ) from None


def check_home() -> None:
    """Raise UserError where this process has no home folder: the caches lie below it.

    It is looked for by HOME and in the list of users.
    """
    try:
        pathlib.Path.home()
    except RuntimeError:
        raise UserError(
            f"HOME is not set, and user {os.getuid()} is in no list of users; set HOME to any "
            f"folder, and "
            f"{MEND.removeprefix('set ')}"
        ) from None
