"""Configuration: dataclasses beside the code that reads them, YAML and ``key=value`` on top.

A YAML file overrides the defaults, the command line overrides the file.

    @dataclass
    class Optim:
        lr: float = key(1.5e-4, "learning rate for 256 pairs a step", low=0)

    @dataclass
    class Config:
        steps: int = key(1000, "steps to train", low=1)
        optim: Optim = section(Optim)

    cfg = parse(Config, sys.argv[1:], command="pretrain train")

Every value, from the file or the command line, is read as text and turned into the type its field
declares. So YAML's own guesses never bite: ``time: 12:00:00`` in a text field stays text,
``steps=1e5`` is an int, ``0123`` is not octal. Nothing in a text means anything to this module:
``${NAME}`` stays as it is. Keys of paths alone have a ``~`` at the beginning written out.
"""

import dataclasses
import difflib
import math
import os
import re
import typing
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from engine.config.misfits import refuse_misfits
from engine.config.paths import as_text, expand_home, is_json_list, split_list, split_paths
from engine.config.schema import (
    choose_schema,
    find_key,
    find_renamed,
    flat,
    help_text,
    key,
    list_keys,
    name_type,
    resumable_keys,
    section,
    unwrap_optional,
    word_type,
)
from engine.config.shipped import find_config, suggest_config
from engine.errors import Failure, UserError
from engine.run.patience import is_folder, read_bytes
from engine.run.run_folder import CONFIG

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# What declares and walks a schema is imported from here too.
__all__ = [
    "choose_schema",
    "flat",
    "help_text",
    "is_assignment",
    "key",
    "parse",
    "parse_all",
    "parse_keys",
    "read_file",
    "resumable_keys",
    "save",
    "section",
]

Schema = TypeVar("Schema", bound="DataclassInstance")

_TRUE, _FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}
_NULL = {"null", "none", "~", ""}


# OmegaConf takes ${...} for a reference to another key and has no switch for it, so dollars are
# hidden from it. The mark itself, a private character of Unicode, is hidden the same way.
_MARK = "\ue000"
_HIDDEN = {_MARK + "0": _MARK, _MARK + "1": "$"}

# What may stand before the first "=" of a key=value; a URL or a path with a "=" in it has other
# letters there.
_KEY = re.compile(r"[A-Za-z_][\w-]*(\.[\w-]+)*=")


def parse(schema: type[Schema], argv: Sequence[str], command: str, usage: str = "") -> Schema:
    """Build a ``schema`` instance from ``[FILE.yaml, key=value, ...]``.

    Each dataclass on the way may have a ``check(self)`` that raises UserError for impossible
    combinations. One whose keys depend on what is plugged in has a classmethod
    ``choose(texts) -> dataclass``, a subclass of it: see ``choose_schema``.

    Args:
        schema: the dataclass of the command.
        argv: the command line after the command's own words.
        command: what the file must say in its ``command:`` line, such as ``"data make"``.
    Raises:
        UserError: for a missing file, a config of another command, an unknown key, a value that
            does not fit.
        SystemExit: after ``--help``.
    """
    if "--help" in argv or "-h" in argv:
        words = [word for word in argv if is_assignment(word)]
        print(help_text(choose_schema(schema, _split_words(words)), command, usage))
        raise SystemExit(0)
    if not argv or "=" in os.path.basename(argv[0]):
        raise UserError(
            f"python -m {command}: a config file comes first, then key=value; see --help"
        )
    pairs, words = read_file(argv[0], command), _split_words(argv[1:])
    refuse_misfits(schema, pairs, words, argv[0], command)
    schema = choose_schema(schema, [*pairs, *words])
    _refuse_renamed(schema, pairs, argv[0])
    config = OmegaConf.structured(schema)
    for dotted, value in pairs:
        _assign(config, schema, dotted, value, argv[0])
    for argument in argv[1:]:
        _assign_argument(config, schema, argument)
    return _finish(config, argv[0])


