"""Files of animation, written whole or not at all."""

from collections.abc import Iterable
from pathlib import Path

from engine.errors import explain, failure_of
from engine.run.files import replace_file, write_file


def write_bytes(path: str | Path, data: bytes | str) -> Path:
    """Write a file and return its path.

    Raises:
        Failure: it cannot be written.
    """
    try:
        write_file(path, data)
    except OSError as error:
        raise failure_of(error, f"{path} cannot be written: {explain(error)}") from None
    return Path(path)


def write_parts(path: str | Path, parts: Iterable[str]) -> Path:
    """Write a text that comes in parts, and return its path.

    Raises:
        Failure: it cannot be written.
    """
    try:
        with replace_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            for part in parts:
                file.write(part)
    except OSError as error:
        raise failure_of(error, f"{path} cannot be written: {explain(error)}") from None
    return Path(path)
