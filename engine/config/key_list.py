"""The keys of a schema as help and completion show them."""

import dataclasses
from collections.abc import Sequence

from engine.config.schema import list_keys, name_type, unwrap_optional

Row = tuple[str, str, str, str]


def list_rows(schema: type) -> list[Row]:
    """Returns [(name, name=default, type, meaning), ...] of all keys of a schema.

    The key that a command line gives as a path, without its name, has its word in place of
    name=default.
    """
    return [
        (name, _show_default(name, field), name_type(kind), _describe(field))
        for name, field, kind in list_keys(schema)
    ]


def _show_default(name: str, field: dataclasses.Field) -> str:
    factory = field.default_factory
    default = field.default if factory is dataclasses.MISSING else factory()
    if isinstance(default, (list, tuple)):
        default = ",".join(map(str, default))
    if isinstance(default, bool):
        default = str(default).lower()
    if default is None or isinstance(default, dict):
        default = ""
    return field.metadata.get("positional") or f"{name}={default}"


def _describe(field: dataclasses.Field) -> str:
    text = field.metadata.get("help", "")
    choices = field.metadata.get("choices")
    return f"{text} ({'|'.join(map(str, choices))})" if choices else text


def list_choices(schema: type) -> dict[str, Sequence[object]]:
    """Returns {name: its values where they are few} of all keys that are written key=value."""
    out = {}
    for name, field, kind in list_keys(schema):
        if field.metadata.get("positional") or ".NAME" in name:
            continue
        boolean = ("true", "false") if unwrap_optional(kind)[0] is bool else ()
        out[name] = field.metadata.get("choices") or boolean
    return out
