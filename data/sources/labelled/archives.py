"""A data set's files, in a folder or in a zip or tar as its owners pack it: nothing is unpacked.

    files = open_files(self.root)              # of a folder, a .zip or a .tar
    tree = json.loads(files.read("training_K.json"))
    LabelledImage(image=files.image("training/rgb/00000000.jpg"), ...)

A member is read into memory and bounded in size, so a bomb stays small; its name is looked up in
the archive and never in the file system, so one that climbs out of its folder reaches nothing. What
an archive is, its first bytes say: a tar whose last member is a zip is a tar.
"""

import functools
import os
import posixpath
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

from data.format.tar import is_hidden, read_tars
from engine.errors import UserError, explain, failure_of

MEBIBYTE = 1 << 20
IMAGE_MOST = 256 * MEBIBYTE  # bytes of one image
FILE_MOST = 4096 * MEBIBYTE  # bytes of one file of labels
ZIP, TAR_AT, TAR = (b"PK\x03\x04", b"PK\x05\x06"), 257, b"ustar"


@dataclass(frozen=True)
class ArchiveMember:
    """An image inside an archive.

    Attributes:
        archive: path of the zip or tar.  name: of the member.
    """

    archive: str
    name: str

    def read(self, most: int = IMAGE_MOST) -> bytes:
        """Return its bytes.

        Raises:
            ValueError: the archive has no such member, a damaged one, or one of more bytes.
        """
        members = _open_members(self.archive)
        if self.name not in members.sizes:
            raise ValueError(f"{self.archive} has no member {self.name}")
        if members.sizes[self.name] > most:
            raise ValueError(
                f"{self.archive}: {self.name} has {members.sizes[self.name] / MEBIBYTE:.0f} MiB, "
                f"more than the {most / MEBIBYTE:.0f} that are read"
            )
        try:
            return members.read(self.name)
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
            raise ValueError(f"{self.archive}: {self.name} cannot be read: {error}") from None


class Files(ABC):
    """Files of a data set by their paths, with "/", from its root on.

    Attributes:
        root: path of the folder or archive.
    """

    root: str

    @abstractmethod
    def has(self, name: str) -> bool:
        """Return whether there is such a file."""

    @abstractmethod
    def image(self, name: str) -> str | ArchiveMember:
        """Return what LabelledImage.image takes, whether or not the file is there.

        Raises:
            UserError: a name that climbs out of the folder.
        """

    @abstractmethod
    def read(self, name: str, most: int = FILE_MOST) -> bytes:
        """Return a file's bytes.

        Raises:
            Failure: it is not there, cannot be read or has more bytes than ``most``.
        """

    @abstractmethod
    def list(self, folder: str = "") -> list[str]:
        """Return the names of files and folders in a folder, sorted; none where it is absent."""

    def where(self, name: str) -> str:
        """Return what a message calls a file."""
        return posixpath.join(self.root, name)


class FolderFiles(Files):
    """Those of a folder."""

    def __init__(self, root: str) -> None:
        self.root = root

    def _path(self, name: str) -> str:
        if _climbs(name):
            raise UserError(f"{self.root}: '{name}' climbs out of its folder")
        return os.path.join(self.root, name)

    def has(self, name: str) -> bool:
        """Return whether there is such a file."""
        return not _climbs(name) and os.path.isfile(os.path.join(self.root, name))

    def image(self, name: str) -> str:
        """Return its path."""
        return self._path(name)

    def read(self, name: str, most: int = FILE_MOST) -> bytes:
        """Return a file's bytes."""
        path = self._path(name)
        try:
            size = os.path.getsize(path)
            if size > most:
                raise UserError(f"{path} has {size} bytes, more than the {most} that are read")
            with open(path, "rb") as file:
                return file.read()
        except OSError as error:
            raise failure_of(error, f"{path} cannot be read: {explain(error)}") from None

    def list(self, folder: str = "") -> list[str]:
        """Return the names in a folder, sorted, hidden ones left out."""
        path = self._path(folder)
        try:
            return sorted(name for name in os.listdir(path) if not is_hidden(name))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise failure_of(error, f"{path} cannot be read: {explain(error)}") from None


def _climbs(name: str) -> bool:
    return ".." in name.replace("\\", "/").split("/")


