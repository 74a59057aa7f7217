"""Files mapped into memory without a descriptor.

Python's mmap keeps a descriptor of its own for each mapping (until 3.13), so a reader of thousands
of indexes would reach the limit on open files. The kernel needs none once the file is mapped.
"""

import ctypes
import io
import os
import weakref
import zipfile
import zlib

import numpy as np

PROT_READ, MAP_SHARED = 1, 1
FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


def map_file(file: int) -> memoryview:
    """A file's bytes, read-only, mapped for as long as anything looks into them.

    Args:
        file: a descriptor, which may be closed at once.
    Raises:
        ValueError: the file is empty.  OSError: it cannot be mapped.
    """
    size = os.fstat(file).st_size
    if not size:
        raise ValueError("an empty file")
    address = _libc.mmap(None, size, PROT_READ, MAP_SHARED, file, 0)
    if address == FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    # Views of the block, numpy's too, keep this object, and its end unmaps the file.
    block = (ctypes.c_char * size).from_address(address)
    weakref.finalize(block, _libc.munmap, address, size).atexit = False
    return memoryview(block).toreadonly().cast("B")


def map_npz(file: int) -> dict[str, np.ndarray]:
    """{name: array} of an npz whose members are not compressed.

    The arrays look into the mapped file.

    Args:
        file: its descriptor.
    Raises:
        ValueError, zipfile.BadZipFile: it is damaged (each member's checksum is compared) or no
        such file.
    """
    data = map_file(file)
    with open(file, "rb", closefd=False) as raw, zipfile.ZipFile(raw) as archive:
        entries = archive.infolist()
    arrays = {}
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED:
            raise ValueError("compressed")
        # A member's bytes follow its local header of 30 bytes, name and extra field (PKWARE's
        # APPNOTE, 4.3.7).
        name, extra = (
            int.from_bytes(data[entry.header_offset + at : entry.header_offset + at + 2], "little")
            for at in (26, 28)
        )
        first = entry.header_offset + 30 + name + extra
        if zlib.crc32(data[first : first + entry.file_size]) != entry.CRC:
            raise ValueError("a checksum that disagrees")
        head = io.BytesIO(data[first : first + min(entry.file_size, 512)])
        if np.lib.format.read_magic(head) != (1, 0):
            raise ValueError("an array of another format")
        shape, _, kind = np.lib.format.read_array_header_1_0(head)
        if kind.hasobject:
            raise ValueError("pickled objects")
        flat = np.frombuffer(data, kind, int(np.prod(shape)), first + head.tell())
        arrays[entry.filename.removesuffix(".npy")] = flat.reshape(shape)
    return arrays
