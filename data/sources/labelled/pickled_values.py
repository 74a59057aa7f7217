"""Values that a pickle may hold, made from their data alone; see ``pickles``.

A pickle's objects are kept as ``Built``: the name of what was to be called, its arguments, and the
state it was to be given. ``Resolver`` makes the values from the bottom up, each once, and counts
how large each would be if it were written out: a list of a list of a list ..., each ten times the
same, is small until somebody goes through it.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

DEPTH_MAX = 64
SIZE_FREE = 512 << 20  # bytes that a value may take when written out, whatever its file's size
SIZE_RATIO = 32  # and times its file's size
DENSE_MAX = 256 << 20  # bytes of a sparse matrix made dense
SHARED_MIN = 1 << 20  # bytes of an array that is not copied
ITEM_BYTES = 8
PLAIN_DTYPE = re.compile(r"[<>=|]?(b1|\?|[biufc][0-9]{1,2}|[SU][0-9]{1,6}|O8?)")


@dataclass(frozen=True)
class Name:
    """The name of a class or function in a pickle; nothing is looked up by it."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass
class OldText:
    """A long string of Python 2: bytes of an array, or text."""

    data: bytes


@dataclass
class Built:
    """What a pickle wants to be made by a name: arguments, entries of a dict, state."""

    name: Name
    arguments: tuple
    items: dict = field(default_factory=dict)
    state: Any = None
    has_state: bool = False


# The same things have other names in other versions of Python, numpy and scipy.
_RENAMED = {
    "__builtin__": "builtins",
    "copy_reg": "copyreg",
    "numpy._core.multiarray": "numpy.core.multiarray",
    "numpy._core.numeric": "numpy.core.numeric",
    "scipy.sparse._csc": "scipy.sparse.csc",
    "scipy.sparse._csr": "scipy.sparse.csr",
    "pandas.core.internals": "pandas.core.internals.managers",
    "pandas.indexes.base": "pandas.core.indexes.base",
    "pandas.core.index": "pandas.core.indexes.base",
}


def name_of(module: str, name: str) -> Name:
    """The Name under which ``BUILDERS`` has it, whatever version wrote it."""
    return Name(_RENAMED.get(module, module), name)


class Resolver:
    """Makes values of what a pickle's steps left; ValueError where they make no sense.

    Args:
        size: bytes of the pickle, which bound what its value may take.
    """

    def __init__(self, size: int) -> None:
        self.size_max = SIZE_FREE + SIZE_RATIO * size
        self._done: dict[int, tuple[Any, int]] = {}
        self._open: set[int] = set()
        self._kept: list[Any] = []  # so that no id is used twice

    def resolve(self, value: Any) -> Any:
        """The plain value of what may hold Built."""
        return self._resolve(value, 0)[0]

    def _resolve(self, value: Any, depth: int) -> tuple[Any, int]:
        """(value, bytes it takes written out)."""
        if isinstance(value, (str, bytes, bytearray)):
            return value, ITEM_BYTES + 4 * len(value)
        if isinstance(value, (int, float, complex, type(None))):
            return value, ITEM_BYTES
        if isinstance(value, Name):
            raise ValueError(f"{value} itself is among its data")
        if not isinstance(value, (list, tuple, dict, set, frozenset, Built, OldText)):
            raise ValueError("a mark is left among its data")
        mark = id(value)
        if mark in self._done:
            return self._done[mark]
        if mark in self._open:
            raise ValueError("a value holds itself")
        if depth > DEPTH_MAX:
            raise ValueError(f"its values are nested deeper than {DEPTH_MAX}")
        self._open.add(mark)
        out, size = self._resolve_container(value, depth + 1)
        if size > self.size_max:
            raise ValueError(
                f"it would take {size} bytes written out, more than its size accounts for"
            )
        self._open.discard(mark)
        self._kept.append(value)
        self._done[mark] = out, size
        return out, size

    def _resolve_container(self, value: Any, depth: int) -> tuple[Any, int]:
        if isinstance(value, OldText):
            return value.data.decode("latin-1"), 4 * len(value.data)
        if isinstance(value, (set, frozenset)):
            return set(value), 4 * ITEM_BYTES * len(value)
        if isinstance(value, dict):
            found, size = self._resolve_all(value.values(), depth)
            return dict(zip(value, found, strict=True)), size + ITEM_BYTES * len(value)
        if isinstance(value, Built):
            return self._make(value, depth)
        found, size = self._resolve_all(value, depth)
        return (found if isinstance(value, list) else tuple(found)), size

    def _resolve_all(self, values: Any, depth: int) -> tuple[list[Any], int]:
        out, size = [], ITEM_BYTES
        for value in values:
            made, more = self._resolve(value, depth)
            out.append(made)
            size += more
            if size > self.size_max:
                break
        return out, size

    def _make(self, built: Built, depth: int) -> tuple[Any, int]:
        """The value of a Built."""
        wanted = WANTED.get(built.name)
        state = built.state
        if wanted is not None and isinstance(state, dict):
            state = {name: state[name] for name in wanted if name in state}
        elif isinstance(state, tuple) and state and isinstance(state[-1], OldText):
            # An array's content: as text it would take a copy, and another one to become bytes.
            state = (*state[:-1], state[-1].data)
        # A call's own arguments may name a class; nothing else may.
        named = [isinstance(value, Name) for value in built.arguments]
        plain = [
            value for value, is_name in zip(built.arguments, named, strict=True) if not is_name
        ]
        (made, state, items), size = self._resolve((plain, state, built.items), depth)
        rest = iter(made)
        arguments = tuple(
            value if is_name else next(rest)
            for value, is_name in zip(built.arguments, named, strict=True)
        )
        try:
            out = BUILDERS[built.name](arguments, state, items)
        except (TypeError, IndexError, KeyError, AttributeError, OverflowError) as error:
            raise ValueError(f"a {built.name} makes no sense: {error}") from None
        return out, size + (out.nbytes if isinstance(out, np.ndarray) else 0)


