"""Files that are there whole or not at all: written beside their path and then renamed."""

import contextlib
import os
from collections.abc import Generator
from pathlib import Path

from engine.errors import explain, failure_of


@contextlib.contextmanager
def replace_file(
    path: str | os.PathLike, *, durable: bool = False, mark: str | int | None = None
) -> Generator[Path, None, None]:
    """Give a path beside ``path`` to write to, and rename what was written there to ``path``.

        with replace_file(folder / "index.json") as temporary:
            temporary.write_text(text)

    On any exception the temporary file is removed and ``path`` is as it was. Two processes of a
    machine that write at once do not meet: the name beside it, NAME.writing-MARK, holds the
    process's number, and who ends last wins. What a kill leaves is known by that name: see
    data.tools.cleanup and RunFolder.clear_leftovers.

    Args:
        durable: wait until the bytes and the new name are on the disk; for what a restart builds
            on. It costs milliseconds on a local disk and more on a network's.
        mark: another end of the name, for what several machines may write at the same moment.
    Raises:
        OSError: as it comes; the caller knows what the file is and words it
            (engine.errors.failure_of).
    """
    path = Path(path)
    mark = os.getpid() if mark is None else mark
    temporary = path.with_name(f"{path.name}.writing-{mark}")
    try:
        yield temporary
        if durable:
            sync(temporary)
        os.replace(temporary, path)
        if durable:
            sync(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def write_file(path: str | os.PathLike, data: bytes | str, *, durable: bool = False) -> None:
    """Replace a file's content as a whole; text is written in UTF-8. See ``replace_file``."""
    content = data.encode() if isinstance(data, str) else data
    with replace_file(path, durable=durable) as temporary:
        temporary.write_bytes(content)


def make_folder(path: str | os.PathLike, key: str) -> None:
    """Make a folder and those it lies in.

    Args:
        key: "key=value" that names it, for messages.
    Raises:
        Failure: it cannot be made.
    """
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise failure_of(error, f"{key}: the folder cannot be made: {explain(error)}") from None


def sync(path: str | os.PathLike) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
