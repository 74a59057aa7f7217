"""From the text of a config value to the type that its field declares."""

import dataclasses
import math
import re
import typing

from engine.config.paths import as_text, expand_home, is_json_list, split_list, split_paths
from engine.config.schema import describe_wanted, name_type, unwrap_optional
from engine.errors import UserError

_TRUE, _FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}
_NULL = {"null", "none", "~", ""}

# OmegaConf takes ${...} for a reference to another key and has no switch for it, so dollars are
# hidden from it. The mark itself, a private character of Unicode, is hidden the same way.
_MARK = "\ue000"
_HIDDEN = {_MARK + "0": _MARK, _MARK + "1": "$"}


def hide_dollars(value):
    if isinstance(value, list):
        return [hide_dollars(part) for part in value]
    return (
        value.replace(_MARK, _MARK + "0").replace("$", _MARK + "1")
        if isinstance(value, str)
        else value
    )


def reveal_dollars(value):
    """A config as it was before its texts were hidden, in place where it can be."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            setattr(value, field.name, reveal_dollars(getattr(value, field.name)))
    elif isinstance(value, dict):
        return {name: reveal_dollars(part) for name, part in value.items()}
    elif isinstance(value, list):
        return [reveal_dollars(part) for part in value]
    elif isinstance(value, str):
        return re.sub(_MARK + "[01]", lambda found: _HIDDEN[found[0]], value)
    return value


def convert_value(value, kind, field, dotted, origin):
    inner, optional = unwrap_optional(kind)
    if optional and isinstance(value, str) and value.lower() in _NULL:
        return None
    if typing.get_origin(inner) is list:
        value = split_list(value, dotted) if isinstance(value, str) else value
        return [_scalar(v, typing.get_args(inner)[0], field, dotted, origin) for v in value]
    if isinstance(value, list) and field.metadata["path"] == "several":
        value = as_text(value)
    if isinstance(value, (list, dict)):
        raise UserError(f"'{dotted}' in {origin} takes one {name_type(kind)}, not {value}")
    return _expand(_scalar(value, inner, field, dotted, origin), field.metadata["path"], dotted)


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
        raise UserError(
            f"'{dotted}={text}' in {origin}: {describe_wanted(kind)} is wanted"
        ) from None
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
