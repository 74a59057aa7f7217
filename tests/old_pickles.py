"""Pickles as published files have them: Python 2's strings, old modules, classes of other packages.

write_old(path, {"shapedirs": fake("chumpy.ch", "Ch", {"x": array})})
"""

import io
import pickle
import struct
import types

OLD_MODULES = {
    "numpy._core.multiarray": "numpy.core.multiarray",
    "scipy.sparse._csc": "scipy.sparse.csc",
    "scipy.sparse._csr": "scipy.sparse.csr",
    "builtins": "__builtin__",
    "copyreg": "copy_reg",
}


def fake(module, name, state):
    """An object that a pickle will say is of ``module.name``, with this state."""
    out = type(name, (), {"__module__": module, "__qualname__": name})()
    out.__dict__.update(state)
    return out


class Call:
    """What a pickle asks to be called: ``module.name(*arguments)``, and perhaps a state for it."""

    def __init__(self, module, name, *arguments, state=None):
        self.function = type(name, (), {"__module__": module, "__qualname__": name})
        self.arguments, self.state = arguments, state

    def __reduce__(self):
        if self.state is None:
            return self.function, self.arguments
        return self.function, self.arguments, self.state


class Python2(pickle._Pickler):
    """Writes bytes and text as Python 2's str, and names without a look at what they name."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_old(self, obj):
        raw = obj if isinstance(obj, bytes) else obj.encode("latin-1")
        self.write(
            b"U" + bytes([len(raw)]) if len(raw) < 256 else b"T" + struct.pack("<i", len(raw))
        )
        self.write(raw)
        self.memoize(obj)

    dispatch[bytes] = dispatch[str] = save_old

    def save_global(self, obj, name=None):
        module = OLD_MODULES.get(obj.__module__ or "builtins", obj.__module__)
        self.write(b"c%s\n%s\n" % (module.encode(), (name or obj.__qualname__).encode()))
        self.memoize(obj)

    dispatch[type] = dispatch[types.FunctionType] = save_global
    dispatch[types.BuiltinFunctionType] = save_global


def dump_old(value):
    """The bytes that Python 2 would have pickled a value to, by protocol 2."""
    out = io.BytesIO()
    Python2(out, protocol=2).dump(value)
    return out.getvalue()


def write_old(path, value):
    """Write such a pickle, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(dump_old(value))
