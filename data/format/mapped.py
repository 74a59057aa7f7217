"""Files mapped into memory without a descriptor.

Python's mmap keeps a descriptor of its own for each mapping (until 3.13), so a reader of thousands
of indexes would reach the limit on open files. The kernel needs none once the file is mapped.
"""

import ctypes
import os
import weakref

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
