"""Files of tensors as checkpoints write and read them: safetensors, the same bytes each time."""

import json
import os
import re
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from engine.run.patience import read_again

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
BLOCK = 1 << 22  # bytes written at a time


def write_tensors(
    path: str | Path,
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write host tensors as a safetensors file, byte for byte the same for the same input.

    safetensors' own writer holds Python's lock meanwhile before version 0.8, and training waits
    (docs/log.md); the sequence of its metadata varies, and a full disk is an error of its own type.

    Args:
        metadata: for the header.
    """
    # As safetensors does: large items first, so that each tensor begins at a multiple of its item's
    # size.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header = _header(names, tensors, metadata)
    words = json.dumps(header, separators=(",", ":")).encode()
    words += b" " * (-len(words) % 8)
    with open(path, "wb", buffering=0) as file:
        _write(file, len(words).to_bytes(8, "little") + words)
        for name in names:
            if tensors[name].numel():
                flat = tensors[name].detach().contiguous().reshape(-1)
                _write(file, memoryview(flat.view(torch.uint8).numpy()))  # type: ignore[bad-argument-type]  # before Python 3.12 an array has no __buffer__ to name


def open_tensors(path: Path) -> Any:
    """Open a safetensors file with safetensors' own ``safe_open``, whose type has no public name.

    Patient with a file that cannot be read for now.

    Raises:
        OSError: there is no such file.  SafetensorError: its bytes are not tensors.
        EnvironmentFault, UserError: as engine.run.patience.
    """

    def attempt() -> Any:
        try:
            return safe_open(path, "pt")
        except (SafetensorError, RuntimeError, MemoryError) as error:
            # What the system said of a file stands in the text alone: safetensors' or, where that
            # maps it, torch's.
            found = re.search(r"os error (\d+)|: [^:]*\((\d+)\)$", str(error))
            number = found and int(found[1] or found[2])
            if number:
                raise OSError(number, os.strerror(number)) from None
            raise

    return read_again(path, attempt)


def _header(
    names: list[str],
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str] | None,
) -> dict[str, object]:
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    at = 0
    for name in names:
        size = tensors[name].numel() * tensors[name].element_size()
        header[name] = {
            "dtype": DTYPES[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [at, at + size],
        }
        at += size
    return header


def _write(file: FileIO, data: bytes | memoryview) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest[:BLOCK]) :]
