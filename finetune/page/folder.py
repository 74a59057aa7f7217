"""What a folder of runs holds: shards, runs with their logs, evaluations, times.

Everything read here is checked here.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any  # of JSON: what it holds is checked by ``check``

import yaml

from data.format.shards import find_shards
from engine.errors import UserError, explain, failure_of
from engine.run.run_folder import RunFolder

FORMAT = 1
COMMANDS = ("pretrain train", "finetune train")
EARLIER = {"pretrain": "pretrain train"}  # in runs of an earlier version
OPTIONAL = (float, type(None))
INTERVAL = {"mean": float, "low": OPTIONAL, "high": OPTIONAL}
METRIC = {"key": str, "name": str, "unit": str, "better": str}
ROW = {"key": str, "name": str, "values": dict}
EXAMPLE = {"rank": str, "name": str, "pa_mpjpe": float, "mpjpe": float, "sheet": str, "mesh": int}
EVALUATION = {
    "format": int,
    "kind": str,
    "run": str,
    "step": int,
    "clips": int,
    "crops": int,
    "command": str,
    "machine": str,
    "date": str,
    "metrics": [METRIC],
    "rows": [ROW],
    "notes": [str],
    "examples": [EXAMPLE],
}
WORDS = {
    int: "a whole number",
    float: "a number",
    OPTIONAL: "a number or null",
    str: "text",
    list: "a list",
    dict: "an object",
}


@dataclass
class Evaluation:
    """``RUN/evaluation``: its folder and the checked content of evaluation.json.

    See finetune/evaluation/results.py.
    """

    path: Path
    content: dict

    @property
    def kind(self) -> str:
        """Return "hand" or "body", as the evaluation says."""
        return self.content["kind"]

    def row(self, key: str) -> dict | None:
        """The row of that key, or None."""
        return next((row for row in self.content["rows"] if row["key"] == key), None)

    def values(self, key: str) -> dict[str, dict]:
        """Return {metric: its mean and interval} of the row of that key; none of a missing row."""
        row = self.row(key)
        return {} if row is None else row["values"]


@dataclass
class TrainingRun:
    """A run's folder.

    Attributes:
        path: the folder.  command: one of COMMANDS.  config: the tree of config.yaml, every leaf as
            text.
        log: a dict a logged step.  images: {step: path} of images/step-*.png, by step.
        evaluation: an Evaluation, or None.
    """

    path: Path
    command: str
    config: dict
    log: list
    images: dict
    evaluation: Evaluation | None

    @property
    def name(self) -> str:
        """Return the name of the run's folder."""
        return self.path.name

    @property
    def scratch(self) -> bool:
        """Whether it is the run without pre-training that stands beside another."""
        return self.name.endswith("_scratch")

    @property
    def kind(self) -> str:
        """Return "hand" or "body", of the evaluation or else from the folder's name."""
        return self.evaluation.kind if self.evaluation else kind_of(self.name)


@dataclass
class Folder:
    """What a folder of runs holds.

    Attributes: path as given; shards {name: tars}; runs in the order of their names; times, a dict
    a stage.
    """

    path: str
    shards: dict
    runs: list
    times: list

    def of(self, command: str) -> list[TrainingRun]:
        """Return the runs of a command, in the order of their names."""
        return [run for run in self.runs if run.command == command]


def kind_of(name: str) -> str:
    """Return "hand" or "body" from a folder's name.

    Shards and pre-training runs say so nowhere else in few words.
    """
    return "hand" if "hand" in name else "body"


