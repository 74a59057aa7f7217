"""Paths as config keys hold them: one, or several in a text; ``~``; commands of a shell.

Nothing here imports torch.
"""

import json
import os

from engine.errors import UserError

PIPE = "pipe:"  # what follows is a shell command whose output is read


def split_list(text: str, name: str) -> list[str]:
    """Return the parts of ``a,b``, of ``[a,b]`` or of ``["a","b"]``.

    The last is a JSON list, whose parts may hold commas.

    Args:
        name: of the key, for messages.
    Raises:
        UserError: a text that begins as a JSON list and is none, or not of texts alone.
    """
    text = text.strip()
    if is_json_list(text):
        return _read_json_list(text, name)
    text = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    return [part.strip() for part in text.split(",")] if text else []


def is_json_list(text: str) -> bool:
    """Return whether a text is meant as a JSON list.

    A glob may begin with a bracket, but not with one before a quote.
    """
    return text.lstrip().startswith("[") and text.lstrip()[1:].lstrip().startswith('"')


def _read_json_list(text, name):
    try:
        parts = json.loads(text)
    except ValueError as error:
        raise UserError(
            f'{name}={text} begins as a JSON list and is none: {error}; ["A","B"] is one'
        ) from None
    if not all(isinstance(part, str) for part in parts):
        raise UserError(f"{name}={text}: a list of texts is wanted, each in double quotes")
    return parts


def split_paths(spec: str | list[str], name: str = "shards") -> list[str]:
    """The paths, URLs and commands that a text names.

    A command (``pipe:...``) is one, for it may hold commas, and so is a path that is there as it is
    written. In a plain text commas part several, but for those in braces. ``["a,b","c"]``, a JSON
    list, says any of them, in any number. ``~`` and ``~NAME`` at the beginning of a path become the
    home folder.

    Args:
        spec: the text; of a list each member is such a text.  name: of the key, for messages.
    Raises:
        UserError: a broken list; a command between commas.
    """
    if not isinstance(spec, str):
        return [path for part in spec for path in split_paths(part, name)]
    spec = spec.strip()
    if is_json_list(spec):
        parts = _read_json_list(spec, name)
    elif spec.startswith(PIPE) or os.path.exists(spec):
        parts = [spec]
    else:
        parts = _split_at_commas(spec)
        command = next((part for part in parts[1:] if part.strip().startswith(PIPE)), None)
        if command:
            raise UserError(
                f"{name}={spec}: a command among others cannot be separated by commas; write "
                f'{name}=["...","'
                f'{command.strip()}"]'
            )
    return [expand_home(part.strip()) for part in parts if part.strip()]


def _split_at_commas(text):
    parts, depth = [""], 0
    for letter in text:
        depth += (letter == "{") - (letter == "}")
        if letter == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def expand_home(path: str) -> str:
    """A path with ``~/`` or ``~NAME/`` at its beginning written out.

    ``~`` by itself stays, for in YAML it means nothing.
    """
    return os.path.expanduser(path) if path.startswith("~") and len(path) > 1 else path


def find_commands(values: dict) -> dict[str, str]:
    """{dotted key: first command} of the keys whose value would have a shell run a command.

    Args:
        values: of engine.config.parser.flat.
    """
    found = {}
    for name, value in values.items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and (PIPE in text or is_json_list(text)):
                commands = [part for part in split_paths(text, name) if part.startswith(PIPE)]
                found |= {name: commands[0]} if commands else {}
    return found


def refuse_commands(values: dict, given: set[str], origin: str, allowed: bool) -> None:
    """Refuse to run the commands of a config that somebody else may have written.

    Whose the file is says nothing: a run that was copied or unpacked belongs to who did so.

    Args:
        values: of engine.config.parser.flat.  given: dotted keys that were typed, whose commands
            are the caller's own.
        origin: the file, for messages.  allowed: the caller has agreed.
    Raises:
        UserError: it holds a command that nobody agreed to.
    """
    for name, command in find_commands(values).items():
        if name not in given and not allowed:
            raise UserError(
                f"{origin} says {name}={command}, a command that a shell would run as you; give "
                f"allow_commands=true if you know where it comes from, or {name}= with shards of "
                f"your own"
            )


def as_text(value: str | os.PathLike | list) -> str:
    """Return several paths given as a list as the text of one key.

    ``split_paths`` takes it apart again.
    """
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else os.fspath(value)
