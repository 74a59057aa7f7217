"""Starting Warp without its alarm on machines that have no GPU."""

import os
import sys
import tempfile

ALARM = "Could not find or load the NVIDIA CUDA driver"


def start_warp():
    """Initialise Warp once; whatever its start writes to stderr is passed on, but for the line about a missing driver.

    The line comes from C++, where Warp's log level does not reach, once in every process that makes people.
    """
    import warp

    from engine.private import refuse_planted

    warp.config.log_level = warp.LOG_ERROR
    sys.stderr.flush()
    with tempfile.TemporaryFile() as caught:
        usual = os.dup(2)
        os.dup2(caught.fileno(), 2)
        try:
            warp.init()
        finally:
            os.dup2(usual, 2)
            os.close(usual)
        caught.seek(0)
        rest = [line for line in caught.read().decode(errors="replace").splitlines(True) if ALARM not in line]
    # With a home folder that everybody shares, such as /tmp, the kernels there may be anybody's.
    refuse_planted(warp.config.kernel_cache_dir, "set WARP_CACHE_PATH to a folder of your own")
    sys.stderr.write("".join(rest))