def parse_all(
    schema: type[Schema], argv: Sequence[str], command: str
) -> tuple[Schema | None, list[str]]:
    """Return (config or None, [message, ...]), going on after a fault.

    As ``parse``, but all faults are told at once.
    """
    try:
        pairs = read_file(argv[0], command)
        schema = choose_schema(schema, [*pairs, *_split_words(argv[1:])])
    except Failure as error:
        return None, [str(error)]
    config, faults = OmegaConf.structured(schema), []
    old = _list_renamed(schema, pairs)
    if old:
        faults.append(_word_renamed(old, argv[0]))
    steps = [
        lambda pair=pair: _assign(config, schema, *pair, argv[0])
        for pair in pairs
        if pair[0] not in old
    ]
    steps += [
        lambda argument=argument: _assign_argument(config, schema, argument)
        for argument in argv[1:]
    ]
    result = []
    for step in [*steps, lambda: result.append(_finish(config, argv[0]))]:
        try:
            step()
        except Failure as error:
            faults.append(str(error))
    return result[0] if result else None, faults


def _split_words(words):
    """[(key, text), ...] of the words that are key=value.

    The others are told of when they are assigned.
    """
    return [tuple(word.split("=", 1)) for word in words if "=" in word]


def _assign_argument(config, schema, argument):
    if "=" not in argument:
        raise UserError(f"'{argument}' on the command line is not of the form key=value")
    name, _, value = argument.partition("=")
    _assign(config, schema, name, value, "the command line")


def is_assignment(argument: str) -> bool:
    """Return whether a word of a command that takes paths too is a key=value.

    It is neither a path that is there nor a URL.
    """
    return bool(_KEY.match(argument)) and not os.path.exists(argument)


def parse_keys(
    schema: type[Schema], argv: Sequence[str], command: str, least: int = 1
) -> tuple[Schema, list[str]]:
    """Parse a command that takes paths and ``key=value``, but no config file.

    Returns (``schema`` instance, [path, ...]); there are ``least`` or more paths.

    Raises:
        UserError: no path, an unknown key, a value that does not fit.
    """
    config, paths = OmegaConf.structured(schema), []
    taker = _positional(schema)
    for argument in argv:
        if is_assignment(argument):
            name, _, value = argument.partition("=")
            if taker and name == taker.name:
                raise UserError(
                    f"{argument}: {name} is given without its name: write python -m {command} "
                    f"{value or taker.metadata['positional']} ..."
                )
            _assign_argument(config, schema, argument)
        else:
            paths.append(argument)
    if len(paths) < least:
        wanted = taker.metadata["positional"] if taker else "at least one path"
        raise UserError(f"python -m {command}: name {wanted}; see --help")
    if paths and not least:
        raise UserError(
            f"'{paths[0]}' on the command line is not of the form key=value; see "
            f"python -m {command} --help"
        )
    if taker:
        if len(paths) > 1:
            raise UserError(
                f"python -m {command} takes one {taker.metadata['positional']}, not "
                f"{' and '.join(paths)}"
            )
        _assign(config, schema, taker.name, paths[0], "the command line")
    return _finish(config, "the command line"), paths


def _positional(schema):
    """The field of a schema that is given as a path without its name, or None."""
    fields = dataclasses.fields(schema)
    return next((field for field in fields if field.metadata.get("positional")), None)


def _finish(config, origin):
    try:
        result = _reveal_dollars(OmegaConf.to_object(config))
    except OmegaConfBaseException as error:
        raise UserError(f"{origin}: {str(error).splitlines()[0]}") from None
    _check(result)
    return result


def _hide_dollars(value):
    if isinstance(value, list):
        return [_hide_dollars(part) for part in value]
    return (
        value.replace(_MARK, _MARK + "0").replace("$", _MARK + "1")
        if isinstance(value, str)
        else value
    )


