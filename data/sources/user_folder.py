"""Folders of files of the user's own that a recipe takes from: what is in them, and their mark."""

import hashlib
import os
from collections.abc import Sequence

from engine.errors import UserError, explain, failure_of

_ENDS = 65536  # bytes of the head and the tail of a file that its mark is made of


def list_files(folder: str, suffixes: Sequence[str], key: str, kind: str) -> list[str]:
    """Paths of the files below a folder that end so, relative to it and in order.

    Args:
        key: of the config, told in errors.  kind: what such a file is called there.

    Raises:
        UserError: there is no such folder, or no such file in it.
    """
    if not os.path.isdir(folder):
        raise UserError(f"{key}={folder}: no such folder")

    def refuse(error: OSError) -> None:
        raise failure_of(error, f"{key}={error.filename}: {explain(error)}")

    found = []
    for place, _, names in os.walk(folder, onerror=refuse):
        for name in names:
            if name.lower().endswith(tuple(suffixes)) and not name.startswith("."):
                path = os.path.relpath(os.path.join(place, name), folder)
                found.append(path.replace(os.sep, "/"))
    if not found:
        raise UserError(f"{key}={folder} holds no {kind} ({', '.join(suffixes)})")
    return sorted(found)


def mark_files(folder: str, names: Sequence[str], key: str, purpose: bytes) -> str:
    """16 hex digits that change with the names, sizes or ends of a folder's files.

    Args:
        names: of list_files.  key: of the config, told in errors.  purpose: makes marks of other
            kinds of folders differ.

    Raises:
        UserError: a file cannot be read.
    """
    hasher = hashlib.blake2b(digest_size=8, person=purpose)
    for name in names:
        path = os.path.join(folder, name)
        try:
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                head = file.read(_ENDS)
                file.seek(max(0, size - _ENDS))
                tail = file.read(_ENDS)
        except OSError as error:
            raise failure_of(error, f"{key}: {path}: {explain(error)}") from None
        hasher.update(f"{len(os.fsencode(name))} {size} ".encode() + os.fsencode(name))
        hasher.update(head + tail)
    return hasher.hexdigest()