def _as_bytes(raw: Any) -> bytes | bytearray:
    """The content of an array. A large one is used where it is, so that nobody can write to it."""
    if isinstance(raw, str):
        raw = raw.encode("latin-1")
    if isinstance(raw, bytearray) or (isinstance(raw, bytes) and len(raw) > SHARED_MIN):
        return raw
    if isinstance(raw, bytes):
        return bytearray(raw)
    raise ValueError(f"an array's content is a {type(raw).__name__}")


def _as_numbers(value: Any) -> np.ndarray:
    """An array of numbers. Texts of different lengths would all take as much as the longest."""
    return value if isinstance(value, np.ndarray) else np.asarray(value, np.float64)


def _plain_dtype(name: Any) -> np.dtype:
    text = name.decode("latin-1") if isinstance(name, bytes) else name
    if not isinstance(text, str) or not PLAIN_DTYPE.fullmatch(text):
        raise ValueError(f"arrays of {ascii(text)[:60]} are not read")
    return np.dtype(text)


def _make_dtype(arguments: tuple, state: Any, items: dict) -> np.dtype:
    dtype = _plain_dtype(arguments[0])
    if state is None:
        return dtype
    order, shape, names = state[1:4]
    if shape is not None or names is not None:
        raise ValueError("arrays of records are not read")
    order = order.decode("latin-1") if isinstance(order, bytes) else order
    return dtype.newbyteorder(order) if order in ("<", ">") else dtype


def _shaped(raw: Any, dtype: Any, shape: Any, fortran: bool) -> np.ndarray:
    """An array of bytes, or of a list for the dtype object; its content has to fill its shape."""
    if not isinstance(dtype, np.dtype):
        dtype = _plain_dtype(dtype)
    lengths = [int(length) for length in shape]
    if len(lengths) > 32 or any(length < 0 for length in lengths):
        raise ValueError(f"an array's shape is {str(shape)[:60]}")
    count = math.prod(lengths)
    if dtype.hasobject:
        if not isinstance(raw, list) or len(raw) != count:
            raise ValueError(f"an array of {count} values holds another number of them")
        flat = np.empty(count, object)
        for place, value in enumerate(raw):
            flat[place] = value
    else:
        data = _as_bytes(raw)
        if len(data) != count * dtype.itemsize:
            raise ValueError(f"an array of {count} {dtype} has {len(data)} bytes")
        flat = np.frombuffer(data, dtype) if data else np.zeros(count, dtype)
    return flat.reshape(lengths, order="F" if fortran else "C")


