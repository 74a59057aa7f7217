"""A temporary folder that is gone after the process, however the process ends."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PREFIX = "counterpose-serve-"
# Waits until the other end of its input is closed, which the system does for a process that is
# killed too; what still writes then gets a second chance to end.
WATCH = """
import os, shutil, sys, time
sys.stdin.read()
for wait_s in (0, 2, 10):
    if os.path.exists(sys.argv[1]):
        time.sleep(wait_s)
        shutil.rmtree(sys.argv[1], ignore_errors=True)
"""


class PassingFolder:
    """Makes the folder; ``remove`` or the end of the process removes it.

    Attributes:
        path: of the folder, that only its owner may read.
    """

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._watcher = subprocess.Popen(
            [sys.executable, "-c", WATCH, str(self.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the page alone
        )

    def empty(self) -> None:
        """Remove what is in it."""
        for path in self.path.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove it now."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._watcher.stdin is not None:
            self._watcher.stdin.close()
