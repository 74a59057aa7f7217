"""The code of a run, copied into its folder, so that an edit after submitting does not change a job that starts again."""

import json
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from engine.errors import UserError, explain, failure_of

LARGEST_MB = 100
ROOT = Path(__file__).resolve().parent.parent


def files(without):
    """Paths of the code, relative to ROOT: what git tracks, with uncommitted changes, and what it does not ignore.

    Args:
        without: a folder whose files are none, such as the run's own inside the checkout.

    Raises:
        UserError: ROOT is in no git checkout, or holds so much that it cannot be code.
    """
    try:
        found = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard", "."],
                               capture_output=True, text=True)
    except FileNotFoundError:
        raise UserError("git is not on PATH, which tells the code from what lies beside it") from None
    if found.returncode:
        raise UserError(f"{ROOT} is no git checkout, so what its code is cannot be told: {found.stderr.strip()}")
    names = sorted(name for name in found.stdout.split("\0") if name and (ROOT / name).is_file()
                   and Path(without).resolve() not in (ROOT / name).resolve().parents)
    sizes = {name: (ROOT / name).stat().st_size for name in names}
    if sum(sizes.values()) > LARGEST_MB * 1e6:
        largest = max(sizes, key=sizes.get)
        raise UserError(f"the code to copy holds {sum(sizes.values()) / 1e6:.0f} MB, above {LARGEST_MB}; the largest file is "
                        f"{largest}: add it to .gitignore")
    return names


def take(folder):
    """Copy the code to FOLDER/code, in place of an earlier copy; returns its path."""
    target, fresh = Path(folder) / "code", Path(folder) / "code.writing"
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        for name in files(folder):
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, fresh / name)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(fresh, target)
    except OSError as error:
        raise failure_of(error, f"{target} cannot be written: {explain(error)}") from None
    return target


def note_environment(path):
    """Write what the code ran with: the commit, Python, every package's version."""
    git = subprocess.run(["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True)
    packages = sorted(f"{one.metadata['Name']}=={one.version}" for one in metadata.distributions())
    Path(path).write_text(json.dumps({"git": git.stdout.strip() or None, "python": sys.executable, "version": sys.version,
                                      "argv": sys.argv, "packages": packages}, indent=1))
