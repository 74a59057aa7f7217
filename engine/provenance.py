"""Which code runs. Nothing here imports torch."""

import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent


def describe_code(folder: Path = HERE) -> str | None:
    """What ``git describe`` says of a folder; None where there is no git, or no repository that it
    trusts.
    """
    try:
        done = subprocess.run(["git", "-C", str(folder), "describe", "--always", "--dirty"],
                              capture_output=True, text=True)
    except OSError:  # images are often without git
        return None
    return done.stdout.strip() or None
