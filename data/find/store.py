"""Where the search of videos keeps what it found: FOLDER/found/NAME.json and pieces beside it.

All files are written whole or not at all, and each holds the digest of what it depends on, so a
search that was killed resumes with the pieces that it lacks, and two commands in one folder do not
harm each other: whoever comes second writes the same bytes.
"""

import glob
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from data.find.config import SEARCH_KEYS, FindConfig
from data.find.found import Found, decode_found, encode_found
from data.find.looks import Looks
from data.find.models import NETWORKS
from data.sources.index_store import IndexStore, digest_video
from data.tools.cleanup import clear_leftovers
from engine.errors import explain, failure_of
from engine.run.files import replace_file, write_file

FOLDER = "found"
DETECTIONS = "detections.json"  # of all videos, beside FOLDER; see data.find.command
INDEXES = ".frames"  # a hidden folder beside the people: no video has this name
VERSION = 1  # raised where the search finds something else by the same keys


@dataclass(frozen=True)
class Store:
    """A folder of searched videos.

    Attributes:
        folder: it lies in this folder's subfolder "found".
    """

    folder: str

    def path(self, name: str) -> Path:
        """Where the people of a video are kept."""
        return Path(self.folder) / FOLDER / f"{name}.json"

    def load(self, name: str, digest: str) -> Found | None:
        """Return the people of a video, None where they are not there for this digest."""
        try:
            return decode_found(self.path(name).read_bytes(), digest)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise failure_of(error, f"{self.path(name)}: {explain(error)}") from None

    def save(self, name: str, digest: str, found: Found) -> None:
        """Keep the people of a video; drop its pieces and what a kill left half written of them."""
        path = self.path(name)
        self._write(path, encode_found(found, digest))
        whole = glob.escape(path.name)
        clear_leftovers(str(path.parent), (whole, f"{whole}.*.npz"))
        for piece in self._pieces_of(name):
            piece.unlink(missing_ok=True)

    def has_piece(self, name: str, digest: str, part: str) -> bool:
        """Whether a piece of a video is there.

        Args:
            part: which one; see data.find.search.Piece.
        """
        return self._piece(name, digest, part).is_file()

    def load_piece(self, name: str, digest: str, part: str) -> tuple[Looks, str] | None:
        """Return a piece and why it broke off, or ""; None where it is not there, or damaged."""
        try:
            with np.load(self._piece(name, digest, part), allow_pickle=False) as arrays:
                looks = Looks(**{field.name: arrays[field.name] for field in fields(Looks)})
                return looks, str(arrays["broken"])
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            return None

    def save_piece(self, name: str, digest: str, part: str, looks: Looks, broken: str) -> None:
        """Keep a piece, and why it broke off, or ""."""
        path = self._piece(name, digest, part)
        arrays = {field.name: getattr(looks, field.name) for field in fields(Looks)}
        arrays["broken"] = np.array(broken)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replace_file(path) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, **arrays)
        except OSError as error:
            raise failure_of(error, f"{path} cannot be written: {explain(error)}") from None

    def _piece(self, name: str, digest: str, part: str) -> Path:
        whole = self.path(name)
        return whole.with_name(f"{whole.name}.{digest}.{part}.npz")

    def _pieces_of(self, name: str) -> Iterator[Path]:
        """All pieces of a video, those of other digests too."""
        whole = self.path(name)
        made = re.compile(re.escape(whole.name) + r"\.[0-9a-f]{16}\.[0-9-]+\.npz")
        for path in whole.parent.iterdir():
            if made.fullmatch(path.name):
                yield path

    def _write(self, path: Path, data: bytes) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, data)
        except OSError as error:
            raise failure_of(error, f"{path} cannot be written: {explain(error)}") from None


def digest_search(path: str, options: FindConfig, hands: bool) -> str:
    """Return 16 hex digits that change with a video's bytes, the search's keys and its networks.

    Raises:
        OSError: it cannot be read.
    """
    hasher = hashlib.blake2b(digest_size=8)
    keys = [f"{name}={getattr(options, name)}" for name in SEARCH_KEYS]
    networks = [network.member.digest for network in NETWORKS]
    hasher.update(f"{VERSION} {hands} {keys} {networks} {digest_video(path)}".encode())
    return hasher.hexdigest()


def index_store(folder: str) -> IndexStore:
    """Return where the frames' indexes of a search are kept."""
    return IndexStore(str(Path(folder) / FOLDER / INDEXES))
