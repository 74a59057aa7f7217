"""Fixtures that all tests share."""

import dataclasses
import os
import signal
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items):
    """Put the files first that take longest: what waits for a cluster ends beside the others."""
    slow = ("test_slurm", "test_pretrain", "test_exact")
    items.sort(key=lambda item: not item.path.stem.startswith(slow))


@pytest.fixture(scope="session", autouse=True)
def console():
    """Messages are shown as the commands show them, whatever a test calls."""
    from engine.logging.console import configure_console

    configure_console()


SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


@pytest.fixture(autouse=True)
def signal_handlers():
    """Signals are handled as when a process begins, whatever a fixture or a test before did.

    A training command ends with its signals ignored. In a test it ends in the process of all tests,
    and every process that is started later would ignore them as well.
    """
    for number in SIGNALS:
        handler = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def samples():
    """The folder of real videos and images; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("COUNTERPOSE_SAMPLES", ROOT / "../shared/data")).resolve()
    if not folder.is_dir():
        pytest.skip(f"no real samples at {folder}; set COUNTERPOSE_SAMPLES to their folder")
    return folder


@pytest.fixture(scope="session")
def bodies():
    """{name: data.bodies.base.BodyModel} of those that need no files."""
    from data.bodies.models import open_model

    return {name: open_model(name) for name in ("anny", "anny_hand")}


@pytest.fixture(scope="session")
def people(tmp_path_factory, bodies):
    """{"body", "hand": folder of shards}: 24 clips of synthetic humans each, 4 crops of 64 px a
    clip, in 3 tars.

    Of the hands' last two clips, which are for validation, one is of a right hand and one of a
    left.
    """
    from data.format.shards import shard_name, write_shard
    from data.people.config import Domain, PeopleConfig
    from data.people.maker import ClipMaker

    config = PeopleConfig(
        out="none",
        seed=5,
        size=64,
        cameras=2,
        antialias=1,
        surface=True,
        domain=Domain(upright=True, part_share=0.0),
    )
    maker, folders = ClipMaker(config), {}
    for kind in ("body", "hand"):
        folders[kind] = tmp_path_factory.mktemp(f"people_{kind}")
        maker.config = dataclasses.replace(
            config, kind=kind
        )  # a maker is seconds' work, and holds nothing of this key
        for shard in range(3):
            write_shard(
                str(folders[kind] / shard_name(shard)),
                [maker.clip(i) for i in range(8 * shard, 8 * shard + 8)],
            )
    return folders
