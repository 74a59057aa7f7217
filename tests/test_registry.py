"""Registries: what is plugged in is found by its name, in a file of that name."""

import sys

import pytest

from engine.errors import UserError
from engine.registry import Registry


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The name of a package with the modules ``round``, which registers "round", and ``tools``."""
    folder = tmp_path / "shapes_of_a_test"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from engine.registry import Registry\nSHAPES = Registry('shape', __name__)\n"
    )
    (folder / "round.py").write_text(
        "from shapes_of_a_test import SHAPES\n@SHAPES.register('round')\nclass Round: pass\n"
    )
    (folder / "tools.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "shapes_of_a_test"
    for name in [name for name in sys.modules if name.startswith("shapes_of_a_test")]:
        del sys.modules[name]


def test_a_file_of_the_name_is_all_it_takes(package):
    shapes = __import__(package).SHAPES
    assert shapes.find("round").__name__ == "Round"
    assert f"{package}.tools" not in sys.modules  # nothing else is imported
    assert shapes.list_names() == ["round"]


def test_a_wrong_name_lists_the_right_ones(package):
    with pytest.raises(UserError, match=r"shape=rund is none of round; did you mean 'round'\?"):
        __import__(package).SHAPES.find("rund")


def test_two_of_one_name_are_refused():
    names: Registry[int] = Registry("number", "engine")
    names.register("one")(1)
    with pytest.raises(ValueError, match="two are called 'one'"):
        names.register("one")(2)
