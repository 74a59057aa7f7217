"""A calibration file of whatever syntax, parsed once, for those who look whether it is theirs."""

import json
import os
import re
import sys
import xml.etree.ElementTree
from dataclasses import dataclass
from typing import Any

import yaml

from data.format.names import UTF16, decode_text
from engine.errors import UserError, explain, failure_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MOST_BYTES = 1 << 26  # of a file of cameras: InterHand2.6M's, the largest known, has 3 MB
_XML_ERROR = xml.etree.ElementTree.ParseError
SUFFIXES = (".yml", ".yaml", ".xml", ".json")  # of the files that a folder may hold


@dataclass
class Document:
    """One file, or the files of a folder.

    Attributes:
        path: of it.
        syntax: "json", "toml", "xml", "yaml", "text", or "folder".
        tree: what was parsed: dicts, lists and numbers; the root Element of XML; lines of text; of
            a folder {name without suffix: Document}.
        name: the file's own, without folders and suffix.
    """

    path: str
    syntax: str
    tree: Any

    @property
    def name(self) -> str:
        """The file's own name, without folders and suffix."""
        return os.path.basename(os.path.normpath(self.path)).split(".")[0]


def open_document(path: str) -> Document:
    """The Document of a file, or of a folder whose files are one calibration.

    Raises:
        UserError: there is none, it is too large, or nothing that can be parsed.
        EnvironmentFault: the disk fails.
    """
    if os.path.isdir(path):
        try:
            names = [n for n in sorted(os.listdir(path)) if not n.startswith(".")]
        except OSError as error:
            raise failure_of(error, f"calibration {path}: {explain(error)}") from None
        files = [n for n in names if n.lower().endswith(SUFFIXES)]
        parts = [open_document(os.path.join(path, name)) for name in files]
        return Document(path, "folder", {part.name: part for part in parts})
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise failure_of(error, f"calibration {path}: {explain(error)}") from None
    if len(data) > MOST_BYTES:
        raise UserError(f"calibration {path} has over {MOST_BYTES >> 20} MB: no file of cameras")
    if not data.strip():
        raise UserError(f"calibration {path} is empty ({len(data)} bytes)")
    return Document(path, *_parse(data, path))


def _parse(data, path):
    """(syntax, tree) of a file's bytes."""
    try:
        text = decode_text(data)
    except UnicodeDecodeError as error:
        raise UserError(f"calibration {path} is no text file: {error}") from None
    start = text.lstrip()[:1]
    if start == "<":
        # Of a file that was saved anew in UTF-16 the first line still says UTF-8; of bytes
        # without a mark it is to be believed.
        source = text if data.startswith(UTF16) else data
        return "xml", _try(path, "XML", xml.etree.ElementTree.fromstring, source)
    if start == "{" or _is_json(text):
        return "json", _try(path, "JSON", _load_json, text)
    if text.startswith("%YAML"):
        return "yaml", _try(path, "YAML", _load_yaml, text)
    if re.search(r"^\s*(\[[^\],]+\]\s*(#.*)?$|[\w.\"'-]+\s*=)", text, re.MULTILINE):
        return "toml", _try(path, "TOML", tomllib.loads, text)
    if re.search(r"^[\w-]+\s*:", text, re.MULTILINE):
        return "yaml", _try(path, "YAML", _load_yaml, text)
    return "text", text.splitlines()


def _try(path, syntax, parse, source):
    try:
        return parse(source)
    except KeyError as error:
        raise UserError(f"calibration {path}: a matrix of OpenCV lacks {error}") from None
    except (ValueError, TypeError, yaml.YAMLError, _XML_ERROR, RecursionError) as error:
        words = " ".join(str(error).split())[:160]
        raise UserError(f"calibration {path} looks like {syntax}, but: {words}") from None


def _is_json(text):
    """Whether a text that begins with [ is a list of JSON and no table of TOML."""
    return re.match(r"\s*\[\s*[\[{]", text) is not None and not re.match(r"\s*\[\[\w", text)


def _load_json(text):
    return json.loads(text, object_pairs_hook=_unique)


def _unique(pairs):
    """A dict; ValueError where two have one key: the first would vanish without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"two entries are named {max(names, key=names.count)}")
    return found


class _Loader(yaml.SafeLoader):
    """YAML as OpenCV's FileStorage writes it: safe, with its matrices as lists of rows."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Return the next node; ValueError for an alias: nested ones grow without bound."""
        if self.check_event(yaml.AliasEvent):
            raise ValueError("it has an alias (*name), which a calibration does not need")
        return super().compose_node(parent, index)


def _matrix(loader, node):
    return read_matrix(loader.construct_mapping(node, deep=True))


def read_matrix(node: dict) -> list:
    """Nested lists of a matrix of OpenCV's FileStorage, or of ROS: rows, cols and flat data.

    Raises:
        ValueError: its numbers do not fill it.
    """
    rows, columns, data = int(node["rows"]), int(node["cols"]), list(node["data"])
    if rows < 1 or columns < 1 or len(data) != rows * columns:
        raise ValueError(f"a matrix of {rows} x {columns} holds {len(data)} numbers")
    return [data[row * columns : (row + 1) * columns] for row in range(rows)]


def _float(loader, node):
    # FileStorage writes "1." and "1.e-3", which YAML 1.1 takes for text.
    return float(loader.construct_scalar(node).replace(".Nan", "nan").replace(".Inf", "inf"))


_Loader.add_constructor("tag:yaml.org,2002:opencv-matrix", _matrix)
_Loader.add_constructor("tag:yaml.org,2002:float", _float)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?$|^[-+]?\.(?:Nan|Inf|nan|inf)$"),
    list("-+0123456789."),
)


def _load_yaml(text):
    # "%YAML:1.0" is OpenCV's own first line; YAML's would have a space.
    text = re.sub(r"\A%YAML[ :][\d.]+\s*\n(---\s*\n)?", "", text)
    return yaml.load(text, Loader=_Loader)
