"""A config key is a promise: types, bounds, typos, files of other commands."""

import ast
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from engine.config.parser import flat, help_text, key, parse, save, section
from engine.errors import UserError

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Part:
    shards: str = key("", "where")
    weight: float = key(1.0, "how much", low=0)


@dataclass
class Schema:
    steps: int = key(10, "steps to go", low=1)
    name: str = key("", "text")
    mode: str = key("a", "one of", choices=("a", "b"))
    on: bool = key(False, "switch")
    lanes: int | None = key(None, "lanes")
    values: list[float] = key([0.5, 1.0], "numbers")
    parts: dict[str, Part] = key({}, "named parts")
    part: Part = section(Part)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(
        "command: package\nsteps: 1e5\nname: 12:00:00\nparts:\n  x: {shards: 0123, weight: 2}\n"
    )
    return str(path)


def test_values_are_read_as_the_field_says(file):
    config = parse(
        Schema,
        [file, "parts.y.shards=1:30", "on=yes", "values=[1,2e-3]", "lanes=4", "part.weight=.5"],
        "package",
    )
    assert config.steps == 100_000 and isinstance(config.steps, int)
    assert config.name == "12:00:00"  # YAML 1.1 would make it 43200
    assert config.parts == {"x": Part("0123", 2.0), "y": Part("1:30", 1.0)}
    assert (
        config.on is True
        and config.values == [1.0, 0.002]
        and config.lanes == 4
        and config.part.weight == 0.5
    )
    assert parse(Schema, [file, "lanes=null"], "package").lanes is None


def test_a_saved_config_reads_back_the_same(file, tmp_path):
    config = parse(Schema, [file, "name=a b: c", "parts.y.shards=z"], "package")
    save(config, tmp_path / "b.yaml", "package")
    again = parse(Schema, [str(tmp_path / "b.yaml")], "package")
    assert again == config
    assert flat(again)["parts.y.shards"] == "z"


@pytest.mark.parametrize(
    "argument,words",
    [
        ("stps=3", "unknown key 'stps'.*did you mean 'steps'"),
        ("part.wight=3", "did you mean 'part.weight'"),
        ("parts.x.wight=3", "unknown key 'parts.x.wight'"),
        ("steps=many", "'steps=many'.*: a whole number is wanted"),
        ("steps=1.5", "'steps=1.5'.*: a whole number is wanted"),
        ("steps=0", "'steps=0'.*below 1"),
        ("part.weight=nan", ": a finite number is wanted"),
        ("mode=c", "'mode=c'.*none of a, b"),
        ("on=maybe", "'on=maybe'"),
        ("part=3", "unknown key 'part'"),
        ("parts=3", "'parts'.*named sections"),
        ("steps", "'steps'.*not of the form key=value"),
    ],
)
def test_mistyped_arguments_name_the_key(file, argument, words):
    with pytest.raises(UserError, match=words):
        parse(Schema, [file, argument], "package")


def test_wrong_files_are_told_apart(file, tmp_path):
    with pytest.raises(UserError, match="says 'command: package'.*wants 'command: other'"):
        parse(Schema, [file], "other")
    with pytest.raises(UserError, match="b.yaml does not exist; did you mean .*a.yaml"):
        parse(Schema, [str(tmp_path / "b.yaml")], "package")
    with pytest.raises(UserError, match="a config file comes first"):
        parse(Schema, ["steps=3"], "package")
    (tmp_path / "c.yaml").write_text(
        "command: package\npart:\n  weight: 1\n  shards: x\n  weight: 2\n"
    )
    with pytest.raises(
        UserError, match="c.yaml is not a YAML config: 'weight' is given twice, first in line 3"
    ):
        parse(Schema, [str(tmp_path / "c.yaml")], "package")
    (tmp_path / "c.yaml").write_text("a: [")
    with pytest.raises(UserError, match="c.yaml is not a YAML config"):
        parse(Schema, [str(tmp_path / "c.yaml")], "package")


def test_help_names_every_key_with_default_and_meaning():
    text = help_text(Schema, "package")
    for name in flat(Schema()):
        assert re.search(rf"^  {re.escape(name)}\b", text, re.M) or name == "parts", name
    assert "parts.NAME.weight=1.0" in text and "how much" in text and "(a|b)" in text


def _schemas():
    from data.people.config import PeopleConfig
    from data.sources.config import PairsConfig
    from engine.logging.report import ReportConfig as RunReportConfig
    from finetune.config import FinetuneConfig
    from finetune.demo import DemoConfig
    from finetune.predict import PredictFilesConfig
    from finetune.report import ReportConfig
    from finetune.verb_config import EvaluateConfig
    from pretrain.config import PretrainConfig
    from pretrain.probe import ProbeCommand
    from pretrain.replay import ReplayConfig
    from slurm.config import SlurmConfig

    return {
        "data make": PeopleConfig,
        "data pairs": PairsConfig,
        "pretrain train": PretrainConfig,
        "finetune train": FinetuneConfig,
        "finetune evaluate": EvaluateConfig,
        "finetune predict": PredictFilesConfig,
        "finetune report": ReportConfig,
        "finetune demo": DemoConfig,
        "pretrain probe": ProbeCommand,
        "engine report": RunReportConfig,
        "pretrain replay": ReplayConfig,
        "slurm": SlurmConfig,
    }


@pytest.mark.parametrize(
    "path", sorted(str(p.relative_to(ROOT)) for p in (ROOT / "configs").glob("*/*.yaml"))
)
def test_every_config_that_ships_is_complete(path):
    text = (ROOT / path).read_text()
    command = re.search(r"^command: (.*)$", text, re.M).group(1)
    pairs = {"image_folders": ["images=x"], "pair_list": ["pair_list=x"], "video": ["videos=x"]}
    multicam = ["videos=x", "calibration=x"]
    required = {
        "data make": ["out=x"],
        "pretrain train": ["run=x", "data.shards=x"],
        "finetune train": ["run=x", "data.shards=x"],
        "slurm": [],
        "data pairs": ["out=x", *pairs.get(Path(path).stem, multicam)],
    }[command]
    if Path(path).stem.startswith("motion_"):
        required = ["run=x"]  # motions are made, or named by keys of their own
    parse(_schemas()[command], [str(ROOT / path), *required], command)


def test_every_key_is_read_by_something():
    """Each field's name occurs as an attribute somewhere outside the class that declares it."""
    read = set()
    for package in ("engine", "data", "pretrain", "finetune", "slurm"):
        for path in (ROOT / package).rglob("*.py"):
            tree = ast.parse(path.read_text())
            read |= {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
            read |= {
                n.value.rsplit(".", 1)[-1]
                for n in ast.walk(tree)
                if isinstance(n, ast.Constant) and isinstance(n.value, str)
            }
    for command, schema in _schemas().items():
        for name in flat(schema()):
            assert name.split(".")[-1] in read, f"{command}: nothing reads {name}"
