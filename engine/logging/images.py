"""Images in a run's folder: lost on a full disk, which is no reason to lose the run."""

import contextlib
import os
import sys
from pathlib import Path

from engine.errors import explain


def save_image(image, path: Path) -> bool:
    """Write a PIL image as a PNG, whole or not at all; whether it was written. A failure is told on
    stderr.
    """
    temporary = path.with_suffix(".writing")
    try:
        path.parent.mkdir(exist_ok=True)
        image.save(temporary, "PNG")
        os.replace(temporary, path)
    except OSError as error:
        print(
            f"warning: {path} cannot be written: {explain(error)}; the run goes on without it",
            file=sys.stderr,
            flush=True,
        )
        with contextlib.suppress(OSError):
            temporary.unlink()
        return False
    return True