def _make_array(arguments: tuple, state: Any, items: dict) -> np.ndarray:
    if arguments[0] != Name("numpy", "ndarray") or state is None:
        raise ValueError("an array without content, or of another class")
    shape, dtype, fortran, raw = state[-4:]
    return _shaped(raw, dtype, shape, bool(fortran))


def _make_buffer(arguments: tuple, state: Any, items: dict) -> np.ndarray:
    raw, dtype, shape, order = arguments
    return _shaped(raw, dtype, shape, order == "F")


def _make_scalar(arguments: tuple, state: Any, items: dict) -> Any:
    dtype, raw = arguments
    if not isinstance(dtype, np.dtype) or dtype.hasobject:
        raise ValueError(f"a number of {ascii(dtype)[:60]}")
    return _shaped(raw, dtype, (), False)[()]


def _make_bytes(arguments: tuple, state: Any, items: dict) -> bytes:
    if not arguments:
        return b""
    text, encoding = arguments
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"bytes in {ascii(encoding)[:40]}")
    return text.encode("latin-1")


def _make_set(arguments: tuple, state: Any, items: dict) -> set:
    values = list(arguments[0]) if arguments else []
    if any(isinstance(value, tuple) for value in values):
        raise ValueError("a set of tuples")
    return set(values)


def _make_slice(arguments: tuple, state: Any, items: dict) -> slice:
    return slice(*arguments)


def _make_complex(arguments: tuple, state: Any, items: dict) -> complex:
    real, imaginary = arguments
    return complex(float(real), float(imaginary))


def _make_ordered(arguments: tuple, state: Any, items: dict) -> dict:
    out = {}
    for key, value in arguments[0] if arguments else ():
        if not isinstance(key, (str, int)):
            raise ValueError(f"a key of a dict is a {type(key).__name__}")
        out[key] = value
    out.update(items)
    return out


def _make_sparse(by_column: bool) -> Callable[[tuple, Any, dict], np.ndarray]:
    def make(arguments: tuple, state: Any, items: dict) -> np.ndarray:
        """(rows, columns) of a compressed sparse matrix."""
        shape = [int(length) for length in state.get("_shape") or state["shape"]]
        data, places, starts = (_as_numbers(state[name]) for name in ("data", "indices", "indptr"))
        major, minor = reversed(shape) if by_column else shape
        if data.dtype.kind not in "biufc" or {places.dtype.kind, starts.dtype.kind} - {"i", "u"}:
            raise ValueError("a sparse matrix of other things than numbers")
        if min(shape) < 0 or math.prod(shape) * data.itemsize > DENSE_MAX:
            raise ValueError(f"a sparse matrix of {shape[0]} x {shape[1]} is too large")
        counts = np.diff(starts.astype(np.int64))
        if (
            len(starts) != major + 1
            or not data.shape == places.shape == (starts[-1],)
            or starts[0] != 0
            or (counts < 0).any()
            or (len(places) and not 0 <= places.min() <= places.max() < minor)
        ):
            raise ValueError("a sparse matrix whose indices do not fit its shape")
        out = np.zeros((major, minor), data.dtype)
        np.add.at(out, (np.repeat(np.arange(major), counts), places), data)
        return np.ascontiguousarray(out.T) if by_column else out

    return make


def _make_chumpy(arguments: tuple, state: Any, items: dict) -> np.ndarray:
    return _as_numbers(state["x"])


def _make_select(arguments: tuple, state: Any, items: dict) -> np.ndarray:
    """Entries of an array, as chumpy picks and shapes them."""
    shape = [int(length) for length in state["preferred_shape"]]
    places = _as_numbers(state["idxs"]).astype(np.int64)
    return _as_numbers(state["a"]).ravel()[places].reshape(shape)


def _make_index(arguments: tuple, state: Any, items: dict) -> np.ndarray | range:
    """The labels of a pandas table's rows or columns."""
    entries = arguments[1]
    if "data" in entries:
        if not isinstance(entries["data"], np.ndarray):
            raise ValueError("a table's index is no array")
        return entries["data"]
    return range(int(entries["start"]), int(entries["stop"]), int(entries["step"]))


