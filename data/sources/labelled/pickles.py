"""Pickles of labelled datasets and body models, read without executing anything in them.

A pickle is a program that names classes and functions to be called. Here its steps are followed by
a machine of its own that looks up nothing: a name stays a name, and values are made only for those
in ``pickled_values.BUILDERS``, from their data alone (numpy arrays, scipy's sparse matrices and
chumpy's arrays as plain arrays, a pandas table as a dict of columns). Text of Python 2 is read as
latin-1. What a file may ask for is bounded by its own size.

The opcodes are those of the standard library's ``pickletools``.
"""

import ast
import io
import os
import pickletools
import re
from collections.abc import Callable
from typing import IO, Any

import numpy as np

from data.sources.labelled.pickled_values import (
    BUILDERS,
    NAMES,
    Built,
    Name,
    OldText,
    Resolver,
    name_of,
)
from engine.errors import UserError, explain, failure_of

CONTAINERS_MAX = 4_000_000
STEPS_MAX = 60_000_000
KEY_MAX = 1 << 60  # beyond it many whole numbers have one hash
TEXT_SHORT = 256  # bytes; longer Python 2 strings are kept as bytes, for they are arrays' contents
EXECUTED_NOTHING = "nothing in it was executed"


def read_pickle(source: str | os.PathLike[str] | bytes, name: str = "") -> Any:
    """The value in a pickle: dicts, lists, tuples, sets, texts, numbers and numpy arrays.

    Args:
        source: path, or the pickle's bytes.
        name: what messages call it; by default the path.

    Raises:
        UserError: it cannot be read, is cut short, asks for anything but plain data, or would take
            far more memory than its size accounts for.
        EnvironmentFault: the disk fails.
    """
    if isinstance(source, bytes):
        return _read_stream(io.BytesIO(source), len(source), name or "a pickle")
    path = os.fspath(source)
    try:
        with _File(io.FileIO(path)) as file:
            return _read_stream(file, file.size, name or path)
    except OSError as error:
        raise failure_of(error, f"{path} cannot be read: {explain(error)}") from None


def _read_stream(stream: IO[bytes], size: int, name: str) -> Any:
    if not size:
        raise UserError(f"{name} is empty (0 bytes)")
    try:
        return _Machine(stream, size).run()
    except _Refused as error:
        raise UserError(f"{name} is refused: {error}; {EXECUTED_NOTHING}") from None
    except _SENSELESS as error:
        words = str(error).split("\n")[0][:200] or type(error).__name__
        raise UserError(
            f"{name} is no pickle of plain data, or is cut short: {words}; {EXECUTED_NOTHING}"
        ) from None


class _File(io.BufferedReader):
    """A file whose every read asks for no more than what is left, whatever length it claims."""

    def __init__(self, raw: io.FileIO) -> None:
        super().__init__(raw)
        self.size = os.fstat(raw.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next ``size`` bytes, or what is left."""
        left = self.size - self.tell()
        return super().read(left if size is None or size < 0 else min(size, left))


_SENSELESS = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    OverflowError,
    SyntaxError,
    RecursionError,
    MemoryError,
)


class _Refused(Exception):
    """What a pickle asks for and does not get."""


_OPS = {op.code.encode("latin-1"): op for op in pickletools.opcodes}
_MARK = object()
_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""")


