"""A home folder that cannot be written, or none at all: one line that names both variables, never a
traceback."""

import os
import shutil
import subprocess
import sys

import pytest
from runs import ROOT

MEND = "WARP_CACHE_PATH and ANNY_CACHE_DIR to folders that can be written"
NOBODY = 12345  # in no list of users


def as_a_user(code, *, unknown=False, **env):
    """(exit code, stderr) of what ``code`` calls ``main``, run as commands are."""
    names = {
        name: value
        for name, value in os.environ.items()
        if name not in ("HOME", "WARP_CACHE_PATH", "ANNY_CACHE_DIR")
    }
    command = [
        sys.executable,
        "-c",
        f"from engine.cli import run\ndef main(argv):\n    {code}\nrun(main)",
    ]
    if unknown:
        command = ["unshare", "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}", *command]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**names, "OMP_NUM_THREADS": "1", **env},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stderr


@pytest.fixture(scope="module")
def namespaces():
    """Skips where this machine lets nobody be another user in a name space of his own."""
    trial = ["unshare", "--user", "--map-user=1", "true"]
    if not shutil.which("unshare") or subprocess.run(trial, capture_output=True).returncode:
        pytest.skip("unshare --user is not allowed here")


@pytest.fixture
def no_folder(tmp_path):
    """A home that not even root can write below: a file."""
    (tmp_path / "file").write_text("")
    return str(tmp_path / "file" / "home")


def test_warp_says_what_mends_its_cache(no_folder):
    code, said = as_a_user(
        "from data.bodies.warp_init import start_warp; start_warp()", HOME=no_folder
    )
    assert code == 2 and said.count("\n") == 1
    assert (
        said.startswith(
            f"error: cannot write Warp's cache of compiled kernels, {no_folder}/.cache/warp"
        )
        and MEND in said
    )


def test_the_body_model_says_what_mends_its_cache(no_folder, tmp_path):
    code, said = as_a_user(
        "from data.bodies.models import open_model; open_model('anny')",
        HOME=no_folder,
        WARP_CACHE_PATH=str(tmp_path / "warp"),
    )
    assert code == 2 and said.count("\n") == 1
    assert said.startswith(
        f"error: cannot write the body model's cache, {no_folder}/.cache/anny: not a directory"
    )
    assert MEND in said


def test_kernels_that_cannot_be_kept_are_told(namespaces, tmp_path):
    """Warp's folder is there and may not be written: it starts, and the first kernel fails."""
    import warp

    folder = tmp_path / "warp" / warp.config.version
    folder.mkdir(parents=True)
    folder.chmod(0o555)
    code, said = as_a_user(
        "from finetune.viz.raster import Raster; Raster('cpu')",
        unknown=True,
        HOME=str(tmp_path),
        WARP_CACHE_PATH=str(tmp_path / "warp"),
    )
    assert (
        code == 2
        and said.count("\n") == 1
        and f"{folder}: permission denied" in said
        and MEND in said
    )


def test_nobody_without_a_home_is_told(namespaces):
    code, said = as_a_user(
        "from data.bodies.anny_body import cache_folder; cache_folder()", unknown=True
    )
    assert code == 2 and said.count("\n") == 1 and MEND in said
    assert said.startswith(
        f"error: HOME is not set, and user {NOBODY} is in no list of users; set HOME to any folder"
    )