def read_folder(path: str) -> Folder:
    """The Folder at a path.

    Raises:
        UserError: it is no folder, holds nothing to report, or one of its files is broken.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"{path} is no folder" if folder.exists() else f"{path} does not exist")
    children = sorted(child for child in folder.iterdir() if child.is_dir())
    shards = {child.name: find_shards(str(child)) for child in children if any(child.glob("*.tar"))}
    runs = [run for child in children if (run := _read_run(child))]
    times = read_lines(folder / "times.jsonl", {"stage": str, "command": str, "seconds": float})
    if not (shards or runs or times):
        raise UserError(
            f"{path}: nothing to report: no folder in it holds shards (*.tar) or a run "
            f"(config.yaml), and it has "
            "no times.jsonl; `make demo` makes all of them"
        )
    return Folder(str(path), shards, runs, times)


def read_lines(path: Path, schema: dict) -> list[dict]:
    """The objects of a file of JSON lines that fit the schema; none where there is no file.

    A last line that a kill cut in two is left out: it has neither its brace nor its end.
    """
    text = read_text(path) if path.exists() else ""
    lines = text.splitlines()
    if lines and not text.endswith(("\n", "}")):
        lines.pop()
    return [
        check(parse_json(line, f"{path}, line {number}"), schema, f"{path}, line {number}")
        for number, line in enumerate(lines, 1)
    ]


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file.

    Raises UserError or EnvironmentFault where it cannot be read, UserError where it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise failure_of(error, f"{path} cannot be read: {explain(error)}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text") from None


def parse_json(text: str, place: object) -> Any:
    """Return the value of a JSON text; UserError, which names ``place``, where it is none."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"{place}: not JSON: {error}") from None


def check(value: Any, schema: Any, place: object, name: str = "") -> Any:
    """The value, if it has all that the schema names; more is allowed.

    Args:
        schema: a type, {key: schema}, or [schema of every item].  place: the file, for the error.
            name: where in it.
    Raises:
        UserError: naming the place, the key and what was found.
    """
    if isinstance(schema, dict):
        _check_type(value, dict, place, name)
        for key, inner in schema.items():
            inside = f"{name}.{key}" if name else key
            if key not in value:
                raise UserError(f"{place}: '{inside}' is missing")
            check(value[key], inner, place, inside)
    elif isinstance(schema, list):
        _check_type(value, list, place, name)
        for number, item in enumerate(value):
            check(item, schema[0], place, f"{name}[{number}]")
    else:
        _check_type(value, schema, place, name)
    return value


def _check_type(value, kind, place, name):
    number = float in kind if isinstance(kind, tuple) else kind is float
    if (
        not isinstance(value, kind)
        and not (number and isinstance(value, int))
        or isinstance(value, bool)
    ):
        what = f"'{name}'" if name else "the whole"
        raise UserError(f"{place}: {what} is {json.dumps(value)[:60]}, not {WORDS[kind]}")


def read_evaluation(path: Path) -> Evaluation:
    """The Evaluation in a folder.

    Raises:
        UserError: evaluation.json is not JSON, is of a newer format, lacks a key or holds a value
            of another type.
    """
    file = path / "evaluation.json"
    content = parse_json(read_text(file), file)
    found = content.get("format") if isinstance(content, dict) else None
    if isinstance(found, int) and found > FORMAT:
        raise UserError(
            f"{file} has format {found}, this version reads up to {FORMAT}: update counterpose"
        )
    check(content, EVALUATION, file)
    if content["kind"] not in ("body", "hand"):
        raise UserError(f"{file}: 'kind' is {content['kind']!r}, not body or hand")
    parts = {f"rows[{number}].values": row["values"] for number, row in enumerate(content["rows"])}
    parts["differences"] = check(content.get("differences", {}), {}, file, "differences")
    for name, values in parts.items():
        check(values, dict.fromkeys(values, INTERVAL), file, name)
    check(content.get("warnings", []), [str], file, "warnings")
    evaluation = Evaluation(path, content)
    metrics = {metric["key"] for metric in content["metrics"]}
    for row, key in (("model", "pa_mpjpe"), ("mean", "pa_mpjpe")):
        if key not in metrics or key not in evaluation.values(row):
            raise UserError(f"{file}: there is no '{key}' of a row '{row}' in 'metrics' and 'rows'")
    return evaluation


def _read_run(path):
    """The TrainingRun of a folder, or None where it is none of COMMANDS."""
    folder = RunFolder(path)
    file = folder.config
    if not file.exists():
        return None
    try:
        config = yaml.load(read_text(file), Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise UserError(
            f"{file} is not a YAML config: {' '.join(str(error).split())[:200]}"
        ) from None
    command = config.get("command") if isinstance(config, dict) else None
    command = EARLIER.get(command or "", command)
    if command not in COMMANDS:
        return None
    evaluation = path / "evaluation"
    return TrainingRun(
        path,
        command,
        config,
        read_lines(folder.log, {"step": int}),
        folder.list_images().get("step", {}),
        read_evaluation(evaluation) if (evaluation / "evaluation.json").exists() else None,
    )
