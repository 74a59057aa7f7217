"""The weights that ship: ``weights/`` of a checkout, or its copy in an installed package.

``weights/index.json`` names them: {"format": 1, "weights": {NAME: {"file", "sha256", "bytes",
"kind", "card"}}}. Nothing here imports torch.
"""

import difflib
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from engine.errors import UserError, explain, failure_of
from engine.run.files import write_file

PACKAGE = Path(__file__).resolve().parent.parent
INDEX = "index.json"
FORMAT = 1
KINDS = ("body", "hand", "motion")
SUFFIX = ".safetensors"
NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")
BLOCK = 1 << 20


@dataclass(frozen=True)
class Released:
    """Weights that an index names.

    Attributes:
        name: by which they are asked for.
        file, card: names of the weights and of their card, beside the index.
        sha256: of the file, in hex.
        bytes: its size.
        kind: "body" or "hand", what they recover; "motion": of a motion module.
    """

    name: str
    file: str
    sha256: str
    bytes: int
    kind: str
    card: str


def weights_folder() -> Path:
    """Return the folder of the weights that ship with this software."""
    installed = PACKAGE / "weights"  # setup.py puts a copy there
    return installed if installed.is_dir() else PACKAGE.parent / "weights"


def choose_folder(named: str) -> Path:
    """Return the folder that ``folder=`` names, or that of the weights that ship.

    Raises:
        UserError: there is no such folder.
    """
    if not named:
        return weights_folder()
    if not Path(named).is_dir():
        raise UserError(f"folder={named}: there is no such folder")
    return Path(named)


def read_index(folder: Path) -> dict[str, Released]:
    """Return {name: Released} of a folder's index, empty where there is none.

    Raises:
        UserError: it is no such index, or a newer version wrote it.
    """
    path = folder / INDEX
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise failure_of(error, f"{path} cannot be read: {explain(error)}") from None
    except ValueError as error:
        raise UserError(f"{path} is no JSON: {error}") from None
    if not isinstance(tree, dict) or not isinstance(tree.get("weights"), dict):
        raise UserError(f"{path} is no index of weights: it holds no object 'weights'")
    if tree.get("format") != FORMAT:
        raise UserError(
            f"{path} has format {tree.get('format')}; this software reads format {FORMAT}"
        )
    return {name: _read_entry(name, entry, path) for name, entry in tree["weights"].items()}


def list_shipped() -> dict[str, Released]:
    """Return {name: Released} of the weights that ship; see ``read_index``."""
    return read_index(weights_folder())


def _read_entry(name: str, entry: object, path: Path) -> Released:
    if not isinstance(entry, dict):
        raise UserError(f"{path}: the entry of '{name}' is no object")
    texts = {key: entry.get(key) for key in ("file", "sha256", "kind", "card")}
    for key, value in texts.items():
        if not isinstance(value, str):
            raise UserError(f"{path}: '{name}' has {key}={value!r}, which is no text")
    for key in ("file", "card"):
        if Path(entry[key]).name != entry[key]:
            raise UserError(f"{path}: '{name}' has {key}={entry[key]}, which is no plain name")
    if entry["kind"] not in KINDS or not isinstance(entry.get("bytes"), int):
        raise UserError(
            f"{path}: '{name}' has kind={entry['kind']!r} and bytes={entry.get('bytes')!r}; kind "
            f"is one of {', '.join(KINDS)}, bytes a number"
        )
    return Released(
        name, entry["file"], entry["sha256"], entry["bytes"], entry["kind"], entry["card"]
    )


def write_index(folder: Path, released: Mapping[str, Released]) -> None:
    """Write a folder's index as a whole.

    Raises:
        OSError: as it comes.
    """
    entries = {}
    for name in sorted(released):
        entries[name] = asdict(released[name])
        del entries[name]["name"]
    text = json.dumps({"format": FORMAT, "weights": entries}, indent=1) + "\n"
    write_file(folder / INDEX, text, durable=True)


def check_name(name: str) -> None:
    """Raise UserError for what is no name of weights."""
    if not NAME.fullmatch(name) or name.endswith(SUFFIX):
        raise UserError(
            f"name={name}: a name is of small letters, digits, '-', '_' and '.', such as body"
        )


def find_released(name: str, folder: Path | None = None) -> Released:
    """Return the weights of a name.

    Args:
        folder: of the index; default: that which ships.
    Raises:
        UserError: there are none; the message lists those there are, and the nearest.
    """
    folder = folder or weights_folder()
    known = read_index(folder)
    if name in known:
        return known[name]
    if not known:
        raise UserError(f"no weights are in {folder}, so none are called '{name}'")
    near = difflib.get_close_matches(name, list(known), 1, 0.5)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    raise UserError(f"no weights in {folder} are called '{name}': {', '.join(sorted(known))}{hint}")


def released_path(name: str, folder: Path | None = None) -> Path:
    """Return the file of the weights of a name, after a look at its hash.

    Raises:
        UserError: as ``find_released``; the file is missing, or holds other bytes.
    """
    folder = folder or weights_folder()
    found = find_released(name, folder)
    path = folder / found.file
    check_bytes(path, found)
    return path


def check_bytes(path: Path, released: Released) -> None:
    """Raise UserError where a file is not the one that was released."""
    try:
        size, digest = path.stat().st_size, hash_file(path)
    except FileNotFoundError:
        raise UserError(
            f"{path}, the weights '{released.name}', is missing, though {INDEX} beside it names it"
        ) from None
    except OSError as error:
        raise failure_of(error, f"{path} cannot be read: {explain(error)}") from None
    if size != released.bytes:
        raise UserError(
            f"{path} has {size} bytes, the released weights '{released.name}' have "
            f"{released.bytes}: it was cut off or changed; get it again"
        )
    if digest != released.sha256:
        raise UserError(
            f"{path} has SHA-256 {digest[:16]}..., the released weights '{released.name}' have "
            f"{released.sha256[:16]}...: its bytes were changed; get it again"
        )


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, in hex.

    Raises:
        OSError: as it comes.
    """
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            hasher.update(block)
    return hasher.hexdigest()
