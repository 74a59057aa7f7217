"""The code of a run, copied into its folder.

So an edit after submitting does not change a job that starts again.
"""

import json
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from engine import version
from engine.errors import UserError, explain, failure_of
from engine.run.run_folder import RunFolder

LARGEST_MB = 100
ROOT = version.ROOT
LIST_FILES = ("ls-files", "-z", "--cached", "--others", "--exclude-standard", ".")


def list_files(without: str | Path) -> list[str]:
    """Return paths of the code, relative to ROOT.

    What git tracks, with uncommitted changes, and what it does not ignore.

    Args:
        without: a folder whose files are none, such as the run's own inside the checkout.

    Raises:
        UserError: ROOT is in no git checkout, or holds so much that it cannot be code.
    """
    try:
        found = subprocess.run(
            ["git", "-C", str(ROOT), *LIST_FILES],
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:
        raise UserError(
            "git is not on PATH, which tells the code from what lies beside it"
        ) from None
    if found.returncode:
        raise UserError(
            f"{ROOT} is no git checkout, so its code cannot be identified: {found.stderr.strip()}"
        )
    own, names = Path(without).resolve(), []
    for name in sorted(filter(None, found.stdout.split("\0"))):
        path = ROOT / name
        if path.is_file() and own not in path.resolve().parents:
            names.append(name)
    sizes = {name: (ROOT / name).stat().st_size for name in names}
    if sum(sizes.values()) > LARGEST_MB * 1e6:
        largest = max(sizes, key=sizes.__getitem__)
        raise UserError(
            f"the code to copy holds {sum(sizes.values()) / 1e6:.0f} MB, above {LARGEST_MB}; the "
            f"largest file is {largest}: add it to .gitignore"
        )
    return names


def find_next(folder: str | Path) -> Path:
    """Return where the next copy of the code will lie in a folder: FOLDER/code/0001, 0002, ..."""
    code = RunFolder(folder).code
    numbers = [int(path.name) for path in code.glob("[0-9]*") if path.name.isdigit()]
    return code / f"{max(numbers, default=0) + 1:04d}"


def take_snapshot(folder: str | Path) -> Path:
    """Copy the code to a folder of this submission's own, and return its path.

    An earlier copy stays as it is: jobs that run from it, or wait, start again from it.

    Raises:
        UserError: as for ``files``, or the folder may not be written.  EnvironmentFault: it cannot
            be written.
    """
    names, state = list_files(folder), describe_environment()
    target = find_next(folder)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        while not _is_made(target):  # by another submission in the same moment
            target = find_next(folder)
        for name in names:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
        (target / version.RECORD).write_text(json.dumps(state, indent=1))
    except OSError as error:
        raise failure_of(error, f"{target} cannot be written: {explain(error)}") from None
    return target


def _is_made(folder: Path) -> bool:
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


def describe_environment() -> dict[str, object]:
    """Return what the code is submitted with: the commit, Python, every package's version."""
    packages = sorted(f"{one.metadata['Name']}=={one.version}" for one in metadata.distributions())
    return {
        "git": version.describe_commit(),
        "python": sys.executable,
        "version": sys.version,
        "argv": sys.argv,
        "packages": packages,
    }
