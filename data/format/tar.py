"""Tar files as people make them: joined by cat, packed by macOS."""

import tarfile
from collections.abc import Iterator
from typing import BinaryIO

BLOCK = 512  # a tar is laid out in blocks of so many bytes
CHUNK = 1 << 16


def read_tars(raw: BinaryIO, at: int = 0) -> Iterator[tarfile.TarFile]:
    """Yield each tar in a file, which is one, or several that cat joined.

    Read each to its end before asking for the next one. Empty blocks between them are passed over.

    Args:
        raw: the open file.  at: byte to begin at, a multiple of 512.
    Raises:
        tarfile.TarError: the first header there is cut off, or the file is empty.
    """
    if not at and not raw.read(1):
        raise tarfile.ReadError("an empty file")
    found = _next_block(raw, at)
    while found is not None:
        raw.seek(found)
        tar = tarfile.open(fileobj=raw, mode="r:")  # noqa: SIM115 - closing it would do nothing
        yield tar
        # A tar of no member is not a tar: whoever reads its end sees that.
        found = _next_block(raw, tar.offset) if tar.offset > found else None


def is_end(raw: BinaryIO, at: int, total: int) -> bool:
    """Return whether a tar ends at this byte as it should, with an empty block.

    The file has ``total`` bytes.
    """
    raw.seek(at)
    return at + BLOCK <= total and not raw.read(BLOCK).strip(b"\0")


def is_hidden(name: str) -> bool:
    """Return whether a member's file name begins with a dot.

    Those that macOS adds do: it would be of a sample without a key.
    """
    return name.rpartition("/")[2].startswith(".")


def _next_block(raw, at):
    """Where the first block from ``at`` on lies that is not empty, None where all are."""
    raw.seek(at)
    while chunk := raw.read(CHUNK):
        rest = chunk.lstrip(b"\0")
        if rest:
            return at + (len(chunk) - len(rest)) // BLOCK * BLOCK
        at += len(chunk)
    return None