def _reveal_dollars(value):
    """A config as it was before its texts were hidden, in place where it can be."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            setattr(value, field.name, _reveal_dollars(getattr(value, field.name)))
    elif isinstance(value, dict):
        return {name: _reveal_dollars(part) for name, part in value.items()}
    elif isinstance(value, list):
        return [_reveal_dollars(part) for part in value]
    elif isinstance(value, str):
        return re.sub(_MARK + "[01]", lambda found: _HIDDEN[found[0]], value)
    return value


def read_file(path: str, command: str) -> list[tuple[str, str | list[str]]]:
    """``[(dotted key, text or list), ...]`` of a YAML file whose ``command:`` line is ``command``.

    The file is one that exists, or the name of one that is shipped (engine.config.shipped). A run's
    own ``config.yaml`` may hold what an earlier version called the command.
    """
    path = find_config(path, command)
    if is_folder(path):
        raise UserError(f"{path} is a folder; name a config file (.yaml) in it")
    data = read_bytes(path)
    if data is None:
        raise UserError(f"config file {path} does not exist{suggest_config(path, command)}")
    try:
        tree = yaml.load(data, Loader=_TextLoader)  # bytes: YAML knows UTF-16 by its mark
    except yaml.YAMLError as error:
        raise UserError(
            f"{path} is not a YAML config: {' '.join(str(error).split())[:200]}"
        ) from None
    if not isinstance(tree, dict):
        raise UserError(f"{path} is not a YAML config: it holds no keys")
    found = tree.pop("command", None)
    earlier = command.rpartition(" ")[0]  # "pretrain train" was "pretrain"
    if found and found == earlier:
        if os.path.basename(path) != CONFIG:
            raise UserError(
                f"{path} says 'command: {found}', which has another name now: write "
                f"'command: {command}'"
            )
    elif found != command:
        said = f"says 'command: {found}'" if found else "has no 'command:' line"
        raise UserError(
            f"{path} {said}, but this is 'python -m {command}', which wants 'command: {command}'"
        )
    return list(_flatten(tree))


class _TextLoader(yaml.BaseLoader):
    """Leaves every scalar as the text that was written, and takes no key twice.

    Of a key that is given twice YAML would drop the first.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        names = [name.value for name, _ in node.value]
        for name, (where, _) in zip(names, node.value, strict=True):
            if names.count(name) > 1:
                raise yaml.YAMLError(
                    f"'{name}' is given twice, first in line {where.start_mark.line + 1}"
                )
        return super().construct_mapping(node, deep)


def save(config: "DataclassInstance", path: str | os.PathLike, command: str) -> None:
    """Write the resolved config so that ``parse`` reads the same config back."""
    tree = {"command": command}
    tree |= {name: _plain(value) for name, value in dataclasses.asdict(config).items()}
    with open(path, "w", encoding="utf-8") as file:
        yaml.safe_dump(tree, file, sort_keys=False, width=120)