def _make_block(arguments: tuple, state: Any, items: dict) -> dict:
    """Columns of a pandas table that lie in one array, and their numbers."""
    return {"values": arguments[0], "mgr_locs": arguments[1]}


def _make_first(arguments: tuple, state: Any, items: dict) -> Any:
    return arguments[0]


def _make_columns(arguments: tuple, state: Any, items: dict) -> dict[str, np.ndarray]:
    """{column: (rows,) array} of a pandas table's manager."""
    if arguments:
        blocks, axes = arguments[:2]
    else:
        parts = state[3]["0.14.1"]
        blocks, axes = parts["blocks"], parts["axes"]
    names = [str(name) for name in axes[0]] if isinstance(axes[0], np.ndarray) else axes[0]
    if len(names) > 100_000:
        raise ValueError(f"a table of {len(names)} columns")
    out: dict[int, np.ndarray] = {}
    for block in blocks:
        places = block["mgr_locs"]
        if isinstance(places, slice):
            places = range(*places.indices(len(names)))
        values = block["values"]
        if not isinstance(values, np.ndarray) or len(values) != len(places):
            raise ValueError("a table whose columns are no plain arrays")
        for place, column in zip(places, values, strict=True):
            out[int(place)] = column
    return {str(names[place]): out[place] for place in range(len(names))}


def _make_table(arguments: tuple, state: Any, items: dict) -> dict[str, np.ndarray]:
    return state["_mgr"] if "_mgr" in state else state["_data"]


Builder = Callable[[tuple, Any, dict], Any]
_INDEXES = ("Index", "RangeIndex", "Int64Index")
# What may be called or made, and how it is made here.
BUILDERS: dict[Name, Builder] = {
    Name("numpy.core.multiarray", "_reconstruct"): _make_array,
    Name("numpy.core.multiarray", "scalar"): _make_scalar,
    Name("numpy.core.numeric", "_frombuffer"): _make_buffer,
    Name("numpy", "dtype"): _make_dtype,
    Name("_codecs", "encode"): _make_bytes,
    Name("builtins", "bytes"): _make_bytes,
    Name("builtins", "set"): _make_set,
    Name("builtins", "frozenset"): _make_set,
    Name("builtins", "slice"): _make_slice,
    Name("builtins", "complex"): _make_complex,
    Name("collections", "OrderedDict"): _make_ordered,
    Name("scipy.sparse.csc", "csc_matrix"): _make_sparse(by_column=True),
    Name("scipy.sparse.csr", "csr_matrix"): _make_sparse(by_column=False),
    Name("chumpy.ch", "Ch"): _make_chumpy,
    Name("chumpy", "Ch"): _make_chumpy,
    Name("chumpy.reordering", "Select"): _make_select,
    Name("pandas.core.frame", "DataFrame"): _make_table,
    Name("pandas.core.internals.managers", "BlockManager"): _make_columns,
    Name("pandas._libs.internals", "_unpickle_block"): _make_block,
    Name("pandas._libs.internals", "BlockPlacement"): _make_first,
    Name("pandas.core.indexes.base", "_new_Index"): _make_index,
}
# What may be named among a call's arguments.
NAMES = {
    Name("copyreg", "_reconstructor"),  # its arguments name what is made
    Name("numpy", "ndarray"),
    Name("builtins", "object"),
    *(Name("pandas.core.indexes.base", name) for name in _INDEXES),
    Name("pandas.core.indexes.range", "RangeIndex"),
    Name("pandas.core.indexes.numeric", "Int64Index"),
}
# Of the state of these only some entries mean something; others may be anything, and are dropped.
WANTED: dict[Name, tuple[str, ...]] = {
    Name("scipy.sparse.csc", "csc_matrix"): ("_shape", "shape", "data", "indices", "indptr"),
    Name("scipy.sparse.csr", "csr_matrix"): ("_shape", "shape", "data", "indices", "indptr"),
    Name("chumpy.ch", "Ch"): ("x",),
    Name("chumpy", "Ch"): ("x",),
    Name("chumpy.reordering", "Select"): ("a", "idxs", "preferred_shape"),
    Name("pandas.core.frame", "DataFrame"): ("_mgr", "_data"),
}
