"""Fields of config dataclasses by their dotted keys: what parsing and ``--help`` look up."""

import dataclasses
import re
import typing


def unwrap_optional(kind):
    """(type without Optional, whether None is allowed)"""
    arguments = typing.get_args(kind)
    if type(None) in arguments:
        return next(a for a in arguments if a is not type(None)), True
    return kind, False


def name_type(kind):
    inner, optional = unwrap_optional(kind)
    origin = typing.get_origin(inner)
    name = (
        f"list[{name_type(typing.get_args(inner)[0])}]"
        if origin is list
        else getattr(inner, "__name__", str(inner))
    )
    return name + ("?" if optional else "")


def describe_wanted(kind: type) -> str:
    """What a value of this type is, in words: 'a whole number'."""
    inner, _ = unwrap_optional(kind)
    words = {int: "a whole number", float: "a finite number", bool: "true or false"}
    return words.get(inner, f"a value of type {name_type(kind)}")


def list_leaves(schema, prefix=""):
    """Yield (dotted key, field, type) of every settable key; names of a dict of sections show as
    NAME."""
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        kind, _ = unwrap_optional(hints[field.name])
        if dataclasses.is_dataclass(kind):
            yield from list_leaves(kind, f"{prefix}{field.name}.")
        elif typing.get_origin(kind) is dict and dataclasses.is_dataclass(typing.get_args(kind)[1]):
            yield from list_leaves(typing.get_args(kind)[1], f"{prefix}{field.name}.NAME.")
        else:
            name = f"{prefix}{field.name}"
            yield (
                f"{name}.NAME" if typing.get_origin(kind) is dict else name,
                field,
                hints[field.name],
            )


def find_field(schema, dotted):
    """(field, type, [names of dict sections to create]) of a dotted key, or None."""
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


def find_renamed(schema, dotted):
    """The key that an earlier version called ``dotted``, or None."""
    for name, field, _ in list_leaves(schema):
        old = field.metadata.get("renamed_from")
        if old is None:
            continue
        section = name.rpartition(".")[0]
        whole = old if "." in old or not section else f"{section}.{old}"
        pattern = re.escape(whole).replace("NAME", "[^.]+")
        if re.fullmatch(pattern, dotted):
            return name
    return None