class ArchiveFiles(Files):
    """Those of a zip or tar; a single folder that holds all of it may be left out of names."""

    def __init__(self, root: str) -> None:
        self.root = root
        members = _open_members(root)
        tops = {name.partition("/")[0] for name in members.sizes}
        self._top = f"{min(tops)}/" if len(tops) == 1 else ""

    def _full(self, name: str) -> str:
        name = posixpath.normpath(name) if name else ""
        full = self._top + name
        return full if full in _open_members(self.root).sizes else name

    def has(self, name: str) -> bool:
        """Return whether there is such a member."""
        return self._full(name) in _open_members(self.root).sizes

    def image(self, name: str) -> ArchiveMember:
        """Return the member."""
        return ArchiveMember(self.root, self._full(name))

    def read(self, name: str, most: int = FILE_MOST) -> bytes:
        """Return a member's bytes."""
        try:
            return self.image(name).read(most)
        except ValueError as error:
            raise UserError(str(error)) from None

    def list(self, folder: str = "") -> list[str]:
        """Return the names in a folder of the archive, sorted."""
        start = f"{posixpath.normpath(folder)}/" if folder else ""
        children = _open_members(self.root).children
        return sorted(children.get(self._top + start) or children.get(start) or ())


def open_files(root: str, key: str = "root") -> Files:
    """Return the files of a folder, a zip or a tar.

    Args:
        key: what names it on the command line, for messages.

    Raises:
        Failure: it is none of them, or cannot be read.
    """
    if os.path.isdir(root):
        return FolderFiles(root)
    if not os.path.exists(root):
        raise UserError(f"{key}={root}: no such folder or archive")
    try:
        return ArchiveFiles(root)
    except ValueError as error:
        raise UserError(str(error)) from None


def list_members(path: str) -> list[str]:
    """Return the names of an archive's files, in its order, hidden ones left out.

    Raises:
        ValueError: it is no zip or tar, or a damaged one.
    """
    return list(_open_members(path).sizes)


class _Members(ABC):
    """An open archive.

    Attributes:
        sizes: {name: bytes} of its files.
        children: {folder with "/" at its end, "" for the root: names in it}.
    """

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self.children: dict[str, set[str]] = {}

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Return the bytes of a member that is there."""

    def enter(self, name: str, size: int) -> None:
        """Add a file, and the folders that it lies in."""
        if is_hidden(name):
            return
        self.sizes[name] = size
        while True:
            head, slash, tail = name.rpartition("/")
            self.children.setdefault(head + slash, set()).add(tail)
            if not slash:
                return
            name = head


class _Zip(_Members):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.file = zipfile.ZipFile(path)
        for entry in self.file.infolist():
            if not entry.is_dir():
                self.enter(entry.filename, entry.file_size)

    def read(self, name: str) -> bytes:
        """Return a member's bytes: no more than it said it has, whatever it inflates to."""
        size = self.sizes[name]
        with self.file.open(name) as member:
            data = member.read(size + 1)
        if len(data) != size:
            raise EOFError(f"it has {len(data)} bytes and more, not {size} as it says")
        return data


class _Tar(_Members):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.file = open(path, "rb")  # noqa: SIM115 - stays open while members are read
        self.offsets: dict[str, int] = {}
        for entry in _tar_entries(self.file):
            if entry.isreg() and not entry.issparse():
                self.enter(entry.name, entry.size)
                self.offsets[entry.name] = entry.offset_data

    def read(self, name: str) -> bytes:
        """Return a member's bytes."""
        self.file.seek(self.offsets[name])
        data = self.file.read(self.sizes[name])
        if len(data) < self.sizes[name]:
            raise EOFError("the archive is cut off there")
        return data


def _tar_entries(raw) -> Iterator[tarfile.TarInfo]:
    for tar in read_tars(raw):
        yield from tar


@functools.lru_cache(maxsize=4)
def _open_members(path: str) -> _Members:
    """The archive of a path, kept open; ValueError where it is none."""
    try:
        with open(path, "rb") as file:
            head = file.read(512)
        if head[TAR_AT : TAR_AT + len(TAR)] == TAR:
            return _Tar(path)
        if head.startswith(ZIP):
            return _Zip(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {explain(error)}") from None
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    packed = head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ"))
    why = "it is compressed as a whole, so no member can be read by itself: decompress it"
    raise ValueError(f"{path} is no folder, zip or tar" + (f" ({why})" if packed else ""))
