"""Files of a data set's folders, in order, and their text."""

import json
import os
from typing import Any

from data.format.names import decode_text
from engine.errors import UserError, explain, failure_of


def list_files(folder: str, suffix: str) -> list[str]:
    """Return the paths of files in a folder whose names end so, sorted.

    Raises:
        UserError: the folder is not there, or holds none.
    """
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(suffix))
    except OSError as error:
        raise failure_of(error, f"{folder} cannot be read: {explain(error)}") from None
    found = [os.path.join(folder, name) for name in names if not name.startswith(".")]
    if not found:
        raise UserError(f"{folder} holds no *{suffix}")
    return found


def read_json(path: str) -> Any:
    """The value in a JSON file.

    Raises:
        UserError: it cannot be read or is none.
    """
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON file: {error}") from None


def read_text(path: str) -> str:
    """The text of a file.

    Raises:
        UserError: it cannot be read or is none.
    """
    try:
        with open(path, "rb") as file:
            return decode_text(file.read())
    except OSError as error:
        raise failure_of(error, f"{path} cannot be read: {explain(error)}") from None
    except ValueError as error:
        raise UserError(f"{path} is no text: {error}") from None


def join_name(folder: str, name: str) -> str:
    """Return the path of a file that a data set's labels name, with "/" or "\\" between folders.

    Raises:
        ValueError: the name leads out of the folder.
    """
    parts = name.replace("\\", "/").split("/")
    if parts[0] == "" or ".." in parts or ":" in parts[0] or "\0" in name:
        raise ValueError(f"the name {ascii(name)[:120]} leads out of the data set")
    return os.path.join(folder, *parts)


def stem_of(path: str) -> str:
    """Return a file's name without its folder and suffix."""
    return os.path.splitext(os.path.basename(path))[0]


def list_folders(folder: str) -> list[str]:
    """Return the paths of folders in a folder, sorted, hidden ones left out.

    Raises:
        UserError: the folder is not there.
    """
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise failure_of(error, f"{folder} cannot be read: {explain(error)}") from None
    paths = [os.path.join(folder, name) for name in names]
    return [path for path in paths if os.path.isdir(path)]
