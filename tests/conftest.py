"""Fixtures that all tests share."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def samples():
    """The folder of real videos and pictures; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("COUNTERPOSE_SAMPLES", ROOT / "../shared/data")).resolve()
    if not folder.is_dir():
        pytest.skip(f"no real samples at {folder}; set COUNTERPOSE_SAMPLES to their folder")
    return folder
