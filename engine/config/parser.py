"""Configuration: dataclasses beside the code that reads them, a YAML file on top, ``key=value`` on
top of that.

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

import copy
import dataclasses
import difflib
import functools
import os
import re
import typing
from collections.abc import Iterable, Sequence
from typing import Literal, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from engine.config.schema import find_field, find_renamed, list_leaves, name_type, unwrap_optional
from engine.config.shipped import find_config, suggest_config
from engine.config.values import convert_value, hide_dollars, reveal_dollars
from engine.errors import Failure, UserError
from engine.run.patience import is_folder, read_bytes
from engine.run.run_folder import CONFIG

T = TypeVar("T")


# What may stand before the first "=" of a key=value; a URL or a path with a "=" in it has other
# letters there.
_KEY = re.compile(r"[A-Za-z_][\w-]*(\.[\w-]+)*=")


def key(
    default: T,
    help: str,
    *,
    choices: Sequence[object] | None = None,
    low: float | None = None,
    high: float | None = None,
    path: Literal["one", "several"] | None = None,
    renamed_from: str | None = None,
    resumable: bool = False,
    positional: str | None = None,
) -> T:
    """A config field: its default, its meaning for ``--help`` and what values it takes (inclusive
    bounds).

    Args:
        path: "one" or "several", for a text that names a path or what
            engine.config.paths.split_paths takes apart.
        renamed_from: what an earlier version called the key: its last part, or all of it where it
            has moved to another section. The old name is an error that says the new one.
        resumable: a run may resume with another value, because results do not depend on it.
        positional: such as "RUN": of the one key that a command line gives as a path, without its
            name.
    """
    metadata = {
        "help": help,
        "choices": choices,
        "low": low,
        "high": high,
        "path": path,
        "renamed_from": renamed_from,
        "resumable": resumable,
        "positional": positional,
    }
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: copy.copy(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def section(schema: type[T], help: str = "", *, resumable: bool = False) -> T:
    """A nested group of keys. ``resumable``: all of them are, as for ``key``."""
    return dataclasses.field(
        default_factory=schema, metadata={"help": help, "resumable": resumable}
    )


def parse(schema: type[T], argv: Sequence[str], command: str, usage: str = "") -> T:
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
    pairs = read_file(argv[0], command)
    schema = choose_schema(schema, [*pairs, *_split_words(argv[1:])])
    _refuse_renamed(schema, pairs, argv[0])
    config = OmegaConf.structured(schema)
    for dotted, value in pairs:
        _assign(config, schema, dotted, value, argv[0])
    for argument in argv[1:]:
        _assign_argument(config, schema, argument)
    return _finish(config, argv[0])


def parse_all(schema: type[T], argv: Sequence[str], command: str) -> tuple[T | None, list[str]]:
    """(config or None, [message, ...]): as ``parse``, but continuing after a fault, so that all
    of them are reported at once."""
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


def choose_schema(schema: type[T], pairs: Iterable[tuple[str, object]]) -> type[T]:
    """The dataclass whose keys a config really has, where they depend on one of them.

    A dataclass on the way may have a classmethod ``choose(texts)``, which gets its own keys as they
    were written ({name: text}) and returns itself or a subclass: of a task, by ``task``; of an
    objective, by ``objective.name``. A section that is replaced by its subclass makes a subclass of
    the dataclass around it.

    Args:
        pairs: (dotted key, text), of which a later one wins.
    Raises:
        UserError: no such task, objective or the like; the message lists those there are.
    """
    pairs = list(pairs)
    if hasattr(schema, "choose"):
        schema = schema.choose({name: text for name, text in pairs if "." not in name})
    hints, replaced = typing.get_type_hints(schema), []
    for field in dataclasses.fields(schema):
        kind = hints[field.name]
        if not dataclasses.is_dataclass(kind):
            continue
        start = f"{field.name}."
        inner = [(name.removeprefix(start), text) for name, text in pairs if name.startswith(start)]
        chosen = choose_schema(kind, inner)
        if chosen is not kind:
            replaced.append((field.name, chosen))
    return _replace_sections(schema, tuple(replaced)) if replaced else schema


@functools.cache
def _replace_sections(schema, replaced):
    """A subclass of a dataclass with other dataclasses for some of its sections.

    It is one and the same for one choice, so that equal configs are equal.

    Args:
        replaced: ((field's name, dataclass), ...).
    """
    metadata = {field.name: field.metadata for field in dataclasses.fields(schema)}
    fields = []
    for name, chosen in replaced:
        again = dataclasses.field(default_factory=chosen, metadata=metadata[name])
        fields.append((name, chosen, again))
    return dataclasses.make_dataclass(
        schema.__name__, fields, bases=(schema,), namespace={"__module__": schema.__module__}
    )


def _split_words(words):
    """[(key, text), ...] of the words that are key=value; the others are reported when they are
    assigned."""
    return [tuple(word.split("=", 1)) for word in words if "=" in word]


def _assign_argument(config, schema, argument):
    if "=" not in argument:
        raise UserError(f"'{argument}' on the command line is not of the form key=value")
    _assign(config, schema, *argument.split("=", 1), "the command line")


def is_assignment(argument: str) -> bool:
    """Whether a word of a command that takes paths too is a key=value: neither a path that is there
    nor a URL."""
    return bool(_KEY.match(argument)) and not os.path.exists(argument)


def parse_keys(
    schema: type[T], argv: Sequence[str], command: str, least: int = 1
) -> tuple[T, list[str]]:
    """(``schema`` instance, [path, ...]) of a command that takes ``least`` or more paths and
    ``key=value``, no config file.

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
        raise UserError(f"python -m {command}: name at least one path; see --help")
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
        result = reveal_dollars(OmegaConf.to_object(config))
    except OmegaConfBaseException as error:
        raise UserError(f"{origin}: {str(error).splitlines()[0]}") from None
    _check(result)
    return result


def read_file(path: str, command: str) -> list[tuple[str, object]]:
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
    """Leaves every scalar as the text that was written, and takes no key twice, of which YAML would
    drop the first."""

    def construct_mapping(self, node, deep=False):
        names = [name.value for name, _ in node.value]
        for name, (where, _) in zip(names, node.value, strict=True):
            if names.count(name) > 1:
                raise yaml.YAMLError(
                    f"'{name}' is given twice, first in line {where.start_mark.line + 1}"
                )
        return super().construct_mapping(node, deep)


def save(config: object, path: str | os.PathLike, command: str) -> None:
    """Write the resolved config so that ``parse`` reads the same config back."""
    tree = {"command": command, **_plain(dataclasses.asdict(config))}
    with open(path, "w", encoding="utf-8") as file:
        yaml.safe_dump(tree, file, sort_keys=False, width=120)


def _plain(value):
    """A tree of nothing but what YAML has words for."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def flat(config: object, prefix: str = "") -> dict[str, object]:
    """``{dotted key: value}`` of a config instance, lists and dicts of plain values kept whole."""
    out = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        name = prefix + field.name
        if dataclasses.is_dataclass(value):
            out.update(flat(value, name + "."))
        elif (
            isinstance(value, dict)
            and value
            and all(dataclasses.is_dataclass(v) for v in value.values())
        ):
            for k, v in value.items():
                out.update(flat(v, f"{name}.{k}."))
        else:
            out[name] = value
    return out


def resumable_keys(config: object) -> frozenset[str]:
    """The dotted keys of a config instance that may differ when its run resumes."""
    return frozenset(_walk_resumable(config, "", False))


def _walk_resumable(config, prefix, inherited):
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), prefix + field.name
        free = inherited or field.metadata.get("resumable", False)
        if dataclasses.is_dataclass(value):
            yield from _walk_resumable(value, f"{name}.", free)
            continue
        if isinstance(value, dict):
            for entry, part in value.items():
                if dataclasses.is_dataclass(part):
                    yield from _walk_resumable(part, f"{name}.{entry}.", free)
        if free:
            yield name


def help_text(schema: type, command: str, usage: str = "") -> str:
    """All keys of a schema with type, default and meaning, one line each."""
    rows = []
    for name, field, kind in list_leaves(schema):
        default = (
            field.default if field.default is not dataclasses.MISSING else field.default_factory()
        )
        default = ",".join(map(str, default)) if isinstance(default, (list, tuple)) else default
        shown = "" if default is None or isinstance(default, dict) else f"={default}"
        choices = field.metadata.get("choices")
        text = field.metadata.get("help", "") + (
            f" ({'|'.join(map(str, choices))})" if choices else ""
        )
        rows.append((f"{name}{shown}", name_type(kind), text))
    width = min(44, max(len(r[0]) for r in rows))
    usage = usage or f"python -m {command} CONFIG.yaml [key=value ...]"
    return "\n".join(
        [f"usage: {usage}", "", "keys and their defaults:"]
        + [f"  {a:<{width}}  {t:<10}  {h}" for a, t, h in rows]
    )


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
        new = find_renamed(schema, dotted) if find_field(schema, dotted) is None else None
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
    found = find_field(schema, dotted)
    if found is None:
        _refuse_renamed(schema, [(dotted, value)], origin)
        names = [name for name, _, _ in list_leaves(schema)]
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
        config,
        dotted,
        hide_dollars(convert_value(value, kind, field, dotted, origin)),
        force_add=True,
    )


def _check(config):
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        for item in value.values() if isinstance(value, dict) else [value]:
            if dataclasses.is_dataclass(item):
                _check(item)
    if hasattr(config, "check"):
        config.check()