def _plain(value):
    """A tree of nothing but what YAML has words for."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _flatten(tree, prefix=""):
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", ("" if value == {} else value)


def _list_renamed(schema, pairs):
    """{old key: new key} of those that an earlier version called so."""
    found = {}
    for dotted, _ in pairs:
        new = find_renamed(schema, dotted) if find_key(schema, dotted) is None else None
        if new:
            found[dotted] = new
    return found


def _word_renamed(old, origin):
    """One sentence with all keys of a file, or of the command line, that have another name now."""
    if len(old) == 1:
        ((before, now),) = old.items()
        return f"'{before}' in {origin} has another name now: write '{now}'"
    words = ", ".join(f"'{before}' -> '{now}'" for before, now in old.items())
    return f"{len(old)} keys in {origin} have other names now, rename them there: {words}"


def _refuse_renamed(schema, pairs, origin):
    """Raises UserError with all old names at once, so that a file is mended in one go."""
    old = _list_renamed(schema, pairs)
    if old:
        raise UserError(_word_renamed(old, origin))


def _assign(config, schema, dotted, value, origin):
    found = find_key(schema, dotted)
    if found is None:
        _refuse_renamed(schema, [(dotted, value)], origin)
        names = [name for name, _, _ in list_keys(schema)]
        near = difflib.get_close_matches(dotted, names, 1, 0.5)
        near = near or difflib.get_close_matches(
            dotted.split(".")[-1], [n.split(".")[-1] for n in names], 1, 0.7
        )
        near = [n for n in names if n == near[0] or n.split(".")[-1] == near[0]][:1] if near else []
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise UserError(f"unknown key '{dotted}' in {origin}{hint}")
    field, kind, created = found
    for path, section_schema in created:
        if OmegaConf.select(config, path) is None:
            OmegaConf.update(config, path, OmegaConf.structured(section_schema), force_add=True)
    if typing.get_origin(unwrap_optional(kind)[0]) is dict:
        if value != "":
            raise UserError(
                f"'{dotted}' in {origin} takes named sections, such as {dotted}.NAME.key=value"
            )
        return
    OmegaConf.update(
        config, dotted, _hide_dollars(_convert(value, kind, field, dotted, origin)), force_add=True
    )


def _convert(value, kind, field, dotted, origin):
    inner, optional = unwrap_optional(kind)
    if optional and isinstance(value, str) and value.lower() in _NULL:
        return None
    if typing.get_origin(inner) is list:
        value = split_list(value, dotted) if isinstance(value, str) else value
        return [_scalar(v, typing.get_args(inner)[0], field, dotted, origin) for v in value]
    if field.metadata["sides"]:
        return _convert_sides(value, field, dotted, origin)
    if isinstance(value, list) and field.metadata["path"] == "several":
        value = as_text(value)
    if isinstance(value, (list, dict)):
        raise UserError(f"'{dotted}' in {origin} takes one {name_type(kind)}, not {value}")
    return _expand(_scalar(value, inner, field, dotted, origin), field.metadata["path"], dotted)


def _convert_sides(value, field, dotted, origin):
    """A whole number, or [rows, columns] where these differ."""
    parts = value
    if isinstance(value, str):
        parts = split_list(value, dotted) if value.startswith("[") or "," in value else [value]
    if not isinstance(parts, list) or not 1 <= len(parts) <= 2:
        raise UserError(
            f"'{dotted}={value}' in {origin}: a whole number is wanted, or [rows,columns]"
        )
    sides = [_scalar(part, int, field, dotted, origin) for part in parts]
    return sides[0] if sides[0] == sides[-1] else sides


def _expand(value, path, dotted):
    """A value with ``~`` written out, of a key that names paths."""
    if path == "one":
        return expand_home(value)
    if path == "several" and ("~" in value or is_json_list(value)):
        parts = split_paths(value, dotted)
        # Several stay one text, a plain one where commas alone take it apart again.
        return as_text(parts) if any("," in part for part in parts) else ",".join(parts)
    return value


def _scalar(text, kind, field, dotted, origin):
    rules = field.metadata
    try:
        if kind is bool:
            if text.lower() not in _TRUE | _FALSE:
                raise ValueError
            value = text.lower() in _TRUE
        elif kind is int:
            try:
                value = int(text)
            except ValueError:
                number = float(text)
                if not math.isfinite(number) or number != int(number):
                    raise
                value = int(number)
        elif kind is float:
            value = float(text)
            if not math.isfinite(value):
                raise ValueError
        else:
            value = text
    except (ValueError, AttributeError):
        raise UserError(f"'{dotted}={text}' in {origin}: {word_type(kind)} is wanted") from None
    if rules.get("choices") and value not in rules["choices"]:
        raise UserError(
            f"'{dotted}={text}' in {origin}: the value is none of "
            f"{', '.join(map(str, rules['choices']))}"
        )
    if rules.get("low") is not None and value < rules["low"]:
        raise UserError(f"'{dotted}={text}' in {origin}: the value is below {rules['low']}")
    if rules.get("high") is not None and value > rules["high"]:
        raise UserError(f"'{dotted}={text}' in {origin}: the value is above {rules['high']}")
    return value


def check_values(config: "DataclassInstance", where: object) -> None:
    """Raise UserError where a config that was not parsed breaks the rules of its keys.

    Args:
        where: it comes from, such as a file, for messages.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.metadata.get("sides"):
            text = [str(part) for part in value] if isinstance(value, list) else str(value)
            _convert_sides(text, field, field.name, where)
            continue
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, (int, float, str)) and not isinstance(item, bool):
                _scalar(str(item), type(item), field, field.name, where)
    try:
        _check(config)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _check(config):
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        for item in value.values() if isinstance(value, dict) else [value]:
            if dataclasses.is_dataclass(item):
                _check(item)
    if hasattr(config, "check"):
        config.check()
