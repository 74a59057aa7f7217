"""Schemas of configs: dataclasses whose fields are keys, and what is asked of them without values.

A field is made by ``key``, a nested group by ``section``. The other functions walk a schema: the
dotted keys it has, the field behind one, the lines of ``--help``. See engine.config.parser for the
values.
"""

import copy
import dataclasses
import functools
import re
import typing
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")
Schema = TypeVar("Schema", bound="DataclassInstance")
FoundKey = tuple[dataclasses.Field, Any, list[tuple[str, type]]]


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
    sides: bool = False,
) -> T:
    """Declare a config field: its default, its meaning for ``--help`` and what values it takes.

    Bounds are inclusive.

    Args:
        path: "one" or "several", for a text that names a path or what
            engine.config.paths.split_paths takes apart.
        renamed_from: what an earlier version called the key: its last part, or all of it where it
            has moved to another section. The old name is an error that says the new one.
        resumable: a run may resume with another value, because results do not depend on it.
        positional: such as "RUN": of the one key that a command line gives as a path, without its
            name.
        sides: of a whole number, for which two may stand, such as [256,192]: rows and columns. Its
            field is of type Any.
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
        "sides": sides,
    }
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: copy.copy(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def section(schema: type[T], help: str = "", *, resumable: bool = False) -> T:
    """A nested group of keys. ``resumable``: all of them are, as for ``key``."""
    return dataclasses.field(
        default_factory=schema, metadata={"help": help, "resumable": resumable}
    )


def choose_schema(schema: type[Schema], pairs: Iterable[tuple[str, object]]) -> type[Schema]:
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


def flat(config: "DataclassInstance", prefix: str = "") -> dict[str, object]:
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


def resumable_keys(config: "DataclassInstance") -> frozenset[str]:
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


def help_text(schema: "type[DataclassInstance]", command: str, usage: str = "") -> str:
    """All keys of a schema with type, default and meaning, one line each."""
    rows = []
    for name, field, kind in list_keys(schema):
        factory = field.default_factory
        default = factory() if callable(factory) else field.default
        default = ",".join(map(str, default)) if isinstance(default, (list, tuple)) else default
        shown = "" if default is None or isinstance(default, dict) else f"={default}"
        choices = field.metadata.get("choices")
        text = field.metadata.get("help", "") + (
            f" ({'|'.join(map(str, choices))})" if choices else ""
        )
        rows.append((f"{name}{shown}", name_key(field, kind), text))
    width = min(44, max(len(r[0]) for r in rows))
    usage = usage or f"python -m {command} CONFIG.yaml [key=value ...]"
    return "\n".join(
        [f"usage: {usage}", "", "keys and their defaults:"]
        + [f"  {a:<{width}}  {t:<10}  {h}" for a, t, h in rows]
    )


def unwrap_optional(kind: Any) -> tuple[Any, bool]:
    """Return (type without Optional, whether None is allowed)."""
    arguments = typing.get_args(kind)
    if type(None) in arguments:
        return next(a for a in arguments if a is not type(None)), True
    return kind, False


def name_type(kind: Any) -> str:
    """Return the short name of a key's type, as --help has it: 'int', 'list[str]', 'float?'."""
    inner, optional = unwrap_optional(kind)
    origin = typing.get_origin(inner)
    name = (
        f"list[{name_type(typing.get_args(inner)[0])}]"
        if origin is list
        else getattr(inner, "__name__", str(inner))
    )
    return name + ("?" if optional else "")


def name_key(field: dataclasses.Field, kind: Any) -> str:
    """Return the short name of what a key takes, as --help has it."""
    return "int[,int]" if field.metadata.get("sides") else name_type(kind)


def word_type(kind: Any) -> str:
    """Return what a value of this type is, in words: 'a whole number'."""
    inner, _ = unwrap_optional(kind)
    words = {int: "a whole number", float: "a finite number", bool: "true or false"}
    return words.get(inner, f"a value of type {name_type(kind)}")


def list_keys(
    schema: "type[DataclassInstance]", prefix: str = ""
) -> Iterator[tuple[str, dataclasses.Field, Any]]:
    """Yield (dotted key, field, type) of every settable key.

    Names of a dict of sections show as NAME.
    """
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        kind, _ = unwrap_optional(hints[field.name])
        if dataclasses.is_dataclass(kind):
            yield from list_keys(kind, f"{prefix}{field.name}.")
        elif typing.get_origin(kind) is dict and dataclasses.is_dataclass(typing.get_args(kind)[1]):
            yield from list_keys(typing.get_args(kind)[1], f"{prefix}{field.name}.NAME.")
        else:
            name = f"{prefix}{field.name}"
            yield (
                f"{name}.NAME" if typing.get_origin(kind) is dict else name,
                field,
                hints[field.name],
            )


def find_key(schema: "type[DataclassInstance]", dotted: str) -> FoundKey | None:
    """Return (field, type, [(name, schema) of each dict section to create]) of a key, or None."""
    created, here, parts = [], schema, dotted.split(".")
    position = 0
    while position < len(parts):
        fields = {f.name: f for f in dataclasses.fields(here)}
        if parts[position] not in fields:
            return None
        field = fields[parts[position]]
        hint = typing.get_type_hints(here)[field.name]
        kind, _ = unwrap_optional(hint)
        position += 1
        if typing.get_origin(kind) is dict and dataclasses.is_dataclass(typing.get_args(kind)[1]):
            if position >= len(parts):
                return field, hint, created
            position += 1
            here = typing.get_args(kind)[1]
            created.append((".".join(parts[:position]), here))
        elif typing.get_origin(kind) is dict and position == len(parts) - 1:
            return field, typing.get_args(kind)[1], created  # an entry of a dict of plain values
        elif dataclasses.is_dataclass(kind):
            here = kind
        else:
            return (field, hint, created) if position == len(parts) else None
    return None


def find_renamed(schema: "type[DataclassInstance]", dotted: str) -> str | None:
    """Return the key that an earlier version called ``dotted``, or None."""
    for name, field, _ in list_keys(schema):
        old = field.metadata.get("renamed_from")
        if old is None:
            continue
        section = name.rpartition(".")[0]
        whole = old if "." in old or not section else f"{section}.{old}"
        pattern = re.escape(whole).replace("NAME", "[^.]+")
        if re.fullmatch(pattern, dotted):
            return name
    return None
