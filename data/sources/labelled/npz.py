"""npz archives of labelled datasets, read without executing anything in them.

Arrays of numbers and texts are read as they are; arrays of objects, which are pickles, by
``pickles``. What an archive unpacks to is bounded by its size on disk. A large array that is not
compressed is mapped rather than read. NaN and Inf are the reader's to judge.
"""

import math
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable
from typing import IO

import numpy as np

from data.sources.labelled.pickled_values import PLAIN_DTYPE
from data.sources.labelled.pickles import read_pickle
from engine.errors import UserError, explain, failure_of

UNPACKED_FREE = 512 << 20  # bytes that an archive may unpack to, however small it is
UNPACKED_RATIO = 100  # and times its size on disk
MAPPED_MIN = 64 << 20  # bytes; larger arrays are mapped where they are not compressed
MEMBERS_MAX = 100_000
SUFFIX = ".npy"


def read_npz(
    path: str | os.PathLike[str], names: Iterable[str] | None = None
) -> dict[str, np.ndarray]:
    """{name: array} of an npz, of all or of some names; a name that it lacks is left out.

    A value that was stored as an object, such as a dict, is an array of shape () that holds it.

    Raises:
        UserError: it cannot be read, is no such archive, is cut short, holds something else than
            plain data, or would unpack to far more than its size accounts for.
        EnvironmentFault: the disk fails.
    """
    path = os.fspath(path)
    wanted = None if names is None else set(names)
    try:
        size = os.path.getsize(path)
        if not size:
            raise UserError(f"{path} is empty (0 bytes)")
        with zipfile.ZipFile(path) as archive:
            members = _members(archive, path)
            chosen = {n: m for n, m in members.items() if wanted is None or n in wanted}
            unpacked = sum(member.file_size for member in chosen.values())
            if unpacked > UNPACKED_FREE + UNPACKED_RATIO * size:
                raise UserError(
                    f"{path} is refused: {size} bytes would unpack to {unpacked}, more than its "
                    f"size accounts for"
                )
            return {name: _read_member(archive, m, path) for name, m in chosen.items()}
    except OSError as error:
        raise failure_of(error, f"{path} cannot be read: {explain(error)}") from None
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        ValueError,
        OverflowError,
        RuntimeError,
        MemoryError,
        SyntaxError,
        struct.error,
    ) as error:
        # zipfile raises RuntimeError for what is encrypted or compressed in a way it does not know.
        words = str(error).split("\n")[0][:200] or type(error).__name__
        raise UserError(f"{path} is no npz archive, or is cut short: {words}") from None


def _members(archive: zipfile.ZipFile, path: str) -> dict[str, zipfile.ZipInfo]:
    """{name: member}."""
    found = archive.infolist()
    if len(found) > MEMBERS_MAX:
        raise UserError(f"{path} is refused: it has {len(found)} members")
    out: dict[str, zipfile.ZipInfo] = {}
    for member in found:
        name = member.filename
        if not name.endswith(SUFFIX) or name in out:
            raise ValueError(f"its member {ascii(name)[:80]} is no array of its own")
        out[name[: -len(SUFFIX)]] = member
    return out


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: str) -> np.ndarray:
    """One array; ValueError where it makes no sense."""
    name = f"{path}: {member.filename[: -len(SUFFIX)]}"
    with archive.open(member) as file:
        header = _read_header(file, name)
        start = file.tell()
        if header.dtype.hasobject:
            # A claim of a size makes nothing be kept ready: what is there is read.
            content = read_pickle(file.read(member.file_size), name)
            return content if isinstance(content, np.ndarray) else _as_object(content)
        length = math.prod(header.shape) * header.dtype.itemsize
        if start + length > member.file_size:
            raise ValueError(
                f"{name} is {header.shape} of {header.dtype}, {length} bytes, and has "
                f"{member.file_size - start}"
            )
        if member.compress_type == zipfile.ZIP_STORED and length >= MAPPED_MIN:
            return _map_array(path, member, start, header)
        data = bytearray(length)
        view = memoryview(data)
        done = 0
        while done < length:
            part = file.read(min(1 << 20, length - done))
            if not part:
                raise ValueError(f"{name} ends after {done} of {length} bytes")
            view[done : done + len(part)] = part
            done += len(part)
    flat = np.frombuffer(data, header.dtype) if length else np.zeros(0, header.dtype)
    return flat.reshape(header.shape, order="F" if header.fortran else "C")


def _as_object(value: object) -> np.ndarray:
    out = np.empty((), object)
    out[()] = value
    return out


class _Header:
    """Shape, order and type of an array."""

    def __init__(self, shape: tuple[int, ...], fortran: bool, dtype: np.dtype) -> None:
        self.shape, self.fortran, self.dtype = shape, fortran, dtype


def _read_header(file: IO[bytes], name: str) -> _Header:
    """The header of an npy file; ValueError where it is none, or of records."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError(f"{name} is of version {version} of the npy format")
    if not PLAIN_DTYPE.fullmatch(dtype.str) or len(shape) > 32 or min(shape, default=0) < 0:
        raise ValueError(f"{name} is an array of {str(dtype)[:80]}, which is not read")
    return _Header(shape, fortran, dtype)


def _map_array(path: str, member: zipfile.ZipInfo, start: int, header: _Header) -> np.ndarray:
    """The array where it lies in the file, not writeable."""
    with open(path, "rb") as file:
        file.seek(member.header_offset)
        local = file.read(30)
        if local[:4] != b"PK\x03\x04":
            raise ValueError(f"its member {ascii(member.filename)[:80]} is not where it should be")
        name_length, extra_length = struct.unpack("<HH", local[26:30])
        offset = member.header_offset + 30 + name_length + extra_length + start
        order = "F" if header.fortran else "C"
        return np.memmap(file, header.dtype, "r", offset, header.shape, order)
