"""Which code this is, and which libraries it runs with.

The code's commit is the one that python -m slurm recorded beside its copy, or that of the checkout
the code lies in.
"""

import functools
import hashlib
import json
import platform
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("engine", "data", "pretrain", "finetune")  # what the processes of a run import
RECORD = "snapshot.json"  # in the root of a copy: {"git": the commit it was taken at, ...}


def describe_commit() -> str | None:
    """Return the commit of this code, with "-dirty" where it was changed since.

    None where nobody knows. A copy tells its own, for what lies around it may be another checkout,
    which moves on to other commits.
    """
    copied = _recorded()
    if copied is not None:
        return copied["git"]
    git = shutil.which("git")
    if git is None or _run(git, "ls-files", "--error-unmatch", __file__) is None:
        return None  # installed, or copied by hand into a checkout of something else
    return _run(git, "describe", "--always", "--dirty")


@functools.cache
def identify_code() -> str:
    """Return what processes of one run must have alike.

    It is the recorded commit of a copy, else a digest of the source files: a commit that somebody
    makes while processes start changes no file.
    """
    copied = _recorded()
    if copied is not None:
        return f"{copied['git']} in {ROOT.name}"
    digest = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            source = path.read_bytes()
            digest.update(f"{path.relative_to(ROOT)}\0{len(source)}\0".encode() + source)
    return f"sources {digest.hexdigest()[:12]}"


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that a run's numbers depend on."""
    import numpy
    import timm
    import torch

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "numpy": numpy.__version__,
    }


def _recorded() -> dict | None:
    try:
        return json.loads((ROOT / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def _run(git: str, *words: str) -> str | None:
    done = subprocess.run([git, "-C", str(ROOT), *words], capture_output=True, text=True)
    return done.stdout.strip() or None if done.returncode == 0 else None