class _Machine:
    """Follows a pickle's steps; ``run`` returns the value."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self.stream = stream
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.containers = 0
        self.resolver = Resolver(size)

    def run(self) -> Any:
        """Follow all steps, then make the values."""
        stream = self.stream
        for _ in range(STEPS_MAX):
            code = stream.read(1)
            if not code:
                raise ValueError("it ends before its last step")
            op = _OPS.get(code)
            if op is None:
                raise ValueError(f"byte {code[0]} at {stream.tell() - 1} is no step of a pickle")
            if op.name == "STOP":
                (value,) = self.stack
                return self.resolver.resolve(value)
            step = _STEPS.get(op.name)
            if step is None:
                raise _Refused(f"it has a step {op.name}, which plain data do not need")
            step(self, self._argument(op))
        raise _Refused(f"it has more than {STEPS_MAX} steps")

    def _argument(self, op: pickletools.OpcodeInfo) -> Any:
        if op.name == "STRING":
            line = self.stream.readline().decode("ascii").strip()
            if not _QUOTED.fullmatch(line):
                raise ValueError("a text without its quotes")
            return ast.literal_eval("b" + line).decode("latin-1")
        if op.name == "BINSTRING":
            length = int.from_bytes(self.stream.read(4), "little", signed=True)
            data = self.stream.read(max(length, 0))
            if len(data) != length:
                raise ValueError(f"{length} bytes are announced, {len(data)} are left")
            return OldText(data) if length > TEXT_SHORT else data.decode("latin-1")
        return None if op.arg is None else op.arg.reader(self.stream)

    def pop_marked(self) -> list[Any]:
        """Take off what lies above the last mark, and the mark."""
        for place in range(len(self.stack) - 1, -1, -1):
            if self.stack[place] is _MARK:
                out = self.stack[place + 1 :]
                del self.stack[place:]
                return out
        raise ValueError("a mark is missing")

    def push_container(self, value: Any) -> None:
        """Push a new container; there is a most that a file may have."""
        self.containers += 1
        if self.containers > CONTAINERS_MAX:
            raise _Refused(f"it has more than {CONTAINERS_MAX} lists, dicts and tuples")
        self.stack.append(value)

    def push_name(self, module: Any, name: Any) -> None:
        """Push a name of a class or function, or refuse it."""
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a name that is no text")
        found = name_of(module, name)
        if found not in BUILDERS and found not in NAMES:
            raise _Refused(f"it asks for {ascii(f'{module}.{name}')[1:-1][:120]}, no plain data")
        self.stack.append(found)

    def build(self, name: Any, arguments: Any) -> None:
        """Push what a name will be called with; nothing is called."""
        if not isinstance(name, Name) or not isinstance(arguments, tuple):
            raise ValueError("a call of what is no name")
        if name == Name("copyreg", "_reconstructor") and len(arguments) == 3:
            name, arguments = arguments[0], ()
        if name not in BUILDERS:
            raise _Refused(f"it makes a {name}, no plain data")
        self.push_container(Built(name, arguments))

    def set_state(self) -> None:
        """Give what lies below the state its state, once."""
        state = self.stack.pop()
        built = self.stack[-1]
        if not isinstance(built, Built) or built.has_state:
            raise ValueError("a state of what has none")
        built.state, built.has_state = state, True

    def set_items(self, items: list[Any]) -> None:
        """Put keys and values into the dict on top."""
        if len(items) % 2:
            raise ValueError("a key without a value")
        into = self.stack[-1]
        if not isinstance(into, (dict, Built)):
            raise ValueError("items of what is no dict")
        entries = into if isinstance(into, dict) else into.items
        for place in range(0, len(items), 2):
            entries[self._key(items[place])] = items[place + 1]

    def add_items(self, items: list[Any]) -> None:
        """Put values into the set on top."""
        if not isinstance(self.stack[-1], set):
            raise ValueError("items of what is no set")
        self.stack[-1].update([self._key(item) for item in items])

    def append(self, items: list[Any]) -> None:
        """Put values to the end of the list on top."""
        if not isinstance(self.stack[-1], list):
            raise ValueError("items of what is no list")
        self.stack[-1] += items

    def make_dict(self) -> None:
        """Push a dict of what lies above the mark."""
        items = self.pop_marked()
        self.push_container({})
        self.set_items(items)

    def _key(self, value: Any) -> Any:
        """A key: plain, or a flat tuple of plain values. The hash of others may take for ever."""
        value = self.resolver.resolve(value)
        for part in value if isinstance(value, tuple) else (value,):
            if not isinstance(part, (str, bytes, int, type(None), np.integer)):
                raise _Refused(f"a key of a dict is a {type(part).__name__}")
            if isinstance(part, int) and abs(part) >= KEY_MAX:
                raise _Refused(f"a key of a dict is {KEY_MAX} or more")
        return value

    def put(self, place: int) -> None:
        """Keep what is on top under a number."""
        self.memo[place] = self.stack[-1]


Step = Callable[[_Machine, Any], object]


def _push(machine: _Machine, value: Any) -> None:
    machine.stack.append(value)


def _push_tuple(count: int) -> Step:
    def push(machine: _Machine, _: Any) -> None:
        if len(machine.stack) < count:
            raise ValueError("a tuple of more than there is")
        items = tuple(machine.stack[len(machine.stack) - count :])
        del machine.stack[len(machine.stack) - count :]
        machine.push_container(items)

    return push


def _reduce(machine: _Machine, _: Any) -> None:
    arguments = machine.stack.pop()
    machine.build(machine.stack.pop(), arguments)


def _instance(machine: _Machine, name: str) -> None:
    arguments = tuple(machine.pop_marked())
    machine.push_name(*name.split(" ", 1))
    machine.build(machine.stack.pop(), arguments)


def _object(machine: _Machine, _: Any) -> None:
    name, *arguments = machine.pop_marked()
    machine.build(name, tuple(arguments))


def _stack_name(machine: _Machine, _: Any) -> None:
    name = machine.stack.pop()
    machine.push_name(machine.stack.pop(), name)


def _set_item(machine: _Machine, _: Any) -> None:
    value = machine.stack.pop()
    machine.set_items([machine.stack.pop(), value])


def _pass(machine: _Machine, _: Any) -> None:
    """Do nothing: the step says how the file is laid out."""


_VALUES = (
    "FLOAT INT BININT BININT1 BININT2 LONG LONG1 LONG4 BINFLOAT STRING BINSTRING SHORT_BINSTRING "
    "UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8"
)
_STEPS: dict[str, Step] = {
    **dict.fromkeys(_VALUES.split(), _push),
    "PROTO": _pass,
    "FRAME": _pass,
    "MARK": lambda m, _: m.stack.append(_MARK),
    "POP": lambda m, _: m.stack.pop(),
    "POP_MARK": lambda m, _: m.pop_marked(),
    "DUP": lambda m, _: m.stack.append(m.stack[-1]),
    "NONE": lambda m, _: m.stack.append(None),
    "NEWTRUE": lambda m, _: m.stack.append(True),
    "NEWFALSE": lambda m, _: m.stack.append(False),
    "EMPTY_LIST": lambda m, _: m.push_container([]),
    "EMPTY_DICT": lambda m, _: m.push_container({}),
    "EMPTY_SET": lambda m, _: m.push_container(set()),
    "EMPTY_TUPLE": lambda m, _: m.stack.append(()),
    "TUPLE1": _push_tuple(1),
    "TUPLE2": _push_tuple(2),
    "TUPLE3": _push_tuple(3),
    "TUPLE": lambda m, _: m.push_container(tuple(m.pop_marked())),
    "LIST": lambda m, _: m.push_container(m.pop_marked()),
    "DICT": lambda m, _: m.make_dict(),
    "FROZENSET": lambda m, _: m.push_container(frozenset(map(m._key, m.pop_marked()))),
    "APPEND": lambda m, _: m.append([m.stack.pop()]),
    "APPENDS": lambda m, _: m.append(m.pop_marked()),
    "SETITEM": _set_item,
    "SETITEMS": lambda m, _: m.set_items(m.pop_marked()),
    "ADDITEMS": lambda m, _: m.add_items(m.pop_marked()),
    "GLOBAL": lambda m, name: m.push_name(*name.split(" ", 1)),
    "STACK_GLOBAL": _stack_name,
    "REDUCE": _reduce,
    "NEWOBJ": _reduce,
    "INST": _instance,
    "OBJ": _object,
    "BUILD": lambda m, _: m.set_state(),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), lambda m, place: m.put(place)),
    **dict.fromkeys(
        ("GET", "BINGET", "LONG_BINGET"), lambda m, place: m.stack.append(m.memo[place])
    ),
    "MEMOIZE": lambda m, _: m.put(len(m.memo)),
}
