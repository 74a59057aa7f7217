"""Labels as bytes: arrays by name in an npz. Imports neither torch nor webdataset."""

import io
import zipfile
import zlib
from collections.abc import Iterable, Mapping

import numpy as np


def load_arrays(
    data: bytes,
    names: Iterable[str] | None = None,
    optional: Iterable[str] = (),
    member: str = "labels.npz",
) -> dict[str, np.ndarray]:
    """{name: array} of an npz, of all or of some names, as they are.

    Pickled objects are refused.

    Args:
        optional: names that are returned too where they are there.  member: what messages call it.
    Raises:
        ValueError: it is not such an archive.  KeyError: a name is missing.
    """
    if data[:2] != b"PK":
        raise ValueError(f"{member} is not an npz archive")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            there = [name for name in optional if name in arrays.files]
            return {name: arrays[name] for name in (*(names or arrays.files), *there)}
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError) as error:
        # zipfile raises RuntimeError for an archive that is said to be encrypted.
        raise ValueError(f"{member} does not load: {error}") from None


def read_visible(data: bytes, count: int) -> np.ndarray | None:
    """Return (N,) share of its surface that each crop shows, of an npz; None where it has none.

    Raises:
        ValueError: it is not such an archive, or does not fit ``count`` crops.
    """
    try:
        shares = load_arrays(data, ["visible"])["visible"]
    except KeyError:
        return None
    if shares.shape != (count,) or shares.dtype.kind not in "fiu":
        raise ValueError(
            f"labels.npz: visible is {shares.shape} of {shares.dtype}, not a number for each of "
            f"{count} crops"
        )
    return shares


def save_arrays(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of an npz, equal for equal arrays: np.savez would write today's date into it."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name in sorted(arrays):
            data = io.BytesIO()
            np.lib.format.write_array(data, np.ascontiguousarray(arrays[name]), allow_pickle=False)
            entry = zipfile.ZipInfo(name + ".npy", (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data.getvalue(), compresslevel=6)
    return out.getvalue()
